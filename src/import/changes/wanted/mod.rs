//! Which changes a system needs to run as a VM, decided from the inventory alone.

mod fallback;
mod places;

pub(super) use fallback::Fallback;

use super::groups::Group;
use super::mounts::{is_mapper_name, place_name};
use super::{lvm, windows};
use crate::import::Options;
use crate::inventory::installed::RootPlace;
use crate::inventory::{DiskBoot, Machine, System, SystemKind};
use crate::vm::{DiskBus, Profile, VmFirmware, VmPlan, printable};

/// How disks of the VM are started, each with its number there.
pub(super) type Boots<'a> = &'a [(usize, &'a DiskBoot)];

/// What kernel-install(8) and ukify(1) take a kernel's command line from.
const KERNEL_COMMAND_LINE: &str = "/etc/kernel/cmdline";

/// Where systemd mounts what it finds by its type (systemd-gpt-auto-generator(8)).
const DISCOVERED: [&str; 2] = ["/boot", "/efi"];

/// A card that shall keep its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Link {
    /// Six pairs of hexadecimal digits with colons, lower case.
    pub(super) mac: String,
    /// As the installed system calls it.
    pub(super) name: String,
    /// Where it was on the machine, `0000:18:00.0`.
    pub(super) pci_address: Option<String>,
    /// Its driver there.
    pub(super) driver: Option<String>,
}

/// A kernel that could be started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct KernelImage {
    pub(super) release: String,
    /// The path of its initramfs.
    pub(super) initramfs: Option<String>,
    /// The path of the unified kernel image that it starts from.
    pub(super) unified: Option<String>,
}

impl KernelImage {
    /// The file that has its initramfs.
    pub(super) fn file(&self) -> Option<&str> {
        self.unified.as_deref().or(self.initramfs.as_deref())
    }
}

/// What to change.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    /// Cards whose names would be others.
    pub(super) links: Vec<Link>,
    /// Where the root filesystem is.
    pub(super) root: RootPlace,
    /// What the system mounts, by its fstab.
    pub(super) mounts: Vec<String>,
    /// What it mounts by the type of the partition: where, and the filesystem's UUID.
    pub(super) discovered: Vec<(String, String)>,
    /// The system's names of LUKS containers, by their UUIDs.
    pub(super) luks: Vec<(String, String)>,
    /// A LUKS container's name that only the kernel's command line tells.
    pub(super) luks_root: Option<String>,
    /// The file that the kernel's command line stands in.
    pub(super) loader_file: Option<String>,
    /// The name behind `root=`.
    pub(super) root_name: Option<String>,
    /// The name behind `resume=`.
    pub(super) resume_name: Option<String>,
    /// Whether the system names a disk by a place of which it is not known which disk that was.
    pub(super) unknown_places: bool,
    /// Names of disks by their place that mean something else in the VM, each with the disk's number there.
    pub(super) places: Vec<(String, usize)>,
    /// Such names that mean the same.
    pub(super) stay: Vec<(String, usize)>,
    /// Partitions by such names that are given a new key at each start.
    pub(super) fleeting: Vec<String>,
    /// Its kernels, that which starts first; empty where they are not known.
    pub(super) kernels: Vec<KernelImage>,
    /// Whether the VM's firmware starts only what is signed.
    pub(super) secure_boot: bool,
    /// Drivers of the VM's disks, if the initramfs lacks them.
    pub(super) drivers: Vec<&'static str>,
    /// Whether LVM looks for disks by what they have only on the metal.
    pub(super) lvm_devices: bool,
    /// The Windows that lacks the drivers of the VM's disks: where it is.
    pub(super) windows: Option<RootPlace>,
    /// The loader that the firmware falls back to: a copy of this one.
    pub(super) fallback: Option<Fallback>,
    /// What cannot be changed though it should, each a sentence.
    pub(super) notes: Vec<String>,
}

impl Wanted {
    /// `boots` are the plan's disks as they are started.
    pub(super) fn new(
        machine: &Machine,
        boots: Boots<'_>,
        plan: &VmPlan,
        options: &Options,
    ) -> Self {
        let mut wanted = Self {
            secure_boot: plan.firmware == VmFirmware::Uefi { secure_boot: true },
            ..Self::default()
        };
        if options.fallback_loader && plan.firmware != VmFirmware::Bios && !boots.is_empty() {
            wanted.fallback(boots);
        }
        let systems = machine.installed.as_deref().unwrap_or_default();
        let Some(system) = systems.first() else {
            return wanted;
        };
        match system.kind {
            Some(SystemKind::Linux) => {
                wanted.describe(system);
                wanted.links(machine, plan, system);
                wanted.places(machine, plan, system);
                wanted.lvm_devices = lvm::names_disks(system);
                wanted.notes.extend(lvm::note(system));
                // What was on virtio already, or was put there by hand, has its drivers.
                if options.profile == Profile::Virtio && !plan.starts_on_virtio(system) {
                    wanted.drivers = drivers(plan);
                } else {
                    wanted.drivers = plan.unreached(system, machine);
                }
            }
            _ => match windows::needs(system, plan, options.profile) {
                None => wanted
                    .notes
                    .extend(windows::unreached(system, plan, machine)),
                Some(Ok(root)) => {
                    wanted.windows = Some(root);
                    // virt-v2v puts it there itself.
                    wanted.fallback = None;
                }
                Some(Err(why)) => wanted.notes.push(why.into()),
            },
        }
        wanted
    }

    pub(super) fn is_empty(&self) -> bool {
        self.groups().is_empty()
    }

    /// What is to be changed, in the order in which it is done.
    pub(super) fn groups(&self) -> Vec<Group> {
        let all = [
            (Group::Windows, self.windows.is_some()),
            (Group::Loader, self.fallback.is_some()),
            (Group::Names, !self.links.is_empty()),
            (Group::Tables, !self.places.is_empty()),
            (Group::Lvm, self.lvm_devices),
            (Group::Drivers, !self.drivers.is_empty()),
        ];
        let wanted = all.into_iter().filter(|(_, is_wanted)| *is_wanted);
        wanted.map(|(group, _)| group).collect()
    }

    /// Whether anything is to be changed that guestfish changes.
    pub(super) fn needs_guestfish(&self) -> bool {
        self.groups().iter().any(|group| *group != Group::Windows)
    }

    /// What a group changes, for people.
    pub(super) fn sentence(&self, group: Group) -> String {
        match group {
            Group::Loader => "the ESP gets the loader that any firmware starts".into(),
            Group::Names => {
                let names: Vec<&str> = self.links.iter().map(|link| link.name.as_str()).collect();
                format!("network cards keep their names ({})", names.join(", "))
            }
            Group::Tables => {
                let names = self.places.iter().map(|(name, _)| printable(name));
                let names: Vec<String> = names.collect();
                format!("filesystems are named by UUID ({})", names.join(", "))
            }
            Group::Windows => "Windows gets the virtio drivers by virt-v2v-in-place".into(),
            Group::Lvm => "LVM finds its volumes by their content".into(),
            Group::Drivers => format!(
                "the initramfs gets drivers of the VM's disks ({})",
                self.drivers.join(", ")
            ),
        }
    }

    /// All of it, for people.
    pub(super) fn sentences(&self) -> Vec<String> {
        let groups = self.groups().into_iter();
        groups.map(|group| self.sentence(group)).collect()
    }

    /// The device in libguestfs' machine, which has the disks in the VM's order, that a name by place means.
    pub(super) fn device(&self, name: &str) -> Option<String> {
        let mut known = self.places.iter().chain(&self.stay);
        let (_, index) = known.find(|(known, _)| known == name)?;
        let letter = ('a'..='z').nth(*index)?;
        let partition = place_name(name)?.partition;
        let number = partition.map_or_else(String::new, |number| number.to_string());
        Some(format!("/dev/sd{letter}{number}"))
    }

    /// Cards are named after their place (systemd.net-naming-scheme(7)), which is another one now.
    fn links(&mut self, machine: &Machine, plan: &VmPlan, system: &System) {
        let bound = |mac: &str| {
            let names = system.network.iter().flat_map(|network| &network.names);
            // A rule that also asks for the place does not fit any more.
            names
                .filter(|name| name.pci_address.is_none())
                .filter_map(|name| name.mac.as_deref())
                .any(|m| m == mac)
        };
        let cards = machine.nics.iter().filter_map(|nic| {
            let mac = nic.mac.as_deref()?.to_ascii_lowercase();
            let name = nic.installed_name.clone()?;
            let is_there = plan.nics.iter().any(|nic| nic.mac == mac);
            is_there.then(|| Link {
                mac,
                name,
                pci_address: nic.pci_address.clone(),
                driver: nic.driver.clone(),
            })
        });
        let cards: Vec<Link> = cards.collect();
        for card in &cards {
            let Link { mac, name, .. } = card;
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
            self.links.push(card.clone());
        }
    }

    fn describe(&mut self, system: &System) {
        self.root = system.root.clone();
        let fstab = system.fstab.iter().flatten();
        self.mounts = fstab
            .filter(|entry| !entry.options.iter().any(|option| option == "noauto"))
            .map(|entry| entry.file.clone())
            .collect();
        let discovered = system.discovered_mounts.iter().flatten();
        self.discovered = discovered
            .filter_map(|entry| {
                let uuid = entry.spec.strip_prefix("UUID=")?;
                Some((entry.file.clone(), uuid.to_owned()))
            })
            .filter(|(path, _)| DISCOVERED.contains(&&**path))
            .collect();
        let crypttab = system.crypttab.iter().flatten();
        self.luks = crypttab
            .filter(|entry| is_mapper_name(&entry.name))
            .filter_map(|entry| {
                let uuid = entry.spec.strip_prefix("UUID=")?.trim_matches('"');
                Some((uuid.to_ascii_lowercase(), entry.name.clone()))
            })
            .collect();
        let kernels = system.kernels.iter().flatten();
        self.kernels = kernels
            .map(|kernel| KernelImage {
                release: kernel.release.clone(),
                initramfs: kernel.initramfs.clone(),
                unified: kernel.unified_image.clone(),
            })
            .collect();
        let line = system.command_line.as_ref();
        let root = line.and_then(|line| line.root.as_deref());
        self.luks_root = root
            .and_then(|root| root.strip_prefix("/dev/mapper/"))
            .filter(|name| system.root.encrypted && is_mapper_name(name))
            .map(str::to_owned);
        self.loader_file = line.map(|line| match self.unified() {
            // The image is made anew from there.
            Some(_) => KERNEL_COMMAND_LINE.to_owned(),
            None => line.file.clone(),
        });
        self.root_name = root.map(str::to_owned);
        self.resume_name = line.and_then(|line| line.resume.clone());
    }

    /// The unified kernel image that starts.
    pub(super) fn unified(&self) -> Option<&str> {
        self.kernels.first()?.unified.as_deref()
    }

    /// What the system calls the LUKS container with this UUID.
    pub(super) fn luks_name(&self, uuid: &str) -> Option<String> {
        let mut known = self.luks.iter();
        let known = known.find(|(known, _)| *known == uuid.to_ascii_lowercase());
        let known = known.map(|(_, name)| name.clone());
        // Without a table there is one container, and the kernel's command line names what is in it.
        known.or_else(|| self.luks_root.clone().filter(|_| self.luks.is_empty()))
    }
}

/// The drivers of the VM's disks.
fn drivers(plan: &VmPlan) -> Vec<&'static str> {
    let mut drivers = vec!["virtio_pci"];
    for (bus, driver) in [
        (DiskBus::VirtioBlk, "virtio_blk"),
        (DiskBus::VirtioScsi, "virtio_scsi"),
    ] {
        if plan.disks.iter().any(|disk| disk.bus == bus) {
            drivers.push(driver);
        }
    }
    drivers
}

/// A name that the kernel takes (`dev_valid_name`: 15 bytes, no `/`, no blank), and that ends no line of a
/// configuration file.
fn is_interface_name(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    (1..=15).contains(&name.len()) && name.bytes().all(plain) && !name.starts_with(['.', '-'])
}

#[cfg(test)]
mod tests;
