//! JFS.

use crate::common::{
    Fixture, Kind, MIB, notices_loss_of, prove, refused, survives_mutations, verdict,
};
use crate::map_support::ratios::{Row, print_and_check};
use crate::map_support::{arg, map_of, run, try_run};
use haulier::usedmap::State;
use std::path::Path;
use std::sync::Mutex;

static JFS: Kind = Kind {
    driver: "jfs",
    name: "jfs",
    modules: &[],
    has_uuid: true,
    options: "rw",
    make,
    check,
};

fn make(image: &Path, args: &[&str]) {
    let mut all = vec!["-q", "-L", "haulier"];
    all.extend(args);
    all.push(arg(image));
    run("mkfs.jfs", &all);
}

fn fsck_says(image: &Path) -> (bool, String) {
    let output = try_run("fsck.jfs", &["-f", "-n", "-v", arg(image)]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    (output.status.success(), said)
}

fn check(image: &Path, when: &str) {
    let (clean, said) = fsck_says(image);
    assert!(
        clean && said.contains("Filesystem is clean.") && !said.contains("rror"),
        "fsck.jfs {when}: {said}"
    );
}

/// What fsck.jfs calls used, in bytes.
fn used_by_fsck(image: &Path) -> u64 {
    let (_, said) = fsck_says(image);
    let field = |name: &str| -> u64 {
        said.lines()
            .find_map(|line| line.strip_prefix(name))
            .unwrap_or_else(|| panic!("fsck.jfs shows no {name}"))
            .trim()
            .parse()
            .unwrap()
    };
    (field("Block count:") - field("Free block count:")) * 4096
}

static ROWS: Mutex<Vec<Row>> = Mutex::new(Vec::new());
const VARIANTS: usize = 3;

fn survives(name: &str, size: u64, args: &[&str]) {
    let fixture = Fixture::filled(&JFS, size, args);
    let own = used_by_fsck(&fixture.image);
    let mut row = prove(&fixture, Some("haulier"), None);
    row.variant = name.into();
    row.own = own;
    let mut rows = ROWS.lock().unwrap();
    rows.push(row);
    if rows.len() == VARIANTS {
        print_and_check("JFS", "fsck.jfs", &rows);
    }
}

#[test]
fn default() {
    survives("default", 128 * MIB, &[]);
}

#[test]
fn case_insensitive() {
    survives("case-insensitive (OS/2)", 128 * MIB, &["-O"]);
}

#[test]
fn large_log() {
    survives("log of 8 MiB", 160 * MIB, &["-s", "8"]);
}

/// Above 32 GiB a summary of the next level lies between the pages of the map.
#[test]
fn a_large_filesystem_is_read_to_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("large.img");
    let file = std::fs::File::create(&image).unwrap();
    file.set_len(70 << 30).unwrap();
    make(&image, &[]);
    let map = map_of(&image);
    let region = crate::common::filesystem(&map);
    assert_eq!(region.state, Some(State::Clean), "{}", region.reason);
    assert_eq!(region.used_bytes, used_by_fsck(&image));
}

#[test]
fn a_lost_block_is_noticed() {
    let fixture = Fixture::filled(&JFS, 128 * MIB, &[]);
    assert!(notices_loss_of(&fixture, |extents| {
        let some = extents.iter().nth(extents.len() / 2).unwrap();
        (some.start().0, some.start().0 + 4096)
    }));
}

#[test]
fn a_filesystem_that_was_not_unmounted_is_refused() {
    let fixture = Fixture::empty(&JFS, 128 * MIB, &[]);
    fixture.uml("dd if=/dev/urandom of=/mnt/fs/new bs=1M count=3 status=none\nsync");
    let said = verdict(&fixture.map());
    assert!(said.2.contains("instead of about"), "{}", said.2);
    refused(said, State::Dirty, "it was not unmounted");
    // The log tells it too, whatever the superblock says.
    let said = fixture.patched(&[(0x8000 + 40, &[0])]);
    refused(said, State::Dirty, "its log was not closed");
}

#[test]
fn what_is_unknown_or_damaged_is_refused() {
    let fixture = Fixture::empty(&JFS, 64 * MIB, &[]);
    let sb = |at: u64| 0x8000 + at;
    let field = |at: u64| u32::from_le_bytes(fixture.bytes(at, 4).try_into().unwrap());
    let patched = |at: u64, value: u32| fixture.patched(&[(at, &value.to_le_bytes())]);
    let flags = field(sb(36));
    refused(patched(sb(4), 3), State::Unsupported, "version 3");
    refused(
        patched(sb(36), flags | 0x0040_0000),
        State::Unsupported,
        "of a kind",
    );
    refused(
        patched(sb(36), flags | 0x0010_0000),
        State::Unsupported,
        "of a kind",
    );
    refused(
        patched(sb(36), flags & !0x800),
        State::Unsupported,
        "on another disk",
    );
    refused(patched(sb(16), 2048), State::Unsupported, "2048 bytes");
    refused(
        patched(sb(8), field(sb(8)) * 2),
        State::Damaged,
        "do not fit its partition",
    );
    refused(patched(sb(40), 2), State::Dirty, "recorded errors");
    let inode = 0xB000 + 1024;
    refused(patched(inode + 8, 3), State::Damaged, "number 3");
    refused(
        patched(inode + 224 + 16, 0),
        State::Damaged,
        "tree of its map",
    );
    let place = |at: u64| u64::from(field(at)) * 4096;
    let head = place(inode + 224 + 32 + 12);
    refused(
        patched(head, field(head) - 1),
        State::Damaged,
        "its map speaks of",
    );
    refused(
        patched(head + 8, field(head + 8) - 1),
        State::Damaged,
        "its head says",
    );
    let page = head + 4 * 4096;
    for at in [page + 4, page + 8, page + 2048 + 512] {
        refused(patched(at, field(at) ^ 0x100), State::Damaged, "page 0");
    }
    // Only the persistent map calls it used: it is taken.
    let at = page + 3072 + 1000;
    let with = fixture.patched(&[(at, &(field(at) ^ 0x100).to_le_bytes())]);
    assert_eq!(with.0, Some(State::Clean), "{}", with.2);
}

#[test]
fn mutated_metadata_is_survived() {
    let fixture = Fixture::empty(&JFS, 64 * MIB, &[]);
    let inode = 0xB000 + 1024;
    let at = fixture.bytes(inode + 224 + 32 + 12, 4);
    let map = u64::from(u32::from_le_bytes(at.try_into().unwrap())) * 4096;
    let areas = [
        (0x8004, 0x8100),
        (inode, inode + 508),
        (map, map + 64),
        (map + 4 * 4096, map + 7 * 4096),
    ];
    survives_mutations(&fixture, &areas, 150);
}
