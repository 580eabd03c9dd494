//! The GPT header (UEFI 2.10, table 5.5), one of the two copies.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use super::{Flaw, read_sectors};
use crate::bytes::{has_magic, read_array, read_u32le, read_u64le};
use crate::checksum;
use crate::device::ReadAt;
use crate::units::{Lba, SectorSize};
use uuid::Uuid;

/// `EFI_PTAB_HEADER_ID`.
const SIGNATURE: &[u8] = b"EFI PART";
/// Bytes of the header that the standard defines; a larger `HeaderSize` is allowed.
const HEADER_SIZE: usize = 92;
/// `SizeOfPartitionEntry` of all tables met in practice, and the only one that the kernel takes.
pub(super) const USUAL_ENTRY_SIZE: u32 = 128;
/// The largest entry array that is read: the kernel's limit, 32,768 entries of 128 bytes.
const MAX_ARRAY_BYTES: u64 = 4 << 20;

/// A header whose checksum and fields hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct GptHeader {
    /// `MyLBA`.
    pub my_lba: Lba,
    /// `AlternateLBA`: where the other header is.
    pub alternate_lba: Lba,
    /// `DiskGUID`.
    pub disk_guid: Uuid,
    /// `PartitionEntryLBA`.
    pub entries_lba: Lba,
    /// `SizeOfPartitionEntry`, at least 128.
    pub entry_size: usize,
    /// Bytes of the entry array, at most 4 MiB.
    pub array_bytes: usize,
    /// `PartitionEntryArrayCRC32`.
    pub entries_crc: u32,
}

/// What stands at the place of a header.
#[derive(Debug)]
pub(super) enum Found {
    /// A header that can be used.
    Header(GptHeader),
    /// No header was ever here.
    Nothing,
    /// A header that must not be trusted: why, and where it says that its copy is.
    Damaged(Flaw, Option<Lba>),
}

/// Reads the header at `lba`, and believes it only if its checksum and its own address are right.
pub(super) fn read(disk: &dyn ReadAt, sector: SectorSize, lba: Lba) -> Found {
    let len = usize::try_from(sector.bytes()).unwrap_or(HEADER_SIZE);
    let bytes = match read_sectors(disk, sector, lba, len) {
        Ok(bytes) => bytes,
        Err(flaw) => return Found::Damaged(flaw, None),
    };
    if !has_magic(&bytes, 0x00, SIGNATURE) {
        return Found::Nothing;
    }
    match parse(&bytes, lba) {
        Ok(header) => Found::Header(header),
        Err(flaw) => Found::Damaged(flaw, Some(Lba(read_u64le(&bytes, 0x20)))),
    }
}

fn parse(bytes: &[u8], lba: Lba) -> Result<GptHeader, Flaw> {
    let header_size = read_u32le(bytes, 0x0C);
    let header_crc = read_u32le(bytes, 0x10);
    let my_lba = Lba(read_u64le(bytes, 0x18));
    let alternate_lba = Lba(read_u64le(bytes, 0x20));
    let disk_guid = Uuid::from_bytes_le(read_array(bytes, 0x38));
    let entries_lba = Lba(read_u64le(bytes, 0x48));
    let entry_count = read_u32le(bytes, 0x50);
    let entry_size = read_u32le(bytes, 0x54);
    let entries_crc = read_u32le(bytes, 0x58);

    let covered = usize::try_from(header_size)
        .ok()
        .filter(|&size| size >= HEADER_SIZE)
        .and_then(|size| bytes.get(..size))
        .ok_or_else(|| format!("it claims a size of {header_size} bytes"))?;
    let mut hasher = crc32fast::Hasher::new();
    // The checksum is taken with its own field as 0.
    hasher.update(covered.get(..0x10).unwrap_or_default());
    hasher.update(&[0; 4]);
    hasher.update(covered.get(0x14..).unwrap_or_default());
    if !checksum::matches(hasher.finalize(), header_crc) {
        return Err("its checksum does not match".into());
    }
    if my_lba != lba {
        return Err(format!("it says that it belongs to sector {my_lba}"));
    }
    if !(USUAL_ENTRY_SIZE..=4096).contains(&entry_size) || entry_size & 7 != 0 {
        return Err(format!("it claims partition entries of {entry_size} bytes"));
    }
    let array_bytes = u64::from(entry_count)
        .checked_mul(u64::from(entry_size))
        .filter(|&bytes| bytes <= MAX_ARRAY_BYTES)
        .and_then(|bytes| usize::try_from(bytes).ok())
        .ok_or_else(|| format!("it claims {entry_count} entries of {entry_size} bytes"))?;
    Ok(GptHeader {
        my_lba,
        alternate_lba,
        disk_guid,
        entries_lba,
        entry_size: usize::try_from(entry_size).unwrap_or(usize::MAX),
        array_bytes,
        entries_crc,
    })
}
