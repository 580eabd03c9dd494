//! What only the disks themselves tell: how their system is started, which RAID they belong to, how
//! well they are. Nothing is written to them, and a disk that cannot be read leaves a gap.

use super::boot::{self, DiskBoot};
use super::{Bus, FirmwareKind, Machine, health, raid};
use crate::device::{Disk, ReadAt};
use std::path::Path;

impl Machine {
    /// Looks at this machine and at its disks, each opened read-only, and decides what the installed
    /// system is started by.
    pub fn here() -> Self {
        let mut machine = Self::read(Path::new("/"));
        machine.look_at_disks();
        machine
    }

    fn look_at_disks(&mut self) {
        for disk in &mut self.disks {
            if disk.size_bytes == 0 {
                continue;
            }
            let Ok(open) = Disk::open(&disk.device()) else {
                continue;
            };
            let sector = open.identity().logical_sector_bytes;
            let content: &dyn ReadAt = &open;
            disk.boot = DiskBoot::look(content, sector).ok();
            disk.raid = raid::members(content, sector);
            let answers = health::ask(disk);
            disk.smart = answers.smart;
            disk.hidden_area = answers.hidden_area;
        }
        // A stick's own system is not the machine's.
        let own: Vec<&DiskBoot> = self
            .disks
            .iter()
            .filter(|disk| disk.bus != Bus::Usb && !disk.removable)
            .filter_map(|disk| disk.boot.as_ref())
            .collect();
        // No disk that could be read is no verdict about disks.
        if own.is_empty() {
            return;
        }
        let (installed, why) = boot::verdict(own, &self.entry_paths());
        self.firmware.installed = installed;
        self.firmware.installed_why = Some(why);
    }

    fn entry_paths(&self) -> Vec<&str> {
        let entries = self.firmware.boot_entries.iter();
        entries.map(|entry| entry.path.as_str()).collect()
    }

    /// The firmware that a VM of these disks needs, and a sentence where that is another than the one
    /// that the stick was started by, or a choice between two.
    pub fn firmware_for<'a>(
        &self,
        disks: impl IntoIterator<Item = &'a DiskBoot>,
    ) -> (FirmwareKind, Option<String>) {
        let booted = self.firmware.kind;
        let disks: Vec<&DiskBoot> = disks.into_iter().collect();
        let both = disks.iter().any(|disk| disk.by_bios) && disks.iter().any(|disk| disk.by_uefi);
        match boot::verdict(disks, &self.entry_paths()) {
            (Some(kind), _) if kind == booted => (kind, None),
            (Some(kind), why) => (
                kind,
                Some(format!(
                    "the VM has {kind}: {why}. The stick was started by {booted}"
                )),
            ),
            (None, why) if both => (
                booted,
                Some(format!(
                    "the VM has {booted}, which the stick was started by: {why}"
                )),
            ),
            (None, _) => (booted, None),
        }
    }
}
