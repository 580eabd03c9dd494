//! The sector of a master boot record or of a link in an extended chain: four entries and a
//! signature (UEFI 2.10, 5.2.1; `block/partitions/msdos.c` of Linux).

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use crate::bytes::{has_magic, read_u8, read_u16le, read_u32le};

/// Type byte of the entry that covers a GPT.
const GPT_PROTECTIVE: u8 = 0xEE;
/// Type bytes of an extended partition: CHS, LBA, Linux.
const EXTENDED: [u8; 3] = [0x05, 0x0F, 0x85];
const ENTRIES_AT: usize = 0x1BE;
const ENTRY_BYTES: usize = 16;

/// One entry; positions are in sectors, relative to what the caller knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct MbrEntry {
    /// `BootIndicator`: 0x80 is active, 0 is not, anything else is no entry.
    pub boot_indicator: u8,
    /// `OSType`.
    pub os_type: u8,
    /// `StartingLBA`.
    pub start: u32,
    /// `SizeInLBA`.
    pub sectors: u32,
}

impl MbrEntry {
    fn parse(bytes: &[u8]) -> Self {
        Self {
            boot_indicator: read_u8(bytes, 0x0),
            os_type: read_u8(bytes, 0x4),
            start: read_u32le(bytes, 0x8),
            sectors: read_u32le(bytes, 0xC),
        }
    }

    /// Whether it holds something: the kernel looks at the size, not at the type.
    pub(super) fn is_used(self) -> bool {
        self.sectors != 0
    }

    /// Whether it points to a chain of further tables.
    pub(super) fn is_extended(self) -> bool {
        EXTENDED.contains(&self.os_type)
    }
}

/// A sector with the boot signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mbr {
    /// `UniqueMBRDiskSignature`.
    pub signature: u32,
    /// The four entries.
    pub entries: [MbrEntry; 4],
    looks_like_boot_sector: bool,
}

impl Mbr {
    /// `None` without the signature 55 AA.
    pub(super) fn parse(sector: &[u8]) -> Option<Self> {
        if !has_magic(sector, 0x1FE, &[0x55, 0xAA]) {
            return None;
        }
        let mut slots = sector.get(ENTRIES_AT..)?.chunks_exact(ENTRY_BYTES);
        let mut entry = || slots.next().map(MbrEntry::parse);
        let entries = [entry()?, entry()?, entry()?, entry()?];
        Some(Self {
            signature: read_u32le(sector, 0x1B8),
            entries,
            looks_like_boot_sector: is_filesystem_boot_sector(sector),
        })
    }

    /// Whether it stands before a GPT: an entry of type 0xEE that starts at sector 1.
    pub(super) fn is_protective(&self) -> bool {
        self.entries
            .iter()
            .any(|entry| entry.os_type == GPT_PROTECTIVE && entry.start == 1)
    }

    /// Whether a protective one lists other partitions too.
    pub(super) fn is_hybrid(&self) -> bool {
        self.is_protective()
            && self
                .entries
                .iter()
                .any(|entry| entry.os_type != GPT_PROTECTIVE && entry.os_type != 0)
    }

    /// Whether the entries are a table at all, rather than the boot code of a filesystem that
    /// occupies the whole disk and also ends in 55 AA.
    pub(super) fn is_table(&self) -> bool {
        let plausible = self.entries.iter().all(|entry| {
            matches!(entry.boot_indicator, 0 | 0x80) && entry.os_type != GPT_PROTECTIVE
        });
        let empty = !self.entries.iter().any(|entry| entry.is_used());
        plausible && !(empty && self.looks_like_boot_sector)
    }
}

/// FAT and NTFS begin with a BIOS parameter block: as in the kernel's check, reserved sectors,
/// number of FATs and a media byte; NTFS has neither of the first two, but its name.
fn is_filesystem_boot_sector(sector: &[u8]) -> bool {
    let reserved = read_u16le(sector, 0x0E);
    let fats = read_u8(sector, 0x10);
    let media = read_u8(sector, 0x15);
    let fat = reserved != 0 && fats != 0 && (media >= 0xF8 || media == 0xF0);
    fat || has_magic(sector, 0x03, b"NTFS    ") || has_magic(sector, 0x03, b"EXFAT   ")
}
