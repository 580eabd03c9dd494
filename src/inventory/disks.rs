//! The disks, from `/sys/block`.

use super::boot::DiskBoot;
use super::controller::{self, Controller};
use super::health::{HiddenArea, Smart};
use super::multipath;
use super::raid::RaidMember;
use super::sysroot::{SysRoot, link_name, number};
use crate::device::sysfs;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::{Path, PathBuf};

/// The kind of bus that a disk hangs on, as the operating system on it sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Bus {
    /// Parallel ATA, or SATA through a controller in its legacy mode.
    Ide,
    /// SATA behind AHCI or another SATA controller.
    Sata,
    /// NVM Express.
    Nvme,
    /// SAS host adapters and hardware RAID controllers: the driver is what matters.
    Sas,
    /// Any other SCSI: parallel, Fibre Channel, iSCSI.
    Scsi,
    /// USB.
    Usb,
    /// `virtio-blk`
    VirtioBlk,
    /// `virtio-scsi`
    VirtioScsi,
    /// SD card or eMMC.
    Mmc,
    /// None of these.
    #[default]
    Other,
}

impl fmt::Display for Bus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ide => "IDE",
            Self::Sata => "SATA",
            Self::Nvme => "NVMe",
            Self::Sas => "SAS",
            Self::Scsi => "SCSI",
            Self::Usb => "USB",
            Self::VirtioBlk => "virtio-blk",
            Self::VirtioScsi => "virtio-scsi",
            Self::Mmc => "MMC",
            Self::Other => "other",
        })
    }
}

/// A disk of the machine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DiskInfo {
    /// The kernel's name, `sda`; valid for this boot only.
    pub name: String,
    /// Vendor and model.
    pub model: Option<String>,
    /// Serial number.
    pub serial: Option<String>,
    /// World-wide name: `naa.…`, `eui.…`.
    pub wwn: Option<String>,
    /// Exact size in bytes; 0 for a drive without medium.
    pub size_bytes: u64,
    /// Logical sector in bytes.
    pub logical_sector_bytes: Option<u32>,
    /// Physical sector in bytes.
    pub physical_sector_bytes: Option<u32>,
    /// What it hangs on.
    pub bus: Bus,
    /// The kernel's driver of the controller: `ahci`, `nvme`, `megaraid_sas`.
    pub driver: Option<String>,
    /// Whether it turns.
    pub rotational: Option<bool>,
    /// Whether its medium can be taken out.
    pub removable: bool,
    /// Its place in the machine: the path below `/sys/devices`, the same at each boot as long as
    /// nothing is plugged elsewhere, but for the kernel's counters in it.
    pub topology: Option<String>,
    /// The PCI function of the controller.
    pub controller: Option<Controller>,
    /// All kernel names of a disk that is reached by several paths; empty for any other.
    pub paths: Vec<String>,
    /// How its system is started; `None` where that was not looked at or could not be read.
    pub boot: Option<DiskBoot>,
    /// What RAID it or its partitions are members of.
    pub raid: Vec<RaidMember>,
    /// Its own word on its health.
    pub smart: Option<Smart>,
    /// Sectors that it hides; `None` where it cannot.
    pub hidden_area: Option<HiddenArea>,
}

impl DiskInfo {
    /// `/dev/sda`
    pub fn device(&self) -> PathBuf {
        Path::new("/dev").join(&self.name)
    }
}

/// All disks, in the kernel's order, each once. What is no disk of the machine is left out: loop, RAM, device
/// mapper and md devices, optical and floppy drives, hidden paths of NVMe multipath, eMMC boot areas.
pub(super) fn read(root: &SysRoot) -> Vec<DiskInfo> {
    let disks = root
        .entries("/sys/block")
        .into_iter()
        .filter(|(name, _)| {
            !(name.starts_with("sr")
                || name.starts_with("fd")
                || name.contains("boot")
                || name.contains("rpmb"))
        })
        .filter_map(|(name, link)| disk(root, name, &root.device(&link)?))
        .collect();
    multipath::collapse(disks)
}

fn disk(root: &SysRoot, name: String, dir: &Path) -> Option<DiskInfo> {
    let flag = |attribute: &str| number::<u8>(&dir.join(attribute)).map(|value| value != 0);
    // Only real devices have one; NVMe multipath nodes hang below a subsystem instead.
    let real = dir.join("device").exists() || name.starts_with("nvme");
    if !real || flag("hidden") == Some(true) {
        return None;
    }
    let names = sysfs::names(dir);
    let path = nvme_path(root, &name);
    // A namespace of native NVMe multipath hangs below a subsystem, away from its controllers.
    let driver = driver(dir).or_else(|| name.starts_with("nvme").then(|| "nvme".to_owned()));
    Some(DiskInfo {
        bus: bus(&name, dir, driver.as_deref()),
        name,
        model: names.model,
        serial: names.serial,
        wwn: names.wwn,
        // In units of 512 bytes whatever the sector (Documentation/ABI/stable/sysfs-block).
        size_bytes: number::<u64>(&dir.join("size"))
            .unwrap_or(0)
            .saturating_mul(512),
        logical_sector_bytes: number(&dir.join("queue/logical_block_size")),
        physical_sector_bytes: number(&dir.join("queue/physical_block_size")),
        driver,
        rotational: flag("queue/rotational"),
        removable: flag("removable") == Some(true),
        topology: root
            .inside(dir)
            .strip_prefix("/sys/devices")
            .ok()
            .map(|path| path.display().to_string()),
        controller: controller::of_disk(root, path.as_deref().unwrap_or(dir)),
        ..DiskInfo::default()
    })
}

/// The first path of a namespace of native NVMe multipath: `nvme0n1` is reached by `nvme0c0n1`, a hidden
/// disk below its controller (`nvme_mpath_set_disk_name` of drivers/nvme/host/multipath.c).
fn nvme_path(root: &SysRoot, name: &str) -> Option<PathBuf> {
    let (subsystem, namespace) = name.strip_prefix("nvme")?.split_once('n')?;
    let is_path = |other: &str| {
        let rest = other
            .strip_prefix("nvme")
            .and_then(|rest| rest.strip_prefix(subsystem));
        let rest = rest.and_then(|rest| rest.strip_prefix('c'));
        rest.and_then(|rest| rest.split_once('n'))
            .is_some_and(|(_, number)| number == namespace)
    };
    let mut disks = root.entries("/sys/block").into_iter();
    let (_, link) = disks.find(|(other, _)| is_path(other))?;
    root.device(&link)
}

/// The driver of the controller: the first one above the disk that is not the disk's own.
fn driver(dir: &Path) -> Option<String> {
    dir.ancestors()
        .filter_map(|dir| link_name(&dir.join("driver")))
        .find(|driver| !matches!(driver.as_str(), "sd" | "mmcblk"))
}

fn bus(name: &str, dir: &Path, driver: Option<&str>) -> Bus {
    let below = |prefix: &str| {
        dir.components()
            .filter_map(|part| part.as_os_str().to_str())
            .any(|part| {
                part.strip_prefix(prefix)
                    .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
            })
    };
    if name.starts_with("nvme") {
        return Bus::Nvme;
    }
    if name.starts_with("mmcblk") {
        return Bus::Mmc;
    }
    // USB before SCSI and ATA: its disks are SCSI disks too.
    if below("usb") {
        return Bus::Usb;
    }
    match driver {
        Some("virtio_blk") => return Bus::VirtioBlk,
        Some("virtio_scsi") => return Bus::VirtioScsi,
        _ => {}
    }
    if below("ata") {
        return match driver {
            Some(driver) if driver.starts_with("pata_") || driver == "ata_piix" => Bus::Ide,
            _ => Bus::Sata,
        };
    }
    if below("end_device-") || driver.is_some_and(is_sas_driver) {
        return Bus::Sas;
    }
    if below("host") || name.starts_with("sd") {
        return Bus::Scsi;
    }
    Bus::Other
}

/// Linux drivers of SAS adapters and RAID controllers, whose volumes look like SAS disks.
fn is_sas_driver(driver: &str) -> bool {
    matches!(
        driver,
        "megaraid_sas"
            | "mpt2sas"
            | "mpt3sas"
            | "mpi3mr"
            | "mptsas"
            | "smartpqi"
            | "hpsa"
            | "cciss"
            | "aacraid"
            | "arcmsr"
            | "3w-sas"
            | "3w-9xxx"
            | "isci"
            | "pm80xx"
            | "mvsas"
            | "aic94xx"
    )
}
