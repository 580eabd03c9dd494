//! The trees of an allocation group, of free space and of inodes (`struct xfs_btree_block` with short
//! pointers, `struct xfs_alloc_rec` and `struct xfs_inobt_rec` in `fs/xfs/libxfs/xfs_format.h`): one
//! block a node, big-endian, block numbers relative to the group.
//!
//! | 0x00 | 0x04 | 0x06 | 0x08 | 0x0C | 0x10 | 0x18 | 0x20 | 0x30 | 0x34 |
//! | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |
//! | bb_magic | bb_level | bb_numrecs | bb_leftsib | bb_rightsib | bb_blkno | bb_lsn | bb_uuid | bb_owner | bb_crc |
//!
//! Version 4 ends at 0x10. Behind it a leaf has records, a node has room for so many keys and then so
//! many pointers. Keys and records of free space are a start and a length; the key of inodes is the
//! number of the first.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use super::superblock::{Superblock, has_crc};
use crate::bytes::{has_magic, read_array, read_u16be, read_u32be, read_u32le, read_u64be};
use crate::device::ReadAt;
use crate::refusal::Refusal;
use crate::units::ByteOffset;
use uuid::Uuid;

const CRC_AT: usize = 0x34;
/// `XFS_BTREE_MAXLEVELS`.
pub(crate) const MAX_LEVELS: u32 = 9;
/// No block: the sibling of the first and of the last.
const NULL: u32 = u32::MAX;
/// Blocks that lie side by side are read together, up to this many bytes.
const BYTES_AT_ONCE: u64 = 1 << 20;

/// Which tree.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Kind {
    /// As Linux calls it.
    pub name: &'static str,
    magic: &'static [u8],
    magic_v5: &'static [u8],
    key_bytes: usize,
    record_bytes: usize,
}

/// Ordered by start.
pub(crate) const BNOBT: Kind = Kind {
    name: "bnobt",
    magic: b"ABTB",
    magic_v5: b"AB3B",
    key_bytes: 8,
    record_bytes: 8,
};
/// Ordered by length, then by start.
pub(crate) const CNTBT: Kind = Kind {
    name: "cntbt",
    magic: b"ABTC",
    magic_v5: b"AB3C",
    key_bytes: 8,
    record_bytes: 8,
};
/// Inodes, by number.
pub(crate) const INOBT: Kind = Kind {
    name: "inobt",
    magic: b"IABT",
    magic_v5: b"IAB3",
    key_bytes: 4,
    record_bytes: 16,
};

/// `struct xfs_alloc_rec`: a run of free blocks of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FreeRun {
    /// `ar_startblock`.
    pub start: u32,
    /// `ar_blockcount`.
    pub blocks: u32,
}

/// A tree of one group.
#[derive(Clone, Copy)]
pub(crate) struct Tree<'a> {
    pub source: &'a dyn ReadAt,
    pub sb: &'a Superblock,
    pub group: u64,
    pub kind: Kind,
    pub root: u32,
    /// How many levels; a root that is a leaf is 1.
    pub levels: u32,
}

/// The blocks of a tree, in the order of their level.
#[derive(Debug, Default)]
pub(crate) struct TreeBlocks {
    /// Above the leaves.
    pub nodes: Vec<u32>,
    /// The leaves.
    pub leaves: Vec<u32>,
}

impl TreeBlocks {
    pub(crate) fn count(&self) -> u64 {
        let count = self.nodes.len().saturating_add(self.leaves.len());
        u64::try_from(count).unwrap_or(u64::MAX)
    }
}

impl Tree<'_> {
    /// Goes down to the leaves without reading them.
    ///
    /// Each level is read from left to right and every block has to name its two neighbours: so no
    /// block can come twice, and a tree that points back into itself ends at the first repetition.
    pub(crate) fn blocks(&self) -> Result<TreeBlocks, Refusal> {
        let mut found = TreeBlocks::default();
        let mut here = vec![self.root];
        for level in (1..self.levels).rev() {
            let mut below = Vec::new();
            self.level(&here, level, |block, count| {
                below.extend(self.pointers(block, count));
                Ok(())
            })?;
            if let Some(&odd) = below.iter().find(|&&block| !self.is_inside(block)) {
                return Err(self.damaged(format!("points to block {odd}, outside its group")));
            }
            found.nodes.extend(here);
            here = below;
        }
        found.leaves = here;
        Ok(found)
    }

    /// Every record of the leaves, from left to right.
    pub(crate) fn records(
        &self,
        blocks: &TreeBlocks,
        mut each: impl FnMut(FreeRun) -> Result<(), Refusal>,
    ) -> Result<(), Refusal> {
        self.level(&blocks.leaves, 0, |block, count| {
            let records = block.get(self.header_bytes()..).unwrap_or_default();
            for record in records.chunks_exact(8).take(count) {
                each(FreeRun {
                    start: read_u32be(record, 0),
                    blocks: read_u32be(record, 4),
                })?;
            }
            Ok(())
        })
    }

    /// The records of every leaf that can be read and makes sense, and how many do not. For a tree
    /// that is known to be damaged: what the others say is right all the same.
    pub(crate) fn records_of_sound_leaves(
        &self,
        blocks: &TreeBlocks,
        mut each: impl FnMut(&[u8]),
    ) -> u64 {
        let mut damaged = 0_u64;
        let block_size = usize::try_from(self.sb.block_size).unwrap_or(0);
        let mut left = NULL;
        let mut rest = blocks.leaves.as_slice();
        while let Some((&number, behind)) = rest.split_first() {
            let right = behind.first().copied().unwrap_or(NULL);
            let mut block = vec![0; block_size];
            let at = self.sb.block_at(self.group, u64::from(number));
            let read = self.source.read_at(ByteOffset(at), &mut block);
            let count = read
                .ok()
                .and_then(|()| self.check(&block, number, 0, left, right).ok());
            match count {
                Some(count) => {
                    let records = block.get(self.header_bytes()..).unwrap_or_default();
                    records
                        .chunks_exact(self.kind.record_bytes)
                        .take(count)
                        .for_each(&mut each);
                }
                None => damaged = damaged.saturating_add(1),
            }
            left = number;
            rest = behind;
        }
        damaged
    }

    /// What is wrong with it, and what helps.
    pub(crate) fn damaged(&self, what: impl std::fmt::Display) -> Refusal {
        Refusal::Damaged(format!(
            "the {} of group {} {what} (boot the server from a rescue system and run xfs_repair \
             for a smaller copy)",
            self.kind.name, self.group
        ))
    }

    fn header_bytes(&self) -> usize {
        if self.sb.features.is_v5() { 0x38 } else { 0x10 }
    }

    /// How many entries of that many bytes fit behind the header.
    fn room_for(&self, entry_bytes: usize) -> usize {
        usize::try_from(self.sb.block_size)
            .unwrap_or(0)
            .saturating_sub(self.header_bytes())
            .checked_div(entry_bytes)
            .unwrap_or(0)
    }

    /// How many keys, each with its pointer, fit behind the header.
    fn room_for_keys(&self) -> usize {
        self.room_for(self.kind.key_bytes.saturating_add(4))
    }

    fn is_inside(&self, block: u32) -> bool {
        u64::from(block) < self.sb.blocks_in(self.group)
    }

    fn pointers<'b>(&self, block: &'b [u8], count: usize) -> impl Iterator<Item = u32> + 'b {
        let keys = self.room_for_keys().saturating_mul(self.kind.key_bytes);
        let at = self.header_bytes().saturating_add(keys);
        block
            .get(at..)
            .unwrap_or_default()
            .chunks_exact(4)
            .take(count)
            .map(|pointer| read_u32be(pointer, 0))
    }

    /// Reads the blocks of a level and hands each on with the number of its entries.
    fn level(
        &self,
        blocks: &[u32],
        level: u32,
        mut each: impl FnMut(&[u8], usize) -> Result<(), Refusal>,
    ) -> Result<(), Refusal> {
        let block_size = usize::try_from(self.sb.block_size).unwrap_or(usize::MAX);
        let most = BYTES_AT_ONCE.checked_div(self.sb.block_size).unwrap_or(1);
        let most = usize::try_from(most).unwrap_or(1).max(1);
        let mut left = NULL;
        let mut ahead = blocks.iter().skip(1).copied();
        for neighbours in blocks.chunk_by(|a, b| a.checked_add(1) == Some(*b)) {
            for batch in neighbours.chunks(most) {
                let Some(&first) = batch.first() else {
                    continue;
                };
                if !self.is_inside(first) {
                    return Err(self.damaged(format!("has block {first}, outside its group")));
                }
                let mut bytes = vec![0; batch.len().saturating_mul(block_size)];
                let at = self.sb.block_at(self.group, u64::from(first));
                self.source.read_at(ByteOffset(at), &mut bytes)?;
                for (&number, block) in batch.iter().zip(bytes.chunks_exact(block_size)) {
                    let right = ahead.next().unwrap_or(NULL);
                    let count = self.check(block, number, level, left, right)?;
                    each(block, count)?;
                    left = number;
                }
            }
        }
        Ok(())
    }

    /// Whether it is the block that it should be; the number of its entries.
    fn check(
        &self,
        block: &[u8],
        number: u32,
        level: u32,
        left: u32,
        right: u32,
    ) -> Result<usize, Refusal> {
        let sb = self.sb;
        let v5 = sb.features.is_v5();
        let bb_level = read_u16be(block, 0x04);
        let bb_numrecs = read_u16be(block, 0x06);
        let bb_leftsib = read_u32be(block, 0x08);
        let bb_rightsib = read_u32be(block, 0x0C);
        let bb_blkno = read_u64be(block, 0x10);
        let bb_uuid = Uuid::from_bytes(read_array(block, 0x20));
        let bb_owner = read_u32be(block, 0x30);
        let bb_crc = read_u32le(block, CRC_AT);

        let odd = |what: &str| Err(self.damaged(format!("has block {number}, {what}")));
        let magic = if v5 {
            self.kind.magic_v5
        } else {
            self.kind.magic
        };
        if !has_magic(block, 0, magic) {
            return odd("which is none of its blocks");
        }
        if v5 {
            if !has_crc(block, CRC_AT, bb_crc) {
                return odd("which does not match its checksum");
            }
            let sector = sb.block_at(self.group, u64::from(number)) >> 9;
            if bb_blkno != sector || u64::from(bb_owner) != self.group {
                return odd("which was written for another place");
            }
            if bb_uuid != sb.meta_uuid {
                return odd("which belongs to another filesystem");
            }
        }
        if u32::from(bb_level) != level {
            return odd(&format!("whose level is {bb_level} instead of {level}"));
        }
        if (bb_leftsib, bb_rightsib) != (left, right) {
            return odd("whose neighbours are others than those above it say");
        }
        let count = usize::from(bb_numrecs);
        let room = if level == 0 {
            self.room_for(self.kind.record_bytes)
        } else {
            self.room_for_keys()
        };
        let only_block = left == NULL && right == NULL;
        if count > room || count == 0 && !(only_block && level == 0) {
            return odd(&format!("which claims {count} entries"));
        }
        Ok(count)
    }
}
