//! Filesystems of 15 to 64 TiB and 20 million files are ordinary input: the map is found in less
//! than 256 MiB of memory, and without a block lost.
//!
//! The ordinary tests are the quick form. `cargo xtask size` makes all of them as large as they are
//! called, and prints the rows of docs/measured.md.

mod bitmaps;
mod files;
#[path = "../map_support/mod.rs"]
mod map_support;
mod measure;
mod trees;

use bitmaps::Pattern;
use files::{Case, fill_and_measure};
use haulier::usedmap::DiskMap;
use map_support::oracle::used_by_dumpe2fs;
use map_support::sparse::{Room, TIB};
use map_support::{arg, run};
use measure::measure;
use std::sync::{Mutex, MutexGuard};

/// One at a time, so that what one reads is not counted for another.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// What `cargo xtask size` wants to have instead of the `quick` form.
fn number(name: &str, quick: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text
            .parse()
            .unwrap_or_else(|_| panic!("{name} is {text:?}, not a number")),
        Err(_) => quick,
    }
}

fn files() -> u64 {
    number("HAULIER_SIZE_FILES", 3_000)
}

/// The map, and how many bytes dumpe2fs calls used.
fn ext4_in_pieces(what: &str, features: &str, pattern: Pattern, groups: u64) -> (DiskMap, u64) {
    let room = Room::new();
    let image = room.file("disk.img", 64 * TIB);
    let features = format!("64bit,metadata_csum,^resize_inode,^has_journal,^bigalloc{features}");
    run(
        "mke2fs",
        &[
            "-q",
            "-F",
            "-t",
            "ext4",
            "-N",
            "33554432",
            "-O",
            &features,
            "-E",
            "nodiscard,lazy_itable_init=1",
            arg(&image),
        ],
    );
    let empty = used_by_dumpe2fs(&image);
    let changed = bitmaps::fragment_ext4(&image, pattern, groups);
    assert!(changed.len() > usize::try_from(groups / 2).unwrap());
    let used = used_by_dumpe2fs(&image);
    assert!(used > empty, "nothing was used");
    let map = measure(what, &image).map;
    assert!(map.used_bytes >= used);
    bitmaps::none_is_lost(&map.extents, pattern, &changed);
    room.unmount();
    (map, used)
}

#[test]
fn ext4_of_64_tib_with_every_other_block_free() {
    let _alone = alone();
    let groups = number("HAULIER_SIZE_GROUPS", 4096);
    let what = format!("ext4, 64 TiB, every other block of {groups} groups free");
    ext4_in_pieces(&what, "", Pattern::Checkerboard, groups);
}

/// Nearly as many runs as are kept without joining them (2^21), a quarter of them metadata.
#[test]
fn ext4_of_64_tib_with_the_most_runs_that_are_kept() {
    let _alone = alone();
    let what = "ext4, 64 TiB, without flex_bg, 2 million runs";
    let (map, used) = ext4_in_pieces(what, ",^flex_bg", Pattern::OneOf(512), 24_000);
    assert!(map.extents.len() > 2_000_000, "{}", map.extents.len());
    assert_eq!(map.used_bytes, used, "runs were joined");
}

#[test]
fn ext4_of_64_tib_with_very_many_files() {
    let _alone = alone();
    let case = Case {
        name: "ext4",
        mkfs: &[
            "mke2fs",
            "-q",
            "-F",
            "-t",
            "ext4",
            "-N",
            "33554432",
            "-O",
            "64bit,^resize_inode",
            "-J",
            "size=64",
            "-E",
            "nodiscard,lazy_itable_init=1,lazy_journal_init=1",
        ],
        options: "noinit_itable",
        reads: "ro,noload",
    };
    fill_and_measure(&case, files());
}

#[test]
fn xfs_of_64_tib_with_very_many_files() {
    let _alone = alone();
    let case = Case {
        name: "XFS",
        // A log of 2 GiB would be zeroed at once.
        mkfs: &["mkfs.xfs", "-q", "-K", "-m", "rmapbt=1", "-l", "size=128m"],
        options: "",
        reads: "ro,norecovery",
    };
    fill_and_measure(&case, files());
}

/// More free runs in one group than 20 million files leave in all.
#[test]
fn xfs_of_64_tib_with_very_many_free_runs() {
    let _alone = alone();
    let runs = u32::try_from(number("HAULIER_SIZE_RUNS", 3_000_000)).unwrap();
    let room = Room::new();
    let image = room.file("disk.img", 64 * TIB);
    let features = "rmapbt=0,reflink=0,crc=1";
    run(
        "mkfs.xfs",
        &["-q", "-K", "-m", features, "-l", "size=128m", arg(&image)],
    );
    let before = trees::free_by_xfs_db(&image);
    trees::fragment_xfs(&image, runs);
    let after = trees::free_by_xfs_db(&image);
    // The blocks of the free list are counted too.
    assert_eq!(after.1, u64::from(runs) + 1 + trees::waiting(&image));
    assert!(after.0 + u64::from(runs) < before.0);
    let what = format!("XFS, 64 TiB, {runs} free runs of a block in one group");
    let map = measure(&what, &image).map;
    trees::none_is_lost(&map.extents, runs);
    room.unmount();
}

#[test]
fn btrfs_of_64_tib_with_very_many_files() {
    let _alone = alone();
    let case = Case {
        name: "btrfs",
        mkfs: &["mkfs.btrfs", "-q", "-K"],
        options: "",
        reads: "ro",
    };
    fill_and_measure(&case, files());
}

#[test]
fn ntfs_of_16_tib() {
    let _alone = alone();
    let room = Room::new();
    let image = room.file("disk.img", 16 * TIB);
    run(
        "mkntfs",
        &[
            "-F",
            "-Q",
            "-q",
            "-c",
            "4096",
            "-s",
            "512",
            "-p",
            "0",
            "-H",
            "16",
            "-S",
            "63",
            arg(&image),
        ],
    );
    measure("NTFS, 16 TiB, empty", &image);
    let pattern = Pattern::Checkerboard;
    let clusters = number("HAULIER_SIZE_CLUSTERS", 1 << 27);
    bitmaps::fragment_ntfs(&image, pattern, clusters);
    let what = format!("NTFS, 16 TiB, every other of {clusters} clusters free");
    let map = measure(&what, &image).map;
    bitmaps::none_is_lost_of(&map.extents, pattern, clusters);
    room.unmount();
}

#[test]
fn f2fs_of_15_tib() {
    let _alone = alone();
    let room = Room::new();
    let image = room.file("disk.img", 15 * TIB);
    run("mkfs.f2fs", &["-q", "-t", "0", arg(&image)]);
    measure("F2FS, 15 TiB, empty", &image);
    room.unmount();
}
