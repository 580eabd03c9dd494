//! Captures of sparse disks of up to 64 TiB: the peak of memory, and that the image is right. What is run
//! by `cargo test` is the quick form; `cargo xtask size` has the program as it ships, and more runs.
//! Each prints a row for `docs/measured.md`.

#[allow(dead_code, reason = "shared with map_size, which uses more of it")]
#[path = "../map_size/bitmaps.rs"]
mod bitmaps;
#[path = "../map_support/mod.rs"]
mod map_support;

use bitmaps::{Pattern, fragment_ext4};
use haulier::device::ReadAt;
use haulier::qcow2::Reader;
use haulier::store::FileReader;
use haulier::units::ByteOffset;
use map_support::mount::Mounted;
use map_support::sparse::{Room, TIB};
use map_support::{Noise, arg, run};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Mutex, MutexGuard};
use std::time::Instant;

/// The bound of every capture, in MiB.
const MOST_MIB: f64 = 256.0;
const DISK: u64 = 64 * TIB;

/// One at a time: each wants the processors and the medium.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(|e| e.into_inner())
}

/// What `cargo xtask size` wants to have instead of the `quick` form.
fn number(name: &str, quick: u64) -> u64 {
    std::env::var(name).map_or(quick, |text| {
        text.parse()
            .unwrap_or_else(|_| panic!("{name} is {text:?}, not a number"))
    })
}

/// Runs `words` under time(1), prints the row, asserts the bound on memory.
fn measure(what: &str, words: &[&str], peak: &Path) -> Output {
    let start = Instant::now();
    let output = Command::new("time")
        .args(["--quiet", "-f", "%M %U %S", "-o", arg(peak)])
        .args(words)
        .output()
        .expect("time (package time) is needed for this test");
    let seconds = start.elapsed().as_secs_f64();
    let seen = fs::read_to_string(peak).unwrap();
    let seen: Vec<f64> = seen
        .split_whitespace()
        .map(|number| number.parse().unwrap())
        .collect();
    let [kib, user, system] = seen[..] else {
        panic!("time(1) says {seen:?}");
    };
    let (mib, cpu) = (kib / 1024.0, user + system);
    println!("| {what} | {seconds:.1} | {cpu:.1} | {mib:.0} |");
    assert!(mib > 1.0, "{mib} MiB cannot be all that it needed");
    assert!(mib < MOST_MIB, "{what}: {mib} MiB of memory");
    output
}

/// The program: that of the test's own profile, or the one that `cargo xtask size` names.
fn program() -> String {
    std::env::var("HAULIER_SIZE_PROGRAM")
        .unwrap_or_else(|_| env!("CARGO_BIN_EXE_haulier").to_owned())
}

/// Captures `disk` into a new directory of `room`; returns the image, which QEMU calls clean.
fn capture(what: &str, room: &Room, disk: &Path) -> PathBuf {
    let store = room.file("peak", 0).with_file_name("store");
    fs::create_dir(&store).unwrap();
    let program = program();
    let words = [
        &program,
        "capture",
        "--disk",
        arg(disk),
        "--to",
        arg(&store),
        "--name",
        "m",
    ];
    let output = measure(what, &words, &store.with_file_name("peak"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let mut captures = fs::read_dir(store.join("m")).unwrap();
    let image = captures
        .next()
        .unwrap()
        .unwrap()
        .path()
        .join("disk-0.qcow2");
    run("qemu-img", &["check", "-q", arg(&image)]);
    image
}

/// The image holds what the disk has at these places.
fn is_the_same_at(image: &Path, disk: &Path, places: impl IntoIterator<Item = u64>) {
    let file = File::open(disk).unwrap();
    let reader = Reader::open(FileReader::open(image).unwrap()).unwrap();
    assert_eq!(reader.size().0, file.metadata().unwrap().len());
    for at in places {
        let (mut expected, mut found) = (vec![0; 4096], vec![1; 4096]);
        file.read_exact_at(&mut expected, at).unwrap();
        reader.read_at(ByteOffset(at), &mut found).unwrap();
        assert!(expected == found, "what is at byte {at} differs");
    }
}

#[test]
fn xfs_of_64_tib_with_some_files() {
    let _alone = alone();
    let room = Room::new();
    let disk = room.file("disk.img", DISK);
    // A log of 2 GiB would be zeroed at once.
    run("mkfs.xfs", &["-q", "-K", "-l", "size=128m", arg(&disk)]);
    let inner = Mounted::new(&disk, &room.mount_point(), "");
    let mut noise = Noise(7);
    for number in 0..64 {
        let folder = inner.path().join(format!("folder-{number}"));
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("file"), noise.bytes(300_000)).unwrap();
    }
    inner.unmount();
    let image = capture("XFS, 64 TiB, 64 files", &room, &disk);
    // All that the disk has bytes of its own for, and some of what it has not.
    let file = File::open(&disk).unwrap();
    let mut places: Vec<u64> = (0..DISK).step_by(1 << 40).collect();
    let mut at = 0;
    while let Ok(start) = rustix::fs::seek(&file, rustix::fs::SeekFrom::Data(at)) {
        at = rustix::fs::seek(&file, rustix::fs::SeekFrom::Hole(start)).unwrap();
        places.extend((start / 4096 * 4096..at).step_by(4096));
    }
    assert!(places.len() > 64 * 70, "{}", places.len());
    drop(file);
    is_the_same_at(&image, &disk, places);
    room.unmount();
}

/// Very many runs of the map, each in a part of the disk of its own; and each 2 GiB of an ext4 have
/// metadata, so that the time goes with the size: the quick form has 4 TiB.
#[test]
fn ext4_in_very_many_pieces() {
    let _alone = alone();
    let tib = number("HAULIER_SIZE_CAPTURED_TIB", 4);
    let groups = number("HAULIER_SIZE_CAPTURED_GROUPS", 60);
    let room = Room::new();
    let disk = room.file("disk.img", tib * TIB);
    // 16 a group: one block of the table.
    let inodes = (tib << 17).to_string();
    let features = "64bit,metadata_csum,^resize_inode,^has_journal,^bigalloc";
    run(
        "mke2fs",
        &[
            "-q",
            "-F",
            "-t",
            "ext4",
            "-N",
            &inodes,
            "-O",
            features,
            "-E",
            "nodiscard,lazy_itable_init=1",
            arg(&disk),
        ],
    );
    let changed = fragment_ext4(&disk, Pattern::OneOf(512), groups);
    let file = File::options().write(true).open(&disk).unwrap();
    let mut noise = Noise(9);
    let mut places = Vec::new();
    for group in changed.iter().step_by(7) {
        let at = (group * 32_768 + 512 * noise.below(64)) * 4096;
        file.write_all_at(&noise.bytes(4096), at).unwrap();
        places.push(at);
    }
    drop(file);
    let what = format!("ext4, {tib} TiB, {groups} groups with 1 of 512 blocks used");
    let image = capture(&what, &room, &disk);
    is_the_same_at(&image, &disk, places);
    room.unmount();
}

/// Nobody knows what is on it: all of it is read, which takes hours of any program. What the memory
/// depends on is there after the first minutes: the map, the plan, the buffers.
#[test]
fn an_unknown_disk_of_64_tib_begun() {
    let _alone = alone();
    let room = Room::new();
    let disk = room.file("disk.img", DISK);
    let file = File::options().write(true).open(&disk).unwrap();
    let mut noise = Noise(11);
    for number in 0..1024 {
        let at = (number << 36) + (noise.below(1 << 36) & !4095);
        file.write_all_at(&noise.bytes(4096), at).unwrap();
    }
    drop(file);
    let store = room.file("peak", 0).with_file_name("store");
    fs::create_dir(&store).unwrap();
    let program = program();
    let words = [
        "timeout",
        "20",
        &program,
        "capture",
        "--disk",
        arg(&disk),
        "--to",
        arg(&store),
        "--name",
        "m",
    ];
    let peak = store.with_file_name("peak");
    let output = measure("unknown, 64 TiB, the first 20 s", &words, &peak);
    assert_eq!(output.status.code(), Some(124), "it ended by itself");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("read 70.3 TB of 70.3 TB"), "{said}");
    room.unmount();
}
