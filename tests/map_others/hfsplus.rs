//! HFS+ and HFSX.

use crate::common::{
    Fixture, Kind, MIB, notices_loss_of, prove, refused, survives_mutations, verdict,
};
use crate::map_support::ratios::{Row, print_and_check};
use crate::map_support::{arg, run, try_run};
use haulier::usedmap::State;
use std::path::Path;
use std::sync::Mutex;

static HFSPLUS: Kind = Kind {
    driver: "hfsplus",
    name: "hfs+",
    modules: &["nls_utf8", "hfsplus"],
    // It is not among what this version tells.
    has_uuid: false,
    // Linux writes to a journaled one only when told so, and past its journal.
    options: "force",
    make,
    check,
};

fn make(image: &Path, args: &[&str]) {
    let mut all = vec!["-v", "Müll & Söhne"];
    all.extend(args);
    all.push(arg(image));
    run("mkfs.hfsplus", &all);
}

fn check(image: &Path, when: &str) {
    let output = try_run("fsck.hfsplus", &["-n", "-f", arg(image)]);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && said.contains("appears to be OK"),
        "fsck.hfsplus {when}: {said}"
    );
}

static ROWS: Mutex<Vec<Row>> = Mutex::new(Vec::new());
const VARIANTS: usize = 4;

fn survives(name: &str, args: &[&str]) {
    let fixture = Fixture::filled(&HFSPLUS, 128 * MIB, args);
    if args.contains(&"-s") {
        // Linux does not count the folders of a folder, which a case-sensitive HFSX has to.
        try_run("fsck.hfsplus", &["-f", "-y", arg(&fixture.image)]);
    }
    let own = fixture.used_by_driver();
    let mut row = prove(&fixture, Some("Müll & Söhne"), Some("partclone.hfsplus"));
    row.variant = name.into();
    row.own = own;
    let mut rows = ROWS.lock().unwrap();
    rows.push(row);
    if rows.len() == VARIANTS {
        print_and_check("HFS+", "statfs", &rows);
    }
}

#[test]
fn default() {
    survives("default", &[]);
}

#[test]
fn case_sensitive() {
    survives("HFSX, case-sensitive", &["-s"]);
}

#[test]
fn blocks_of_512_bytes() {
    survives("blocks of 512 bytes", &["-b", "512"]);
}

#[test]
fn journaled() {
    survives("journaled", &["-J"]);
}

#[test]
fn a_lost_block_is_noticed() {
    let fixture = Fixture::filled(&HFSPLUS, 128 * MIB, &[]);
    assert!(notices_loss_of(&fixture, |extents| {
        let last = extents.iter().nth(extents.len() - 2).unwrap();
        (last.start().0, last.start().0 + 4096)
    }));
}

#[test]
fn a_filesystem_that_was_not_unmounted_is_refused() {
    let fixture = Fixture::empty(&HFSPLUS, 128 * MIB, &[]);
    fixture.uml("dd if=/dev/urandom of=/mnt/fs/new bs=1M count=3 status=none\nsync");
    let said = verdict(&fixture.map());
    assert!(said.2.contains("instead of about"), "{}", said.2);
    refused(said, State::Dirty, "it was not unmounted");
}

#[test]
fn what_is_unknown_or_damaged_is_refused() {
    let fixture = Fixture::empty(&HFSPLUS, 64 * MIB, &["-J"]);
    let field = |at: u64| u32::from_be_bytes(fixture.bytes(at, 4).try_into().unwrap());
    let patched = |at: u64, value: u32| fixture.patched(&[(at, &value.to_be_bytes())]);
    let attributes = field(0x404);
    refused(
        patched(0x404, attributes & !0x100),
        State::Dirty,
        "not unmounted",
    );
    refused(
        patched(0x404, attributes | 0x4000),
        State::Dirty,
        "inconsistent",
    );
    refused(patched(0x428, 4097), State::Damaged, "blocks of 4097");
    refused(
        patched(0x42C, field(0x42C) + 1),
        State::Damaged,
        "its partition has",
    );
    refused(
        patched(0x430, field(0x430) - 1),
        State::Damaged,
        "free blocks",
    );
    refused(
        patched(0x47C, field(0x47C) + 1),
        State::Unsupported,
        "pieces",
    );
    refused(patched(0x480, field(0x42C)), State::Damaged, "does not fit");
    // The journal: as mkfs leaves it, empty, full, and where it is not.
    let info = u64::from(field(0x40C)) * 4096;
    let flags = field(info);
    assert_eq!(flags & 1, 1, "the journal is in the filesystem");
    let journal = u64::from_be_bytes(fixture.bytes(info + 36, 8).try_into().unwrap());
    let in_use = (info, &1_u32.to_be_bytes()[..]);
    refused(fixture.patched(&[in_use]), State::Damaged, "no header");
    refused(patched(info, 2), State::Unsupported, "on another disk");
    refused(
        patched(0x40C, 0),
        State::Damaged,
        "its journal is not where",
    );
    for big_endian in [true, false] {
        let header = |start: u64, end: u64| -> Vec<u8> {
            let order = |value: &[u8]| -> Vec<u8> {
                let mut bytes = value.to_vec();
                if !big_endian {
                    bytes.reverse();
                }
                bytes
            };
            [
                order(&0x4A4E_4C78_u32.to_be_bytes()),
                order(&0x1234_5678_u32.to_be_bytes()),
                order(&start.to_be_bytes()),
                order(&end.to_be_bytes()),
            ]
            .concat()
        };
        let with = |start, end| fixture.patched(&[in_use, (journal, &header(start, end))]);
        assert_eq!(with(512, 512).0, Some(State::Clean));
        refused(with(512, 1024), State::Dirty, "its journal holds writes");
    }
    // A bit of the allocation file.
    let at = u64::from(field(0x480)) * 4096 + 700;
    let byte = fixture.bytes(at, 1)[0];
    let said = fixture.patched(&[(at, &[byte ^ 0x10])]);
    refused(said, State::Damaged, "free blocks");
}

#[test]
fn mutated_metadata_is_survived() {
    let fixture = Fixture::empty(&HFSPLUS, 64 * MIB, &["-J"]);
    let field = |at: u64| u64::from(u32::from_be_bytes(fixture.bytes(at, 4).try_into().unwrap()));
    let (info, map) = (field(0x40C) * 4096, field(0x480) * 4096);
    let areas = [
        (0x404, 0x5FC),
        (0x404, 0x5FC),
        (info, info + 52),
        (map, map + 2048),
    ];
    survives_mutations(&fixture, &areas, 150);
}
