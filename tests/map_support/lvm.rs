//! Volume groups of LVM over two disks, made by LVM's own tools without any driver.

use super::mount::privileged;
use super::{arg, soiled_file};
use haulier::device::{Disk, ReadAt};
use haulier::usedmap::{DiskInfo, DiskMap, map_disks};
use haulier::volume::crypt::Secrets;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

pub const MIB: u64 = 1 << 20;
/// Bytes a disk.
pub const DISK: u64 = 96 * MIB;
const EXTENT: u64 = MIB;

/// Two disks on loop devices, detached when dropped.
pub struct Disks {
    pub images: Vec<PathBuf>,
    pub loops: Vec<String>,
    pub scratch: TempDir,
}

impl Disks {
    pub fn new() -> Self {
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

    pub fn attach(&mut self) {
        for image in &self.images {
            let name = privileged("losetup", &["--find", "--show", arg(image)]);
            self.loops.push(name.trim().to_owned());
        }
    }

    pub fn detach(&mut self) {
        for name in self.loops.drain(..) {
            privileged("losetup", &["--detach", &name]);
        }
    }

    /// Runs an LVM command that sees these disks only and never asks for a driver.
    pub fn lvm(&self, args: &[&str]) -> String {
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

    pub fn make_volume(&self, name: &str, args: &[&str]) {
        let mut all = vec!["lvcreate", "-an", "-Zn", "-Wn", "-y", "-n", name, "vgt"];
        all.extend_from_slice(args);
        self.lvm(&all);
    }

    /// Where a volume lies, in LVM's own words: `(disk, first byte, chunk, runs of bytes)` chunk by
    /// chunk in the volume's order.
    pub fn places(&self, name: &str) -> Vec<(usize, u64, u64)> {
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

    pub fn copy(&self, volume: &Path, places: &[(usize, u64, u64)], to_disks: bool) {
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

    pub fn map(&self) -> Vec<DiskMap> {
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
