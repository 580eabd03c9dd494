//! The superblock of a journal (`struct journal_superblock_s` in `include/linux/jbd2.h`; all of a
//! journal is big-endian): its first block.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use super::damaged;
use super::header::{BlockType, Header};
use crate::bytes::{read_array, read_u8, read_u32be};
use crate::usedmap::crc::{crc32c, matches_checksum};
use crate::usedmap::finding::Refusal;

/// `JBD2_FEATURE_COMPAT_CHECKSUM`: one checksum a transaction (version 1).
const COMPAT_CHECKSUM: u32 = 0x1;
const INCOMPAT_64BIT: u32 = 0x2;
const INCOMPAT_ASYNC_COMMIT: u32 = 0x4;
const INCOMPAT_CSUM_V2: u32 = 0x8;
const INCOMPAT_CSUM_V3: u32 = 0x10;
const INCOMPAT_FAST_COMMIT: u32 = 0x20;
/// REVOKE is the first.
const INCOMPAT_KNOWN: u32 = 0x1
    | INCOMPAT_64BIT
    | INCOMPAT_ASYNC_COMMIT
    | INCOMPAT_CSUM_V2
    | INCOMPAT_CSUM_V3
    | INCOMPAT_FAST_COMMIT;

/// `JBD2_MIN_JOURNAL_BLOCKS`.
const MIN_BLOCKS: u32 = 1024;
/// `JBD2_DEFAULT_FAST_COMMIT_BLOCKS`.
const FAST_COMMIT_BLOCKS: u32 = 256;
/// The superblock is this long, whatever the block size.
const SUPERBLOCK_BYTES: usize = 1024;

/// How the blocks of a journal are protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Checksums {
    /// Not at all.
    None,
    /// CRC-32 over all of a transaction, in its commit block.
    Transaction,
    /// CRC-32C of each block; 16 bits of it in the tags of descriptors.
    V2,
    /// CRC-32C of each block.
    V3,
}

/// What is known of the journal before its log is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct JournalSuperblock {
    /// `s_maxlen`: blocks of the journal.
    pub maxlen: u32,
    /// `s_first`: the first block of the log.
    pub first: u32,
    /// Behind the last block of the log; what follows is for fast commits.
    pub last: u32,
    /// `s_sequence`: the first transaction of the log.
    pub sequence: u32,
    /// `s_start`: the block that it starts in, 0 if the log is empty.
    pub start: u32,
    /// `s_errno`: an error that stopped the journal.
    pub errno: u32,
    /// How its blocks are protected.
    pub checksums: Checksums,
    /// Whether block numbers have 64 bits.
    pub wide: bool,
    /// Whether a commit block may reach the disk before what it commits.
    pub async_commit: bool,
    /// Whether there may be fast commits.
    pub fast_commit: bool,
    /// What checksums start from.
    pub checksum_seed: u32,
}

impl JournalSuperblock {
    /// `block` is the journal's first block; the file has `file_blocks` of them.
    pub(super) fn parse(block: &[u8], file_blocks: u64) -> Result<Self, Refusal> {
        let version = match Header::parse(block).map(|header| header.block_type) {
            Some(BlockType::SuperblockV1) => 1,
            Some(BlockType::SuperblockV2) => 2,
            _ => return Err(damaged("has no superblock")),
        };
        let s_blocksize = read_u32be(block, 0x0C);
        let s_maxlen = read_u32be(block, 0x10);
        let s_first = read_u32be(block, 0x14);
        let s_sequence = read_u32be(block, 0x18);
        let s_start = read_u32be(block, 0x1C);
        let s_errno = read_u32be(block, 0x20);
        let feature = |at| {
            if version == 1 {
                0
            } else {
                read_u32be(block, at)
            }
        };
        let s_feature_compat = feature(0x24);
        let s_feature_incompat = feature(0x28);
        let s_feature_ro_compat = feature(0x2C);
        let s_uuid: [u8; 16] = read_array(block, 0x30);
        let s_checksum_type = read_u8(block, 0x50);
        let s_num_fc_blks = read_u32be(block, 0x54);
        let s_checksum = read_u32be(block, 0xFC);

        let unknown = s_feature_incompat & !INCOMPAT_KNOWN;
        if unknown != 0 || s_feature_ro_compat != 0 {
            return Err(Refusal::Unsupported(format!(
                "its journal uses features that this version does not know (incompat {unknown:#x}, \
                 ro_compat {s_feature_ro_compat:#x})"
            )));
        }
        let has = |bit| s_feature_incompat & bit != 0;
        let checksums = match (
            s_feature_compat & COMPAT_CHECKSUM != 0,
            has(INCOMPAT_CSUM_V2),
            has(INCOMPAT_CSUM_V3),
        ) {
            (false, false, false) => Checksums::None,
            (true, false, false) => Checksums::Transaction,
            (false, true, false) => Checksums::V2,
            (false, false, true) => Checksums::V3,
            _ => return Err(damaged("has two sorts of checksums at once")),
        };
        if matches!(checksums, Checksums::V2 | Checksums::V3) {
            /// `JBD2_CRC32C_CHKSUM`.
            const CRC32C: u8 = 4;
            if s_checksum_type != CRC32C {
                return Err(Refusal::Unsupported(format!(
                    "its journal has checksums of type {s_checksum_type}"
                )));
            }
            let before = block.get(..0xFC).unwrap_or_default();
            let behind = block.get(0x100..SUPERBLOCK_BYTES).unwrap_or_default();
            let sum = crc32c(!0, [before, &[0; 4], behind]);
            if !matches_checksum(sum, s_checksum) {
                return Err(damaged("has a superblock that does not match its checksum"));
            }
        }

        if usize::try_from(s_blocksize) != Ok(block.len()) {
            return Err(damaged("has blocks of another size than its filesystem"));
        }
        let fast_commit = has(INCOMPAT_FAST_COMMIT);
        let for_fast_commits = match (fast_commit, s_num_fc_blks) {
            (false, _) => 0,
            (true, 0) => FAST_COMMIT_BLOCKS,
            (true, blocks) => blocks,
        };
        let last = s_maxlen.saturating_sub(for_fast_commits);
        if u64::from(s_maxlen) > file_blocks
            || s_first == 0
            || s_first.saturating_add(MIN_BLOCKS) > last.saturating_add(1)
            || s_start >= last
            || (s_start != 0 && s_start < s_first)
        {
            return Err(Refusal::Damaged(format!(
                "its journal claims {s_maxlen} blocks of {file_blocks}, a log from block {s_first} \
                 to {last}, and to start in block {s_start}"
            )));
        }
        Ok(Self {
            maxlen: s_maxlen,
            first: s_first,
            last,
            sequence: s_sequence,
            start: s_start,
            errno: s_errno,
            checksums,
            wide: has(INCOMPAT_64BIT),
            async_commit: has(INCOMPAT_ASYNC_COMMIT),
            fast_commit,
            checksum_seed: crc32c(!0, [s_uuid.as_slice()]),
        })
    }

    /// Whether each block of the log has a checksum of its own.
    pub(super) fn checks_blocks(&self) -> bool {
        matches!(self.checksums, Checksums::V2 | Checksums::V3)
    }

    /// The block behind `block` plus `count` in the ring of the log.
    pub(super) fn advance(&self, block: u32, count: u32) -> u32 {
        let at = block.saturating_add(count);
        if at >= self.last {
            at.saturating_sub(self.last.saturating_sub(self.first))
        } else {
            at
        }
    }

    /// Blocks of the ring.
    pub(super) fn ring(&self) -> u32 {
        self.last.saturating_sub(self.first)
    }
}
