//! Writes as servers do, at full speed, until its time is over or the power goes: files that grow
//! with and without fsync, renames over old ones, deletions, folder trees, truncation, a database
//! that overwrites its pages, holes, links, extended attributes.
//!
//! `powercut-writer FOLDER SEED SECONDS BUDGET-MIB`: three writers in three folders.

#![forbid(unsafe_code)]

use fastrand::Rng;
use rustix::fs::{FallocateFlags, XattrFlags, fallocate, setxattr, syncfs};
use std::fs::{self, File, OpenOptions};
use std::io::{Result, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

const WRITERS: u64 = 3;
const PAGE: u64 = 4096;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [folder, seed, seconds, mib] = words.as_slice() else {
        eprintln!("usage: powercut-writer FOLDER SEED SECONDS BUDGET-MIB");
        return ExitCode::from(2);
    };
    let (Ok(seed), Ok(seconds), Ok(mib)) =
        (seed.parse::<u64>(), seconds.parse(), mib.parse::<u64>())
    else {
        eprintln!("SEED, SECONDS and BUDGET-MIB are numbers");
        return ExitCode::from(2);
    };
    let end = Instant::now() + Duration::from_secs(seconds);
    let writers: Vec<_> = (0..WRITERS)
        .map(|number| {
            let folder = Path::new(folder).join(format!("writer{number}"));
            let budget = (mib << 20) / WRITERS;
            let rng = Rng::with_seed(seed.wrapping_mul(31).wrapping_add(number));
            std::thread::spawn(move || Writer::new(folder, rng, budget)?.write_until(end))
        })
        .collect();
    for writer in writers {
        match writer.join() {
            Ok(Ok(steps)) => println!("{folder}: {steps} steps"),
            Ok(Err(error)) => {
                eprintln!("{folder}: {error}");
                return ExitCode::FAILURE;
            }
            Err(_) => return ExitCode::FAILURE,
        }
    }
    ExitCode::SUCCESS
}

/// One writer: its folder and the files that are there.
struct Writer {
    folder: PathBuf,
    rng: Rng,
    files: Vec<PathBuf>,
    trees: Vec<PathBuf>,
    written: u64,
    budget: u64,
    number: u64,
}

impl Writer {
    fn new(folder: PathBuf, rng: Rng, budget: u64) -> Result<Self> {
        fs::create_dir_all(&folder)?;
        Ok(Self {
            folder,
            rng,
            files: Vec::new(),
            trees: Vec::new(),
            written: 0,
            budget,
            number: 0,
        })
    }

    fn write_until(mut self, end: Instant) -> Result<u64> {
        let mut steps = 0;
        while Instant::now() < end {
            // A full disk and a file that a step before removed are part of it.
            if self.step().is_err() || self.written > self.budget {
                self.make_room()?;
            }
            steps += 1;
        }
        Ok(steps)
    }

    fn step(&mut self) -> Result<()> {
        match self.rng.u32(0..100) {
            0..28 => self.create(),
            28..42 => self.append(),
            42..50 => self.replace(),
            50..58 => self.delete(),
            58..63 => self.tree(),
            63..66 => self.delete_tree(),
            66..74 => self.truncate(),
            74..88 => self.database(),
            88..92 => self.holes(),
            92..95 => self.links(),
            95..98 => self.attribute(),
            _ => {
                syncfs(File::open(&self.folder)?)?;
                Ok(())
            }
        }
    }

    /// Half of everything goes: what follows is written into the holes.
    fn make_room(&mut self) -> Result<()> {
        for index in (0..self.files.len()).rev().step_by(2) {
            // It may be gone with its folder.
            let _ = fs::remove_file(self.files.swap_remove(index));
        }
        self.written /= 2;
        if let Some(tree) = self.trees.pop() {
            fs::remove_dir_all(tree)?;
        }
        Ok(())
    }

    fn name(&mut self) -> PathBuf {
        self.number += 1;
        self.folder.join(format!("file-{:06}", self.number))
    }

    fn any(&mut self) -> Result<PathBuf> {
        let none = || std::io::Error::other("no file yet");
        self.rng.choice(&self.files).cloned().ok_or_else(none)
    }

    /// Bytes, most of the time few.
    fn bytes(&mut self) -> Vec<u8> {
        let limit = 1_usize << self.rng.u32(3..19);
        let mut bytes = vec![0; self.rng.usize(0..=limit)];
        self.rng.fill(&mut bytes);
        self.written += bytes.len() as u64;
        bytes
    }

    fn maybe_sync(&mut self, file: &File) -> Result<()> {
        match self.rng.u32(0..4) {
            0 => file.sync_all(),
            1 => file.sync_data(),
            _ => Ok(()),
        }
    }

    fn create(&mut self) -> Result<()> {
        let path = self.name();
        let bytes = self.bytes();
        let mut file = File::create(&path)?;
        file.write_all(&bytes)?;
        self.maybe_sync(&file)?;
        self.files.push(path);
        Ok(())
    }

    fn append(&mut self) -> Result<()> {
        let path = self.any()?;
        let bytes = self.bytes();
        let mut file = OpenOptions::new().append(true).open(path)?;
        file.write_all(&bytes)?;
        self.maybe_sync(&file)
    }

    /// A new version under another name, then renamed over the old one.
    fn replace(&mut self) -> Result<()> {
        let old = self.any()?;
        let new = old.with_extension("new");
        let bytes = self.bytes();
        let mut file = File::create(&new)?;
        file.write_all(&bytes)?;
        self.maybe_sync(&file)?;
        fs::rename(new, old)
    }

    fn delete(&mut self) -> Result<()> {
        if self.files.is_empty() {
            return Ok(());
        }
        let index = self.rng.usize(0..self.files.len());
        fs::remove_file(self.files.swap_remove(index))
    }

    fn tree(&mut self) -> Result<()> {
        let top = self.name().with_extension("d");
        let mut folder = top.clone();
        self.trees.push(top);
        for level in 0..self.rng.u32(1..6) {
            folder.push(format!("level-{level}"));
            fs::create_dir_all(&folder)?;
            for number in 0..self.rng.u32(0..12) {
                fs::write(folder.join(format!("{number:03}")), self.bytes())?;
            }
        }
        Ok(())
    }

    fn delete_tree(&mut self) -> Result<()> {
        if self.trees.is_empty() {
            return Ok(());
        }
        let index = self.rng.usize(0..self.trees.len());
        fs::remove_dir_all(self.trees.swap_remove(index))
    }

    fn truncate(&mut self) -> Result<()> {
        let path = self.any()?;
        let file = OpenOptions::new().write(true).open(path)?;
        let length = file.metadata()?.len();
        file.set_len(self.rng.u64(0..=length.saturating_mul(2)))?;
        self.maybe_sync(&file)
    }

    /// As a database does: a journal beside it, pages overwritten, synced, the journal away.
    fn database(&mut self) -> Result<()> {
        let path = self.folder.join("database");
        let journal = self.folder.join("database-journal");
        let mut page = vec![0; PAGE as usize];
        self.rng.fill(&mut page);
        let mut log = File::create(&journal)?;
        let pages: Vec<u64> = (0..self.rng.u64(1..8))
            .map(|_| self.rng.u64(0..512))
            .collect();
        for number in &pages {
            log.write_all(&number.to_le_bytes())?;
            log.write_all(&page)?;
        }
        log.sync_data()?;
        let database = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path)?;
        for number in &pages {
            database.write_all_at(&page, number * PAGE)?;
        }
        database.sync_data()?;
        fs::remove_file(journal)
    }

    /// Room that is allocated and not written, and holes in what was.
    fn holes(&mut self) -> Result<()> {
        let path = self.any()?;
        let mut file = OpenOptions::new().write(true).open(path)?;
        let length = file.seek(SeekFrom::End(0))?;
        let start = self.rng.u64(0..=length);
        let flags = if self.rng.bool() {
            FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE
        } else {
            FallocateFlags::KEEP_SIZE
        };
        fallocate(&file, flags, start, self.rng.u64(1..=128 << 10))?;
        self.maybe_sync(&file)
    }

    fn links(&mut self) -> Result<()> {
        let target = self.any()?;
        let name = self.name();
        if self.rng.bool() {
            fs::hard_link(target, &name)?;
        } else {
            std::os::unix::fs::symlink(target, &name)?;
        }
        self.files.push(name);
        Ok(())
    }

    fn attribute(&mut self) -> Result<()> {
        let path = self.any()?;
        let mut value = vec![0; self.rng.usize(1..2000)];
        self.rng.fill(&mut value);
        let name = format!("user.note{}", self.rng.u32(0..4));
        setxattr(path, name, &value, XattrFlags::empty())?;
        Ok(())
    }
}
