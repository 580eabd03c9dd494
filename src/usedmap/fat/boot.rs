//! The boot sector of FAT12, FAT16 and FAT32 (Microsoft, "FAT: General Overview of On-Disk Format",
//! 1.03): sizes, and which of the three it is.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use crate::bytes::{read_array, read_u8, read_u16le, read_u32le};
use crate::device::ReadAt;
use crate::units::ByteOffset;
use crate::usedmap::finding::Refusal;

/// Which of the three it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Fat12,
    Fat16,
    Fat32,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Fat12 => "fat12",
            Self::Fat16 => "fat16",
            Self::Fat32 => "fat32",
        }
    }

    /// Bits of an entry in the file allocation table.
    pub(crate) fn entry_bits(self) -> u64 {
        match self {
            Self::Fat12 => 12,
            Self::Fat16 => 16,
            Self::Fat32 => 32,
        }
    }

    /// The most clusters that its entries can tell apart.
    fn max_clusters(self) -> u64 {
        match self {
            Self::Fat12 => 4084,
            Self::Fat16 => 65_524,
            Self::Fat32 => 0x0FFF_FFF5,
        }
    }
}

/// Sizes that fit together and fit the volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Boot {
    pub kind: Kind,
    /// Bytes a sector: 512 to 4096.
    pub sector_size: u64,
    /// Bytes a cluster.
    pub cluster_size: u64,
    /// Bytes of the filesystem; all of them inside the partition.
    pub size: u64,
    /// Where the first file allocation table starts, in bytes.
    pub fat_at: u64,
    /// Bytes of a file allocation table.
    pub fat_size: u64,
    /// How many copies of it there are.
    pub fats: u64,
    /// Where cluster 2 starts, in bytes; what lies before is metadata.
    pub data_at: u64,
    /// Data clusters. The first has the number 2.
    pub clusters: u64,
    /// FAT12 and FAT16: bytes of the root directory, which ends at `data_at`.
    pub root_size: u64,
    /// FAT32: the first cluster of the root directory.
    pub root_cluster: u64,
    /// FAT32: changes are written to all copies of the table.
    pub mirrored: bool,
    /// The copy of the table that is in use: 0, unless FAT32 is told otherwise.
    pub active_fat: u64,
    /// `BPB_Media`, which the table repeats.
    pub media: u8,
    /// What Linux and Windows keep the state in (`BS_Reserved1`).
    pub state: u8,
    /// `BS_VolID`, if there is one.
    pub serial: Option<u32>,
    /// `BS_VolLab`, if there is one, padded with spaces.
    pub label: Option<[u8; 11]>,
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
        let reserved_sectors = u64::from(read_u16le(bytes, 0x0E));
        let fats = u64::from(read_u8(bytes, 0x10));
        let root_entries = u64::from(read_u16le(bytes, 0x11));
        let total_sectors_16 = read_u16le(bytes, 0x13);
        let fat_sectors_16 = read_u16le(bytes, 0x16);
        let total_sectors_32 = read_u32le(bytes, 0x20);
        let fat_sectors_32 = read_u32le(bytes, 0x24);
        let ext_flags = read_u16le(bytes, 0x28);
        let version = read_u16le(bytes, 0x2A);

        let odd = |what: String| Refusal::Damaged(format!("the boot sector claims {what}"));
        if !bytes_per_sector.is_power_of_two()
            || !(512..=4096).contains(&bytes_per_sector)
            || !sectors_per_cluster.is_power_of_two()
            || reserved_sectors == 0
            || !(1..=2).contains(&fats)
        {
            return Err(odd(format!(
                "sectors of {bytes_per_sector} bytes, clusters of {sectors_per_cluster} sectors, \
                 {fats} tables"
            )));
        }
        // Only FAT32 has no table size in the old place, however few clusters it has: mkfs.fat -F 32
        // makes it below the limit of the specification too.
        let wide = fat_sectors_16 == 0;
        let fat_sectors = if wide {
            u64::from(fat_sectors_32)
        } else {
            u64::from(fat_sectors_16)
        };
        let total_sectors = match total_sectors_16 {
            0 => u64::from(total_sectors_32),
            count => u64::from(count),
        };
        let sector_size = u64::from(bytes_per_sector);
        let cluster_size = sector_size.saturating_mul(u64::from(sectors_per_cluster));
        // None of these can come near 64 bits.
        let size = total_sectors.saturating_mul(sector_size);
        let fat_at = reserved_sectors.saturating_mul(sector_size);
        let fat_size = fat_sectors.saturating_mul(sector_size);
        let root_size = root_entries
            .saturating_mul(32)
            .next_multiple_of(sector_size);
        let data_at = fat_at
            .saturating_add(fat_size.saturating_mul(fats))
            .saturating_add(root_size);
        if size > volume_size {
            return Err(odd(format!(
                "{total_sectors} sectors of {sector_size} bytes, but its partition has \
                 {volume_size} bytes"
            )));
        }
        let clusters = size
            .checked_sub(data_at)
            .and_then(|bytes| bytes.checked_div(cluster_size))
            .filter(|&count| count > 0)
            .ok_or_else(|| odd("that there is no room for data".into()))?;
        let kind = match (wide, clusters) {
            (true, _) => Kind::Fat32,
            (false, ..=4084) => Kind::Fat12,
            (false, _) => Kind::Fat16,
        };
        if wide && version != 0 {
            return Err(Refusal::Unsupported(format!("FAT32 of version {version}")));
        }
        let entries = fat_size
            .saturating_mul(8)
            .checked_div(kind.entry_bits())
            .unwrap_or(0);
        if clusters > kind.max_clusters()
            || entries < clusters.saturating_add(2)
            || wide != (root_entries == 0)
        {
            return Err(odd(format!(
                "{clusters} clusters, {entries} entries in a table, {root_entries} in the root"
            )));
        }
        let mirrored = !wide || ext_flags & 0x80 == 0;
        let active_fat = if mirrored {
            0
        } else {
            u64::from(ext_flags & 0x0F)
        };
        if active_fat >= fats {
            return Err(odd(format!("that table {active_fat} of {fats} is in use")));
        }
        // The rest follows the fields of FAT32 or stands in their place.
        let extended = if wide { 0x40 } else { 0x24 };
        let signature = read_u8(bytes, extended | 0x02);
        let at = |offset: usize| extended.saturating_add(offset);
        let has_serial = matches!(signature, 0x28 | 0x29);
        Ok(Self {
            kind,
            sector_size,
            cluster_size,
            size,
            fat_at,
            fat_size,
            fats,
            data_at,
            clusters,
            root_size,
            root_cluster: u64::from(read_u32le(bytes, 0x2C)),
            mirrored,
            active_fat,
            media: read_u8(bytes, 0x15),
            state: read_u8(bytes, at(1)),
            serial: has_serial.then(|| read_u32le(bytes, at(3))),
            label: (signature == 0x29).then(|| read_array(bytes, at(7))),
        })
    }

    /// Where a data cluster starts; `number` counts from 2.
    pub(crate) fn cluster_at(&self, number: u64) -> u64 {
        number
            .saturating_sub(2)
            .saturating_mul(self.cluster_size)
            .saturating_add(self.data_at)
    }

    /// Whether it is the number of a data cluster.
    pub(crate) fn has_cluster(&self, number: u64) -> bool {
        (2..self.clusters.saturating_add(2)).contains(&number)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::arithmetic_side_effects)]

    use super::*;

    fn sector(total: u32, fat16: u16, fat32: u32, root: u16) -> [u8; 512] {
        let mut bytes = [0; 512];
        bytes[0x0B..0x0D].copy_from_slice(&512_u16.to_le_bytes());
        bytes[0x0D] = 1;
        bytes[0x0E] = 1;
        bytes[0x10] = 2;
        bytes[0x11..0x13].copy_from_slice(&root.to_le_bytes());
        bytes[0x16..0x18].copy_from_slice(&fat16.to_le_bytes());
        bytes[0x20..0x24].copy_from_slice(&total.to_le_bytes());
        bytes[0x24..0x28].copy_from_slice(&fat32.to_le_bytes());
        bytes
    }

    #[test]
    fn the_number_of_clusters_decides_between_12_and_16_bits() {
        let kind = |clusters: u32| {
            let total = 1 + 2 * 20 + 1 + clusters;
            Boot::parse(&sector(total, 20, 0, 16), 1 << 40)
                .unwrap()
                .kind
        };
        assert_eq!(kind(4084), Kind::Fat12);
        assert_eq!(kind(4085), Kind::Fat16);
    }

    #[test]
    fn without_a_table_size_in_the_old_place_it_is_fat32_however_small() {
        let boot = Boot::parse(&sector(10_000, 0, 100, 0), 1 << 40).unwrap();
        assert_eq!(boot.kind, Kind::Fat32);
        assert_eq!(boot.clusters, 10_000 - 201);
    }

    #[test]
    fn sizes_that_cannot_be_are_refused() {
        for (total, fat16, fat32, root, size) in [
            // Larger than its partition, no data, a table that is too short, a root in two places.
            (10_000, 0, 100, 0, 5_000_000),
            (201, 0, 100, 0, 1 << 40),
            (10_000, 0, 70, 0, 1 << 40),
            (10_000, 0, 100, 16, 1 << 40),
            (10_000, 50, 0, 0, 1 << 40),
            (70_000, 300, 0, 16, 1 << 40),
        ] {
            let parsed = Boot::parse(&sector(total, fat16, fat32, root), size);
            assert!(parsed.is_err(), "{total} {fat16} {fat32} {root} {size}");
        }
    }
}
