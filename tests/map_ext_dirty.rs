//! The proof for ext3/4 that were not shut down. This machine's kernel writes, deletes and renames
//! in a mounted filesystem; in between its backing file is copied, which is what a power cut leaves.
//! Three judges look at each of these cuts:
//!
//! - e2fsck replays the journal of a copy: block for block what our replay would have written;
//! - e2fsck, or the kernel, replays a copy in which every byte outside the map was overwritten: no
//!   error, and every file as in the untouched copy;
//! - dumpe2fs counts what is in use: the map is not larger.
//!
//! Needs root for mounting, as `map_support::mount` has it.

mod map_support;

use haulier::device::Disk;
use haulier::usedmap::{DiskMap, Policy, Region, RegionKind, State, ext};
use map_support::mount::Mounted;
use map_support::oracle::free_by_dumpe2fs;
use map_support::{Noise, arg, debugfs, digests, map_of, punch, run, soiled_file, try_run};
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

const MIB: u64 = 1 << 20;
const SIZE: u64 = 64 * MIB;
/// What every block of a journal begins with, and so what its data must not.
const MAGIC: [u8; 4] = [0xC0, 0x3B, 0x39, 0x98];

/// A mounted filesystem that is written to.
struct Busy {
    dir: TempDir,
    image: PathBuf,
    mounted: Mounted,
    noise: Noise,
    files: Vec<PathBuf>,
    number: u32,
}

impl Busy {
    fn start(mke2fs: &[&str], mount: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("disk.img");
        soiled_file(&image, SIZE, 0xEE);
        let mut args = vec!["-q", "-F", "-F"];
        args.extend(mke2fs);
        if !args.contains(&"-b") {
            args.extend(["-b", "4096"]);
        }
        // Small, so that the log wraps around.
        args.extend(["-J", "size=4"]);
        if !args.contains(&"-E") {
            args.extend(["-E", "nodiscard,lazy_itable_init=1"]);
        }
        args.push(arg(&image));
        run("mke2fs", &args);
        // Commits come from us alone: none may fall into a copy being made.
        let options = format!("commit=300,noinit_itable,{mount}");
        let mounted = Mounted::new(&image, &dir.path().join("mnt"), &options);
        Self {
            dir,
            image,
            mounted,
            noise: Noise(0x1234_5678_9ABC_DEF1),
            files: Vec::new(),
            number: 0,
        }
    }

    fn new_file(&mut self) {
        self.number += 1;
        let folder = self.mounted.path().join(format!("d{}", self.number % 5));
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join(format!("{:0>60}", self.number));
        let magnitude = self.noise.below(18);
        let len = self.noise.below(1 << magnitude) + 1;
        let mut bytes = self.noise.bytes(len);
        // Which has to be escaped where data is journalled.
        for block in bytes.chunks_mut(4096).filter(|block| block.len() >= 4) {
            block[..4].copy_from_slice(&MAGIC);
        }
        fs::write(&path, bytes).unwrap();
        self.files.push(path);
    }

    /// Changes of every sort, some of them synchronous.
    fn work(&mut self, changes: u32) {
        for _ in 0..changes {
            let victim = if self.files.is_empty() {
                None
            } else {
                let at = self.noise.below(self.files.len() as u64) as usize;
                Some(at)
            };
            match (self.noise.below(8), victim) {
                (0 | 1, Some(at)) => fs::remove_file(self.files.swap_remove(at)).unwrap(),
                (2, Some(at)) => {
                    let to = self.mounted.path().join(format!("renamed{}", self.number));
                    self.number += 1;
                    fs::rename(&self.files[at], &to).unwrap();
                    self.files[at] = to;
                }
                (3, Some(at)) => {
                    let len = self.noise.below(100_000);
                    let file = fs::OpenOptions::new()
                        .write(true)
                        .open(&self.files[at])
                        .unwrap();
                    file.set_len(len).unwrap();
                }
                (4, Some(at)) => {
                    let file = fs::OpenOptions::new()
                        .write(true)
                        .open(&self.files[at])
                        .unwrap();
                    let at = self.noise.below(50_000);
                    file.write_all_at(&self.noise.bytes(3000), at).unwrap();
                    file.sync_all().unwrap();
                }
                (5, _) if self.number.is_multiple_of(3) => {
                    // Folders have blocks of metadata: freeing them revokes.
                    let folder = self.mounted.path().join("large");
                    fs::create_dir_all(&folder).unwrap();
                    for n in 0..120 {
                        fs::write(folder.join(format!("{n:0>200}")), b"").unwrap();
                    }
                    fs::File::open(&folder).unwrap().sync_all().unwrap();
                    fs::remove_dir_all(&folder).unwrap();
                }
                _ => self.new_file(),
            }
        }
        let used = self.files.len();
        if used > 250 {
            for path in self.files.drain(100..) {
                fs::remove_file(path).unwrap();
            }
        }
    }

    /// What a power cut leaves now.
    fn cut(&self, number: u32) -> PathBuf {
        let to = self.dir.path().join(format!("cut{number}.img"));
        fs::copy(&self.image, &to).unwrap();
        to
    }

    fn commit(&self) {
        run("sync", &["-f", arg(self.mounted.path())]);
    }

    fn fsync_something(&mut self) {
        self.new_file();
        fs::File::open(self.files.last().unwrap())
            .unwrap()
            .sync_all()
            .unwrap();
    }
}

fn filesystem(map: &DiskMap) -> &Region {
    map.regions
        .iter()
        .find(|region| region.kind == RegionKind::Filesystem)
        .expect("the filesystem was not recognised")
}

fn copy(of: &Path, name: &str) -> PathBuf {
    let to = of.with_extension(name);
    fs::copy(of, &to).unwrap();
    to
}

/// What our replay would write, written.
fn replayed_by_us(cut: &Path) -> Result<(PathBuf, u32), String> {
    let ours = copy(cut, "ours");
    let file = fs::OpenOptions::new().write(true).open(&ours).unwrap();
    let disk = Disk::open(cut).unwrap();
    let mut blocks = 0;
    ext::replay_journal(&disk, &mut |at, bytes| {
        blocks += 1;
        file.write_all_at(bytes, at.0).unwrap();
    })?;
    Ok((ours, blocks))
}

/// Which e2fsck calls correct: nothing to do, or corrected.
fn replayed_by_e2fsck(cut: &Path) -> Option<PathBuf> {
    let theirs = copy(cut, "theirs");
    let output = try_run("e2fsck", &["-y", "-E", "journal_only", arg(&theirs)]);
    matches!(output.status.code(), Some(0 | 1)).then_some(theirs)
}

/// Both are the same, but for superblocks: those of the filesystem and of the journal. With meta_bg
/// e2fsck also copies the descriptors (block 1 here) to where their second and third copy are.
fn assert_same(ours: &Path, theirs: &Path, what: &str) {
    let (ours, theirs) = (fs::read(ours).unwrap(), fs::read(theirs).unwrap());
    assert_eq!(ours.len(), theirs.len());
    for (nth, (a, b)) in ours.chunks(1024).zip(theirs.chunks(1024)).enumerate() {
        let superblock = |block: &[u8]| {
            block[0x38..0x3A] == [0x53, 0xEF] || (block.starts_with(&MAGIC) && block[7] == 4)
        };
        let descriptors = 4 + nth % 4;
        let copied = what.starts_with("meta_bg") && theirs[descriptors * 1024..].starts_with(b);
        let differing = (0..a.len()).find(|at| a[*at] != b[*at]).unwrap_or(0);
        let near = differing & !31..(differing & !31) + 32;
        assert!(
            a == b || copied || (superblock(a) && superblock(b)),
            "{what}: KiB {nth} is not what e2fsck replays: from byte {differing} on {:02x?} instead of {:02x?}",
            &a[near.clone()],
            &b[near]
        );
    }
}

fn assert_clean(image: &Path, what: &str) {
    let output = try_run("e2fsck", &["-fn", arg(image)]);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && !said.contains("WARNING"),
        "{what}: {said}"
    );
}

fn repair(image: &Path, what: &str) {
    let output = try_run("e2fsck", &["-fy", arg(image)]);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        matches!(output.status.code(), Some(0 | 1)),
        "{what}: e2fsck {}: {said}",
        output.status
    );
}

#[derive(Clone, Copy, PartialEq)]
enum Judge {
    Kernel,
    E2fsck,
}

/// A cut is mapped, and the copy is as good as the source.
fn survives(cut: &Path, mount: &str, judge: Judge, what: &str) {
    let map = map_of(cut);
    let region = filesystem(&map);
    assert_eq!(
        region.policy,
        Policy::UsedBlocks,
        "{what}: {}",
        region.reason
    );
    assert_eq!(region.state, Some(State::Dirty), "{what}");
    assert!(
        region.reason.starts_with("it was not shut down"),
        "{}",
        region.reason
    );

    let (ours, blocks) = replayed_by_us(cut).unwrap();
    let theirs = replayed_by_e2fsck(cut).expect("e2fsck replays what we replay");
    assert_same(&ours, &theirs, what);

    let whole = copy(cut, "whole");
    let punched = copy(cut, "punched");
    punch(&punched, &map.extents);
    let mnt = cut.with_extension("mnt");
    let read = |image: &Path, options: &str| {
        let mounted = Mounted::new(image, &mnt, options);
        let files = digests(mounted.path());
        mounted.unmount();
        files
    };
    let (before, after) = match judge {
        Judge::Kernel => (read(&whole, mount), read(&punched, mount)),
        Judge::E2fsck => {
            repair(&whole, what);
            repair(&punched, what);
            (read(&whole, "ro"), read(&punched, "ro"))
        }
    };
    assert_clean(&whole, &format!("{what}, untouched"));
    assert_clean(
        &punched,
        &format!("{what}, everything outside the map overwritten"),
    );
    assert!(before.len() > 3, "{what}: only {} files", before.len());
    assert!(before == after, "{what}: files differ");

    let free = free_by_dumpe2fs(&whole);
    let free_before = free_by_dumpe2fs(cut);
    let used = SIZE - free.total().0;
    let used_in_either = SIZE - free.intersect(&free_before).total().0;
    println!(
        "| {what} | {blocks} | {} | {used} | {used_in_either} | {:.4} |",
        map.used_bytes,
        map.used_bytes as f64 / used as f64
    );
    assert!(map.used_bytes * 100 <= used_in_either * 101, "{what}");
    for file in [ours, theirs, whole, punched] {
        fs::remove_file(file).unwrap();
    }
}

/// Several cuts of one filesystem.
fn cuts_survive(what: &str, mke2fs: &[&str], mount: &str) {
    let mut busy = Busy::start(mke2fs, mount);
    let mut cuts = Vec::new();
    for number in 0..4 {
        busy.work(90);
        match number % 3 {
            0 => busy.fsync_something(),
            1 => busy.commit(),
            // What is in memory alone is lost.
            _ => {}
        }
        cuts.push(busy.cut(number));
    }
    let journal = run("dumpe2fs", &["-h", arg(&cuts[3])]);
    println!(
        "{what}: {}",
        journal
            .lines()
            .filter(|l| l.contains("ournal"))
            .collect::<Vec<_>>()
            .join("; ")
    );
    for (number, cut) in cuts.iter().enumerate() {
        let judge = if number % 2 == 0 {
            Judge::E2fsck
        } else {
            Judge::Kernel
        };
        survives(cut, mount, judge, &format!("{what} {number}"));
        fs::remove_file(cut).unwrap();
    }
}

macro_rules! cuts {
    ($($name:ident: $mke2fs:expr, $mount:expr;)*) => {
        mod cut {
            $(
                #[test]
                fn $name() {
                    super::cuts_survive(stringify!($name), &$mke2fs, $mount);
                }
            )*
        }
    };
}

cuts! {
    ext4: ["-t", "ext4"], "";
    journalled_data: ["-t", "ext4"], "data=journal";
    journalled_data_blocks_of_1_kib: ["-t", "ext4", "-b", "1024"], "data=journal";
    writeback: ["-t", "ext4"], "data=writeback";
    blocks_of_1_kib: ["-t", "ext4", "-b", "1024"], "";
    many_groups: ["-t", "ext4", "-g", "1024", "-O", "^flex_bg"], "";
    meta_bg: ["-t", "ext4", "-g", "256", "-O", "meta_bg,^resize_inode"], "";
    bigalloc: ["-t", "ext4", "-O", "bigalloc", "-C", "16384"], "";
    no_64bit_no_checksums: ["-t", "ext4", "-O", "^64bit,^metadata_csum,^uninit_bg"], "";
    uninit_bg: ["-t", "ext4", "-O", "^metadata_csum,uninit_bg", "-g", "2048"], "";
    transaction_checksums: ["-t", "ext4", "-O", "^metadata_csum"], "journal_checksum";
    async_commit: ["-t", "ext4"], "journal_async_commit,data=writeback";
    async_commit_transaction_checksums:
        ["-t", "ext4", "-O", "^metadata_csum"], "journal_async_commit,data=writeback";
    ext3: ["-t", "ext3"], "";
    ext3_blocks_of_1_kib: ["-t", "ext3", "-b", "1024"], "data=journal";
    // mke2fs 1.47.0 cannot make one over an inode table that it has not zeroed.
    orphan_file: ["-t", "ext4", "-O", "orphan_file", "-E", "nodiscard,lazy_itable_init=0"], "";
}

fn refused(image: &Path, state: State, words: &str) {
    let map = map_of(image);
    let region = filesystem(&map);
    assert_eq!(region.policy, Policy::CopyNonzero, "{}", region.reason);
    assert_eq!(region.state, Some(state), "{}", region.reason);
    assert!(region.reason.contains(words), "{}", region.reason);
    assert_eq!(map.used_bytes, map.disk.size_bytes);
}

/// Fast commits say what to do to inodes, which only the kernel can: refused while there are any,
/// mapped once a full commit has made them old.
#[test]
fn fast_commits() {
    let mut busy = Busy::start(&["-t", "ext4", "-O", "fast_commit"], "");
    // Some changes are too large for a fast commit: only the last one here is sure to be one.
    busy.new_file();
    busy.commit();
    busy.fsync_something();
    let fast = busy.cut(0);
    refused(&fast, State::Dirty, "fast commits");
    for _ in 0..6 {
        busy.new_file();
    }
    busy.commit();
    let full = busy.cut(1);
    survives(&full, "", Judge::Kernel, "fast_commit, full commit");
}

/// A small filesystem whose journal debugfs has written: another writer than the kernel, and the
/// only one of checksums of version 2.
struct Crafted {
    dir: TempDir,
    image: PathBuf,
}

impl Crafted {
    fn new(mke2fs: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("disk.img");
        soiled_file(&image, 24 * MIB, 0);
        let mut args = vec!["-q", "-F", "-F", "-b", "1024", "-J", "size=1"];
        args.extend(mke2fs);
        args.push(arg(&image));
        run("mke2fs", &args);
        Self { dir, image }
    }

    /// `count` blocks of noise, every third of which has to be escaped.
    fn data(&self, name: &str, seed: u64, count: u64) -> String {
        let mut bytes = Noise(seed).bytes(count * 1024);
        for block in bytes.chunks_mut(1024).step_by(3) {
            block[..4].copy_from_slice(&MAGIC);
        }
        let path = self.dir.path().join(name);
        fs::write(&path, bytes).unwrap();
        arg(&path).into()
    }

    /// Three transactions: blocks, some of them revoked, some written again, two hundred in two
    /// descriptors.
    fn write(&self, open: &str) {
        let list = |range: std::ops::Range<u64>| {
            range.map(|n| n.to_string()).collect::<Vec<_>>().join(",")
        };
        let few = self.data("few", 0xABCD, 12);
        let again = self.data("again", 0x1357, 4);
        let many = self.data("many", 0x2468, 200);
        debugfs(
            &self.image,
            self.dir.path(),
            &[
                open.into(),
                format!("journal_write -b {} {few}", list(20_000..20_012)),
                format!("journal_write -r {}", list(20_002..20_008)),
                format!("journal_write -b {} {again}", list(20_004..20_008)),
                format!("journal_write -b {} {many}", list(21_000..21_200)),
                format!("journal_write -r {}", list(21_050..21_060)),
                "journal_close".into(),
            ],
        );
    }

    fn same_as_e2fsck(&self, what: &str, expected: u32) {
        let (ours, blocks) = replayed_by_us(&self.image).unwrap();
        assert_eq!(blocks, expected, "{what}");
        let theirs = replayed_by_e2fsck(&self.image).expect("e2fsck replays it");
        assert_same(&ours, &theirs, what);
    }
}

#[test]
fn journals_that_debugfs_wrote() {
    // Without metadata_csum debugfs makes checksums of version 1, whatever it is asked for; what it
    // sums over a transaction is not what e2fsck sums. The kernel's own are in
    // `transaction_checksums`.
    // 12 blocks, of which two stay revoked, and 200, of which ten are.
    const ALL: u32 = 200;
    for (features, open, blocks) in [
        ("^metadata_csum,64bit", "journal_open", ALL),
        ("^metadata_csum,^64bit", "journal_open", ALL),
        ("metadata_csum,64bit", "journal_open -c -v 2", ALL),
        ("metadata_csum,64bit", "journal_open -c -v 3", ALL),
        // Here debugfs writes the last transaction over the commit block of the one before it: the
        // log ends with the 10 blocks of the others.
        ("metadata_csum,^64bit", "journal_open -c -v 2", 10),
        ("metadata_csum,^64bit", "journal_open -c -v 3", ALL),
    ] {
        let crafted = Crafted::new(&["-t", "ext4", "-O", features]);
        crafted.write(open);
        crafted.same_as_e2fsck(&format!("{features} {open}"), blocks);
    }
    let ext3 = Crafted::new(&["-t", "ext3"]);
    ext3.write("journal_open");
    ext3.same_as_e2fsck("ext3", ALL);
}

/// Bytes of a journal are changed at random: whenever we map, e2fsck replays the same; whatever
/// e2fsck cannot replay is refused.
#[test]
fn a_damaged_journal_is_refused_or_read_as_e2fsck_reads_it() {
    let mut mapped = 0;
    let mut told_apart = 0;
    for (features, open) in [
        ("metadata_csum,64bit", "journal_open -c -v 3"),
        ("^metadata_csum,^64bit", "journal_open"),
    ] {
        let crafted = Crafted::new(&["-t", "ext4", "-O", features]);
        crafted.write(open);
        let blocks: Vec<u64> = run("debugfs", &["-R", "blocks <8>", arg(&crafted.image)])
            .split_whitespace()
            .map(|number| number.parse().unwrap())
            .collect();
        let mut noise = Noise(0xFEED_F00D);
        for round in 0..24 {
            let hurt = copy(&crafted.image, "hurt");
            let file = fs::OpenOptions::new()
                .read(true)
                .write(true)
                .open(&hurt)
                .unwrap();
            // The superblock and what was written behind it.
            let block = blocks[noise.below(230) as usize] * 1024;
            match round % 4 {
                // A write that did not reach the disk.
                0 => file.write_all_at(&[0; 1024], block).unwrap(),
                // One that did in part.
                1 => file.write_all_at(&noise.bytes(512), block + 512).unwrap(),
                _ => {
                    let at = block + noise.below(64);
                    file.write_all_at(&noise.bytes(1), at).unwrap();
                }
            }
            let Ok((ours, _)) = replayed_by_us(&hurt) else {
                told_apart += 1;
                continue;
            };
            mapped += 1;
            let theirs = replayed_by_e2fsck(&hurt)
                .unwrap_or_else(|| panic!("{features} {round}: e2fsck cannot replay it"));
            assert_same(&ours, &theirs, &format!("{features} {round}"));
        }
    }
    println!("{mapped} damaged journals read as e2fsck reads them, {told_apart} refused");
    assert!(mapped > 5 && told_apart > 5);
}

/// Each of these is a sound dirty filesystem with one thing changed.
#[test]
fn refusals() {
    let mut busy = Busy::start(&["-t", "ext4"], "");
    busy.work(30);
    busy.fsync_something();
    let cut = busy.cut(0);
    drop(busy.mounted);
    assert_eq!(filesystem(&map_of(&cut)).policy, Policy::UsedBlocks);
    let journal = run("debugfs", &["-R", "blocks <8>", arg(&cut)]);
    let journal = journal
        .split_whitespace()
        .next()
        .unwrap()
        .parse::<u64>()
        .unwrap()
        * 4096;
    let with = |commands: &[&str], at: u64, bytes: &[u8]| {
        let changed = copy(&cut, "changed");
        let commands: Vec<String> = commands.iter().map(|c| (*c).into()).collect();
        if !commands.is_empty() {
            debugfs(&changed, busy.dir.path(), &commands);
        }
        let file = fs::OpenOptions::new().write(true).open(&changed).unwrap();
        file.write_all_at(bytes, at).unwrap();
        changed
    };
    let errors = with(&["set_super_value state 2"], 0, &[]);
    refused(&errors, State::Dirty, "recorded errors");
    let flag = with(&["feature -needs_recovery"], 0, &[]);
    refused(
        &flag,
        State::Damaged,
        "its superblock says that it was shut down",
    );
    let unknown = with(&[], journal + 0x28, &[0x80]);
    refused(&unknown, State::Unsupported, "its journal uses features");
    let checksum = with(&[], journal + 0x40, &[0x80]);
    refused(
        &checksum,
        State::Damaged,
        "superblock that does not match its checksum",
    );
    let gone = with(&[], journal, &[0; 4]);
    refused(&gone, State::Damaged, "has no superblock");
    let no_file = with(&["clri <8>"], 0, &[]);
    refused(&no_file, State::Damaged, "is not a regular file");
    let elsewhere = with(
        &[
            "set_super_value journal_inum 0",
            "set_super_value journal_dev 0x700",
        ],
        0,
        &[],
    );
    refused(&elsewhere, State::Dirty, "on another disk (UUID");
    let none = with(&["feature -has_journal"], 0, &[]);
    refused(&none, State::Damaged, "a journal that it does not have");
}
