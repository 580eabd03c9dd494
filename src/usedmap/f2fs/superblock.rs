//! The superblock of F2FS (`struct f2fs_super_block` in `include/linux/f2fs_fs.h` of Linux): 3072
//! bytes, 1024 bytes into the volume, and once more a block later.
//!
//! Areas follow each other without gaps, in segments of 512 blocks: checkpoint (two packs), SIT
//! (which blocks are valid, twice), NAT (where nodes are, twice), SSA (whose blocks they are), main.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use super::checksum::crc32;
use crate::bytes::{read_array, read_u8, read_u16le, read_u32le, read_u64le};
use crate::device::ReadAt;
use crate::units::ByteOffset;
use crate::usedmap::crc::matches_checksum;
use crate::usedmap::finding::Refusal;
use uuid::Uuid;

/// Bytes a block. F2FS makes them as large as the machine's pages; only 4 KiB has been proven.
pub(super) const BLOCK: u64 = 4096;
/// Blocks a segment; the SIT has no room for any other number.
pub(super) const BLOCKS_PER_SEGMENT: u64 = 512;

const SUPERBLOCK_AT: u64 = 1024;
const SUPERBLOCK_BYTES: usize = 3072;

const FEATURE_BLKZONED: u32 = 0x0002;
const FEATURE_SB_CHKSUM: u32 = 0x0800;
/// ENCRYPT, ATOMIC_WRITE, EXTRA_ATTR, PRJQUOTA, INODE_CHKSUM, FLEXIBLE_INLINE_XATTR, QUOTA_INO,
/// INODE_CRTIME, LOST_FOUND, VERITY, SB_CHKSUM, CASEFOLD, COMPRESSION: none changes what the SIT
/// means. RO (0x4000) is not among them: it has not been proven.
const FEATURES_KNOWN: u32 = 0x0001
    | 0x0004
    | 0x0008
    | 0x0010
    | 0x0020
    | 0x0040
    | 0x0080
    | 0x0100
    | 0x0200
    | 0x0400
    | FEATURE_SB_CHKSUM
    | 0x1000
    | 0x2000;

/// A superblock whose areas fit together and fit the volume. Addresses count blocks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Superblock {
    pub uuid: Uuid,
    pub label: Option<String>,
    /// `block_count`: how far the filesystem goes.
    pub block_count: u64,
    /// `cp_blkaddr`.
    pub cp_blkaddr: u64,
    /// `sit_blkaddr`.
    pub sit_blkaddr: u64,
    /// Blocks of one of the two copies of the SIT.
    pub sit_blocks: u64,
    /// `ssa_blkaddr`: one block for each segment of the main area.
    pub ssa_blkaddr: u64,
    /// `main_blkaddr`.
    pub main_blkaddr: u64,
    /// `segment_count_main`.
    pub main_segments: u64,
    /// `cp_payload`: blocks behind the checkpoint block that hold the SIT's version bitmap.
    pub cp_payload: u64,
}

impl Superblock {
    pub(super) fn read(volume: &dyn ReadAt) -> Result<Self, Refusal> {
        let mut bytes = [0; SUPERBLOCK_BYTES];
        volume.read_at(ByteOffset(SUPERBLOCK_AT), &mut bytes)?;
        Self::parse(&bytes, volume.size().0)
    }

    fn parse(bytes: &[u8; SUPERBLOCK_BYTES], volume_size: u64) -> Result<Self, Refusal> {
        let log_blocksize = read_u32le(bytes, 0x10);
        let log_blocks_per_seg = read_u32le(bytes, 0x14);
        let checksum_offset = read_u32le(bytes, 0x20);
        let block_count = read_u64le(bytes, 0x24);
        let segment_count = u64::from(read_u32le(bytes, 0x30));
        let segment_count_ckpt = u64::from(read_u32le(bytes, 0x34));
        let segment_count_sit = u64::from(read_u32le(bytes, 0x38));
        let segment_count_nat = u64::from(read_u32le(bytes, 0x3C));
        let segment_count_ssa = u64::from(read_u32le(bytes, 0x40));
        let segment_count_main = u64::from(read_u32le(bytes, 0x44));
        let segment0_blkaddr = u64::from(read_u32le(bytes, 0x48));
        let cp_blkaddr = u64::from(read_u32le(bytes, 0x4C));
        let sit_blkaddr = u64::from(read_u32le(bytes, 0x50));
        let nat_blkaddr = u64::from(read_u32le(bytes, 0x54));
        let ssa_blkaddr = u64::from(read_u32le(bytes, 0x58));
        let main_blkaddr = u64::from(read_u32le(bytes, 0x5C));
        let uuid: [u8; 16] = read_array(bytes, 0x6C);
        let cp_payload = u64::from(read_u32le(bytes, 0x680));
        let feature = read_u32le(bytes, 0x884);
        let first_device = read_u8(bytes, 0x899);

        // Before the checksum: an unknown feature may change what is checked how.
        if feature & FEATURE_BLKZONED != 0 {
            return Err(Refusal::Unsupported("on a zoned disk".into()));
        }
        let unknown = feature & !FEATURES_KNOWN;
        if unknown != 0 {
            return Err(Refusal::Unsupported(format!(
                "uses features that this version does not know ({unknown:#x})"
            )));
        }
        if first_device != 0 {
            return Err(Refusal::Unsupported("spans several disks".into()));
        }
        if log_blocksize != 12 {
            return Err(Refusal::Unsupported(format!(
                "has blocks of 2^{log_blocksize} bytes, and only those of 4096 are known"
            )));
        }
        if feature & FEATURE_SB_CHKSUM != 0 {
            let covered = bytes.get(..0xBFC).unwrap_or_default();
            if checksum_offset != 0xBFC
                || !matches_checksum(crc32([covered]), read_u32le(bytes, 0xBFC))
            {
                return Err(Refusal::Damaged(
                    "the superblock does not match its checksum".into(),
                ));
            }
        }

        let odd = |what: String| Refusal::Damaged(format!("the superblock claims {what}"));
        if log_blocks_per_seg != 9 {
            return Err(odd(format!("segments of 2^{log_blocks_per_seg} blocks")));
        }
        if block_count
            .checked_mul(BLOCK)
            .is_none_or(|size| size > volume_size)
        {
            return Err(odd(format!(
                "{block_count} blocks of {BLOCK} bytes, but its partition has {volume_size} bytes"
            )));
        }
        // As `sanity_check_area_boundary` of Linux has it. Sums of 32-bit numbers times 512: no
        // overflow.
        let behind =
            |at: u64, segments: u64| at.saturating_add(segments.saturating_mul(BLOCKS_PER_SEGMENT));
        if segment0_blkaddr < 2
            || cp_blkaddr != segment0_blkaddr
            || sit_blkaddr != behind(cp_blkaddr, segment_count_ckpt)
            || nat_blkaddr != behind(sit_blkaddr, segment_count_sit)
            || ssa_blkaddr != behind(nat_blkaddr, segment_count_nat)
            || main_blkaddr != behind(ssa_blkaddr, segment_count_ssa)
            || behind(main_blkaddr, segment_count_main) > behind(segment0_blkaddr, segment_count)
            || behind(main_blkaddr, segment_count_main) > block_count
        {
            return Err(odd("areas that do not follow each other".into()));
        }
        let sit_blocks = behind(0, segment_count_sit / 2);
        if segment_count_ckpt < 2
            || segment_count_sit < 2
            || segment_count_sit & 1 != 0
            || segment_count_main == 0
            || behind(0, segment_count_ssa) < segment_count_main
            || sit_blocks.saturating_mul(super::sit::ENTRIES_PER_BLOCK) < segment_count_main
            || cp_payload >= 500
        {
            return Err(odd(format!(
                "{segment_count_ckpt} segments for checkpoints, {segment_count_sit} for the SIT, \
                 {segment_count_ssa} for the SSA, {segment_count_main} for everything else"
            )));
        }
        Ok(Self {
            uuid: Uuid::from_bytes(uuid),
            label: label(bytes),
            block_count,
            cp_blkaddr,
            sit_blkaddr,
            sit_blocks,
            ssa_blkaddr,
            main_blkaddr,
            main_segments: segment_count_main,
            cp_payload,
        })
    }

    /// The first block of a segment of the main area.
    pub(super) fn segment_start(&self, segment: u64) -> u64 {
        self.main_blkaddr
            .saturating_add(segment.saturating_mul(BLOCKS_PER_SEGMENT))
    }
}

/// `volume_name`: UTF-16, ended by 0.
fn label(bytes: &[u8]) -> Option<String> {
    let units: Vec<u16> = (0x7C..0x47C_usize)
        .step_by(2)
        .map(|at| read_u16le(bytes, at))
        .take_while(|&unit| unit != 0)
        .collect();
    (!units.is_empty()).then(|| String::from_utf16_lossy(&units))
}
