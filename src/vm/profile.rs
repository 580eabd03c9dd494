//! Which hardware a VM has: that of the metal as far as it is emulated, which needs no drivers that the
//! system did not have, or virtio, which is faster.

use super::{DiskBus, NicModel, VmPlan};
use crate::inventory::{System, SystemKind};

/// A choice of emulated hardware.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Profile {
    /// virtio where every system on the disks is seen to start on it, else faithful
    #[default]
    Auto,
    /// The same kinds of controllers and network cards as on the metal
    Faithful,
    /// virtio disks and network cards
    Virtio,
}

impl System {
    /// The virtio disks that it would start on as it is, the better first; none where that is not seen.
    pub fn virtio_disks(&self) -> Vec<DiskBus> {
        match self.kind {
            Some(SystemKind::Linux) => self.linux_virtio_disks(),
            Some(SystemKind::Windows) => self.windows_virtio_disks(),
            _ => Vec::new(),
        }
    }

    fn linux_virtio_disks(&self) -> Vec<DiskBus> {
        // On the first one its disks keep the names that SATA and SAS disks have.
        let buses = [DiskBus::VirtioScsi, DiskBus::VirtioBlk].into_iter();
        buses
            .filter(|bus| self.has_driver(*bus) == Some(true))
            .collect()
    }

    fn windows_virtio_disks(&self) -> Vec<DiskBus> {
        let drivers = self.drivers.as_deref().unwrap_or_default();
        // Without a driver for its card a Windows is out of reach.
        let staged = self.staged_drivers.as_deref().unwrap_or_default();
        let card = |name: &str| name == "netkvm";
        let has_card = drivers.iter().any(|driver| card(&driver.name));
        if !has_card && !staged.iter().any(|name| card(name)) {
            return Vec::new();
        }
        let buses = [DiskBus::VirtioScsi, DiskBus::VirtioBlk].into_iter();
        buses
            .filter(|bus| self.has_driver(*bus) == Some(true))
            .collect()
    }
}

impl VmPlan {
    /// The same with the hardware that `profile` asks for. `systems` are those on the disks.
    #[must_use]
    pub fn with_profile(mut self, profile: Profile, systems: &[System]) -> Self {
        let seen = common(systems);
        let bus = match (profile, seen.first()) {
            (Profile::Faithful, _) | (Profile::Auto, None) => return self,
            (_, Some(bus)) => *bus,
            // It is to be given the drivers: of all systems these two know virtio-blk the longest.
            (Profile::Virtio, None) => DiskBus::VirtioBlk,
        };
        for disk in &mut self.disks {
            disk.bus = bus;
        }
        for nic in &mut self.nics {
            nic.model = NicModel::Virtio;
        }
        self.settle_machine();
        self
    }

    /// Whether a disk of it is on virtio.
    pub fn needs_virtio(&self) -> bool {
        let virtio = |bus| matches!(bus, DiskBus::VirtioBlk | DiskBus::VirtioScsi);
        self.disks.iter().any(|disk| virtio(disk.bus))
    }

    /// Whether `system` is seen to start on all virtio disks of it.
    pub fn starts_on_virtio(&self, system: &System) -> bool {
        let seen = system.virtio_disks();
        self.disks.iter().all(|disk| match disk.bus {
            DiskBus::VirtioBlk | DiskBus::VirtioScsi => seen.contains(&disk.bus),
            _ => true,
        })
    }
}

/// What all systems start on, in the order of the first one.
fn common(systems: &[System]) -> Vec<DiskBus> {
    let Some((first, others)) = systems.split_first() else {
        return Vec::new();
    };
    let mut buses = first.virtio_disks();
    for other in others {
        let theirs = other.virtio_disks();
        buses.retain(|bus| theirs.contains(bus));
    }
    buses
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inventory::installed::{Kernel, WindowsDriver};

    fn linux(initramfs: &[&str], builtin: &[&str]) -> System {
        let list = |names: &[&str]| Some(names.iter().map(|&name| name.into()).collect());
        System {
            kind: Some(SystemKind::Linux),
            kernels: Some(vec![Kernel {
                release: "6.12.57".into(),
                initramfs_drivers: list(initramfs),
                builtin_drivers: list(builtin),
                ..Kernel::default()
            }]),
            ..System::default()
        }
    }

    #[test]
    fn a_linux_whose_initramfs_or_kernel_has_all_of_a_disks_drivers_starts_on_it() {
        let debian = linux(&["sd_mod", "virtio_blk", "virtio_scsi"], &["virtio_pci"]);
        let both = [DiskBus::VirtioScsi, DiskBus::VirtioBlk];
        assert_eq!(debian.virtio_disks(), both);
        let ubuntu = linux(&[], &["virtio_blk", "virtio_pci", "sd_mod"]);
        assert_eq!(ubuntu.virtio_disks(), [DiskBus::VirtioBlk]);
        for (initramfs, builtin) in [
            (&["ahci", "sd_mod"][..], &["virtio_pci"][..]),
            (&["virtio_blk"], &[]),
            (&[], &[]),
        ] {
            assert_eq!(linux(initramfs, builtin).virtio_disks(), []);
        }
    }

    #[test]
    fn an_initramfs_that_was_not_read_has_nothing() {
        let mut system = linux(&[], &["virtio_pci", "virtio_blk"]);
        system.kernels.as_mut().unwrap()[0].initramfs_drivers = None;
        assert_eq!(system.virtio_disks(), [DiskBus::VirtioBlk]);
        system.kernels = None;
        assert_eq!(system.virtio_disks(), []);
        assert_eq!(System::default().virtio_disks(), []);
    }

    #[test]
    fn a_kernel_that_may_start_and_has_no_driver_counts() {
        let mut system = linux(&["virtio_blk", "virtio_pci"], &[]);
        system.kernels.as_mut().unwrap().push(Kernel {
            release: "5.10".into(),
            initramfs_drivers: Some(vec!["ahci".into()]),
            ..Kernel::default()
        });
        assert_eq!(system.virtio_disks(), []);
        system.kernels.as_mut().unwrap()[0].default = Some(true);
        assert_eq!(system.virtio_disks(), [DiskBus::VirtioBlk]);
    }

    #[test]
    fn a_windows_starts_on_drivers_that_its_boot_loader_loads() {
        let driver = |name: &str, start| WindowsDriver {
            name: name.into(),
            start: Some(start),
        };
        let mut system = System {
            kind: Some(SystemKind::Windows),
            drivers: Some(vec![
                driver("viostor", 0),
                driver("vioscsi", 3),
                driver("netkvm", 3),
            ]),
            ..System::default()
        };
        assert_eq!(system.virtio_disks(), [DiskBus::VirtioBlk]);
        system.drivers = Some(vec![driver("viostor", 0)]);
        assert_eq!(system.virtio_disks(), []);
        // What it installs itself when it starts.
        system.staged_drivers = Some(vec!["balloon".into(), "netkvm".into()]);
        assert_eq!(system.virtio_disks(), [DiskBus::VirtioBlk]);
    }

    #[test]
    fn of_two_systems_both_count() {
        let able = linux(&["sd_mod", "virtio_blk", "virtio_scsi"], &["virtio_pci"]);
        let other = linux(&["virtio_blk"], &["virtio_pci"]);
        assert_eq!(common(&[able.clone(), other]), [DiskBus::VirtioBlk]);
        assert_eq!(common(&[able, System::default()]), []);
        assert_eq!(common(&[]), []);
    }
}
