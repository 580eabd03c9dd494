//! A record of the log (`struct xlog_rec_header` in `fs/xfs/libxfs/xfs_log_format.h`): a header of
//! one block, more of them where records may be longer than 32 KiB, then its data. Big-endian.
//!
//! | 0x00 | 0x04 | 0x08 | 0x0C | 0x10 | 0x18 | 0x20 | 0x24 | 0x28 | 0x2C | 0x12C | 0x130 | 0x140 |
//! | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |
//! | h_magicno | h_cycle | h_version | h_len | h_lsn | h_tail_lsn | h_crc | h_prev_block | h_num_logops | h_cycle_data | h_fmt | h_fs_uuid | h_size |
//!
//! A sequence number (LSN) is a cycle in the upper half and a block of the log in the lower. The
//! first four bytes of every block of data were replaced by the cycle; what stood there is in
//! `h_cycle_data`, and from the 65th block on in the further blocks of the header.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use super::{Log, damaged};
use crate::bytes::{has_magic, read_array, read_u32be, read_u32le, read_u64be};
use crate::refusal::Refusal;
use crate::usedmap::crc::{crc32c, matches_checksum};
use crate::usedmap::xfs::superblock::Superblock;
use uuid::Uuid;

/// `XLOG_HEADER_MAGIC_NUM`: no cycle has this number.
pub(super) const MAGIC: [u8; 4] = [0xFE, 0xED, 0xBA, 0xBE];
/// `XLOG_HEADER_CYCLE_SIZE`: how much data a block of header has cycle numbers for.
const BYTES_A_HEADER: u64 = 32 << 10;
/// `XLOG_MAX_RECORD_BSIZE`.
const MAX_BYTES: u32 = 256 << 10;
/// `XLOG_FMT_LINUX_LE`: the items in it are those of a little-endian machine.
const FORMAT_LINUX_LE: u32 = 1;

/// The first block of a record, once its fields are possible.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RecordHeader {
    /// `h_version`: bits.
    version: u32,
    /// `h_len`: bytes of data.
    data_bytes: u64,
    /// `h_lsn`: its own number.
    lsn: u64,
    /// `h_tail_lsn`: where a replay has to begin if this is the last record.
    tail_lsn: u64,
    /// `h_crc`.
    crc: u32,
    /// `h_num_logops`.
    pub operations: u32,
    /// `h_fmt`.
    format: u32,
    /// `h_fs_uuid`: nil if IRIX wrote it.
    uuid: Uuid,
    /// `h_size`: bytes of the buffer that it was written from.
    buffer_bytes: u32,
}

/// A record to replay.
#[derive(Debug, Clone)]
pub(super) struct Record {
    /// Its number.
    pub lsn: u64,
    /// How many operations are in `data`.
    pub operations: u32,
    /// Its data as it was before the cycle numbers were put in.
    pub data: Vec<u8>,
}

impl RecordHeader {
    /// `block` is a block that begins with the magic; `at` is where, for messages.
    pub(super) fn parse(block: &[u8], at: u64, sb: &Superblock) -> Result<Self, Refusal> {
        let h_version = read_u32be(block, 0x08);
        let h_len = read_u32be(block, 0x0C);
        let h_lsn = read_u64be(block, 0x10);
        let h_tail_lsn = read_u64be(block, 0x18);
        let h_crc = read_u32le(block, 0x20);
        let h_num_logops = read_u32be(block, 0x28);
        let h_fmt = read_u32be(block, 0x12C);
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
        if h_fs_uuid != sb.uuid && !h_fs_uuid.is_nil() {
            return Err(damaged(format!(
                "has a record at {at} of the filesystem {h_fs_uuid}"
            )));
        }
        Ok(Self {
            version: h_version,
            data_bytes: u64::from(h_len),
            lsn: h_lsn,
            tail_lsn: h_tail_lsn,
            crc: h_crc,
            operations: h_num_logops,
            format: h_fmt,
            uuid: h_fs_uuid,
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

impl Log<'_> {
    /// Every record from `tail` up to `head`, each proven by its checksum
    /// (`xlog_do_recovery_pass`).
    pub(super) fn records(
        &self,
        tail: u64,
        head: u64,
        mut each: impl FnMut(Record) -> Result<(), Refusal>,
    ) -> Result<(), Refusal> {
        let logv2 = self.sb.features.has_logv2();
        let mut left = if head > tail {
            head.saturating_sub(tail)
        } else {
            self.blocks.saturating_sub(tail).saturating_add(head)
        };
        let mut at = tail;
        while left > 0 {
            let header = self.header(at)?;
            let header_blocks = header.header_blocks(logv2);
            let all = header_blocks.saturating_add(header.data_blocks());
            let Some(rest) = left.checked_sub(all) else {
                return Err(damaged(format!(
                    "has a record at {at} that goes on too long"
                )));
            };
            let bytes = self.read_around(at, all)?;
            each(self.record(at, &header, bytes)?)?;
            at = self.wrap(at.saturating_add(all));
            left = rest;
        }
        Ok(())
    }

    fn record(&self, at: u64, header: &RecordHeader, bytes: Vec<u8>) -> Result<Record, Refusal> {
        if header.format != FORMAT_LINUX_LE || header.uuid.is_nil() {
            return Err(damaged(format!(
                "has a record at {at} of a machine of another kind ({})",
                header.format
            )));
        }
        if header.lsn & 0xFFFF_FFFF != at || header.data_bytes == 0 {
            return Err(damaged(format!(
                "has a record at {at} that was written for another place"
            )));
        }
        let header_blocks = header.header_blocks(self.sb.features.has_logv2());
        let header_bytes = usize::try_from(header_blocks.saturating_mul(512)).unwrap_or(0);
        let data_bytes = usize::try_from(header.data_bytes).unwrap_or(0);
        let (headers, data) = bytes.split_at_checked(header_bytes).unwrap_or_default();
        let data = data.get(..data_bytes).unwrap_or_default();
        let sums = [328, 324].map(|len| checksum(headers, len, data));
        if !sums.iter().any(|sum| matches_checksum(*sum, header.crc)) {
            return Err(Refusal::Dirty(format!(
                "its log holds writes that have not reached their places, the record at {at} of \
                 them not whole (boot the server once and power it off properly for a smaller copy)"
            )));
        }
        let mut data = data.to_vec();
        for (number, block) in data.chunks_mut(512).enumerate() {
            let word = cycle_data(headers, number);
            if let Some(start) = block.first_chunk_mut::<4>() {
                *start = word;
            }
        }
        Ok(Record {
            lsn: header.lsn,
            operations: header.operations,
            data,
        })
    }

    /// Reads blocks that may go on at the start of the ring.
    fn read_around(&self, block: u64, count: u64) -> Result<Vec<u8>, Refusal> {
        let until_end = self.blocks.saturating_sub(block).min(count);
        let mut bytes = self.read(block, until_end)?;
        bytes.extend(self.read(0, count.saturating_sub(until_end))?);
        Ok(bytes)
    }
}

/// `xlog_cksum`: of the first `header_len` bytes of the header (which are fewer on machines of 32
/// bits), of the fields of its further blocks as far as the data needs them, and of the data.
fn checksum(headers: &[u8], header_len: usize, data: &[u8]) -> u32 {
    /// `sizeof(struct xlog_rec_ext_header)`.
    const FURTHER_LEN: usize = 260;
    let before = headers.get(..0x20).unwrap_or_default();
    let behind = headers.get(0x24..header_len).unwrap_or_default();
    let mut sum = crc32c(!0, [before, &[0; 4], behind]);
    let further = data.len().div_ceil(32 << 10).saturating_sub(1);
    for block in headers.chunks(512).skip(1).take(further) {
        sum = crc32c(sum, [block.get(..FURTHER_LEN).unwrap_or_default()]);
    }
    !crc32c(sum, [data])
}

/// What stood in the first four bytes of a block of data.
fn cycle_data(headers: &[u8], block: usize) -> [u8; 4] {
    let in_header = block.checked_rem(64).unwrap_or(0).saturating_mul(4);
    match block.checked_div(64) {
        Some(0) | None => read_array(headers, in_header.saturating_add(0x2C)),
        Some(further) => {
            let at = further.saturating_mul(512).saturating_add(4);
            read_array(headers, at.saturating_add(in_header))
        }
    }
}
