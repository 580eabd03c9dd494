//! The inodes of a group: its header of inodes (`struct xfs_agi`, the third sector of the group), the
//! tree that it points to, and the chunks of 64 inodes that are its records (`struct xfs_inobt_rec`):
//!
//! | 0x0 | 0x4 | 0x6 | 0x7 | 0x8 |
//! | --- | --- | --- | --- | --- |
//! | ir_startino | ir_holemask | ir_count | ir_freecount | ir_free |
//!
//! Without sparse inodes `ir_freecount` takes all of 0x4 to 0x7; its upper half is then 0, as is a
//! mask without holes.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use super::Filesystem;
use super::inode::{self, Inode};
use crate::bytes::{has_magic, read_array, read_u16be, read_u32be, read_u32le, read_u64be};
use crate::lost::claims::{Claims, Owner};
use crate::units::ByteOffset;
use crate::usedmap::xfs::btree::{INOBT, MAX_LEVELS, Tree, TreeBlocks};
use crate::usedmap::xfs::superblock::has_crc;
use uuid::Uuid;

const AGI_CRC_AT: usize = 0x138;
/// Inodes that a bit of the mask of holes stands for.
const PART: u64 = 4;
const CHUNK: u64 = 64;

/// A group's inodes.
pub(super) struct Chunks<'a> {
    group: u64,
    tree: Tree<'a>,
    blocks: TreeBlocks,
}

/// 64 inodes, or less where there are holes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Chunk {
    group: u64,
    first: u64,
    holes: u16,
    free: u64,
}

/// Finds the tree of a group's inodes.
pub(super) fn of_group(fs: Filesystem<'_>, group: u64) -> Result<Chunks<'_>, String> {
    let lost = |what: &str| format!("all inodes of group {group}, whose {what} cannot be used");
    let sb = fs.sb;
    let mut sector = vec![0; usize::try_from(sb.sector_size).unwrap_or(0)];
    let at = sb
        .group_at(group)
        .saturating_add(sb.sector_size.saturating_mul(2));
    fs.volume
        .read_at(ByteOffset(at), &mut sector)
        .map_err(|_| lost("header"))?;
    let agi_versionnum = read_u32be(&sector, 0x04);
    let agi_seqno = read_u32be(&sector, 0x08);
    let agi_root = read_u32be(&sector, 0x14);
    let agi_level = read_u32be(&sector, 0x18);
    let agi_uuid = Uuid::from_bytes(read_array(&sector, 0x128));
    let sound = !sb.features.is_v5()
        || has_crc(&sector, AGI_CRC_AT, read_u32le(&sector, AGI_CRC_AT))
            && agi_uuid == sb.meta_uuid;
    if !has_magic(&sector, 0, b"XAGI")
        || agi_versionnum != 1
        || u64::from(agi_seqno) != group
        || !(1..=MAX_LEVELS).contains(&agi_level)
        || !sound
    {
        return Err(lost("header"));
    }
    let tree = Tree {
        source: fs.volume,
        sb,
        group,
        kind: INOBT,
        root: agi_root,
        levels: agi_level,
    };
    let blocks = tree.blocks().map_err(|_| lost("tree"))?;
    Ok(Chunks {
        group,
        tree,
        blocks,
    })
}

impl Chunks<'_> {
    /// Calls `each` for every chunk; how many blocks of the tree could not be used.
    pub(super) fn each(&self, each: &mut dyn FnMut(Chunk)) -> u64 {
        self.tree.records_of_sound_leaves(&self.blocks, |record| {
            each(Chunk {
                group: self.group,
                first: u64::from(read_u32be(record, 0x0)),
                holes: read_u16be(record, 0x4),
                free: read_u64be(record, 0x8),
            });
        })
    }
}

impl Chunk {
    /// Its inodes that are there, four by four or all together.
    fn parts(self) -> impl Iterator<Item = (u64, u64)> {
        let (whole, parts) = if self.holes == 0 {
            (Some((self.first, CHUNK)), 0)
        } else {
            (None, 16_u32)
        };
        let parts = (0..parts).filter_map(move |nth| {
            let hole = self.holes.checked_shr(nth)? & 1 == 1;
            let first = self.first.checked_add(u64::from(nth).checked_mul(PART)?)?;
            (!hole).then_some((first, PART))
        });
        whole.into_iter().chain(parts)
    }

    /// Says that lost bytes were its inodes.
    pub(super) fn claim(self, fs: Filesystem<'_>, claims: &mut Claims<'_>) {
        for (first, count) in self.parts() {
            let place = fs.shape.place_of(fs.sb, self.group, first, count);
            let Some(place) = place else { continue };
            claims.claim(Some(place), |part| {
                let index = |at: u64| at.saturating_sub(place.start().0);
                let from = index(part.start().0).checked_div(fs.shape.inode_size);
                let to = index(part.end()).div_ceil(fs.shape.inode_size.max(1));
                let number = fs.shape.inode_number(self.group, first);
                Owner::Inodes {
                    which: format!("inodes of group {}", self.group),
                    inodes: number.saturating_add(from.unwrap_or(0))..number.saturating_add(to),
                }
            });
        }
    }

    /// Calls `each` for every inode that is in use. What could not be read, for people.
    pub(super) fn inodes(
        self,
        fs: Filesystem<'_>,
        each: &mut dyn FnMut(Inode<'_>),
    ) -> Option<String> {
        let size = usize::try_from(fs.shape.inode_size).unwrap_or(usize::MAX);
        let mut gap = None;
        let mut lost = |_| {
            gap = Some(format!("some inodes of group {}", self.group));
        };
        for (first, count) in self.parts() {
            let Some(place) = fs.shape.place_of(fs.sb, self.group, first, count) else {
                lost(());
                continue;
            };
            let mut bytes = vec![0; usize::try_from(place.len().0).unwrap_or(0)];
            if fs.volume.read_at(place.start(), &mut bytes).is_ok() {
                for (raw, in_group) in bytes.chunks_exact(size).zip(first..) {
                    self.one(fs, in_group, raw, each, &mut lost);
                }
                continue;
            }
            for in_group in first..first.saturating_add(count) {
                match inode::read_raw(fs, self.group, in_group) {
                    Some(raw) => self.one(fs, in_group, &raw, each, &mut lost),
                    None => lost(()),
                }
            }
        }
        gap
    }

    fn one(
        self,
        fs: Filesystem<'_>,
        in_group: u64,
        raw: &[u8],
        each: &mut dyn FnMut(Inode<'_>),
        lost: &mut dyn FnMut(()),
    ) {
        let bit = u32::try_from(in_group.saturating_sub(self.first)).unwrap_or(0);
        if self.free.checked_shr(bit).unwrap_or(0) & 1 == 1 {
            return;
        }
        let number = fs.shape.inode_number(self.group, in_group);
        match Inode::parse(fs, number, raw) {
            Some(inode) => each(inode),
            None => lost(()),
        }
    }
}
