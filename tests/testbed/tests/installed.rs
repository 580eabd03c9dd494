//! The real thing: a Debian as its own installer's tools made it, and everything that lies between its
//! disks and its files on servers, made by the kernel's own drivers.

use haulier::device::{Disk, ReadAt};
use haulier::inventory::SystemKind;
use haulier::inventory::installed::{Found, look};
use haulier::usedmap::DiskInfo;
use haulier::volume::crypt::Secrets;
use haulier_testbed::guest::{Base, Boot, Guest, Recipe};
use haulier_testbed::lab::Lab;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

fn output(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn look_at(images: &[PathBuf], secrets: &Secrets) -> Found {
    let disks: Vec<Disk> = images
        .iter()
        .map(|image| Disk::open(image).unwrap())
        .collect();
    let sources: Vec<(&dyn ReadAt, DiskInfo)> = disks
        .iter()
        .map(|disk| (disk as &dyn ReadAt, DiskInfo::from(disk.identity())))
        .collect();
    look(&sources, secrets).unwrap()
}

/// The modules below these folders of the kernel's tree.
fn told<'a>(paths: impl Iterator<Item = &'a str>) -> BTreeSet<String> {
    const FOLDERS: [&str; 8] = [
        "/drivers/ata/",
        "/drivers/block/",
        "/drivers/message/",
        "/drivers/net/",
        "/drivers/nvme/",
        "/drivers/scsi/",
        "/drivers/virtio/",
        "/fs/",
    ];
    paths
        .filter(|path| {
            FOLDERS
                .iter()
                .any(|folder| path.contains(&format!("kernel{folder}")))
        })
        .filter_map(|path| {
            Some(
                path.rsplit('/')
                    .next()?
                    .split_once(".ko")?
                    .0
                    .replace('-', "_"),
            )
        })
        .collect()
}

#[test]
fn a_debian_server_is_what_its_own_tools_say() {
    let base = Base::get(&|line| println!("{line}")).unwrap();
    for recipe in [Recipe::UEFI, Recipe::BIOS_MBR] {
        let uefi = recipe.boot == Boot::Uefi;
        let folder = tempfile::tempdir().unwrap();
        let guest = Guest::make(&base, recipe, &folder.path().join("disk")).unwrap();
        let begun = std::time::Instant::now();
        let found = look_at(std::slice::from_ref(&guest.path), &Secrets::new());
        println!("{:?}: {:?}", recipe.boot, begun.elapsed());
        assert_eq!(found.notes, Vec::<String>::new());
        assert_eq!(found.systems.len(), 1);
        let system = &found.systems[0];
        assert_eq!(system.kind, Some(SystemKind::Linux));
        assert_eq!(system.id.as_deref(), Some("debian"));
        assert_eq!(system.hostname.as_deref(), Some("ledger"));
        assert_eq!(system.architecture.as_deref(), Some("x86_64"));
        let number = if uefi { 2 } else { 1 };
        assert_eq!(system.root.partition, Some(number));
        // The oracles see the same filesystem through the kernel.
        let at = folder.path().join("at");
        fs::create_dir(&at).unwrap();
        let offset = if uefi { 65 } else { 1 };
        let options = format!(
            "ro,noload,loop,offset={},sizelimit={}",
            offset << 20,
            1536 << 20
        );
        output(
            Command::new("mount")
                .args(["-t", "ext4", "-o", &options])
                .arg(&guest.path)
                .arg(&at),
        );
        let compared = std::panic::catch_unwind(|| compare(system, &at));
        output(Command::new("umount").arg(&at));
        compared.unwrap();
    }
}

fn compare(system: &haulier::inventory::System, at: &Path) {
    let release = fs::read_to_string(at.join("usr/lib/os-release")).unwrap();
    let name = system.name.as_deref().unwrap();
    assert!(
        release.contains(&format!("PRETTY_NAME=\"{name}\"")),
        "{name}: {release}"
    );
    let kernels = system.kernels.as_ref().unwrap();
    assert_eq!(kernels.len(), 1);
    let kernel = &kernels[0];
    assert_eq!(kernel.default, Some(true));
    assert!(at.join(format!("boot/vmlinuz-{}", kernel.release)).exists());
    let initramfs = kernel.initramfs.as_deref().unwrap();
    let image = at.join("boot").join(initramfs.rsplit('/').next().unwrap());
    let image = if image.exists() {
        image
    } else {
        at.join(initramfs.trim_start_matches('/'))
    };
    let image = fs::canonicalize(&image).unwrap_or(image);
    let image = if image.exists() {
        image
    } else {
        at.join(format!("boot/initrd.img-{}", kernel.release))
    };
    let listed = output(Command::new("lsinitramfs").arg(&image));
    let expected = told(listed.lines());
    assert!(
        expected.contains("virtio_blk") && expected.contains("ahci"),
        "{expected:?}"
    );
    let found: BTreeSet<String> = kernel
        .initramfs_drivers
        .clone()
        .unwrap()
        .into_iter()
        .collect();
    let missing: Vec<_> = expected.difference(&found).collect();
    assert!(missing.is_empty(), "{missing:?}");
    // And nothing that is in no initramfs.
    let all: BTreeSet<String> = listed
        .lines()
        .filter_map(|path| {
            Some(
                path.rsplit('/')
                    .next()?
                    .split_once(".ko")?
                    .0
                    .replace('-', "_"),
            )
        })
        .collect();
    let more: Vec<_> = found.difference(&all).collect();
    assert!(more.is_empty(), "{more:?}");
    let builtin = at.join(format!(
        "usr/lib/modules/{}/modules.builtin",
        kernel.release
    ));
    let builtin = fs::read_to_string(builtin).unwrap();
    let expected = told(builtin.lines());
    let found: BTreeSet<String> = kernel
        .builtin_drivers
        .clone()
        .unwrap()
        .into_iter()
        .collect();
    assert!(
        expected.is_subset(&found),
        "{:?}",
        expected.difference(&found).collect::<Vec<_>>()
    );
}

#[test]
fn a_root_on_lvm_in_luks_on_a_raid_1_is_read_with_its_key() {
    let folder = tempfile::tempdir().unwrap();
    let paths: Vec<PathBuf> = ["a", "b"]
        .iter()
        .map(|name| folder.path().join(name))
        .collect();
    for path in &paths {
        fs::File::create(path).unwrap().set_len(192 << 20).unwrap();
    }
    Lab::new()
        .tools(&["mdadm", "cryptsetup", "lvm", "mkfs.ext4"])
        .module("raid1")
        .module("dm-crypt")
        .disk(&paths[0])
        .disk(&paths[1])
        .script(
            "mdadm --create /dev/md0 --run --metadata=1.2 --level=1 --raid-devices=2 --assume-clean /dev/vda /dev/vdb
             printf secret >/tmp/key
             cryptsetup luksFormat -q --type luks2 --pbkdf pbkdf2 --pbkdf-force-iterations 1000 /dev/md0 /tmp/key
             cryptsetup open --key-file /tmp/key /dev/md0 plain
             lvm pvcreate -y /dev/mapper/plain
             lvm vgcreate vg0 /dev/mapper/plain
             lvm lvcreate -y -an -Zn -Wn -L 64M -n other vg0
             lvm lvcreate -y -Wn -L 64M -n root vg0
             mkfs.ext4 -q -L root /dev/vg0/root
             mkdir /mnt/root
             mount -t ext4 /dev/vg0/root /mnt/root
             mkdir /mnt/root/etc
             echo ID=debian >/mnt/root/etc/os-release
             echo deep >/mnt/root/etc/hostname
             umount /mnt/root
             lvm vgchange -an vg0
             cryptsetup close plain
             mdadm --stop /dev/md0",
        )
        .run(Duration::from_secs(240))
        .unwrap();
    let closed = look_at(&paths, &Secrets::new());
    assert_eq!(closed.systems[0].kind, None);
    assert!(closed.systems[0].root.encrypted);
    let found = look_at(&paths, &Secrets::from_passphrase("secret"));
    assert_eq!(found.systems.len(), 1);
    let system = &found.systems[0];
    assert_eq!(system.hostname.as_deref(), Some("deep"));
    assert_eq!(system.root.volume.as_deref(), Some("vg0/root"));
    assert_eq!(system.root.disks.len(), 2);
    assert!(system.root.encrypted);
}
