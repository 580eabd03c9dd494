//! What each block of the log that is not data starts with (`struct journal_header_s`), and the
//! checksum at the end of descriptor and revoke blocks (`struct jbd2_journal_block_tail`).

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use super::superblock::JournalSuperblock;
use crate::bytes::read_u32be;
use crate::usedmap::crc::{crc32c, matches_checksum};

/// `JBD2_MAGIC_NUMBER`, the first four bytes.
pub(super) const MAGIC: u32 = 0xC03B_3998;
/// The header's length.
pub(super) const HEADER_BYTES: usize = 12;
/// The tail's length.
pub(super) const TAIL_BYTES: usize = 4;

/// `h_blocktype`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BlockType {
    Descriptor,
    Commit,
    SuperblockV1,
    SuperblockV2,
    Revoke,
    /// None of these: the log ends before it.
    Other,
}

/// A block that starts with the magic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub block_type: BlockType,
    /// `h_sequence`: the transaction that it belongs to.
    pub sequence: u32,
}

impl Header {
    /// `None` without the magic.
    pub(super) fn parse(block: &[u8]) -> Option<Self> {
        (read_u32be(block, 0x0) == MAGIC).then(|| Self {
            block_type: match read_u32be(block, 0x4) {
                1 => BlockType::Descriptor,
                2 => BlockType::Commit,
                3 => BlockType::SuperblockV1,
                4 => BlockType::SuperblockV2,
                5 => BlockType::Revoke,
                _ => BlockType::Other,
            },
            sequence: read_u32be(block, 0x8),
        })
    }
}

/// Whether a descriptor or revoke block matches the checksum in its tail, if it has one.
pub(super) fn accepts_tail(sb: &JournalSuperblock, block: &[u8]) -> bool {
    if !sb.checks_blocks() {
        return true;
    }
    let Some((covered, tail)) = block.split_last_chunk::<TAIL_BYTES>() else {
        return false;
    };
    let sum = crc32c(sb.checksum_seed, [covered, &[0; TAIL_BYTES]]);
    matches_checksum(sum, u32::from_be_bytes(*tail))
}
