//! The three passes over the log, as `fs/jbd2/recovery.c` of Linux makes them: SCAN finds the last
//! transaction that is whole, REVOKE which older copies are void, REPLAY takes the newest copy of
//! each block. Where Linux fails the mount, or kernels differ, the filesystem is refused.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use super::commit::{Commit, TransactionSum};
use super::damaged;
use super::descriptor::tags;
use super::fast_commit::starts_fast_commit;
use super::header::{BlockType, Header, MAGIC, accepts_tail};
use super::log::Log;
use super::revoke::Revoked;
use super::superblock::{Checksums, JournalSuperblock};
use crate::usedmap::finding::Refusal;
use crate::usedmap::overlay::Overlay;

/// Descriptor and revoke blocks of one log; more is no log that Linux wrote.
const MAX_RECORDS: usize = 1 << 20;

/// A block of the log that says something of others.
#[derive(Debug, Clone, Copy)]
struct Record {
    /// Its place in the journal.
    at: u32,
    /// Its transaction.
    sequence: u32,
    is_revoke: bool,
}

/// The whole transactions of a log.
#[derive(Debug)]
pub(super) struct Scanned {
    records: Vec<Record>,
    /// How many transactions are whole.
    pub transactions: u32,
}

/// SCAN: the records of all transactions that have a sound commit block, up to the first that has
/// none.
pub(super) fn scan(sb: &JournalSuperblock, log: &mut Log<'_>) -> Result<Scanned, Refusal> {
    let mut scan = Scan {
        sb,
        log,
        at: sb.start,
        sequence: sb.sequence,
        steps: 0,
        records: Vec::new(),
        whole: 0,
        sum: TransactionSum::new(),
        suspicious: false,
        failed: None,
        last_time: 0,
    };
    while scan.step()? {}
    let end = scan.failed.unwrap_or(scan.sequence);
    let (mut records, whole) = (scan.records, scan.whole);
    records.truncate(whole);
    if sb.fast_commit {
        // Linux reads from `last + 1` on (`j_fc_first`).
        for at in [sb.last, sb.last.saturating_add(1)] {
            if at < sb.maxlen && starts_fast_commit(log.read(at)?, end) {
                return Err(Refusal::Dirty(
                    "its journal holds fast commits, which only its own kernel can replay (boot \
                     the server once and power it off properly for a smaller copy)"
                        .into(),
                ));
            }
        }
    }
    Ok(Scanned {
        records,
        transactions: end.wrapping_sub(sb.sequence),
    })
}

struct Scan<'a, 'b> {
    sb: &'a JournalSuperblock,
    log: &'a mut Log<'b>,
    /// The next block.
    at: u32,
    /// The transaction that it must belong to.
    sequence: u32,
    /// Blocks that were passed, so that a ring without an end ends.
    steps: u32,
    records: Vec<Record>,
    /// How many of `records` are of whole transactions.
    whole: usize,
    sum: TransactionSum,
    /// A block of this transaction did not match its checksum: an older one, or damaged.
    suspicious: bool,
    /// The transaction whose commit block did not match.
    failed: Option<u32>,
    last_time: u64,
}

impl Scan<'_, '_> {
    /// One block of the log; `false` behind its end.
    fn step(&mut self) -> Result<bool, Refusal> {
        let at = self.at;
        let block = self.log.read(at)?;
        let Some(header) = Header::parse(block).filter(|h| h.sequence == self.sequence) else {
            return Ok(false);
        };
        self.advance(1)?;
        match header.block_type {
            BlockType::Descriptor => self.descriptor(at)?,
            BlockType::Revoke => {
                self.suspicious |= !accepts_tail(self.sb, self.log.read(at)?);
                self.record(at, true)?;
            }
            BlockType::Commit => return self.commit(at),
            BlockType::SuperblockV1 | BlockType::SuperblockV2 | BlockType::Other => {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn descriptor(&mut self, at: u32) -> Result<(), Refusal> {
        let sb = self.sb;
        let block = self.log.read(at)?;
        self.suspicious |= !accepts_tail(sb, block);
        let count = u32::try_from(tags(sb, block).count()).unwrap_or(u32::MAX);
        if sb.checksums == Checksums::Transaction && !self.suspicious && self.failed.is_none() {
            self.sum.add(block);
            for nth in 0..count {
                let data = sb.advance(self.at, nth);
                self.sum.add(self.log.read(data)?);
            }
        }
        self.record(at, false)?;
        self.advance(count)
    }

    /// `false`: the log ends before this transaction.
    fn commit(&mut self, at: u32) -> Result<bool, Refusal> {
        let sum = std::mem::replace(&mut self.sum, TransactionSum::new());
        let commit = Commit::parse(self.sb, self.log.read(at)?, sum);
        if self.failed.is_some() {
            return Err(damaged(
                "has a sound transaction behind one that does not match its checksum",
            ));
        }
        if self.suspicious || !commit.intact {
            // Left over from an older journal that was in the same place.
            if commit.time < self.last_time {
                return Ok(false);
            }
            // Without asynchronous commits this block is written only once the others are there.
            if self.suspicious || !self.sb.async_commit {
                return Err(damaged(
                    "has a transaction that does not match its checksum",
                ));
            }
            self.failed = Some(self.sequence);
        } else {
            self.whole = self.records.len();
            self.last_time = commit.time;
        }
        self.sequence = self.sequence.wrapping_add(1);
        Ok(true)
    }

    fn record(&mut self, at: u32, is_revoke: bool) -> Result<(), Refusal> {
        if self.records.len() >= MAX_RECORDS {
            return Err(damaged("has more records than any that Linux writes"));
        }
        self.records.push(Record {
            at,
            sequence: self.sequence,
            is_revoke,
        });
        Ok(())
    }

    fn advance(&mut self, count: u32) -> Result<(), Refusal> {
        let at = self.at;
        self.at = self.sb.advance(at, count);
        self.steps = self.steps.saturating_add(count);
        if self.steps > self.sb.ring() {
            return Err(damaged("has a log without an end"));
        }
        // Kernels write it around before the room for fast commits; the recovery of some goes around
        // behind it (`wrap` with `j_fc_last`).
        if self.sb.fast_commit && self.at < at {
            return Err(Refusal::Dirty(
                "its journal wraps around before its fast commits, which kernels read in two ways \
                 (boot the server once and power it off properly for a smaller copy)"
                    .into(),
            ));
        }
        Ok(())
    }
}

/// REVOKE and REPLAY: lays the newest copy of each block over the volume. `allowed` says whether a
/// block may be replaced.
pub(super) fn replay(
    sb: &JournalSuperblock,
    log: &mut Log<'_>,
    scanned: &Scanned,
    overlay: &mut Overlay<'_>,
    allowed: impl Fn(u64) -> bool,
) -> Result<(), Refusal> {
    let mut revoked = Revoked::default();
    for record in scanned.records.iter().filter(|record| record.is_revoke) {
        revoked.add(sb, record.sequence, log.read(record.at)?)?;
    }
    for record in scanned.records.iter().filter(|record| !record.is_revoke) {
        let tags: Vec<_> = tags(sb, log.read(record.at)?).collect();
        for (tag, nth) in tags.into_iter().zip(1..) {
            if revoked.contains(tag.block, record.sequence) {
                continue;
            }
            let data = sb.advance(record.at, nth);
            if !allowed(tag.block) {
                return Err(Refusal::Damaged(format!(
                    "its journal wants to write block {}, which it must not",
                    tag.block
                )));
            }
            if sb.checks_blocks() && !tag.accepts(sb, record.sequence, log.read(data)?) {
                return Err(Refusal::Damaged(format!(
                    "the copy of block {} in its journal does not match its checksum",
                    tag.block
                )));
            }
            if tag.escaped {
                let mut bytes: Box<[u8]> = log.read(data)?.into();
                if let Some(magic) = bytes.first_chunk_mut() {
                    *magic = MAGIC.to_be_bytes();
                }
                overlay.put(tag.block, bytes)?;
            } else {
                overlay.redirect(tag.block, log.place(data)?)?;
            }
        }
    }
    Ok(())
}
