//! A record of the log (`struct xlog_rec_header` in `fs/xfs/libxfs/xfs_log_format.h`): a header of
//! one block, more of them where records may be longer than 32 KiB, then its data. Big-endian.
//!
//! | 0x00 | 0x04 | 0x08 | 0x0C | 0x10 | 0x18 | 0x20 | 0x24 | 0x28 | 0x2C | 0x12C | 0x130 | 0x140 |
//! | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |
//! | h_magicno | h_cycle | h_version | h_len | h_lsn | h_tail_lsn | h_crc | h_prev_block | h_num_logops | h_cycle_data | h_fmt | h_fs_uuid | h_size |
//!
//! A sequence number (LSN) is a cycle in the upper half and a block of the log in the lower.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use super::damaged;
use crate::bytes::{has_magic, read_array, read_u32be, read_u64be};
use crate::usedmap::finding::Refusal;
use crate::usedmap::xfs::superblock::Superblock;
use uuid::Uuid;

/// `XLOG_HEADER_MAGIC_NUM`: no cycle has this number.
pub(super) const MAGIC: [u8; 4] = [0xFE, 0xED, 0xBA, 0xBE];
/// `XLOG_HEADER_CYCLE_SIZE`: how much data a block of header has cycle numbers for.
pub(super) const BYTES_A_HEADER: u64 = 32 << 10;
/// `XLOG_MAX_RECORD_BSIZE`.
const MAX_BYTES: u32 = 256 << 10;

/// The first block of a record, once its fields are possible.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RecordHeader {
    /// `h_version`: bits.
    version: u32,
    /// `h_len`: bytes of data.
    pub data_bytes: u64,
    /// `h_tail_lsn`: where a replay has to begin if this is the last record.
    tail_lsn: u64,
    /// `h_num_logops`.
    pub operations: u32,
    /// `h_size`: bytes of the buffer that it was written from.
    buffer_bytes: u32,
}

impl RecordHeader {
    /// `block` is a block that begins with the magic; `at` is where, for messages.
    pub(super) fn parse(block: &[u8], at: u64, sb: &Superblock) -> Result<Self, Refusal> {
        let h_version = read_u32be(block, 0x08);
        let h_len = read_u32be(block, 0x0C);
        let h_tail_lsn = read_u64be(block, 0x18);
        let h_num_logops = read_u32be(block, 0x28);
        let h_fs_uuid = Uuid::from_bytes(read_array(block, 0x130));
        let h_size = read_u32be(block, 0x140);
        if !has_magic(block, 0, &MAGIC) {
            return Err(damaged(format!("has no record at {at}")));
        }
        if !matches!(h_version, 1..=3) || h_len > MAX_BYTES || h_size > MAX_BYTES {
            return Err(damaged(format!(
                "has a record at {at} of version {h_version} with {h_len} bytes out of {h_size}"
            )));
        }
        // IRIX wrote none.
        if h_fs_uuid != sb.uuid && !h_fs_uuid.is_nil() {
            return Err(damaged(format!(
                "has a record at {at} of the filesystem {h_fs_uuid}"
            )));
        }
        Ok(Self {
            version: h_version,
            data_bytes: u64::from(h_len),
            tail_lsn: h_tail_lsn,
            operations: h_num_logops,
            buffer_bytes: h_size,
        })
    }

    /// The block of the log where a replay has to begin.
    pub(super) fn tail_block(&self) -> u64 {
        self.tail_lsn & 0xFFFF_FFFF
    }

    /// How many blocks the header has (`xlog_logrec_hblks`).
    pub(super) fn header_blocks(&self, logv2: bool) -> u64 {
        let buffer_bytes = u64::from(self.buffer_bytes);
        if logv2 && self.version & 2 != 0 && buffer_bytes > BYTES_A_HEADER {
            buffer_bytes.div_ceil(BYTES_A_HEADER)
        } else {
            1
        }
    }

    /// How many blocks of data follow it.
    pub(super) fn data_blocks(&self) -> u64 {
        self.data_bytes.div_ceil(512)
    }
}
