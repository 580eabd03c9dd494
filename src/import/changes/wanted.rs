//! Which changes a system needs to run as a VM, decided from the inventory alone.

use super::mounts::{PlaceName, place_name};
use crate::import::Options;
use crate::inventory::{Machine, System, SystemKind};
use crate::vm::{DiskBus, PlannedDisk, VmFirmware, VmPlan, best_loader};
use std::path::Path;

/// A card that shall keep its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Link {
    /// Six pairs of hexadecimal digits with colons, lower case.
    pub(super) mac: String,
    /// As the installed system calls it.
    pub(super) name: String,
}

/// What to change.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    /// Cards whose names would be others.
    pub(super) links: Vec<Link>,
    /// Names of disks by their place, each with the disk's number in the VM.
    pub(super) places: Vec<(String, usize)>,
    /// Whether the initramfs lacks the drivers of the VM's disks.
    pub(super) virtio: bool,
    /// The loader that the firmware falls back to: a copy of this one (`/EFI/debian/shimx64.efi`).
    pub(super) fallback_of: Option<String>,
    /// What cannot be changed though it should, each a sentence.
    pub(super) notes: Vec<String>,
}

impl Wanted {
    pub(super) fn new(machine: &Machine, plan: &VmPlan, options: &Options) -> Self {
        let mut wanted = Self::default();
        if options.fallback_loader && plan.firmware != VmFirmware::Bios {
            wanted.fallback(machine);
        }
        let systems = machine.installed.as_deref().unwrap_or_default();
        let Some(system) = systems.first() else {
            return wanted;
        };
        match system.kind {
            Some(SystemKind::Linux) => {
                wanted.links(machine, plan, system);
                wanted.places(plan, system);
                wanted.virtio = !plan.starts_on_virtio(system);
            }
            Some(SystemKind::Windows) if !plan.starts_on_virtio(system) => {
                wanted.notes.push(
                    "this Windows has no virtio drivers that start with it: it will not find its disks. \
                     Import with --profile faithful, or run virt-v2v-in-place (with virtio-win) on the \
                     imported disks"
                        .into(),
                );
            }
            _ => {}
        }
        wanted
    }

    pub(super) fn is_empty(&self) -> bool {
        self.sentences().is_empty()
    }

    /// What is to be changed, for people.
    pub(super) fn sentences(&self) -> Vec<String> {
        let mut sentences = Vec::new();
        if !self.links.is_empty() {
            let names: Vec<&str> = self.links.iter().map(|link| link.name.as_str()).collect();
            sentences.push(format!(
                "network cards keep their names ({})",
                names.join(", ")
            ));
        }
        if !self.places.is_empty() {
            let names: Vec<&str> = self.places.iter().map(|(name, _)| name.as_str()).collect();
            sentences.push(format!(
                "filesystems are named by UUID ({})",
                names.join(", ")
            ));
        }
        if self.virtio {
            sentences.push("the initramfs gets the virtio drivers".into());
        }
        if self.fallback_of.is_some() {
            sentences.push("the ESP gets the loader that any firmware starts".into());
        }
        sentences
    }

    /// Cards are named after their place (systemd.net-naming-scheme(7)), which is another one now.
    fn links(&mut self, machine: &Machine, plan: &VmPlan, system: &System) {
        let bound = |mac: &str| {
            let names = system.network.iter().flat_map(|network| &network.names);
            names
                .filter_map(|name| name.mac.as_deref())
                .any(|m| m == mac)
        };
        let cards = machine.nics.iter().filter_map(|nic| {
            let mac = nic.mac.as_deref()?.to_ascii_lowercase();
            let name = nic.installed_name.clone()?;
            plan.nics
                .iter()
                .any(|nic| nic.mac == mac)
                .then_some((mac, name))
        });
        let cards: Vec<(String, String)> = cards.collect();
        for (mac, name) in &cards {
            if bound(mac) || !is_interface_name(name) {
                continue;
            }
            // The kernel's own names: a rule that swaps two of them fails.
            if name
                .strip_prefix("eth")
                .is_some_and(|n| n.parse::<u32>().is_ok())
            {
                if cards.len() > 1 {
                    self.notes.push(format!(
                        "the network card {mac} was {name} by the order in which the kernel found the \
                         cards, which may be another one in the VM"
                    ));
                }
                continue;
            }
            self.links.push(Link {
                mac: mac.clone(),
                name: name.clone(),
            });
        }
    }

    fn places(&mut self, plan: &VmPlan, system: &System) {
        let root = system
            .command_line
            .as_ref()
            .and_then(|line| line.root.as_deref());
        let resume = system
            .command_line
            .as_ref()
            .and_then(|line| line.resume.as_deref());
        let fstab = system
            .fstab
            .iter()
            .flatten()
            .map(|entry| entry.spec.as_str());
        let crypttab = system
            .crypttab
            .iter()
            .flatten()
            .map(|entry| entry.spec.as_str());
        let root_entry = system
            .fstab
            .iter()
            .flatten()
            .find(|entry| entry.file == "/");
        // Which disk the root lies on is known by its content: the other names follow from its.
        let anchor = [root, root_entry.map(|entry| entry.spec.as_str())]
            .into_iter()
            .flatten()
            .find_map(place_name);
        let root_disk = system.root.disks.first().and_then(|name| {
            let same = |disk: &PlannedDisk| disk.source_name == *name;
            plan.disks.iter().position(same)
        });
        for name in root.into_iter().chain(resume).chain(fstab).chain(crypttab) {
            let Some(place) = place_name(name) else {
                continue;
            };
            if self.places.iter().any(|(known, _)| known == name) {
                continue;
            }
            let on_root_disk = anchor
                .as_ref()
                .is_some_and(|anchor| anchor.disk == place.disk);
            let disk = match (plan.disks.len(), root_disk) {
                (1, _) => Some(0),
                (_, Some(index)) if on_root_disk => Some(index),
                (2, Some(index)) if anchor.is_some() => Some(1_usize.saturating_sub(index)),
                _ => None,
            };
            let Some(index) = disk else {
                self.notes.push(format!(
                    "the installed system names a filesystem {name:?}, and which of the disks that was is \
                     not known: the VM may call it otherwise"
                ));
                continue;
            };
            let Some(disk) = plan.disks.get(index) else {
                continue;
            };
            if !stays(&place, disk, index) {
                self.places.push((name.to_owned(), index));
            }
        }
    }

    fn fallback(&mut self, machine: &Machine) {
        let boots = machine.disks.iter().filter_map(|disk| disk.boot.as_ref());
        let esps = boots.flat_map(|boot| &boot.esps);
        let loaders: Vec<&str> = esps
            .flat_map(|esp| esp.loaders.iter().flatten())
            .map(String::as_str)
            .collect();
        let fallback = "/EFI/BOOT/BOOTX64.EFI";
        if loaders
            .iter()
            .any(|path| path.eq_ignore_ascii_case(fallback))
        {
            return;
        }
        match best_loader(&loaders) {
            Some(path) => self.fallback_of = Some(path.to_owned()),
            None => self.notes.push(
                "no loader that is known to start a system was found on an EFI system partition: there is \
                 nothing to put at the path that firmware falls back to"
                    .into(),
            ),
        }
    }
}

/// Whether the name means the same in the VM, where `disk` is the `index`th one.
fn stays(place: &PlaceName, disk: &PlannedDisk, index: usize) -> bool {
    let name = place.disk.as_str();
    if let Some(id) = name.strip_prefix("/dev/disk/by-id/") {
        return match disk.bus {
            DiskBus::Sata | DiskBus::Ide => id.starts_with("ata-") && disk.model.is_some(),
            bus => bus.is_scsi() && id.starts_with("wwn-") && disk.wwn.is_some(),
        };
    }
    let expected = match disk.bus {
        DiskBus::Nvme => format!("/dev/nvme{index}n1"),
        DiskBus::VirtioBlk => format!("/dev/vd{}", letter(index)),
        _ => format!("/dev/sd{}", letter(index)),
    };
    Path::new(name) == Path::new(&expected)
}

/// The kernel's letter of the `index`th disk; past `z` nothing that is a name.
fn letter(index: usize) -> char {
    ('a'..='z').nth(index).unwrap_or('?')
}

/// A name that the kernel takes (`dev_valid_name`: 15 bytes, no `/`, no blank), and that ends no line of a
/// configuration file.
fn is_interface_name(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    (1..=15).contains(&name.len()) && name.bytes().all(plain) && !name.starts_with(['.', '-'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_end_a_line_are_no_names_of_cards() {
        for name in [
            "",
            "a b",
            "a\nName=x",
            "sixteen-letters-",
            "../x",
            "eth0;id",
        ] {
            assert!(!is_interface_name(name), "{name:?}");
        }
        assert!(is_interface_name("enp24s0f0np0"));
    }
}
