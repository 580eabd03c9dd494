//! JFS: the blocks in use, from its map of blocks (`fs/jfs/jfs_dmap.h` of Linux): a file, inode 2
//! of the aggregate, whose pages speak of 8192 blocks each, with summaries between them.
//!
//! In: a volume. Out: its used bytes, or the reason why the map is not to be trusted. The room of
//! the checker and the log lie behind what the map speaks of and are taken whole.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

mod superblock;
mod xtree;

use super::bitmap;
use super::collect::RunCollector;
use super::finding::{Filesystem, Mapped, Refusal, UsedBytes};
use super::region::State;
use crate::bytes::{read_u32le, read_u64le};
use crate::device::ReadAt;
use crate::extent::Extent;
use crate::units::{ByteLen, ByteOffset};
use superblock::{BLOCK, Run, Superblock};

/// The inode of the map: the third of 512 bytes in the table at 0xB000.
const MAP_INODE_AT: u64 = 0xB000 + 2 * 512;
/// `BMAP_I`.
const MAP_INODE: u32 = 2;
/// The root of the inode's tree of runs, and how long it is.
const ROOT_AT: usize = 224;
const ROOT_BYTES: usize = 288;
/// `BPERDMAP`: blocks that a page (`struct dmap`) speaks of.
const BLOCKS_PER_PAGE: u64 = 8192;
/// Where a page has what is in use now, and what is on disk for certain.
const WORKING_MAP_AT: usize = 2048;
const PERSISTENT_MAP_AT: usize = 3072;
/// Pages read at once: 1 MiB.
const PAGES_AT_ONCE: u64 = 256;

/// Reads what a volume with the signature of JFS holds.
pub(super) fn look(volume: &dyn ReadAt) -> Filesystem {
    let superblock = match Superblock::read(volume) {
        Ok(superblock) => superblock,
        Err(refusal) => return Filesystem::refused(refusal),
    };
    Filesystem {
        name: None,
        label: superblock.label.clone(),
        uuid: superblock.uuid.clone(),
        used_if_clean: used_if_clean(volume, &superblock),
        verdict: used(volume, &superblock).map(|used| Mapped {
            state: State::Clean,
            reason: "clean: the blocks that its map calls used are taken".into(),
            used,
        }),
    }
}

/// What the head of the map calls used (`dn_mapsize` less `dn_nfree`), whatever state it is in.
fn used_if_clean(volume: &dyn ReadAt, sb: &Superblock) -> Option<ByteLen> {
    let map = Map::open(volume, sb).ok()?;
    let outside = sb
        .checker
        .1
        .saturating_sub(sb.checker.0)
        .saturating_add(sb.log.1.saturating_sub(sb.log.0));
    let blocks = map.blocks.checked_sub(map.free)?.saturating_add(outside);
    Some(ByteLen(blocks.saturating_mul(BLOCK)))
}

/// The bytes in use of a clean filesystem.
fn used(volume: &dyn ReadAt, sb: &Superblock) -> Result<UsedBytes, Refusal> {
    sb.refuse_unless_clean(volume)?;
    let map = Map::open(volume, sb)?;
    let mut runs = RunCollector::new();
    let mut free = 0_u64;
    for nth in 0..map.blocks.div_ceil(BLOCKS_PER_PAGE).div_ceil(PAGES_AT_ONCE) {
        let first = nth.saturating_mul(PAGES_AT_ONCE);
        free = free.saturating_add(map.pages(volume, first, &mut runs)?);
    }
    if free != map.free {
        return Err(Refusal::Damaged(format!(
            "the pages of its map have {free} free blocks, its head says {} (boot the server and \
             let fsck.jfs repair it for a smaller copy)",
            map.free
        )));
    }
    let mut fixed = RunCollector::new();
    // Boot blocks, both superblocks and the fixed inodes between them.
    for run in [(0, 16), sb.checker, sb.log] {
        take(&mut fixed, run.0, run.1);
    }
    let end = sb.blocks.max(sb.checker.1).max(sb.log.1);
    Ok(UsedBytes {
        covers: ByteLen(end.saturating_mul(BLOCK)),
        extents: runs.finish().union(&fixed.finish()),
    })
}

/// The map of blocks as a file.
struct Map {
    /// Which blocks of it are where.
    runs: Vec<(u64, Run)>,
    /// `dn_mapsize`: how many blocks it speaks of.
    blocks: u64,
    /// `dn_nfree`: how many of them are free.
    free: u64,
}

impl Map {
    fn open(volume: &dyn ReadAt, sb: &Superblock) -> Result<Self, Refusal> {
        let mut inode = [0; 512];
        volume.read_at(ByteOffset(MAP_INODE_AT), &mut inode)?;
        let number = read_u32le(&inode, 8);
        let root = inode.get(ROOT_AT..).and_then(|rest| rest.get(..ROOT_BYTES));
        let Some(root) = root.filter(|_| number == MAP_INODE) else {
            return Err(Refusal::Damaged(format!(
                "the inode of its map of blocks says that it is number {number}"
            )));
        };
        let mut map = Self {
            runs: xtree::runs(volume, sb, root)?,
            blocks: 0,
            free: 0,
        };
        let mut head = [0; 4096];
        volume.read_at(ByteOffset(map.place(0)?.saturating_mul(BLOCK)), &mut head)?;
        map.blocks = read_u64le(&head, 0);
        map.free = read_u64le(&head, 8);
        if map.blocks != sb.blocks || map.free > map.blocks {
            return Err(Refusal::Damaged(format!(
                "its map speaks of {} blocks, {} of them free, the superblock of {}",
                map.blocks, map.free, sb.blocks
            )));
        }
        Ok(map)
    }

    /// The block in which a block of the file is.
    fn place(&self, block: u64) -> Result<u64, Refusal> {
        let behind = self.runs.partition_point(|&(offset, _)| offset <= block);
        let run = behind.checked_sub(1).and_then(|nth| self.runs.get(nth));
        run.and_then(|&(offset, (start, end))| {
            let at = start.checked_add(block.checked_sub(offset)?)?;
            (at < end).then_some(at)
        })
        .ok_or_else(|| Refusal::Damaged(format!("its map of blocks lacks its page {block}")))
    }

    /// Takes what pages from `first` on call used; how many blocks are free in them.
    fn pages(
        &self,
        volume: &dyn ReadAt,
        first: u64,
        runs: &mut RunCollector,
    ) -> Result<u64, Refusal> {
        let end = first
            .saturating_add(PAGES_AT_ONCE)
            .min(self.blocks.div_ceil(BLOCKS_PER_PAGE));
        let places: Vec<u64> = (first..end)
            .map(|page| self.place(page_in_file(page)))
            .collect::<Result<_, _>>()?;
        let mut free = 0_u64;
        let mut page = first;
        // Most of them lie side by side; a summary now and then is between them.
        for batch in places.chunk_by(|a, b| a.checked_add(1) == Some(*b)) {
            let Some(start) = batch.first() else { continue };
            let mut bytes = vec![0; batch.len().saturating_mul(4096)];
            volume.read_at(ByteOffset(start.saturating_mul(BLOCK)), &mut bytes)?;
            for bytes in bytes.chunks_exact(4096) {
                free = free.saturating_add(self.page(page, bytes, runs)?);
                page = page.saturating_add(1);
            }
        }
        Ok(free)
    }

    /// One page (`struct dmap`).
    fn page(&self, page: u64, bytes: &[u8], runs: &mut RunCollector) -> Result<u64, Refusal> {
        let first = page.saturating_mul(BLOCKS_PER_PAGE);
        let blocks = BLOCKS_PER_PAGE.min(self.blocks.saturating_sub(first));
        let (nblocks, nfree) = (read_u32le(bytes, 0), u64::from(read_u32le(bytes, 4)));
        let start = read_u64le(bytes, 8);
        let working = bit_map(bytes, WORKING_MAP_AT);
        let used: u64 = bitmap::runs(&working, blocks)
            .map(|(from, to)| to.saturating_sub(from))
            .sum();
        let free = blocks.saturating_sub(used);
        if start != first || u64::from(nblocks) != blocks || nfree != free {
            return Err(Refusal::Damaged(format!(
                "page {page} of its map has {free} free of {blocks} blocks from {first} on, but \
                 says {nfree} of {nblocks} from {start} on (boot the server and let fsck.jfs \
                 repair it for a smaller copy)"
            )));
        }
        // After a proper shutdown both say the same.
        let either: Vec<u8> = working
            .iter()
            .zip(bit_map(bytes, PERSISTENT_MAP_AT))
            .map(|(working, persistent)| working | persistent)
            .collect();
        for (from, to) in bitmap::runs(&either, blocks) {
            take(runs, first.saturating_add(from), first.saturating_add(to));
        }
        Ok(free)
    }
}

/// Where in the file the page for blocks from `page * 8192` on is (`BLKTODMAP`): behind the head
/// and the summaries of three levels, of which one comes for each 2^10 of what is below it.
fn page_in_file(page: u64) -> u64 {
    page.saturating_add(page >> 10)
        .saturating_add(page >> 20)
        .saturating_add(4)
}

/// 1024 bytes of little-endian words, whose most significant bit comes first, as bytes whose least
/// significant bit comes first.
fn bit_map(page: &[u8], at: usize) -> Vec<u8> {
    let map = page.get(at..).and_then(|rest| rest.get(..1024));
    map.unwrap_or_default()
        .chunks_exact(4)
        .flat_map(|word| read_u32le(word, 0).reverse_bits().to_le_bytes())
        .collect()
}

/// Takes blocks, `end` not included.
fn take(runs: &mut RunCollector, start: u64, end: u64) {
    let bytes = Extent::between(start.saturating_mul(BLOCK), end.saturating_mul(BLOCK));
    if let Some(bytes) = bytes {
        runs.push(bytes);
    }
}
