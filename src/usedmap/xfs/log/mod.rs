//! The log of XFS: a ring of 512-byte blocks inside the data section, in which every block starts
//! with the number of the round ("cycle") in which it was written.
//!
//! In: where the log is. Out: whether its last record says that the filesystem was unmounted, and if
//! not, from where to where a mount would replay it. `head` finds its end as Linux does, `record`
//! is one record, `transaction` puts together what is in them, `buffer` is one change of metadata,
//! `replay` does in memory what a mount would do.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

mod buffer;
mod head;
mod record;
mod replay;
mod transaction;

use super::superblock::{LogPlace, Superblock};
use crate::device::ReadAt;
use crate::refusal::Refusal;
use crate::units::ByteOffset;
use record::{MAGIC, RecordHeader};

/// Bytes a block of the log (`BBSIZE`), whatever the sectors of the disk.
const BLOCK_BYTES: u64 = 512;
/// Blocks read at once while scanning.
const BLOCKS_AT_ONCE: u64 = 2048;

/// How a log was left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LogState {
    /// Its last record says that the filesystem was unmounted (or made).
    Clean,
    /// A mount would replay what is from `tail` up to, not including, `head`.
    Dirty {
        /// The block of the first record to replay.
        tail: u64,
        /// The block behind the last record.
        head: u64,
    },
}

/// A log inside the data section.
pub(super) struct Log<'a> {
    volume: &'a dyn ReadAt,
    sb: &'a Superblock,
    /// Its first byte on the volume.
    start: u64,
    /// How many blocks of 512 bytes it has.
    blocks: u64,
}

impl<'a> Log<'a> {
    pub(super) fn new(volume: &'a dyn ReadAt, sb: &'a Superblock, place: LogPlace) -> Self {
        Self {
            volume,
            sb,
            start: sb.block_at(place.group, place.group_block),
            blocks: place.blocks.saturating_mul(sb.block_size) >> 9,
        }
    }

    /// How it was left (`xlog_find_tail`).
    pub(super) fn state(&self) -> Result<LogState, Refusal> {
        let head = self.find_head()?;
        let (at, last) = self.last_record(head)?;
        if self.is_unmount(&last, at, head)? {
            return Ok(LogState::Clean);
        }
        let tail = last.tail_block();
        if tail >= self.blocks || tail == head {
            return Err(damaged(format!(
                "begins at {tail} by its last record and ends at {head}, of {} blocks",
                self.blocks
            )));
        }
        Ok(LogState::Dirty { tail, head })
    }

    /// The last record before the head, and where it begins.
    fn last_record(&self, head: u64) -> Result<(u64, RecordHeader), Refusal> {
        let before = match self.find_magic_backwards(0, head)? {
            Some(at) => Some(at),
            None => self.find_magic_backwards(head, self.blocks)?,
        };
        let at = before.ok_or_else(|| damaged("holds no record".into()))?;
        Ok((at, self.header(at)?))
    }

    /// Whether the last record ends at the head and only says that the filesystem was unmounted
    /// (`xlog_check_unmount_rec`).
    fn is_unmount(&self, last: &RecordHeader, at: u64, head: u64) -> Result<bool, Refusal> {
        /// `XLOG_UNMOUNT_TRANS` among `oh_flags` of a `struct xlog_op_header`.
        const UNMOUNT: u8 = 0x20;
        let header_blocks = last.header_blocks(self.sb.features.has_logv2());
        let data = self.wrap(at.saturating_add(header_blocks));
        let behind = self.wrap(data.saturating_add(last.data_blocks()));
        if behind != head || last.operations != 1 {
            return Ok(false);
        }
        let block = self.read(data, 1)?;
        Ok(block.get(9).is_some_and(|flags| flags & UNMOUNT != 0))
    }

    fn wrap(&self, block: u64) -> u64 {
        block.checked_rem(self.blocks).unwrap_or(0)
    }

    fn header(&self, at: u64) -> Result<RecordHeader, Refusal> {
        let block = self.read(at, 1)?;
        RecordHeader::parse(&block, at, self.sb)
    }

    /// Reads blocks that do not cross the end of the ring.
    fn read(&self, block: u64, count: u64) -> Result<Vec<u8>, Refusal> {
        if block.saturating_add(count) > self.blocks {
            return Err(damaged(format!("is read at {block} to its end and beyond")));
        }
        let len = usize::try_from(count.saturating_mul(BLOCK_BYTES)).unwrap_or(usize::MAX);
        let mut bytes = vec![0; len];
        let at = self.start.saturating_add(block.saturating_mul(BLOCK_BYTES));
        self.volume.read_at(ByteOffset(at), &mut bytes)?;
        Ok(bytes)
    }

    /// The last block in `from..to` that begins a record.
    fn find_magic_backwards(&self, from: u64, to: u64) -> Result<Option<u64>, Refusal> {
        let mut end = to;
        while end > from {
            let start = end.saturating_sub(BLOCKS_AT_ONCE).max(from);
            let bytes = self.read(start, end.saturating_sub(start))?;
            let blocks = bytes.chunks_exact(512).zip(start..end);
            let last = blocks.filter(|(block, _)| block.starts_with(&MAGIC)).last();
            if let Some((_, at)) = last {
                return Ok(Some(at));
            }
            end = start;
        }
        Ok(None)
    }
}

fn damaged(what: String) -> Refusal {
    Refusal::Damaged(format!(
        "its log {what} (boot the server once and power it off properly for a smaller copy)"
    ))
}
