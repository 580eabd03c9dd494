//! Partition tables. In: a disk that can be read. Out: where its partitions lie, numbered as the
//! Linux kernel numbers them, and which sectors the tables themselves occupy.
//!
//! Damage never stops anything: what can be read is used, what cannot is said in
//! [`PartitionTable::notes`]. Whatever no partition covers is copied by the used map anyway, so a
//! table that is misread costs space, not data.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

mod ebr;
mod gpt;
mod gpt_entry;
mod gpt_header;
mod larger;
mod mbr;

pub use larger::{Larger, larger};

use crate::device::ReadAt;
use crate::error::{Error, Result};
use crate::extent::{Extent, ExtentList};
use crate::units::{ByteLen, ByteOffset, Lba, SectorSize};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// As many partitions as the Linux kernel makes of one disk (`DISK_MAX_PARTS`, less the disk).
const MAX_PARTITIONS: u32 = 255;

/// How a disk is divided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scheme {
    /// GUID partition table (UEFI 2.10, chapter 5).
    Gpt,
    /// Master boot record, with or without an extended chain.
    Mbr,
    /// No table: empty, or a filesystem or volume on the whole disk.
    None,
}

/// What a partition says it is for. What is really in it is another matter: see `usedmap`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PartitionType {
    /// Type GUID.
    Gpt(Uuid),
    /// Type byte.
    Mbr(u8),
}

impl PartitionType {
    /// BIOS boot partition: GRUB's core image, no filesystem.
    pub const BIOS_BOOT: Self = Self::Gpt(Uuid::from_u128(0x21686148_6449_6E6F_744E_656564454649));
    /// EFI system partition.
    pub const EFI_SYSTEM: Self = Self::Gpt(Uuid::from_u128(0xC12A7328_F81F_11D2_BA4B_00A0C93EC93B));
    /// Extended boot loader partition, XBOOTLDR (the UAPI group's Discoverable Partitions Specification).
    pub const EXTENDED_BOOT: Self =
        Self::Gpt(Uuid::from_u128(0xBC13C2FF_59E6_4262_A352_B275FD6F7172));
    /// PowerPC PReP boot partition, on GPT.
    pub const PREP_GPT: Self = Self::Gpt(Uuid::from_u128(0x9E1A2D38_C612_4316_AA26_8B49521E5A8B));
    /// PowerPC PReP boot partition, on MBR.
    pub const PREP_MBR: Self = Self::Mbr(0x41);

    /// The volume manager that a partition of this type belongs to, where the type alone says so and
    /// the content may look like a plain filesystem: a piece of a striped or spanned volume.
    pub fn foreign_volume_manager(self) -> Option<&'static str> {
        match self {
            // SFS on the older disks, LDM data and metadata on GPT (Windows' Logical Disk Manager).
            Self::Mbr(0x42) => Some("Dynamic Disk"),
            Self::Gpt(guid)
                if [
                    0xAF9B_60A0_1431_4F62_BC68_3311_714A_69AD,
                    0x5808_C8AA_7E8F_42E0_85D2_E1E9_0434_CFB3,
                ]
                .contains(&guid.as_u128()) =>
            {
                Some("Dynamic Disk")
            }
            Self::Gpt(guid) if guid.as_u128() == 0xE75C_AF8F_F680_4CEE_AFA3_B001_E56E_FC2D => {
                Some("Storage Spaces")
            }
            Self::Gpt(guid) if guid.as_u128() == 0xAA31_E02A_400F_11DB_9590_000C_2911_D1B8 => {
                Some("VMFS")
            }
            Self::Mbr(0xFB) => Some("VMFS"),
            _ => None,
        }
    }

    /// Whether it holds a boot loader without a filesystem, to be taken byte for byte.
    pub fn is_raw_boot(self) -> bool {
        [Self::BIOS_BOOT, Self::PREP_GPT, Self::PREP_MBR].contains(&self)
    }
}

/// One partition. Its bytes lie inside the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// As the kernel numbers it: `sda3` is 3.
    pub number: u32,
    /// Its first byte on the disk.
    pub start: ByteOffset,
    /// Its length; never 0.
    pub len: ByteLen,
    /// What it says it is for.
    pub kind: PartitionType,
    /// Unique GUID (GPT only).
    pub guid: Option<Uuid>,
    /// Name (GPT only); `None` if empty.
    pub name: Option<String>,
    /// GPT attribute bits; on MBR bit 2 ("legacy BIOS bootable") stands for the active flag.
    pub attributes: u64,
}

impl Partition {
    /// Where it lies on the disk.
    pub fn extent(&self) -> Option<Extent> {
        Extent::new(self.start, self.len)
    }
}

/// What identifies the disk itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskId {
    /// Disk GUID.
    Gpt(Uuid),
    /// Disk signature at 0x1B8 of the MBR.
    Mbr(u32),
}

impl std::fmt::Display for DiskId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Gpt(guid) => guid.hyphenated().fmt(f),
            Self::Mbr(signature) => write!(f, "{signature:08x}"),
        }
    }
}

/// The partition table of a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionTable {
    /// Which kind of table.
    pub scheme: Scheme,
    /// The sector in which the table counts: the disk's, except where a note says otherwise.
    pub sector: SectorSize,
    /// What identifies the disk, if anything does.
    pub id: Option<DiskId>,
    /// In the order of their numbers. Extended partitions are not among them, their logical ones
    /// are.
    pub partitions: Vec<Partition>,
    /// Every sector that belongs to a table: the MBR, each EBR, both GPT headers and entry arrays.
    pub metadata: ExtentList,
    /// Damage and oddities, each a sentence for people.
    pub notes: Vec<String>,
}

impl PartitionTable {
    /// Reads the table of `disk`, whose logical sectors have `sector` bytes.
    ///
    /// # Errors
    /// Only when the first sector cannot be read. Any other unreadable or damaged part of a table
    /// is a note.
    pub fn read(disk: &dyn ReadAt, sector: SectorSize) -> Result<Self> {
        let mut table = Self::none(sector);
        if disk.size().0 < sector.bytes() {
            return Ok(table);
        }
        let mut first = [0; 512];
        disk.read_at(ByteOffset(0), &mut first)?;
        let mbr = mbr::Mbr::parse(&first).filter(|mbr| mbr.is_protective() || mbr.is_table());
        match mbr {
            Some(mbr) => {
                table.add_sectors(Lba(0), 1, disk.size());
                if mbr.is_protective() {
                    gpt::read(disk, sector, &mbr, &mut table);
                } else {
                    gpt::note_unprotected(disk, &mut table);
                    ebr::read(disk, &mbr, &mut table);
                }
            }
            None => gpt::note_unprotected(disk, &mut table),
        }
        Ok(table)
    }

    /// What is known of the partitions of a disk whose first sector cannot be read: nothing.
    pub fn unreadable(sector: SectorSize, why: &Error) -> Self {
        let mut table = Self::none(sector);
        table.notes.push(format!(
            "which partitions it has is not known, so everything is copied except zeros: {why}"
        ));
        table
    }

    fn none(sector: SectorSize) -> Self {
        Self {
            scheme: Scheme::None,
            sector,
            id: None,
            partitions: Vec::new(),
            metadata: ExtentList::new(),
            notes: Vec::new(),
        }
    }

    /// Marks sectors as belonging to a table, as far as they lie on the disk.
    fn add_sectors(&mut self, from: Lba, count: u64, disk: ByteLen) {
        let end = from
            .checked_add(count)
            .and_then(|end| end.to_bytes(self.sector))
            .map_or(disk.0, |end| end.0.min(disk.0));
        if let Some(start) = from.to_bytes(self.sector)
            && let Some(extent) = Extent::between(start.0, end)
        {
            self.metadata.insert(extent);
        }
    }
}

/// Why a structure was not taken: damaged, or not readable.
type Flaw = String;

/// Reads `len` bytes at `lba`; a flaw in words if they lie outside the disk or cannot be read.
fn read_sectors(
    disk: &dyn ReadAt,
    sector: SectorSize,
    lba: Lba,
    len: usize,
) -> Result<Vec<u8>, Flaw> {
    let beyond = || format!("sector {lba} lies behind the end of the disk");
    let start = lba.to_bytes(sector).ok_or_else(beyond)?;
    let wanted = u64::try_from(len).unwrap_or(u64::MAX);
    if start
        .checked_add(ByteLen(wanted))
        .is_none_or(|end| end.0 > disk.size().0)
    {
        return Err(beyond());
    }
    let mut bytes = vec![0; len];
    disk.read_at(start, &mut bytes)
        .map_err(|error| error.to_string())?;
    Ok(bytes)
}
