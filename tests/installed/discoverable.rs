//! Systems whose fstab does not name the partitions that they start from.

use crate::scene::{BOOT_UUID, ROOT_UUID, disk_of, esp_image, ext4, look_at};
use haulier::inventory::System;
use std::fs;
use std::path::Path;

const RELEASE: &str = "6.12.57-1-lts";
const XBOOTLDR: &str = "bc13c2ff-59e6-4262-a352-b275fd6f7172";
const GENERATOR: &str = "usr/lib/systemd/system-generators/systemd-gpt-auto-generator";

/// A system with systemd-boot on a disk with an ESP and, if asked for, an extended boot loader partition that has the
/// kernel. `files` are further ones of the root (folders end with `/`), `loader` whether the ESP has systemd-boot.
fn system(files: &[(&str, &str)], extended: bool, loader: bool) -> System {
    let scratch = tempfile::tempdir().unwrap();
    let path = |name: &str| scratch.path().join(name);
    let write = |name: &str, text: &str| {
        let file = path(name);
        let folder = if name.ends_with('/') {
            &file
        } else {
            file.parent().unwrap()
        };
        fs::create_dir_all(folder).unwrap();
        if !name.ends_with('/') {
            fs::write(&file, text).unwrap();
        }
    };
    write("root/etc/os-release", "ID=arch\n");
    for (name, text) in files {
        write(&format!("root/{name}"), text);
    }
    write("esp/EFI/BOOT/BOOTX64.EFI", "MZ");
    if loader {
        write("esp/loader/loader.conf", "timeout 3\n");
    }
    let entry = format!("version {RELEASE}\nlinux /vmlinuz\noptions root=UUID={ROOT_UUID} rw\n");
    if extended || loader {
        let folder = if extended { "extended" } else { "esp" };
        write(&format!("{folder}/loader/entries/arch.conf"), &entry);
    }
    esp_image(&path("esp"), &path("esp.img"));
    ext4(&path("root"), &path("root.img"), 64, ROOT_UUID, &[]);
    let (esp, root) = (path("esp.img"), path("root.img"));
    let mut partitions: Vec<(&Path, &str)> = vec![(&esp, "uefi"), (&root, "linux")];
    let boot = path("boot.img");
    if extended {
        ext4(&path("extended"), &boot, 32, BOOT_UUID, &[]);
        // Before the root's, as installers have it.
        partitions.insert(1, (&boot, XBOOTLDR));
    }
    disk_of(&path("disk"), &partitions);
    let found = look_at(&[path("disk")]);
    found.systems.into_iter().next().unwrap()
}

/// What is mounted, and the file that the kernel's command line stands in.
fn seen(system: &System) -> (Vec<String>, Option<String>) {
    let mounts = system.discovered_mounts.iter().flatten();
    let mounts = mounts.map(|entry| format!("{} {} {}", entry.spec, entry.file, entry.fs_type));
    let line = system.command_line.as_ref();
    (mounts.collect(), line.map(|line| line.file.clone()))
}

fn esp_at(place: &str) -> (Vec<String>, Option<String>) {
    (
        vec![format!("UUID=4A1D-7E33 {place} vfat")],
        Some(format!("{place}/loader/entries/arch.conf")),
    )
}

#[test]
fn the_esp_is_where_systemd_mounts_it() {
    let root = format!("UUID={ROOT_UUID} / ext4 rw 0 1\n");
    let generator = (GENERATOR, "");
    let fstab = ("etc/fstab", &*root);
    let library = |version: u32| format!("usr/lib/systemd/libsystemd-shared-{version}.so");
    let (old, new) = (library(252), library(257));
    for (files, expected) in [
        (vec![generator, ("boot/", "")], "/boot"),
        (vec![generator, fstab, ("boot/", ""), ("efi/", "")], "/boot"),
        (
            vec![generator, (&*new, ""), ("boot/", ""), ("efi/", "")],
            "/boot",
        ),
        (
            vec![generator, (&*old, ""), ("boot/", ""), ("efi/", "")],
            "/efi",
        ),
        (vec![generator, (&*old, ""), ("boot/", "")], "/boot"),
        // Debian's own kernels lie in the root.
        (vec![generator, ("boot/vmlinuz", "MZ")], "/efi"),
        (vec![generator], "/efi"),
    ] {
        let system = system(&files, false, true);
        assert_eq!(seen(&system), esp_at(expected), "{files:?}");
        let kernels = system.kernels.unwrap_or_default();
        assert_eq!(
            kernels.first().map(|kernel| &*kernel.release),
            Some(RELEASE)
        );
    }
}

#[test]
fn an_extended_boot_loader_partition_takes_boot() {
    let system = system(&[(GENERATOR, ""), ("boot/", "")], true, true);
    let (mounts, file) = seen(&system);
    assert_eq!(
        mounts,
        [
            format!("UUID={BOOT_UUID} /boot ext4"),
            "UUID=4A1D-7E33 /efi vfat".into()
        ]
    );
    assert_eq!(file.as_deref(), Some("/boot/loader/entries/arch.conf"));
}

#[test]
fn nothing_is_mounted_that_systemd_would_not() {
    let free = [("boot/", ""), ("efi/", "")];
    let with = |more: &[(&'static str, &'static str)]| [&free[..], more].concat();
    // No systemd; fstab has its own word; neither place is free; a loader that does not tell systemd.
    for (files, loader) in [
        (with(&[]), true),
        (
            with(&[
                (GENERATOR, ""),
                ("etc/fstab", "/dev/sdz9 /boot/efi vfat noauto 0 0\n"),
            ]),
            true,
        ),
        (
            with(&[(GENERATOR, ""), ("boot/vmlinuz", "MZ"), ("efi/mine", "")]),
            true,
        ),
        (with(&[(GENERATOR, "")]), false),
    ] {
        let found = system(&files, false, loader);
        assert_eq!(seen(&found), (Vec::new(), None), "{files:?}");
        assert_eq!(found.discovered_mounts, None);
    }
    // Only the root's own disk counts.
    let scratch = tempfile::tempdir().unwrap();
    let path = |name: &str| scratch.path().join(name);
    for folder in ["root/etc", "root/boot", "esp/loader/entries"] {
        fs::create_dir_all(path(folder)).unwrap();
    }
    let generator = path("root").join(GENERATOR);
    fs::create_dir_all(generator.parent().unwrap()).unwrap();
    fs::write(generator, "").unwrap();
    fs::write(path("root/etc/os-release"), "ID=arch\n").unwrap();
    esp_image(&path("esp"), &path("esp.img"));
    ext4(&path("root"), &path("root.img"), 64, ROOT_UUID, &[]);
    disk_of(&path("one"), &[(&path("root.img"), "linux")]);
    disk_of(&path("other"), &[(&path("esp.img"), "uefi")]);
    let found = look_at(&[path("one"), path("other")]);
    assert_eq!(found.systems[0].discovered_mounts, None);
}
