//! What `verify` and `seal` find: every bit, every missing or foreign file, and where on the disk.

mod qcow2_common;
mod store_common;

use haulier::error::Kind;
use haulier::qcow2::Compression;
use haulier::report::Quiet;
use haulier::store::{
    CHUNK_BYTES, CaptureDir, CaptureVerdict, DirFiles, seal, verify, verify_path,
};
use qcow2_common::{Content, Random};
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use store_common::{capture, image};

fn verdict(capture: &Path) -> CaptureVerdict {
    verify(&DirFiles::new(capture), &Quiet).unwrap()
}

fn flip(path: &Path, bit: u64) {
    let file = fs::File::options()
        .read(true)
        .write(true)
        .open(path)
        .unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, bit / 8).unwrap();
    byte[0] ^= 1 << (bit % 8);
    file.write_all_at(&byte, bit / 8).unwrap();
}

#[test]
fn a_capture_as_it_was_written_is_right_and_sha256sum_agrees() {
    let store = tempfile::tempdir().unwrap();
    let disks = [Compression::Zstd, Compression::Zlib, Compression::None]
        .map(|compression| (Content::mixed((24 << 20) + 512, 8), compression));
    let capture = capture(store.path(), "R640 7XK3P52", &disks);
    assert!(capture.ends_with("R640-7XK3P52/2026-11-22T101500Z"));
    let verdict = verdict(&capture);
    assert!(verdict.faults.is_empty(), "{:?}", verdict.faults);
    let sizes = fs::read_dir(&capture)
        .unwrap()
        .map(|e| e.unwrap().metadata().unwrap().len());
    let sums = fs::metadata(capture.join("SHA256SUMS")).unwrap().len();
    assert_eq!(verdict.bytes, sizes.sum::<u64>() - sums);
    let output = Command::new("sha256sum")
        .args(["--check", "--strict", "SHA256SUMS"])
        .current_dir(&capture)
        .output()
        .expect("sha256sum (package coreutils) is needed for this test");
    assert!(output.status.success(), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stdout).lines().count(), 7);
}

#[test]
fn one_flipped_bit_anywhere_is_found() {
    let store = tempfile::tempdir().unwrap();
    let content = Content::mixed(10 << 20, 9);
    let disks = [(content, Compression::Zstd)];
    let capture = capture(store.path(), "m", &disks);
    let mut random = Random(4711);
    let (mut located, mut flips) = (0, 0);
    for entry in fs::read_dir(&capture).unwrap() {
        let entry = entry.unwrap();
        let bits = entry.metadata().unwrap().len() * 8;
        let name = entry.file_name().into_string().unwrap();
        // All bits of the first bytes (headers, braces, digests) and some of the rest.
        let near = (0..64).step_by(5);
        let anywhere: Vec<u64> = (0..60).map(|_| random.below(bits)).collect();
        for bit in near.chain(anywhere) {
            flip(&entry.path(), bit);
            match verify(&DirFiles::new(&capture), &Quiet) {
                Ok(verdict) => {
                    let fault = verdict.faults.list.first();
                    let fault = fault.unwrap_or_else(|| panic!("bit {bit} of {name} is unseen"));
                    // The manifest vouches for the others and SHA256SUMS for it.
                    let pair = ["manifest.json", "SHA256SUMS"];
                    assert!(
                        fault.file == name || pair.contains(&&*name),
                        "bit {bit} of {name}: {fault}"
                    );
                    flips += u32::from(name == "disk-0.qcow2");
                    let byte = bit / 8;
                    located += u32::from(verdict.faults.list.iter().any(|fault| {
                        let range = fault.file_range.filter(|_| fault.disk_range.is_some());
                        range.is_some_and(|r| (r.start().0..r.end()).contains(&byte))
                    }));
                }
                // A later version is not damage as far as anyone can tell.
                Err(error) => {
                    assert_eq!((error.kind(), &*name), (Kind::Unsupported, "manifest.json"));
                }
            }
            flip(&entry.path(), bit);
        }
    }
    assert!(verdict(&capture).faults.is_empty());
    // The image is mostly data, and a bit of data is found with its place in file and disk.
    assert!(located >= flips / 2, "{located} of {flips} were located");
}

#[test]
fn a_damaged_cluster_is_located_on_the_disk() {
    for compression in [Compression::Zstd, Compression::None] {
        let store = tempfile::tempdir().unwrap();
        let disks = [(Content::alternating(12 << 20), compression)];
        let capture = capture(store.path(), "m", &disks);
        // In the middle of the data, which is in the order of the disk.
        let image = capture.join("disk-0.qcow2");
        flip(&image, fs::metadata(&image).unwrap().len() / 2 * 8);
        let verdict = verdict(&capture);
        let [fault, sum] = &verdict.faults.list[..] else {
            panic!("{:?}", verdict.faults)
        };
        let range = fault.disk_range.unwrap();
        let middle = range.start().0 + range.len().0 / 2;
        assert!((4 << 20..8 << 20).contains(&middle), "{fault}");
        assert!(range.len().0 <= CHUNK_BYTES);
        assert!(fault.file_range.is_some());
        assert!(sum.what.contains("SHA-256"), "{sum}");
    }
}

#[test]
fn missing_foreign_and_resized_files_are_named() {
    let store = tempfile::tempdir().unwrap();
    let disks = [(Content::mixed(8 << 20, 3), Compression::Zstd)];
    let capture = capture(store.path(), "m", &disks);
    let first_fault = || verdict(&capture).faults.list[0].to_string();

    fs::write(capture.join("notes.txt"), "mine").unwrap();
    assert_eq!(
        first_fault(),
        "notes.txt: the manifest knows of no such file"
    );
    fs::remove_file(capture.join("notes.txt")).unwrap();

    fs::rename(capture.join("domain.xml"), store.path().join("domain.xml")).unwrap();
    assert_eq!(first_fault(), "domain.xml: the file is missing");
    fs::rename(store.path().join("domain.xml"), capture.join("domain.xml")).unwrap();

    let log = fs::File::options()
        .append(true)
        .open(capture.join("capture.log"))
        .unwrap();
    log.set_len(10).unwrap();
    assert_eq!(first_fault(), "capture.log: it has 10 bytes instead of 9");
    log.set_len(9).unwrap();

    let image = fs::File::options()
        .write(true)
        .open(capture.join("disk-0.qcow2"))
        .unwrap();
    let size = image.metadata().unwrap().len();
    image.set_len(size - 1).unwrap();
    assert!(first_fault().contains(&format!("{} bytes instead of {size}", size - 1)));
    image.set_len(size).unwrap();
    assert!(verdict(&capture).faults.is_empty());
}

#[test]
fn a_capture_without_an_end_is_refused() {
    let store = tempfile::tempdir().unwrap();
    let at = store_common::STARTED.parse().unwrap();
    let partial = CaptureDir::begin(store.path(), "m", at).unwrap();
    partial.write("capture.log", b"interrupted").unwrap();
    for path in [partial.path(), store.path()] {
        let error = verify_path(path, &Quiet).unwrap_err();
        assert_eq!(error.kind(), Kind::Refused);
        assert!(
            error.to_string().contains("is not a finished capture"),
            "{error}"
        );
    }
    let error = verify_path(&store.path().join("none"), &Quiet).unwrap_err();
    assert_eq!(error.kind(), Kind::Io);
    let empty = tempfile::tempdir().unwrap();
    let error = verify_path(empty.path(), &Quiet).unwrap_err();
    assert!(
        error.to_string().starts_with("there is no capture in"),
        "{error}"
    );
}

#[test]
fn what_the_medium_does_not_give_back_is_not_sealed() {
    let dir = tempfile::tempdir().unwrap();
    let content = Content::mixed(16 << 20, 21);
    let record = image(dir.path(), "disk-0.qcow2", &content, Compression::Zstd);
    seal(dir.path(), &record, true, &Quiet).unwrap();

    let path = dir.path().join("disk-0.qcow2");
    flip(&path, fs::metadata(&path).unwrap().len() * 4);
    let error = seal(dir.path(), &record, true, &Quiet).unwrap_err();
    assert_eq!(error.kind(), Kind::Mismatch);
    assert!(error.to_string().contains("of the disk"), "{error}");
}
