//! What only the disks themselves tell: how their system is started, which RAID they belong to, how
//! well they are. Nothing is written to them, and a disk that cannot be read leaves a gap.

use super::boot::{self, DiskBoot};
use super::{Bus, DiskInfo, FirmwareKind, Machine, health, installed, installed_names, raid};
use crate::device::{Disk, ReadAt};
use crate::error::Result;
use crate::usedmap;
use crate::volume::crypt::Secrets;
use std::path::Path;

impl Machine {
    /// Looks at this machine and at its disks, each opened read-only, and decides what the installed
    /// system is started by.
    pub fn here() -> Self {
        let mut machine = Self::read(Path::new("/"));
        machine.look_at_disks();
        machine
    }

    /// Looks for the systems on this machine's own disks, not those on USB sticks. What of them is not
    /// known comes back with the reasons, as sentences. What `secrets` open is looked into, in memory.
    pub fn look_for_systems(&mut self, secrets: &Secrets) -> Vec<String> {
        let own = self.disks.iter().filter(|disk| is_own(disk));
        // What cannot be opened is in the inventory with a gap.
        let disks: Vec<Disk> = own
            .filter(|disk| disk.size_bytes > 0)
            .filter_map(|disk| Disk::open(&disk.device()).ok())
            .collect();
        self.look_for_systems_on(&disks, secrets)
    }

    /// The same on these disks, which may be image files.
    pub fn look_for_systems_on(&mut self, disks: &[Disk], secrets: &Secrets) -> Vec<String> {
        if disks.is_empty() {
            return Vec::new();
        }
        let found = look(disks, secrets);
        let found = match found {
            Ok(found) => found,
            // Whoever needs the disk will say so too.
            Err(error) => return vec![format!("no installed system is known: {error}")],
        };
        let mut systems = found.systems;
        installed::by_firmware(&mut systems, &self.firmware);
        if let Some(first) = systems.first() {
            // Whoever looks (a workshop's computer, at an image) may count in another way.
            self.rtc = first.rtc.or(self.rtc);
            // A system on an image is none of this machine's, and knows nothing of its cards.
            let is_own = |disk: &Disk| {
                self.disks
                    .iter()
                    .any(|d| d.device() == disk.identity().path)
            };
            if disks.iter().all(is_own) {
                installed_names::give(&mut self.nics, first);
            }
        }
        self.installed = Some(systems);
        found.notes
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
            .filter(|disk| is_own(disk))
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

fn is_own(disk: &DiskInfo) -> bool {
    disk.bus != Bus::Usb && !disk.removable
}

fn look(disks: &[Disk], secrets: &Secrets) -> Result<installed::Found> {
    let sources: Vec<(&dyn ReadAt, usedmap::DiskInfo)> = disks
        .iter()
        .map(|disk| {
            let content: &dyn ReadAt = disk;
            (content, usedmap::DiskInfo::from(disk.identity()))
        })
        .collect();
    installed::look(&sources, secrets)
}
