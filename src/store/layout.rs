//! Where a capture lies, and how it becomes whole: `<store>/<machine>/<capture>.partial/` until
//! everything is on the medium; the rename is the commit. A directory without `.partial` is whole,
//! and no file in it is ever changed.

use super::digest::Digest;
use super::files::{CaptureFiles, DirFiles};
use super::manifest::{DiskRecord, FileRecord, MANIFEST, Manifest, SUMS};
use crate::error::{Error, Result};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use rustix::fs::RenameFlags;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

/// The inventory.
pub const MACHINE: &str = "machine.json";
/// The libvirt domain.
pub const DOMAIN: &str = "domain.xml";
/// What lay in the sectors that could not be read; only where there are any.
pub const LOSSES: &str = "losses.json";
/// What was taken and what was not, for people.
pub const PAGE: &str = "report.html";
/// What was said while capturing.
pub const LOG: &str = "capture.log";
/// Ends the name of a capture that is not whole.
pub const PARTIAL: &str = ".partial";
/// Ends the name of the directory beside it that says how to go on with it.
pub const JOURNAL: &str = ".journal";

/// The longest machine name, so that the path stays short enough for every filesystem and screen.
const NAME_MAX: usize = 64;

/// The image of the disk with this number.
pub fn disk_file(number: usize) -> String {
    format!("disk-{number}.qcow2")
}

/// What was read of the disk with this number, for ddrescue; only where not all of it could be.
pub fn rescue_map_file(number: usize) -> String {
    format!("disk-{number}.map")
}

/// What people call the machine, as the name of a directory: letters, digits, `.`, `_` and `-`
/// stay, all else becomes `-`. `None` if nothing stays.
pub fn sanitise(name: &str) -> Option<String> {
    let mut clean = String::new();
    for c in name.chars() {
        let kept = c.is_ascii_alphanumeric() || matches!(c, '.' | '_');
        match (kept, clean.ends_with('-')) {
            (true, _) => clean.push(c),
            (false, false) => clean.push('-'),
            (false, true) => {}
        }
    }
    let clean: String = clean
        .trim_matches(['-', '.'])
        .chars()
        .take(NAME_MAX)
        .collect();
    let clean = clean.trim_end_matches(['-', '.']);
    let clean = clean.strip_suffix(PARTIAL).unwrap_or(clean);
    (!clean.is_empty()).then(|| clean.to_owned())
}

/// The journal of the image of the disk with this number.
fn journal_file(number: usize) -> String {
    format!("disk-{number}.journal")
}

/// Which part of a capture on several media it is; in the journal.
const PART: &str = "part.json";

/// The record of a disk whose image is finished.
fn record_file(number: usize) -> String {
    format!("disk-{number}.json")
}

/// A capture that is being written.
#[derive(Debug)]
#[must_use = "without commit() the capture stays partial"]
pub struct CaptureDir {
    partial: PathBuf,
    /// Beside it; gone with the commit.
    journal: PathBuf,
    /// The directory of the machine.
    parent: PathBuf,
    /// The name once it is whole.
    name: String,
    machine: String,
}

impl CaptureDir {
    /// Makes `<store>/<machine>/<time>.partial/`. When there is a capture of the same second
    /// already, a number is added.
    ///
    /// # Errors
    /// When the store does not exist or cannot be written.
    pub fn begin(store: &Path, machine: &str, started: Timestamp) -> Result<Self> {
        if !store.is_dir() {
            return Err(
                Error::refused(format!("{} is not a directory", store.display()))
                    .advise("Name an existing directory to put captures in"),
            );
        }
        let machine = sanitise(machine)
            .ok_or_else(|| Error::refused(format!("{machine:?} cannot name a machine")))?;
        let parent = store.join(&machine);
        let making = |path: &Path, e| Error::io(format!("making {}", path.display()), e);
        match fs::create_dir(&parent) {
            Ok(()) => sync_dir(store)?,
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(making(&parent, e)),
        }
        remove_stale_journals(&parent);
        let time = started
            .to_zoned(TimeZone::UTC)
            .strftime("%Y-%m-%dT%H%M%SZ")
            .to_string();
        for attempt in 1.. {
            let name = match attempt {
                1 => time.clone(),
                n => format!("{time}-{n}"),
            };
            if parent.join(&name).exists() {
                continue;
            }
            let partial = parent.join(format!("{name}{PARTIAL}"));
            match fs::create_dir(&partial) {
                Ok(()) => {
                    let journal = parent.join(format!("{name}{JOURNAL}"));
                    fs::create_dir(&journal).map_err(|e| making(&journal, e))?;
                    sync_dir(&parent)?;
                    return Ok(Self {
                        partial,
                        journal,
                        parent,
                        name,
                        machine,
                    });
                }
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(making(&partial, e)),
            }
        }
        unreachable!("the attempts do not end")
    }

    /// The last capture of a machine in a store that was interrupted and can be gone on with.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn interrupted(store: &Path, machine: &str) -> Result<Option<Self>> {
        let Some(machine) = sanitise(machine) else {
            return Ok(None);
        };
        let parent = store.join(&machine);
        if !parent.is_dir() {
            return Ok(None);
        }
        let mut names: Vec<String> = DirFiles::new(&parent)
            .list()?
            .into_iter()
            .filter(|entry| entry.is_dir)
            .filter_map(|entry| entry.name.strip_suffix(PARTIAL).map(str::to_owned))
            .filter(|name| parent.join(format!("{name}{JOURNAL}")).is_dir())
            .collect();
        names.sort();
        Ok(names.pop().map(|name| Self {
            partial: parent.join(format!("{name}{PARTIAL}")),
            journal: parent.join(format!("{name}{JOURNAL}")),
            parent,
            name,
            machine,
        }))
    }

    /// The journal of the image of the disk with this number.
    pub fn journal(&self, number: usize) -> PathBuf {
        self.journal.join(journal_file(number))
    }

    /// The record of a disk whose image is finished.
    ///
    /// # Errors
    /// When it is there and cannot be read.
    pub fn record(&self, number: usize) -> Result<Option<DiskRecord>> {
        let path = self.journal.join(record_file(number));
        match fs::read(&path) {
            Ok(json) => Ok(serde_json::from_slice(&json).ok()),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::io(format!("reading {}", path.display()), e)),
        }
    }

    /// Keeps the record of a disk whose image is finished.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn keep_record(&self, number: usize, record: &DiskRecord) -> Result<()> {
        let path = self.journal.join(record_file(number));
        let json = serde_json::to_vec(record)
            .map_err(|e| Error::corrupt("writing the record of a disk").because(e))?;
        // Cut short, it is not JSON, and counts for nothing.
        File::create(&path)
            .and_then(|mut file| file.write_all(&json).and_then(|()| file.sync_all()))
            .map_err(|e| Error::io(format!("writing {}", path.display()), e))
    }

    /// Forgets the record of a disk.
    ///
    /// # Errors
    /// When it is there and cannot be removed.
    pub fn forget_record(&self, number: usize) -> Result<()> {
        let path = self.journal.join(record_file(number));
        match fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::io(format!("removing {}", path.display()), e))
            }
            _ => Ok(()),
        }
    }

    /// What was kept with [`Self::keep_part`]; nothing of a capture that is no part.
    ///
    /// # Errors
    /// When it is there and cannot be read.
    pub fn part<T: serde::de::DeserializeOwned>(&self) -> Result<Option<T>> {
        let path = self.journal.join(PART);
        match fs::read(&path) {
            Ok(json) => serde_json::from_slice(&json)
                .map(Some)
                .map_err(|e| Error::corrupt(format!("reading {}", path.display())).because(e)),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::io(format!("reading {}", path.display()), e)),
        }
    }

    /// Keeps what came before this part, before anything else of it is written.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn keep_part(&self, part: &impl serde::Serialize) -> Result<()> {
        let json = serde_json::to_vec(part)
            .map_err(|e| Error::corrupt("writing what came before a part").because(e))?;
        // Under its name only when it is whole.
        let (new, path) = (self.journal.join("part.new"), self.journal.join(PART));
        File::create(&new)
            .and_then(|mut file| file.write_all(&json).and_then(|()| file.sync_all()))
            .and_then(|()| fs::rename(&new, &path))
            .map_err(|e| Error::io(format!("writing {}", path.display()), e))?;
        sync_dir(&self.journal)
    }

    /// How many bytes its files take already.
    ///
    /// # Errors
    /// When they cannot be listed.
    pub fn bytes(&self) -> Result<u64> {
        let files = DirFiles::new(&self.partial).list()?;
        Ok(files.iter().map(|file| file.bytes.0).sum())
    }

    /// The name of the machine, as it is in the path.
    pub fn machine(&self) -> &str {
        &self.machine
    }

    /// Where the files are until the commit.
    pub fn path(&self) -> &Path {
        &self.partial
    }

    /// Where one of the files is until the commit.
    pub fn file(&self, name: &str) -> PathBuf {
        self.partial.join(name)
    }

    /// Writes a whole small file, in place of one that an interrupted run left.
    ///
    /// # Errors
    /// When it cannot be made, or the medium is full.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let path = self.file(name);
        fs::write(&path, bytes).map_err(|e| Error::io(format!("writing {}", path.display()), e))
    }

    /// Makes the capture whole: adds every file that is not a disk of `manifest` to it, writes it
    /// and the checksums, makes all durable, and renames. Close the log before: nothing may be
    /// written to any file afterwards. Returns where the capture is now.
    ///
    /// # Errors
    /// The capture is then still partial.
    pub fn commit(self, mut manifest: Manifest) -> Result<PathBuf> {
        let dir = DirFiles::new(&self.partial);
        for entry in dir.list()? {
            // From a run that was cut in the middle of this.
            if entry.name == MANIFEST || entry.name == SUMS {
                continue;
            }
            if manifest.disks.iter().any(|disk| disk.file == entry.name) {
                continue;
            }
            manifest.files.push(FileRecord {
                sha256: Digest::sha256_of_file(&*dir.open(&entry.name)?)?,
                name: entry.name,
                bytes: entry.bytes.0,
            });
        }
        let json = manifest.to_json()?;
        self.write(MANIFEST, &json)?;
        self.write(SUMS, manifest.sums(&json).as_bytes())?;

        for entry in dir.list()? {
            let path = self.file(&entry.name);
            File::open(&path)
                .and_then(|file| file.sync_all())
                .map_err(|e| Error::io(format!("making {} durable", path.display()), e))?;
        }
        sync_dir(&self.partial)?;
        let whole = self.parent.join(&self.name);
        let cwd = rustix::fs::CWD;
        rustix::fs::renameat_with(cwd, &self.partial, cwd, &whole, RenameFlags::NOREPLACE)
            .map_err(|e| {
                Error::io(
                    format!("renaming {} to {}", self.partial.display(), whole.display()),
                    e,
                )
            })?;
        sync_dir(&self.parent)?;
        // Of no use any more, and in nobody's way.
        let _ = fs::remove_dir_all(&self.journal);
        Ok(whole)
    }
}

/// Removes what is left of captures that are whole, or that somebody removed. Where it fails,
/// nothing but some room is lost.
fn remove_stale_journals(parent: &Path) {
    for entry in DirFiles::new(parent).list().unwrap_or_default() {
        if let Some(name) = entry.name.strip_suffix(JOURNAL)
            && !parent.join(format!("{name}{PARTIAL}")).is_dir()
        {
            let _ = fs::remove_dir_all(parent.join(&entry.name));
        }
    }
}

fn sync_dir(path: &Path) -> Result<()> {
    File::open(path)
        .and_then(|dir| dir.sync_all())
        .map_err(|e| Error::io(format!("making {} durable", path.display()), e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_machines_are_names_of_directories() {
        for (given, name) in [
            ("PowerEdge R640-7XK3P52", Some("PowerEdge-R640-7XK3P52")),
            ("../../etc", Some("etc")),
            ("ProLiant  DL380 / Gen10 ", Some("ProLiant-DL380-Gen10")),
            ("Größe-x", Some("Gr-e-x")),
            ("x.partial", Some("x")),
            ("", None),
            ("///..", None),
        ] {
            assert_eq!(sanitise(given).as_deref(), name, "{given}");
        }
        assert_eq!(sanitise(&"a-".repeat(100)).unwrap().len(), NAME_MAX - 1);
    }

    #[test]
    fn captures_of_the_same_second_do_not_meet() {
        let store = tempfile::tempdir().unwrap();
        let at: Timestamp = "2026-11-22T10:15:00.9Z".parse().unwrap();
        let first = CaptureDir::begin(store.path(), "m", at).unwrap();
        let second = CaptureDir::begin(store.path(), "m", at).unwrap();
        assert!(first.path().ends_with("m/2026-11-22T101500Z.partial"));
        assert!(second.path().ends_with("m/2026-11-22T101500Z-2.partial"));
        let journal = |capture: &CaptureDir| capture.journal(0).parent().unwrap().to_owned();
        assert!(journal(&first).is_dir() && journal(&second).is_dir());
        fs::remove_dir(first.path()).unwrap();
        let third = CaptureDir::begin(store.path(), "m", at).unwrap();
        assert_eq!(third.path(), first.path());
        assert!(journal(&second).is_dir() && journal(&third).is_dir());
    }

    #[test]
    fn a_store_that_is_not_there_is_refused() {
        let store = tempfile::tempdir().unwrap();
        let at = Timestamp::UNIX_EPOCH;
        let error = CaptureDir::begin(&store.path().join("no"), "m", at)
            .err()
            .unwrap();
        assert_eq!(error.kind(), crate::Kind::Refused);
    }
}
