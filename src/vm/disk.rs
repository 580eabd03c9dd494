//! A disk of the VM: which of the inventory's disks an image is of, and what the VM's disk has of it.

use super::{DiskBus, printable};
use crate::device::DiskIdentity;
use crate::inventory::{DiskInfo, Machine};
use std::path::{Path, PathBuf};

/// An image and the disk that it was taken from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmDisk {
    /// Where the image is, as the VM's definition shall name it.
    pub file: PathBuf,
    /// The disk, as it was opened.
    pub source: DiskIdentity,
}

impl VmDisk {
    /// What the inventory says of the disk, and a sentence where the capture says something else. What is
    /// no disk of the machine (an image file) counts as a SATA disk.
    pub(super) fn info(&self, machine: &Machine) -> (DiskInfo, Option<String>) {
        let source = &self.source;
        let unknown = || DiskInfo {
            name: source.path.file_name().map_or_else(
                || source.path.display().to_string(),
                |name| name.to_string_lossy().into_owned(),
            ),
            model: source.model.clone(),
            serial: source.serial.clone(),
            wwn: source.wwn.clone(),
            ..DiskInfo::default()
        };
        let found = self.find(machine);
        let note = found
            .filter(|disk| disk.size_bytes != source.size_bytes)
            .map(|disk| {
                printable(&format!(
                    "{}: machine.json says that it has {} bytes, the capture's manifest {}: the manifest's \
                     size holds",
                    describe(disk),
                    disk.size_bytes,
                    source.size_bytes
                ))
            });
        let info = DiskInfo {
            // The capture knows the size and the sectors that it was made with.
            size_bytes: source.size_bytes,
            logical_sector_bytes: Some(source.logical_sector_bytes.into()),
            physical_sector_bytes: Some(source.physical_sector_bytes.into()),
            ..found.cloned().unwrap_or_else(unknown)
        };
        (info, note)
    }

    /// The inventory's disk that this one is: by its path, else its world-wide name, else its serial number
    /// and size. The volumes of many storage systems share a serial number, and a size too, so what fits
    /// two disks tells neither. Nor is a path enough where a name differs: the parts of a capture may come
    /// from two boots, which call disks differently.
    fn find<'m>(&self, machine: &'m Machine) -> Option<&'m DiskInfo> {
        let source = &self.source;
        let agrees = |ours: &Option<String>, theirs: &Option<String>| match (ours, theirs) {
            (Some(ours), Some(theirs)) => ours == theirs,
            _ => true,
        };
        let may_be = |disk: &&DiskInfo| {
            agrees(&source.serial, &disk.serial) && agrees(&source.wwn, &disk.wwn)
        };
        let disks = || machine.disks.iter().filter(may_be);
        let has_path = |disk: &&DiskInfo| {
            let mut others = disk.paths.iter().map(|name| Path::new("/dev").join(name));
            disk.device() == source.path || others.any(|path| path == source.path)
        };
        let has_wwn = |disk: &&DiskInfo| source.wwn.is_some() && disk.wwn == source.wwn;
        let has_serial = |disk: &&DiskInfo| {
            source.serial.is_some()
                && disk.serial == source.serial
                && disk.size_bytes == source.size_bytes
        };
        disks()
            .find(has_path)
            .or_else(|| only(disks().filter(has_wwn)))
            .or_else(|| only(disks().filter(has_serial)))
    }
}

/// The only one, if there is one and no other.
fn only<T>(mut items: impl Iterator<Item = T>) -> Option<T> {
    let first = items.next();
    first.filter(|_| items.next().is_none())
}

/// `sda (SAMSUNG MZ7LH480, serial S45NNA0M123456)`
fn describe(disk: &DiskInfo) -> String {
    let serial = disk
        .serial
        .as_ref()
        .map(|serial| format!("serial {serial}"));
    let facts: Vec<String> = disk.model.iter().cloned().chain(serial).collect();
    match facts.as_slice() {
        [] => disk.name.clone(),
        facts => format!("{} ({})", disk.name, facts.join(", ")),
    }
}

/// A disk of the VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedDisk {
    /// The qcow2 image.
    pub file: PathBuf,
    /// What the inventory calls the disk.
    pub source_name: String,
    /// What the guest sees.
    pub size_bytes: u64,
    /// The controller.
    pub bus: DiskBus,
    /// Letters, digits and `_.+- ` only, as long as the controller takes.
    pub serial: Option<String>,
    /// Vendor and model, for disks that can show one.
    pub model: Option<String>,
    /// World-wide name in 16 hexadecimal digits, where it is of that kind; always on [`DiskBus::MptSas`].
    pub wwn: Option<String>,
    /// Logical sector in bytes.
    pub logical_block_bytes: u32,
    /// Physical sector in bytes.
    pub physical_block_bytes: u32,
    /// Place in the order of booting, from 1.
    pub boot_index: usize,
    /// The serial number before it is cut and made unique for the controller.
    pub(super) whole_serial: Option<String>,
    /// Why it is on its controller. Says nothing any more once it is on another one.
    pub(super) bus_note: Option<(DiskBus, String)>,
    /// The disk as people know it.
    pub(super) described: String,
}

impl PlannedDisk {
    pub(super) fn new(file: &Path, info: &DiskInfo, bus: DiskBus, boot_index: usize) -> Self {
        let logical = sector(info.logical_sector_bytes).unwrap_or(512);
        Self {
            file: file.to_owned(),
            source_name: info.name.clone(),
            size_bytes: info.size_bytes,
            bus,
            serial: None,
            model: info
                .model
                .as_deref()
                .map(printable)
                .filter(|model| !model.is_empty()),
            wwn: info.wwn.as_deref().and_then(naa),
            logical_block_bytes: logical,
            physical_block_bytes: sector(info.physical_sector_bytes)
                .unwrap_or(logical)
                .max(logical),
            boot_index,
            whole_serial: info.serial.as_deref().map(serial_charset),
            bus_note: None,
            described: printable(&describe(info)),
        }
    }
}

/// QEMU takes powers of two up to 2 MiB; real disks have 512 or 4096, some arrays more.
fn sector(bytes: Option<u32>) -> Option<u32> {
    bytes.filter(|bytes| bytes.is_power_of_two() && (512..=65_536).contains(bytes))
}

/// What libvirt's schema allows in a serial number.
fn serial_charset(serial: &str) -> String {
    serial
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '+' | '-' | ' ') {
                c
            } else {
                '_'
            }
        })
        .collect()
}

/// Cuts a serial number to what the controller can show; an empty one is none.
pub(super) fn shorten(serial: &mut Option<String>, longest: usize) {
    *serial = serial
        .take()
        .map(|text| text.chars().take(longest).collect::<String>())
        .map(|text| text.trim().to_owned())
        .filter(|text| !text.is_empty());
}

/// `naa.5002538e40a0b1c2`: the form that SCSI and ATA disks can show.
fn naa(wwn: &str) -> Option<String> {
    let digits = wwn.strip_prefix("naa.")?;
    (digits.len() == 16 && digits.bytes().all(|b| b.is_ascii_hexdigit()))
        .then(|| digits.to_ascii_lowercase())
}

#[cfg(test)]
impl VmDisk {
    /// The image of a disk that was captured as the inventory has it; sectors that it does not tell have 512 bytes.
    pub(super) fn of(info: &DiskInfo) -> Self {
        let sector = |bytes: Option<u32>| crate::units::SectorSize::new(bytes.unwrap_or(512));
        Self {
            file: format!("{}.qcow2", info.name).into(),
            source: DiskIdentity {
                path: info.device(),
                model: info.model.clone(),
                serial: info.serial.clone(),
                wwn: info.wwn.clone(),
                size_bytes: info.size_bytes,
                logical_sector_bytes: sector(info.logical_sector_bytes).unwrap(),
                physical_sector_bytes: sector(info.physical_sector_bytes).unwrap(),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inventory::Bus;

    /// A volume of a storage system, and its image.
    fn volume(name: &str, wwn: &str, size_bytes: u64, bus: Bus) -> (DiskInfo, VmDisk) {
        let info = DiskInfo {
            name: name.into(),
            model: Some("LUN".into()),
            serial: Some("LUN0".into()),
            wwn: Some(wwn.into()),
            size_bytes,
            bus,
            ..DiskInfo::default()
        };
        let image = VmDisk::of(&info);
        (info, image)
    }

    fn machine(disks: &[&DiskInfo]) -> Machine {
        let mut machine = Machine::from_json(br#"{"version": 2, "name": "m"}"#).unwrap();
        machine.disks = disks.iter().map(|disk| (*disk).clone()).collect();
        machine
    }

    #[test]
    fn volumes_with_one_serial_number_and_size_are_told_apart() {
        let (first, first_image) = volume("sda", "naa.600508b1001c4d3f", 4096, Bus::Sas);
        let (second, mut second_image) = volume("sdb", "naa.600508b1001c4d40", 4096, Bus::Nvme);
        let machine = machine(&[&first, &second]);
        assert_eq!(first_image.info(&machine).0.bus, Bus::Sas);
        let (info, note) = second_image.info(&machine);
        assert_eq!((info.bus, info.wwn, note), (Bus::Nvme, second.wwn, None));
        // Opened by another name.
        second_image.source.path = "/dev/disk/by-id/lun".into();
        assert_eq!(second_image.info(&machine).0.name, "sdb");
        // Nothing tells which one it is.
        second_image.source.wwn = None;
        assert_eq!(second_image.info(&machine).0.bus, Bus::Other);
    }

    #[test]
    fn a_name_of_another_boot_is_not_believed() {
        let (first, _) = volume("sda", "naa.600508b1001c4d3f", 4096, Bus::Sas);
        let (second, mut image) = volume("sdb", "naa.600508b1001c4d40", 4096, Bus::Nvme);
        image.source.path = "/dev/sda".into();
        assert_eq!(image.info(&machine(&[&first, &second])).0.name, "sdb");
    }

    #[test]
    fn a_size_that_contradicts_costs_neither_the_bus_nor_a_word() {
        let (mut disk, image) = volume("nvme0n1", "eui.01", 4096, Bus::Nvme);
        disk.size_bytes = 1;
        let (info, note) = image.info(&machine(&[&disk]));
        assert_eq!((info.bus, info.size_bytes), (Bus::Nvme, 4096));
        assert_eq!(
            note.unwrap(),
            "nvme0n1 (LUN, serial LUN0): machine.json says that it has 1 bytes, the capture's manifest 4096: \
             the manifest's size holds"
        );
    }
}
