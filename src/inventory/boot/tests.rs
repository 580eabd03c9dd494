//! Disks made by sfdisk and mkfs.vfat.

use super::*;
use crate::device::MemDisk;
use std::io::Write;
use std::process::{Command, Stdio};

const MIB: usize = 1 << 20;

/// A disk of 64 MiB with the partitions of an sfdisk script.
fn disk(script: &str) -> Vec<u8> {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(64 << 20).unwrap();
    let mut sfdisk = Command::new("sfdisk")
        .arg("-q")
        .arg(file.path())
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = sfdisk.stdin.take().unwrap();
    stdin.write_all(script.as_bytes()).unwrap();
    drop(stdin);
    assert!(sfdisk.wait().unwrap().success());
    std::fs::read(file.path()).unwrap()
}

/// Puts an EFI system partition with a loader at 1 MiB.
fn add_esp(disk: &mut [u8]) {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("esp");
    let loader = dir.path().join("BOOTX64.EFI");
    std::fs::write(&loader, b"MZ").unwrap();
    let done = |command: &mut Command| assert!(command.output().unwrap().status.success());
    done(Command::new("mkfs.vfat").arg("-C").arg(&image).arg("16384"));
    done(
        Command::new("mmd")
            .arg("-i")
            .arg(&image)
            .args(["::/EFI", "::/EFI/BOOT"]),
    );
    done(
        Command::new("mcopy")
            .arg("-i")
            .arg(&image)
            .arg(&loader)
            .arg("::/EFI/BOOT/"),
    );
    let bytes = std::fs::read(image).unwrap();
    disk[MIB..][..bytes.len()].copy_from_slice(&bytes);
}

fn add_grub(disk: &mut [u8]) {
    let image = std::fs::read("/usr/lib/grub/i386-pc/boot.img").unwrap();
    disk[..440].copy_from_slice(&image[..440]);
}

fn look(disk: &[u8]) -> DiskBoot {
    DiskBoot::look(&MemDisk(disk.to_vec()), SectorSize::B512).unwrap()
}

const ESP: &str = "label: gpt\nstart=2048, size=32768, type=U\nstart=40960, type=L\n";
const BIOS_BOOT: &str = "label: gpt\nstart=2048, size=2048, \
    type=21686148-6449-6E6F-744E-656564454649\nstart=40960, type=L\n";

#[test]
fn an_esp_with_a_loader_is_uefi() {
    let mut disk = disk(ESP);
    assert!(!look(&disk).by_uefi, "an empty partition starts nothing");
    add_esp(&mut disk);
    let boot = look(&disk);
    assert_eq!((boot.by_bios, boot.by_uefi), (false, true));
    assert_eq!(
        boot.esps[0].loaders.as_deref(),
        Some(&["/EFI/BOOT/BOOTX64.EFI".to_owned()][..])
    );
    assert_eq!(verdict([&boot], &[]).0, Some(FirmwareKind::Uefi));
}

#[test]
fn grub_on_a_gpt_needs_its_bios_boot_partition() {
    let mut disk = disk(BIOS_BOOT);
    add_grub(&mut disk);
    assert!(!look(&disk).by_bios, "the partition is empty");
    disk[MIB] = 0x52;
    let boot = look(&disk);
    assert_eq!(boot.bios_boot_partition, Some(1));
    assert_eq!((boot.by_bios, boot.by_uefi), (true, false));
    let (kind, why) = verdict([&boot], &[]);
    assert_eq!(kind, Some(FirmwareKind::Bios));
    assert!(why.contains("GRUB"), "{why}");
}

#[test]
fn windows_code_on_a_uefi_disk_is_no_bios_system() {
    let mut disk = disk(ESP);
    add_esp(&mut disk);
    let code = b"Invalid partition table\0Error loading operating system\0";
    disk[300..][..code.len()].copy_from_slice(code);
    let boot = look(&disk);
    assert_eq!(boot.boot_code, Some(BootCode::Windows));
    assert_eq!((boot.by_bios, boot.by_uefi), (false, true));
}

#[test]
fn a_windows_of_bios_needs_an_active_partition_with_code() {
    let code = b"\x33\xC0Invalid partition table\0Error loading operating system\0";
    for (script, starts) in [
        ("label: dos\nstart=2048, type=7, bootable\n", true),
        ("label: dos\nstart=2048, type=7\n", false),
    ] {
        let mut disk = disk(script);
        disk[..code.len()].copy_from_slice(code);
        disk[MIB] = 0xEB;
        disk[MIB + 510..MIB + 512].copy_from_slice(&[0x55, 0xAA]);
        assert_eq!(look(&disk).by_bios, starts, "{script}");
    }
}

#[test]
fn a_disk_for_both_is_told_by_the_firmwares_entry_or_not_at_all() {
    let mut disk = disk(
        "label: gpt\nstart=2048, size=32768, type=U\nstart=40960, size=2048, \
         type=21686148-6449-6E6F-744E-656564454649\n",
    );
    add_esp(&mut disk);
    add_grub(&mut disk);
    disk[20 * MIB] = 0x52;
    let boot = look(&disk);
    assert_eq!((boot.by_bios, boot.by_uefi), (true, true));
    assert_eq!(verdict([&boot], &[]).0, None);
    let path = format!(
        "HD(1,GPT,{},0x800,0x8000)",
        boot.esps[0].guid.clone().unwrap()
    );
    assert_eq!(verdict([&boot], &[&path]).0, Some(FirmwareKind::Uefi));
}

#[test]
fn an_esp_on_an_mbr_is_told_by_the_disks_signature() {
    let script = |id: &str| {
        format!(
            "label: dos\nlabel-id: {id}\nstart=2048, size=32768, type=ef\nstart=40960, type=83\n"
        )
    };
    let mut image = disk(&script("0x0b2c3d4e"));
    add_esp(&mut image);
    add_grub(&mut image);
    let boot = look(&image);
    assert_eq!((boot.by_bios, boot.by_uefi), (true, true));
    assert_eq!(boot.disk_signature.as_deref(), Some("0b2c3d4e"));
    assert_eq!(boot.esps[0].guid, None);
    assert_eq!(verdict([&boot], &[]).0, None);
    for (path, kind) in [
        (
            "HD(1,MBR,0x0b2c3d4e,0x800,0x8000)",
            Some(FirmwareKind::Uefi),
        ),
        ("HD(2,MBR,0x0b2c3d4e,0xa000,0x16000)", None),
        ("HD(1,MBR,0x0b2c3d4f,0x800,0x8000)", None),
    ] {
        assert_eq!(verdict([&boot], &[path]).0, kind, "{path}");
    }
    image[0x1B8..0x1BC].fill(0);
    assert_eq!(look(&image).disk_signature, None, "zero tells nothing");
    assert_eq!(look(&disk(ESP)).disk_signature, None, "a GPT has none");
}

#[test]
fn an_empty_disk_is_started_by_nothing() {
    let boot = look(&vec![0; MIB]);
    assert_eq!((boot.by_bios, boot.by_uefi), (false, false));
    assert_eq!(verdict([&boot], &[]).0, None);
    assert_eq!(verdict([], &[]).0, None);
    assert!(DiskBoot::look(&MemDisk(Vec::new()), SectorSize::B512).is_ok());
}
