//! The boot sector (`NTFS_BOOT_SECTOR` in `include/ntfs-3g/layout.h` of ntfs-3g; `struct NTFS_BOOT`
//! in `fs/ntfs3/ntfs.h` of Linux): sizes, and where the master file table starts.
//!
//! The volume's last sector is a copy of it. Windows counts that sector out of the number of
//! sectors, so it lies right behind the volume; NT 3.51 kept the copy in the middle.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use crate::bytes::{has_magic, read_u8, read_u16le, read_u64le};
use crate::device::ReadAt;
use crate::extent::Extent;
use crate::units::ByteOffset;
use crate::usedmap::finding::Refusal;

/// $Boot: the boot sector and the code behind it.
const BOOT_FILE_BYTES: u64 = 8192;

/// Sizes that fit together and fit the volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Boot {
    /// Bytes a sector: 512 to 4096.
    pub sector_size: u64,
    /// Bytes a cluster: a power of two up to 2 MiB.
    pub cluster_size: u64,
    /// Sectors of the volume, without the copy of the boot sector; all inside the partition.
    pub total_sectors: u64,
    /// Whole clusters of the volume.
    pub clusters: u64,
    /// First cluster of the master file table.
    pub mft_lcn: u64,
    /// First cluster of the copy of its first records.
    pub mftmirr_lcn: u64,
    /// Bytes a record of the master file table: a power of two from 512 to 65,536.
    pub record_size: usize,
    /// `volume_serial_number`.
    pub serial: u64,
}

impl Boot {
    /// Reads the boot sector of a volume.
    pub(crate) fn read(volume: &dyn ReadAt) -> Result<Self, Refusal> {
        let mut bytes = [0; 512];
        volume.read_at(ByteOffset(0), &mut bytes)?;
        Self::parse(&bytes, volume.size().0)
    }

    fn parse(bytes: &[u8; 512], volume_size: u64) -> Result<Self, Refusal> {
        let bytes_per_sector = read_u16le(bytes, 0x0B);
        let sectors_per_cluster = read_u8(bytes, 0x0D);
        let number_of_sectors = read_u64le(bytes, 0x28);
        let mft_lcn = read_u64le(bytes, 0x30);
        let mftmirr_lcn = read_u64le(bytes, 0x38);
        let clusters_per_mft_record = read_u8(bytes, 0x40);

        let odd = |what: String| Refusal::Damaged(format!("the boot sector claims {what}"));
        if !bytes_per_sector.is_power_of_two() || !(512..=4096).contains(&bytes_per_sector) {
            return Err(odd(format!("sectors of {bytes_per_sector} bytes")));
        }
        let sector_size = u64::from(bytes_per_sector);
        // Above 0x80 it is the negative power of two (Windows 10, clusters above 64 KiB).
        let per_cluster = match sectors_per_cluster {
            1..=0x80 => Some(u64::from(sectors_per_cluster)),
            0xF4.. => 1_u64.checked_shl(u32::from(sectors_per_cluster.wrapping_neg())),
            _ => None,
        };
        let cluster_size = per_cluster
            .filter(|count| count.is_power_of_two())
            .and_then(|count| count.checked_mul(sector_size))
            .filter(|&size| size <= 2 << 20)
            .ok_or_else(|| odd(format!("clusters of {sectors_per_cluster:#x} sectors")))?;
        // 0xF6 is -10: 2^10 bytes.
        let record_size = if clusters_per_mft_record < 0x80 {
            cluster_size.checked_mul(u64::from(clusters_per_mft_record))
        } else {
            1_u64.checked_shl(u32::from(clusters_per_mft_record.wrapping_neg()))
        };
        let record_size = record_size
            .filter(|size| size.is_power_of_two() && (512..=65_536).contains(size))
            .and_then(|size| usize::try_from(size).ok())
            .ok_or_else(|| {
                odd(format!(
                    "file records of {clusters_per_mft_record:#x} clusters"
                ))
            })?;
        let fits = number_of_sectors
            .checked_mul(sector_size)
            .is_some_and(|size| size <= volume_size);
        if !fits || number_of_sectors == 0 {
            return Err(odd(format!(
                "{number_of_sectors} sectors of {sector_size} bytes, but its partition has \
                 {volume_size} bytes"
            )));
        }
        let clusters = number_of_sectors
            .saturating_mul(sector_size)
            .checked_div(cluster_size)
            .unwrap_or(0);
        for (what, lcn) in [("master file table", mft_lcn), ("copy of it", mftmirr_lcn)] {
            if lcn >= clusters {
                return Err(odd(format!(
                    "its {what} at cluster {lcn}, but there are {clusters}"
                )));
            }
        }
        Ok(Self {
            sector_size,
            cluster_size,
            total_sectors: number_of_sectors,
            clusters,
            mft_lcn,
            mftmirr_lcn,
            record_size,
            serial: read_u64le(bytes, 0x48),
        })
    }

    /// The bytes of clusters, `end` not included.
    pub(crate) fn bytes_of(&self, start: u64, end: u64) -> Option<Extent> {
        Extent::between(
            start.checked_mul(self.cluster_size)?,
            end.checked_mul(self.cluster_size)?,
        )
    }

    /// How far the filesystem goes in a partition of `volume_size` bytes: the sectors of the volume
    /// and the copy of the boot sector behind them, if there is room for it.
    pub(crate) fn covers(&self, volume_size: u64) -> u64 {
        self.total_sectors
            .saturating_add(1)
            .saturating_mul(self.sector_size)
            .min(volume_size)
    }

    /// What is taken whatever $Bitmap says: the boot code, and all from the last whole cluster to
    /// the copy of the boot sector.
    pub(crate) fn fixed_places(&self, volume_size: u64) -> Vec<Extent> {
        let covers = self.covers(volume_size);
        let clusters_end = self.clusters.saturating_mul(self.cluster_size);
        // Where there was room for no sector behind, the copy is the last sector.
        let tail = clusters_end.min(covers.saturating_sub(self.sector_size));
        let head = BOOT_FILE_BYTES.max(self.cluster_size).min(covers);
        [Extent::between(0, head), Extent::between(tail, covers)]
            .into_iter()
            .flatten()
            .collect()
    }

    /// The copy of the boot sector in the middle of the volume, as NT 3.51 kept it: the middle of
    /// the partition and of the volume are asked.
    pub(crate) fn middle_copies(&self, volume: &dyn ReadAt) -> Result<Vec<Extent>, Refusal> {
        let partition_sectors = volume.size().0.checked_div(self.sector_size).unwrap_or(0);
        let mut found = Vec::new();
        for sectors in [partition_sectors, self.total_sectors] {
            let Some(start) = (sectors >> 1).checked_mul(self.sector_size) else {
                continue;
            };
            let mut sector = [0; 512];
            volume.read_at(ByteOffset(start), &mut sector)?;
            if has_magic(&sector, 0x03, b"NTFS    ") {
                found.extend(Extent::between(
                    start,
                    start.saturating_add(self.sector_size),
                ));
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::arithmetic_side_effects)]

    use super::*;

    fn sector(bytes_per_sector: u16, sectors_per_cluster: u8, record: u8) -> [u8; 512] {
        let mut bytes = [0; 512];
        bytes[0x0B..0x0D].copy_from_slice(&bytes_per_sector.to_le_bytes());
        bytes[0x0D] = sectors_per_cluster;
        bytes[0x28..0x30].copy_from_slice(&100_000_u64.to_le_bytes());
        bytes[0x30] = 4;
        bytes[0x38] = 2;
        bytes[0x40] = record;
        bytes
    }

    #[test]
    fn sizes_are_read_in_both_encodings() {
        let parse = |bytes_per_sector, per_cluster, record| {
            Boot::parse(&sector(bytes_per_sector, per_cluster, record), 1 << 40).unwrap()
        };
        assert_eq!(parse(512, 8, 0xF6).cluster_size, 4096);
        assert_eq!(parse(512, 0x80, 0xF6).cluster_size, 65_536);
        // 0xF4 is -12.
        assert_eq!(parse(512, 0xF4, 0xF6).cluster_size, 2 << 20);
        assert_eq!(parse(4096, 0xF7, 0xF4).cluster_size, 2 << 20);
        assert_eq!(parse(512, 8, 0xF6).record_size, 1024);
        assert_eq!(parse(512, 1, 2).record_size, 1024);
        assert_eq!(parse(512, 8, 0xF6).clusters, 12_500);
    }

    #[test]
    fn sizes_that_cannot_be_are_refused() {
        for (bytes_per_sector, per_cluster, record) in [
            (0, 8, 0xF6),
            (520, 8, 0xF6),
            (8192, 8, 0xF6),
            (512, 0, 0xF6),
            (512, 3, 0xF6),
            (512, 0xF3, 0xF6),
            (4096, 0xF4, 0xF6),
            (512, 8, 0),
            (512, 8, 0x80),
            (512, 8, 0xFF),
        ] {
            let parsed = Boot::parse(&sector(bytes_per_sector, per_cluster, record), 1 << 40);
            assert!(parsed.is_err(), "{bytes_per_sector} {per_cluster} {record}");
        }
        assert!(Boot::parse(&sector(512, 8, 0xF6), 1 << 20).is_err());
    }

    #[test]
    fn the_last_sector_is_taken_whether_it_counts_or_not() {
        let boot = Boot::parse(&sector(512, 8, 0xF6), 1 << 40).unwrap();
        let last = |volume_size| boot.fixed_places(volume_size).last().copied().unwrap();
        let end = 100_000 * 512;
        assert_eq!(Some(last(end + 512)), Extent::between(end, end + 512));
        assert_eq!(Some(last(end + 4096)), Extent::between(end, end + 512));
        assert_eq!(Some(last(end)), Extent::between(end - 512, end));
    }
}
