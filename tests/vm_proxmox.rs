//! The script for Proxmox VE, held against a shell and against what Proxmox' own schema takes. `qm` itself
//! runs on Proxmox VE hosts only; a stand-in writes down the words that it would be given.

mod import_common;

use haulier::import::Target;
use haulier::inventory::Bus;
use haulier::vm::proxmox::{buses, files};
use haulier::vm::{DiskBus, VmDisk, VmPlan};
use import_common::{
    BUSES, Programs, add_disk, capture_of_empty_disk, filled, import, installed, names, options,
    server, shellcheck, tpm,
};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

fn qm() -> Programs {
    Programs::new(&[("qm", ""), ("pvesh", "echo 117")])
}

/// The options of `qm create` in a script that was run with these arguments.
fn created(script: &str, args: &[&str]) -> (String, BTreeMap<String, String>) {
    let calls = qm().run(script, args, &[]);
    let call = calls.iter().find(|call| call[0] == "qm").unwrap();
    options_of(call)
}

fn options_of(call: &[String]) -> (String, BTreeMap<String, String>) {
    assert_eq!(call[1], "create");
    let mut options = BTreeMap::new();
    for pair in call[3..].chunks(2) {
        let option = pair[0].strip_prefix("--").expect("an option");
        assert!(
            options.insert(option.to_owned(), pair[1].clone()).is_none(),
            "{option} twice"
        );
    }
    (call[2].clone(), options)
}

/// What Proxmox VE 9.2 takes for a value (`qm.1`, and `PVE/QemuServer.pm`, `Drive.pm`, `Network.pm`).
fn check(option: &str, value: &str) {
    let digits = option.trim_end_matches(|c: char| c.is_ascii_digit());
    let number = || option[digits.len()..].parse::<usize>().unwrap();
    let below = |most: usize| assert!(number() < most, "{option}");
    let one_of = |list: &[&str]| assert!(list.contains(&value), "{option} {value}");
    let whole = |least: u64| assert!(value.parse::<u64>().unwrap() >= least, "{option} {value}");
    match digits {
        "name" => {
            let label = |label: &str| {
                let plain = label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
                plain && !label.is_empty() && !label.starts_with('-') && !label.ends_with('-')
            };
            assert!(value.len() <= 63 && value.split('.').all(label), "{value}");
        }
        "description" => assert!(value.len() <= 8192),
        "machine" => one_of(&["q35", "pc"]),
        "bios" => one_of(&["ovmf", "seabios"]),
        "cpu" => one_of(&["host"]),
        "ostype" => one_of(&[
            "other", "wxp", "w2k", "w2k3", "w2k8", "wvista", "win7", "win8", "win10", "win11",
            "l24", "l26", "solaris",
        ]),
        "sockets" | "cores" => whole(1),
        "memory" => whole(16),
        "localtime" => one_of(&["0", "1"]),
        "scsihw" => one_of(&[
            "lsi",
            "megasas",
            "virtio-scsi-pci",
            "virtio-scsi-single",
            "pvscsi",
        ]),
        "serial" => one_of(&["socket"]),
        "rng" => one_of(&["source=/dev/urandom"]),
        "smbios" => assert!(value.len() <= 512, "{value}"),
        "tpmstate" => {
            let (_, version) = value.split_once(":1,version=").expect(value);
            assert!(["v1.2", "v2.0"].contains(&version) && option == "tpmstate0");
        }
        "boot" => assert!(value.starts_with("order="), "{value}"),
        "net" => {
            below(32);
            let (card, bridge) = value.split_once(',').unwrap();
            let (model, mac) = card.split_once('=').unwrap();
            assert!(["e1000e", "e1000", "virtio"].contains(&model), "{value}");
            assert!(mac.len() == 17 && bridge.starts_with("bridge="), "{value}");
        }
        "ide" | "sata" | "scsi" | "virtio" | "efidisk" => {
            below(match digits {
                "ide" => 4,
                "sata" => 6,
                "scsi" => 31,
                "virtio" => 16,
                _ => 1,
            });
            let mut parts = value.split(',');
            assert!(parts.next().unwrap().ends_with(":0"), "{value}");
            for part in parts {
                let (key, value) = part.split_once('=').expect(part);
                let common = ["import-from", "discard", "serial"].contains(&key);
                let fits = common
                    || match key {
                        "model" => digits == "ide",
                        "wwn" => digits != "virtio" && value.len() == 18,
                        "efitype" | "pre-enrolled-keys" => digits == "efidisk",
                        _ => false,
                    };
                assert!(fits && value.len() <= 4096, "{option}: {part}");
                let encoded = |c: char| c.is_ascii_alphanumeric() || "%-._".contains(c);
                assert!(key != "serial" || value.len() <= 60 && value.chars().all(encoded));
            }
        }
        other => panic!("Proxmox VE has no option {other}"),
    }
}

#[test]
fn a_uefi_server_with_a_sata_and_a_virtio_disk() {
    let mut machine = server("uefi");
    machine.smbios.family = Some("PowerEdge".into());
    installed(&mut machine, "linux", "debian", "13");
    tpm(&mut machine, "2.0");
    let disks = [
        add_disk(&mut machine, Bus::Sata, "ahci", 512),
        add_disk(&mut machine, Bus::VirtioBlk, "virtio_blk", 512),
    ];
    let mut plan = VmPlan::new(&machine, &disks);
    plan.nvram = Some("VARS.fd".into());
    let script = files(&plan).create;
    let expected = include_str!("vm_proxmox/uefi-sata-virtio.sh");
    assert_eq!(script, expected);
    shellcheck(&script);
}

#[test]
fn every_option_of_every_bus_and_firmware_is_one_of_proxmox_ve() {
    for firmware in ["bios", "uefi"] {
        let mut all = server(firmware);
        let mut all_disks: Vec<VmDisk> = Vec::new();
        for (bus, driver) in BUSES {
            let mut machine = server(firmware);
            let disks = [add_disk(&mut machine, bus, driver, 512)];
            let (_, options) = created(&files(&VmPlan::new(&machine, &disks)).create, &[]);
            options
                .iter()
                .for_each(|(option, value)| check(option, value));
            let plan = VmPlan::new(&machine, &disks);
            let (there, scsi) = (buses(&plan)[0], options.get("scsihw").map(String::as_str));
            let kind = match there {
                DiskBus::Ide => "ide0",
                DiskBus::Sata => "sata0",
                DiskBus::VirtioBlk => "virtio0",
                DiskBus::VirtioScsi | DiskBus::MegaSas => "scsi0",
                other => panic!("Proxmox VE has no {other:?}"),
            };
            assert!(options.contains_key(kind), "{there:?}: {options:?}");
            assert_eq!(there == DiskBus::MegaSas, scsi == Some("megasas"));
            all_disks.push(add_disk(&mut all, bus, driver, 512));
        }
        // More than one bus has room for.
        for _ in 0..7 {
            all_disks.push(add_disk(&mut all, Bus::Sata, "ahci", 512));
        }
        let (_, options) = created(&files(&VmPlan::new(&all, &all_disks)).create, &[]);
        options
            .iter()
            .for_each(|(option, value)| check(option, value));
        let drives = |o: &&String| {
            ["ide", "sata", "scsi", "virtio"]
                .iter()
                .any(|bus| o.strip_prefix(bus).is_some_and(|n| n.parse::<u8>().is_ok()))
        };
        assert_eq!(options.keys().filter(drives).count(), all_disks.len());
        assert_eq!(options["boot"].split(';').count(), all_disks.len());
    }
}

#[test]
fn number_storage_and_bridge_come_as_arguments_or_by_themselves() {
    let mut machine = server("bios");
    let disks = [add_disk(&mut machine, Bus::Sata, "ahci", 512)];
    let script = files(&VmPlan::new(&machine, &disks)).create;
    let (id, options) = created(&script, &[]);
    assert_eq!(id, "117");
    assert!(
        options["sata0"].starts_with("local-lvm:0,import-from=/"),
        "{options:?}"
    );
    assert_eq!(options["net0"], "e1000e=b0:26:28:aa:bb:01,bridge=vmbr0");
    let (id, options) = created(&script, &["9001", "ceph pool", "vmbr7"]);
    assert_eq!(id, "9001");
    assert!(
        options["sata0"].starts_with("ceph pool:0,import-from=/"),
        "{options:?}"
    );
    assert!(options["net1"].ends_with(",bridge=vmbr7"));
}

#[test]
fn a_folder_with_a_comma_is_refused_before_anything_is_made() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("a,b");
    fs::create_dir(&folder).unwrap();
    let mut machine = server("bios");
    let disks = [add_disk(&mut machine, Bus::Sata, "ahci", 512)];
    let script = folder.join("create.sh");
    fs::write(&script, files(&VmPlan::new(&machine, &disks)).create).unwrap();
    let output = qm().output(&script, &[], &[]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        !output.status.success() && said.contains("a comma in"),
        "{said}"
    );
}

#[test]
fn what_proxmox_ve_cannot_express_is_said() {
    let mut machine = server("uefi");
    machine.cpu.threads_per_core = 2;
    machine.smbios.product = Some("x".repeat(300));
    machine.smbios.manufacturer = Some("y".repeat(100));
    let disks = [
        add_disk(&mut machine, Bus::Nvme, "nvme", 4096),
        add_disk(&mut machine, Bus::VirtioScsi, "virtio_scsi", 512),
    ];
    let written = files(&VmPlan::new(&machine, &disks));
    let notes = written.notes.join("\n");
    for words in [
        "disk-0.qcow2 comes to SATA, because Proxmox VE has no emulated NVMe disks",
        "disk-0.qcow2 has sectors of 4096 bytes",
        "the 2 threads of each core",
        "the machine's product is left out",
    ] {
        assert!(notes.contains(words), "{words}: {notes}");
    }
    let (_, options) = created(&written.create, &[]);
    options
        .iter()
        .for_each(|(option, value)| check(option, value));
    assert_eq!(options["cores"], "4");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn no_string_of_a_firmware_leaves_its_place(
        text in r#"[ -~\n\r\t]{0,30}|.{0,20}|(['"`$(){};&|<>,=\\\n]|touch x|@DESCRIPTION@| #){0,12}|.{300}"#,
    ) {
        let run = |text: &str| {
            let (machine, disks) = filled(text);
            created(&files(&VmPlan::new(&machine, &disks)).create, &[]).1
        };
        let (found, harmless) = (run(&text), run("harmless"));
        for (option, value) in &found {
            check(option, value);
            prop_assert!(harmless.contains_key(option), "{}", option);
        }
        let words = |options: &BTreeMap<String, String>| options["sata0"].matches(',').count();
        prop_assert!(words(&found) <= words(&harmless));
        let shown: String =
            text.chars().map(|c| if (' '..='~').contains(&c) { c } else { '?' }).collect();
        // Every blank of the ends may be trimmed; else the text arrives as it was.
        prop_assert!(
            found["description"].contains(shown.trim()) || shown.trim().is_empty(),
            "{}",
            found["description"]
        );
    }
}

#[test]
fn the_import_ships_the_disks_and_the_variables() {
    let dir = tempfile::tempdir().unwrap();
    let capture = capture_of_empty_disk(dir.path(), "uefi");
    let out = dir.path().join("vm");
    import(&options(&capture, Target::Proxmox, &out)).unwrap();
    assert_eq!(names(&out), ["VARS.fd", "create.sh", "disk-0.qcow2"]);
    let calls = qm().run_at(&out.join("create.sh"), &[], &[]);
    let (_, options) = options_of(calls.iter().find(|call| call[0] == "qm").unwrap());
    for (option, file) in [("efidisk0", "VARS.fd"), ("sata0", "disk-0.qcow2")] {
        let from = options[option].split("import-from=").nth(1).unwrap();
        let path = Path::new(from.split(',').next().unwrap());
        assert!(
            path.is_file() && path.ends_with(file),
            "{option}: {}",
            path.display()
        );
    }
}
