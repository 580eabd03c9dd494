//! The proof: volumes that others encrypted read as those others say, and after every byte that we
//! do not keep was overwritten, others still read every file out of them.

#![allow(clippy::arithmetic_side_effects, clippy::as_conversions)]

mod bitlocker;
mod fixture;
mod hostile;
mod luks;

use super::{Locked, Secrets, Unlocked, unlock};
use crate::device::{Disk, ReadAt};
use crate::extent::{Extent, ExtentList};
use crate::refusal::Refusal;
use crate::units::ByteOffset;
use crate::usedmap::{DiskInfo, map_disks};
use crate::volume::{DiskIndex, Places, SharedVolume, Slice};
use sha2::{Digest, Sha256};
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

/// Runs a tool that must exist, and returns what it did.
fn try_run(tool: &str, args: &[&str]) -> Output {
    let path = std::env::var("PATH").unwrap_or_default();
    Command::new(tool)
        .args(args)
        .env("PATH", format!("{path}:/usr/sbin:/sbin"))
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("this test needs the program {tool}: {error}"))
}

/// Runs a tool that must succeed, and returns its standard output.
fn run(tool: &str, args: &[&str]) -> String {
    let output = try_run(tool, args);
    assert!(
        output.status.success(),
        "{tool} {args:?}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn arg(path: &Path) -> &str {
    path.to_str().expect("temporary paths are UTF-8")
}

/// The whole of a disk as a volume.
fn whole(disk: &dyn ReadAt) -> SharedVolume<'_> {
    let extent = Extent::between(0, disk.size().0).unwrap();
    Arc::new(Slice::new(disk, DiskIndex(0), extent).unwrap())
}

fn opened<'a>(disk: &'a dyn ReadAt, secrets: &Secrets) -> Unlocked<'a> {
    unlock(whole(disk), secrets).unwrap_or_else(|locked| panic!("{locked:?}"))
}

/// What keeps it closed.
fn closed(disk: &dyn ReadAt, secrets: &Secrets) -> Locked {
    unlock(whole(disk), secrets).err().expect("it opened")
}

/// The clause of a refusal.
fn refused(locked: Locked) -> String {
    match locked {
        Locked::Refusal(
            Refusal::Damaged(why) | Refusal::Unsupported(why) | Refusal::Dirty(why),
        ) => why,
        other => panic!("{other:?}"),
    }
}

/// What is kept of the disk so that `used` of its plaintext can be read.
fn kept(disk: &dyn ReadAt, secrets: &Secrets, used: &ExtentList) -> ExtentList {
    let unlocked = opened(disk, secrets);
    let mut places = Places::new(1);
    for extent in used.iter() {
        unlocked.volume.trace(extent, &mut places);
    }
    for extent in unlocked.metadata.iter() {
        places.push(DiskIndex(0), extent);
    }
    places.finish().remove(0)
}

/// What the map of the whole disk keeps, without what it takes for want of knowledge.
fn kept_by_map(disk: &Disk, secrets: &Secrets) -> ExtentList {
    let info = DiskInfo::from(disk.identity());
    let map = map_disks(&[(disk, info)], secrets).unwrap().remove(0);
    let inside = map.volumes.first();
    let inside = inside.unwrap_or_else(|| panic!("it stayed closed: {:?}", map.regions));
    println!("{:?}", inside);
    map.extents.subtract(map.nonzero_only())
}

/// SHA-256 of a run of a volume.
fn digest(volume: &dyn ReadAt, start: u64, end: u64) -> String {
    let mut hash = Sha256::new();
    let mut buf = vec![0; 1 << 20];
    let mut at = start;
    while at < end {
        let len = (end - at).min(1 << 20) as usize;
        volume.read_at(ByteOffset(at), &mut buf[..len]).unwrap();
        hash.update(&buf[..len]);
        at += len as u64;
    }
    hash.finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// Overwrites every byte of an image that is not kept.
fn punch(image: &Path, kept: &ExtentList) {
    let file = fs::OpenOptions::new().write(true).open(image).unwrap();
    let size = file.metadata().unwrap().len();
    let all: ExtentList = Extent::between(0, size).into_iter().collect();
    let holes = all.subtract(kept);
    assert!(
        holes.total().0 > size / 4,
        "{} of {size}: proves nothing",
        holes.total().0
    );
    for hole in holes.iter() {
        let rubbish = vec![0xA5; 1 << 20];
        let mut at = hole.start().0;
        while at < hole.end() {
            let len = (hole.end() - at).min(1 << 20) as usize;
            file.write_all_at(&rubbish[..len], at).unwrap();
            at += len as u64;
        }
    }
}

fn disk_of(path: &Path) -> Disk {
    Disk::open(path).unwrap()
}
