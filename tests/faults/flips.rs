//! One bit of a finished capture is flipped, in every kind of byte that it has: `verify` finds it
//! and says where, and `import` refuses it wherever it would have come through.
//!
//! `HAULIER_FLIPS` says how many bits (28 if not set: two of each kind).

use crate::capture_support::{
    MIB, Numbers, Scene, Tally, clean, entry, haulier, mixed_disk, number, words,
};
use crate::layout::{Part, parts};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

const CHUNK: u64 = 4 * MIB;

fn flip(path: &Path, bit: u64) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, bit / 8).unwrap();
    byte[0] ^= 1 << (bit % 8);
    file.write_all_at(&byte, bit / 8).unwrap();
}

/// What can be flipped: by its kind, the file and the parts of it.
fn kinds(capture: &Path) -> BTreeMap<&'static str, (&'static str, Vec<Part>)> {
    let mut kinds: BTreeMap<_, (_, Vec<Part>)> = BTreeMap::new();
    for part in parts(&fs::read(capture.join("disk-0.qcow2")).unwrap()) {
        let of = kinds.entry(part.kind).or_insert(("disk-0.qcow2", vec![]));
        of.1.push(part);
    }
    for file in [
        "manifest.json",
        "SHA256SUMS",
        "machine.json",
        "domain.xml",
        "capture.log",
        "report.html",
    ] {
        let length = fs::metadata(capture.join(file)).unwrap().len();
        let part = Part {
            kind: file,
            bytes: 0..length,
            disk: None,
        };
        kinds.insert(file, (file, vec![part]));
    }
    kinds
}

/// `bytes A to B of the disk` and `... of the file` in a line of the verdict.
fn range_of(line: &str, of: &str) -> Option<std::ops::Range<u64>> {
    let (before, _) = line.split_once(&format!(" of the {of}"))?;
    let (_, range) = before.rsplit_once("bytes ")?;
    let (start, end) = range.split_once(" to ")?;
    Some(start.parse().ok()?..end.parse().ok()?)
}

/// `haulier verify` finds the flipped bit, and what it says leads to it.
fn is_located(capture: &Path, file: &str, part: &Part, byte: u64) {
    let verified = haulier(&["verify", capture.to_str().unwrap()]);
    let said = words(&verified);
    let what = format!("byte {byte} of {file}, {}: {said}", part.kind);
    assert_eq!(verified.status.code(), Some(1), "{what}");
    let said = said.rsplit("DAMAGED").next().unwrap();
    // The manifest vouches for the others, SHA256SUMS for it, and it for SHA256SUMS.
    assert!(said.contains(file), "{what}");
    for other in ["disk-0.qcow2: ", "machine.json: ", "capture.log: "] {
        assert!(
            other.starts_with(file) || file == "manifest.json" || !said.contains(other),
            "{what}"
        );
    }
    if let Some(disk) = part.disk {
        let chunk = disk / CHUNK * CHUNK..(disk / CHUNK + 1) * CHUNK;
        let leads = |line: &str| {
            let (Some(on_disk), Some(in_file)) = (range_of(line, "disk"), range_of(line, "file"))
            else {
                return false;
            };
            // The cluster itself or its chunk, and no more than that.
            on_disk.contains(&disk) && chunk.contains(&on_disk.start) && in_file.contains(&byte)
        };
        assert!(said.lines().any(leads), "{what}");
    }
}

/// The import refuses and leaves nothing, or what it made is what the capture as it was makes.
/// Whether it refused.
fn is_not_imported(capture: &Path, out: &Path, expected: &Import, what: &str) -> bool {
    let made = import(capture, out);
    match made {
        Ok(made) => {
            assert!(made == *expected, "{what} came through an import");
            false
        }
        Err(said) => {
            assert!(!out.exists(), "{what}: {said}");
            true
        }
    }
}

/// Each file that an import makes.
type Import = BTreeMap<String, Vec<u8>>;

fn import(capture: &Path, out: &Path) -> Result<Import, String> {
    let (from, to) = (capture.to_str().unwrap(), out.to_str().unwrap());
    let output = haulier(&["import", from, "--to", "qemu", "--out", to]);
    if !output.status.success() {
        return Err(words(&output));
    }
    let files = fs::read_dir(out).unwrap().map(|file| {
        let path = file.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        (name, fs::read(path).unwrap())
    });
    let files = files.collect();
    fs::remove_dir_all(out).unwrap();
    Ok(files)
}

#[test]
fn one_flipped_bit_of_any_kind_is_found_located_and_not_imported() {
    let flips = number("HAULIER_FLIPS", 28);
    let scene = Scene::new(|path| mixed_disk(path, 24 * MIB + 512 * 7));
    let store = scene.store("store");
    let output = scene.capture(&store, &[]);
    assert!(output.status.success(), "{}", words(&output));
    let capture = entry(&store, "Z").unwrap();
    clean(&capture.join("disk-0.qcow2"), Some(&scene.disk));
    let out = scene.path("vm");
    let expected = import(&capture, &out).unwrap();
    assert!(expected.contains_key("disk-0.qcow2"));

    let kinds = kinds(&capture);
    assert_eq!(kinds.len(), 14, "{:?}", kinds.keys());
    let mut numbers = Numbers(u64::from(flips));
    let mut refused = BTreeMap::<&str, (u32, u32)>::new();
    for (kind, (file, parts)) in kinds.iter().cycle().take(flips as usize) {
        let part = &parts[numbers.below(parts.len() as u64) as usize];
        let length = part.bytes.end - part.bytes.start;
        let byte = part.bytes.start + numbers.below(length);
        let bit = byte * 8 + numbers.below(8);
        flip(&capture.join(file), bit);
        is_located(&capture, file, part, byte);
        let what = format!("bit {bit} of {file}, {kind}");
        let seen = refused.entry(kind).or_default();
        seen.0 += u32::from(is_not_imported(&capture, &out, &expected, &what));
        seen.1 += 1;
        flip(&capture.join(file), bit);
    }
    for (kind, (refused, flips)) in &refused {
        println!("{kind}: {flips} flips found, {refused} of them refused by the import");
    }
    // All that an import takes over is proven by it.
    for kind in [
        "header",
        "L1 table",
        "L2 table",
        "refcount table",
        "refcount block",
    ] {
        assert_eq!(refused[kind].0, refused[kind].1, "{kind}");
    }
    for kind in ["compressed data", "plain data", "padding", "machine.json"] {
        assert_eq!(refused[kind].0, refused[kind].1, "{kind}");
    }
    let verified = haulier(&["verify", capture.to_str().unwrap()]);
    assert!(verified.status.success(), "{}", words(&verified));
    let tally = Tally {
        located: flips,
        ..Tally::default()
    };
    tally.row("one flipped bit of a finished capture", flips);
}
