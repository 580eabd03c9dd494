//! A GPT on a larger disk. In: a disk and the size that its copy will have. Out: the few sectors that
//! differ there, so that the backup stands at the new end (UEFI 2.10, 5.3.2). Entries stay as they are,
//! byte for byte, and so do the partitions.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use super::gpt_header::{self, Found, GptHeader};
use super::{Flaw, read_sectors};
use crate::bytes::{has_magic, read_u32le};
use crate::checksum;
use crate::device::ReadAt;
use crate::units::{ByteLen, ByteOffset, Lba, SectorSize};
use std::collections::BTreeMap;

/// What a copy of a disk has where the disk has something else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Larger {
    /// Size of the copy.
    pub size: ByteLen,
    /// Whole sectors, by where they begin; disjoint.
    pub sectors: BTreeMap<ByteOffset, Vec<u8>>,
}

/// `HeaderCRC32`
const HEADER_CRC: usize = 0x10;
/// `MyLBA`
const MY_LBA: usize = 0x18;
/// `AlternateLBA`
const ALTERNATE_LBA: usize = 0x20;
/// `LastUsableLBA`
const LAST_USABLE_LBA: usize = 0x30;
/// `PartitionEntryLBA`
const ENTRY_LBA: usize = 0x48;
/// `OSType` in a partition record of the MBR.
const OS_TYPE: usize = 4;
/// `SizeInLBA` in a partition record of the MBR.
const SIZE_IN_LBA: usize = 12;

/// What must differ on a copy of `size` bytes.
///
/// # Errors
/// In words, why the table is better left alone: there is none, or one of its copies is damaged.
pub fn larger(disk: &dyn ReadAt, sector: SectorSize, size: ByteLen) -> Result<Larger, Flaw> {
    let last_of = |size: ByteLen| {
        let sectors = size.0.checked_div(sector.bytes())?;
        let whole = size.0.checked_rem(sector.bytes()) == Some(0);
        whole.then(|| sectors.checked_sub(1)).flatten()
    };
    let old_last = last_of(disk.size()).ok_or("the disk is no whole number of sectors")?;
    let last = last_of(size).ok_or("the new size is no whole number of sectors")?;
    if last <= old_last {
        return Err("the copy is not larger".into());
    }
    let len = usize::try_from(sector.bytes()).map_err(|e| e.to_string())?;
    let mbr = read_sectors(disk, sector, Lba(0), len)?;
    let (primary, entries) = copy(disk, sector, Lba(1))?;
    let (backup, other) = copy(disk, sector, primary.alternate_lba)?;
    if entries != other {
        return Err("the two copies of the GPT differ".into());
    }
    let array = u64::try_from(entries.len()).map_err(|e| e.to_string())?;
    let array = array.div_ceil(sector.bytes());
    let entries_at = last.checked_sub(array).ok_or("the entries have no room")?;
    let last_usable = entries_at
        .checked_sub(1)
        .ok_or("the entries have no room")?;
    if entries_at <= primary.entries_lba.0.saturating_add(array) {
        return Err("the entries have no room".into());
    }

    let mut sectors: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
    // The old backup becomes free space, where no one shall find a second table.
    sectors.insert(backup.my_lba.0, vec![0; len]);
    sectors.insert(0, protective(mbr, last)?);
    let mut header = read_sectors(disk, sector, Lba(1), len)?;
    put(&mut header, ALTERNATE_LBA, last)?;
    put(&mut header, LAST_USABLE_LBA, last_usable)?;
    sign(&mut header)?;
    sectors.insert(1, header.clone());
    put(&mut header, MY_LBA, last)?;
    put(&mut header, ALTERNATE_LBA, 1)?;
    put(&mut header, ENTRY_LBA, entries_at)?;
    sign(&mut header)?;
    sectors.insert(last, header);
    for (at, piece) in (entries_at..).zip(entries.chunks(len)) {
        let mut piece = piece.to_vec();
        piece.resize(len, 0);
        sectors.insert(at, piece);
    }
    let sectors = sectors
        .into_iter()
        .map(|(lba, bytes)| Some((Lba(lba).to_bytes(sector)?, bytes)))
        .collect::<Option<_>>()
        .ok_or("the disk is too large")?;
    Ok(Larger { size, sectors })
}

/// A header at `lba` and its entries, both with the right checksum.
fn copy(disk: &dyn ReadAt, sector: SectorSize, lba: Lba) -> Result<(GptHeader, Vec<u8>), Flaw> {
    let header = match gpt_header::read(disk, sector, lba) {
        Found::Header(header) => header,
        Found::Nothing => return Err(format!("there is no GPT header at sector {lba}")),
        Found::Damaged(flaw, _) => return Err(format!("of the GPT at sector {lba}, {flaw}")),
    };
    let entries = read_sectors(disk, sector, header.entries_lba, header.array_bytes)?;
    if !checksum::matches(crc32fast::hash(&entries), header.entries_crc) {
        return Err(format!(
            "the entries of the GPT at sector {lba} are damaged"
        ));
    }
    Ok((header, entries))
}

/// The protective MBR of a disk whose last sector is `last` (UEFI 2.10, 5.2.3).
fn protective(mut mbr: Vec<u8>, last: u64) -> Result<Vec<u8>, Flaw> {
    if !has_magic(&mbr, 0x1FE, &[0x55, 0xAA]) {
        return Err("there is no protective MBR".into());
    }
    let record = (0x1BE_usize..0x1FE)
        .step_by(16)
        .find(|at| mbr.get(at.saturating_add(OS_TYPE)) == Some(&0xEE))
        .ok_or("there is no protective MBR")?;
    // In a hybrid MBR it covers the beginning only, and stays as it is.
    let others = (0x1BE_usize..0x1FE)
        .step_by(16)
        .filter(|at| read_u32le(&mbr, at.saturating_add(SIZE_IN_LBA)) != 0)
        .count();
    if others <= 1 {
        let field = record.saturating_add(SIZE_IN_LBA);
        let sectors = u32::try_from(last).unwrap_or(u32::MAX).to_le_bytes();
        mbr.get_mut(field..field.saturating_add(4))
            .ok_or("a short sector")?
            .copy_from_slice(&sectors);
    }
    Ok(mbr)
}

fn put(header: &mut [u8], at: usize, value: u64) -> Result<(), Flaw> {
    header
        .get_mut(at..at.saturating_add(8))
        .ok_or("a short sector")?
        .copy_from_slice(&value.to_le_bytes());
    Ok(())
}

/// Writes the checksum of a header, which is taken with its own field as 0.
fn sign(header: &mut [u8]) -> Result<(), Flaw> {
    let size = usize::try_from(read_u32le(header, 0x0C)).map_err(|e| e.to_string())?;
    let crc = |header: &mut [u8], value: u32| {
        header
            .get_mut(HEADER_CRC..HEADER_CRC.saturating_add(4))
            .map(|field| field.copy_from_slice(&value.to_le_bytes()))
    };
    crc(header, 0).ok_or("a short sector")?;
    let sum = crc32fast::hash(header.get(..size).ok_or("a short header")?);
    crc(header, sum).ok_or("a short sector")?;
    Ok(())
}
