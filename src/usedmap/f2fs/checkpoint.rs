//! A checkpoint pack of F2FS (`struct f2fs_checkpoint`): the state to which a mount returns. Two
//! packs take turns, each between two copies of its checkpoint block; the newer valid one counts
//! (`f2fs_get_valid_checkpoint` in `fs/f2fs/checkpoint.c` of Linux).

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use super::checksum::crc32;
use super::superblock::{BLOCK, BLOCKS_PER_SEGMENT, Superblock};
use crate::bytes::{read_u16le, read_u32le, read_u64le};
use crate::device::ReadAt;
use crate::units::ByteOffset;
use crate::usedmap::crc::matches_checksum;
use crate::usedmap::finding::Refusal;

const UMOUNT_FLAG: u32 = 0x0001;
const COMPACT_SUM_FLAG: u32 = 0x0004;
const ERROR_FLAG: u32 = 0x0008;
const FSCK_FLAG: u32 = 0x0010;
const CRC_RECOVERY_FLAG: u32 = 0x0040;
const NOCRC_RECOVERY_FLAG: u32 = 0x0200;
const LARGE_NAT_BITMAP_FLAG: u32 = 0x0400;
const DISABLED_FLAG: u32 = 0x1000;
const DISABLED_QUICK_FLAG: u32 = 0x2000;
const RESIZEFS_FLAG: u32 = 0x4000;
/// Beside those above: ORPHAN_PRESENT, FASTBOOT, NAT_BITS, TRIMMED, QUOTA_NEED_FSCK (counts in quota
/// files are behind, not which blocks are valid).
const HARMLESS_FLAGS: u32 = 0x0002 | 0x0020 | 0x0080 | 0x0100 | 0x0800;

/// `sit_nat_version_bitmap`.
const BITMAP_AT: usize = 192;
/// Where the checksum is unless large_nat_bitmap moves it to the front of the bitmaps.
const CHECKSUM_AT: usize = 4092;
/// `SUM_JOURNAL_SIZE`, and where the journal is in a whole summary block.
const JOURNAL_BYTES: usize = 507;
const JOURNAL_AT: usize = 3584;

/// The checkpoint that counts.
#[derive(Debug)]
pub(super) struct Checkpoint {
    /// `valid_block_count`: blocks in use in the main area, and those promised to files.
    pub valid_block_count: u64,
    /// `valid_node_count`: how many of them are nodes.
    pub valid_node_count: u64,
    /// `cur_data_segno` and `cur_node_segno`: segments that are being written.
    pub current_segments: Vec<u64>,
    /// Which copy of each SIT block counts, the most significant bit first.
    pub sit_bitmap: Vec<u8>,
    start: u64,
    version: u64,
    checksum: u32,
    flags: u32,
    pack_blocks: u64,
    start_sum: u64,
    warm_node: (u64, u64),
}

impl Checkpoint {
    /// The newer of the valid checkpoints.
    pub(super) fn newest(volume: &dyn ReadAt, sb: &Superblock) -> Result<Self, Refusal> {
        let first = Self::read(volume, sb, sb.cp_blkaddr)?;
        let second = Self::read(volume, sb, sb.cp_blkaddr.saturating_add(BLOCKS_PER_SEGMENT))?;
        match (first, second) {
            // Versions may wrap around.
            (Some(a), Some(b)) if a.version.wrapping_sub(b.version) < 1 << 63 => Ok(a),
            (_, Some(one)) | (Some(one), None) => Ok(one),
            (None, None) => Err(Refusal::Damaged(
                "neither of its checkpoints is valid".into(),
            )),
        }
    }

    /// The pack that starts at a block; `None` if it is not valid.
    fn read(volume: &dyn ReadAt, sb: &Superblock, start: u64) -> Result<Option<Self>, Refusal> {
        let head_bytes = usize::try_from(BLOCK.saturating_mul(sb.cp_payload.saturating_add(1)))
            .unwrap_or(usize::MAX);
        let mut head = vec![0; head_bytes];
        read_block(volume, start, &mut head)?;
        let pack_blocks = u64::from(read_u32le(&head, 136));
        let Some(checksum) = valid_checksum(&head) else {
            return Ok(None);
        };
        if pack_blocks <= 2 || pack_blocks > BLOCKS_PER_SEGMENT {
            return Ok(None);
        }
        let mut tail = [0; 4096];
        let last = start.saturating_add(pack_blocks).saturating_sub(1);
        read_block(volume, last, &mut tail)?;
        let version = read_u64le(&head, 0);
        if valid_checksum(&tail).is_none() || read_u64le(&tail, 0) != version {
            return Ok(None);
        }
        Self::parse(sb, &head, start, checksum).map(Some)
    }

    fn parse(sb: &Superblock, head: &[u8], start: u64, checksum: u32) -> Result<Self, Refusal> {
        let flags = read_u32le(head, 132);
        let sit_bytes = read_u32le(head, 156);
        let nat_bytes = read_u32le(head, 160);
        // `__bitmap_ptr` of `fs/f2fs/f2fs.h`.
        let bitmap_at = if flags & LARGE_NAT_BITMAP_FLAG != 0 {
            usize::try_from(nat_bytes)
                .ok()
                .and_then(|nat| nat.checked_add(BITMAP_AT)?.checked_add(4))
        } else if sb.cp_payload > 0 {
            Some(4096)
        } else {
            Some(BITMAP_AT)
        };
        let sit_bitmap = bitmap_at
            .zip(usize::try_from(sit_bytes).ok())
            .and_then(|(at, len)| head.get(at..)?.get(..len));
        let Some(sit_bitmap) = sit_bitmap.filter(|_| u64::from(sit_bytes) == sb.sit_blocks >> 3)
        else {
            return Err(Refusal::Damaged(format!(
                "the checkpoint has {sit_bytes} bytes for {} blocks of the SIT",
                sb.sit_blocks
            )));
        };
        let segment = |at: usize| u64::from(read_u32le(head, at));
        // Hot, warm and cold ones of each; room for five more is not used.
        let current_segments = [36, 40, 44, 84, 88, 92].map(segment).to_vec();
        let warm_node = (segment(40), u64::from(read_u16le(head, 70)));
        if current_segments.iter().any(|&nr| nr >= sb.main_segments)
            || warm_node.1 >= BLOCKS_PER_SEGMENT
        {
            return Err(Refusal::Damaged(
                "the checkpoint writes to segments that do not exist".into(),
            ));
        }
        Ok(Self {
            valid_block_count: read_u64le(head, 16),
            valid_node_count: u64::from(read_u32le(head, 144)),
            current_segments,
            sit_bitmap: sit_bitmap.to_vec(),
            start,
            version: read_u64le(head, 0),
            checksum,
            flags,
            pack_blocks: u64::from(read_u32le(head, 136)),
            start_sum: u64::from(read_u32le(head, 140)),
            warm_node,
        })
    }

    /// Refuses a filesystem whose SIT may lag behind its content.
    pub(super) fn refuse_unless_clean(
        &self,
        volume: &dyn ReadAt,
        sb: &Superblock,
    ) -> Result<(), Refusal> {
        const REPAIR: &str = "boot the server and let fsck.f2fs repair it for a smaller copy";
        let known = UMOUNT_FLAG
            | COMPACT_SUM_FLAG
            | ERROR_FLAG
            | FSCK_FLAG
            | CRC_RECOVERY_FLAG
            | NOCRC_RECOVERY_FLAG
            | LARGE_NAT_BITMAP_FLAG
            | DISABLED_FLAG
            | DISABLED_QUICK_FLAG
            | RESIZEFS_FLAG
            | HARMLESS_FLAGS;
        let has = |flag: u32| self.flags & flag != 0;
        if has(!known) {
            return Err(Refusal::Unsupported(format!(
                "its checkpoint has flags that this version does not know ({:#x})",
                self.flags & !known
            )));
        }
        if has(ERROR_FLAG | FSCK_FLAG) {
            return Err(Refusal::Dirty(format!(
                "the filesystem has recorded errors ({REPAIR})"
            )));
        }
        if has(RESIZEFS_FLAG) {
            return Err(Refusal::Dirty(format!(
                "a change of its size was interrupted ({REPAIR})"
            )));
        }
        if has(DISABLED_FLAG | DISABLED_QUICK_FLAG) {
            return Err(Refusal::Dirty(
                "its checkpoints were switched off (mount it once with checkpoint=enable for a \
                 smaller copy)"
                    .into(),
            ));
        }
        if !has(UMOUNT_FLAG) {
            return Err(Refusal::Dirty(
                "it was not unmounted (boot the server once and power it off properly for a \
                 smaller copy)"
                    .into(),
            ));
        }
        self.refuse_roll_forward(volume, sb)
    }

    /// What was synced to disk since the checkpoint is a chain of nodes from the next free block of
    /// the warm node segment on (`find_fsync_dnodes` in `fs/f2fs/recovery.c`). A mount writes no
    /// checkpoint of its own, so a server may crash with the one of its last shutdown in force.
    fn refuse_roll_forward(&self, volume: &dyn ReadAt, sb: &Superblock) -> Result<(), Refusal> {
        let (segment, offset) = self.warm_node;
        let mut node = [0; 4096];
        let next_free = sb.segment_start(segment).saturating_add(offset);
        read_block(volume, next_free, &mut node)?;
        let cp_ver = read_u64le(&node, 4084);
        // `is_recoverable_dnode`; whichever way it counts, the lower half is the version's.
        let recoverable = if self.flags & NOCRC_RECOVERY_FLAG != 0 {
            cp_ver << 32 == self.version << 32
        } else if self.flags & CRC_RECOVERY_FLAG != 0 {
            cp_ver == self.version | u64::from(self.checksum) << 32
        } else {
            cp_ver == self.version
        };
        if recoverable {
            return Err(Refusal::Dirty(
                "files were synced to it after its last checkpoint, because the server was not \
                 shut down (boot it once and power it off properly for a smaller copy)"
                    .into(),
            ));
        }
        Ok(())
    }

    /// The journal of the SIT, which overrides it (`f2fs_restore_curseg_summaries`). Of a clean
    /// filesystem: without the flag of an unmount it is elsewhere.
    pub(super) fn sit_journal(&self, volume: &dyn ReadAt) -> Result<Vec<u8>, Refusal> {
        // In compacted summaries behind the journal of the NAT, else in the summary block of the
        // cold data segment: third of six before the closing checkpoint block.
        let (nth, at) = if self.flags & COMPACT_SUM_FLAG != 0 {
            (Some(self.start_sum), JOURNAL_BYTES)
        } else {
            (self.pack_blocks.checked_sub(5), JOURNAL_AT)
        };
        let nth = nth.filter(|&nth| 0 < nth && nth < self.pack_blocks);
        let Some(nth) = nth else {
            return Err(Refusal::Damaged(
                "the checkpoint has no summaries where it says".into(),
            ));
        };
        let mut block = [0; 4096];
        read_block(volume, self.start.saturating_add(nth), &mut block)?;
        let journal = block.get(at..).and_then(|rest| rest.get(..JOURNAL_BYTES));
        Ok(journal.unwrap_or_default().to_vec())
    }
}

/// The checksum of a checkpoint block if it matches (`f2fs_checkpoint_chksum`).
fn valid_checksum(block: &[u8]) -> Option<u32> {
    let block = block.get(..4096)?;
    let at = usize::try_from(read_u32le(block, 164)).ok()?;
    if !(BITMAP_AT..=CHECKSUM_AT).contains(&at) {
        return None;
    }
    let stored = read_u32le(block, at);
    let before = block.get(..at)?;
    let behind = block.get(at.checked_add(4)?..)?;
    matches_checksum(crc32([before, behind]), stored).then_some(stored)
}

/// Fills `buf` from a block on.
pub(super) fn read_block(volume: &dyn ReadAt, block: u64, buf: &mut [u8]) -> Result<(), Refusal> {
    let at = block.saturating_mul(BLOCK);
    volume.read_at(ByteOffset(at), buf).map_err(Refusal::from)
}
