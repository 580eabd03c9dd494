//! A logged metadata buffer (`struct xfs_buf_log_format`, `XFS_LI_BUF`): which bytes of which buffer
//! were changed to what; and when a replay leaves it alone, because the buffer on the disk is as new
//! (`xlog_recover_get_buf_lsn`, `xlog_recover_do_reg_buffer` in `fs/xfs/xfs_buf_item_recover.c`).
//!
//! | 0x00 | 0x02 | 0x04 | 0x06 | 0x08 | 0x10 | 0x14 |
//! | --- | --- | --- | --- | --- | --- | --- |
//! | blf_type | blf_size | blf_flags | blf_len | blf_blkno | blf_map_size | blf_data_map |
//!
//! Little-endian; lengths and places in blocks of 512 bytes, a bit of the map for each 128 bytes.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use super::damaged;
use crate::bytes::{has_magic, read_array, read_u16le, read_u32le, read_u64be, read_u64le};
use crate::refusal::Refusal;
use crate::usedmap::bitmap;
use crate::usedmap::xfs::superblock::{Superblock, crc_of};
use uuid::Uuid;

const INODE_BUF: u16 = 0x1;
const CANCEL: u16 = 0x2;
/// Of quotas: users, projects, groups.
const DQUOT_BUFS: u16 = 0x4 | 0x8 | 0x10;
/// `XFS_BLFT_SHIFT`: what the buffer is, in the upper bits of the flags.
const KIND_SHIFT: u32 = 11;
const KIND_UNKNOWN: u16 = 0;
const KIND_BTREE: u16 = 4;
const KIND_AGF: u16 = 5;
const KIND_SUPERBLOCK: u16 = 18;
/// `XFS_BLF_CHUNK`.
const CHUNK: usize = 128;
/// Longest buffer: `XFS_MAX_BLOCKSIZE`.
pub(super) const MAX_BUFFER: u64 = 65_536;

/// The first region of such an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BufferFormat {
    flags: u16,
    /// Its length in blocks of 512 bytes.
    pub blocks: u16,
    /// Where it begins on the volume, in blocks of 512 bytes.
    pub block: u64,
    map_bits: u64,
}

impl BufferFormat {
    pub(super) fn parse(format: &[u8], sb: &Superblock) -> Result<Self, Refusal> {
        let blf_flags = read_u16le(format, 0x04);
        let blf_len = read_u16le(format, 0x06);
        let blf_blkno = read_u64le(format, 0x08);
        let blf_map_size = read_u32le(format, 0x10);
        let bytes = u64::from(blf_len) << 9;
        let end = u64::from(blf_len).checked_add(blf_blkno);
        let size = sb.data_blocks.saturating_mul(sb.block_size) >> 9;
        // XFS_BLF_DATAMAP_SIZE: a bit a chunk of the longest buffer, and one word more.
        if format.len() < 0x14
            || end.is_none_or(|end| end > size)
            || bytes == 0
            || bytes > MAX_BUFFER
            || blf_map_size > 17
        {
            return Err(damaged(format!(
                "changes a buffer of {blf_len} sectors at {blf_blkno}, with a map of \
                 {blf_map_size} words"
            )));
        }
        Ok(Self {
            flags: blf_flags,
            blocks: blf_len,
            block: blf_blkno,
            map_bits: u64::from(blf_map_size).saturating_mul(32),
        })
    }

    /// Whether it says that older changes of this buffer do not count: it was freed.
    pub(super) fn is_cancel(self) -> bool {
        self.flags & CANCEL != 0
    }

    /// Whether free space depends on it: trees, headers of free space, the superblock.
    pub(super) fn matters(self) -> bool {
        let kind = self.flags >> KIND_SHIFT;
        self.flags & (INODE_BUF | DQUOT_BUFS) == 0
            && matches!(kind, KIND_UNKNOWN | KIND_BTREE | KIND_AGF | KIND_SUPERBLOCK)
    }

    /// Copies the logged regions to their places.
    pub(super) fn apply(
        self,
        format: &[u8],
        regions: &[Vec<u8>],
        buffer: &mut [u8],
    ) -> Result<(), Refusal> {
        let odd = || damaged(format!("changes the buffer at {} oddly", self.block));
        let map = format.get(0x14..).unwrap_or_default();
        let mut regions = regions.iter();
        for (first, end) in bitmap::runs(map, self.map_bits) {
            // Bits side by side may be logged in more than one region.
            let mut at = usize::try_from(first)
                .ok()
                .and_then(|n| n.checked_mul(CHUNK));
            let end = usize::try_from(end).ok().and_then(|n| n.checked_mul(CHUNK));
            while let (Some(from), Some(to)) = (at, end)
                && from < to
            {
                let region = regions.next().ok_or_else(odd)?;
                let left = to.saturating_sub(from);
                let len = region.len().min(left);
                if len == 0 || len.checked_rem(CHUNK) != Some(0) {
                    return Err(odd());
                }
                let target = buffer
                    .get_mut(from..)
                    .and_then(|rest| rest.get_mut(..len))
                    .ok_or_else(odd)?;
                let source = region.get(..len).ok_or_else(odd)?;
                target.copy_from_slice(source);
                at = from.checked_add(len);
            }
        }
        if regions.next().is_some() {
            return Err(odd());
        }
        Ok(())
    }
}

/// Where a block of version 5 keeps what every one of them has.
struct Layout {
    magic: &'static [u8],
    magic_at: usize,
    lsn_at: usize,
    uuid_at: usize,
    crc_at: usize,
}

const fn layout(magic: &'static [u8], lsn_at: usize, uuid_at: usize, crc_at: usize) -> Layout {
    Layout {
        magic,
        magic_at: 0,
        lsn_at,
        uuid_at,
        crc_at,
    }
}

/// Directory and attribute blocks that have their magic behind two pointers.
const fn da_layout(magic: &'static [u8]) -> Layout {
    Layout {
        magic,
        magic_at: 8,
        lsn_at: 0x18,
        uuid_at: 0x20,
        crc_at: 0x0C,
    }
}

/// What is recognised, as `xlog_recover_get_buf_lsn` does. Blocks of inodes and quotas have no
/// number of their own, remote attributes none that counts.
const LAYOUTS: &[Layout] = &[
    layout(b"AB3B", 0x18, 0x20, 0x34),
    layout(b"AB3C", 0x18, 0x20, 0x34),
    layout(b"ABTB", 0x18, 0x20, 0x34),
    layout(b"ABTC", 0x18, 0x20, 0x34),
    layout(b"RMB3", 0x18, 0x20, 0x34),
    layout(b"R3FC", 0x18, 0x20, 0x34),
    layout(b"FIB3", 0x18, 0x20, 0x34),
    layout(b"FIBT", 0x18, 0x20, 0x34),
    layout(b"IAB3", 0x18, 0x20, 0x34),
    layout(b"IABT", 0x18, 0x20, 0x34),
    layout(b"BMA3", 0x20, 0x28, 0x40),
    layout(b"BMAP", 0x20, 0x28, 0x40),
    layout(b"XAGF", 0xD0, 0x40, 0xD8),
    layout(b"XAFL", 0x18, 0x08, 0x20),
    layout(b"XAGI", 0x140, 0x128, 0x138),
    layout(b"XSLM", 0x30, 0x10, 0x0C),
    layout(b"XDB3", 0x10, 0x18, 0x04),
    layout(b"XDD3", 0x10, 0x18, 0x04),
    layout(b"XDF3", 0x10, 0x18, 0x04),
    da_layout(&[0x3D, 0xF1]),
    da_layout(&[0x3D, 0xFF]),
    da_layout(&[0x3B, 0xEE]),
    da_layout(&[0x3E, 0xBE]),
];

fn layout_of(bytes: &[u8], sb: &Superblock) -> Option<Layout> {
    if has_magic(bytes, 0, b"XFSB") {
        let uuid_at = if sb.features.has_meta_uuid() {
            0xF8
        } else {
            0x20
        };
        return Some(layout(b"XFSB", 0xF0, uuid_at, 0xE0));
    }
    LAYOUTS
        .iter()
        .find(|layout| has_magic(bytes, layout.magic_at, layout.magic))
        .map(|known| Layout { ..*known })
}

/// Whether a buffer already has the changes of a transaction of that number.
pub(super) fn is_as_new_as(bytes: &[u8], sb: &Superblock, lsn: u64) -> bool {
    let Some(layout) = layout_of(bytes, sb) else {
        return false;
    };
    let uuid = Uuid::from_bytes(read_array(bytes, layout.uuid_at));
    let here = read_u64be(bytes, layout.lsn_at);
    // All ones means that there is none.
    uuid == sb.meta_uuid && here != 0 && here != u64::MAX && here >= lsn
}

/// What is done to a buffer when a replay writes it: its number and its checksum.
pub(super) fn seal(bytes: &mut [u8], sb: &Superblock, lsn: u64) {
    let Some(layout) = layout_of(bytes, sb) else {
        return;
    };
    put(bytes, layout.lsn_at, &lsn.to_be_bytes());
    let crc = crc_of(bytes, layout.crc_at);
    put(bytes, layout.crc_at, &crc.to_le_bytes());
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    for (to, from) in bytes.iter_mut().skip(at).zip(value) {
        *to = *from;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

    use super::*;
    use proptest::prelude::*;

    /// A format of a buffer of `blocks` sectors at sector 8, with one word of map.
    fn format(flags: u16, blocks: u16, map: u32) -> Vec<u8> {
        let mut bytes = vec![0x3C, 0x12, 2, 0];
        bytes.extend(flags.to_le_bytes());
        bytes.extend(blocks.to_le_bytes());
        bytes.extend(8_u64.to_le_bytes());
        bytes.extend(1_u32.to_le_bytes());
        bytes.extend(map.to_le_bytes());
        bytes
    }

    fn parsed(bytes: &[u8]) -> BufferFormat {
        BufferFormat {
            flags: read_u16le(bytes, 4),
            blocks: read_u16le(bytes, 6),
            block: read_u64le(bytes, 8),
            map_bits: 32,
        }
    }

    #[test]
    fn chunks_go_where_their_bits_are() {
        let format = format(KIND_AGF << KIND_SHIFT, 2, 0b0110_0001);
        let mut buffer = vec![0; 1024];
        // Bits 5 and 6 side by side, logged in two regions.
        let regions = [vec![1; 128], vec![2; 128], vec![3; 128]];
        parsed(&format)
            .apply(&format, &regions, &mut buffer)
            .unwrap();
        let mut expected = vec![0; 1024];
        expected[..128].fill(1);
        expected[640..768].fill(2);
        expected[768..896].fill(3);
        assert_eq!(buffer, expected);
    }

    #[test]
    fn regions_and_bits_that_do_not_fit_are_refused() {
        let mut buffer = vec![0; 1024];
        let mut apply = |map, regions: &[Vec<u8>]| {
            let format = format(0, 2, map);
            parsed(&format).apply(&format, regions, &mut buffer)
        };
        assert!(apply(0b1, &[]).is_err(), "a region is missing");
        assert!(
            apply(0b1, &[vec![0; 128], vec![0; 128]]).is_err(),
            "one too many"
        );
        assert!(apply(0b1, &[vec![0; 100]]).is_err(), "not whole chunks");
        assert!(apply(1 << 8, &[vec![0; 128]]).is_err(), "behind the buffer");
    }

    #[test]
    fn only_what_free_space_depends_on_matters() {
        let matters = |flags| parsed(&format(flags, 8, 1)).matters();
        assert!(matters(KIND_BTREE << KIND_SHIFT));
        assert!(matters(KIND_AGF << KIND_SHIFT));
        assert!(matters(KIND_SUPERBLOCK << KIND_SHIFT));
        assert!(matters(0), "older kernels did not say");
        assert!(!matters(INODE_BUF));
        assert!(!matters(0x4 | 1 << KIND_SHIFT), "quotas");
        assert!(!matters(7 << KIND_SHIFT), "AGI");
    }

    proptest! {
        #[test]
        fn no_item_makes_it_panic(
            map in any::<u32>(),
            blocks in any::<u16>(),
            lens in prop::collection::vec(0_usize..600, 0..6),
        ) {
            let format = format(0, blocks, map);
            let regions: Vec<Vec<u8>> = lens.iter().map(|len| vec![9; *len]).collect();
            let mut buffer = vec![0; usize::from(blocks % 128) * 512];
            let _ = parsed(&format).apply(&format, &regions, &mut buffer);
        }
    }
}
