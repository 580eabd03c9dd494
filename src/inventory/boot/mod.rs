//! How the system on a disk is started, from the disk alone. In: a disk that can be read. Out:
//! [`DiskBoot`]: its boot code, its BIOS boot partition, the loaders on its EFI system partitions.
//!
//! The stick may have been started through a UEFI's BIOS emulation, or the other way round; a virtual
//! machine with the wrong firmware does not start. So the disks have the first word
//! (docs/decisions/0022-inventory.md).

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

mod code;

pub use code::BootCode;

use super::FirmwareKind;
use crate::device::{ReadAt, Window};
use crate::error::Result;
use crate::files;
use crate::ptable::{DiskId, Partition, PartitionTable, PartitionType, Scheme};
use crate::units::{ByteOffset, SectorSize};
use serde::{Deserialize, Serialize};

/// Bit 2 of a partition's attributes: active, or "legacy BIOS bootable" (UEFI 2.10, table 5.8).
const LEGACY_BOOTABLE: u64 = 1 << 2;
/// Partitions that are looked at as EFI system partitions.
const MOST_ESPS: usize = 8;

/// What a disk has to be started by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskBoot {
    /// Its partition table.
    pub scheme: Scheme,
    /// The signature of an MBR, eight hexadecimal digits; `None` where it has none.
    #[serde(default)]
    pub disk_signature: Option<String>,
    /// The code in its first sector.
    pub boot_code: Option<BootCode>,
    /// Number of its BIOS boot partition, if there is something in it.
    pub bios_boot_partition: Option<u32>,
    /// Number of the active ("legacy BIOS bootable") partition, if its own boot sector has code.
    pub active_partition: Option<u32>,
    /// Its EFI system partitions.
    #[serde(default)]
    pub esps: Vec<Esp>,
    /// Whether a BIOS can start something from it.
    pub by_bios: bool,
    /// Whether UEFI can start something from it.
    pub by_uefi: bool,
}

/// An EFI system partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Esp {
    /// Number of the partition.
    pub partition: u32,
    /// Its unique GUID, which boot entries name it by (GPT only).
    pub guid: Option<String>,
    /// Its first sector, in logical sectors of the disk.
    #[serde(default)]
    pub start_sector: Option<u64>,
    /// Its length in logical sectors.
    #[serde(default)]
    pub sectors: Option<u64>,
    /// Loaders on it, as `/EFI/debian/shimx64.efi`; `None` where its filesystem could not be read.
    pub loaders: Option<Vec<String>>,
}

impl DiskBoot {
    /// Looks at a disk whose logical sectors have `sector` bytes.
    ///
    /// # Errors
    /// When its first sector cannot be read.
    pub fn look(disk: &dyn ReadAt, sector: SectorSize) -> Result<Self> {
        let table = PartitionTable::read(disk, sector)?;
        let mut first = [0; 512];
        if disk.size().0 >= 512 {
            disk.read_at(ByteOffset(0), &mut first)?;
        }
        let boot_code = BootCode::find(&first);
        let parts = || table.partitions.iter();
        let bios_boot_partition = parts()
            .find(|part| part.kind == PartitionType::BIOS_BOOT && begins(disk, part).is_some())
            .map(|part| part.number);
        let active_partition = parts()
            .filter(|part| part.attributes & LEGACY_BOOTABLE != 0)
            .find(|part| begins(disk, part).is_some_and(|first| BootCode::find(&first).is_some()))
            .map(|part| part.number);
        let esps: Vec<Esp> = parts()
            .filter(|part| is_esp(part.kind))
            .take(MOST_ESPS)
            .map(|part| Esp {
                partition: part.number,
                guid: part.guid.map(|guid| guid.hyphenated().to_string()),
                start_sector: part.start.0.checked_div(sector.bytes()),
                sectors: part.len.0.checked_div(sector.bytes()),
                loaders: window(disk, part).and_then(|esp| loaders(&esp)),
            })
            .collect();
        let by_bios = match boot_code {
            None => false,
            Some(code) if code.needs_active_partition() => active_partition.is_some(),
            // On a GPT there is no gap that GRUB's second stage could lie in.
            Some(BootCode::Grub) if table.scheme == Scheme::Gpt => bios_boot_partition.is_some(),
            // Without a table it is a filesystem's own boot sector, which says nothing.
            Some(BootCode::Unknown) => table.scheme == Scheme::Mbr,
            Some(_) => true,
        };
        let by_uefi = esps
            .iter()
            .any(|esp| esp.loaders.as_ref().is_some_and(|found| !found.is_empty()));
        Ok(Self {
            scheme: table.scheme,
            disk_signature: match table.id {
                // Windows and fdisk write one. Zero tells no disk from another.
                Some(id @ DiskId::Mbr(1..)) => Some(id.to_string()),
                _ => None,
            },
            boot_code,
            bios_boot_partition,
            active_partition,
            esps,
            by_bios,
            by_uefi,
        })
    }

    /// The signature of an MBR as a number, if the disk has such a table.
    pub(crate) fn mbr_signature(&self) -> Option<u32> {
        let digits = self.disk_signature.as_deref()?;
        let signature = u32::from_str_radix(digits, 16).ok()?;
        (self.scheme == Scheme::Mbr).then_some(signature)
    }

    /// What the text of a boot entry's path says of `esp`, in lower case: its GUID, or `hd(1,mbr,0x1b2c3d4e,`.
    fn in_paths(&self, esp: &Esp) -> Option<String> {
        match &esp.guid {
            Some(guid) => Some(guid.to_ascii_lowercase()),
            None => {
                let signature = self.mbr_signature()?;
                Some(format!("hd({},mbr,{signature:#010x},", esp.partition))
            }
        }
    }
}

/// MBR type EFh is UEFI's (UEFI 2.10, 5.2.2).
fn is_esp(kind: PartitionType) -> bool {
    kind == PartitionType::EFI_SYSTEM || kind == PartitionType::Mbr(0xEF)
}

/// The loaders on an EFI system partition; nothing if it cannot be read.
fn loaders(esp: &dyn ReadAt) -> Option<Vec<String>> {
    let tree = files::open("fat", esp, &[])?.ok()?;
    files::below(&*tree, "efi", ".efi").ok()
}

fn window<'a>(disk: &'a dyn ReadAt, part: &Partition) -> Option<Window<&'a dyn ReadAt>> {
    Window::new(disk, part.start, part.len).ok()
}

/// The first 512 bytes of a partition, if they are not all zero.
fn begins(disk: &dyn ReadAt, part: &Partition) -> Option<[u8; 512]> {
    let mut first = [0; 512];
    window(disk, part)?
        .read_at(ByteOffset(0), &mut first)
        .ok()?;
    first.iter().any(|byte| *byte != 0).then_some(first)
}

/// The firmware of the system on several disks, and why, as a sentence for people.
///
/// `None` where they do not tell: nothing starts from them, or both BIOS and UEFI do. A boot entry of
/// the firmware that names a partition of theirs decides between both.
pub fn verdict<'a>(
    disks: impl IntoIterator<Item = &'a DiskBoot>,
    entry_paths: &[&str],
) -> (Option<FirmwareKind>, String) {
    let (mut bios, mut uefi, mut named) = (Vec::new(), Vec::new(), false);
    for disk in disks {
        if disk.by_bios {
            bios.extend(disk.boot_code.map(BootCode::name));
        }
        for esp in &disk.esps {
            let Some(loader) = esp.loaders.as_ref().and_then(|found| found.first()) else {
                continue;
            };
            uefi.push(loader.as_str());
            named |= disk.in_paths(esp).is_some_and(|name| {
                entry_paths
                    .iter()
                    .any(|path| path.to_ascii_lowercase().contains(&name))
            });
        }
    }
    match (bios.first(), uefi.first()) {
        (None, None) => (
            None,
            "nothing on the disks can be started by a firmware".into(),
        ),
        (Some(code), None) => (
            Some(FirmwareKind::Bios),
            format!("the disks have boot code for BIOS ({code}) and no loader for UEFI"),
        ),
        (None, Some(loader)) => (
            Some(FirmwareKind::Uefi),
            format!("the disks have a loader for UEFI ({loader}) and no boot code for BIOS"),
        ),
        (Some(code), Some(loader)) if named => (
            Some(FirmwareKind::Uefi),
            format!(
                "the disks have boot code for BIOS ({code}) and a loader for UEFI ({loader}), and \
                 the firmware has a boot entry for the latter"
            ),
        ),
        (Some(code), Some(loader)) => (
            None,
            format!("the disks start both by BIOS ({code}) and by UEFI ({loader})"),
        ),
    }
}

#[cfg(test)]
#[allow(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]
mod tests;
