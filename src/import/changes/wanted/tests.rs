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
        new_uuid: false,
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
    let plan =
        VmPlan::with_firmware(machine, images, FirmwareKind::Bios).with_profile(profile, &systems);
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
        pci_address: None,
        driver: None,
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
    assert_eq!(virtio.drivers, ["virtio_pci", "virtio_blk"]);
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
            {"partition": 3, "start_sector": 2048, "sectors": 4096, "loaders": loaders},
        ]});
        let boot: DiskBoot = serde_json::from_value(boot).unwrap();
        Wanted::new(&machine, &[(1, &boot)], &plan, &options())
    };
    let debian = with(json!([
        "/EFI/debian/grubx64.efi",
        "/EFI/debian/shimx64.efi"
    ]));
    let fallback = debian.fallback.unwrap();
    assert_eq!(fallback.loader, "/EFI/debian/shimx64.efi");
    assert_eq!(fallback.device(), "/dev/sdb3");
    let both = with(json!(["/EFI/BOOT/bootx64.efi", "/EFI/debian/shimx64.efi"]));
    assert_eq!(both.fallback, None);
    let unknown = with(json!(["/EFI/x/y.efi"]));
    assert_eq!((unknown.fallback, unknown.notes.len()), (None, 1));
}

#[test]
fn the_fallback_loader_needs_no_system_that_is_known() {
    let (mut machine, images) = machine("sata", &["sda"], json!({}));
    let plan = VmPlan::with_firmware(&machine, &images, FirmwareKind::Uefi);
    let boot = json!({"scheme": "gpt", "by_bios": false, "by_uefi": true, "esps": [
        {"partition": 1, "loaders": ["/EFI/Microsoft/Boot/bootmgfw.efi"]},
    ]});
    let boot: DiskBoot = serde_json::from_value(boot).unwrap();
    machine.installed = None;
    let wanted = Wanted::new(&machine, &[(0, &boot)], &plan, &options());
    assert_eq!(wanted.groups(), [Group::Loader]);
    let loader = wanted.fallback.unwrap().loader;
    assert_eq!(loader, "/EFI/Microsoft/Boot/bootmgfw.efi");
}

#[test]
fn a_partition_with_a_new_key_at_each_start_is_not_left_to_chance() {
    let system = json!({
        "command_line": {"root": "/dev/nvme0n1p2"},
        "crypttab": [{"name": "swap", "spec": "/dev/nvme0n1p3", "key": "/dev/urandom", "options": ["swap"]}],
    });
    let (machine, images) = machine("nvme", &["nvme0n1"], system);
    let wanted = wanted(&machine, &images, Profile::Virtio);
    assert_eq!(wanted.fleeting, ["/dev/nvme0n1p3"]);
    assert!(wanted.places.contains(&("/dev/nvme0n1p3".into(), 0)));
}
