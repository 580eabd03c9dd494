//! A group descriptor (`struct ext4_group_desc`): where a group's bitmaps and inode table are, and
//! how much of it is free.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use super::features::{INCOMPAT_64BIT, RO_COMPAT_GDT_CSUM, RO_COMPAT_METADATA_CSUM};
use super::layout::BlockRun;
use super::read_blocks;
use super::superblock::Superblock;
use crate::bytes::{read_u16le, read_u32le};
use crate::device::ReadAt;
use crate::usedmap::crc::{crc16, crc32c, matches_checksum};
use crate::usedmap::finding::Refusal;

const INODE_UNINIT: u16 = 0x1;
const BLOCK_UNINIT: u16 = 0x2;

/// A descriptor that matches its checksum and points inside the filesystem.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct GroupDesc {
    /// Block of the block bitmap.
    pub block_bitmap: u64,
    /// Block of the inode bitmap.
    pub inode_bitmap: u64,
    /// Blocks of the inode table.
    pub inode_table: BlockRun,
    /// `bg_free_blocks_count`: clusters.
    pub free_clusters: u64,
    /// Whether there is no block bitmap on the disk yet: only the group's own metadata is in use.
    pub block_uninit: bool,
    /// Inodes at the end of the inode table that were never used: what is there need not be one.
    pub inodes_unused: u64,
    /// `bg_block_bitmap_csum`, low and high half.
    bitmap_checksum: [u16; 2],
}

impl GroupDesc {
    /// The descriptor of one group, from where a mount reads it.
    pub(crate) fn read(volume: &dyn ReadAt, sb: &Superblock, group: u64) -> Result<Self, Refusal> {
        let per_block = sb.descs_per_block();
        let block = sb.desc_block(group.checked_div(per_block).unwrap_or(0));
        let bytes = read_blocks(volume, sb, block, 1, || {
            format!("reading the group descriptors in block {block}")
        })?;
        let nth = usize::try_from(group.checked_rem(per_block).unwrap_or(0)).unwrap_or(usize::MAX);
        let bytes = bytes.chunks_exact(sb.desc_size).nth(nth);
        Self::parse(sb, group, bytes.unwrap_or_default())
    }

    /// `bytes` is exactly one descriptor.
    pub(crate) fn parse(sb: &Superblock, group: u64, bytes: &[u8]) -> Result<Self, Refusal> {
        let wide = sb.features.has_incompat(INCOMPAT_64BIT);
        let join = |lo: usize, hi: usize| {
            let hi = if wide {
                u64::from(read_u32le(bytes, hi)) << 32
            } else {
                0
            };
            hi | u64::from(read_u32le(bytes, lo))
        };
        let join_small = |lo: usize, hi: usize| {
            let hi = if wide {
                u64::from(read_u16le(bytes, hi)) << 16
            } else {
                0
            };
            hi | u64::from(read_u16le(bytes, lo))
        };
        let bg_block_bitmap = join(0x00, 0x20);
        let bg_inode_bitmap = join(0x04, 0x24);
        let bg_inode_table = join(0x08, 0x28);
        let bg_free_blocks_count = join_small(0x0C, 0x2C);
        let bg_flags = read_u16le(bytes, 0x12);
        let bg_itable_unused = join_small(0x1C, 0x32);
        let bg_block_bitmap_csum = [read_u16le(bytes, 0x18), read_u16le(bytes, 0x38)];
        let bg_checksum = read_u16le(bytes, 0x1E);

        if let Some(sum) = checksum(sb, group, bytes)
            && !matches_checksum(sum, bg_checksum)
        {
            return Err(Refusal::Damaged(format!(
                "the descriptor of group {group} does not match its checksum"
            )));
        }
        let table = BlockRun {
            start: bg_inode_table,
            end: bg_inode_table.saturating_add(sb.inode_table_blocks),
        };
        let inside = |start: u64, end: u64| start >= sb.first_data_block && end <= sb.blocks_count;
        for (what, start, end) in [
            (
                "block bitmap",
                bg_block_bitmap,
                bg_block_bitmap.saturating_add(1),
            ),
            (
                "inode bitmap",
                bg_inode_bitmap,
                bg_inode_bitmap.saturating_add(1),
            ),
            ("inode table", table.start, table.end),
        ] {
            if start == 0 || !inside(start, end) {
                return Err(Refusal::Damaged(format!(
                    "group {group} has its {what} at block {start}, outside the filesystem"
                )));
            }
        }
        Ok(Self {
            block_bitmap: bg_block_bitmap,
            inode_bitmap: bg_inode_bitmap,
            inode_table: table,
            free_clusters: bg_free_blocks_count,
            // The flag has a meaning only where descriptors are protected by a checksum.
            block_uninit: has_checksum(sb) && bg_flags & BLOCK_UNINIT != 0,
            inodes_unused: match (has_checksum(sb), bg_flags & INODE_UNINIT != 0) {
                (true, true) => sb.inodes_per_group,
                (true, false) => bg_itable_unused.min(sb.inodes_per_group),
                (false, _) => 0,
            },
            bitmap_checksum: bg_block_bitmap_csum,
        })
    }

    /// Whether the bits of a block bitmap match the checksum in the descriptor.
    pub(crate) fn accepts_bitmap(&self, sb: &Superblock, bitmap: &[u8]) -> bool {
        if !sb.features.has_ro_compat(RO_COMPAT_METADATA_CSUM) {
            return true;
        }
        let covered = usize::try_from(sb.clusters_per_group >> 3)
            .ok()
            .and_then(|len| bitmap.get(..len))
            .unwrap_or(bitmap);
        let [lo, hi] = crc32c(sb.checksum_seed, [covered])
            .to_le_bytes()
            .split_halves();
        let [stored_lo, stored_hi] = self.bitmap_checksum;
        // The high half is there only in descriptors long enough (EXT4_BG_BLOCK_BITMAP_CSUM_HI_END).
        matches_checksum(lo, stored_lo) && (sb.desc_size < 0x3A || matches_checksum(hi, stored_hi))
    }

    /// The group's own metadata beside superblock and descriptors.
    pub(crate) fn metadata(&self) -> [BlockRun; 3] {
        let one = |start: u64| BlockRun {
            start,
            end: start.saturating_add(1),
        };
        [
            one(self.block_bitmap),
            one(self.inode_bitmap),
            self.inode_table,
        ]
    }
}

trait SplitHalves {
    fn split_halves(self) -> [u16; 2];
}

impl SplitHalves for [u8; 4] {
    fn split_halves(self) -> [u16; 2] {
        let [a, b, c, d] = self;
        [u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d])]
    }
}

fn has_checksum(sb: &Superblock) -> bool {
    sb.features.has_ro_compat(RO_COMPAT_METADATA_CSUM)
        || sb.features.has_ro_compat(RO_COMPAT_GDT_CSUM)
}

/// `ext4_group_desc_csum`; `None` where the filesystem has no such checksums.
fn checksum(sb: &Superblock, group: u64, bytes: &[u8]) -> Option<u16> {
    // Group numbers have 32 bits in the checksum.
    let number = u32::try_from(group).ok()?.to_le_bytes();
    let before = bytes.get(..0x1E)?;
    let behind = bytes.get(0x20..).unwrap_or_default();
    if sb.features.has_ro_compat(RO_COMPAT_METADATA_CSUM) {
        let pieces = [number.as_slice(), before, &[0, 0], behind];
        let [lo, _] = crc32c(sb.checksum_seed, pieces)
            .to_le_bytes()
            .split_halves();
        Some(lo)
    } else if sb.features.has_ro_compat(RO_COMPAT_GDT_CSUM) {
        let behind = if sb.features.has_incompat(INCOMPAT_64BIT) {
            behind
        } else {
            &[]
        };
        let pieces = [sb.uuid.as_bytes().as_slice(), &number, before, behind];
        Some(crc16(!0, pieces))
    } else {
        None
    }
}
