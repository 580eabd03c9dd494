//! Power cuts: ext4, XFS and btrfs are written to at full speed in a guest, the power goes, and the
//! copy that a map makes of the disk must recover exactly as the untouched disk does.
//!
//! One guest writes to three disks at once. QEMU keeps a log of what each disk was told, write by
//! write and flush by flush, and is then killed. That gives, for each disk,
//!
//! * what killing QEMU left (requests that were under way are lost, nothing else), and
//! * from the log, as many further cuts as wanted: everything up to a flush has reached the disk,
//!   what follows it is kept, lost or torn ([`log::Cut`]), as a disk's own cache may do when the
//!   power goes.
//!
//! `HAULIER_POWER_CUTS` says how many cuts each filesystem gets (5 if not set: the kill and each way; the long campaign is
//! `cargo xtask powercut`), `HAULIER_POWER_SEED` which ones. What the guest does depends on its
//! timing too, so the disk of a cut that fails is kept below `target/powercut`.

mod log;
#[path = "../../../map_support/mod.rs"]
mod map_support;
mod proof;
mod report;
mod setups;

use fastrand::Rng;
use haulier_testbed::lab::Lab;
use haulier_testbed::product::{scratch, target};
use log::{Cut, Log};
use map_support::{arg, run};
use proof::{prove, sparse_copy};
use report::Report;
use setups::{DISK_BYTES, Disk, ROUNDS};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A machine that has to share two processors with others needs patience.
const BOOT: Duration = Duration::from_secs(600);
/// A guest writes until each disk's log has this many bytes, and a chance part of it more.
const LOG_BYTES: u64 = 24 << 20;
/// Or this long.
const WRITING: Duration = Duration::from_secs(240);
/// Cuts that one guest's logs are used for; then another one, set up in another way, is started.
const CUTS_PER_ROUND: usize = 18;

fn number(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text
            .parse()
            .unwrap_or_else(|_| panic!("{name} is {text:?}, not a number")),
        Err(_) => default,
    }
}

#[test]
fn a_copy_recovers_as_the_disk_does_whose_power_was_cut() {
    let cuts = usize::try_from(number("HAULIER_POWER_CUTS", 5)).unwrap();
    let seed = number("HAULIER_POWER_SEED", 1);
    let rounds = cuts.div_ceil(CUTS_PER_ROUND).max(1);
    let mut report = Report::default();
    let first = usize::try_from(seed).unwrap().wrapping_sub(1);
    for round in 0..rounds {
        let here = cuts / rounds + usize::from(round < cuts % rounds);
        let seed = seed.wrapping_mul(1000) + round as u64;
        let disks = &ROUNDS[first.wrapping_add(round) % ROUNDS.len()];
        one_guest(disks, here, seed, &mut report);
        report.print();
    }
    report.check();
}

/// Starts a guest, cuts its power and proves `cuts` cuts of each disk.
fn one_guest(disks: &[Disk; 3], cuts: usize, seed: u64, report: &mut Report) {
    let mut rng = Rng::with_seed(seed);
    let scratch = scratch().unwrap();
    let at = |disk: &Disk, what: &str| {
        scratch
            .path()
            .join(format!("{}.{what}", disk.kind.driver()))
    };
    let program = Path::new(env!("CARGO_BIN_EXE_powercut-writer"));
    let mut lab = Lab::new().program(program);
    let mut script = String::new();
    for (disk, letter) in disks.iter().zip('a'..) {
        let image = at(disk, "img");
        fs::File::create(&image)
            .unwrap()
            .set_len(DISK_BYTES)
            .unwrap();
        run(disk.mkfs[0], &[&disk.mkfs[1..], &[arg(&image)]].concat());
        sparse_copy(&image, &at(disk, "before"));
        lab = lab.logged_disk(&image, &at(disk, "log"));
        let driver = disk.kind.driver();
        script += &format!(
            "mkdir /mnt/{letter}
             mount -t {driver} -o {options} /dev/vd{letter} /mnt/{letter}
             chmod 755 /mnt/{letter} /mnt/{letter}/lost+found 2>/dev/null || true\n",
            options = disk.options
        );
    }
    script += "sync; echo writing\n";
    for letter in ['a', 'b', 'c'] {
        script += &format!("powercut-writer /mnt/{letter} {seed} 3600 40 &\n");
    }
    script += "wait\n";
    let mut guest = lab.script(&script).start().unwrap();
    guest.wait_for("writing", BOOT).unwrap();
    let wanted = LOG_BYTES + rng.u64(0..LOG_BYTES);
    let end = Instant::now() + WRITING;
    let written = |disk: &Disk| fs::metadata(at(disk, "log")).map_or(0, |about| about.len());
    while disks.iter().any(|disk| written(disk) < wanted) && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(100));
    }
    let said = guest.cut_power().unwrap();
    assert!(!said.contains("steps"), "a writer ended early: {said}");

    for disk in disks {
        let log = Log::open(&at(disk, "log")).unwrap();
        println!(
            "{}: {} requests, {} flushes in {} MiB of log, seed {seed}",
            disk.name,
            log.len(),
            log.flushes(),
            written(disk) >> 20
        );
        let killed = at(disk, "img");
        sparse_copy(&killed, &at(disk, "cut"));
        let name = format!("{} killed, seed {seed}", disk.name);
        one_cut(
            disk,
            &name,
            &at(disk, "cut"),
            &at(disk, "keep"),
            scratch.path(),
            report,
        );

        // In their order, so that the disk before the cuts is written once.
        let mut places: Vec<usize> = (1..cuts).map(|_| rng.usize(1..=log.len())).collect();
        places.sort_unstable();
        let before = fs::File::options()
            .write(true)
            .open(at(disk, "before"))
            .unwrap();
        let mut done = 0;
        for (place, cut) in places.into_iter().zip(Cut::ALL.into_iter().cycle()) {
            let durable = log.durable(place);
            log.apply(&before, done, durable).unwrap();
            done = durable;
            let image = at(disk, "cut");
            sparse_copy(&at(disk, "before"), &image);
            let file = fs::File::options().write(true).open(&image).unwrap();
            log.cut(&file, durable, place, cut, &mut rng).unwrap();
            drop(file);
            let name = format!("{} cut at {place} {cut:?}, seed {seed}", disk.name);
            one_cut(
                disk,
                &name,
                &image,
                &at(disk, "keep"),
                scratch.path(),
                report,
            );
        }
    }
}

/// Proves one cut disk; keeps it if it fails.
fn one_cut(
    disk: &Disk,
    name: &str,
    image: &Path,
    keep: &Path,
    scratch: &Path,
    report: &mut Report,
) {
    sparse_copy(image, keep);
    let outcome = prove(disk.kind, image, scratch);
    if let Err(error) = &outcome {
        let kept = keep_failed(name, keep);
        println!(
            "FAILED: {name}: {error}\n  the disk is kept as {}",
            kept.display()
        );
    }
    report.add(disk, name, outcome);
}

fn keep_failed(name: &str, image: &Path) -> PathBuf {
    let folder = target().join("powercut");
    fs::create_dir_all(&folder).unwrap();
    let kept = folder.join(format!("{}.img", name.replace([' ', ',', '(', ')'], "-")));
    sparse_copy(image, &kept);
    kept
}
