//! A fork of an inode: its blocks as a list of extents (`struct xfs_bmbt_rec`), or as the root of a
//! tree of them (`struct xfs_bmdr_block`, below it `struct xfs_btree_block` with long pointers).
//!
//! | 0x00 | 0x04 | 0x06 | 0x08 | 0x10 | 0x18 | 0x20 | 0x28 | 0x38 | 0x40 |
//! | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |
//! | bb_magic | bb_level | bb_numrecs | bb_leftsib | bb_rightsib | bb_blkno | bb_lsn | bb_uuid | bb_owner | bb_crc |
//!
//! Version 4 ends at 0x18. An extent is 128 bits: one that says that it was never written, 54 of the
//! file's block, 52 of the block, 21 of how many.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use super::{Budget, Filesystem};
use crate::bytes::{has_magic, read_u16be, read_u32le, read_u64be};
use crate::usedmap::xfs::superblock::has_crc;

const CRC_AT: usize = 0x40;
const HEADER: usize = 0x18;
const HEADER_V5: usize = 0x48;
/// Bytes a key and its pointer, and bytes an extent.
const ENTRY: usize = 16;
/// No tree is deeper: each level has a smaller number, this is where it may begin.
const MAX_LEVEL: u16 = 16;

/// Blocks of a file that lie side by side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Run {
    pub file_block: u64,
    /// By its number in the filesystem.
    pub start: u64,
    pub len: u64,
    /// False if it reads as zeros whatever is in it.
    pub written: bool,
}

/// What a fork has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mapped {
    /// A block of its tree.
    Tree(u64),
    /// Blocks of the file.
    Run(Run),
}

/// See the module.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fork<'a> {
    /// `di_format`.
    pub format: u8,
    pub bytes: &'a [u8],
    /// `di_nextents`.
    pub extents: u64,
}

impl<'a> Fork<'a> {
    /// What is in the inode itself, if it is: `XFS_DINODE_FMT_LOCAL`.
    pub(crate) fn local(&self) -> Option<&'a [u8]> {
        (self.format == 1).then_some(self.bytes)
    }

    /// Calls `each` for all that can be read. What could not, for people.
    pub(crate) fn each(
        &self,
        fs: Filesystem<'_>,
        budget: &mut Budget,
        each: &mut dyn FnMut(Mapped),
    ) -> Option<String> {
        match self.format {
            // `XFS_DINODE_FMT_EXTENTS`
            2 => {
                let count = usize::try_from(self.extents).unwrap_or(usize::MAX);
                extents(self.bytes, count, each);
                None
            }
            // `XFS_DINODE_FMT_BTREE`
            3 => self.tree(fs, budget, each),
            _ => None,
        }
    }

    fn tree(
        &self,
        fs: Filesystem<'_>,
        budget: &mut Budget,
        each: &mut dyn FnMut(Mapped),
    ) -> Option<String> {
        let level = read_u16be(self.bytes, 0x0);
        let count = usize::from(read_u16be(self.bytes, 0x2));
        let behind = self.bytes.get(4..).unwrap_or_default();
        if !(1..=MAX_LEVEL).contains(&level) {
            return Some("its root makes no sense".into());
        }
        let mut gap = None;
        for pointer in pointers(behind, count) {
            let below = level.saturating_sub(1);
            gap = node(fs, budget, pointer, below, each).or(gap);
        }
        gap
    }
}

/// The pointers of a node; `behind` is what follows its header.
fn pointers(behind: &[u8], count: usize) -> Vec<u64> {
    let room = behind.len().checked_div(ENTRY).unwrap_or(0);
    behind
        .get(room.saturating_mul(8)..)
        .unwrap_or_default()
        .chunks_exact(8)
        .take(count.min(room))
        .map(|pointer| read_u64be(pointer, 0))
        .collect()
}

fn node(
    fs: Filesystem<'_>,
    budget: &mut Budget,
    block: u64,
    level: u16,
    each: &mut dyn FnMut(Mapped),
) -> Option<String> {
    if !budget.take() {
        return None;
    }
    each(Mapped::Tree(block));
    let Some(bytes) = fs.read_block(block) else {
        return Some(format!("block {block} cannot be read"));
    };
    let v5 = fs.sb.features.is_v5();
    let (magic, header): (&[u8], usize) = if v5 {
        (b"BMA3", HEADER_V5)
    } else {
        (b"BMAP", HEADER)
    };
    let sound = !v5 || has_crc(&bytes, CRC_AT, read_u32le(&bytes, CRC_AT));
    if !has_magic(&bytes, 0, magic) || !sound || read_u16be(&bytes, 0x4) != level {
        return Some(format!("block {block} is damaged"));
    }
    let count = usize::from(read_u16be(&bytes, 0x6));
    let behind = bytes.get(header..).unwrap_or_default();
    let Some(below) = level.checked_sub(1) else {
        extents(behind, count, each);
        return None;
    };
    let mut gap = None;
    for pointer in pointers(behind, count) {
        gap = node(fs, budget, pointer, below, each).or(gap);
    }
    gap
}

fn extents(bytes: &[u8], count: usize, each: &mut dyn FnMut(Mapped)) {
    const FILE_BLOCK: u64 = (1 << 54) - 1;
    const LEN: u64 = (1 << 21) - 1;
    for record in bytes.chunks_exact(ENTRY).take(count) {
        let high = read_u64be(record, 0);
        let low = read_u64be(record, 8);
        each(Mapped::Run(Run {
            file_block: high >> 9 & FILE_BLOCK,
            start: (high & 0x1FF) << 43 | low >> 21,
            len: low & LEN,
            written: high >> 63 == 0,
        }));
    }
}
