//! The disk of the bench: 16 GiB, GPT, one ext4 with this machine's own programs and libraries in
//! it, some of them many times, and files that cannot be compressed. 36 % of the disk is live
//! afterwards, 27 % was written and deleted, the rest was never written.

use crate::say;
use anyhow::{Context, Result};
use haulier_testbed::command::{run, tool};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

const DISK_BYTES: u64 = 16 << 30;
/// The partition's start, in bytes.
const START: u64 = 1 << 20;
/// 36 % and 27 % of the disk.
const LIVE: u64 = DISK_BYTES / 100 * 36;
const DELETED: u64 = DISK_BYTES / 100 * 27;
/// Folders of this machine's that are copied.
const FROM: [&str; 3] = ["/usr/bin", "/usr/lib", "/usr/share"];
/// One byte in so many is noise, as photographs and archives are, in files of so many bytes.
const NOISE_EVERY: u64 = 8;
const NOISE_BYTES: u64 = 8 << 20;
/// What the tools, and the machine, need of memory besides.
const MEMORY_LEFT: u64 = 5 << 30;
/// Changes when the recipe does.
const RECIPE: u32 = 2;

/// The disk; made if it is not there.
pub(super) fn disk(folder: &Path) -> Result<PathBuf> {
    let disk = folder.join(format!("source-{RECIPE}.img"));
    if disk.exists() {
        return Ok(disk);
    }
    say("Making the disk of the bench: 16 GiB, some minutes");
    let making = folder.join("making.img");
    let file = fs::File::create(&making)?;
    file.set_len(DISK_BYTES)?;
    drop(file);
    let image = making.to_str().context("a path that is not UTF-8")?;
    run(tool("sgdisk").args(["--new=1:2048:0", "--typecode=1:8300", image]))?;
    let blocks = (DISK_BYTES - 2 * START) / 4096;
    run(tool("mke2fs")
        .args(["-q", "-t", "ext4", "-F", "-b", "4096", "-E"])
        .arg(format!("offset={START},lazy_itable_init=0,nodiscard"))
        .args([image, &blocks.to_string()]))?;
    let mount = folder.join("mount");
    fs::create_dir_all(&mount)?;
    run(tool("mount")
        .arg("-o")
        .arg(format!("loop,offset={START}"))
        .arg(&making)
        .arg(&mount))?;
    let filled = fill(&mount);
    run(tool("umount").arg(&mount))?;
    filled?;
    fs::rename(&making, &disk)?;
    Ok(disk)
}

/// A filesystem in memory, until it is dropped.
pub(super) struct Memory(PathBuf);

impl Memory {
    /// The disk.
    pub(super) fn disk(&self) -> PathBuf {
        self.0.join("disk")
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

/// A copy of the disk in memory, so that it does not share a bottleneck with the store; nothing where
/// there is not enough of it. In large pages: what is read is copied by the processor, which a disk
/// does itself, and small ones cost half as much again.
pub(super) fn in_memory(disk: &Path) -> Result<Option<Memory>> {
    let blocks = disk.metadata()?.blocks() * 512;
    let available = fs::read_to_string("/proc/meminfo")?
        .lines()
        .find_map(|line| {
            line.strip_prefix("MemAvailable:")?
                .trim()
                .strip_suffix(" kB")?
                .parse()
                .ok()
        })
        .map_or(0, |kib: u64| kib << 10);
    if available < blocks + MEMORY_LEFT {
        say("The disk of the bench is on the same medium as the store: there is no memory for it");
        return Ok(None);
    }
    say("The disk of the bench is in memory");
    let folder = disk.with_extension("memory");
    fs::create_dir_all(&folder)?;
    run(tool("mount")
        .args(["-t", "tmpfs", "-o"])
        .arg(format!("huge=always,size={}", blocks + (64 << 20)))
        .arg("haulier-bench")
        .arg(&folder))?;
    let memory = Memory(folder);
    run(tool("cp")
        .arg("--sparse=always")
        .arg(disk)
        .arg(memory.disk()))?;
    Ok(Some(memory))
}

/// Copies until live and deleted data are there, then deletes what is to be deleted: every file by
/// turns, so that live and free blocks lie among each other.
fn fill(mount: &Path) -> Result<()> {
    let mut files: Vec<(PathBuf, u64)> = Vec::new();
    let mut total = 0_u64;
    let noise = fs::File::open("/dev/urandom")?;
    let mut made = 0_u64;
    'copies: for copy in 0.. {
        for from in FROM {
            for source in tree(Path::new(from))? {
                if total >= LIVE + DELETED {
                    break 'copies;
                }
                let number = files.len();
                let place = mount.join(format!("{copy}/{}", number % 97));
                fs::create_dir_all(&place)?;
                let place = place.join(number.to_string());
                let bytes = if total / NOISE_EVERY >= made {
                    let mut some = std::io::Read::take(&noise, NOISE_BYTES);
                    made += NOISE_BYTES;
                    std::io::copy(&mut some, &mut fs::File::create(&place)?)?
                } else {
                    fs::copy(&source, &place)?
                };
                total += bytes;
                files.push((place, bytes));
            }
        }
    }
    run(&mut tool("sync"))?;
    let (mut passed, mut deleted) = (0_u64, 0_u64);
    for (path, bytes) in files {
        passed += bytes;
        if deleted < passed / 63 * 27 {
            fs::remove_file(path)?;
            deleted += bytes;
        }
    }
    Ok(())
}

/// The ordinary files below `folder`, in a fixed order.
fn tree(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut entries = fs::read_dir(folder)
        .with_context(|| format!("listing {}", folder.display()))?
        .collect::<Result<Vec<_>, _>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let kind = entry.file_type()?;
        if kind.is_dir() {
            files.extend(tree(&entry.path())?);
        } else if kind.is_file() {
            files.push(entry.path());
        }
    }
    Ok(files)
}
