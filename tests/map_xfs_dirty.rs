//! XFS that was not shut down: its log is replayed in memory. A real kernel makes and recovers each
//! of them: what it finds after its recovery must be the same with everything outside the map
//! overwritten as without that.

mod map_support;
mod xfs_support;

use haulier::usedmap::{DiskMap, Policy, Region, RegionKind, State};
use map_support::mount::{Mounted, privileged};
use map_support::{Noise, arg, digests, map_of, punch, run, soiled_file, try_run};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use tempfile::TempDir;
use xfs_support::{SIZE, mkfs, offline, patch};

/// How the power goes.
#[derive(Clone, Copy, PartialEq)]
enum Cut {
    /// The log is written first.
    AfterLog,
    /// What was not yet in the log is lost.
    AtOnce,
}

struct Dirty {
    dir: TempDir,
    image: PathBuf,
}

fn region(map: &DiskMap) -> &Region {
    map.regions
        .iter()
        .find(|region| region.kind == RegionKind::Filesystem)
        .expect("the map has a filesystem")
}

impl Dirty {
    /// A filesystem in the middle of making, deleting, cutting and sharing files. `writes` is how
    /// many; with a log of 10 MiB a thousand go around it.
    fn make(args: &[&str], seed: u64, writes: u64, cut: Cut) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("disk.img");
        soiled_file(&image, SIZE, 0xEE);
        mkfs(args, &[], &image);
        let mounted = Mounted::new(&image, &dir.path().join("mnt"), "");
        let deleted = work(mounted.path(), seed, writes);
        let how = match cut {
            Cut::AfterLog => "shutdown -f",
            Cut::AtOnce => "shutdown",
        };
        privileged("xfs_io", &["-x", "-c", how, arg(mounted.path())]);
        drop(deleted);
        mounted.unmount();
        Self { dir, image }
    }

    /// The proof; how many files there were.
    fn recovers(&self, what: &str) -> usize {
        let map = map_of(&self.image);
        let region = region(&map);
        assert_eq!(region.state, Some(State::Dirty), "{}", region.reason);
        assert_eq!(region.policy, Policy::UsedBlocks, "{}", region.reason);
        assert!(
            region.reason.contains("replayed in memory"),
            "{}",
            region.reason
        );
        let whole = self.recovered("whole.img", |_| {});
        let mapped = self.recovered("mapped.img", |image| punch(image, &map.extents));
        assert_eq!(whole, mapped);
        println!(
            "{what}: {} bytes taken, {} files recovered",
            region.used_bytes,
            whole.len()
        );
        whole.len()
    }

    /// Lets the kernel recover a copy, and returns what is then in it.
    fn recovered(&self, copy: &str, change: impl FnOnce(&Path)) -> BTreeMap<PathBuf, String> {
        let image = self.dir.path().join(copy);
        fs::copy(&self.image, &image).unwrap();
        change(&image);
        let mounted = Mounted::new(&image, &self.dir.path().join("mnt"), "nouuid");
        let files = digests(mounted.path());
        mounted.unmount();
        let checker = try_run("xfs_repair", &["-n", "-f", arg(&image)]);
        let said = String::from_utf8_lossy(&checker.stderr);
        assert!(checker.status.success(), "xfs_repair of {copy}: {said}");
        fs::remove_file(&image).unwrap();
        files
    }
}

/// Makes, deletes, cuts, shares and overwrites files. Some that it deletes stay open: a recovery has
/// to find and drop them.
fn work(root: &Path, seed: u64, writes: u64) -> Vec<fs::File> {
    let mut noise = Noise(seed);
    let mut deleted = Vec::new();
    let mut names: Vec<PathBuf> = Vec::new();
    for number in 0..writes {
        let folder = root.join(format!("d{}", number % 7));
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join(format!("f{number}"));
        match noise.below(100) {
            0..55 => {
                let most = 1 << (5 + noise.below(13));
                let len = noise.below(most);
                fs::write(&path, noise.bytes(len)).unwrap();
                if noise.below(5) == 0 {
                    fs::File::open(&path).unwrap().sync_all().unwrap();
                }
                names.push(path);
            }
            55..90 if names.len() > 40 => {
                let which = usize::try_from(noise.below(names.len() as u64)).unwrap();
                let name = names.swap_remove(which);
                if noise.below(20) == 0 {
                    deleted.push(fs::File::open(&name).unwrap());
                }
                fs::remove_file(name).unwrap();
            }
            90..92 if !names.is_empty() => {
                // Into blocks that may be shared with another file.
                let which = usize::try_from(noise.below(names.len() as u64)).unwrap();
                let file = fs::OpenOptions::new().write(true).open(&names[which]);
                let at = noise.below(20_000);
                let file = file.unwrap();
                file.write_all_at(&noise.bytes(9000), at).unwrap();
                file.sync_all().unwrap();
            }
            92..95 if !names.is_empty() => {
                let which = usize::try_from(noise.below(names.len() as u64)).unwrap();
                let file = fs::OpenOptions::new().write(true).open(&names[which]);
                file.unwrap().set_len(noise.below(1000)).unwrap();
            }
            95..98 if !names.is_empty() => {
                let which = usize::try_from(noise.below(names.len() as u64)).unwrap();
                run("cp", &["--reflink=auto", arg(&names[which]), arg(&path)]);
                names.push(path);
            }
            98 => {
                run("sync", &["-f", arg(root)]);
            }
            _ => {}
        }
    }
    deleted
}

fn recovers_from_only_its_used_blocks(args: &[&str], seed: u64, writes: u64, cut: Cut) {
    let dirty = Dirty::make(args, seed, writes, cut);
    let files = dirty.recovers(&format!("{args:?}, {writes} writes"));
    assert!(files > 20, "only {files} files prove nothing");
}

#[test]
fn default() {
    recovers_from_only_its_used_blocks(&["-l", "size=10m"], 11, 700, Cut::AtOnce);
    recovers_from_only_its_used_blocks(&["-l", "size=10m"], 12, 300, Cut::AfterLog);
}

#[test]
fn blocks_of_1_kib() {
    let args = ["-l", "size=10m", "-b", "size=1024"];
    recovers_from_only_its_used_blocks(&args, 13, 600, Cut::AfterLog);
}

#[test]
fn owners_counted_in_many_groups() {
    let args = ["-l", "size=16m", "-m", "rmapbt=1", "-d", "agcount=5"];
    recovers_from_only_its_used_blocks(&args, 14, 700, Cut::AfterLog);
}

#[test]
fn striped_log_and_sectors_of_4_kib() {
    let args = ["-l", "size=20m,su=256k", "-s", "size=4096"];
    recovers_from_only_its_used_blocks(&args, 15, 500, Cut::AtOnce);
}

/// Long enough for the log to go around, so that trees were written back in between and its records
/// cross its end.
#[test]
fn a_log_that_went_around() {
    let dirty = Dirty::make(
        &["-m", "reflink=0", "-l", "size=6m"],
        16,
        4500,
        Cut::AfterLog,
    );
    let printed = try_run("xfs_logprint", &["-t", arg(&dirty.image)]);
    let printed = String::from_utf8_lossy(&printed.stdout);
    assert!(printed.contains("<DIRTY>"), "{printed}");
    assert!(printed.contains("LSN cycle 2"), "it did not go around");
    dirty.recovers("a log that went around");
}

/// The disk as it is at some moment of the work, all at once: a file on an XFS, whose copy shares its
/// blocks and so is taken between two writes.
#[test]
fn the_power_goes_in_the_middle_of_writing() {
    let dir = tempfile::tempdir().unwrap();
    let outer = dir.path().join("outer.img");
    fs::File::create(&outer).unwrap().set_len(2 << 30).unwrap();
    mkfs(&["-m", "reflink=1"], &[], &outer);
    let outer = Mounted::new(&outer, &dir.path().join("outer"), "");
    let disk = outer.path().join("disk.img");
    soiled_file(&disk, SIZE, 0xEE);
    mkfs(&["-l", "size=16m", "-m", "rmapbt=1"], &[], &disk);
    run("sync", &["-f", arg(outer.path())]);
    let mounted = Mounted::new(&disk, &dir.path().join("inner"), "");
    let cut_at = |moment: u64| outer.path().join(format!("cut{moment}.img"));
    let deleted = std::thread::scope(|scope| {
        let worker = scope.spawn(|| work(mounted.path(), 21, 3000));
        let mut moment = 0;
        while moment < 4 && !worker.is_finished() {
            std::thread::sleep(std::time::Duration::from_millis(900));
            let copy = cut_at(moment);
            run("cp", &["--reflink=always", arg(&disk), arg(&copy)]);
            moment += 1;
        }
        worker.join().unwrap()
    });
    drop(deleted);
    mounted.unmount();
    let cuts: Vec<PathBuf> = (0..4).map(cut_at).filter(|cut| cut.exists()).collect();
    let mut files = 0;
    for cut in &cuts {
        let dirty = Dirty {
            dir: tempfile::tempdir().unwrap(),
            image: cut.clone(),
        };
        files = files.max(dirty.recovers(&format!("{}", cut.display())));
    }
    assert!(files > 20, "no moment with files in it was caught");
    outer.unmount();
}

/// The proof can fail: without the replay blocks would be lost.
#[test]
fn the_trees_before_the_replay_are_not_enough() {
    let dirty = Dirty::make(&["-l", "size=10m"], 17, 400, Cut::AfterLog);
    let map = map_of(&dirty.image);
    let place = offline_free(&dirty.image);
    let lost = map.extents.intersect(&place);
    assert!(
        !lost.is_empty(),
        "everything in use was in use before: proves nothing"
    );
}

/// What the trees on the disk call free, by xfs_db.
fn offline_free(image: &Path) -> haulier::extent::ExtentList {
    let number = |command: &str| -> u64 {
        let printed = run("xfs_db", &["-r", "-c", "sb 0", "-c", command, arg(image)]);
        printed.rsplit('=').next().unwrap().trim().parse().unwrap()
    };
    let (block, group) = (number("p blocksize"), number("p agblocks"));
    run("xfs_db", &["-r", "-c", "freesp -d", arg(image)])
        .lines()
        .filter_map(|line| {
            let words: Vec<u64> = line
                .split_whitespace()
                .map(str::parse)
                .collect::<Result<_, _>>()
                .ok()?;
            let [in_group, start, count] = words[..] else {
                return None;
            };
            let at = (in_group * group + start) * block;
            haulier::extent::Extent::between(at, at + count * block)
        })
        .collect()
}

/// A power cut may leave it so; a mount would cut the log off there.
#[test]
fn a_record_that_is_not_whole_is_refused() {
    let dirty = Dirty::make(&["-l", "size=10m"], 18, 200, Cut::AfterLog);
    let log = log_at(&dirty.image);
    // Data of the first record behind the one of mkfs.
    patch::write(&dirty.image, log + 3 * 512 + 100, &[0x5A; 8]);
    let map = map_of(&dirty.image);
    let region = region(&map);
    assert_eq!(region.state, Some(State::Dirty));
    assert_eq!(region.policy, Policy::CopyNonzero);
    assert!(region.reason.contains("not whole"), "{}", region.reason);
    assert!(region.reason.contains("instead of"), "{}", region.reason);
}

#[test]
fn version_4_is_not_replayed() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("disk.img");
    soiled_file(&image, SIZE, 0xEE);
    mkfs(&["-m", "crc=0", "-l", "size=10m"], &[], &image);
    // The unmount record of mkfs becomes some other operation.
    let log = log_at(&image);
    patch::write(&image, log + 512 + 9, &[0]);
    let map = map_of(&image);
    let region = region(&map);
    assert_eq!(region.state, Some(State::Dirty), "{}", region.reason);
    assert_eq!(region.policy, Policy::CopyNonzero);
    assert!(region.reason.contains("version 4"), "{}", region.reason);
}

fn log_at(image: &Path) -> u64 {
    offline::log_at(image)
}
