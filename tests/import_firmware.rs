//! The stick was started by one firmware and the system on the disk by the other: the VM gets that of
//! the disk, and a sentence says so. Disks made by sgdisk and sfdisk with mkfs.vfat and GRUB's image.

mod import_common;

use haulier::import::{Options, Target};
use haulier::inventory::{Bus, FirmwareKind};
use haulier::report::Level;
use import_common::{add_disk, capture, import, options, server, tool};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

const ESP_START: u64 = 2048;
const ESP_SECTORS: u64 = 98_304;

fn sgdisk(disk: &Path, args: &[&str]) {
    tool(Command::new("sgdisk").args(args).arg(disk));
}

fn empty_disk(dir: &Path) -> PathBuf {
    let disk = dir.join("server.img");
    let file = File::create(&disk).unwrap();
    file.set_len(import_common::DISK_BYTES).unwrap();
    disk
}

/// A FAT with `\EFI\Microsoft\Boot\bootmgfw.efi` at the second MiB.
fn add_loader(dir: &Path, disk: &Path) {
    let esp = dir.join("esp.img");
    let blocks = (ESP_SECTORS / 2).to_string();
    tool(Command::new("mkfs.vfat").arg("-C").arg(&esp).arg(blocks));
    let folders = ["::/EFI", "::/EFI/Microsoft", "::/EFI/Microsoft/Boot"];
    tool(Command::new("mmd").arg("-i").arg(&esp).args(folders));
    let program = dir.join("bootmgfw.efi");
    fs::write(&program, b"MZ").unwrap();
    let mut mcopy = Command::new("mcopy");
    tool(mcopy.arg("-i").arg(&esp).arg(program).arg(folders[2]));
    let file = File::options().write(true).open(disk).unwrap();
    let bytes = fs::read(esp).unwrap();
    file.write_all_at(&bytes, ESP_START * 512).unwrap();
}

/// GRUB in the first sector and something in its BIOS boot partition at 60 MiB.
fn add_grub(disk: &Path) {
    sgdisk(disk, &["-n", "2:122880:124927", "-t", "2:ef02"]);
    let code = fs::read("/usr/lib/grub/i386-pc/boot.img").unwrap();
    let file = File::options().write(true).open(disk).unwrap();
    file.write_all_at(&code[..440], 0).unwrap();
    file.write_all_at(b"\x52\x56", 122_880 * 512).unwrap();
}

fn uefi_disk(dir: &Path) -> PathBuf {
    let disk = empty_disk(dir);
    let end = ESP_START + ESP_SECTORS - 1;
    sgdisk(
        &disk,
        &["-n", &format!("1:{ESP_START}:{end}"), "-t", "1:ef00"],
    );
    add_loader(dir, &disk);
    disk
}

fn bios_disk(dir: &Path) -> PathBuf {
    let disk = empty_disk(dir);
    add_grub(&disk);
    disk
}

/// Imports the capture of a machine that the stick was started on by `booted`. What was said as a
/// warning, and whether the VM has UEFI.
fn imported(
    dir: &Path,
    booted: &str,
    disk: &Path,
    change: impl FnOnce(&mut Options),
) -> (Vec<String>, bool) {
    let mut machine = server(booted);
    add_disk(&mut machine, Bus::Sata, "ahci", 512);
    let capture = capture(dir, &machine, &[disk.to_owned()]);
    let out = dir.join("vm");
    let mut options = options(&capture, Target::Qemu, &out);
    change(&mut options);
    let said = import(&options).unwrap();
    let script = fs::read_to_string(out.join("run.sh")).unwrap();
    let warnings = said.into_iter().filter(|(level, _)| *level == Level::Warn);
    (
        warnings.map(|(_, text)| text).collect(),
        script.contains("pflash"),
    )
}

fn said(warnings: &[String], words: &[&str]) -> bool {
    let has = |text: &&String| words.iter().all(|word| text.contains(word));
    warnings.iter().any(|text| has(&text))
}

#[test]
fn a_uefi_system_captured_by_a_stick_that_bios_started() {
    let dir = tempfile::tempdir().unwrap();
    let disk = uefi_disk(dir.path());
    let (warnings, uefi) = imported(dir.path(), "bios", &disk, |_| {});
    assert!(uefi);
    let loader = "/EFI/Microsoft/Boot/bootmgfw.efi";
    let words = ["the VM has UEFI", loader, "started by BIOS", "--firmware"];
    assert!(said(&warnings, &words), "{warnings:?}");
    let entry = [r"\EFI\Microsoft\Boot\bootmgfw.efi", "no boot entry"];
    assert!(said(&warnings, &entry), "{warnings:?}");
}

/// The disk signature stands for the GUID that a partition of an MBR does not have.
#[test]
fn a_uefi_system_on_an_mbr_has_an_entry_in_the_vms_variables() {
    let dir = tempfile::tempdir().unwrap();
    let disk = empty_disk(dir.path());
    let script = dir.path().join("table");
    let partition = format!("start={ESP_START}, size={ESP_SECTORS}, type=ef");
    fs::write(
        &script,
        format!("label: dos\nlabel-id: 0x1b2c3d4e\n{partition}\n"),
    )
    .unwrap();
    let mut sfdisk = Command::new("sfdisk");
    tool(
        sfdisk
            .arg("-q")
            .arg(&disk)
            .stdin(File::open(script).unwrap()),
    );
    add_loader(dir.path(), &disk);
    let (warnings, uefi) = imported(dir.path(), "bios", &disk, |_| {});
    assert!(uefi);
    let entry = [r"\EFI\Microsoft\Boot\bootmgfw.efi", "no boot entry"];
    assert!(said(&warnings, &entry), "{warnings:?}");
    let is_store = |path: &PathBuf| path.to_string_lossy().ends_with("VARS.fd");
    let files = fs::read_dir(dir.path().join("vm")).unwrap();
    let store = files.map(|file| file.unwrap().path()).find(is_store);
    let store = fs::read(store.unwrap()).unwrap();
    let mut signature = vec![0x4e, 0x3d, 0x2c, 0x1b];
    signature.extend([0; 12]);
    signature.extend([1, 1]);
    assert!(store.windows(18).any(|window| window == signature));
}

#[test]
fn a_bios_system_captured_by_a_stick_that_uefi_started() {
    let dir = tempfile::tempdir().unwrap();
    let disk = bios_disk(dir.path());
    let (warnings, uefi) = imported(dir.path(), "uefi", &disk, |_| {});
    assert!(!uefi);
    let words = ["the VM has BIOS", "GRUB", "started by UEFI", "--firmware"];
    assert!(said(&warnings, &words), "{warnings:?}");
}

#[test]
fn where_both_agree_nothing_is_said() {
    for (booted, make) in [
        ("bios", bios_disk as fn(&Path) -> PathBuf),
        ("uefi", uefi_disk),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let disk = make(dir.path());
        let (warnings, uefi) = imported(dir.path(), booted, &disk, |_| {});
        assert_eq!(uefi, booted == "uefi");
        assert!(!said(&warnings, &["started by"]), "{warnings:?}");
    }
}

#[test]
fn a_disk_for_both_gets_the_firmware_of_this_boot_and_the_word_wins() {
    for booted in ["bios", "uefi"] {
        let dir = tempfile::tempdir().unwrap();
        let disk = uefi_disk(dir.path());
        add_grub(&disk);
        let (warnings, uefi) = imported(dir.path(), booted, &disk, |_| {});
        assert_eq!(uefi, booted == "uefi");
        assert!(
            said(&warnings, &["both by BIOS (GRUB) and by UEFI"]),
            "{warnings:?}"
        );
    }
    let dir = tempfile::tempdir().unwrap();
    let disk = uefi_disk(dir.path());
    let word = |options: &mut Options| options.firmware = Some(FirmwareKind::Bios);
    let (warnings, uefi) = imported(dir.path(), "bios", &disk, word);
    assert!(!uefi);
    assert!(!said(&warnings, &["started by"]), "{warnings:?}");
}

/// The configuration that a capture itself holds follows what the inventory saw on the disks.
#[test]
fn the_captures_own_domain_has_the_firmware_of_the_disks() {
    use haulier::device::Disk;
    use haulier::inventory::DiskBoot;
    use haulier::units::SectorSize;
    use haulier::vm::{VmPlan, libvirt::domain_xml};
    for (booted, make, uefi) in [
        ("bios", uefi_disk as fn(&Path) -> PathBuf, true),
        ("uefi", bios_disk, false),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let mut machine = server(booted);
        let image = add_disk(&mut machine, Bus::Sata, "ahci", 512);
        let disk = Disk::open(&make(dir.path())).unwrap();
        machine.disks[0].boot = Some(DiskBoot::look(&disk, SectorSize::B512).unwrap());
        let plan = VmPlan::new(&machine, &[image]);
        assert_eq!(
            domain_xml(&plan).contains("<os firmware=\"efi\">"),
            uefi,
            "{booted}"
        );
        let wanted = if uefi {
            "the VM has UEFI"
        } else {
            "the VM has BIOS"
        };
        assert!(said(&plan.notes, &[wanted]), "{:?}", plan.notes);
    }
}
