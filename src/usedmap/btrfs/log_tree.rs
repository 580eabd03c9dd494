//! The log trees: what fsync wrote since the last commit, one tree a subvolume, their roots in a tree
//! of their own. Neither their blocks nor the new data that they name are in the extent tree, and a
//! mount needs both (`struct btrfs_file_extent_item` in `include/uapi/linux/btrfs_tree.h`: `type` 0x14,
//! `disk_bytenr` 0x15, `disk_num_bytes` 0x1D).

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use super::chunk::{ChunkMap, DATA, METADATA};
use super::key::{EXTENT_DATA, Key, ROOT_ITEM, TREE_LOG};
use super::roots;
use super::tree::{Reader, Root, Visit};
use crate::bytes::{read_u8, read_u64le};
use crate::extent::{Extent, ExtentList};
use crate::usedmap::collect::RunCollector;
use crate::usedmap::finding::Refusal;

/// Items that name no bytes of the disk: INODE_ITEM, INODE_REF, INODE_EXTREF, XATTR_ITEM,
/// VERITY_DESC_ITEM, VERITY_MERKLE_ITEM, ORPHAN_ITEM, DIR_LOG_ITEM, DIR_LOG_INDEX, DIR_ITEM,
/// DIR_INDEX, EXTENT_CSUM.
const HARMLESS: [u8; 12] = [1, 12, 13, 24, 36, 37, 48, 60, 72, 84, 96, 128];

/// `BTRFS_FILE_EXTENT_INLINE`: the data is in the item.
const INLINE: u8 = 0;
/// `BTRFS_FILE_EXTENT_REG` and `_PREALLOC`.
const ON_DISK: [u8; 2] = [1, 2];
const ON_DISK_SIZE: usize = 0x35;

/// More subvolumes written to between two commits than anybody has.
const MAX_LOGS: usize = 1 << 16;

/// Everything that the log needs.
pub(super) fn used(reader: &mut Reader) -> Result<ExtentList, Refusal> {
    let sb = reader.sb;
    let mut log = Log {
        chunks: reader.chunks,
        nodesize: u64::try_from(sb.nodesize).unwrap_or(u64::MAX),
        room: reader
            .chunks
            .iter()
            .filter(|chunk| chunk.kind & METADATA != 0)
            .fold(0, |sum: u64, chunk| sum.saturating_add(chunk.length)),
        roots: Vec::new(),
        used: RunCollector::new(),
    };
    let root = Root {
        owner: TREE_LOG,
        bytenr: sb.log_root,
        // It belongs to the transaction that was never committed.
        generation: sb.generation.saturating_add(1),
        level: sb.log_root_level,
    };
    reader.walk(root, &mut log)?;
    for root in std::mem::take(&mut log.roots) {
        reader.walk(root, &mut log)?;
        if !log.roots.is_empty() {
            return Err(Refusal::Damaged("a log tree has log trees".into()));
        }
    }
    Ok(log.used.finish())
}

struct Log<'a> {
    chunks: &'a ChunkMap,
    nodesize: u64,
    /// Bytes of metadata chunks that no block of the log has been seen for.
    room: u64,
    roots: Vec<Root>,
    used: RunCollector,
}

impl Log<'_> {
    fn take(&mut self, start: u64, len: u64, wanted: u64) -> Result<(), Refusal> {
        let end = start.checked_add(len);
        let extent = end.and_then(|end| Extent::between(start, end));
        let chunk = self.chunks.find(start).and_then(|at| self.chunks.get(at));
        match (extent, chunk) {
            (Some(extent), Some(chunk))
                if extent.end() <= chunk.end() && chunk.kind & wanted != 0 =>
            {
                self.used.push(extent);
                Ok(())
            }
            _ => Err(Refusal::Damaged(format!(
                "its log names {len} bytes at {start}, which are in no chunk for them"
            ))),
        }
    }
}

impl Visit for Log<'_> {
    fn block(&mut self, bytenr: u64) -> Result<(), Refusal> {
        // Two log trees may not share blocks: more of them than there is room for is a loop.
        self.room = self.room.checked_sub(self.nodesize).ok_or_else(|| {
            Refusal::Damaged("its log trees have more blocks than there can be".into())
        })?;
        self.take(bytenr, self.nodesize, METADATA)
    }

    fn item(&mut self, key: Key, data: &[u8]) -> Result<(), Refusal> {
        match key.kind {
            ROOT_ITEM if self.roots.len() < MAX_LOGS => {
                self.roots.push(roots::parse(TREE_LOG, data)?);
                Ok(())
            }
            EXTENT_DATA => {
                let kind = read_u8(data, 0x14);
                if kind == INLINE {
                    return Ok(());
                }
                if !ON_DISK.contains(&kind) || data.len() != ON_DISK_SIZE {
                    return Err(Refusal::Unsupported(
                        "its log has extents in a form unknown here".into(),
                    ));
                }
                match read_u64le(data, 0x15) {
                    // A hole.
                    0 => Ok(()),
                    disk_bytenr => self.take(disk_bytenr, read_u64le(data, 0x1D), DATA),
                }
            }
            kind if HARMLESS.contains(&kind) => Ok(()),
            kind => Err(Refusal::Unsupported(format!(
                "its log has items unknown here (type {kind})"
            ))),
        }
    }
}
