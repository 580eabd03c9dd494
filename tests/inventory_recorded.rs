//! The inventory of three machines that QEMU emulated, from what Linux 6.12 showed of them
//! (`inventory_recorded/record.sh`).

use haulier::inventory::installed::{Kernel, RootPlace};
use haulier::inventory::{Bus, FirmwareKind, Machine, PciInfo, PciKind, System, SystemKind};
use std::fs;
use std::os::unix::fs::symlink;

/// Makes the recorded tree again and reads it.
fn machine(tree: &str) -> Machine {
    let root = tempfile::tempdir().unwrap();
    let below = |path: &str| root.path().join(path.trim_start_matches('/'));
    let of_kind = |kind| tree.lines().filter_map(move |line| line.strip_prefix(kind));
    // Links first: some files were read through them.
    let mut targets = Vec::new();
    for (path, target) in of_kind("L ").filter_map(|line| line.split_once(' ')) {
        let path = below(path);
        let dir = path.parent().unwrap();
        fs::create_dir_all(dir).unwrap();
        targets.push(dir.join(target));
        symlink(target, &path).unwrap();
    }
    for target in targets {
        fs::create_dir_all(target).unwrap();
    }
    for (path, hex) in of_kind("F ").filter_map(|line| line.split_once(' ')) {
        let path = below(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes(hex)).unwrap();
    }
    Machine::read(root.path())
}

fn bytes(hex: &str) -> Vec<u8> {
    hex.as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

#[test]
fn a_uefi_machine_with_disks_of_five_kinds() {
    let machine = machine(include_str!("inventory_recorded/uefi.tree"));
    assert_eq!(machine.name, "R640-7XK3P52");
    assert_eq!(
        machine.to_text(),
        "\
Machine:  Dell Inc. PowerEdge R640, serial 7XK3P52
Firmware: UEFI, Secure Boot off, Dell Inc. 2.19.1
CPU:      QEMU Virtual CPU version 2.5+, 2 sockets, 2 cores, 2 threads
Memory:   1.0 GiB installed, 0.9 GiB usable
Disks:    0 /dev/nvme0n1 QEMU NVMe Ctrl     NVME1  2.1 GB NVMe
          1 /dev/sda     SAMSUNG-MZ7LH480   SATA0  1.0 GB SATA
          2 /dev/sdb     QEMU QEMU HARDDISK VSCSI3 4.2 GB virtio-scsi
          3 /dev/sdc     QEMU QEMU HARDDISK STICK4 5.3 GB USB
          4 /dev/vda     -                  VBLK2  3.2 GB virtio-blk
Storage:  Red Hat, Inc. Virtio block device
Storage:  and 2 more
Network:  eth0 b0:26:28:aa:bb:01 e1000e     link, 1000 Mbit/s 82574L Gigabit N~
          eth1 b0:26:28:aa:bb:02 igb        link, 1000 Mbit/s 82576 Gigabit Ne~
          eth2 b0:26:28:aa:bb:03 virtio_net link              Virtio network d~
"
    );
    let disks: Vec<_> = machine
        .disks
        .iter()
        .map(|d| (&*d.name, d.bus, d.driver.as_deref(), d.serial.as_deref()))
        .collect();
    assert_eq!(
        disks,
        [
            ("nvme0n1", Bus::Nvme, Some("nvme"), Some("NVME1")),
            ("sda", Bus::Sata, Some("ahci"), Some("SATA0")),
            ("sdb", Bus::VirtioScsi, Some("virtio_scsi"), Some("VSCSI3")),
            ("sdc", Bus::Usb, Some("usb-storage"), Some("STICK4")),
            ("vda", Bus::VirtioBlk, Some("virtio_blk"), Some("VBLK2")),
        ]
    );
    assert_eq!(machine.disks[0].logical_sector_bytes, Some(4096));
    assert_eq!(machine.disks[1].size_bytes, 1 << 30);
    assert_eq!(
        machine.disks[1].wwn.as_deref(),
        Some("naa.5002538e40a0b1c2")
    );
    assert!(machine.disks[3].removable);
    assert_eq!(machine.memory.installed_bytes, Some(1 << 30));
    assert_eq!((machine.cpu.sockets, machine.cpu.threads()), (2, 2));
    assert_eq!(
        machine.smbios.uuid.as_deref(),
        Some("4c4c4544-0058-4b10-8033-b7c04f503532")
    );
    let firmware = &machine.firmware;
    assert_eq!(firmware.kind, FirmwareKind::Uefi);
    assert_eq!(firmware.secure_boot, Some(false));
    assert!(!firmware.boot_order.is_empty(), "{firmware:?}");
    // Started with -kernel, OVMF has nothing but its own menu.
    let [entry] = firmware.boot_entries.as_slice() else {
        panic!("{:?}", firmware.boot_entries);
    };
    assert_eq!(
        (entry.number, &*entry.description, entry.active),
        (0, "UiApp", true)
    );
    assert_eq!(
        entry.path,
        "Fv(7cb8bdc9-f8eb-4f34-aaea-3ee4af6516a1)/FvFile(462caa21-7614-4503-836e-8ab6f4662331)"
    );
    assert_eq!(entry.file, None);
    let nics: Vec<_> = machine
        .nics
        .iter()
        .map(|n| {
            (
                n.mac.as_deref(),
                n.driver.as_deref(),
                n.pci_id.as_deref(),
                n.link,
            )
        })
        .collect();
    assert_eq!(
        nics,
        [
            (
                Some("b0:26:28:aa:bb:01"),
                Some("e1000e"),
                Some("8086:10d3"),
                Some(true)
            ),
            (
                Some("b0:26:28:aa:bb:02"),
                Some("igb"),
                Some("8086:10c9"),
                Some(true)
            ),
            (
                Some("b0:26:28:aa:bb:03"),
                Some("virtio_net"),
                Some("1af4:1000"),
                Some(true)
            ),
        ]
    );
    assert!(
        machine
            .pci
            .iter()
            .any(|p| p.class == "010601" && p.driver.as_deref() == Some("ahci"))
    );
    let read = Machine::from_json(machine.to_json().as_bytes()).unwrap();
    assert_eq!(read, machine);
}

#[test]
fn raid_and_sas_controllers_are_told_by_their_drivers() {
    let machine = machine(include_str!("inventory_recorded/sas.tree"));
    let disks: Vec<_> = machine
        .disks
        .iter()
        .map(|d| (&*d.name, d.bus, d.driver.as_deref()))
        .collect();
    assert_eq!(
        disks,
        [
            ("sda", Bus::Sas, Some("megaraid_sas")),
            ("sdb", Bus::Sas, Some("mptsas")),
        ]
    );
    assert_eq!(machine.firmware.kind, FirmwareKind::Bios);
    assert_eq!(machine.firmware.secure_boot, None);
    let controller = machine.disks[0].controller.clone().unwrap();
    let names = (controller.vendor.as_deref(), controller.device.as_deref());
    assert_eq!(names, (Some("Broadcom / LSI"), Some("MegaRAID SAS 1078")));
    // That of the RAID controller stands in front, although SATA has the same number of functions.
    let text = machine.to_text();
    let expected = "\nStorage:  Broadcom / LSI MegaRAID SAS 1078\nStorage:  and 2 more\n";
    assert!(text.contains(expected), "{text}");
}

#[test]
fn graphics_cards_are_counted_by_model_and_what_has_no_name_by_its_id() {
    let mut machine = machine(include_str!("inventory_recorded/sas.tree"));
    let mut add = |id: &str, vendor: Option<&str>, device: Option<&str>, kind| {
        machine.pci.push(PciInfo {
            id: id.into(),
            vendor: vendor.map(str::to_owned),
            device: device.map(str::to_owned),
            kind: Some(kind),
            ..PciInfo::default()
        });
        let text = machine.to_text();
        let lines = text.lines().filter_map(|line| line.strip_prefix("GPU: "));
        lines.map(|line| line.trim().to_owned()).collect::<Vec<_>>()
    };
    let board = (Some("ASPEED Technology, Inc."), None);
    let lines = add("1a03:2000", board.0, board.1, PciKind::Gpu);
    assert_eq!(lines, ["ASPEED Technology, Inc. 1a03:2000"]);
    let tesla = (Some("NVIDIA Corporation"), Some("TU104GL [Tesla T4]"));
    add("10de:1eb8", tesla.0, tesla.1, PciKind::Gpu);
    let lines = add("10de:1eb8", tesla.0, tesla.1, PciKind::Gpu);
    let teslas = "2 x NVIDIA Corporation TU104GL [Tesla T4]";
    assert_eq!(lines, [teslas, "ASPEED Technology, Inc. 1a03:2000"]);
    let lines = add("ffff:0001", None, None, PciKind::Accelerator);
    assert_eq!(lines, [teslas, "and 2 more"]);
}

#[test]
fn a_machine_json_from_before_there_were_names_is_read() {
    let machine = machine(include_str!("inventory_recorded/sas.tree"));
    let mut old: serde_json::Value = serde_json::from_str(&machine.to_json()).unwrap();
    let forget = |object: &mut serde_json::Value| {
        let fields = object.as_object_mut().unwrap();
        for key in ["vendor", "device", "subsystem"] {
            fields.remove(key);
        }
    };
    for list in ["pci", "nics"] {
        old[list]
            .as_array_mut()
            .unwrap()
            .iter_mut()
            .for_each(forget);
    }
    let disks = old["disks"].as_array_mut().unwrap().iter_mut();
    disks.for_each(|disk| forget(&mut disk["controller"]));
    let read = Machine::from_json(old.to_string().as_bytes()).unwrap();
    assert_eq!(read.pci.len(), machine.pci.len());
    assert!(
        read.pci
            .iter()
            .all(|pci| pci.vendor.is_none() && !pci.id.is_empty())
    );
    assert!(read.to_text().contains("\nStorage:  1000:0060\n"));
}

#[test]
fn cards_are_named_by_board_slot_and_place_and_disks_by_their_controllers() {
    let machine = machine(include_str!("inventory_recorded/slots.tree"));
    let nics: Vec<_> = machine
        .nics
        .iter()
        .map(|nic| {
            let names = &nic.name_candidates;
            let name = |name: &Option<String>| name.clone().unwrap_or_default();
            [&names.onboard, &names.slot, &names.path].map(name)
        })
        .collect();
    // As record.sh made them: two ports of a card in slot 3, and one that the firmware numbers 1.
    assert_eq!(
        nics,
        [
            ["", "ens3f0", "enp2s0f0"],
            ["", "ens3f1", "enp2s0f1"],
            ["eno1", "", "enp0s5"]
        ]
    );
    let controllers: Vec<_> = machine
        .disks
        .iter()
        .map(|disk| {
            let controller = disk.controller.as_ref().unwrap();
            let serial = disk.serial.as_deref().unwrap();
            (serial, &*controller.pci_address, controller.kind)
        })
        .collect();
    // The NVMe disk lies below a subsystem (native multipath), away from its controller.
    assert_eq!(
        controllers,
        [
            ("NVME1", "0000:00:01.0", Some(PciKind::Nvme)),
            ("MEGA5", "0000:01:00.0", Some(PciKind::Raid)),
            ("SATA0", "0000:00:1f.2", Some(PciKind::Sata)),
            ("VBLK2", "0000:00:02.0", Some(PciKind::Storage)),
        ]
    );
    let sata = machine.pci.iter().find(|pci| pci.address == "0000:00:1f.2");
    // Of all boards that QEMU makes (its docs/specs/pci-ids.rst).
    assert_eq!(sata.unwrap().subsystem_id.as_deref(), Some("1af4:1100"));
}

#[test]
fn an_old_machine_has_an_ide_disk_and_its_optical_drive_is_none() {
    let machine = machine(include_str!("inventory_recorded/old.tree"));
    let disks: Vec<_> = machine
        .disks
        .iter()
        .map(|d| (&*d.name, d.bus, d.driver.as_deref()))
        .collect();
    assert_eq!(disks, [("sda", Bus::Ide, Some("ata_piix"))]);
    assert_eq!(machine.cpu.x86_64_level, Some(1));
}

#[test]
fn a_machine_that_says_nothing_is_described_all_the_same() {
    let root = tempfile::tempdir().unwrap();
    let machine = Machine::read(root.path());
    assert_eq!(machine.name, "machine");
    assert_eq!(
        machine.to_text(),
        "\
Machine:  unknown model
Firmware: BIOS
CPU:      unknown model, 1 socket, 1 core, 1 thread
Memory:   unknown
Disks:    none found: is the controller's RAID mode on, or its driver missing?
Network:  no card found
"
    );
    assert_eq!(
        Machine::from_json(machine.to_json().as_bytes()).unwrap(),
        machine
    );
}

#[test]
fn the_screen_has_at_most_79_columns_and_24_lines_whatever_vendors_write() {
    let mut machine = machine(include_str!("inventory_recorded/uefi.tree"));
    let long = "Ultra\u{1b}[2J Long ".repeat(20);
    machine.smbios.product = Some(long.clone());
    machine.smbios.bios_version = Some(long.clone());
    machine.cpu.model = Some(long.clone());
    for _ in 0..40 {
        let mut disk = machine.disks[0].clone();
        disk.model = Some(long.clone());
        disk.serial = Some(long.clone());
        machine.disks.push(disk);
    }
    for nic in &mut machine.nics {
        nic.name.clone_from(&long);
    }
    for _ in 0..20 {
        let nic = machine.nics[0].clone();
        machine.nics.push(nic);
    }
    // Controllers that hide disks, from none to more than are shown.
    for hidden in 0..5 {
        let text = machine.to_text();
        assert_eq!(text.lines().count(), 24, "{text}");
        let sentences = text.lines().filter(|line| line.starts_with("Hidden:"));
        assert_eq!(sentences.count(), hidden.min(2), "{text}");
        let counted = format!("{} more controllers", hidden.saturating_sub(1));
        assert_eq!(text.contains(&counted), hidden > 2, "{text}");
        let mut controller = machine.pci[0].clone();
        controller.kind = Some(PciKind::Raid);
        controller.driver = None;
        machine.pci.push(controller);
    }
    let text = machine.to_text();
    for line in text.lines() {
        assert!(
            line.len() <= 79 && line.bytes().all(|b| (b' '..=b'~').contains(&b)),
            "{line:?}"
        );
    }
    assert!(text.contains("more"), "{text}");
}

#[test]
fn installed_systems_have_a_line_each_and_the_screen_stays_in_its_lines() {
    let mut machine = machine(include_str!("inventory_recorded/uefi.tree"));
    let system = System {
        kind: Some(SystemKind::Linux),
        name: Some("Debian GNU/Linux 13 (trixie)".into()),
        hostname: Some("ledger".into()),
        root: RootPlace {
            disks: vec!["nvme0n1".into()],
            partition: Some(2),
            filesystem: "ext4".into(),
            ..RootPlace::default()
        },
        kernels: Some(vec![Kernel {
            release: "6.12.57-amd64".into(),
            ..Kernel::default()
        }]),
        ..System::default()
    };
    let mut locked = System::default();
    locked.root.volume = Some("vg0/root".into());
    locked.root.filesystem = "LUKS2".into();
    machine.installed = Some(vec![system.clone(), locked]);
    let text = machine.to_text();
    let expected = "\
System:   Debian GNU/Linux 13 (trixie), ledger, ext4 on nvme0n1p2, 6.12.57-amd~
System:   unknown: vg0/root is LUKS2, and has no key yet
";
    assert!(text.contains(expected), "{text}");
    let read = Machine::from_json(machine.to_json().as_bytes()).unwrap();
    assert_eq!(read, machine);
    let hostile = "x\u{1b}[2J\n".repeat(100);
    machine.installed = Some(vec![
        System {
            name: Some(hostile.clone()),
            hostname: Some(hostile),
            ..system
        };
        9
    ]);
    for _ in 0..40 {
        machine.disks.push(machine.disks[0].clone());
        machine.nics.push(machine.nics[0].clone());
    }
    let text = machine.to_text();
    assert_eq!(text.lines().count(), 24, "{text}");
    assert!(text.contains("System:   and 8 more"), "{text}");
    for line in text.lines() {
        assert!(line.len() <= 79 && line.is_ascii(), "{line:?}");
    }
    // As it was written before anybody looked.
    let json = machine.to_json();
    let mut value: serde_json::Value = serde_json::from_str(&json).unwrap();
    value["installed"] = serde_json::Value::Null;
    let read = Machine::from_json(value.to_string().as_bytes()).unwrap();
    assert_eq!(read.installed, None);
}

#[test]
fn version_1_is_read_and_a_newer_one_refused_with_a_sentence() {
    let read = |version: u32| {
        let json = format!(
            r#"{{"version":{version},"name":"old","disks":[{{"name":"sda","bus":"sata"}}]}}"#
        );
        Machine::from_json(json.as_bytes())
    };
    let old = read(1).unwrap();
    assert_eq!(old.disks[0].boot, None);
    assert_eq!(old.firmware.installed, None);
    let error = read(3).unwrap_err().to_string();
    assert!(error.contains("version 3"), "{error}");
    assert!(read(0).is_err());
}
