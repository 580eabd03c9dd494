//! The main boot region of exFAT (Microsoft, "exFAT file system specification", 1.00, section 3):
//! sizes, state, and the checksum over its first eleven sectors in the twelfth.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use crate::bytes::{read_u8, read_u16le, read_u32le, read_u64le};
use crate::device::ReadAt;
use crate::units::ByteOffset;
use crate::usedmap::crc::matches_checksum;
use crate::usedmap::finding::Refusal;

/// Sectors that the checksum is taken over.
const CHECKED_SECTORS: u64 = 11;
/// Bytes that change without a new checksum: VolumeFlags and PercentInUse.
const UNCHECKED: [usize; 3] = [0x6A, 0x6B, 0x70];
/// `VolumeFlags`.
const VOLUME_DIRTY: u16 = 0x0002;
const MEDIA_FAILURE: u16 = 0x0004;

/// Sizes that fit together and fit the volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Boot {
    /// Bytes of the filesystem; all of them inside the partition.
    pub size: u64,
    /// Where the file allocation table starts, in bytes.
    pub fat_at: u64,
    /// Where cluster 2 starts, in bytes; what lies before is metadata.
    pub heap_at: u64,
    /// Bytes a cluster: up to 32 MiB.
    pub cluster_size: u64,
    /// Data clusters. The first has the number 2.
    pub clusters: u64,
    /// The first cluster of the root directory.
    pub root_cluster: u64,
    /// `VolumeSerialNumber`.
    pub serial: u32,
    flags: u16,
}

impl Boot {
    /// Reads the main boot region of a volume.
    pub(super) fn read(volume: &dyn ReadAt) -> Result<Self, Refusal> {
        let mut sector = [0; 512];
        volume.read_at(ByteOffset(0), &mut sector)?;
        let boot = Self::parse(&sector, volume.size().0)?;
        let shift = u32::from(read_u8(&sector, 0x6C));
        let sector_size = 1_u64.checked_shl(shift).unwrap_or(512);
        let checked = sector_size.saturating_mul(CHECKED_SECTORS);
        let len = usize::try_from(checked.saturating_add(sector_size)).unwrap_or(0);
        let mut region = vec![0; len];
        volume.read_at(ByteOffset(0), &mut region)?;
        let (checked, sums) = region
            .split_at_checked(usize::try_from(checked).unwrap_or(0))
            .unwrap_or_default();
        let sum = checksum(checked);
        if sums
            .chunks_exact(4)
            .any(|stored| !matches_checksum(sum, read_u32le(stored, 0)))
        {
            return Err(Refusal::Damaged(
                "the boot region does not match its checksum (let chkdsk or fsck.exfat repair it \
                 for a smaller copy)"
                    .into(),
            ));
        }
        Ok(boot)
    }

    fn parse(sector: &[u8; 512], volume_size: u64) -> Result<Self, Refusal> {
        let volume_length = read_u64le(sector, 0x48);
        let fat_offset = u64::from(read_u32le(sector, 0x50));
        let fat_length = u64::from(read_u32le(sector, 0x54));
        let heap_offset = u64::from(read_u32le(sector, 0x58));
        let clusters = u64::from(read_u32le(sector, 0x5C));
        let root_cluster = u64::from(read_u32le(sector, 0x60));
        let revision = read_u16le(sector, 0x68);
        let sector_shift = u32::from(read_u8(sector, 0x6C));
        let cluster_shift = u32::from(read_u8(sector, 0x6D));
        let fats = read_u8(sector, 0x6E);

        let odd = |what: String| Refusal::Damaged(format!("the boot sector claims {what}"));
        if revision >> 8 != 1 {
            return Err(Refusal::Unsupported(format!(
                "exFAT of revision {revision:#06x}"
            )));
        }
        if fats != 1 {
            return Err(Refusal::Unsupported(format!(
                "exFAT with {fats} file allocation tables (TexFAT)"
            )));
        }
        if !(9..=12).contains(&sector_shift) || sector_shift.saturating_add(cluster_shift) > 25 {
            return Err(odd(format!(
                "sectors of 2^{sector_shift} bytes and clusters of 2^{cluster_shift} sectors"
            )));
        }
        let sector_size = 1_u64.checked_shl(sector_shift).unwrap_or(512);
        let cluster_size = sector_size
            .checked_shl(cluster_shift)
            .unwrap_or(sector_size);
        let size = volume_length
            .checked_mul(sector_size)
            .filter(|&size| size <= volume_size)
            .ok_or_else(|| {
                odd(format!(
                    "{volume_length} sectors of {sector_size} bytes, but its partition has \
                     {volume_size} bytes"
                ))
            })?;
        // 32-bit numbers of sectors and clusters: none of these can come near 64 bits.
        let fat_at = fat_offset.saturating_mul(sector_size);
        let fat_size = fat_length.saturating_mul(sector_size);
        let heap_at = heap_offset.saturating_mul(sector_size);
        let entries = fat_size >> 2;
        if fat_offset < 24
            || heap_at < fat_at.saturating_add(fat_size)
            || entries < clusters.saturating_add(2)
            || clusters
                .saturating_mul(cluster_size)
                .saturating_add(heap_at)
                > size
            || !(2..clusters.saturating_add(2)).contains(&root_cluster)
        {
            return Err(odd(format!(
                "{clusters} clusters from sector {heap_offset} on, {entries} entries in its table, \
                 the root in cluster {root_cluster}"
            )));
        }
        Ok(Self {
            size,
            fat_at,
            heap_at,
            cluster_size,
            clusters,
            root_cluster,
            serial: read_u32le(sector, 0x64),
            flags: read_u16le(sector, 0x6A),
        })
    }

    /// Where a data cluster starts; `number` counts from 2.
    pub(super) fn cluster_at(&self, number: u64) -> u64 {
        number
            .saturating_sub(2)
            .saturating_mul(self.cluster_size)
            .saturating_add(self.heap_at)
    }

    /// Refuses a filesystem whose bitmap may lag behind its content.
    pub(super) fn refuse_unless_clean(&self) -> Result<(), Refusal> {
        if self.flags & VOLUME_DIRTY != 0 {
            return Err(Refusal::Dirty(
                "it was not unmounted (boot the server once and power it off properly, or let \
                 chkdsk or fsck.exfat repair it, for a smaller copy)"
                    .into(),
            ));
        }
        if self.flags & MEDIA_FAILURE != 0 {
            return Err(Refusal::Dirty(
                "it has recorded read or write errors (let chkdsk or fsck.exfat check it for a \
                 smaller copy)"
                    .into(),
            ));
        }
        Ok(())
    }
}

/// `BootChecksum` of the specification (figure 1).
fn checksum(sectors: &[u8]) -> u32 {
    sectors
        .iter()
        .enumerate()
        .filter(|(at, _)| !UNCHECKED.contains(at))
        .fold(0_u32, |sum, (_, &byte)| {
            sum.rotate_right(1).wrapping_add(u32::from(byte))
        })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::arithmetic_side_effects)]

    use super::*;

    fn sector() -> [u8; 512] {
        let mut bytes = [0; 512];
        for (at, value) in [
            (0x48, 100_000_u32),
            (0x50, 128),
            (0x54, 128),
            (0x58, 256),
            (0x5C, 12_000),
            (0x60, 5),
        ] {
            bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        }
        bytes[0x69] = 1;
        bytes[0x6C] = 9;
        bytes[0x6D] = 3;
        bytes[0x6E] = 1;
        bytes
    }

    #[test]
    fn sizes_that_fit_are_read() {
        let boot = Boot::parse(&sector(), 100_000 * 512).unwrap();
        assert_eq!(boot.cluster_size, 4096);
        assert_eq!(boot.cluster_at(5), 256 * 512 + 3 * 4096);
    }

    #[test]
    fn sizes_that_cannot_be_are_refused() {
        assert!(Boot::parse(&sector(), 99_999 * 512).is_err());
        // Revision, table before the boot regions, heap inside the table, more clusters than room,
        // than entries, root outside, sectors of 256 bytes, clusters of 64 MiB, two tables.
        for (at, byte) in [
            (0x69, 2),
            (0x50, 23),
            (0x59, 0),
            (0x5D, 0x40),
            (0x54, 64),
            (0x60, 1),
            (0x6C, 8),
            (0x6D, 17),
            (0x6E, 2),
        ] {
            let mut bytes = sector();
            bytes[at] = byte;
            assert!(Boot::parse(&bytes, 100_000 * 512).is_err(), "byte {at:#x}");
        }
    }

    #[test]
    fn the_checksum_leaves_the_state_out() {
        let mut bytes = sector();
        let sum = checksum(&bytes);
        for at in UNCHECKED {
            bytes[at] ^= 0xFF;
        }
        assert_eq!(checksum(&bytes), sum);
        bytes[0x6F] ^= 1;
        assert_ne!(checksum(&bytes), sum);
    }
}
