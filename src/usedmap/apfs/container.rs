//! The container superblock of APFS (`nx_superblock_t`): a copy in block 0, written at unmount, and
//! one for each of the last transactions in the checkpoint descriptor area, a ring.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use super::object;
use crate::bytes::{has_magic, read_array, read_u32le, read_u64le};
use crate::device::ReadAt;
use crate::units::ByteOffset;
use crate::usedmap::finding::Refusal;
use uuid::Uuid;

/// `NX_INCOMPAT_VERSION2`; version 1 is of a beta, 0x100 is a Fusion Drive.
const INCOMPAT_VERSION2: u64 = 0x2;
const INCOMPAT_FUSION: u64 = 0x100;
/// `NX_FEATURE_DEFRAG` and `NX_FEATURE_LCFD` are optional by design; none is known that must be
/// understood to read.
const RO_COMPAT_KNOWN: u64 = 0;
/// Blocks of a checkpoint area; macOS makes some hundreds for the largest disks.
const MAX_AREA_BLOCKS: u32 = 1 << 16;
/// Bytes of a space manager; that of 8 TiB has some ten thousand.
const MAX_SPACEMAN_BYTES: u64 = 1 << 20;

/// Blocks from the first up to, not including, the second.
pub(super) type Run = (u64, u64);

/// A container superblock whose areas fit the volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Container {
    pub uuid: Uuid,
    /// `nx_block_size` in bytes.
    pub block_size: u64,
    /// `nx_block_count`.
    pub block_count: u64,
    /// The checkpoint descriptor and data areas.
    pub areas: [Run; 2],
    xid: u64,
    /// `nx_xp_desc_index` and `nx_xp_desc_len`: this checkpoint in its ring.
    checkpoint: (u64, u64),
    spaceman_oid: u64,
}

impl Container {
    /// Reads the copy in block 0.
    pub(super) fn read(volume: &dyn ReadAt) -> Result<Self, Refusal> {
        let mut head = [0; 4096];
        volume.read_at(ByteOffset(0), &mut head)?;
        let block_size = u64::from(read_u32le(&head, 36));
        if !block_size.is_power_of_two() || !(4096..=65_536).contains(&block_size) {
            return Err(Refusal::Damaged(format!(
                "the container superblock claims blocks of {block_size} bytes"
            )));
        }
        let what = "the container superblock";
        let bytes = object::read(volume, 0, block_size, object::SUPERBLOCK, what)?;
        Self::parse(&bytes, volume.size().0)
    }

    fn parse(bytes: &[u8], volume_size: u64) -> Result<Self, Refusal> {
        let block_size = u64::from(read_u32le(bytes, 36));
        let block_count = read_u64le(bytes, 40);
        let ro_compat = read_u64le(bytes, 56);
        let incompat = read_u64le(bytes, 64);
        if !has_magic(bytes, 32, b"NXSB") {
            return Err(Refusal::Damaged("the container superblock is gone".into()));
        }
        if incompat & INCOMPAT_FUSION != 0 {
            return Err(Refusal::Unsupported(
                "a Fusion Drive, which spans two disks".into(),
            ));
        }
        if incompat != INCOMPAT_VERSION2 || ro_compat & !RO_COMPAT_KNOWN != 0 {
            return Err(Refusal::Unsupported(format!(
                "uses features that this version does not know (incompat {incompat:#x}, ro_compat \
                 {ro_compat:#x})"
            )));
        }
        if block_count
            .checked_mul(block_size)
            .is_none_or(|size| size > volume_size)
        {
            return Err(Refusal::Damaged(format!(
                "the container superblock claims {block_count} blocks of {block_size} bytes, but \
                 its partition has {volume_size} bytes"
            )));
        }
        let area = |blocks_at: usize, base_at: usize| {
            let blocks = read_u32le(bytes, blocks_at);
            let base = read_u64le(bytes, base_at);
            // The highest bit of the number: the area is in pieces, listed in a tree.
            if blocks >> 31 != 0 {
                return Err(Refusal::Unsupported(
                    "its checkpoint areas are in pieces".into(),
                ));
            }
            let end = base.saturating_add(u64::from(blocks));
            if blocks == 0 || blocks > MAX_AREA_BLOCKS || base == 0 || end > block_count {
                return Err(Refusal::Damaged(
                    "the container superblock claims checkpoint areas that do not fit".into(),
                ));
            }
            Ok((base, end))
        };
        Ok(Self {
            uuid: Uuid::from_bytes(read_array(bytes, 72)),
            block_size,
            block_count,
            areas: [area(104, 112)?, area(108, 120)?],
            xid: object::transaction(bytes),
            checkpoint: (
                u64::from(read_u32le(bytes, 136)),
                u64::from(read_u32le(bytes, 140)),
            ),
            spaceman_oid: read_u64le(bytes, 152),
        })
    }

    /// The newest checkpoint must be the one that block 0 has: then it was unmounted.
    pub(super) fn refuse_unless_clean(&self, volume: &dyn ReadAt) -> Result<(), Refusal> {
        let mut newest = 0;
        let [(start, end), _] = self.areas;
        let mut block = vec![0; usize::try_from(self.block_size).unwrap_or(0)];
        for at in start..end {
            volume.read_at(ByteOffset(at.saturating_mul(self.block_size)), &mut block)?;
            if has_magic(&block, 32, b"NXSB") && object::is_valid(&block, object::SUPERBLOCK) {
                newest = object::transaction(&block).max(newest);
            }
        }
        if newest == 0 {
            return Err(Refusal::Damaged("it has no valid checkpoint".into()));
        }
        if newest != self.xid {
            return Err(Refusal::Dirty(
                "it was not unmounted: its newest checkpoint is not in its first block (boot the \
                 server once and power it off properly for a smaller copy)"
                    .into(),
            ));
        }
        Ok(())
    }

    /// Where the space manager of this checkpoint is, in bytes from the start of the volume, and
    /// how long (`checkpoint_map_phys_t`).
    pub(super) fn spaceman(&self, volume: &dyn ReadAt) -> Result<(u64, u64), Refusal> {
        let [(start, end), (data_start, data_end)] = self.areas;
        let (index, len) = self.checkpoint;
        let blocks = end.saturating_sub(start);
        if index >= blocks || len > blocks {
            return Err(Refusal::Damaged("its checkpoint is not in its ring".into()));
        }
        // The last of them is the superblock.
        for nth in 0..len.saturating_sub(1) {
            let place = index.saturating_add(nth).checked_rem(blocks).unwrap_or(0);
            let at = start.saturating_add(place).saturating_mul(self.block_size);
            let what = "a checkpoint map";
            let map = object::read(volume, at, self.block_size, object::CHECKPOINT_MAP, what)?;
            let count = usize::try_from(read_u32le(&map, 36)).unwrap_or(usize::MAX);
            let mappings = map
                .get(40..)
                .unwrap_or_default()
                .chunks_exact(40)
                .take(count);
            for mapping in mappings {
                if read_u64le(mapping, 24) != self.spaceman_oid {
                    continue;
                }
                let size = u64::from(read_u32le(mapping, 8));
                let block = read_u64le(mapping, 32);
                let blocks = size.div_ceil(self.block_size);
                let inside = data_start <= block && block.saturating_add(blocks) <= data_end;
                if !inside || !(self.block_size..=MAX_SPACEMAN_BYTES).contains(&size) {
                    return Err(Refusal::Damaged(
                        "its space manager does not fit the checkpoint data area".into(),
                    ));
                }
                return Ok((block.saturating_mul(self.block_size), size));
            }
        }
        Err(Refusal::Damaged(
            "its checkpoint has no space manager".into(),
        ))
    }
}
