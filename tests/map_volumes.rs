//! The proof for logical volumes on real LVM tools: a group over two disks is made on soiled ground
//! without any driver, filesystems are laid where LVM's own report says that the volumes lie, and
//! then every byte outside the maps is overwritten. LVM must still find its group, e2fsck and the
//! digest of every file must not notice.
//!
//! What needs the kernel's drivers (arrays, dm-raid, thin pools, snapshots) is recorded:
//! `src/volume/recorded/`.

mod map_support;

use haulier::device::{Disk, ReadAt};
use haulier::usedmap::{DiskInfo, DiskMap, Policy, State, map_disks};
use haulier::volume::crypt::Secrets;
use map_support::mount::privileged;
use map_support::oracle::used_by_dumpe2fs;
use map_support::ratios::{Row, print_and_check};
use map_support::{Noise, arg, digests, make_tree, punch, run, soiled_file};
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

const MIB: u64 = 1 << 20;
const DISK: u64 = 96 * MIB;
const EXTENT: u64 = MIB;

/// Two disks on loop devices, detached when dropped.
struct Disks {
    images: Vec<PathBuf>,
    loops: Vec<String>,
    scratch: TempDir,
}

impl Disks {
    fn new() -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let images: Vec<PathBuf> = (0..2)
            .map(|index| scratch.path().join(format!("disk{index}")))
            .collect();
        for image in &images {
            soiled_file(image, DISK, 0x5A);
            // LVM asks before it overwrites what looks like something; the label's sectors do not.
            fs::OpenOptions::new()
                .write(true)
                .open(image)
                .unwrap()
                .write_all_at(&[0; 4096], 0)
                .unwrap();
        }
        let mut disks = Self {
            images,
            loops: Vec::new(),
            scratch,
        };
        disks.attach();
        disks
    }

    fn attach(&mut self) {
        for image in &self.images {
            let name = privileged("losetup", &["--find", "--show", arg(image)]);
            self.loops.push(name.trim().to_owned());
        }
    }

    fn detach(&mut self) {
        for name in self.loops.drain(..) {
            privileged("losetup", &["--detach", &name]);
        }
    }

    /// Runs an LVM command that sees these disks only and never asks for a driver.
    fn lvm(&self, args: &[&str]) -> String {
        let filter: Vec<String> = self
            .loops
            .iter()
            .map(|name| format!("\"a|^{name}$|\""))
            .collect();
        let config = format!(
            "devices {{ filter=[{},\"r|.*|\"] obtain_device_list_from_udev=0 use_devicesfile=0 }} \
             global {{ locking_dir=\"{}\" event_activation=0 }} \
             backup {{ backup=0 archive=0 }} activation {{ udev_sync=0 udev_rules=0 }}",
            filter.join(","),
            arg(self.scratch.path())
        );
        let (command, rest) = args.split_first().unwrap();
        let mut all = vec![*command, "--config", &config, "--driverloaded", "n"];
        all.extend_from_slice(rest);
        privileged("lvm", &all)
    }

    fn make_volume(&self, name: &str, args: &[&str]) {
        let mut all = vec!["lvcreate", "-an", "-Zn", "-Wn", "-y", "-n", name, "vgt"];
        all.extend_from_slice(args);
        self.lvm(&all);
    }

    /// Where a volume lies, in LVM's own words: `(disk, first byte, chunk, runs of bytes)` chunk by
    /// chunk in the volume's order.
    fn places(&self, name: &str) -> Vec<(usize, u64, u64)> {
        let starts = self.lvm(&[
            "pvs",
            "--noheadings",
            "--units",
            "b",
            "--nosuffix",
            "-o",
            "pv_name,pe_start",
        ]);
        let start_of = |pv: &str| -> (usize, u64) {
            let line = starts
                .lines()
                .find(|line| line.trim().starts_with(pv))
                .unwrap();
            let start = line.split_whitespace().nth(1).unwrap().parse().unwrap();
            (
                self.loops.iter().position(|name| name == pv).unwrap(),
                start,
            )
        };
        let report = self.lvm(&[
            "lvs",
            "--noheadings",
            "--segments",
            "--units",
            "b",
            "--nosuffix",
            "--separator",
            ";",
            "-o",
            "seg_pe_ranges,stripe_size",
            &format!("vgt/{name}"),
        ]);
        let mut places = Vec::new();
        for segment in report.lines() {
            let (ranges, stripe) = segment.trim().split_once(';').unwrap();
            let stripe: u64 = stripe.parse().unwrap();
            let stripes: Vec<(usize, u64, u64)> = ranges
                .split_whitespace()
                .map(|range| {
                    let (pv, extents) = range.split_once(':').unwrap();
                    let (first, last) = extents.split_once('-').unwrap();
                    let (first, last): (u64, u64) = (first.parse().unwrap(), last.parse().unwrap());
                    let (disk, start) = start_of(pv);
                    (disk, start + first * EXTENT, (last + 1 - first) * EXTENT)
                })
                .collect();
            let chunk = if stripes.len() == 1 { EXTENT } else { stripe };
            for row in 0..stripes[0].2 / chunk {
                for (disk, start, _) in &stripes {
                    places.push((*disk, start + row * chunk, chunk));
                }
            }
        }
        places
    }

    fn copy(&self, volume: &Path, places: &[(usize, u64, u64)], to_disks: bool) {
        let file = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(volume)
            .unwrap();
        let disks: Vec<fs::File> = self
            .images
            .iter()
            .map(|image| {
                fs::OpenOptions::new()
                    .read(true)
                    .write(true)
                    .open(image)
                    .unwrap()
            })
            .collect();
        let mut at = 0;
        for (disk, start, len) in places {
            let mut bytes = vec![0; usize::try_from(*len).unwrap()];
            if to_disks {
                file.read_exact_at(&mut bytes, at).unwrap();
                disks[*disk].write_all_at(&bytes, *start).unwrap();
            } else {
                disks[*disk].read_exact_at(&mut bytes, *start).unwrap();
                file.write_all_at(&bytes, at).unwrap();
            }
            at += len;
        }
    }

    fn map(&self) -> Vec<DiskMap> {
        let disks: Vec<Disk> = self
            .images
            .iter()
            .map(|image| Disk::open(image).unwrap())
            .collect();
        let sources: Vec<(&dyn ReadAt, DiskInfo)> = disks
            .iter()
            .map(|disk| (disk as &dyn ReadAt, DiskInfo::from(disk.identity())))
            .collect();
        map_disks(&sources, &Secrets::default()).unwrap()
    }
}

impl Drop for Disks {
    fn drop(&mut self) {
        for name in self.loops.drain(..) {
            // A test that failed: leave nothing attached.
            let _ = std::process::Command::new("losetup")
                .args(["--detach", &name])
                .status();
        }
    }
}

#[test]
fn logical_volumes_survive_with_their_used_blocks_alone() {
    let mut disks = Disks::new();
    let loops = disks.loops.clone();
    disks.lvm(&["pvcreate", "-y", &loops[0], &loops[1]]);
    disks.lvm(&["vgcreate", "-s", "1M", "vgt", &loops[0], &loops[1]]);
    disks.make_volume("gone", &["-L", "9M"]);
    disks.make_volume("one", &["-L", "30M"]);
    disks.make_volume("striped", &["-L", "40M", "-i", "2", "-I", "16k"]);
    disks.lvm(&["lvremove", "-y", "vgt/gone"]);
    // In the hole, over the rest of the first disk and on the second.
    disks.make_volume("torn", &["-L", "90M"]);
    assert!(
        disks
            .lvm(&["lvs", "--noheadings", "--segments", "vgt/torn"])
            .lines()
            .count()
            > 1,
        "the volume lies in one piece"
    );

    let mut noise = Noise(7);
    let mut wanted = Vec::new();
    let mut own = 0;
    for name in ["one", "striped", "torn"] {
        let tree = disks.scratch.path().join(format!("{name}.tree"));
        fs::create_dir(&tree).unwrap();
        make_tree(&tree, &mut noise, 12 * MIB);
        let places = disks.places(name);
        let size: u64 = places.iter().map(|(_, _, len)| len).sum();
        let image = disks.scratch.path().join(name);
        soiled_file(&image, size, 0x5A);
        run(
            "mke2fs",
            &["-q", "-F", "-t", "ext4", "-d", arg(&tree), arg(&image)],
        );
        own += used_by_dumpe2fs(&image);
        disks.copy(&image, &places, true);
        wanted.push((name, places, digests(&tree)));
    }
    disks.detach();

    let maps = disks.map();
    let volumes: Vec<_> = maps.iter().flat_map(|map| &map.volumes).collect();
    for name in ["one", "striped", "torn"] {
        let volume = volumes
            .iter()
            .find(|volume| volume.name == format!("vgt/{name}"))
            .unwrap_or_else(|| panic!("{name} is not in the map"));
        assert_eq!(volume.state, Some(State::Clean), "{}", volume.reason);
        assert_eq!(volume.policy, Policy::UsedBlocks, "{}", volume.reason);
        assert_eq!(volume.filesystem.as_deref(), Some("ext4"));
    }
    for (map, image) in maps.iter().zip(&disks.images) {
        punch(image, &map.extents);
    }

    disks.attach();
    for (name, places, files) in wanted {
        assert_eq!(disks.places(name), places, "LVM finds {name} elsewhere");
        let image = disks.scratch.path().join(format!("{name}.after"));
        disks.copy(&image, &places, false);
        run("e2fsck", &["-f", "-n", arg(&image)]);
        let after = disks.scratch.path().join(format!("{name}.files"));
        fs::create_dir(&after).unwrap();
        run(
            "debugfs",
            &["-R", &format!("rdump / {}", arg(&after)), arg(&image)],
        );
        let _ = fs::remove_dir(after.join("lost+found"));
        assert_eq!(digests(&after), files, "{name}");
    }
    let taken = maps.iter().map(|map| map.used_bytes).sum();
    print_and_check(
        "LVM2",
        "dumpe2fs",
        &[Row {
            variant: "linear_striped_torn".into(),
            haulier: taken,
            own,
            // What lies before the first extent of each disk.
            uncounted: 2 * MIB,
            partclone: None,
        }],
    );
}

#[test]
fn without_its_other_disk_a_group_is_copied_and_the_missing_one_is_named() {
    let mut disks = Disks::new();
    let loops = disks.loops.clone();
    disks.lvm(&["pvcreate", "-y", &loops[0], &loops[1]]);
    disks.lvm(&["vgcreate", "-s", "1M", "vgt", &loops[0], &loops[1]]);
    disks.make_volume("one", &["-L", "30M"]);
    let uuid = disks.lvm(&["pvs", "--noheadings", "-o", "pv_uuid", &loops[1]]);
    disks.detach();
    let map = map_support::map_of(&disks.images[0]);
    let region = map
        .regions
        .iter()
        .find(|region| region.policy == Policy::CopyNonzero);
    let region = region.expect("the physical volume is copied");
    assert!(region.reason.contains(uuid.trim()), "{}", region.reason);
    assert!(
        region.reason.contains("give all disks"),
        "{}",
        region.reason
    );
    assert_eq!(map.used_bytes, DISK);
}
