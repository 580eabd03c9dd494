//! F2FS.

use crate::common::{
    Fixture, Kind, MIB, notices_loss_of, prove, refused, survives_mutations, verdict,
};
use crate::map_support::ratios::{Row, print_and_check};
use crate::map_support::{arg, map_of, run, try_run};
use haulier::usedmap::State;
use std::path::Path;
use std::sync::Mutex;

static F2FS: Kind = Kind {
    driver: "f2fs",
    name: "f2fs",
    modules: &["f2fs"],
    has_uuid: true,
    // Without it a mount of soiled ground would discard what is free, and prove less.
    options: "nodiscard",
    make,
    check,
};

fn make(image: &Path, args: &[&str]) {
    // -t 0: nothing is discarded, as on a real disk that knows no discard.
    let mut all = vec!["-q", "-f", "-t", "0", "-l", "Müll & Söhne"];
    all.extend(args);
    all.push(arg(image));
    run("mkfs.f2fs", &all);
}

/// fsck.f2fs corrects nothing with --dry-run and says what it would.
fn check(image: &Path, when: &str) {
    let output = try_run("fsck.f2fs", &["-f", "--dry-run", arg(image)]);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success()
            && said.contains("[FSCK] other corrupted bugs                           [Ok..]")
            && !said.contains("[Fail]")
            && !said.contains("[ASSERT]"),
        "fsck.f2fs {when}: {said}"
    );
}

/// Valid blocks as fsck.f2fs counts them, and the state of the checkpoint in its words.
fn fsck_says(image: &Path) -> (u64, String) {
    let output = try_run("fsck.f2fs", &["-f", "--dry-run", arg(image)]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let valid = said
        .lines()
        .find(|line| line.contains("valid_block_count matching"))
        .and_then(|line| line.rsplit_once("[0x"))
        .map(|(_, hex)| u64::from_str_radix(hex.trim_end_matches(']'), 16).unwrap())
        .expect("fsck.f2fs counts the valid blocks");
    let state = said
        .lines()
        .find_map(|line| line.split_once("checkpoint state = "))
        .map(|(_, state)| state.to_owned())
        .expect("fsck.f2fs shows the checkpoint's state");
    (valid, state)
}

static ROWS: Mutex<Vec<Row>> = Mutex::new(Vec::new());
const VARIANTS: usize = 4;

fn survives(name: &str, fixture: &Fixture, summaries_compacted: bool) {
    let (valid, state) = fsck_says(&fixture.image);
    assert_eq!(
        state.contains("compacted_summary"),
        summaries_compacted,
        "{state}"
    );
    let at = |at: u64| u64::from(u32::from_le_bytes(fixture.bytes(at, 4).try_into().unwrap()));
    let main = at(0x400 + 0x5C);
    let mut row = prove(fixture, Some("Müll & Söhne"), Some("partclone.f2fs"));
    row.variant = name.into();
    row.own = valid * 4096;
    // fsck.f2fs counts only the main area.
    row.uncounted = main * 4096;
    let mut rows = ROWS.lock().unwrap();
    rows.push(row);
    if rows.len() == VARIANTS {
        print_and_check("F2FS", "fsck.f2fs", &rows);
    }
}

#[test]
fn default() {
    survives("default", &Fixture::filled(&F2FS, 128 * MIB, &[]), true);
}

#[test]
fn many_features() {
    let features = "extra_attr,inode_checksum,sb_checksum,inode_crtime,flexible_inline_xattr,\
                    project_quota,encrypt,verity,lost_found,quota,compression";
    let fixture = Fixture::filled(&F2FS, 128 * MIB, &["-O", features]);
    survives("many features", &fixture, true);
}

#[test]
fn extended_node_bitmap_and_large_sections() {
    let fixture = Fixture::filled(&F2FS, 256 * MIB, &["-i", "-s", "2", "-z", "2"]);
    survives("large_nat_bitmap, sections of 4 MiB", &fixture, true);
}

/// Summaries of nearly full segments of hot, warm and cold data have no room in two blocks.
#[test]
fn summaries_that_are_not_compacted() {
    let most = 19 * MIB / 10;
    let files = [("hot.db", most), ("warm.txt", most), ("cold.mp4", most)];
    let fixture = Fixture::holding(&F2FS, 128 * MIB, &[], &files);
    survives("whole summaries", &fixture, false);
}

/// The proof can fail.
#[test]
fn a_lost_block_is_noticed() {
    let fixture = Fixture::filled(&F2FS, 128 * MIB, &[]);
    let main = u32::from_le_bytes(fixture.bytes(0x400 + 0x5C, 4).try_into().unwrap());
    assert!(notices_loss_of(&fixture, |extents| {
        let lost = extents
            .iter()
            .find(|run| run.start().0 > u64::from(main) * 4096)
            .unwrap();
        (lost.start().0, lost.start().0 + 4096)
    }));
}

/// What was synced after the checkpoint of a proper shutdown: that checkpoint still says
/// "unmount", and the blocks are in no table.
#[test]
fn synced_files_after_the_last_checkpoint_are_not_lost() {
    let fixture = Fixture::empty(&F2FS, 128 * MIB, &[]);
    fixture.uml("echo old > /mnt/fs/old\numount /mnt/fs");
    fixture.uml("dd if=/dev/urandom of=/mnt/fs/new bs=1M count=3 conv=fsync status=none");
    let (_, state) = fsck_says(&fixture.image);
    assert!(state.contains("unmount"), "the trap is not set: {state}");
    refused(
        verdict(&fixture.map()),
        State::Dirty,
        "synced to it after its last checkpoint",
    );
    // Once mounted and unmounted it is clean, and the file is there.
    fixture.uml("test $(stat -c %s /mnt/fs/new) = 3145728\numount /mnt/fs");
    prove(&fixture, Some("Müll & Söhne"), None);
}

#[test]
fn a_filesystem_that_was_not_unmounted_is_refused() {
    let fixture = Fixture::empty(&F2FS, 128 * MIB, &[]);
    fixture.uml("dd if=/dev/urandom of=/mnt/fs/new bs=1M count=3 status=none\nsync");
    let said = verdict(&fixture.map());
    assert!(said.2.contains("instead of about"), "{}", said.2);
    refused(said, State::Dirty, "it was not unmounted");
}

#[test]
fn what_is_unknown_or_damaged_is_refused() {
    let fixture = Fixture::empty(&F2FS, 128 * MIB, &["-O", "extra_attr,sb_checksum"]);
    let sb = |at: u64| 0x400 + at;
    let feature = fixture.bytes(sb(0x884), 4);
    let with = |bits: u8| [feature[0] | bits, feature[1], feature[2], feature[3]];
    let patched = |at: u64, bytes: &[u8]| fixture.patched(&[(at, bytes)]);
    refused(patched(sb(0x886), &[1]), State::Unsupported, "0x10000");
    refused(patched(sb(0x884), &with(2)), State::Unsupported, "zoned");
    refused(
        patched(sb(0x899), b"/dev/sdb"),
        State::Unsupported,
        "several disks",
    );
    refused(patched(sb(0x10), &[14]), State::Unsupported, "2^14");
    refused(patched(sb(0x24), &[1]), State::Damaged, "checksum");
    // Without the checksum the numbers speak for themselves.
    let plain = Fixture::empty(&F2FS, 128 * MIB, &[]);
    let field = |at: u64| u32::from_le_bytes(plain.bytes(sb(at), 4).try_into().unwrap());
    let patched = |at: u64, value: u32| plain.patched(&[(at, &value.to_le_bytes())]);
    refused(patched(sb(0x14), 10), State::Damaged, "segments");
    refused(
        patched(sb(0x24), field(0x24) + 1),
        State::Damaged,
        "its partition has",
    );
    refused(patched(sb(0x50), field(0x50) + 1), State::Damaged, "areas");
    refused(
        patched(sb(0x5C), field(0x5C) - 512),
        State::Damaged,
        "areas",
    );
    let packs = u64::from(field(0x4C)) * 4096;
    let both = |at: u64| {
        [
            (packs + at, &[0x77][..]),
            (packs + 512 * 4096 + at, &[0x77][..]),
        ]
    };
    refused(plain.patched(&both(16)), State::Damaged, "neither");
    // The newest version is of a pack of its own; its map must be believed whole.
    let sit = u64::from(field(0x50)) * 4096;
    let sit_half = u64::from(field(0x38)) / 2 * 512 * 4096;
    let mut seen = 0;
    for segment in 0..u64::from(field(0x44)) {
        let at = sit + segment / 55 * 4096 + segment % 55 * 74;
        for at in [at, at + sit_half] {
            let said = plain.patched(&[(at, &[0xFF, 0x03])]);
            if said.0 != Some(State::Clean) {
                refused(said, State::Damaged, "valid blocks");
                seen += 1;
            }
        }
    }
    assert!(seen > 0, "no entry of the SIT was read");
}

#[test]
fn a_filesystem_on_two_disks_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let [one, two] = ["one", "two"].map(|name| dir.path().join(name));
    for path in [&one, &two] {
        crate::map_support::soiled_file(path, 64 * MIB, 0xEE);
    }
    run("mkfs.f2fs", &["-q", "-f", "-c", arg(&two), arg(&one)]);
    refused(verdict(&map_of(&one)), State::Unsupported, "several disks");
}

#[test]
fn mutated_metadata_is_survived() {
    let fixture = Fixture::empty(&F2FS, 64 * MIB, &[]);
    let field = |at: u64| {
        u64::from(u32::from_le_bytes(
            fixture.bytes(0x400 + at, 4).try_into().unwrap(),
        ))
    };
    let sit = field(0x50) * 4096;
    let cp = field(0x4C) * 4096;
    let areas = [
        (0x400, 0x400 + 0xBFC),
        (cp, cp + 8 * 4096),
        (sit, sit + 4096),
    ];
    survives_mutations(&fixture, &areas, 150);
}
