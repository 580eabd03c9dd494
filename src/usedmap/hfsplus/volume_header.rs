//! The volume header of HFS+ (`struct HFSPlusVolumeHeader`, TN1150): 512 bytes, 1024 bytes into the
//! volume, and once more 1024 bytes before its end.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use crate::bytes::{has_magic, read_array, read_u32be};
use crate::device::ReadAt;
use crate::usedmap::finding::Refusal;

pub(super) const HEADER_AT: u64 = 1024;
pub(super) const HEADER_BYTES: u64 = 512;

/// `kHFSVolumeUnmountedBit`.
const UNMOUNTED: u32 = 1 << 8;
/// `kHFSBootVolumeInconsistentBit` and `kHFSVolumeInconsistentBit`.
const INCONSISTENT: u32 = 1 << 11 | 1 << 14;
/// `kHFSVolumeJournaledBit`.
const JOURNALED: u32 = 1 << 13;

/// Where a file is: `(startBlock, blockCount)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Extents {
    pub runs: Vec<(u64, u64)>,
}

/// A volume header whose numbers fit together and fit the volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct VolumeHeader {
    /// `blockSize`: a power of two from 512 on.
    pub block_size: u64,
    /// `totalBlocks`; all of them lie inside the volume.
    pub total_blocks: u64,
    /// `freeBlocks`.
    pub free_blocks: u64,
    /// Whether it has a journal.
    pub journaled: bool,
    /// `journalInfoBlock`.
    pub journal_info_block: u64,
    /// `allocationFile`.
    pub allocation_file: Extents,
    /// The first run of `catalogFile`: its start and how many blocks.
    pub catalog: (u64, u64),
    attributes: u32,
}

impl VolumeHeader {
    pub(super) fn read(volume: &dyn ReadAt) -> Result<Self, Refusal> {
        Self::parse(&super::read::<512>(volume, HEADER_AT)?, volume.size().0)
    }

    fn parse(bytes: &[u8; 512], volume_size: u64) -> Result<Self, Refusal> {
        let plus = has_magic(bytes, 0x00, b"H+\0\x04");
        let x = has_magic(bytes, 0x00, b"HX\0\x05");
        if !plus && !x {
            return Err(Refusal::Unsupported(
                "of a version that this version does not know".into(),
            ));
        }
        let attributes = read_u32be(bytes, 0x04);
        let journal_info_block = u64::from(read_u32be(bytes, 0x0C));
        let block_size = u64::from(read_u32be(bytes, 0x28));
        let total_blocks = u64::from(read_u32be(bytes, 0x2C));
        let free_blocks = u64::from(read_u32be(bytes, 0x30));
        let odd = |what: String| Refusal::Damaged(format!("the volume header claims {what}"));
        if !block_size.is_power_of_two() || block_size < 512 {
            return Err(odd(format!("blocks of {block_size} bytes")));
        }
        if total_blocks.saturating_mul(block_size) > volume_size {
            return Err(odd(format!(
                "{total_blocks} blocks of {block_size} bytes, but its partition has \
                 {volume_size} bytes"
            )));
        }
        if free_blocks > total_blocks || total_blocks.saturating_mul(block_size) < 4096 {
            return Err(odd(format!(
                "{total_blocks} blocks, {free_blocks} of them free"
            )));
        }
        Ok(Self {
            block_size,
            total_blocks,
            free_blocks,
            journaled: attributes & JOURNALED != 0,
            journal_info_block,
            allocation_file: allocation_file(bytes, total_blocks)?,
            catalog: (
                u64::from(read_u32be(bytes, 0x120)),
                u64::from(read_u32be(bytes, 0x124)),
            ),
            attributes,
        })
    }

    /// Refuses a filesystem whose allocation file may lag behind its content.
    pub(super) fn refuse_unless_clean(&self) -> Result<(), Refusal> {
        if self.attributes & INCONSISTENT != 0 {
            return Err(Refusal::Dirty(
                "it was not unmounted and calls itself inconsistent (boot the server once and \
                 power it off properly for a smaller copy)"
                    .into(),
            ));
        }
        if self.attributes & UNMOUNTED == 0 {
            return Err(Refusal::Dirty(
                "it was not unmounted (boot the server once and power it off properly for a \
                 smaller copy)"
                    .into(),
            ));
        }
        Ok(())
    }
}

/// `allocationFile` (`struct HFSPlusForkData`): its first eight runs; a file with more of them goes
/// on in the extents overflow file.
fn allocation_file(bytes: &[u8], total_blocks: u64) -> Result<Extents, Refusal> {
    let logical_size = u64::from_be_bytes(read_array(bytes, 0x70));
    let file_blocks = u64::from(read_u32be(bytes, 0x7C));
    let runs: Vec<(u64, u64)> = (0x80..0xC0_usize)
        .step_by(8)
        .map(|at| {
            let count = at.saturating_add(4);
            (
                u64::from(read_u32be(bytes, at)),
                u64::from(read_u32be(bytes, count)),
            )
        })
        .take_while(|&(_, count)| count > 0)
        .collect();
    let listed = runs
        .iter()
        .fold(0_u64, |sum, &(_, count)| sum.saturating_add(count));
    if listed < file_blocks {
        return Err(Refusal::Unsupported(format!(
            "its allocation file is in more than {} pieces",
            runs.len()
        )));
    }
    let outside = runs
        .iter()
        .any(|&(start, count)| start.saturating_add(count) > total_blocks);
    if listed > file_blocks || outside || logical_size < total_blocks.div_ceil(8) {
        return Err(Refusal::Damaged(
            "the volume header has an allocation file that does not fit the volume".into(),
        ));
    }
    Ok(Extents { runs })
}
