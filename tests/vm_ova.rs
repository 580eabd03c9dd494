//! The OVA, held against tar, sha256sum, qemu-img, an XML parser and virt-v2v, which reads OVAs of VMware.

mod import_common;

use haulier::import::Target;
use haulier::inventory::{Bus, Machine};
use haulier::vm::ovf::{buses, files};
use haulier::vm::{DiskBus, VmDisk, VmPlan};
use import_common::{
    BUSES, add_disk, capture, capture_of_empty_disk, filled, import, names, options, server, tool,
};
use proptest::prelude::*;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A server with a SATA and an NVMe disk, its raw disks, and its OVA.
fn imported(dir: &Path, firmware: &str) -> (Machine, Vec<PathBuf>, PathBuf) {
    let mut machine = server(firmware);
    add_disk(&mut machine, Bus::Sata, "ahci", 512);
    add_disk(&mut machine, Bus::Nvme, "nvme", 512);
    let disks: Vec<PathBuf> = (0..2_u64)
        .map(|number| {
            let path = dir.join(format!("disk-{number}.img"));
            let file = File::create(&path).unwrap();
            file.set_len(import_common::DISK_BYTES).unwrap();
            file.write_all_at(&[7; 5000], (number + 1) << 20).unwrap();
            path
        })
        .collect();
    let capture = capture(dir, &machine, &disks);
    let out = dir.join("vm");
    import(&options(&capture, Target::Ova, &out)).unwrap();
    assert_eq!(names(&out), ["R640-7XK3P52.ova"]);
    (machine, disks, out.join("R640-7XK3P52.ova"))
}

fn said(command: &mut Command) -> String {
    String::from_utf8(tool(command).stdout).unwrap()
}

#[test]
fn the_archive_is_in_order_and_its_disks_are_the_machines() {
    let dir = tempfile::tempdir().unwrap();
    let (_, disks, ova) = imported(dir.path(), "uefi");
    let list = said(Command::new("tar").arg("-tf").arg(&ova));
    let expected = "R640-7XK3P52.ovf\nR640-7XK3P52.mf\ndisk-0.vmdk\ndisk-1.vmdk\n";
    assert_eq!(list, expected);
    // POSIX.1-1988: `ustar`, a zero byte, version 00.
    assert_eq!(&fs::read(&ova).unwrap()[257..265], b"ustar\x0000");
    tool(
        Command::new("tar")
            .arg("-xf")
            .arg(&ova)
            .arg("-C")
            .arg(dir.path()),
    );
    let digests = fs::read_to_string(dir.path().join("R640-7XK3P52.mf")).unwrap();
    let checked = said(
        Command::new("sh")
            .arg("-c")
            .arg("sed 's/= / = /; s/SHA256(/SHA256 (/' *.mf | sha256sum --check --strict")
            .current_dir(dir.path()),
    );
    assert_eq!(checked.matches(": OK").count(), 3, "{checked}{digests}");
    for (number, disk) in disks.iter().enumerate() {
        let vmdk = dir.path().join(format!("disk-{number}.vmdk"));
        let compared = said(
            Command::new("qemu-img")
                .args(["compare", "-f", "vmdk", "-F", "raw"])
                .args([&vmdk, disk]),
        );
        assert!(compared.contains("identical"), "{compared}");
        let info = said(
            Command::new("qemu-img")
                .args(["info", "--output=json"])
                .arg(&vmdk),
        );
        assert!(info.contains("streamOptimized"), "{info}");
    }
}

#[test]
fn virt_v2v_reads_the_machine_out_of_it() {
    for firmware in ["bios", "uefi"] {
        let dir = tempfile::tempdir().unwrap();
        let (_, _, ova) = imported(dir.path(), firmware);
        let read = said(
            Command::new("virt-v2v")
                .args(["-i", "ova", "--print-source"])
                .arg(&ova)
                .env("LIBGUESTFS_BACKEND", "direct")
                .env("TMPDIR", dir.path()),
        );
        for part in [
            "source name: R640-7XK3P52",
            "memory: 268435456 (bytes)",
            "nr vCPUs: 2",
            &format!("firmware: {firmware}"),
            "\"VM Network\" mac: b0:26:28:aa:bb:01 [e1000e]",
            "mac: b0:26:28:aa:bb:02 [e1000e]",
            "0 [sata]",
        ] {
            assert!(read.contains(part), "{part}: {read}");
        }
    }
}

fn xpath(descriptor: &str, path: &str) -> String {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("x.ovf");
    fs::write(&file, descriptor).unwrap();
    let found = said(
        Command::new("xmllint")
            .args(["--nonet", "--xpath", path])
            .arg(&file),
    );
    found.trim_end().to_owned()
}

/// What DSP0243 asks for beyond the schema: identifiers name each other, numbers are unique.
fn is_consistent(descriptor: &str) {
    let any = |name: &str| format!("*[local-name()='{name}']");
    let items = format!("//{}", any("Item"));
    let numbers = xpath(descriptor, &format!("{items}/{}/text()", any("InstanceID")));
    let mut unique: Vec<&str> = numbers.lines().collect();
    let all = unique.len();
    unique.sort_unstable();
    unique.dedup();
    assert_eq!(unique.len(), all, "{descriptor}");
    let parents = xpath(
        descriptor,
        &format!(
            "count({items}[{0}][not({0}=//{1}/{2})])",
            any("Parent"),
            any("Item"),
            any("InstanceID")
        ),
    );
    assert_eq!(parents, "0");
    let lost = xpath(
        descriptor,
        "count(//*[local-name()='Disk'][not(@*[local-name()='fileRef']=//*[local-name()='File']/\
         @*[local-name()='id'])])",
    );
    assert_eq!(lost, "0");
    // CIM's schema wants the elements of an item in the order of the alphabet.
    for number in 1..=all {
        let fields = xpath(
            descriptor,
            &format!("({items})[{number}]/*[starts-with(name(),'rasd:')]"),
        );
        let names: Vec<&str> = fields
            .split("<rasd:")
            .skip(1)
            .map(|field| field.split('>').next().unwrap())
            .collect();
        assert!(names.is_sorted() && !names.is_empty(), "{names:?}");
    }
}

#[test]
fn every_bus_has_a_controller_and_more_disks_than_one_takes_have_more() {
    let there = [DiskBus::Sata, DiskBus::Nvme, DiskBus::MptSas, DiskBus::Ide];
    for firmware in ["bios", "uefi"] {
        let mut all = server(firmware);
        let mut disks: Vec<VmDisk> = Vec::new();
        for (bus, driver) in BUSES {
            disks.push(add_disk(&mut all, bus, driver, 512));
        }
        for _ in 0..16 {
            disks.push(add_disk(&mut all, Bus::Nvme, "nvme", 512));
        }
        let sizes = vec![1; disks.len()];
        let all_buses = buses(&VmPlan::new(&all, &disks));
        assert!(
            all_buses.iter().all(|bus| there.contains(bus)),
            "{all_buses:?}"
        );
        let written = files(&VmPlan::new(&all, &disks), &sizes);
        is_consistent(&written.descriptor);
        let count = xpath(
            &written.descriptor,
            "count(//*[local-name()='ResourceSubType'][text()='vmware.nvme.controller'])",
        );
        assert_eq!(count, "2");
        let notes = written.notes.join("\n");
        for words in [
            "VMware has no virtio disks",
            "network cards come to E1000e",
            "serial numbers",
        ] {
            assert!(notes.contains(words), "{words}: {notes}");
        }
    }
}

#[test]
fn what_vmwares_hardware_version_does_not_take_is_told() {
    let notes = |disks: usize, cards: usize, cores: u32, gib: u64| {
        let mut machine = server("uefi");
        let card = machine.nics[0].clone();
        machine.nics = (0..cards)
            .map(|number| {
                let mut card = card.clone();
                card.mac = Some(format!("b0:26:28:aa:cc:{number:02x}"));
                card
            })
            .collect();
        machine.cpu.cores_per_socket = cores;
        machine.memory.installed_bytes = Some(gib << 30);
        let disks: Vec<VmDisk> = (0..disks)
            .map(|_| add_disk(&mut machine, Bus::Nvme, "nvme", 512))
            .collect();
        let notes = files(&VmPlan::new(&machine, &disks), &vec![1; disks.len()]).notes;
        let limits: Vec<String> = notes.into_iter().filter(|n| n.contains("vmx-14")).collect();
        limits.join("\n")
    };
    assert_eq!(notes(60, 10, 128, 6128), "");
    for (said, words) in [
        (
            notes(61, 0, 1, 1),
            "has 61 NVMe disks, and VMware's hardware version vmx-14 takes at most 60",
        ),
        (notes(1, 11, 1, 1), "has 11 network cards"),
        (notes(1, 0, 129, 1), "has 129 processors"),
        (notes(1, 0, 1, 6129), "has 6276096 MiB of memory"),
    ] {
        assert!(said.contains(words) && said.lines().count() == 1, "{said}");
    }
}

#[test]
fn without_qemu_img_it_is_refused_before_anything_is_copied() {
    let dir = tempfile::tempdir().unwrap();
    let capture = capture_of_empty_disk(dir.path(), "bios");
    let output = Command::new(env!("CARGO_BIN_EXE_haulier"))
        .args(["import", "--to", "ova", "--out"])
        .arg(dir.path().join("vm"))
        .arg(&capture)
        .env("PATH", dir.path())
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(4), "{said}");
    assert!(said.contains("package qemu-utils"), "{said}");
    assert_eq!(names(dir.path()), ["disk.img", "store"]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn no_string_of_a_firmware_leaves_its_place(text in r#"(.|\n|[<>&'"]|]]>|-->){0,30}|.{300}"#) {
        let write = |text: &str| {
            let (machine, disks) = filled(text);
            files(&VmPlan::new(&machine, &disks), &[1]).descriptor
        };
        let found = write(&text);
        is_consistent(&found);
        prop_assert_eq!(xpath(&found, "count(//*)"), xpath(&write("harmless"), "count(//*)"));
    }
}
