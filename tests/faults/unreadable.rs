//! Disks with sectors that cannot be read, wherever they lie: exactly those are zero in the image,
//! all else is as it was, and the losses are named. Sectors that fail once cost nothing.
//!
//! The disk is QEMU's (`blkdebug`), shown as a loop device with sectors of 512 bytes.
//! `HAULIER_BAD_DISKS` says how many disks (5 if not set).

use crate::capture_support::{
    MIB, Numbers, Scene, Tally, clean, entry, haulier, manifest, number, words,
};
use crate::medium::{Loop, root};
use crate::qsd::{Shown, file_node};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

const DISK: u64 = 96 * MIB;
/// The disk in sectors.
const SECTORS: u64 = DISK / SECTOR;
const SECTOR: u64 = 512;
const CHUNK: u64 = 4 * MIB / SECTOR;
const CLUSTER: u64 = 128;

/// An ext4 without a partition table, two thirds full of files of noise and text.
fn ext4_disk(path: &Path) {
    let tree = path.with_extension("tree");
    fs::create_dir(&tree).unwrap();
    let mut numbers = Numbers(5);
    for at in 0..48 {
        let mut content = numbers.noise(MIB);
        content.extend(b"haulier ".repeat(32 << 10));
        fs::write(tree.join(format!("file-{at}")), content).unwrap();
    }
    File::create(path).unwrap().set_len(DISK).unwrap();
    let (tree, path) = (tree.to_str().unwrap(), path.to_str().unwrap());
    root("mke2fs", &["-q", "-F", "-t", "ext4", "-d", tree, path]);
}

/// The used map of the undisturbed disk, in sectors.
fn used(scene: &Scene) -> BTreeSet<u64> {
    let output = haulier(&["map", "--json", scene.disk.to_str().unwrap()]);
    let map: Value = serde_json::from_slice(&output.stdout).unwrap();
    sectors(&map["extents"])
}

/// `[[start, length], ...]` or `[{start_byte, length_bytes}, ...]`, in sectors.
fn sectors(extents: &Value) -> BTreeSet<u64> {
    let mut all = BTreeSet::new();
    for extent in extents.as_array().unwrap() {
        let pair = match extent.as_array() {
            Some(pair) => [pair[0].as_u64(), pair[1].as_u64()],
            None => [
                extent["start_byte"].as_u64(),
                extent["length_bytes"].as_u64(),
            ],
        };
        let [start, length] = pair.map(Option::unwrap);
        all.extend(start / SECTOR..(start + length).div_ceil(SECTOR));
    }
    all
}

/// Where the bad sectors lie, and whether they fail but once.
fn layout(
    turn: u32,
    used: &BTreeSet<u64>,
    numbers: &mut Numbers,
) -> (&'static str, Vec<u64>, bool) {
    let list: Vec<u64> = used.iter().copied().collect();
    let any = |numbers: &mut Numbers| list[numbers.below(list.len() as u64) as usize];
    let at = any(numbers);
    let data = |at: u64| at / CHUNK * CHUNK;
    match turn % 10 {
        0 => (
            "two in one cluster",
            vec![at / CLUSTER * CLUSTER + 3, at / CLUSTER * CLUSTER + 77],
            false,
        ),
        1 => {
            let border = data(at) + CHUNK;
            (
                "across the border of two chunks",
                vec![border - 1, border],
                false,
            )
        }
        2 => (
            "anywhere in use",
            (0..8).map(|_| any(numbers)).collect(),
            false,
        ),
        3 => (
            "anywhere in use, once",
            (0..8).map(|_| any(numbers)).collect(),
            true,
        ),
        4 => ("the first sector", vec![0], false),
        5 => (
            "the last sectors",
            vec![SECTORS - 1, SECTORS - 2, *list.last().unwrap()],
            false,
        ),
        // Superblock, group descriptors, bitmaps, inodes.
        6 => (
            "in the filesystem's metadata",
            vec![8 + numbers.below(600)],
            false,
        ),
        7 => (
            "every 1000th in use",
            list.iter().copied().step_by(1000).take(60).collect(),
            false,
        ),
        8 => (
            "a row",
            (at..at + 24).filter(|at| *at < SECTORS).collect(),
            false,
        ),
        _ => (
            "in each chunk",
            (0..SECTORS / CHUNK)
                .map(|n| n * CHUNK + numbers.below(CHUNK))
                .collect(),
            false,
        ),
    }
}

/// Shows the disk with these sectors broken.
fn broken(scene: &Scene, bad: &[u64], once: bool) -> (Loop, Shown) {
    let errors: Vec<Value> = bad
        .iter()
        .map(|sector| {
            json!({"event": "none", "iotype": "read", "sector": sector, "errno": 5, "once": once})
        })
        .collect();
    let nodes = [
        file_node("file", &scene.disk),
        json!({"driver": "blkdebug", "node-name": "top", "image": "file", "inject-error": errors}),
    ];
    let shown = Shown::new(&nodes, false, &scene.path("shown.img"));
    // Past the cache: that would ask for whole pages, and lose eight sectors for one.
    let disk = Loop::new(&shown.file, &["--read-only", "--direct-io=on"]);
    (disk, shown)
}

fn capture(disk: &Loop, store: &Path) -> std::process::Output {
    let (disk, store) = (&*disk.device, store.to_str().unwrap());
    haulier(&["capture", "--disk", disk, "--to", store, "--name", "m"])
}

/// What the image holds, by QEMU.
fn content(scene: &Scene, capture: &Path) -> Vec<u8> {
    let (image, raw) = (capture.join("disk-0.qcow2"), scene.path("copy.img"));
    clean(&image, None);
    let output = Command::new("qemu-img")
        .args(["convert", "-O", "raw"])
        .args([&image, &raw])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", words(&output));
    fs::read(raw).unwrap()
}

/// The sectors with a status in the map of the capture, by ddrescue's own tool.
fn by_ddrescue(map: &Path, status: char) -> BTreeSet<u64> {
    let output = Command::new("ddrescuelog")
        .args(["--block-size=512", &format!("--list-blocks={status}")])
        .arg(map)
        .output()
        .expect("ddrescuelog (package gddrescue) is needed for this test");
    assert!(output.status.success(), "{}", words(&output));
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines()
        .map(|line| line.trim().parse().unwrap())
        .collect()
}

/// The image is the disk but for exactly those sectors, and the losses are these.
fn judge(scene: &Scene, whole: &Path, bad: &BTreeSet<u64>, used: &BTreeSet<u64>, what: &str) {
    let manifest = manifest(whole);
    let record = &manifest["disks"][0];
    let read = sectors(&record["extents"]);
    // Metadata that cannot be read makes the map larger, never smaller.
    assert!(used.is_subset(&read), "{what}: less is captured");
    let lost: BTreeSet<u64> = bad.intersection(&read).copied().collect();
    assert_eq!(sectors(&record["bad_ranges"]), lost, "{what}");
    let mut disk = vec![0; DISK as usize];
    let file = File::open(&scene.disk).unwrap();
    for sector in read.difference(&lost) {
        let at = (sector * SECTOR) as usize;
        file.read_exact_at(&mut disk[at..at + 512], sector * SECTOR)
            .unwrap();
    }
    assert!(content(scene, whole) == disk, "{what}: the image differs");
    if lost.is_empty() {
        assert!(!whole.join("losses.json").exists(), "{what}");
        return;
    }
    assert_eq!(by_ddrescue(&whole.join("disk-0.map"), '-'), lost, "{what}");
    assert_eq!(
        by_ddrescue(&whole.join("disk-0.map"), '+'),
        &read - &lost,
        "{what}"
    );
    let losses: Value =
        serde_json::from_slice(&fs::read(whole.join("losses.json")).unwrap()).unwrap();
    let named: Value = losses
        .as_array()
        .unwrap()
        .iter()
        .map(|loss| loss["range"].clone())
        .collect();
    assert_eq!(sectors(&named), lost, "{what}");
}

#[test]
fn exactly_the_sectors_that_cannot_be_read_are_zero_and_named() {
    let disks = number("HAULIER_BAD_DISKS", 5);
    let scene = Scene::new(ext4_disk);
    let used = used(&scene);
    let mut numbers = Numbers(u64::from(disks));
    let mut tally = Tally::default();
    for turn in 0..disks {
        let (what, bad, once) = layout(turn, &used, &mut numbers);
        println!("{} bad sectors: {what}", bad.len());
        let what = format!("{what}: {bad:?}");
        let store = scene.store(&format!("store-{turn}"));
        let (disk, shown) = broken(&scene, &bad, once);
        let output = capture(&disk, &store);
        drop(disk);
        drop(shown);
        let said = words(&output);
        let bad: BTreeSet<u64> = if once { vec![] } else { bad }.into_iter().collect();
        let whole: PathBuf = entry(&store, "Z").unwrap_or_else(|| panic!("{what}: {said}"));
        let lossless = manifest(&whole)["disks"][0]["bad_ranges"] == json!([]);
        let code = if lossless { 0 } else { 3 };
        assert_eq!(output.status.code(), Some(code), "{what}: {said}");
        judge(&scene, &whole, &bad, &used, &what);
        let verified = haulier(&["verify", whole.to_str().unwrap()]);
        assert!(verified.status.success(), "{what}: {}", words(&verified));
        if lossless {
            tally.identical += 1;
        } else {
            assert!(said.contains("could not be read"), "{what}: {said}");
            tally.located += 1;
        }
        fs::remove_dir_all(&store).unwrap();
    }
    tally.row("unreadable sectors", disks);
}
