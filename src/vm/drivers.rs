//! Whether the installed system can reach the VM's disks: the driver of an emulated controller has to be where
//! the system starts from, which is its initramfs or kernel, or what Windows' boot loader loads. On the metal it
//! needed another one, maybe.

use super::{DiskBus, PlannedDisk, VmFirmware, VmPlan, printable};
use crate::inventory::installed::Kernel;
use crate::inventory::{DiskInfo, Machine, System, SystemKind};

/// `Start` of a Windows driver that the boot loader loads (`SERVICE_BOOT_START`).
pub(super) const BOOT_START: u32 = 0;

impl DiskBus {
    /// Linux' driver of the emulated controller.
    fn linux_driver(self) -> &'static str {
        match self {
            Self::Ide => "ata_piix",
            Self::Sata => "ahci",
            Self::Nvme => "nvme",
            Self::MegaSas => "megaraid_sas",
            Self::MptSas => "mptsas",
            Self::VirtioScsi => "virtio_scsi",
            Self::VirtioBlk => "virtio_blk",
            Self::Usb => "usb_storage",
        }
    }

    /// Windows' own drivers of it, any of which does; `storahci` since Windows 8, `stornvme` since 8.1.
    fn windows_drivers(self) -> &'static [&'static str] {
        match self {
            Self::Ide => &["intelide", "pciide", "atapi"],
            Self::Sata => &["storahci", "msahci"],
            Self::Nvme => &["stornvme"],
            Self::MegaSas => &["megasas"],
            Self::MptSas => &["lsi_sas"],
            Self::VirtioScsi => &["vioscsi"],
            Self::VirtioBlk => &["viostor"],
            Self::Usb => &["usbstor"],
        }
    }
}

impl System {
    /// Whether it starts with drivers for disks on `bus`: `None` where that is not known.
    pub(super) fn has_driver(&self, bus: DiskBus) -> Option<bool> {
        match self.kind {
            Some(SystemKind::Linux) if self.has_dropped(bus) => Some(false),
            Some(SystemKind::Linux) => match bus {
                DiskBus::VirtioScsi => self.starts_with(&["virtio_pci", "virtio_scsi", "sd_mod"]),
                DiskBus::VirtioBlk => self.starts_with(&["virtio_pci", "virtio_blk"]),
                _ => self.starts_with(&[bus.linux_driver()]),
            },
            Some(SystemKind::Windows) => {
                let drivers = self.drivers.as_deref()?;
                let starts = |name: &&str| {
                    let named = drivers.iter().find(|driver| driver.name == **name);
                    named.is_some_and(|driver| driver.start == Some(BOOT_START))
                };
                let is_told = |name: &&str| drivers.iter().any(|driver| driver.name == **name);
                let names = bus.windows_drivers();
                // Of these two a capture of an older program says nothing.
                let is_silent =
                    matches!(bus, DiskBus::Ide | DiskBus::Usb) && !names.iter().any(is_told);
                (!is_silent).then(|| names.iter().any(starts))
            }
            _ => None,
        }
    }

    /// Whether the kernel that starts has all of these in itself or in its initramfs. Which one starts may not
    /// be known, so all must do.
    fn starts_with(&self, names: &[&str]) -> Option<bool> {
        let kernels = self.kernels.as_deref()?;
        let default = kernels.iter().find(|kernel| kernel.default == Some(true));
        let all: Vec<&Kernel> =
            default.map_or_else(|| kernels.iter().collect(), |kernel| vec![kernel]);
        let has = |kernel: &&Kernel| {
            let lists = [&kernel.initramfs_drivers, &kernel.builtin_drivers];
            let lacks = names.iter().any(|name| {
                let mut drivers = lists.iter().copied().flatten().flatten();
                !drivers.any(|driver| driver == name)
            });
            // A list that was not read may have it.
            let is_known = lists.iter().all(|list| list.is_some());
            (!lacks || is_known).then_some(!lacks)
        };
        let found: Vec<Option<bool>> = all.iter().map(has).collect();
        match found.as_slice() {
            [] => None,
            found if found.contains(&Some(false)) => Some(false),
            found if found.contains(&None) => None,
            _ => Some(true),
        }
    }

    /// Whether the distribution took the emulated adapter out of the driver: RHEL 8 and its rebuilds have no more
    /// mptsas, and a megaraid_sas without the SAS 1078 ("Considerations in adopting RHEL 8", removed hardware
    /// support).
    fn has_dropped(&self, bus: DiskBus) -> bool {
        let is_rhel = self
            .id
            .iter()
            .chain(&self.id_like)
            .any(|id| ["rhel", "centos"].contains(&id.as_str()));
        let major = self.version.as_deref().and_then(|version| {
            let major = version.split('.').next()?;
            major.parse::<u32>().ok()
        });
        matches!(bus, DiskBus::MegaSas | DiskBus::MptSas)
            && is_rhel
            && major.is_some_and(|major| major >= 8)
    }

    /// Whether it starts from this disk, as far as is known.
    fn lies_on(&self, disk: &PlannedDisk) -> bool {
        self.root.disks.is_empty() || self.root.disks.contains(&disk.source_name)
    }

    /// Its name for people.
    fn shown(&self) -> String {
        printable(self.name.as_deref().unwrap_or("the installed system"))
    }
}

impl VmPlan {
    /// The same with disks that a system is seen not to reach moved to a bus that all systems on them reach, and
    /// that the firmware starts from. Where there is none they stay, and [`Self::unreached`] tells them.
    #[must_use]
    pub fn on_reached_buses(mut self, machine: &Machine) -> Self {
        let systems = machine.installed.as_deref().unwrap_or_default();
        for index in 0..self.disks.len() {
            let Some(disk) = self.disks.get(index) else {
                continue;
            };
            let on_it: Vec<&System> = systems
                .iter()
                .filter(|system| system.lies_on(disk))
                .collect();
            let Some(lacking) = on_it
                .iter()
                .find(|system| is_unreached(disk, system, machine))
            else {
                continue;
            };
            let reached = |bus: &DiskBus| {
                let all = on_it
                    .iter()
                    .all(|system| system.has_driver(*bus) == Some(true));
                all && (disk.logical_block_bytes == 512 || bus.takes_large_sectors())
            };
            let (disk_name, system) = (printable(&disk.source_name), lacking.shown());
            let here = disk.bus.shown();
            let (bus, note) = match self.bootable().iter().copied().find(reached) {
                Some(bus) => (
                    bus,
                    format!(
                        "{disk_name} comes to {} instead of {here}: {system} is seen to start on it, and not on {here}",
                        bus.shown()
                    ),
                ),
                // No driver put in would help it there.
                None if lacking.has_dropped(disk.bus) && disk.logical_block_bytes == 512 => (
                    DiskBus::Sata,
                    format!(
                        "{disk_name} comes to SATA instead of {here}, for which {system} has no driver any more"
                    ),
                ),
                None => continue,
            };
            if let Some(disk) = self.disks.get_mut(index) {
                disk.bus = bus;
                disk.bus_note = Some((bus, note));
            }
        }
        self.settle_machine();
        self
    }

    /// Buses that the firmware starts from, those that need nothing of virtual machines first.
    fn bootable(&self) -> &'static [DiskBus] {
        match self.firmware {
            VmFirmware::Bios => &[
                DiskBus::Sata,
                DiskBus::MegaSas,
                DiskBus::MptSas,
                DiskBus::Ide,
                DiskBus::Nvme,
                DiskBus::VirtioScsi,
                DiskBus::VirtioBlk,
            ],
            VmFirmware::Uefi { .. } => &[
                DiskBus::Sata,
                DiskBus::Nvme,
                DiskBus::VirtioScsi,
                DiskBus::VirtioBlk,
            ],
        }
    }

    /// Linux' drivers of the disks that `system` is seen not to reach; names of modules.
    pub fn unreached(&self, system: &System, machine: &Machine) -> Vec<&'static str> {
        let mut drivers: Vec<&'static str> = self
            .disks
            .iter()
            .filter(|disk| system.lies_on(disk) && is_unreached(disk, system, machine))
            .map(|disk| disk.bus.linux_driver())
            .collect();
        drivers.sort_unstable();
        drivers.dedup();
        drivers
    }

    /// Whether all disks are on controllers of the metal's kind.
    pub fn has_the_metals_buses(&self, machine: &Machine) -> bool {
        self.disks.iter().all(|disk| {
            let mut infos = machine.disks.iter();
            let info = infos.find(|info| info.name == disk.source_name);
            info.is_none_or(|info| is_the_metals(info, disk.bus))
        })
    }
}

impl DiskBus {
    /// The bus for people.
    fn shown(self) -> &'static str {
        match self {
            Self::Ide => "IDE",
            Self::Sata => "SATA",
            Self::Nvme => "NVMe",
            Self::MegaSas => "a MegaRAID SAS controller",
            Self::MptSas => "a Fusion-MPT SAS controller",
            Self::VirtioScsi => "virtio-scsi",
            Self::VirtioBlk => "virtio-blk",
            Self::Usb => "USB",
        }
    }
}

/// Whether `system` is seen to have no driver for a disk of the VM. What drove the disk under Linux on the metal drives
/// it here; Windows has a driver for each generation of a controller.
fn is_unreached(disk: &PlannedDisk, system: &System, machine: &Machine) -> bool {
    let mut infos = machine.disks.iter();
    let info = infos.find(|info| info.name == disk.source_name);
    let is_kept = info.is_some_and(|info| is_the_metals(info, disk.bus));
    // An adapter of the same driver may be too old for it.
    let is_kept =
        is_kept && system.kind == Some(SystemKind::Linux) && !system.has_dropped(disk.bus);
    !is_kept && system.has_driver(disk.bus) == Some(false)
}

/// Whether a disk that was here on the metal is on a controller of the same driver.
fn is_the_metals(info: &DiskInfo, bus: DiskBus) -> bool {
    info.driver.as_deref() == Some(bus.linux_driver())
        || bus == DiskBus::Usb && info.driver.as_deref() == Some("uas")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inventory::installed::{RootPlace, WindowsDriver};
    use crate::inventory::{Bus, DiskInfo, FirmwareKind};
    use crate::vm::VmDisk;

    /// A server whose only disk is on this controller.
    fn machine(bus: Bus, driver: &str, system: System) -> Machine {
        let json = br#"{"version": 2, "name": "m"}"#;
        let mut machine = Machine::from_json(json).unwrap();
        machine.disks = vec![DiskInfo {
            name: "sda".into(),
            bus,
            driver: Some(driver.into()),
            size_bytes: 1 << 30,
            ..DiskInfo::default()
        }];
        machine.installed = Some(vec![System {
            root: RootPlace {
                disks: vec!["sda".into()],
                ..RootPlace::default()
            },
            ..system
        }]);
        machine
    }

    fn linux(initramfs: &[&str]) -> System {
        System {
            kind: Some(SystemKind::Linux),
            name: Some("Debian GNU/Linux 13".into()),
            kernels: Some(vec![Kernel {
                initramfs_drivers: Some(initramfs.iter().map(|&name| name.into()).collect()),
                builtin_drivers: Some(Vec::new()),
                ..Kernel::default()
            }]),
            ..System::default()
        }
    }

    fn windows(boot: &[&str]) -> System {
        let driver = |name: &&str| WindowsDriver {
            name: (*name).into(),
            start: Some(BOOT_START),
        };
        System {
            kind: Some(SystemKind::Windows),
            drivers: Some(boot.iter().map(driver).collect()),
            ..System::default()
        }
    }

    fn planned(
        machine: &Machine,
        firmware: FirmwareKind,
    ) -> (DiskBus, Vec<&'static str>, Vec<String>) {
        let disks = [VmDisk::of(&DiskInfo {
            name: "sda".into(),
            size_bytes: 1 << 30,
            ..DiskInfo::default()
        })];
        let plan = VmPlan::with_firmware(machine, &disks, firmware).on_reached_buses(machine);
        let system = &machine.installed.as_ref().unwrap()[0];
        let unreached = plan.unreached(system, machine);
        let notes = plan.all_notes().into_iter();
        let notes = notes.filter(|note| note.contains("seen to start"));
        (plan.disks[0].bus, unreached, notes.collect())
    }

    #[test]
    fn a_disk_comes_to_a_bus_that_the_system_is_seen_to_start_on() {
        use FirmwareKind::{Bios, Uefi};
        let old = linux(&["mpt3sas", "ata_piix", "sd_mod"]);
        let nvme = linux(&["mpt3sas", "nvme"]);
        for (system, firmware, expected) in [
            (&old, Bios, DiskBus::Ide),
            (&nvme, Uefi, DiskBus::Nvme),
            (&windows(&["megasas35i", "stornvme"]), Uefi, DiskBus::Nvme),
            (&windows(&["megasas35i", "lsi_sas"]), Bios, DiskBus::MptSas),
        ] {
            let machine = machine(Bus::Sas, "mpt3sas", system.clone());
            let (bus, unreached, notes) = planned(&machine, firmware);
            assert_eq!(
                (bus, unreached.len(), notes.len()),
                (expected, 0, 1),
                "{notes:?}"
            );
            assert!(notes[0].starts_with("sda comes to"), "{notes:?}");
        }
    }

    #[test]
    fn windows_has_a_driver_for_each_generation_of_a_controller() {
        let system = windows(&["megasas35i", "storahci"]);
        let new = machine(Bus::Sas, "megaraid_sas", system);
        assert_eq!(planned(&new, FirmwareKind::Bios).0, DiskBus::Sata);
    }

    #[test]
    fn where_there_is_none_the_missing_driver_is_told() {
        let machine = machine(Bus::Sas, "smartpqi", linux(&["smartpqi", "sd_mod"]));
        let (bus, unreached, notes) = planned(&machine, FirmwareKind::Uefi);
        assert_eq!((bus, unreached), (DiskBus::Sata, vec!["ahci"]));
        assert_eq!(notes, Vec::<String>::new());
    }

    #[test]
    fn what_drove_the_disk_on_the_metal_and_what_is_not_known_is_not_questioned() {
        for (bus, driver, system, expected) in [
            (Bus::Sata, "ahci", linux(&["sd_mod"]), DiskBus::Sata),
            (
                Bus::Sas,
                "megaraid_sas",
                windows(&["megasas"]),
                DiskBus::MegaSas,
            ),
            (Bus::Sas, "mpt3sas", System::default(), DiskBus::MegaSas),
        ] {
            let machine = machine(bus, driver, system);
            let (bus, unreached, notes) = planned(&machine, FirmwareKind::Bios);
            assert_eq!(
                (bus, unreached.len(), notes.len()),
                (expected, 0, 0),
                "{notes:?}"
            );
        }
        let mut system = linux(&[]);
        system.kernels.as_mut().unwrap()[0].initramfs_drivers = None;
        let raid = machine(Bus::Sas, "mpt3sas", system);
        assert!(planned(&raid, FirmwareKind::Bios).1.is_empty());
        // Nor is a kernel whose own drivers are not known.
        let mut system = linux(&["mpt3sas", "nvme"]);
        system.kernels.as_mut().unwrap()[0].builtin_drivers = None;
        let raid = machine(Bus::Sas, "mpt3sas", system);
        let (bus, unreached, _) = planned(&raid, FirmwareKind::Bios);
        assert_eq!((bus, unreached.len()), (DiskBus::MegaSas, 0));
        // Of IDE older captures of a Windows say nothing.
        let ide = machine(Bus::Ide, "pata_via", windows(&["storahci"]));
        assert_eq!(planned(&ide, FirmwareKind::Bios).0, DiskBus::Ide);
    }

    #[test]
    fn rhel_8_has_no_driver_for_the_emulated_sas_adapters() {
        let mut system = linux(&["megaraid_sas", "ahci"]);
        system.id = Some("rocky".into());
        system.id_like = vec!["rhel".into(), "centos".into(), "fedora".into()];
        system.version = Some("8.10".into());
        let new = machine(Bus::Sas, "megaraid_sas", system.clone());
        assert_eq!(planned(&new, FirmwareKind::Bios).0, DiskBus::Sata);
        // Not even where none is seen: the initramfs gets what helps.
        let mut bare = system.clone();
        bare.kernels.as_mut().unwrap()[0].initramfs_drivers = Some(vec!["megaraid_sas".into()]);
        let bare = machine(Bus::Sas, "megaraid_sas", bare);
        let (bus, unreached, notes) = planned(&bare, FirmwareKind::Bios);
        assert_eq!(
            (bus, unreached, notes.len()),
            (DiskBus::Sata, vec!["ahci"], 0)
        );
        system.version = Some("7.9".into());
        let old = machine(Bus::Sas, "megaraid_sas", system);
        assert_eq!(planned(&old, FirmwareKind::Bios).0, DiskBus::MegaSas);
    }

    #[test]
    fn a_disk_of_data_stays_where_it_is() {
        let mut machine = machine(Bus::Sas, "mpt3sas", linux(&["nvme"]));
        machine.installed.as_mut().unwrap()[0].root.disks = vec!["nvme0n1".into()];
        let (bus, unreached, _) = planned(&machine, FirmwareKind::Bios);
        assert_eq!((bus, unreached.len()), (DiskBus::MegaSas, 0));
    }
}
