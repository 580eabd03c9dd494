//! APFS. No driver that writes is to be had, so all that is proven is what mkapfs makes.

use crate::common::{Fixture, Kind, MIB, prove, refused, survives_mutations};
use crate::map_support::ratios::print_and_check;
use crate::map_support::{arg, map_of, run, try_run};
use haulier::usedmap::State;
use std::path::Path;

static APFS: Kind = Kind {
    driver: "apfs",
    name: "apfs",
    modules: &[],
    has_uuid: true,
    options: "ro",
    make,
    check,
};

fn make(image: &Path, args: &[&str]) {
    let mut all = vec!["-L", "haulier"];
    all.extend(args);
    all.push(arg(image));
    run("mkapfs", &all);
}

/// apfsck compares the bitmaps with everything that it reaches.
fn check(image: &Path, when: &str) {
    let output = try_run("apfsck", &["-c", "-u", "-w", arg(image)]);
    assert!(
        output.status.success() && output.stdout.is_empty() && output.stderr.is_empty(),
        "apfsck {when}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn what_mkapfs_makes() {
    let mut rows = Vec::new();
    for (name, size, args) in [
        ("default, empty", 600 * MIB, &[][..]),
        ("case-sensitive, empty", 200 * MIB, &["-s"][..]),
    ] {
        let fixture = Fixture::empty(&APFS, size, args);
        let mut row = prove(&fixture, None, Some("partclone.apfs"));
        // What partclone says is in use: the list that it writes has more in it, at random places.
        let (image, list) = (arg(&fixture.image), fixture.dir.path().join("list"));
        let output = try_run(
            "partclone.apfs",
            &["-D", "-s", image, "-o", arg(&list), "-L", "/dev/null"],
        );
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        let blocks: u64 = said
            .lines()
            .find_map(|line| line.strip_prefix("Space in use:"))
            .and_then(|line| line.split(" = ").nth(1)?.split(' ').next()?.parse().ok())
            .unwrap_or_else(|| panic!("partclone does not say how much is in use: {said}"));
        row.variant = name.into();
        row.own = blocks * 4096;
        rows.push(row);
    }
    print_and_check("APFS", "partclone's count", &rows);
}

/// Many lists of chunks.
#[test]
fn a_large_container_is_read_to_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("large.img");
    let file = std::fs::File::create(&image).unwrap();
    file.set_len(1 << 40).unwrap();
    make(&image, &[]);
    let map = map_of(&image);
    let region = crate::common::filesystem(&map);
    assert_eq!(region.state, Some(State::Clean), "{}", region.reason);
    assert!(region.used_bytes < 2 << 30, "{} used", region.used_bytes);
}

#[test]
fn what_is_unknown_or_damaged_is_refused() {
    let fixture = Fixture::empty(&APFS, 200 * MIB, &[]);
    let number = |at: u64| u64::from_le_bytes(fixture.bytes(at, 8).try_into().unwrap());
    let block = |nr: u64| fixture.bytes(nr * 4096, 4096);
    // A changed object is worth nothing without its checksum.
    let said = fixture.patched(&[(64, &[3])]);
    refused(said, State::Damaged, "does not match its checksum");
    let changed = |nr: u64, at: usize, value: &[u8]| {
        let mut bytes = block(nr);
        bytes[at..at + value.len()].copy_from_slice(value);
        seal(&mut bytes);
        fixture.patched(&[(nr * 4096, &bytes)])
    };
    assert_eq!(
        changed(0, 500, &[0]).0,
        Some(State::Clean),
        "our own checksum is one"
    );
    refused(changed(0, 64, &[0x02, 0x01]), State::Unsupported, "Fusion");
    refused(changed(0, 64, &[0x06]), State::Unsupported, "incompat 0x6");
    refused(changed(0, 56, &[0x01]), State::Unsupported, "ro_compat 0x1");
    refused(
        changed(0, 40, &[0xFF; 4]),
        State::Damaged,
        "its partition has",
    );
    refused(changed(0, 107, &[0x80]), State::Unsupported, "in pieces");
    refused(
        changed(0, 16, &[0x77]),
        State::Dirty,
        "it was not unmounted",
    );
    // The first list of chunks, by way of the checkpoint's map.
    let descriptors = number(112);
    let map = block(descriptors + u64::from(fixture.bytes(136, 1)[0]));
    let spaceman = map[40..]
        .chunks_exact(40)
        .find(|mapping| mapping[24..32] == fixture.bytes(152, 8))
        .map(|mapping| u64::from_le_bytes(mapping[32..40].try_into().unwrap()))
        .expect("the space manager is mapped");
    refused(changed(spaceman, 68, &[1]), State::Unsupported, "larger");
    refused(changed(spaceman, 96, &[1]), State::Unsupported, "Fusion");
    let free = block(spaceman)[72];
    refused(
        changed(spaceman, 72, &[free ^ 1]),
        State::Damaged,
        "free blocks",
    );
    let bytes = block(spaceman);
    let offset = usize::try_from(u32::from_le_bytes(bytes[80..84].try_into().unwrap())).unwrap();
    let cib = u64::from_le_bytes(bytes[offset..offset + 8].try_into().unwrap());
    let free = block(cib)[60];
    refused(
        changed(cib, 60, &[free ^ 1]),
        State::Damaged,
        "its list says",
    );
    refused(
        changed(cib, 48, &[1]),
        State::Damaged,
        "does not fit the container",
    );
    let bitmap = u64::from_le_bytes(block(cib)[64..72].try_into().unwrap()) * 4096 + 3000;
    let byte = fixture.bytes(bitmap, 1)[0];
    refused(
        fixture.patched(&[(bitmap, &[byte ^ 1])]),
        State::Damaged,
        "its list says",
    );
}

#[test]
fn mutated_metadata_is_survived() {
    let fixture = Fixture::empty(&APFS, 200 * MIB, &[]);
    let areas = [(0, 4096), (4096, 200 * 4096)];
    survives_mutations(&fixture, &areas, 150);
}

/// Gives a changed object its checksum (Fletcher's, over 32-bit words).
fn seal(bytes: &mut [u8]) {
    let (mut low, mut high) = (0_u64, 0_u64);
    for word in bytes[8..].chunks_exact(4) {
        low = (low + u64::from(u32::from_le_bytes(word.try_into().unwrap()))) % 0xFFFF_FFFF;
        high = (high + low) % 0xFFFF_FFFF;
    }
    let first = 0xFFFF_FFFF - (low + high) % 0xFFFF_FFFF;
    let second = 0xFFFF_FFFF - (low + first) % 0xFFFF_FFFF;
    bytes[..8].copy_from_slice(&(second << 32 | first).to_le_bytes());
}
