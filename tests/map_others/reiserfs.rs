//! ReiserFS.

use crate::common::{
    Fixture, Kind, MIB, notices_loss_of, prove, refused, survives_mutations, verdict,
};
use crate::map_support::ratios::{Row, print_and_check};
use crate::map_support::{arg, run, try_run};
use haulier::usedmap::State;
use std::path::Path;
use std::sync::Mutex;

const KIND: Kind = Kind {
    driver: "reiserfs",
    name: "reiserfs",
    modules: &[],
    has_uuid: true,
    options: "rw",
    make,
    check,
};

static REISERFS: Kind = KIND;

/// It has no room for a UUID.
static FORMAT_3_5: Kind = Kind {
    has_uuid: false,
    ..KIND
};

fn make(image: &Path, args: &[&str]) {
    let mut all = vec!["-q", "-f", "-f"];
    if !args.contains(&"3.5") {
        all.extend(["-l", "haulier"]);
    }
    all.extend(args);
    all.push(arg(image));
    run("mkreiserfs", &all);
}

fn check(image: &Path, when: &str) {
    let output = try_run("reiserfsck", &["--check", "-q", "-y", arg(image)]);
    // It says everything on standard error.
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && said.contains("No corruptions found"),
        "reiserfsck {when}: {said}"
    );
}

static ROWS: Mutex<Vec<Row>> = Mutex::new(Vec::new());
const VARIANTS: usize = 3;

fn survives(name: &str, size: u64, args: &[&str]) {
    let fixture = Fixture::filled(&REISERFS, size, args);
    let own = fixture.used_by_driver();
    let block = u64::from(u16::from_le_bytes(
        fixture.bytes(0x1_002C, 2).try_into().unwrap(),
    ));
    let mut row = prove(&fixture, Some("haulier"), None);
    row.variant = name.into();
    row.own = own;
    // The driver counts neither the superblock nor the bitmaps.
    row.uncounted = block * (1 + size.div_ceil(block * block * 8));
    let mut rows = ROWS.lock().unwrap();
    rows.push(row);
    if rows.len() == VARIANTS {
        print_and_check("ReiserFS", "statfs", &rows);
    }
}

#[test]
fn default() {
    survives("3.6", 160 * MIB, &[]);
}

/// Linux 6.1 refuses what mkreiserfs 3.6.27 makes of this format, so it is proven empty.
#[test]
fn format_3_5() {
    let fixture = Fixture::empty(&FORMAT_3_5, 160 * MIB, &["--format", "3.5"]);
    prove(&fixture, None, None);
}

#[test]
fn blocks_of_1_kib() {
    survives("blocks of 1 KiB", 128 * MIB, &["-b", "1024"]);
}

#[test]
fn journal_of_its_own_size() {
    survives("journal of 4 MiB", 128 * MIB, &["-s", "1025"]);
}

#[test]
fn a_lost_block_is_noticed() {
    let fixture = Fixture::filled(&REISERFS, 128 * MIB, &[]);
    assert!(notices_loss_of(&fixture, |extents| {
        let last = extents.iter().last().unwrap();
        (last.start().0, last.end())
    }));
}

/// The state in the superblock goes through the journal: it is the journal that tells.
#[test]
fn a_filesystem_that_was_not_unmounted_is_refused() {
    let fixture = Fixture::empty(&REISERFS, 128 * MIB, &[]);
    fixture.uml("dd if=/dev/urandom of=/mnt/fs/new bs=1M count=3 status=none\nsync");
    let said = verdict(&fixture.map());
    assert!(said.2.contains("instead of about"), "{}", said.2);
    refused(said, State::Dirty, "power it off properly");
    // Never used before, then used before: its journal's header counts differently.
    let unmounted = [(0x1_0032, &[1, 0][..])];
    refused(
        fixture.patched(&unmounted),
        State::Dirty,
        "its journal holds",
    );
    fixture.uml("umount /mnt/fs");
    assert_eq!(verdict(&fixture.map()).0, Some(State::Clean));
    fixture.uml("dd if=/dev/urandom of=/mnt/fs/newer bs=1M count=3 status=none\nsync");
    refused(
        fixture.patched(&unmounted),
        State::Dirty,
        "its journal holds",
    );
}

#[test]
fn what_is_unknown_or_damaged_is_refused() {
    let fixture = Fixture::empty(&REISERFS, 64 * MIB, &[]);
    let sb = |at: u64| 0x1_0000 + at;
    let field = |at: u64| u32::from_le_bytes(fixture.bytes(sb(at), 4).try_into().unwrap());
    let patched = |at: u64, bytes: &[u8]| fixture.patched(&[(sb(at), bytes)]);
    let number = |at: u64, value: u32| patched(at, &value.to_le_bytes());
    refused(patched(72, &[3, 0]), State::Unsupported, "format 3");
    refused(number(16, 0x801), State::Unsupported, "on another disk");
    refused(patched(50, &[2, 0]), State::Dirty, "it was not unmounted");
    refused(patched(62, &[1, 0]), State::Dirty, "recorded errors");
    refused(patched(44, &[0, 3]), State::Damaged, "blocks of 768");
    refused(number(0, field(0) * 2), State::Damaged, "its partition has");
    refused(patched(70, &[9, 0]), State::Damaged, "9 bitmaps");
    refused(number(4, field(4) - 1), State::Damaged, "free blocks");
    refused(number(20, 0), State::Damaged, "a journal of 0 blocks");
    refused(number(12, field(0)), State::Damaged, "a journal of");
    let bitmap = 0x1_1000 + 1900;
    let byte = fixture.bytes(bitmap, 1)[0];
    let said = fixture.patched(&[(bitmap, &[byte ^ 1])]);
    refused(said, State::Damaged, "free blocks");
    // The old layout.
    let moved = fixture.patched(&[(0x2034, b"ReIsErFs"), (sb(52), &[0; 10])]);
    refused(moved, State::Unsupported, "at 8 KiB");
}

#[test]
fn mutated_metadata_is_survived() {
    let fixture = Fixture::empty(&REISERFS, 64 * MIB, &[]);
    let areas = [
        (0x1_0000, 0x1_0034),
        (0x1_003E, 0x1_00C8),
        (0x1_1000, 0x1_2000),
    ];
    survives_mutations(&fixture, &areas, 150);
}
