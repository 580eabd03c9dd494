//! Root filesystems that need a driver to be made: a laboratory makes the volume and copies the system
//! into it from an ext4 image.

use super::recipe::{BOOT_UUID, LUKS_UUID, PASSPHRASE, PV_UUID, ROOT_UUID, Recipe, Root};
use crate::lab::Lab;
use anyhow::{Context, Result};
use std::path::Path;
use std::time::Duration;

/// A minute on a quiet machine.
const COPYING: Duration = Duration::from_secs(900);

/// Fills the root (and `/boot`) partitions of `disks` with the system in `system`, an ext4 image.
pub(super) fn fill(recipe: &Recipe, system: &Path, disks: &[&Path]) -> Result<()> {
    let layout = recipe.layout();
    let before = [layout.loader, layout.boot].iter().flatten().count();
    let root = before + 1;
    let boot = match layout.boot {
        Some(_) => format!(
            "mke2fs -q -F -t ext4 -U {BOOT_UUID} /dev/vdb{before}
             mkdir -p /mnt/root/boot
             mount -t ext4 /dev/vdb{before} /mnt/root/boot"
        ),
        None => String::new(),
    };
    let ext4 = |device: &str| {
        format!(
            "mke2fs -q -F -t ext4 -L root -U {ROOT_UUID} {device}
             mount -t ext4 {device} /mnt/root"
        )
    };
    let part = format!("/dev/vdb{root}");
    let mut lab = Lab::new().tool("mke2fs");
    let (make, close) = match recipe.root {
        Root::Ext4 => (ext4(&part), ""),
        Root::Xfs => {
            lab = lab.tool("mkfs.xfs");
            let make = format!(
                "mkfs.xfs -q -f -L root -m uuid={ROOT_UUID} {part}
                 mount -t xfs {part} /mnt/root"
            );
            (make, "")
        }
        Root::Btrfs => {
            lab = lab.tools(&["mkfs.btrfs", "btrfs"]).module("btrfs");
            let make = format!(
                "mkfs.btrfs -q -f -L root -U {ROOT_UUID} {part}
                 mount -t btrfs {part} /mnt/root
                 btrfs subvolume create /mnt/root/@
                 btrfs subvolume create /mnt/root/@home
                 umount /mnt/root
                 mount -t btrfs -o subvol=@,compress=zstd {part} /mnt/root"
            );
            (make, "")
        }
        Root::Lvm => {
            lab = lab.tool("lvm").module("dm_mod").file(
                "etc/lvm/lvm.conf",
                "devices { dir=\"/dev\" scan=[\"/dev\"] use_devicesfile=0 }\n\
                 activation { udev_sync=0 udev_rules=0 }\n\
                 global { locking_type=1 locking_dir=\"/run/lock\" }\n",
            );
            let make = format!(
                "lvm pvcreate -q --uuid {PV_UUID} --norestorefile {part}
                 lvm vgcreate -q vg0 {part}
                 lvm lvcreate -q -y -Wn -Zn -L 1600m -n root vg0
                 lvm lvcreate -q -y -Wn -Zn -L 128m -n swap vg0
                 busybox mkswap /dev/mapper/vg0-swap
                 {}",
                ext4("/dev/mapper/vg0-root")
            );
            (make, "lvm vgchange -an vg0")
        }
        Root::Luks => {
            lab = lab
                .tool("cryptsetup")
                .module("dm_crypt")
                .module("xts")
                .file("lab/key", PASSPHRASE);
            let make = format!(
                "cryptsetup luksFormat --key-file /lab/key --batch-mode --type luks2 \
                     --uuid {LUKS_UUID} --pbkdf pbkdf2 --pbkdf-force-iterations 1000 {part}
                 cryptsetup open --key-file /lab/key {part} root
                 {}",
                ext4("/dev/mapper/root")
            );
            (make, "cryptsetup close root")
        }
        Root::Md => {
            lab = lab.tool("mdadm").module("raid1");
            let make = format!(
                "mdadm --create /dev/md0 --run --level=1 --raid-devices=2 --metadata=1.2 \
                     --homehost=any --name=root --assume-clean /dev/vdb{root} /dev/vdc{root}
                 {}",
                ext4("/dev/md0")
            );
            (make, "mdadm --stop /dev/md0")
        }
    };
    lab = lab.disk(system);
    for disk in disks {
        lab = lab.disk(disk);
    }
    let script = format!(
        "mkdir -p /mnt/system /mnt/root
         mount -t ext4 -o ro /dev/vda /mnt/system
         {make}
         {boot}
         cp -a /mnt/system/. /mnt/root/
         if [ -n '{boot}' ]; then umount /mnt/root/boot; fi
         umount /mnt/root
         {close}"
    );
    lab.script(&script)
        .run(COPYING)
        .with_context(|| format!("filling {} in a laboratory", disks[0].display()))?;
    Ok(())
}
