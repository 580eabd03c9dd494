//! Volumes that lie on several disks, made by md and LVM themselves: each holds an ext4 that is
//! found through them, and nothing but what it uses is kept of the disks.

use super::map_support::{arg, punch, soiled_file};
use super::{LONG, lab, told};
use haulier::device::Disk;
use haulier::usedmap::{DiskInfo, DiskMap, Policy, map_disks};
use haulier::volume::crypt::Secrets;
use haulier_testbed::lab::Lab;
use haulier_testbed::product::scratch;
use std::path::{Path, PathBuf};

/// Some disks and what is made of them.
#[derive(Debug)]
struct Set {
    name: &'static str,
    disks: usize,
    mib: u64,
    /// Makes the volumes out of `$disks`.
    make: &'static str,
    /// Their names (after the set's) and devices; each gets an ext4.
    volumes: &'static [(&'static str, &'static str)],
    /// Snapshots of filled volumes: what makes them, their names and devices.
    snapshots: &'static [(&'static str, &'static str, &'static str)],
    /// Volumes that are written to again when the snapshots are there.
    origins: &'static [&'static str],
    /// Finds the volumes again in `$disks`.
    open: &'static str,
    close: &'static str,
}

const MD: Set = Set {
    name: "",
    disks: 2,
    mib: 64,
    make: "",
    volumes: &[("", "/dev/md0")],
    snapshots: &[],
    origins: &[],
    open: "mdadm --assemble --run /dev/md0 $disks",
    close: "mdadm --stop /dev/md0",
};

const SETS: &[Set] = &[
    Set {
        name: "raid0",
        make: "mdadm --create /dev/md0 --run --metadata=1.2 --level=0 --chunk=64 --raid-devices=2 $disks",
        ..MD
    },
    Set {
        name: "raid1",
        make: "mdadm --create /dev/md0 --run --metadata=0.90 --level=1 --raid-devices=2 $disks",
        ..MD
    },
    Set {
        name: "raid10",
        disks: 4,
        make: "mdadm --create /dev/md0 --run --metadata=1.1 --level=10 --raid-devices=4 $disks",
        ..MD
    },
    Set {
        name: "raid5",
        disks: 3,
        make: "mdadm --create /dev/md0 --run --metadata=1.0 --level=5 --chunk=64 --raid-devices=3 $disks",
        ..MD
    },
    Set {
        name: "raid6",
        disks: 4,
        make: "mdadm --create /dev/md0 --run --metadata=1.2 --level=6 --chunk=64 --raid-devices=4 $disks",
        ..MD
    },
    Set {
        name: "lvm",
        disks: 2,
        mib: 400,
        make: "lvm pvcreate -q -ff -y $disks
               lvm vgcreate -q vg0 $disks
               lvm lvcreate -q -y -W y -n linear -L 64M vg0
               lvm lvcreate -q -y -W y -n striped -i 2 -I 64k -L 64M vg0
               lvm lvcreate -q -y --type thin-pool -n pool -L 160M --poolmetadatasize 4M vg0
               lvm lvcreate -q -y --type thin -n thin -V 128M --thinpool pool vg0",
        volumes: &[
            ("linear", "/dev/vg0/linear"),
            ("striped", "/dev/vg0/striped"),
            ("thin", "/dev/vg0/thin"),
        ],
        snapshots: &[
            (
                "lvm lvcreate -q -y -s -k n -n thinsnap vg0/thin",
                "thinsnap",
                "/dev/vg0/thinsnap",
            ),
            (
                "lvm lvcreate -q -y -s -n oldsnap -L 32M vg0/linear",
                "oldsnap",
                "/dev/vg0/oldsnap",
            ),
        ],
        origins: &["/dev/vg0/thin", "/dev/vg0/linear"],
        open: "lvm vgchange -q -ay vg0",
        close: "lvm vgchange -q -an vg0",
    },
];

const LVM_CONF: &str =
    "devices { obtain_device_list_from_udev=0 external_device_info_source=\"none\" }
activation { udev_sync=0 udev_rules=0 monitoring=0 }
global { event_activation=0 }
";

fn machine(images: &[PathBuf], script: &str) -> Lab {
    let limit = "echo 200000 >/proc/sys/dev/raid/speed_limit_min\n";
    lab(images, &format!("{limit}{script}"))
        .tools(&["mdadm", "lvm", "thin_check", "mke2fs", "e2fsck"])
        .module("md_mod")
        .file("etc/lvm/lvm.conf", LVM_CONF)
}

/// The devices of each set, in the order of the disks.
fn with_disks() -> Vec<(&'static Set, String)> {
    let mut letters = 'a'..='z';
    let sets = SETS.iter().map(|set| {
        let disks: Vec<String> = letters
            .by_ref()
            .take(set.disks)
            .map(|letter| format!("/dev/vd{letter}"))
            .collect();
        (set, disks.join(" "))
    });
    sets.collect()
}

fn filling() -> String {
    let mut script = String::from("mkdir -p /mnt/x\n");
    for (set, disks) in with_disks() {
        script += &format!("disks=\"{disks}\"\n{}\n", set.make);
        if set.make.contains("mdadm") {
            script += "mdadm --wait /dev/md0 || true\n";
        }
        for (_, device) in set.volumes {
            script += &format!(
                "mke2fs -q -F -t ext4 {device}
                 mount -t ext4 {device} /mnt/x; use /mnt/x; umount /mnt/x\n"
            );
        }
        for (make, ..) in set.snapshots {
            script += &format!("{make}\n");
        }
        for device in set.origins {
            script += &format!(
                "mount -t ext4 {device} /mnt/x; fill /mnt/x 60 69; rm /mnt/x/large; umount /mnt/x\n"
            );
        }
        script += &reading(set);
        script += &format!("{}\n", set.close);
    }
    script
}

fn reading(set: &Set) -> String {
    let mut script = String::new();
    let snapshots = set.snapshots.iter().map(|(_, name, device)| (name, device));
    let volumes = set.volumes.iter().map(|(name, device)| (name, device));
    for (name, device) in volumes.chain(snapshots) {
        script += &format!(
            "e2fsck -fn {device} >/tmp/e2fsck 2>&1 || (cat /tmp/e2fsck; exit 1)
             mount -t ext4 -o ro {device} /mnt/x; told {}{name} /mnt/x; umount /mnt/x\n",
            set.name
        );
    }
    script
}

#[test]
fn a_volume_across_disks_keeps_every_file() {
    let scratch = scratch().unwrap();
    let mut images: Vec<PathBuf> = Vec::new();
    for set in SETS {
        for number in 0..set.disks {
            let image = scratch.path().join(format!("{}-{number}.img", set.name));
            soiled_file(&image, set.mib << 20, 0x5A);
            images.push(image);
        }
    }
    let before = told(&machine(&images, &filling()).run(LONG).unwrap());

    let mut wrong = Vec::new();
    let mut rest = images.as_slice();
    for set in SETS {
        let (these, others) = rest.split_at(set.disks);
        rest = others;
        let maps = maps_of(these);
        let expected = set.volumes.len() + set.snapshots.len();
        let mapped = maps.first().map_or(0, |map| {
            let used = map.volumes.iter().filter(|volume| {
                volume.policy == Policy::UsedBlocks && volume.filesystem.as_deref() == Some("ext4")
            });
            used.count()
        });
        let used: u64 = maps.iter().map(|map| map.used_bytes).sum();
        let size: u64 = maps.iter().map(|map| map.disk.size_bytes).sum();
        println!(
            "| {} | {size} | {used} | {mapped} of {expected} |",
            set.name
        );
        if mapped < expected {
            wrong.push(format!(
                "{}: {mapped} of {expected} volumes are mapped: {:#?}",
                set.name,
                maps.first()
            ));
        }
        for (image, map) in these.iter().zip(&maps) {
            if map.used_bytes * 4 < map.disk.size_bytes * 3 {
                punch(image, &map.extents);
            } else {
                wrong.push(format!("{} is hardly reduced", arg(image)));
            }
        }
    }
    let mut script = String::from("mkdir -p /mnt/x\n");
    for (set, disks) in with_disks() {
        script += &format!(
            "disks=\"{disks}\"\n{}\n{}{}\n",
            set.open,
            reading(set),
            set.close
        );
    }
    let after = told(&machine(&images, &script).run(LONG).unwrap());
    for (name, sums) in &before {
        if after.get(name) != Some(sums) {
            wrong.push(format!("{name}: its files changed"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn maps_of(images: &[impl AsRef<Path>]) -> Vec<DiskMap> {
    let disks: Vec<Disk> = images
        .iter()
        .map(|image| Disk::open(image.as_ref()).unwrap())
        .collect();
    let with_info: Vec<_> = disks
        .iter()
        .map(|disk| {
            (
                disk as &dyn haulier::device::ReadAt,
                DiskInfo::from(disk.identity()),
            )
        })
        .collect();
    map_disks(&with_info, &Secrets::default()).unwrap()
}
