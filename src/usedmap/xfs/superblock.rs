//! The superblock of XFS (`struct xfs_dsb` in `fs/xfs/libxfs/xfs_format.h`; "XFS Algorithms & Data
//! Structures", 3rd edition, chapter 13): one sector at the start of the volume, big-endian. The
//! checks are those of `xfs_validate_sb_common`, as far as a used map depends on them.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use super::features::Features;
use crate::bytes::{
    has_magic, read_array, read_text, read_u8, read_u16be, read_u32be, read_u32le, read_u64be,
};
use crate::device::ReadAt;
use crate::refusal::Refusal;
use crate::units::ByteOffset;
use crate::usedmap::crc::{crc32c, matches_checksum};
use uuid::Uuid;

/// The fields up to the end of `sb_meta_uuid`.
const FIELDS_BYTES: usize = 0x108;
const CRC_AT: usize = 0xE0;

/// Bytes an allocation group: `XFS_MIN_AG_BYTES`, `XFS_MAX_AG_BYTES`.
const AG_BYTES: std::ops::RangeInclusive<u64> = 1 << 24..=1 << 40;

/// What can be told of a superblock before anything in it is believed.
#[derive(Debug, Clone, Default)]
pub(crate) struct Names {
    /// `sb_fname`.
    pub label: Option<String>,
    /// `sb_uuid`: what people see and what `blkid` prints.
    pub uuid: Option<Uuid>,
}

/// A superblock whose numbers fit together and fit the volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Superblock {
    /// Feature words.
    pub features: Features,
    /// `sb_uuid`: in the records of the log.
    pub uuid: Uuid,
    /// In the other metadata of version 5: `sb_meta_uuid` where that feature is on, else `uuid`.
    pub meta_uuid: Uuid,
    /// Bytes a block: a power of two from 512 to 65,536.
    pub block_size: u64,
    /// Bytes a sector: a power of two from 512 to 32,768.
    pub sector_size: u64,
    /// `sb_dblocks`: blocks of the data section, all inside the volume.
    pub data_blocks: u64,
    /// `sb_agblocks`: blocks an allocation group; the last one may be shorter.
    pub ag_blocks: u64,
    /// `sb_agcount`.
    pub ag_count: u64,
    /// `sb_fdblocks`: free blocks, among them those that wait in free lists and trees. Up to date
    /// after a proper shutdown only.
    pub free_blocks: u64,
    /// Where the log is; `None` if it is on another disk.
    pub log: Option<LogPlace>,
    /// Whether files may have their data on a realtime device.
    pub has_realtime: bool,
    in_progress: bool,
}

/// A log that is inside the data section.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LogPlace {
    /// The allocation group that it is in.
    pub group: u64,
    /// Its first block in that group.
    pub group_block: u64,
    /// `sb_logblocks`.
    pub blocks: u64,
}

/// The first bytes of a volume: its superblock, whatever its sector size.
pub(crate) fn read_sector(volume: &dyn ReadAt) -> Result<Vec<u8>, Refusal> {
    let mut fields = vec![0; 512];
    volume.read_at(ByteOffset(0), &mut fields)?;
    let sector_size = read_u16be(&fields, 0x66);
    if !sector_size.is_power_of_two() || !(512..=32_768).contains(&sector_size) {
        return Err(odd(format!("sectors of {sector_size} bytes")));
    }
    let mut sector = vec![0; usize::from(sector_size)];
    volume.read_at(ByteOffset(0), &mut sector)?;
    Ok(sector)
}

fn odd(what: String) -> Refusal {
    Refusal::Damaged(format!("the superblock claims {what}"))
}

impl Names {
    pub(crate) fn parse(sector: &[u8]) -> Self {
        Self {
            label: read_text(sector, 0x6C, 12),
            uuid: Some(Uuid::from_bytes(read_array(sector, 0x20))),
        }
    }
}

impl Superblock {
    /// `sector` is exactly one sector.
    pub(crate) fn parse(sector: &[u8], volume_size: u64) -> Result<Self, Refusal> {
        let fields = sector.get(..FIELDS_BYTES).unwrap_or(sector);
        let sb_blocksize = read_u32be(fields, 0x04);
        let sb_dblocks = read_u64be(fields, 0x08);
        let sb_rblocks = read_u64be(fields, 0x10);
        let sb_uuid = Uuid::from_bytes(read_array(fields, 0x20));
        let sb_logstart = read_u64be(fields, 0x30);
        let sb_agblocks = read_u32be(fields, 0x54);
        let sb_agcount = read_u32be(fields, 0x58);
        let sb_logblocks = read_u32be(fields, 0x60);
        let sb_versionnum = read_u16be(fields, 0x64);
        let sb_sectsize = read_u16be(fields, 0x66);
        let sb_blocklog = read_u8(fields, 0x78);
        let sb_sectlog = read_u8(fields, 0x79);
        let sb_agblklog = read_u8(fields, 0x7C);
        let sb_inprogress = read_u8(fields, 0x7E);
        let sb_fdblocks = read_u64be(fields, 0x90);
        let sb_shared_vn = read_u8(fields, 0xB3);
        let sb_logsunit = read_u32be(fields, 0xC4);
        let sb_features2 = read_u32be(fields, 0xC8);
        let sb_bad_features2 = read_u32be(fields, 0xCC);
        let sb_crc = read_u32le(fields, CRC_AT);
        let sb_meta_uuid = Uuid::from_bytes(read_array(fields, 0xF8));
        let v5 = sb_versionnum & 0xF == 5;
        let v5_word = |at| if v5 { read_u32be(fields, at) } else { 0 };
        let features = Features {
            versionnum: sb_versionnum,
            features2: sb_features2 | sb_bad_features2,
            ro_compat: v5_word(0xD4),
            incompat: v5_word(0xD8),
            log_incompat: v5_word(0xDC),
        };

        if !has_magic(fields, 0, b"XFSB") {
            return Err(Refusal::Damaged("the superblock is not one".into()));
        }
        // Before the checksum: an unknown feature may change what is checked how.
        if let Some(unknown) = features.unknown() {
            return Err(Refusal::Unsupported(format!(
                "uses features that this version does not know ({unknown})"
            )));
        }
        if v5 && !has_crc(sector, CRC_AT, sb_crc) {
            return Err(Refusal::Damaged(
                "the superblock does not match its checksum".into(),
            ));
        }

        let block_size = u64::from(sb_blocksize);
        let sector_size = u64::from(sb_sectsize);
        if !block_size.is_power_of_two()
            || !(512..=65_536).contains(&block_size)
            || block_size.trailing_zeros() != u32::from(sb_blocklog)
            || sector_size.trailing_zeros() != u32::from(sb_sectlog)
            || sector_size > block_size
        {
            return Err(odd(format!(
                "blocks of {block_size} bytes (2^{sb_blocklog}), sectors of {sector_size} bytes \
                 (2^{sb_sectlog})"
            )));
        }
        let size = sb_dblocks.checked_mul(block_size);
        if size.is_none_or(|size| size > volume_size) {
            return Err(odd(format!(
                "{sb_dblocks} blocks of {block_size} bytes, but its partition has {volume_size} \
                 bytes"
            )));
        }
        let ag_blocks = u64::from(sb_agblocks);
        let ag_count = u64::from(sb_agcount);
        let bits = ag_blocks.next_power_of_two().trailing_zeros();
        if !AG_BYTES.contains(&ag_blocks.saturating_mul(block_size))
            || sb_dblocks.div_ceil(ag_blocks.max(1)) != ag_count
            || u32::from(sb_agblklog) != bits
        {
            return Err(odd(format!(
                "{sb_dblocks} blocks in {ag_count} groups of {ag_blocks} (2^{sb_agblklog})"
            )));
        }
        if sb_fdblocks > sb_dblocks || sb_shared_vn != 0 || sb_logsunit > 256 << 10 {
            return Err(odd(format!(
                "{sb_fdblocks} free blocks of {sb_dblocks}, a log stripe of {sb_logsunit} bytes, \
                 shared version {sb_shared_vn}"
            )));
        }
        let mut superblock = Self {
            features,
            uuid: sb_uuid,
            meta_uuid: if features.has_meta_uuid() {
                sb_meta_uuid
            } else {
                sb_uuid
            },
            block_size,
            sector_size,
            data_blocks: sb_dblocks,
            ag_blocks,
            ag_count,
            free_blocks: sb_fdblocks,
            log: None,
            has_realtime: sb_rblocks != 0,
            in_progress: sb_inprogress != 0,
        };
        superblock.log = superblock.place_of_log(sb_logstart, u64::from(sb_logblocks), bits)?;
        Ok(superblock)
    }

    /// A block number of the filesystem has the group's number above the block in the group.
    fn place_of_log(
        &self,
        sb_logstart: u64,
        blocks: u64,
        bits: u32,
    ) -> Result<Option<LogPlace>, Refusal> {
        if sb_logstart == 0 {
            return Ok(None);
        }
        let group = sb_logstart.checked_shr(bits).unwrap_or(0);
        let start_of_group = group.checked_shl(bits).unwrap_or(0);
        let group_block = sb_logstart.saturating_sub(start_of_group);
        // At least XFS_MIN_LOG_BYTES were always asked for, less than XFS_MAX_LOG_BYTES.
        let bytes = blocks.saturating_mul(self.block_size);
        if group >= self.ag_count
            || group_block.saturating_add(blocks) > self.blocks_in(group)
            || !(256 << 10..1 << 31).contains(&bytes)
        {
            return Err(odd(format!(
                "a log of {blocks} blocks in block {group_block} of group {group}"
            )));
        }
        Ok(Some(LogPlace {
            group,
            group_block,
            blocks,
        }))
    }

    /// Whether everything is where `other` says that it is.
    pub(crate) fn has_shape_of(&self, other: &Self) -> bool {
        // Counts change, and so do features that only say what some file has come to use.
        let shape = |sb: &Self| {
            (
                (sb.block_size, sb.sector_size, sb.meta_uuid, sb.log),
                (sb.data_blocks, sb.ag_blocks, sb.ag_count),
                (sb.features.ro_compat, sb.features.incompat),
                (sb.features.log_incompat, sb.has_realtime),
            )
        };
        shape(self) == shape(other)
    }

    /// Refuses what xfs_repair has to see first.
    pub(crate) fn refuse_unless_whole(&self) -> Result<(), Refusal> {
        if self.in_progress {
            return Err(Refusal::Damaged(
                "mkfs or xfs_copy did not finish making it (sb_inprogress)".into(),
            ));
        }
        if self.features.needs_repair() {
            return Err(Refusal::Damaged(
                "it is marked as needing repair (boot the server from a rescue system and run \
                 xfs_repair for a smaller copy)"
                    .into(),
            ));
        }
        Ok(())
    }

    /// Where a group starts, in bytes. (Inside the volume for every group that there is.)
    pub(crate) fn group_at(&self, group: u64) -> u64 {
        group
            .saturating_mul(self.ag_blocks)
            .saturating_mul(self.block_size)
    }

    /// Where a block of a group is, in bytes.
    pub(crate) fn block_at(&self, group: u64, block: u64) -> u64 {
        self.group_at(group)
            .saturating_add(block.saturating_mul(self.block_size))
    }

    /// How many blocks a group has.
    pub(crate) fn blocks_in(&self, group: u64) -> u64 {
        self.data_blocks
            .saturating_sub(group.saturating_mul(self.ag_blocks))
            .min(self.ag_blocks)
    }
}

/// Whether `bytes` match their checksum, which is stored inside them at `crc_at` and counts as 0
/// there (`xfs_verify_cksum`).
pub(crate) fn has_crc(bytes: &[u8], crc_at: usize, stored: u32) -> bool {
    matches_checksum(crc_of(bytes, crc_at), stored)
}

/// The checksum of metadata that keeps it at `crc_at` (`xfs_calc_cksum`).
pub(crate) fn crc_of(bytes: &[u8], crc_at: usize) -> u32 {
    let before = bytes.get(..crc_at).unwrap_or_default();
    let behind = crc_at
        .checked_add(4)
        .and_then(|from| bytes.get(from..))
        .unwrap_or_default();
    !crc32c(!0, [before, &[0; 4], behind])
}
