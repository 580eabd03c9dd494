//! The script for QEMU, held against a shell and against QEMU itself.

mod vm_common;

use haulier::inventory::{Bus, FirmwareKind, Tpm};
use haulier::vm::{DiskBus, VmDisk, VmPlan, qemu::run_script};
use proptest::prelude::*;
use serde_json::json;
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use vm_common::{BUSES, add_disk, create_image, filled, local_time, server, tool};

/// Starts the script's VM with its processors stopped, asks what it is made of, ends it.
fn started(dir: &Path, plan: &VmPlan) -> String {
    for disk in &plan.disks {
        create_image(&dir.join(&disk.file));
    }
    let mut plan = plan.clone();
    if let Some(vars) = plan.varstore().expect("a variable store") {
        fs::write(dir.join("VARS.fd"), vars).unwrap();
        plan.nvram = Some("VARS.fd".into());
    }
    let script = dir.join("run.sh");
    fs::write(&script, run_script(&plan)).unwrap();
    let mut qemu = Command::new("sh")
        .arg(&script)
        .args(["-S", "-qmp", "stdio"])
        .env("QEMU_ACCEL", "tcg")
        .env("QEMU_MEMORY", "128")
        .env("QEMU_SERIAL", "null")
        // Elsewhere: the script finds its folder.
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("a shell");
    let ask = r#"{"execute":"qmp_capabilities"}
        {"execute":"human-monitor-command","arguments":{"command-line":"info qtree"}}
        {"execute":"query-tpm"}
        {"execute":"qom-get","arguments":{"path":"/machine","property":"rtc-time"}}
        {"execute":"quit"}"#;
    qemu.stdin
        .take()
        .unwrap()
        .write_all(ask.as_bytes())
        .unwrap();
    let output = qemu.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success() && said.contains("bus: main-system-bus"),
        "{said}\n{}\n{}",
        String::from_utf8_lossy(&output.stderr),
        fs::read_to_string(script).unwrap()
    );
    said
}

#[test]
fn qemu_takes_every_bus_with_sectors_of_512_and_of_4096_bytes() {
    for firmware in ["bios", "uefi"] {
        for (bus, driver) in BUSES {
            for sector in [512, 4096] {
                let dir = tempfile::tempdir().unwrap();
                let mut machine = server(firmware);
                let disks = [add_disk(&mut machine, bus, driver, sector)];
                let plan = VmPlan::new(&machine, &disks);
                let tree = started(dir.path(), &plan);
                let device = match plan.disks[0].bus {
                    DiskBus::Ide | DiskBus::Sata => "dev: ide-hd",
                    DiskBus::Nvme => "dev: nvme,",
                    DiskBus::MegaSas => "dev: megasas,",
                    DiskBus::MptSas => "dev: mptsas1068,",
                    DiskBus::VirtioScsi => "dev: virtio-scsi-pci,",
                    DiskBus::VirtioBlk => "dev: virtio-blk-pci,",
                    DiskBus::Usb => "dev: usb-storage,",
                };
                assert!(
                    tree.contains(device),
                    "{bus} {sector}: no {device} in {tree}"
                );
                assert!(
                    tree.contains("S45NNA0M123400"),
                    "{bus}: the serial number is lost"
                );
                assert!(
                    tree.contains(&format!("logical_block_size = {sector} ")),
                    "{bus}: the sector is lost"
                );
                assert!(tree.to_lowercase().contains("b0:26:28:aa:bb:01"));
            }
        }
    }
}

#[test]
fn a_clock_on_local_time_is_that_of_the_machines_zone() {
    let number = |said: &str, key: &str| -> i64 {
        let rest = said.split_once(&format!("\"{key}\": ")).expect(key).1;
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '-');
        rest[..end.unwrap()].parse().expect("a number")
    };
    // No zone here has summer time.
    for (kind, zone, offset) in [
        ("linux", json!({"name": "Asia/Tokyo"}), 9 * 60),
        ("windows", json!({"utc_offset_minutes": -210}), -210),
        ("windows", json!({"utc_offset_minutes": 120}), 120),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let mut machine = server("bios");
        let disks = [add_disk(&mut machine, Bus::Sata, "ahci", 512)];
        local_time(&mut machine, kind, zone);
        let said = started(dir.path(), &VmPlan::new(&machine, &disks));
        let minute = number(&said, "tm_hour") * 60 + number(&said, "tm_min");
        let now = std::time::SystemTime::now();
        let now = now.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        let expected = i64::try_from(now / 60).unwrap() + offset;
        let late = (expected - minute).rem_euclid(24 * 60);
        assert!(late <= 2, "{kind}: {late} minutes off: {said}");
    }
}

#[test]
fn a_machine_with_a_tpm_gets_a_new_one() {
    for (version, device) in [
        ("2.0", r#""model": "tpm-crb""#),
        ("1.2", r#""model": "tpm-tis""#),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let mut machine = server("uefi");
        machine.tpm = Some(Tpm {
            version: Some(version.into()),
        });
        let disks = [add_disk(&mut machine, Bus::Sata, "ahci", 512)];
        let tree = started(dir.path(), &VmPlan::new(&machine, &disks));
        assert!(tree.contains(device), "no {device} in {tree}");
        // Its state stays with the machine.
        assert!(dir.path().join("tpm").is_dir());
    }
}

#[test]
fn qemu_takes_many_disks_of_all_kinds_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut machine = server("bios");
    let mut disks: Vec<VmDisk> = BUSES
        .map(|(bus, driver)| add_disk(&mut machine, bus, driver, 512))
        .into();
    for _ in 0..8 {
        disks.push(add_disk(&mut machine, Bus::Sata, "ahci", 512));
        disks.push(add_disk(&mut machine, Bus::Ide, "ata_piix", 512));
    }
    started(dir.path(), &VmPlan::new(&machine, &disks));
}

/// How often QEMU's tree of devices names `device`.
fn count(tree: &str, device: &str) -> usize {
    tree.matches(device).count()
}

#[test]
fn disks_beyond_one_controller_of_scsi_get_another() {
    for (driver, disks, device, controllers) in [
        ("mptsas", 8, "dev: mptsas1068,", 1),
        ("mptsas", 12, "dev: mptsas1068,", 2),
        ("megaraid_sas", 66, "dev: megasas,", 2),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let mut machine = server("bios");
        let disks: Vec<VmDisk> = (0..disks)
            .map(|_| add_disk(&mut machine, Bus::Sas, driver, 512))
            .collect();
        let tree = started(dir.path(), &VmPlan::new(&machine, &disks));
        assert_eq!(count(&tree, device), controllers, "{driver}");
        assert_eq!(count(&tree, "dev: scsi-hd,"), disks.len(), "{driver}");
    }
}

#[test]
fn a_server_with_more_disks_and_cards_than_a_pci_bus_has_slots() {
    let dir = tempfile::tempdir().unwrap();
    let mut machine = server("bios");
    let mut disks: Vec<VmDisk> = (0..12)
        .map(|_| add_disk(&mut machine, Bus::Nvme, "nvme", 512))
        .collect();
    let small = run_script(&VmPlan::new(&machine, &disks));
    assert!(!small.contains("addr="), "{small}");
    for number in 0..4 {
        let mut card = machine.nics[0].clone();
        card.mac = Some(format!("b0:26:28:aa:cc:0{number}"));
        machine.nics.push(card);
    }
    disks.extend((0..12).map(|_| add_disk(&mut machine, Bus::Nvme, "nvme", 512)));
    let tree = started(dir.path(), &VmPlan::new(&machine, &disks));
    assert_eq!(count(&tree, "dev: nvme,"), 24);
    assert_eq!(count(&tree, "dev: e1000e,"), 5);
    // The machine with IDE has a bus of 32 slots too.
    let dir = tempfile::tempdir().unwrap();
    disks.push(add_disk(&mut machine, Bus::Ide, "ata_piix", 512));
    disks.extend((0..8).map(|_| add_disk(&mut machine, Bus::VirtioBlk, "virtio_blk", 512)));
    let tree = started(dir.path(), &VmPlan::new(&machine, &disks));
    assert_eq!(count(&tree, "dev: nvme,"), 24);
    assert_eq!(count(&tree, "dev: virtio-blk-pci,"), 8);
    assert_eq!(count(&tree, "dev: e1000,"), 5);
}

#[test]
fn two_nvme_disks_never_have_one_serial_number() {
    let dir = tempfile::tempdir().unwrap();
    let mut machine = server("bios");
    let mut disks: Vec<VmDisk> = (0..3)
        .map(|_| add_disk(&mut machine, Bus::Nvme, "nvme", 512))
        .collect();
    // The third has the name that the second would get.
    for (number, serial) in ["NV1", "NV1", "NV1-2"].into_iter().enumerate() {
        machine.disks[number].serial = Some(serial.into());
        disks[number].source.serial = Some(serial.into());
    }
    let tree = started(dir.path(), &VmPlan::new(&machine, &disks));
    for serial in ["NV1", "NV1-2", "NV1-3"] {
        let shown = format!("serial = \\\"{serial}\\\"");
        assert_eq!(count(&tree, &shown), 1, "{serial}: {tree}");
    }
}

#[test]
fn more_than_255_processors_have_an_iommu_and_a_machine_with_ide_has_255() {
    for (bus, driver, processors) in [(Bus::Sata, "ahci", 256), (Bus::Ide, "ata_piix", 254)] {
        let dir = tempfile::tempdir().unwrap();
        let mut machine = server("bios");
        machine.cpu.sockets = 2;
        machine.cpu.cores_per_socket = 64;
        machine.cpu.threads_per_core = 2;
        let disks = [add_disk(&mut machine, bus, driver, 512)];
        let plan = VmPlan::new(&machine, &disks);
        assert_eq!(plan.vcpus(), processors);
        let tree = started(dir.path(), &plan);
        let iommu = usize::from(processors > 255);
        assert_eq!(count(&tree, "dev: intel-iommu,"), iommu, "{bus}");
        assert_eq!(
            run_script(&plan).contains("kernel-irqchip=split"),
            iommu == 1
        );
        let notes = plan.all_notes().join("\n");
        let said = "the VM has 254 processors instead of the machine's 256";
        assert_eq!(notes.contains(said), iommu == 0, "{notes}");
    }
}

#[test]
fn more_memory_than_software_emulation_addresses_is_told_where_it_is_emulated() {
    let mut machine = server("bios");
    machine.memory.installed_bytes = Some(2 << 40);
    let disks = [add_disk(&mut machine, Bus::Sata, "ahci", 512)];
    let plan = VmPlan::new(&machine, &disks);
    let dir = tempfile::tempdir().unwrap();
    let script = dir.path().join("run.sh");
    fs::write(&script, run_script(&plan)).unwrap();
    for (accel, memory, told) in [
        ("tcg", "", true),
        ("tcg", "4096", false),
        ("kvm", "", false),
    ] {
        let output = tool(
            Command::new("sh")
                .arg(&script)
                .env("QEMU", "true")
                .env("QEMU_ACCEL", accel)
                .env("QEMU_MEMORY", memory),
        );
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(
            said.contains("has room for 900 GiB"),
            told,
            "{accel} {memory}: {said}"
        );
    }
}

/// The words that the shell hands to QEMU.
fn words(plan: &VmPlan) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    let qemu = dir.path().join("qemu");
    fs::write(&qemu, "#!/bin/sh\nprintf '%s\\0' \"$@\"\n").unwrap();
    fs::set_permissions(&qemu, fs::Permissions::from_mode(0o755)).unwrap();
    let script = dir.path().join("run.sh");
    fs::write(&script, run_script(plan)).unwrap();
    tool(Command::new("sh").arg("-n").arg(&script));
    let output = tool(
        Command::new("sh")
            .arg(&script)
            .arg("last word")
            .env("QEMU", &qemu)
            .env("QEMU_ACCEL", "tcg"),
    );
    let mut files: Vec<_> = fs::read_dir(&dir)
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    files.sort();
    assert_eq!(files, ["qemu", "run.sh"], "the script made a file");
    String::from_utf8(output.stdout)
        .unwrap()
        .split_terminator('\0')
        .map(str::to_owned)
        .collect()
}

/// One value of an option list, read as QEMU reads it: `,,` is a comma, `,` ends the value.
fn value(list: &str, key: &str) -> Option<String> {
    list.replace(",,", "\0")
        .split(',')
        .find_map(|pair| pair.strip_prefix(key)?.strip_prefix('='))
        .map(|value| value.replace('\0', ","))
}

#[test]
fn a_product_that_looks_like_a_place_of_the_template_is_text() {
    let text = "@MEMORY@ @CODE@ @VARS@ @DEVICE@ @STANDARD@ @DESCRIPTION@ @@MEMORY@@ #";
    let made = |text: &str| {
        let (mut machine, disks) = filled("harmless");
        machine.smbios.product = Some(text.into());
        machine.tpm = Some(Tpm {
            version: Some("2.0".into()),
        });
        let plan = VmPlan::with_firmware(&machine, &disks, FirmwareKind::Uefi);
        let script = run_script(&plan);
        tool(Command::new("sh").args(["-n", "-c", &script]));
        script
    };
    // Both need quotes.
    assert_eq!(made(text).replace(text, "no thing"), made("no thing"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn no_string_of_a_firmware_leaves_its_place_in_the_script(
        text in r#"[ -~\n\r\t]{0,30}|.{0,20}|(['"`$(){};&|<>,=\\\n]|touch x|@MEMORY@| #){0,12}"#,
    ) {
        let (machine, disks) = filled(&text);
        let found = words(&VmPlan::new(&machine, &disks));
        let (machine, disks) = filled("harmless");
        let harmless = words(&VmPlan::new(&machine, &disks));
        let options = |words: &[String]| -> Vec<String> {
            words.iter().filter(|w| w.starts_with('-') && !w.contains(' ')).cloned().collect()
        };
        // A string of blanks or of nothing is left out, with its option if that has no other.
        if text.trim().is_empty() {
            prop_assert!(found.len() <= harmless.len());
        } else {
            prop_assert_eq!(options(&found).len(), options(&harmless).len());
            let shown: String = text
                .chars()
                .map(|c| if (' '..='~').contains(&c) { c } else { '?' })
                .collect();
            let system = found.iter().find(|w| w.starts_with("type=1,")).unwrap();
            prop_assert_eq!(value(system, "product").unwrap(), shown.trim());
            prop_assert_eq!(value(system, "family").unwrap(), shown.trim());
        }
        prop_assert_eq!(found.last().unwrap(), "last word");
    }
}

#[test]
fn the_script_names_what_is_missing() {
    let dir = tempfile::tempdir().unwrap();
    let mut machine = server("uefi");
    let disks = [add_disk(&mut machine, Bus::Sata, "ahci", 512)];
    let mut plan = VmPlan::new(&machine, &disks);
    plan.nvram = Some("VARS.fd".into());
    let script = dir.path().join("run.sh");
    fs::write(&script, run_script(&plan)).unwrap();
    let fails = |name: &str, value: &str| {
        let output = Command::new("sh")
            .arg(&script)
            .env(name, value)
            .output()
            .unwrap();
        assert!(!output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    let said = fails("QEMU", "no-such-qemu");
    assert!(said.contains("there is no no-such-qemu here"), "{said}");
    let said = fails("OVMF_CODE", "/no/such/code.fd");
    assert!(
        said.contains("cannot read the UEFI firmware /no/such/code.fd"),
        "{said}"
    );
    let said = fails("QEMU_SERIAL", "null");
    assert!(said.contains("cannot write the UEFI variables"), "{said}");
}
