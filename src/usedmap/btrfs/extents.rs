//! The extent tree: which logical bytes are in use (`struct btrfs_extent_item` in
//! `include/uapi/linux/btrfs_tree.h`: `flags` 0x10), and the block groups, which count them chunk by
//! chunk (`struct btrfs_block_group_item`: `used` 0x00, `flags` 0x10).

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use super::chunk::{ChunkMap, DATA, METADATA, SYSTEM};
use super::key::{BLOCK_GROUP_ITEM, EXTENT_ITEM, EXTENT_REF_V0, Key, METADATA_ITEM, REFERENCES};
use super::superblock::Superblock;
use super::tree::Visit;
use crate::bytes::read_u64le;
use crate::extent::{Extent, ExtentList};
use crate::usedmap::collect::RunCollector;
use crate::usedmap::finding::Refusal;

/// `BTRFS_EXTENT_FLAG_DATA` and `BTRFS_EXTENT_FLAG_TREE_BLOCK`.
const FLAG_DATA: u64 = 1;
const FLAG_TREE_BLOCK: u64 = 2;
/// `struct btrfs_extent_item`; shorter ones are of before Linux 2.6.31.
const ITEM_SIZE: usize = 24;
const BLOCK_GROUP_SIZE: usize = 24;

/// Collects extents and counts them.
pub(super) struct Extents<'a> {
    sb: &'a Superblock,
    chunks: &'a ChunkMap,
    /// Used bytes by chunk: counted, and as its block group says.
    counted: Vec<u64>,
    stated: Vec<Option<u64>>,
    used: RunCollector,
    /// The chunk of the last extent: the next one is most likely there too.
    last: usize,
    /// Whether the tree that is walked is the one of the block groups.
    in_block_group_tree: bool,
}

impl<'a> Extents<'a> {
    pub(super) fn new(sb: &'a Superblock, chunks: &'a ChunkMap) -> Self {
        Self {
            sb,
            chunks,
            counted: vec![0; chunks.iter().len()],
            stated: vec![None; chunks.iter().len()],
            used: RunCollector::new(),
            last: 0,
            in_block_group_tree: false,
        }
    }

    /// The extent tree is done, the tree of block groups comes.
    pub(super) fn block_group_tree(&mut self) -> &mut Self {
        self.in_block_group_tree = true;
        self
    }

    fn extent(&mut self, key: Key, data: &[u8]) -> Result<(), Refusal> {
        let start = key.objectid;
        if data.len() < ITEM_SIZE {
            return Err(Refusal::Unsupported(
                "it has extents in the form of before Linux 2.6.31".into(),
            ));
        }
        let flags = read_u64le(data, 0x10);
        let is_tree_block = match flags & (FLAG_DATA | FLAG_TREE_BLOCK) {
            FLAG_DATA => false,
            FLAG_TREE_BLOCK => true,
            _ => {
                return Err(Refusal::Damaged(format!(
                    "the extent at {start} is neither data nor a tree block"
                )));
            }
        };
        let nodesize = u64::try_from(self.sb.nodesize).unwrap_or(u64::MAX);
        let len = match key.kind {
            METADATA_ITEM => nodesize,
            _ => key.offset,
        };
        let right_kind = key.kind == EXTENT_ITEM || is_tree_block;
        let right_len = if is_tree_block {
            len == nodesize
        } else {
            len.is_multiple_of(self.sb.sectorsize)
        };
        let end = start.checked_add(len);
        let extent = end.and_then(|end| Extent::between(start, end));
        let (Some(extent), true, true) = (extent, right_kind, right_len) else {
            return Err(Refusal::Damaged(format!(
                "the extent at {start} contradicts itself"
            )));
        };
        let wanted = if is_tree_block {
            METADATA | SYSTEM
        } else {
            DATA
        };
        let Some(place) = self.chunk_of(extent, wanted) else {
            return Err(Refusal::Damaged(format!(
                "the extent at {start} is in no chunk for it"
            )));
        };
        if let Some(counted) = self.counted.get_mut(place) {
            *counted = counted.saturating_add(len);
        }
        self.used.push(extent);
        Ok(())
    }

    /// The chunk that holds all of the extent, if it is for such content.
    fn chunk_of(&mut self, extent: Extent, wanted: u64) -> Option<usize> {
        let (start, end) = (extent.start().0, extent.end());
        let near = self.chunks.get(self.last);
        if near.is_none_or(|chunk| start < chunk.logical || start >= chunk.end()) {
            self.last = self.chunks.find(start)?;
        }
        let chunk = self.chunks.get(self.last)?;
        (end <= chunk.end() && chunk.kind & wanted != 0).then_some(self.last)
    }

    fn block_group(&mut self, key: Key, data: &[u8]) -> Result<(), Refusal> {
        let start = key.objectid;
        let chunk = self
            .chunks
            .find(start)
            .and_then(|place| Some((place, self.chunks.get(place)?)))
            .filter(|(_, chunk)| {
                data.len() == BLOCK_GROUP_SIZE
                    && chunk.logical == start
                    && chunk.length == key.offset
                    && chunk.kind == read_u64le(data, 0x10)
            });
        let slot = chunk.and_then(|(place, _)| self.stated.get_mut(place));
        match slot {
            Some(slot @ None) => {
                *slot = Some(read_u64le(data, 0x00));
                Ok(())
            }
            _ => Err(Refusal::Damaged(format!(
                "block group {start} does not agree with any chunk"
            ))),
        }
    }

    /// What is in use, if all counts agree.
    pub(super) fn finish(self) -> Result<ExtentList, Refusal> {
        const ADVICE: &str = "(boot the server and let btrfs check repair it for a smaller copy)";
        let counts = self.chunks.iter().zip(&self.counted).zip(&self.stated);
        for ((chunk, counted), stated) in counts {
            let start = chunk.logical;
            let Some(stated) = stated else {
                return Err(Refusal::Damaged(format!(
                    "chunk {start} has no block group"
                )));
            };
            if counted != stated {
                return Err(Refusal::Damaged(format!(
                    "in block group {start} its extents have {counted} bytes, it says {stated} \
                     {ADVICE}"
                )));
            }
        }
        let total = self.counted.iter().fold(0_u64, |a, &b| a.saturating_add(b));
        if total != self.sb.bytes_used {
            return Err(Refusal::Damaged(format!(
                "its extents have {total} bytes, its superblock says {} {ADVICE}",
                self.sb.bytes_used
            )));
        }
        Ok(self.used.finish())
    }
}

impl Visit for Extents<'_> {
    fn item(&mut self, key: Key, data: &[u8]) -> Result<(), Refusal> {
        match key.kind {
            BLOCK_GROUP_ITEM if self.in_block_group_tree == self.sb.has_block_group_tree() => {
                self.block_group(key, data)
            }
            EXTENT_ITEM | METADATA_ITEM if !self.in_block_group_tree => self.extent(key, data),
            EXTENT_REF_V0 => Err(Refusal::Unsupported(
                "it has references in the form of before Linux 2.6.31".into(),
            )),
            kind if REFERENCES.contains(&kind) && !self.in_block_group_tree => Ok(()),
            kind => Err(Refusal::Unsupported(format!(
                "its extent tree has items unknown here (type {kind})"
            ))),
        }
    }
}
