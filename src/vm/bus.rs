//! Which emulated controller a disk gets: the one that the system on it already has a driver for,
//! as far as QEMU emulates such a one, the VM's firmware can boot from it and it takes the disk's
//! sectors. What was tried is in docs/decisions/0007-disk-buses.md.

use super::VmPlan;
use crate::inventory::{Bus, DiskInfo, FirmwareKind};

/// An emulated controller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, clap::ValueEnum)]
#[value(rename_all = "kebab-case")]
pub enum DiskBus {
    /// PIIX IDE of the i440FX machine, driver `ata_piix`.
    Ide,
    /// AHCI, driver `ahci`.
    Sata,
    /// NVM Express, driver `nvme`.
    Nvme,
    /// LSI MegaRAID SAS 1078, driver `megaraid_sas`; libvirt's `lsisas1078`.
    #[value(name = "megasas")]
    MegaSas,
    /// LSI SAS 1068, driver `mptsas`; libvirt's `lsisas1068`.
    #[value(name = "mptsas")]
    MptSas,
    /// `virtio-scsi`
    VirtioScsi,
    /// `virtio-blk`
    VirtioBlk,
    /// A USB stick.
    Usb,
}

impl DiskBus {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Ide,
        Self::Sata,
        Self::Nvme,
        Self::MegaSas,
        Self::MptSas,
        Self::VirtioScsi,
        Self::VirtioBlk,
        Self::Usb,
    ];

    /// How many characters of a serial number its disks can have (ATA/ATAPI-8 and NVMe 1.4: 20;
    /// `VIRTIO_BLK_ID_BYTES`: 20; QEMU's limit for SCSI: 36).
    pub(super) fn longest_serial(self) -> usize {
        match self {
            Self::Ide | Self::Sata | Self::Nvme | Self::VirtioBlk => 20,
            Self::MegaSas | Self::MptSas | Self::VirtioScsi | Self::Usb => 36,
        }
    }

    /// Whether it takes disks with logical sectors of other than 512 bytes. QEMU's ATA disks do not
    /// ("logical_block_size must be 512 for IDE").
    pub(super) fn takes_large_sectors(self) -> bool {
        !matches!(self, Self::Ide | Self::Sata)
    }

    /// How many SCSI targets one controller shows its guest; QEMU says "bad scsi device id" from the one after
    /// the next on. `MPTSAS_NUM_PORTS` of hw/scsi/mptsas.h is 8, `MFI_MAX_LD` of hw/scsi/mfi.h 64, and
    /// `VIRTIO_SCSI_MAX_TARGET` of include/hw/virtio/virtio-scsi.h 255, the last one.
    pub(super) fn targets(self) -> usize {
        match self {
            Self::MptSas => 8,
            Self::MegaSas => 64,
            _ => 256,
        }
    }

    /// Whether each of its disks is a device on the PCI bus.
    pub(super) fn is_pci(self) -> bool {
        matches!(self, Self::Nvme | Self::VirtioBlk)
    }

    /// Whether its disks are SCSI disks on a controller.
    pub(crate) fn is_scsi(self) -> bool {
        matches!(self, Self::MegaSas | Self::MptSas | Self::VirtioScsi)
    }
}

/// The controller for a disk, and a sentence for the report where it is not of the same kind.
pub(super) fn choose(disk: &DiskInfo, firmware: FirmwareKind) -> (DiskBus, Option<String>) {
    let driver = disk.driver.as_deref();
    let (bus, note) = match (disk.bus, firmware) {
        (Bus::Nvme, _) => (DiskBus::Nvme, None),
        (Bus::VirtioBlk, _) => (DiskBus::VirtioBlk, None),
        (Bus::VirtioScsi, _) => (DiskBus::VirtioScsi, None),
        (Bus::Usb, _) => (DiskBus::Usb, None),
        (Bus::Sata | Bus::Other, _) => (DiskBus::Sata, None),
        (Bus::Ide, FirmwareKind::Bios) => (DiskBus::Ide, None),
        (Bus::Ide, FirmwareKind::Uefi) => (
            DiskBus::Sata,
            Some("was on IDE and comes to SATA, because UEFI virtual machines have no IDE"),
        ),
        (Bus::Sas, FirmwareKind::Bios) if driver == Some("mptsas") => (DiskBus::MptSas, None),
        (Bus::Sas, FirmwareKind::Bios) if driver == Some("megaraid_sas") => {
            (DiskBus::MegaSas, None)
        }
        (Bus::Sas, FirmwareKind::Bios) => (
            DiskBus::MegaSas,
            Some("was on a SAS controller that is not emulated and comes to a MegaRAID one"),
        ),
        (Bus::Sas, FirmwareKind::Uefi) => (
            DiskBus::Sata,
            Some(
                "was on a SAS controller and comes to SATA, because the UEFI firmware of virtual \
                 machines (OVMF) reads no emulated SAS controller",
            ),
        ),
        (Bus::Scsi, _) => (
            DiskBus::Sata,
            Some("was on a SCSI bus that is not emulated and comes to SATA"),
        ),
        (Bus::Mmc, _) => (DiskBus::Sata, Some("was on an MMC bus and comes to SATA")),
    };
    if disk.logical_sector_bytes.unwrap_or(512) != 512 && !bus.takes_large_sectors() {
        return (
            DiskBus::Nvme,
            Some(format!(
                "{} comes to NVMe, because emulated {} disks have only sectors of 512 bytes",
                disk.name, disk.bus
            )),
        );
    }
    (bus, note.map(|note| format!("{} {note}", disk.name)))
}

impl VmPlan {
    /// The same with its disks on these buses, in their order.
    #[must_use]
    pub fn on_buses(mut self, buses: &[DiskBus]) -> Self {
        for (disk, bus) in self.disks.iter_mut().zip(buses) {
            disk.bus = *bus;
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(bus: Bus, driver: &str, sector: u32, firmware: FirmwareKind) -> (DiskBus, bool) {
        let disk = DiskInfo {
            bus,
            driver: Some(driver.into()),
            logical_sector_bytes: Some(sector),
            ..DiskInfo::default()
        };
        let (bus, note) = choose(&disk, firmware);
        (bus, note.is_some())
    }

    #[test]
    fn what_is_emulated_stays() {
        use FirmwareKind::{Bios, Uefi};
        for (bus, driver, firmware, kept) in [
            (Bus::Sata, "ahci", Uefi, DiskBus::Sata),
            (Bus::Nvme, "nvme", Uefi, DiskBus::Nvme),
            (Bus::VirtioBlk, "virtio_blk", Bios, DiskBus::VirtioBlk),
            (Bus::VirtioScsi, "virtio_scsi", Uefi, DiskBus::VirtioScsi),
            (Bus::Ide, "ata_piix", Bios, DiskBus::Ide),
            (Bus::Sas, "megaraid_sas", Bios, DiskBus::MegaSas),
            (Bus::Sas, "mptsas", Bios, DiskBus::MptSas),
        ] {
            assert_eq!(chosen(bus, driver, 512, firmware), (kept, false));
        }
    }

    #[test]
    fn what_is_not_emulated_comes_to_something_that_boots_and_is_named() {
        use FirmwareKind::{Bios, Uefi};
        for (bus, driver, sector, firmware, instead) in [
            (Bus::Sas, "megaraid_sas", 512, Uefi, DiskBus::Sata),
            (Bus::Sas, "smartpqi", 512, Bios, DiskBus::MegaSas),
            (Bus::Sata, "ahci", 4096, Uefi, DiskBus::Nvme),
            (Bus::Sas, "mpt3sas", 4096, Uefi, DiskBus::Nvme),
            (Bus::Scsi, "qla2xxx", 512, Uefi, DiskBus::Sata),
        ] {
            assert_eq!(chosen(bus, driver, sector, firmware), (instead, true));
        }
    }
}
