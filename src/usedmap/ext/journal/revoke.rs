//! Revoke blocks (`struct jbd2_journal_revoke_header_s`): blocks of which older copies in the log
//! must not be written back, because they were freed and may hold a file's data by now.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use super::damaged;
use super::header::{HEADER_BYTES, TAIL_BYTES};
use super::superblock::JournalSuperblock;
use crate::bytes::read_u32be;
use crate::usedmap::finding::Refusal;
use std::collections::HashMap;

/// Blocks that may be revoked: about 64 MiB of memory.
const MAX_REVOKED: usize = 2 << 20;

/// For each block the last transaction that revoked it.
#[derive(Debug, Default)]
pub(super) struct Revoked(HashMap<u64, u32>);

impl Revoked {
    /// Takes the records of a revoke block of transaction `sequence`.
    pub(super) fn add(
        &mut self,
        sb: &JournalSuperblock,
        sequence: u32,
        block: &[u8],
    ) -> Result<(), Refusal> {
        let tail = if sb.checks_blocks() { TAIL_BYTES } else { 0 };
        // Bytes in use, header and this field included.
        let r_count = usize::try_from(read_u32be(block, 0xC)).unwrap_or(usize::MAX);
        if r_count > block.len().saturating_sub(tail) {
            return Err(damaged("has a revoke block that is longer than a block"));
        }
        let records = block
            .get(HEADER_BYTES.saturating_add(4)..r_count)
            .unwrap_or_default();
        if sb.wide {
            for record in records.as_chunks::<8>().0 {
                self.insert(u64::from_be_bytes(*record), sequence);
            }
        } else {
            for record in records.as_chunks::<4>().0 {
                self.insert(u64::from(u32::from_be_bytes(*record)), sequence);
            }
        }
        if self.0.len() > MAX_REVOKED {
            return Err(Refusal::Dirty(
                "its journal revokes more blocks than are kept in memory (boot the server once and \
                 power it off properly for a smaller copy)"
                    .into(),
            ));
        }
        Ok(())
    }

    fn insert(&mut self, block: u64, sequence: u32) {
        self.0
            .entry(block)
            .and_modify(|last| {
                if is_later(sequence, *last) {
                    *last = sequence;
                }
            })
            .or_insert(sequence);
    }

    /// Whether the copy of a block in transaction `sequence` must not be written back.
    pub(super) fn contains(&self, block: u64, sequence: u32) -> bool {
        self.0
            .get(&block)
            .is_some_and(|&last| !is_later(sequence, last))
    }
}

/// `tid_gt`: transaction numbers wrap around.
fn is_later(a: u32, b: u32) -> bool {
    a.wrapping_sub(b).cast_signed() > 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_revoked_up_to_the_transaction_that_says_so() {
        let mut revoked = Revoked::default();
        revoked.insert(7, 10);
        revoked.insert(7, 9);
        revoked.insert(8, u32::MAX);
        assert!(revoked.contains(7, 10) && revoked.contains(7, 3));
        assert!(!revoked.contains(7, 11) && !revoked.contains(6, 1));
        // Behind the largest number comes 0.
        assert!(!revoked.contains(8, 0) && revoked.contains(8, u32::MAX));
    }
}
