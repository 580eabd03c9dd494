//! Captures on a stick that nobody mounted: an image of one, made with the real tools.

mod qcow2_common;
mod store_common;

use haulier::error::Kind;
use haulier::qcow2::Compression;
use haulier::report::Quiet;
use haulier::store::list::State;
use haulier::store::{CaptureDir, list, medium, verify_path};
use haulier::units::{ByteLen, ByteOffset};
use qcow2_common::{Content, Random};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use store_common::capture;

const MIB: u64 = 1 << 20;

/// Where sgdisk puts the data partition.
const DATA_START: u64 = 8 * MIB;

fn run(program: &str, package: &str, args: &[&str]) {
    let output = Command::new(program)
        .args(args)
        .output()
        .unwrap_or_else(|e| panic!("{program} (package {package}) is needed for this test: {e}"));
    assert!(output.status.success(), "{program} {args:?}: {output:?}");
}

/// A stick of 512 MiB as the appliance makes it, its data partition holding `content`.
fn stick(dir: &Path, content: &Path, name: &str, label: &str) -> PathBuf {
    let part = dir.join("part.img");
    File::create(&part).unwrap().set_len(400 * MIB).unwrap();
    run(
        "mke2fs",
        "e2fsprogs",
        &[
            "-q",
            "-F",
            "-t",
            "ext4",
            "-L",
            label,
            "-d",
            content.to_str().unwrap(),
            part.to_str().unwrap(),
        ],
    );
    let stick = dir.join("stick.img");
    File::create(&stick).unwrap().set_len(512 * MIB).unwrap();
    run(
        "sgdisk",
        "gdisk",
        &[
            "-n1:1M:+4M",
            "-t1:ef00",
            "-n3:8M:+400M",
            &format!("-c3:{name}"),
            stick.to_str().unwrap(),
        ],
    );
    // Only what is not zero, as cp does: 400 MiB are mostly nothing.
    run(
        "dd",
        "coreutils",
        &[
            &format!("if={}", part.display()),
            &format!("of={}", stick.display()),
            "bs=1M",
            "seek=8",
            "conv=notrunc,sparse",
            "status=none",
        ],
    );
    fs::remove_file(part).unwrap();
    stick
}

#[test]
fn a_stick_is_listed_and_verified_without_being_mounted() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    fs::create_dir(&store).unwrap();
    let disks = [(Content::mixed(96 * MIB, 5), Compression::Zstd)];
    let whole = capture(&store, "R640-7XK3P52", &disks);
    let started = "2026-11-22T11:00:00Z".parse().unwrap();
    let partial = CaptureDir::begin(&store, "R640-7XK3P52", started).unwrap();
    partial.write("capture.log", b"pulled").unwrap();
    let stick = stick(
        dir.path(),
        &store,
        medium::DATA_PARTITION,
        medium::DATA_LABEL,
    );

    for path in [&stick, &store] {
        let list = list(path).unwrap();
        let states: Vec<_> = list
            .captures
            .iter()
            .map(|c| (c.capture.as_str(), c.state))
            .collect();
        assert_eq!(
            states,
            [
                ("2026-11-22T101500Z", State::Whole),
                ("2026-11-22T110000Z.partial", State::Partial),
            ]
        );
        assert_eq!(
            list.captures[0].disks[0].serial.as_deref(),
            Some("S45NNA0M123456")
        );
        assert_eq!(list.captures[0].disks[0].disk_bytes, 96 * MIB);
        let verdict = verify_path(path, &Quiet).unwrap();
        assert_eq!(verdict.captures.len(), 1);
        assert!(verdict.is_proven(), "{}", verdict.to_text());
    }
    assert_eq!(
        list(&stick).unwrap().to_text(),
        list(&store).unwrap().to_text()
    );

    // One capture on the stick, by the name that it is shown with.
    let one = format!("{}:/R640-7XK3P52/2026-11-22T101500Z", stick.display());
    let verdict = verify_path(Path::new(&one), &Quiet).unwrap();
    assert_eq!(verdict.captures[0].capture, one);
    let error = verify_path(Path::new(&format!("{}:/no/such", stick.display())), &Quiet);
    assert!(error.unwrap_err().to_string().contains("file not found"));

    // The same file through ext4-view and through the kernel, read in every direction.
    let files = medium::open(Path::new(&one)).unwrap();
    let file = files.open("disk-0.qcow2").unwrap();
    let expected = fs::read(whole.join("disk-0.qcow2")).unwrap();
    assert_eq!(file.size(), ByteLen(expected.len() as u64));
    let mut random = Random(12);
    for _ in 0..200 {
        let at = random.below(expected.len() as u64);
        let length = random.below(3 * MIB).min(expected.len() as u64 - at);
        let mut bytes = vec![0; length as usize];
        file.read_at(ByteOffset(at), &mut bytes).unwrap();
        assert!(
            bytes == expected[at as usize..(at + length) as usize],
            "{length} at {at}"
        );
    }

    // A bit of the image, found where it lies on the stick.
    let image = File::options().read(true).write(true).open(&stick).unwrap();
    let needle = &expected[expected.len() / 2..][..64];
    let mut raw = vec![0; 408 * MIB as usize];
    image
        .read_exact_at(&mut raw[DATA_START as usize..], DATA_START)
        .unwrap();
    let at = raw.windows(64).position(|window| window == needle).unwrap();
    image.write_all_at(&[needle[0] ^ 1], at as u64).unwrap();
    let verdict = verify_path(&stick, &Quiet).unwrap();
    let fault = &verdict.captures[0].faults.list[0];
    let range = fault.file_range.unwrap();
    assert!(
        (range.start().0..range.end()).contains(&(expected.len() as u64 / 2)),
        "{fault}"
    );
}

#[test]
fn what_is_no_stick_of_ours_is_refused_with_the_reason() {
    let dir = tempfile::tempdir().unwrap();
    let empty = dir.path().join("empty");
    fs::create_dir(&empty).unwrap();
    let words = |path: &Path| {
        let error = list(path).unwrap_err();
        (error.kind(), error.to_string())
    };

    let other = stick(dir.path(), &empty, "backup", medium::DATA_LABEL);
    let (kind, text) = words(&other);
    assert_eq!(kind, Kind::Refused);
    assert!(
        text.contains("has no partition named haulier-data"),
        "{text}"
    );

    let unlabelled = stick(dir.path(), &empty, medium::DATA_PARTITION, "BACKUP");
    let (kind, text) = words(&unlabelled);
    assert_eq!(kind, Kind::Refused);
    assert!(text.contains("not labelled HAULIER"), "{text}");

    let nothing = dir.path().join("nothing.img");
    File::create(&nothing).unwrap().set_len(MIB).unwrap();
    let (kind, text) = words(&nothing);
    assert_eq!(kind, Kind::Corrupt);
    assert!(text.contains("reading the filesystem of"), "{text}");

    let (kind, text) = words(Path::new("/dev/null"));
    assert_eq!(kind, Kind::Corrupt);
    assert!(text.contains("neither a file nor a block device"), "{text}");

    let fresh = stick(
        dir.path(),
        &empty,
        medium::DATA_PARTITION,
        medium::DATA_LABEL,
    );
    assert_eq!(list(&fresh).unwrap().to_text(), "There are no captures.\n");
}
