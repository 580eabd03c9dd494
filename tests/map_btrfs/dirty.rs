//! Power cuts: the image is copied while the filesystem is mounted, right after an fsync whose log
//! the next mount has to replay. A copy that was punched must replay to the same files as one that
//! was not.

use crate::damage::{Patched, set};
use crate::fixture::{
    Attached, Digests, Fixture, MIB, Mounted, Variant, fill, map, spanning, variant,
};
use crate::map_support::{Noise, arg, digests, punch, run, try_run};
use haulier::device::MemDisk;
use haulier::usedmap::State;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

/// A filesystem as a power cut leaves it, twice.
struct Cut {
    _fixture: Fixture,
    whole: Vec<PathBuf>,
    punched: Vec<PathBuf>,
    at: PathBuf,
}

fn cut(made: Variant, mount: &str) -> Cut {
    let fixture = Fixture::empty(made);
    // No commit of its own accord: only fsync writes.
    let mounted = fixture.mount(&format!("commit=3000{mount}"));
    fill(&mounted);
    let copies = |name: &str| -> Vec<PathBuf> {
        let copy = |(number, image): (usize, &PathBuf)| {
            let copy = fixture.dir.path().join(format!("{name}{number}.img"));
            run("cp", &["--sparse=always", arg(image), arg(&copy)]);
            copy
        };
        fixture.images.iter().enumerate().map(copy).collect()
    };
    // A power cut is one moment, copying is not: if the kernel committed meanwhile, once more.
    let (whole, punched) = (0..20)
        .find_map(|round| {
            fsync_files(&mounted, round);
            let before = superblocks(&fixture);
            let copies = (copies("whole"), copies("punched"));
            (superblocks(&fixture) == before).then_some(copies)
        })
        .expect("the kernel commits all the time");
    drop(mounted);
    let said = run("btrfs", &["inspect-internal", "dump-super", arg(&whole[0])]);
    let log_root = said
        .lines()
        .find_map(|line| line.strip_prefix("log_root\t"))
        .expect("dump-super shows the log");
    assert_ne!(log_root.trim(), "0", "there is no log to replay");
    Cut {
        at: fixture.dir.path().join("mnt"),
        _fixture: fixture,
        whole,
        punched,
    }
}

/// As they are on the disks now.
fn superblocks(fixture: &Fixture) -> Vec<Vec<u8>> {
    let read = |image| {
        let mut bytes = vec![0; 4096];
        let file = fs::File::open(image).unwrap();
        file.read_exact_at(&mut bytes, 64 << 10).unwrap();
        bytes
    };
    fixture.images.iter().map(read).collect()
}

/// New files, old ones made longer, written over and shortened, in two subvolumes; names changed.
fn fsync_files(mounted: &Mounted, round: u64) {
    let mut noise = Noise(77 + round);
    let write = |name: &str, at: u64, bytes: Vec<u8>| {
        let file = fs::OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(mounted.path(name))
            .unwrap();
        file.write_all_at(&bytes, at).unwrap();
        file.sync_all().unwrap();
    };
    // First, with a commit behind it: after such things fsync commits instead of writing a log.
    let old = round
        .checked_sub(1)
        .map_or("w9".into(), |last| format!("renamed{last}"));
    let new = mounted.path(&format!("renamed{round}"));
    fs::rename(mounted.path(&old), &new).unwrap();
    let renamed = fs::File::open(new).unwrap();
    renamed.sync_all().unwrap();
    let shortened = fs::OpenOptions::new()
        .write(true)
        .open(mounted.path("w7"))
        .unwrap();
    shortened.set_len(5000).unwrap();
    shortened.sync_all().unwrap();
    run(
        "fallocate",
        &["-o", "1M", "-l", "3M", arg(&mounted.path("preallocated"))],
    );
    write("preallocated", 1 << 20, noise.bytes(50_000));
    mounted.btrfs(&["filesystem", "sync"]);
    for number in 0..40 {
        let len = 1 + noise.below(300_000);
        let folder = if number % 3 == 0 { "sub/" } else { "" };
        write(&format!("{folder}new{number}"), 0, noise.bytes(len));
    }
    for name in ["w1", "w3", "shared", "sub/s1", "sub/s8"] {
        let at = noise.below(100_000);
        write(name, at, noise.bytes(60_000));
    }
}

impl Cut {
    fn replayed(&self, images: &[PathBuf]) -> Digests {
        let mounted = Mounted::new(images, images.len(), &self.at, "");
        mounted.scrub();
        let files = digests(&mounted.at);
        drop(mounted);
        Attached::new(images).check("after the replay");
        files
    }
}

fn a_log_survives(made: Variant, mount: &str) {
    let cut = cut(made, mount);
    for (image, map) in cut.punched.iter().zip(map(&cut.punched)) {
        assert_eq!(map.state, State::Dirty, "{}", map.reason);
        assert!(map.reason.contains("its log"), "{}", map.reason);
        punch(
            image,
            &map.used.expect("a log is no reason to take everything"),
        );
    }
    let expected = cut.replayed(&cut.whole);
    assert!(expected.len() > 400, "the replay lost files");
    let new: Vec<_> = (0..40)
        .filter(|number| number % 3 != 0)
        .map(|number| PathBuf::from(format!("new{number}")))
        .filter(|name| !expected.contains_key(name))
        .collect();
    assert!(new.is_empty(), "the replay did not bring back {new:?}");
    assert!(
        cut.replayed(&cut.punched) == expected,
        "the files are others"
    );
}

#[test]
fn the_log_of_a_power_cut_survives() {
    a_log_survives(variant("cut", &[]), "");
}

#[test]
fn the_log_of_a_power_cut_survives_with_old_features() {
    let old = &[
        "-O",
        "^skinny-metadata,^no-holes",
        "-R",
        "^free-space-tree",
        "-n",
        "4096",
    ];
    a_log_survives(variant("cut", old), ",space_cache=v1");
}

#[test]
fn the_log_of_a_power_cut_survives_on_several_devices() {
    let raid = &["-d", "raid1", "-m", "raid1"];
    a_log_survives(spanning("cut", 2, 1, raid), ",compress=zstd");
    let raid = &["-d", "raid5", "-m", "raid1"];
    a_log_survives(spanning("cut", 3, 1, raid), "");
}

/// The proof can fail: by a map that knows nothing of the log, the next mount finds none to replay.
#[test]
fn a_map_without_the_log_loses_it() {
    let cut = cut(variant("cut", &[]), "");
    let disk = Arc::new(MemDisk(fs::read(&cut.punched[0]).unwrap()));
    let with = Patched::of(&disk).map().used.unwrap();
    let no_log = |superblock: &mut [u8]| set(superblock, 0x60, 0);
    let without = Patched::of(&disk).with(64 << 10, 4096, no_log).map();
    assert_eq!(without.state, State::Clean, "{}", without.reason);
    let without = without.used.unwrap();
    assert!(without.subtract(&with).is_empty());
    let log = with.subtract(&without).total().0;
    assert!(log > MIB, "{log} bytes");
    punch(&cut.punched[0], &without);
    let attached = Attached::new(&cut.punched);
    let words = ["-t", "btrfs", attached.loops[0].as_str(), arg(&cut.at)];
    assert!(!try_run("mount", &words).status.success(), "it is mounted");
    drop(attached);
    assert!(cut.replayed(&cut.whole).len() > 400);
}

/// Where the log cannot be read, all that is allocated is taken: log and data are in there.
#[test]
fn a_damaged_log_is_taken_with_all_that_is_allocated() {
    let cut = cut(variant("cut", &["-m", "single"]), "");
    let image = &cut.whole[0];
    // btrfs-map-logical knows nothing that the extent tree does not; blocks of a log have owner -6.
    let bytes = fs::read(image).unwrap();
    let fsid = &bytes[0x1_0020..0x1_0030];
    let log_blocks = (0..bytes.len() - 4096).step_by(4096).filter(|at| {
        let owner = &bytes[at + 0x58..at + 0x60];
        &bytes[at + 0x20..at + 0x30] == fsid && owner == (-6_i64).to_le_bytes()
    });
    let file = fs::OpenOptions::new().write(true).open(image).unwrap();
    for at in log_blocks {
        let at = u64::try_from(at).unwrap();
        file.write_all_at(&[0xFF; 16], at + 0x70).unwrap();
    }
    let exact = &map(&cut.punched)[0];
    let coarse = &map(&cut.whole)[0];
    assert_eq!(coarse.state, State::Damaged, "{}", coarse.reason);
    assert!(coarse.reason.contains("allocated"), "{}", coarse.reason);
    let exact = exact.used.as_ref().unwrap();
    let coarse = coarse.used.as_ref().unwrap();
    assert!(exact.subtract(coarse).is_empty(), "something is lost");
    assert!(coarse.total() > exact.total());
}

/// A crash between commits without any log: the last commit is whole, and so is its map.
#[test]
fn a_crash_without_a_log_is_the_last_commit() {
    let fixture = Fixture::empty(variant("crash", &[]));
    let mounted = fixture.mount("commit=3000");
    fill(&mounted);
    let copy = fixture.dir.path().join("copy.img");
    let mut noise = Noise(5);
    let expected = (0..20)
        .find_map(|_| {
            mounted.btrfs(&["filesystem", "sync"]);
            let (committed, before) = (digests(&mounted.at), superblocks(&fixture));
            // Written after the commit, by no fsync: writeback may or may not have come to it.
            fs::write(mounted.path("after"), noise.bytes(3 << 20)).unwrap();
            run(
                "cp",
                &["--sparse=always", arg(&fixture.images[0]), arg(&copy)],
            );
            (superblocks(&fixture) == before).then_some(committed)
        })
        .expect("the kernel commits all the time");
    drop(mounted);
    let images = [copy];
    let map = &map(&images)[0];
    assert_eq!(map.state, State::Clean, "{}", map.reason);
    punch(&images[0], map.used.as_ref().unwrap());
    Attached::new(&images).check("after the crash");
    let at = fixture.dir.path().join("mnt");
    let mounted = Mounted::new(&images, 1, &at, "");
    assert!(digests(&mounted.at) == expected, "the files are others");
}
