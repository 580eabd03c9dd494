//! Where the log ends: the block that would be written next. After `xlog_find_zeroed`,
//! `xlog_find_head` and what they call in `fs/xfs/xfs_log_recover.c`; the same blocks are looked at
//! in the same order, so that a log that is odd is understood as a mount would understand it.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use super::record::{MAGIC, RecordHeader};
use super::{BLOCKS_AT_ONCE, Log, damaged};
use crate::bytes::read_u32be;
use crate::refusal::Refusal;

/// Records that may be on their way to the disk at the same time (`XLOG_MAX_ICLOGS`).
const RECORDS_IN_FLIGHT: u64 = 8;

/// In which round a block was written (`xlog_get_cycle`).
fn cycle_of(block: &[u8]) -> u32 {
    if block.starts_with(&MAGIC) {
        read_u32be(block, 4)
    } else {
        read_u32be(block, 0)
    }
}

impl Log<'_> {
    /// The block behind the last whole record; 0 if that ends where the ring does.
    pub(super) fn find_head(&self) -> Result<u64, Refusal> {
        let first = self.cycle(0)?;
        let end = self.blocks.saturating_sub(1);
        let last = self.cycle(end)?;
        if first == 0 {
            // mkfs and xfs_repair leave a record that says "unmounted", even in a new log.
            return Err(Refusal::Dirty(
                "its log is empty, so nothing says whether it was shut down properly (boot the \
                 server once and power it off properly for a smaller copy)"
                    .into(),
            ));
        }
        if last == 0 {
            return self.head_before_zeros(end);
        }
        let (guess, stop_on) = if first == last {
            // All of one round, as far as the ends show.
            (self.blocks, last.wrapping_sub(1))
        } else {
            (self.first_of_cycle(0, end, last)?, last)
        };
        let head = self.scan_back(guess, stop_on)?;
        let head = self.not_inside_a_record(head)?;
        Ok(self.wrap(head))
    }

    /// The head of a log whose end was never written.
    fn head_before_zeros(&self, end: u64) -> Result<u64, Refusal> {
        let guess = self.first_of_cycle(0, end, 0)?;
        let start = guess.saturating_sub(self.in_flight());
        let head = self.find_cycle(start, guess, 0)?.unwrap_or(guess);
        let Some((at, record)) = self.record_before(start, head)? else {
            return Err(damaged("has no record before its head".into()));
        };
        Ok(self.head_after(&record, at, head, 0))
    }

    /// Blocks that may have been written out of order, at most.
    fn in_flight(&self) -> u64 {
        self.longest_record().saturating_mul(RECORDS_IN_FLIGHT)
    }

    /// Blocks of the longest record (`XLOG_REC_SHIFT`).
    fn longest_record(&self) -> u64 {
        let bytes: u64 = if self.sb.features.has_logv2() {
            256 << 10
        } else {
            32 << 10
        };
        bytes >> 9
    }

    fn cycle(&self, block: u64) -> Result<u32, Refusal> {
        Ok(cycle_of(&self.read(block, 1)?))
    }

    /// By halving, a block that has `cycle` while the one before it has not (`xlog_find_cycle_start`).
    /// `last` has it, `first` has not.
    fn first_of_cycle(&self, mut first: u64, mut last: u64, cycle: u32) -> Result<u64, Refusal> {
        loop {
            let middle = first.midpoint(last);
            if middle == first || middle == last {
                return Ok(last);
            }
            if self.cycle(middle)? == cycle {
                last = middle;
            } else {
                first = middle;
            }
        }
    }

    /// The first block in `from..to` of that cycle (`xlog_find_verify_cycle`).
    fn find_cycle(&self, from: u64, to: u64, cycle: u32) -> Result<Option<u64>, Refusal> {
        let mut at = from;
        while at < to {
            let count = to.saturating_sub(at).min(BLOCKS_AT_ONCE);
            let bytes = self.read(at, count)?;
            let hit = bytes
                .chunks_exact(512)
                .zip(at..to)
                .find(|(block, _)| cycle_of(block) == cycle);
            if let Some((_, block)) = hit {
                return Ok(Some(block));
            }
            at = at.saturating_add(count);
        }
        Ok(None)
    }

    /// Looks before `guess`, over all that may have been in flight, for a hole of an older round: a
    /// hole is where the log ends.
    fn scan_back(&self, guess: u64, stop_on: u32) -> Result<u64, Refusal> {
        let scan = self.in_flight().min(self.blocks);
        if let Some(start) = guess.checked_sub(scan) {
            return Ok(self.find_cycle(start, guess, stop_on)?.unwrap_or(guess));
        }
        // The part of it that is at the end of the ring belongs to the round before.
        let rest = scan.saturating_sub(guess);
        let start = self.blocks.saturating_sub(rest);
        let before = stop_on.wrapping_sub(1);
        if let Some(hole) = self.find_cycle(start, self.blocks, before)? {
            return Ok(hole);
        }
        Ok(self.find_cycle(0, guess, stop_on)?.unwrap_or(guess))
    }

    /// Takes a head that lies inside a record back to where the record begins.
    fn not_inside_a_record(&self, head: u64) -> Result<u64, Refusal> {
        let longest = self.longest_record();
        let none = || damaged("has no record before its head".into());
        let start = head.saturating_sub(longest);
        if let Some((at, record)) = self.record_before(start, head)? {
            return Ok(self.head_after(&record, at, head, 0));
        }
        if head >= longest {
            return Err(none());
        }
        // It began at the end of the ring.
        let rest = longest.saturating_sub(head);
        let start = self.blocks.saturating_sub(rest);
        let (at, record) = self.record_before(start, self.blocks)?.ok_or_else(none)?;
        let end = self.head_after(&record, at, self.blocks, head);
        Ok(if end == self.blocks { head } else { end })
    }

    /// The last record that begins in `from..to`.
    fn record_before(&self, from: u64, to: u64) -> Result<Option<(u64, RecordHeader)>, Refusal> {
        match self.find_magic_backwards(from, to)? {
            Some(at) => Ok(Some((at, self.header(at)?))),
            None => Ok(None),
        }
    }

    /// `head` if the record at `at` ends there (or `extra` blocks behind the end of the ring), else
    /// where that record begins (`xlog_find_verify_log_record`).
    fn head_after(&self, record: &RecordHeader, at: u64, head: u64, extra: u64) -> u64 {
        let blocks = record
            .data_blocks()
            .saturating_add(record.header_blocks(self.sb.features.has_logv2()));
        let there = head.saturating_sub(at).saturating_add(extra);
        if there == blocks { head } else { at }
    }
}
