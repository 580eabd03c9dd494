//! What the tests of maps share: running the oracles, filling filesystems, punching holes.

#![allow(dead_code, unreachable_pub)]

pub mod hive;
pub mod lvm;
pub mod mount;
pub mod oracle;
pub mod proof;
pub mod ratios;
pub mod sparse;
pub mod uml;

use haulier::device::Disk;
use haulier::extent::ExtentList;
use haulier::usedmap::{DiskInfo, DiskMap};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Runs a tool that must exist, with fixed language, and returns what it did.
pub fn try_run(tool: &str, args: &[&str]) -> Output {
    let path = std::env::var("PATH").unwrap_or_default();
    let output = Command::new(tool)
        .args(args)
        .env("PATH", format!("{path}:/usr/sbin:/sbin"))
        .env("LC_ALL", "C")
        .stdin(std::process::Stdio::null())
        .output();
    match output {
        Ok(output) => output,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            panic!("this test needs the program {tool}, which is not installed")
        }
        Err(error) => panic!("running {tool}: {error}"),
    }
}

/// Runs a tool that must succeed, and returns its standard output.
pub fn run(tool: &str, args: &[&str]) -> String {
    let output = try_run(tool, args);
    assert!(
        output.status.success(),
        "{tool} {args:?} ended with {}:\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A path as a tool's argument.
pub fn arg(path: &Path) -> &str {
    path.to_str().expect("temporary paths are UTF-8")
}

/// Numbers that look random and are the same in every run (xorshift64).
pub struct Noise(pub u64);

impl Noise {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub fn bytes(&mut self, len: u64) -> Vec<u8> {
        let mut bytes: Vec<u8> = (0..len.div_ceil(8))
            .flat_map(|_| self.next().to_le_bytes())
            .collect();
        bytes.truncate(usize::try_from(len).unwrap());
        bytes
    }
}

/// Makes a file of `size` bytes that are all `byte`: what a used disk looks like to mkfs.
pub fn soiled_file(path: &Path, size: u64, byte: u8) {
    let file = fs::File::create(path).unwrap();
    fill(&file, 0, size, byte);
}

/// Overwrites a run with one byte.
pub fn fill(file: &fs::File, start: u64, end: u64, byte: u8) {
    let buffer = vec![byte; 1 << 20];
    let mut at = start;
    while at < end {
        let len = (end - at).min(1 << 20);
        file.write_all_at(&buffer[..usize::try_from(len).unwrap()], at)
            .unwrap();
        at += len;
    }
}

/// The map of an image file.
pub fn map_of(image: &Path) -> DiskMap {
    let disk = Disk::open(image).unwrap();
    DiskMap::of(&disk, DiskInfo::from(disk.identity())).unwrap()
}

/// Overwrites every byte that is not in the map.
pub fn punch(image: &Path, kept: &ExtentList) {
    let file = fs::OpenOptions::new().write(true).open(image).unwrap();
    let size = file.metadata().unwrap().len();
    let whole: ExtentList = haulier::extent::Extent::between(0, size)
        .into_iter()
        .collect();
    let mut punched = 0;
    for hole in whole.subtract(kept).iter() {
        fill(&file, hole.start().0, hole.end(), 0xA5);
        punched += hole.len().0;
    }
    assert!(
        punched > size / 4,
        "only {punched} of {size} bytes were free to punch: proves nothing"
    );
}

/// SHA-256 of every file below `dir`, by its path.
pub fn digests(dir: &Path) -> BTreeMap<PathBuf, String> {
    let mut all = BTreeMap::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(here) = dirs.pop() {
        for entry in fs::read_dir(&here).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_dir() {
                dirs.push(entry.path());
            } else {
                let digest = Sha256::digest(fs::read(entry.path()).unwrap());
                let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
                let name = entry.path().strip_prefix(dir).unwrap().to_owned();
                all.insert(name, digest);
            }
        }
    }
    all
}

/// A tree of files of many sizes, for `mke2fs -d`.
pub fn make_tree(dir: &Path, noise: &mut Noise, bytes: u64) {
    let mut left = bytes;
    let mut number = 0;
    while left > 0 {
        let folder = dir.join(format!("d{}", number % 7));
        fs::create_dir_all(&folder).unwrap();
        // From nothing (inline) to a few megabytes, most of them small.
        let len = (1_u64 << noise.below(22)).min(left);
        let len = noise.below(len + 1).max(len.min(40));
        fs::write(folder.join(format!("f{number}")), noise.bytes(len)).unwrap();
        left = left.saturating_sub(len.max(1));
        number += 1;
    }
}

/// Runs a list of debugfs commands, which must all succeed.
pub fn debugfs(image: &Path, scratch: &Path, commands: &[String]) {
    let script = scratch.join("debugfs.commands");
    fs::write(&script, commands.join("\n") + "\n").unwrap();
    let output = try_run("debugfs", &["-w", "-f", arg(&script), arg(image)]);
    let errors: Vec<_> = String::from_utf8_lossy(&output.stderr)
        .lines()
        .filter(|line| !line.starts_with("debugfs "))
        .map(str::to_owned)
        .collect();
    assert!(
        output.status.success() && errors.is_empty(),
        "debugfs: {errors:#?}"
    );
}
