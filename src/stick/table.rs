//! The two copies of a GUID partition table: reading either, and writing both in an order in which
//! at every moment one of them is whole.
//!
//! Spec: UEFI 2.10, 5.3. The crate `gpt` parses and composes headers and entries. Two things are
//! ours: it asserts that an entry has 128 bytes and allocates whatever a header claims, so a header
//! is looked at first; and its own `write` overwrites the primary entries before the backup header,
//! so that a power cut in between leaves two damaged copies when the disk has grown.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use crate::device::DiskIdentity;
use crate::error::{Error, Kind, Result};
use crate::units::{Lba, SectorSize};
use gpt::disk::LogicalBlockSize;
use gpt::header::{Header, HeaderBuilder};
use gpt::partition::Partition;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io::{self, Read, Seek, SeekFrom, Write};
use uuid::Uuid;

/// Every known tool makes 128 entries; more than this many is nobody's stick.
const MOST_ENTRIES: u32 = 1024;
const ENTRY_BYTES: u32 = 128;

/// Something that the table can be written to and that can be told to make it last.
pub(super) trait Medium: Read + Write + Seek + Debug {
    /// Returns once everything written so far survives a power cut.
    fn sync(&mut self) -> io::Result<()>;
}

impl Medium for std::fs::File {
    fn sync(&mut self) -> io::Result<()> {
        self.sync_all()
    }
}

/// What must be known of a disk to find its table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Geometry {
    block: LogicalBlockSize,
    /// The last sector of the disk: where the backup header belongs.
    pub(super) last: Lba,
}

impl Geometry {
    /// Fails for sectors other than 512 and 4096 bytes, and for a disk of less than three sectors.
    pub(super) fn new(sector: SectorSize, size_bytes: u64) -> Result<Self> {
        let block = LogicalBlockSize::try_from(sector.bytes()).map_err(|e| {
            Error::new(Kind::Unsupported, format!("sectors of {sector} bytes: {e}"))
        })?;
        let last = size_bytes
            .checked_div(sector.bytes())
            .and_then(|sectors| sectors.checked_sub(1))
            .filter(|last| *last >= 2)
            .ok_or_else(|| Error::corrupt(format!("a disk of {size_bytes} bytes")))?;
        Ok(Self {
            block,
            last: Lba(last),
        })
    }

    /// That of a disk of this identity.
    pub(super) fn of(disk: &DiskIdentity) -> Result<Self> {
        Self::new(disk.logical_sector_bytes, disk.size_bytes)
    }

    /// Bytes of a logical sector.
    pub(super) fn sector_bytes(self) -> u64 {
        self.block.as_u64()
    }

    fn byte(self, lba: u64) -> Option<u64> {
        lba.checked_mul(self.sector_bytes())
    }
}

/// One whole copy of a table: checksums right, read from the place that it claims.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Table {
    /// The disk's GUID.
    pub(super) disk_guid: Uuid,
    /// The used entries by number, counted from 1.
    pub(super) partitions: BTreeMap<u32, Partition>,
    /// First sector that partitions may use.
    pub(super) first_usable: Lba,
    /// Last sector that partitions may use, as this copy says: it may be of a smaller disk.
    pub(super) last_usable: Lba,
    entries: u32,
    /// Where this copy says that the other one is.
    pub(super) other_header: Lba,
}

impl Table {
    /// The number and entry with this unique partition GUID.
    pub(super) fn by_guid(&self, guid: Uuid) -> Option<(u32, &Partition)> {
        self.partitions
            .iter()
            .find(|(_, partition)| partition.part_guid == guid)
            .map(|(number, partition)| (*number, partition))
    }

    /// The same but for where headers lie.
    pub(super) fn says_the_same(&self, other: &Self) -> bool {
        self.disk_guid == other.disk_guid && self.partitions == other.partitions
    }
}

/// Both copies as found; the text says what is wrong with one that is not whole.
#[derive(Debug, Clone)]
pub(super) struct Copies {
    /// At LBA 1.
    pub(super) primary: Result<Table, String>,
    /// In the last sector.
    pub(super) backup: Result<Table, String>,
}

impl Copies {
    /// Reads both. Never fails: a disk without a table has two copies that are not whole.
    pub(super) fn read(device: &mut (impl Read + Seek), geometry: Geometry) -> Self {
        Self {
            primary: read_copy(device, geometry, Lba(1)),
            backup: read_copy(device, geometry, geometry.last),
        }
    }

    /// The copy that counts: the primary, else the backup (UEFI 2.10, 5.3.2).
    pub(super) fn table(&self) -> Option<&Table> {
        self.primary.as_ref().or(self.backup.as_ref()).ok()
    }

    /// Both are whole, agree, and name each other's place.
    pub(super) fn are_sound(&self, geometry: Geometry) -> bool {
        match (&self.primary, &self.backup) {
            (Ok(primary), Ok(backup)) => {
                primary.says_the_same(backup)
                    && primary.other_header == geometry.last
                    && backup.other_header == Lba(1)
            }
            _ => false,
        }
    }
}

/// Reads the copy whose header is at `lba`. What the crate takes on trust is checked here first;
/// offsets from UEFI 2.10, table 5.5.
fn read_copy(
    device: &mut (impl Read + Seek),
    geometry: Geometry,
    lba: Lba,
) -> Result<Table, String> {
    let sector = geometry.block.as_usize();
    let at = geometry.byte(lba.0).ok_or("beyond 64 bits")?;
    let mut bytes = vec![0_u8; sector];
    device
        .seek(SeekFrom::Start(at))
        .and_then(|_| device.read_exact(&mut bytes))
        .map_err(|e| format!("cannot be read: {e}"))?;
    if bytes.get(..8) != Some(b"EFI PART") {
        return Err("is missing".into());
    }
    let header_size = u32le(&bytes, 0x0C);
    let number_of_entries = u32le(&bytes, 0x50);
    let size_of_entry = u32le(&bytes, 0x54);
    if header_size != Some(92)
        || size_of_entry != Some(ENTRY_BYTES)
        || !number_of_entries.is_some_and(|n| (1..=MOST_ENTRIES).contains(&n))
    {
        return Err(format!(
            "is unusual: header of {header_size:?} bytes, {number_of_entries:?} entries of \
             {size_of_entry:?} bytes"
        ));
    }
    // The crate reads a header at LBA 1 only: it gets this one there.
    let mut placed = vec![0_u8; sector];
    placed.extend_from_slice(&bytes);
    let header = gpt::header::read_header_from_arbitrary_device(
        &mut io::Cursor::new(placed),
        geometry.block,
    )
    .map_err(|e| format!("is damaged: {e}"))?;
    if header.current_lba != lba.0 {
        return Err(format!("belongs to sector {}", header.current_lba));
    }
    let partitions = gpt::partition::file_read_partitions(device, &header, geometry.block)
        .map_err(|e| format!("has damaged entries: {e}"))?;
    validated(&header, partitions)
}

fn validated(header: &Header, partitions: BTreeMap<u32, Partition>) -> Result<Table, String> {
    let partitions: BTreeMap<_, _> = partitions
        .into_iter()
        .filter(|(_, partition)| partition.is_used())
        .collect();
    for (number, partition) in &partitions {
        if partition.first_lba > partition.last_lba
            || partition.first_lba < header.first_usable
            || partition.last_lba > header.last_usable
        {
            return Err(format!(
                "has entry {number} at sectors {} to {}, but partitions may use {} to {}",
                partition.first_lba, partition.last_lba, header.first_usable, header.last_usable
            ));
        }
    }
    Ok(Table {
        disk_guid: header.disk_guid,
        partitions,
        first_usable: Lba(header.first_usable),
        last_usable: Lba(header.last_usable),
        entries: header.num_parts,
        other_header: Lba(header.backup_lba),
    })
}

fn u32le(bytes: &[u8], offset: usize) -> Option<u32> {
    let field = bytes.get(offset..)?.first_chunk::<4>()?;
    Some(u32::from_le_bytes(*field))
}

/// The last sector that partitions may use when `table` is written to the whole of this disk.
pub(super) fn last_usable(table: &Table, geometry: Geometry) -> Result<Lba> {
    Ok(Lba(header(table, geometry, true)?.last_usable))
}

fn header(table: &Table, geometry: Geometry, primary: bool) -> Result<Header> {
    HeaderBuilder::new()
        .primary(primary)
        .disk_guid(table.disk_guid)
        .num_parts(table.entries)
        .part_size(ENTRY_BYTES)
        .first_usable(table.first_usable.0)
        .backup_lba(geometry.last.0)
        .build(geometry.block)
        .map_err(|e| Error::new(Kind::Unsupported, "composing a GPT header").because(e))
}

/// Writes both copies, the backup at the disk's true end.
///
/// Backup first and made to last, then the primary: before that moment the old primary is whole,
/// after it the new backup is. Entries before the header that holds their checksum. Nothing else of
/// the disk is touched but the size in the protective MBR.
pub(super) fn write(device: &mut impl Medium, table: &Table, geometry: Geometry) -> Result<()> {
    let mut backup = header(table, geometry, false)?;
    let mut primary = header(table, geometry, true)?;

    write_entries(device, table, geometry, backup.part_start)?;
    backup
        .write_backup(device, geometry.block)
        .map_err(|e| Error::new(Kind::Io, "writing the backup GPT header").because(e))?;
    device.sync().map_err(failed("writing the backup GPT"))?;

    write_entries(device, table, geometry, primary.part_start)?;
    primary
        .write_primary(device, geometry.block)
        .map_err(|e| Error::new(Kind::Io, "writing the primary GPT header").because(e))?;
    device.sync().map_err(failed("writing the primary GPT"))?;

    grow_protective_mbr(device, geometry).map_err(failed("writing the protective MBR"))?;
    device.sync().map_err(failed("writing the protective MBR"))
}

fn failed(doing: &'static str) -> impl Fn(io::Error) -> Error {
    move |error| Error::io(doing, error)
}

/// The whole array in one write.
fn write_entries(
    device: &mut impl Medium,
    table: &Table,
    geometry: Geometry,
    start: u64,
) -> Result<()> {
    let writing = failed("writing the GPT entries");
    let array = u64::from(table.entries).saturating_mul(u64::from(ENTRY_BYTES));
    let sectors = array.div_ceil(geometry.sector_bytes());
    let bytes = usize::try_from(sectors.saturating_mul(geometry.sector_bytes()));
    let mut entries = io::Cursor::new(vec![0_u8; bytes.unwrap_or(0)]);
    for (number, partition) in &table.partitions {
        let slot = u64::from(number.saturating_sub(1));
        partition
            .write_to_device(&mut entries, slot, 0, geometry.block, ENTRY_BYTES)
            .map_err(&writing)?;
    }
    let at = geometry
        .byte(start)
        .ok_or_else(|| Error::corrupt(format!("GPT entries at sector {start}")))?;
    device
        .seek(SeekFrom::Start(at))
        .and_then(|_| device.write_all(entries.get_ref()))
        .map_err(&writing)
}

/// The protective entry covers the disk (UEFI 2.10, 5.2.3). Everything else in the sector, boot
/// code above all, stays as it is.
fn grow_protective_mbr(device: &mut impl Medium, geometry: Geometry) -> io::Result<()> {
    const OS_TYPE: usize = 446 + 4;
    const SIZE_IN_LBA: usize = 446 + 12;
    let mut sector = vec![0_u8; geometry.block.as_usize()];
    device.seek(SeekFrom::Start(0))?;
    device.read_exact(&mut sector)?;
    let size = u32::try_from(geometry.last.0).unwrap_or(u32::MAX);
    if sector.get(OS_TYPE) != Some(&0xEE) || sector.get(510..512) != Some(&[0x55, 0xAA]) {
        return Ok(());
    }
    if let Some(field) = sector
        .get_mut(SIZE_IN_LBA..)
        .and_then(|rest| rest.first_chunk_mut::<4>())
    {
        *field = size.to_le_bytes();
    }
    device.seek(SeekFrom::Start(0))?;
    device.write_all(&sector)
}

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects)]
mod tests {
    use super::super::testing::{MIB, PowerCut, StickImage};
    use super::*;
    use proptest::prelude::*;

    fn copies(image: &StickImage) -> Copies {
        Copies::read(&mut image.open(), image.geometry())
    }

    #[test]
    fn a_backup_that_is_not_at_the_end_is_not_found_and_not_sound() {
        let image = StickImage::new(512 * MIB);
        let copies = copies(&image);
        let primary = copies.primary.as_ref().unwrap();
        assert_eq!(primary.other_header, Lba(98 * MIB / 512 - 1));
        assert_eq!(copies.backup.as_ref().unwrap_err(), "is missing");
        assert!(!copies.are_sound(image.geometry()));
    }

    #[test]
    fn a_table_written_to_the_larger_disk_is_clean_for_sgdisk() {
        let image = StickImage::new(512 * MIB);
        let before = copies(&image).primary.unwrap();
        write(&mut image.open(), &before, image.geometry()).unwrap();
        image.verify();
        let after = copies(&image);
        assert!(after.are_sound(image.geometry()));
        assert!(after.primary.unwrap().says_the_same(&before));
    }

    #[test]
    fn the_boot_code_and_the_second_mbr_entry_stay() {
        let image = StickImage::new(512 * MIB);
        image.patch(0, &[0xEB; 440]);
        image.patch(462, &[0x80]);
        let table = copies(&image).primary.unwrap();
        write(&mut image.open(), &table, image.geometry()).unwrap();
        let sector = image.bytes(0, 512);
        assert_eq!(sector[..440], [0xEB; 440]);
        assert_eq!(sector[462], 0x80);
        assert_eq!(sector[458..462], u32::to_le_bytes(512 * 2048 - 1));
    }

    #[test]
    fn damaged_primary_entries_leave_the_backup_to_count() {
        let image = StickImage::new(98 * MIB);
        let whole = copies(&image);
        assert!(whole.are_sound(image.geometry()));
        image.patch(1024 + 16, &[0xFF; 16]);
        let copies = copies(&image);
        assert!(
            copies
                .primary
                .as_ref()
                .unwrap_err()
                .contains("damaged entries")
        );
        assert_eq!(copies.table(), Some(whole.backup.as_ref().unwrap()));
        assert!(!copies.are_sound(image.geometry()));
    }

    #[test]
    fn disks_of_4096_byte_sectors_have_their_table_elsewhere() {
        let image = StickImage::new(98 * MIB);
        let mut table = copies(&image).primary.unwrap();
        table.partitions.retain(|number, _| *number == 1);
        table.partitions.get_mut(&1).unwrap().last_lba = 4095;
        let geometry = Geometry::new(SectorSize::B4096, 98 * MIB).unwrap();
        image.patch(512, &[0; 33 * 512]);
        write(&mut image.open(), &table, geometry).unwrap();
        let found = Copies::read(&mut image.open(), geometry);
        assert!(found.are_sound(geometry), "{found:?}");
        assert!(found.table().unwrap().says_the_same(&table));
        assert!(copies(&image).primary.is_err());
        assert_eq!(image.bytes(4096, 8), b"EFI PART");
    }

    #[test]
    fn a_disk_too_small_for_a_table_or_with_odd_sectors_is_refused() {
        assert!(Geometry::new(SectorSize::B512, 1024).is_err());
        assert!(Geometry::new(SectorSize::new(2048).unwrap(), MIB).is_err());
    }

    /// Header fields from a stranger, with the checksum made right.
    fn hostile(image: &StickImage, fields: &[(usize, &[u8])]) -> Copies {
        let mut header = image.bytes(512, 92);
        for (at, field) in fields {
            header[*at..at + field.len()].copy_from_slice(field);
        }
        header[0x10..0x14].fill(0);
        let crc = crc32fast::hash(&header).to_le_bytes();
        header[0x10..0x14].copy_from_slice(&crc);
        image.patch(512, &header);
        copies(image)
    }

    #[test]
    fn entries_of_another_size_or_in_absurd_number_are_refused_before_the_crate_sees_them() {
        let image = StickImage::new(98 * MIB);
        for fields in [
            &[(0x54, &64_u32.to_le_bytes()[..])][..],
            &[(0x54, &0_u32.to_le_bytes())],
            &[(0x50, &u32::MAX.to_le_bytes())],
            &[(0x50, &0_u32.to_le_bytes())],
            &[(0x0C, &512_u32.to_le_bytes())],
        ] {
            let why = hostile(&image, fields).primary.unwrap_err();
            assert!(why.starts_with("is unusual"), "{fields:?}: {why}");
        }
    }

    #[test]
    fn a_header_copied_from_elsewhere_is_not_this_disks() {
        let image = StickImage::new(98 * MIB);
        let copies = hostile(&image, &[(0x18, &7_u64.to_le_bytes())]);
        assert_eq!(copies.primary.unwrap_err(), "belongs to sector 7");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn no_header_with_a_right_checksum_can_crash_us(
            fields in proptest::collection::vec(any::<u8>(), 92 - 0x18),
            keep_entries in any::<bool>(),
        ) {
            let image = StickImage::new(98 * MIB);
            let mut fields = fields;
            if keep_entries {
                fields[0x50 - 0x18..0x58 - 0x18]
                    .copy_from_slice(&[128, 0, 0, 0, 128, 0, 0, 0]);
                fields[..8].copy_from_slice(&1_u64.to_le_bytes());
            }
            prop_assert!(hostile(&image, &[(0x18, &fields)]).primary.is_err());
        }
    }

    #[test]
    fn at_every_sector_where_the_power_is_cut_one_copy_is_whole() {
        let image = StickImage::new(128 * MIB);
        let geometry = image.geometry();
        let old = copies(&image).primary.unwrap();
        let mut new = old.clone();
        new.disk_guid = Uuid::from_u128(7);
        for partition in new.partitions.values_mut() {
            partition.part_guid = Uuid::from_u128(9);
        }
        let base = image.contents();
        let mut whole = PowerCut::never(&base);
        write(&mut whole, &new, geometry).unwrap();
        let sectors = whole.sectors_written();
        assert!(sectors > 60, "{sectors}");

        for cut in 0..sectors {
            for keep in PowerCut::LOSSES {
                let mut disk = PowerCut::after(&base, cut, keep);
                write(&mut disk, &new, geometry).unwrap_err();
                let mut disk = disk.restored();
                let found = Copies::read(&mut disk, geometry);
                let table = found.table().unwrap_or_else(|| panic!("{cut} {keep:?}"));
                assert!(
                    table.says_the_same(&old) || table.says_the_same(&new),
                    "{cut} {keep:?}"
                );
                let table = table.clone();
                write(&mut disk, &table, geometry).unwrap();
                assert!(Copies::read(&mut disk, geometry).are_sound(geometry));
            }
        }
    }
}
