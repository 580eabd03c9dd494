//! Which changes a system needs to run as a VM, decided from the inventory alone.

use super::disks::{Disks, is_own};
use super::mounts::{is_mapper_name, place_name};
use super::{lvm, windows};
use crate::import::Options;
use crate::inventory::installed::RootPlace;
use crate::inventory::{DiskBoot, Machine, System, SystemKind};
use crate::vm::{Profile, VmFirmware, VmPlan, best_loader, printable};

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
    /// Where the root filesystem is.
    pub(super) root: RootPlace,
    /// What the system mounts, by its fstab.
    pub(super) mounts: Vec<String>,
    /// The system's names of LUKS containers, by their UUIDs.
    luks: Vec<(String, String)>,
    /// A LUKS container's name that only the kernel's command line tells.
    luks_root: Option<String>,
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
    stay: Vec<(String, usize)>,
    /// Whether the initramfs lacks the drivers of the VM's disks.
    pub(super) virtio: bool,
    /// Whether LVM looks for disks by what they have only on the metal.
    pub(super) lvm_devices: bool,
    /// The Windows that lacks the drivers of the VM's disks: where it is.
    pub(super) windows: Option<RootPlace>,
    /// The loader that the firmware falls back to: a copy of this one (`/EFI/debian/shimx64.efi`).
    pub(super) fallback_of: Option<String>,
    /// What cannot be changed though it should, each a sentence.
    pub(super) notes: Vec<String>,
}

impl Wanted {
    /// `boots` are the plan's disks as they are started.
    pub(super) fn new(
        machine: &Machine,
        boots: &[&DiskBoot],
        plan: &VmPlan,
        options: &Options,
    ) -> Self {
        let mut wanted = Self::default();
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
                wanted.virtio =
                    options.profile == Profile::Virtio && !plan.starts_on_virtio(system);
            }
            _ => match windows::needs(system, plan, options.profile) {
                Some(Ok(root)) => {
                    wanted.windows = Some(root);
                    // virt-v2v puts it there itself.
                    wanted.fallback_of = None;
                }
                Some(Err(why)) => wanted.notes.push(why.into()),
                None => {}
            },
        }
        wanted
    }

    pub(super) fn is_empty(&self) -> bool {
        self.sentences().is_empty()
    }

    /// Whether anything is to be changed that guestfish changes.
    pub(super) fn needs_guestfish(&self) -> bool {
        self.sentences().len() > usize::from(self.windows.is_some())
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
            let names: Vec<String> = self
                .places
                .iter()
                .map(|(name, _)| printable(name))
                .collect();
            sentences.push(format!(
                "filesystems are named by UUID ({})",
                names.join(", ")
            ));
        }
        if self.lvm_devices {
            sentences.push("LVM finds its volumes by their content".into());
        }
        if self.virtio {
            sentences.push("the initramfs gets the virtio drivers".into());
        }
        if self.windows.is_some() {
            sentences.push("Windows gets the virtio drivers by virt-v2v-in-place".into());
        }
        if self.fallback_of.is_some() {
            sentences.push("the ESP gets the loader that any firmware starts".into());
        }
        sentences
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

    fn describe(&mut self, system: &System) {
        self.root = system.root.clone();
        let fstab = system.fstab.iter().flatten();
        self.mounts = fstab
            .filter(|entry| !entry.options.iter().any(|option| option == "noauto"))
            .map(|entry| entry.file.clone())
            .collect();
        let crypttab = system.crypttab.iter().flatten();
        self.luks = crypttab
            .filter(|entry| is_mapper_name(&entry.name))
            .filter_map(|entry| {
                let uuid = entry.spec.strip_prefix("UUID=")?.trim_matches('"');
                Some((uuid.to_ascii_lowercase(), entry.name.clone()))
            })
            .collect();
        let line = system.command_line.as_ref();
        let root = line.and_then(|line| line.root.as_deref());
        self.luks_root = root
            .and_then(|root| root.strip_prefix("/dev/mapper/"))
            .filter(|name| system.root.encrypted && is_mapper_name(name))
            .map(str::to_owned);
        self.loader_file = line.map(|line| line.file.clone());
        self.root_name = root.map(str::to_owned);
        self.resume_name = line.and_then(|line| line.resume.clone());
    }

    /// What the system calls the LUKS container with this UUID.
    pub(super) fn luks_name(&self, uuid: &str) -> Option<String> {
        let mut known = self.luks.iter();
        let known = known.find(|(known, _)| *known == uuid.to_ascii_lowercase());
        let known = known.map(|(_, name)| name.clone());
        // Without a table there is one container, and the kernel's command line names what is in it.
        known.or_else(|| self.luks_root.clone().filter(|_| self.luks.is_empty()))
    }

    fn places(&mut self, machine: &Machine, plan: &VmPlan, system: &System) {
        let line = system.command_line.as_ref();
        let fstab = system.fstab.iter().flatten();
        let root_entry = fstab.clone().find(|entry| entry.file == "/");
        // What is made anew at each start has nothing on it to go by.
        let lasting = system.crypttab.iter().flatten().filter(|entry| {
            let random = |key: &String| key.ends_with("random");
            let fleeting = |option: &String| ["swap", "tmp"].iter().any(|o| option.starts_with(o));
            !entry.key.as_ref().is_some_and(random) && !entry.options.iter().any(fleeting)
        });
        let names: Vec<&str> = self
            .root_name
            .iter()
            .chain(&self.resume_name)
            .map(String::as_str)
            .chain(fstab.map(|entry| entry.spec.as_str()))
            .chain(lasting.map(|entry| entry.spec.as_str()))
            .collect();
        let disks = Disks {
            plan,
            names: names.iter().filter_map(|name| place_name(name)).collect(),
            anchors: [
                line.and_then(|line| line.root.as_deref()),
                root_entry.map(|entry| entry.spec.as_str()),
            ]
            .into_iter()
            .flatten()
            .filter_map(place_name)
            .collect(),
            root: match &*system.root.disks {
                [name] => plan.disks.iter().position(|disk| disk.source_name == *name),
                _ => None,
            },
            all: machine.disks.iter().filter(|disk| is_own(disk)).count() <= plan.disks.len(),
        };
        let mut unknown: Vec<String> = Vec::new();
        let (mut places, mut stay) = (Vec::new(), Vec::new());
        for name in &names {
            let Some(place) = place_name(name) else {
                continue;
            };
            let Some(index) = disks.index(&place) else {
                unknown.push(printable(name));
                continue;
            };
            let list = if disks.stays(&place, index) {
                &mut stay
            } else {
                &mut places
            };
            if !list.iter().any(|(known, _)| known == name) {
                list.push(((*name).to_owned(), index));
            }
        }
        // Other words of the kernel's command line (`cryptdevice=/dev/sda2:x`) are not changed.
        let words = line.map_or("", |line| line.text.as_str());
        for word in words.split(|c: char| c.is_whitespace() || "=,\"'".contains(c)) {
            let device = word.split(':').next().unwrap_or_default();
            let is_known = |list: &[(String, usize)]| list.iter().any(|(known, _)| known == device);
            if place_name(device).is_some() && !is_known(&stay) && !is_known(&places) {
                unknown.push(printable(device));
            }
        }
        unknown.sort();
        unknown.dedup();
        self.unknown_places = !unknown.is_empty();
        self.notes.extend(unknown.iter().map(|name| {
            format!(
                "the installed system names a disk {name}, and which one that was is not known: in the VM it \
                 may be another"
            )
        }));
        (self.places, self.stay) = (places, stay);
    }

    fn fallback(&mut self, boots: &[&DiskBoot]) {
        let esps = boots.iter().flat_map(|boot| &boot.esps);
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

/// A name that the kernel takes (`dev_valid_name`: 15 bytes, no `/`, no blank), and that ends no line of a
/// configuration file.
fn is_interface_name(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    (1..=15).contains(&name.len()) && name.bytes().all(plain) && !name.starts_with(['.', '-'])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::DiskIdentity;
    use crate::import::Target;
    use crate::inventory::FirmwareKind;
    use crate::vm::VmDisk;
    use serde_json::{Value, json};

    fn options() -> Options {
        Options {
            captures: Vec::new(),
            pick: None,
            to: Target::Qemu,
            out: None,
            connect: String::new(),
            name: None,
            disk_bus: None,
            profile: Profile::Auto,
            unchanged: false,
            fallback_loader: true,
            key_files: Vec::new(),
            firmware: None,
            pad: false,
        }
    }

    /// A machine with disks on `bus` whose first one has the root filesystem on partition 2.
    fn machine(bus: &str, disks: &[&str], system: Value) -> (Machine, Vec<VmDisk>) {
        let disk =
            |name: &&str| json!({"name": name, "size_bytes": 1 << 20, "bus": bus, "serial": name});
        let mut root = json!({
            "kind": "linux",
            "root": {"disks": [disks[0]], "partition": 2, "filesystem": "ext4"},
        });
        for (key, value) in system.as_object().into_iter().flatten() {
            root[key] = value.clone();
        }
        let machine = json!({
            "version": 2,
            "name": "m",
            "disks": disks.iter().map(disk).collect::<Vec<_>>(),
            "nics": [
                {"name": "eth0", "mac": "52:54:00:00:00:01", "installed_name": "enp24s0"},
                {"name": "eth1", "mac": "52:54:00:00:00:02", "installed_name": null},
            ],
            "installed": [root],
        });
        let machine = Machine::from_json(machine.to_string().as_bytes()).unwrap();
        let image = |name: &&str| VmDisk {
            file: format!("{name}.qcow2").into(),
            source: serde_json::from_value::<DiskIdentity>(json!({
                "path": format!("/dev/{name}"), "size_bytes": 1 << 20, "logical_sector_bytes": 512,
                "physical_sector_bytes": 512, "model": null, "serial": name, "wwn": null,
            }))
            .unwrap(),
        };
        let images = disks.iter().map(image).collect();
        (machine, images)
    }

    fn wanted(machine: &Machine, images: &[VmDisk], profile: Profile) -> Wanted {
        let systems = machine.installed.clone().unwrap();
        let plan = VmPlan::with_firmware(machine, images, FirmwareKind::Bios)
            .with_profile(profile, &systems);
        let options = Options {
            profile,
            ..options()
        };
        Wanted::new(machine, &[], &plan, &options)
    }

    #[test]
    fn a_card_whose_name_the_system_knows_keeps_it_and_others_are_left_alone() {
        let (machine, images) = machine("sata", &["sda"], json!({}));
        let wanted = wanted(&machine, &images, Profile::Faithful);
        let link = Link {
            mac: "52:54:00:00:00:01".into(),
            name: "enp24s0".into(),
        };
        assert_eq!(wanted.links, [link]);
        assert!(wanted.notes.is_empty(), "{:?}", wanted.notes);
    }

    #[test]
    fn a_card_that_a_rule_names_by_its_address_is_left_alone() {
        let rule = json!({"network": {"names": [{"name": "enp24s0", "mac": "52:54:00:00:00:01"}]}});
        let (machine, images) = machine("sata", &["sda"], rule);
        assert!(wanted(&machine, &images, Profile::Faithful).is_empty());
    }

    #[test]
    fn cards_in_the_kernels_order_are_told_of() {
        let (mut machine, images) = machine("sata", &["sda"], json!({}));
        for (nic, name) in machine.nics.iter_mut().zip(["eth0", "eth1"]) {
            nic.installed_name = Some(name.into());
        }
        let two = wanted(&machine, &images, Profile::Faithful);
        assert!(two.is_empty());
        assert_eq!(two.notes.len(), 2, "{:?}", two.notes);
        // One card is the first one everywhere.
        machine.nics.truncate(1);
        assert!(
            wanted(&machine, &images, Profile::Faithful)
                .notes
                .is_empty()
        );
    }

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
            let (mut machine, images) = machine("sata", &["sda"], json!({}));
            machine.nics[0].installed_name = Some(name.into());
            assert!(
                wanted(&machine, &images, Profile::Faithful)
                    .links
                    .is_empty()
            );
        }
        assert!(is_interface_name("enp24s0f0np0"));
    }

    #[test]
    fn names_of_disks_become_uuids_only_where_the_vm_has_others() {
        let system = json!({
            "command_line": {"root": "/dev/nvme0n1p2", "resume": "UUID=aa"},
            "fstab": [
                {"spec": "/dev/nvme0n1p2", "file": "/"},
                {"spec": "/dev/nvme0n1p3", "file": "none"},
                {"spec": "LABEL=data", "file": "/data"},
            ],
        });
        let (machine, images) = machine("nvme", &["nvme0n1"], system);
        assert!(
            wanted(&machine, &images, Profile::Faithful)
                .places
                .is_empty()
        );
        let virtio = wanted(&machine, &images, Profile::Virtio);
        let expected = [("/dev/nvme0n1p2".into(), 0), ("/dev/nvme0n1p3".into(), 0)];
        assert_eq!(virtio.places, expected);
        // Its kernels are not known: nothing is seen to have the drivers.
        assert!(virtio.virtio);
        let text = virtio.sentences().join("; ");
        assert!(text.contains("/dev/nvme0n1p2, /dev/nvme0n1p3"), "{text}");
    }

    #[test]
    fn of_two_disks_the_one_with_the_root_filesystem_is_known_and_so_the_other() {
        // The stick's kernel found them in the other order.
        let system = json!({
            "root": {"disks": ["sdb"], "partition": 2, "filesystem": "ext4"},
            "fstab": [{"spec": "/dev/sda2", "file": "/"}, {"spec": "/dev/sdb1", "file": "/data"}],
        });
        let (machine, images) = machine("sata", &["sda", "sdb"], system);
        let wanted = wanted(&machine, &images, Profile::Faithful);
        let expected = [("/dev/sda2".into(), 1), ("/dev/sdb1".into(), 0)];
        assert_eq!(wanted.places, expected);
    }

    #[test]
    fn of_three_disks_a_name_that_says_nothing_is_told_of() {
        let system = json!({
            "fstab": [{"spec": "/dev/sda2", "file": "/"}, {"spec": "/dev/sdc1", "file": "/data\n"}],
        });
        let (machine, images) = machine("sata", &["sda", "sdb", "sdc"], system);
        let wanted = wanted(&machine, &images, Profile::Faithful);
        assert!(wanted.places.is_empty());
        assert_eq!(wanted.notes.len(), 1);
        assert!(wanted.notes[0].contains("/dev/sdc1"), "{:?}", wanted.notes);
    }

    #[test]
    fn names_by_id_always_become_uuids() {
        let id = "/dev/disk/by-id/ata-SAMSUNG_S45NNA0M1234";
        let system = json!({
            "command_line": {"root": format!("{id}-part2")},
            "fstab": [{"spec": format!("{id}-part2"), "file": "/"}],
        });
        let (machine, images) = machine("sata", &["sda"], system);
        let wanted = wanted(&machine, &images, Profile::Faithful);
        assert_eq!(wanted.places, [(format!("{id}-part2"), 0)]);
        let device = wanted.device(&format!("{id}-part2"));
        assert_eq!(device.as_deref(), Some("/dev/sda2"));
    }

    #[test]
    fn a_disk_that_is_not_there_any_more_is_not_taken_for_one_that_is() {
        // The root is named by its UUID: sdb may be a stick of long ago.
        let system = json!({
            "fstab": [{"spec": "UUID=aa", "file": "/"}, {"spec": "/dev/sdb1", "file": "/mnt"},
                      {"spec": "/dev/sda1", "file": "/boot"}],
        });
        let (machine, images) = machine("sata", &["sda"], system);
        let two = wanted(&machine, &images, Profile::Faithful);
        assert!(two.places.is_empty() && two.unknown_places);
        assert_eq!(two.notes.len(), 2, "{:?}", two.notes);
    }

    #[test]
    fn words_of_the_command_line_that_are_not_changed_are_told_of() {
        let system = json!({
            "command_line": {"text": "root=/dev/mapper/x cryptdevice=/dev/sda2:x ro"},
        });
        let (machine, images) = machine("sata", &["sda"], system);
        let wanted = wanted(&machine, &images, Profile::Faithful);
        assert!(wanted.unknown_places);
        assert!(wanted.notes[0].contains("/dev/sda2"), "{:?}", wanted.notes);
    }

    #[test]
    fn a_container_is_opened_by_the_name_that_the_system_has_for_it() {
        let system = json!({
            "root": {"disks": ["sda"], "filesystem": "ext4", "encrypted": true},
            "command_line": {"root": "/dev/mapper/root"},
            "crypttab": [{"name": "sda3_crypt", "spec": "UUID=D2A7F8C1-0000"}, {"name": "../x", "spec": "UUID=bb"}],
        });
        let (machine, images) = machine("sata", &["sda"], system);
        let with_table = wanted(&machine, &images, Profile::Faithful);
        let name = with_table.luks_name("d2a7f8c1-0000");
        assert_eq!(name.as_deref(), Some("sda3_crypt"));
        assert_eq!(with_table.luks_name("bb"), None);
        let system = json!({
            "root": {"disks": ["sda"], "filesystem": "ext4", "encrypted": true},
            "command_line": {"root": "/dev/mapper/root"},
        });
        let (machine, images) = self::machine("sata", &["sda"], system);
        let without = wanted(&machine, &images, Profile::Faithful);
        assert_eq!(without.luks_name("aa").as_deref(), Some("root"));
    }

    #[test]
    fn the_fallback_loader_is_put_where_there_is_none() {
        let (machine, images) = machine("sata", &["sda"], json!({}));
        let plan = VmPlan::with_firmware(&machine, &images, FirmwareKind::Uefi);
        let with = |loaders: Value| {
            let boot = json!({"scheme": "gpt", "by_bios": false, "by_uefi": true, "esps": [
                {"partition": 1, "start_sector": 2048, "sectors": 4096, "loaders": loaders},
            ]});
            let boot: DiskBoot = serde_json::from_value(boot).unwrap();
            Wanted::new(&machine, &[&boot], &plan, &options())
        };
        let debian = with(json!([
            "/EFI/debian/grubx64.efi",
            "/EFI/debian/shimx64.efi"
        ]));
        assert_eq!(
            debian.fallback_of.as_deref(),
            Some("/EFI/debian/shimx64.efi")
        );
        let both = with(json!(["/EFI/BOOT/bootx64.efi", "/EFI/debian/shimx64.efi"]));
        assert_eq!(both.fallback_of, None);
        let unknown = with(json!(["/EFI/x/y.efi"]));
        assert_eq!((unknown.fallback_of, unknown.notes.len()), (None, 1));
    }
}
