//! An allocation group: its free space header (`struct xfs_agf` in `fs/xfs/libxfs/xfs_format.h`, the
//! second sector of the group, big-endian) and what its two trees of free space agree on.
//!
//! In use is what is not free by the tree ordered by start. The superblock copy, the headers, the
//! blocks of all trees, those waiting in the free list (AGFL), inodes and the log are in use just
//! because they are in no record. What must agree: both trees with each other, record by record;
//! the sum and the longest of the records with the header; the blocks of the trees with the
//! header's count of them.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use super::btree::{BNOBT, CNTBT, FreeRun, Kind, MAX_LEVELS, Tree, TreeBlocks};
use super::superblock::{Superblock, has_crc};
use crate::bytes::{has_magic, read_array, read_u32be, read_u32le};
use crate::device::ReadAt;
use crate::refusal::Refusal;
use crate::units::ByteOffset;
use std::hash::{BuildHasher, RandomState};
use uuid::Uuid;

/// Where the checksum and the sequence number of the last write are in the header.
pub(super) const AGF_CRC_AT: usize = 0xD8;

/// The sectors at the start of a group that are never free: superblock, AGF, AGI, AGFL.
pub(crate) const HEADER_SECTORS: u64 = 4;

/// Blocks of a group, `end` not included, counted from the group's start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BlockRun {
    pub start: u64,
    pub end: u64,
}

/// The header, once it fits the superblock.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Agf {
    bnobt: (u32, u32),
    cntbt: (u32, u32),
    /// `agf_flcount`: blocks waiting in the free list.
    flcount: u64,
    freeblks: u64,
    longest: u64,
    /// `agf_btreeblks`: blocks of the trees of free space and of owners, without their roots. Kept
    /// only with lazy counters.
    btreeblks: u64,
    /// `agf_rmap_blocks`: blocks of the tree of owners, its root too.
    rmap_blocks: u64,
}

/// What the sums over all groups are made of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Blocks free by the tree.
    pub free: u64,
    /// Blocks that `sb_fdblocks` calls free as well: those of the free list and of the trees of free
    /// space and owners, without the roots. (`xfs_initialize_perag_data`.)
    pub reserved: u64,
}

/// Calls `used` for every run of blocks in use, ascending, and `Ok` only if everything agrees.
pub(crate) fn walk(
    source: &dyn ReadAt,
    sb: &Superblock,
    group: u64,
    mut used: impl FnMut(BlockRun),
) -> Result<Counts, Refusal> {
    let agf = Agf::read(source, sb, group)?;
    let tree = |kind: Kind, (root, levels)| Tree {
        source,
        sb,
        group,
        kind,
        root,
        levels,
    };
    let by_length = tree(CNTBT, agf.cntbt);
    let by_start = tree(BNOBT, agf.bnobt);
    let hasher = RandomState::new();

    let blocks_by_length = by_length.blocks()?;
    let mut counted = Sums::default();
    let mut last = (0, 0);
    by_length.records(&blocks_by_length, |run| {
        let here = (run.blocks, run.start);
        if here <= last {
            return Err(by_length.damaged("is not in order"));
        }
        last = here;
        counted.add(run, &hasher);
        Ok(())
    })?;

    let blocks_by_start = by_start.blocks()?;
    let mut never_free = NeverFree::of(sb, group);
    for blocks in [&blocks_by_length, &blocks_by_start] {
        never_free.add(blocks.nodes.iter().chain(&blocks.leaves));
    }
    never_free.sort();
    let mut sums = Sums::default();
    used_by_start(&by_start, &blocks_by_start, &mut used, |run| {
        let start = u64::from(run.start);
        let end = start.saturating_add(u64::from(run.blocks));
        if let Some(what) = never_free.hit(start, end) {
            return Err(by_start.damaged(format!("calls {what} free, in {start} to {end}")));
        }
        sums.add(run, &hasher);
        Ok(())
    })?;

    if sums != counted {
        return Err(by_start.damaged("has other records than the cntbt"));
    }
    if sums.blocks != agf.freeblks || sums.longest != agf.longest {
        return Err(by_start.damaged(format!(
            "has {} free blocks, {} in the longest run, its header says {} and {}",
            sums.blocks, sums.longest, agf.freeblks, agf.longest
        )));
    }
    // The root of each of the trees is not counted.
    let tree_blocks = blocks_by_start
        .count()
        .saturating_add(blocks_by_length.count())
        .saturating_add(agf.rmap_blocks)
        .saturating_sub(2)
        .saturating_sub(u64::from(sb.features.has_rmapbt()));
    if sb.features.has_lazy_counters() && tree_blocks != agf.btreeblks {
        return Err(by_start.damaged(format!(
            "and its sisters have {tree_blocks} blocks, their header says {}",
            agf.btreeblks
        )));
    }
    Ok(Counts {
        free: sums.blocks,
        reserved: tree_blocks.saturating_add(agf.flcount),
    })
}

/// The same by the tree that is ordered by start alone, whatever the others say.
pub(super) fn walk_by_start(
    source: &dyn ReadAt,
    sb: &Superblock,
    group: u64,
    mut used: impl FnMut(BlockRun),
) -> Result<(), Refusal> {
    let (root, levels) = Agf::read(source, sb, group)?.bnobt;
    let tree = Tree {
        source,
        sb,
        group,
        kind: BNOBT,
        root,
        levels,
    };
    used_by_start(&tree, &tree.blocks()?, &mut used, |_| Ok(()))
}

/// Calls `used` for what lies between the free runs of the tree that is ordered by start, and `free`
/// for these.
fn used_by_start(
    tree: &Tree<'_>,
    blocks: &TreeBlocks,
    used: &mut impl FnMut(BlockRun),
    mut free: impl FnMut(FreeRun) -> Result<(), Refusal>,
) -> Result<(), Refusal> {
    let group_blocks = tree.sb.blocks_in(tree.group);
    // Where the last free run ended, and what is in use begins.
    let mut at = 0;
    tree.records(blocks, |run| {
        let start = u64::from(run.start);
        let end = start.saturating_add(u64::from(run.blocks));
        // Neighbours that touch would be one record.
        if start <= at || run.blocks == 0 || end > group_blocks {
            return Err(tree.damaged(format!(
                "has a record of {} blocks from {start} on behind block {at} of {group_blocks}",
                run.blocks
            )));
        }
        free(run)?;
        used(BlockRun {
            start: at,
            end: start,
        });
        at = end;
        Ok(())
    })?;
    if at < group_blocks {
        used(BlockRun {
            start: at,
            end: group_blocks,
        });
    }
    Ok(())
}

/// How many blocks a group has free by its header alone.
pub(super) fn free_by_header(
    source: &dyn ReadAt,
    sb: &Superblock,
    group: u64,
) -> Result<u64, Refusal> {
    Agf::read(source, sb, group).map(|agf| agf.freeblks)
}

/// What is said of a set of runs, whatever their order.
#[derive(Debug, Default, PartialEq, Eq)]
struct Sums {
    blocks: u64,
    longest: u64,
    /// Of a keyed hash of each run: two sets have the same sum by chance once in 2^64.
    hashes: u64,
}

impl Sums {
    fn add(&mut self, run: FreeRun, hasher: &RandomState) {
        let blocks = u64::from(run.blocks);
        self.blocks = self.blocks.saturating_add(blocks);
        self.longest = self.longest.max(blocks);
        let hash = hasher.hash_one((run.start, run.blocks));
        self.hashes = self.hashes.wrapping_add(hash);
    }
}

/// Blocks that no record may call free, in ascending order, and how far they are compared.
struct NeverFree {
    runs: Vec<(BlockRun, &'static str)>,
    next: usize,
}

impl NeverFree {
    fn of(sb: &Superblock, group: u64) -> Self {
        let headers = HEADER_SECTORS.saturating_mul(sb.sector_size);
        let headers = BlockRun {
            start: 0,
            end: headers.div_ceil(sb.block_size),
        };
        let mut runs = vec![(headers, "the group's headers")];
        if let Some(log) = sb.log.filter(|log| log.group == group) {
            let blocks = BlockRun {
                start: log.group_block,
                end: log.group_block.saturating_add(log.blocks),
            };
            runs.push((blocks, "the log"));
        }
        Self { runs, next: 0 }
    }

    fn add<'b>(&mut self, blocks: impl Iterator<Item = &'b u32>) {
        self.runs.extend(blocks.map(|&block| {
            let start = u64::from(block);
            let end = start.saturating_add(1);
            (BlockRun { start, end }, "a block of its trees")
        }));
    }

    fn sort(&mut self) {
        self.runs.sort_unstable_by_key(|(run, _)| run.start);
    }

    /// What lies in a run, where runs are asked for in ascending order.
    fn hit(&mut self, start: u64, end: u64) -> Option<&'static str> {
        let rest = self.runs.get(self.next..).unwrap_or_default();
        let skip = rest.iter().take_while(|(run, _)| run.end <= start).count();
        self.next = self.next.saturating_add(skip);
        let (run, what) = self.runs.get(self.next)?;
        (run.start < end).then_some(what)
    }
}

impl Agf {
    fn read(source: &dyn ReadAt, sb: &Superblock, group: u64) -> Result<Self, Refusal> {
        let sector_size = usize::try_from(sb.sector_size).unwrap_or(usize::MAX);
        let mut sector = vec![0; sector_size];
        let at = sb.group_at(group).saturating_add(sb.sector_size);
        source.read_at(ByteOffset(at), &mut sector)?;
        Self::parse(&sector, sb, group)
    }

    fn parse(sector: &[u8], sb: &Superblock, group: u64) -> Result<Self, Refusal> {
        let agf_versionnum = read_u32be(sector, 0x04);
        let agf_seqno = read_u32be(sector, 0x08);
        let agf_length = read_u32be(sector, 0x0C);
        let agf_roots = [read_u32be(sector, 0x10), read_u32be(sector, 0x14)];
        let agf_levels = [read_u32be(sector, 0x1C), read_u32be(sector, 0x20)];
        let agf_flcount = read_u32be(sector, 0x30);
        let agf_freeblks = read_u32be(sector, 0x34);
        let agf_longest = read_u32be(sector, 0x38);
        let agf_btreeblks = read_u32be(sector, 0x3C);
        let agf_uuid = Uuid::from_bytes(read_array(sector, 0x40));
        let agf_rmap_blocks = read_u32be(sector, 0x50);
        let agf_crc = read_u32le(sector, AGF_CRC_AT);

        let odd = |what: String| {
            Err(Refusal::Damaged(format!(
                "the header of group {group} {what} (boot the server from a rescue system and run \
                 xfs_repair for a smaller copy)"
            )))
        };
        if !has_magic(sector, 0, b"XAGF") || agf_versionnum != 1 {
            return odd("is not one".into());
        }
        if sb.features.is_v5() {
            if !has_crc(sector, AGF_CRC_AT, agf_crc) {
                return odd("does not match its checksum".into());
            }
            if agf_uuid != sb.meta_uuid {
                return odd("belongs to another filesystem".into());
            }
        }
        let blocks = sb.blocks_in(group);
        if u64::from(agf_seqno) != group || u64::from(agf_length) != blocks {
            return odd(format!(
                "is that of group {agf_seqno} of {agf_length} blocks, not {blocks}"
            ));
        }
        let small = [agf_flcount, agf_freeblks, agf_longest, agf_btreeblks];
        if small.into_iter().any(|count| u64::from(count) > blocks)
            || agf_levels.iter().any(|l| !(1..=MAX_LEVELS).contains(l))
        {
            return odd(format!(
                "claims {agf_freeblks} free blocks, {agf_longest} of them in a run, {agf_flcount} \
                 in its list, {agf_btreeblks} in trees of {agf_levels:?} levels"
            ));
        }
        let [bno_root, cnt_root] = agf_roots;
        let [bno_levels, cnt_levels] = agf_levels;
        Ok(Self {
            bnobt: (bno_root, bno_levels),
            cntbt: (cnt_root, cnt_levels),
            flcount: u64::from(agf_flcount),
            freeblks: u64::from(agf_freeblks),
            longest: u64::from(agf_longest),
            btreeblks: u64::from(agf_btreeblks),
            rmap_blocks: if sb.features.has_rmapbt() {
                u64::from(agf_rmap_blocks)
            } else {
                0
            },
        })
    }
}
