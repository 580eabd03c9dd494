//! The captures in a store.

use super::files::CaptureFiles;
use super::layout::PARTIAL;
use super::manifest::{MANIFEST, Manifest};
use super::medium;
use crate::error::Result;
use crate::units::ByteLen;
use serde::Serialize;
use std::fmt::Write as _;
use std::path::Path;

/// A capture, whole or not.
pub struct Found {
    /// The name of its machine.
    pub machine: String,
    /// Its own name, with `.partial` if it is.
    pub name: String,
    /// Whether it was not finished.
    pub partial: bool,
    /// Its files.
    pub files: Box<dyn CaptureFiles>,
}

/// The last part of a directory's name.
fn leaf(name: &str) -> &str {
    let name = name.trim_end_matches('/');
    name.rsplit('/').next().unwrap_or(name)
}

/// All captures in `root`: itself, if it is one; those of a machine; those of a store.
pub fn find(root: Box<dyn CaptureFiles>) -> Result<Vec<Found>> {
    let name = root.name();
    let own = leaf(&name);
    let parent = name.strip_suffix(own).map(leaf).unwrap_or_default();
    if is_capture(own, root.as_ref())? {
        return Ok(vec![Found {
            machine: parent.into(),
            name: own.into(),
            partial: own.ends_with(PARTIAL),
            files: root,
        }]);
    }
    let mut found = captures_of(own, root.as_ref())?;
    if found.is_empty() {
        for entry in root.list()?.into_iter().filter(|entry| entry.is_dir) {
            // A directory that is not ours may be closed to us (lost+found).
            if let Ok(captures) = captures_of(&entry.name, root.dir(&entry.name)?.as_ref()) {
                found.extend(captures);
            }
        }
    }
    Ok(found)
}

fn is_capture(name: &str, files: &dyn CaptureFiles) -> Result<bool> {
    let has_manifest = || {
        let list = files.list()?;
        Ok(list.iter().any(|entry| entry.name == MANIFEST))
    };
    Ok(name.ends_with(PARTIAL) || has_manifest()?)
}

fn captures_of(machine: &str, files: &dyn CaptureFiles) -> Result<Vec<Found>> {
    let mut found = Vec::new();
    for entry in files.list()?.into_iter().filter(|entry| entry.is_dir) {
        let capture = files.dir(&entry.name)?;
        if is_capture(&entry.name, capture.as_ref()).unwrap_or(false) {
            found.push(Found {
                machine: machine.into(),
                partial: entry.name.ends_with(PARTIAL),
                name: entry.name,
                files: capture,
            });
        }
    }
    Ok(found)
}

/// The captures in a store: what `haulier list` shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct List {
    version: u32,
    /// By machine and time.
    pub captures: Vec<Capture>,
}

/// One capture.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Capture {
    /// The name of its machine.
    pub machine: String,
    /// Its own name: the time at which it began.
    pub capture: String,
    /// How it stands.
    pub state: State,
    /// Why it is damaged.
    pub problem: Option<String>,
    /// The size of all its files.
    pub bytes: u64,
    /// Which part it is of a capture on several media.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub part: Option<ListedPart>,
    /// Its disks; unknown unless it is whole.
    pub disks: Vec<CapturedDisk>,
}

/// Which part a capture is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ListedPart {
    /// The same in all parts.
    pub set: String,
    /// From 1 on.
    pub number: u32,
    /// Whether no other part follows.
    pub last: bool,
}

/// How a capture stands, as far as its manifest tells; `haulier verify` reads the rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Finished.
    Whole,
    /// Not finished.
    Partial,
    /// Its manifest cannot be read.
    Damaged,
}

/// An imaged disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CapturedDisk {
    /// The image.
    pub file: String,
    /// Size of the image.
    pub file_bytes: u64,
    /// Size of the disk.
    pub disk_bytes: u64,
    /// What the disk called itself.
    pub model: Option<String>,
    /// Its serial number.
    pub serial: Option<String>,
    /// How much of it could not be read.
    pub bad_bytes: u64,
    /// The earlier capture that it needs, as the image holds only what changed since.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
}

/// Lists the captures in a directory or on a stick.
///
/// # Errors
/// When it cannot be read. A damaged capture is listed as such.
pub fn list(path: &Path) -> Result<List> {
    let mut captures = find(medium::open(path)?)?
        .into_iter()
        .map(|found| summarise(&found))
        .collect::<Result<Vec<_>>>()?;
    captures.sort_by(|a, b| (&a.machine, &a.capture).cmp(&(&b.machine, &b.capture)));
    Ok(List {
        version: 1,
        captures,
    })
}

fn summarise(found: &Found) -> Result<Capture> {
    let files = found.files.list()?;
    let mut capture = Capture {
        machine: found.machine.clone(),
        capture: found.name.clone(),
        state: State::Partial,
        problem: None,
        bytes: files.iter().map(|file| file.bytes.0).sum(),
        part: None,
        disks: Vec::new(),
    };
    if found.partial {
        return Ok(capture);
    }
    match Manifest::read(found.files.as_ref()) {
        Ok((manifest, _)) => {
            capture.state = State::Whole;
            capture.part = manifest.part.map(|part| ListedPart {
                set: part.set,
                number: part.number,
                last: part.last,
            });
            let disk = |disk: super::DiskRecord| CapturedDisk {
                file: disk.file,
                file_bytes: disk.file_bytes,
                disk_bytes: disk.virtual_size_bytes,
                model: disk.source.model,
                serial: disk.source.serial,
                bad_bytes: disk.bad_ranges.total().0,
                since: disk.since.map(|since| since.capture),
            };
            capture.disks = manifest.disks.into_iter().map(disk).collect();
        }
        Err(error) => {
            capture.state = State::Damaged;
            capture.problem = Some(error.to_string());
        }
    }
    Ok(capture)
}

impl List {
    /// The captures that hold only what changed since this one.
    fn built_on<'a>(&'a self, earlier: &'a Capture) -> impl Iterator<Item = &'a str> {
        let needs = |later: &Capture| {
            let mut disks = later.disks.iter();
            later.machine == earlier.machine
                && disks.any(|disk| disk.since.as_ref() == Some(&earlier.capture))
        };
        let later = self.captures.iter().filter(move |later| needs(later));
        later.map(|later| later.capture.as_str())
    }

    /// For people: a line a capture, and one a disk.
    pub fn to_text(&self) -> String {
        if self.captures.is_empty() {
            return "There are no captures.\n".into();
        }
        let mut text = String::new();
        for capture in &self.captures {
            let state = match capture.state {
                State::Whole => "whole",
                State::Partial => "NOT FINISHED",
                State::Damaged => "DAMAGED",
            };
            // Writing to a String does not fail.
            let _ = writeln!(
                text,
                "{}/{}  {state}, {}",
                capture.machine,
                capture.capture,
                ByteLen(capture.bytes)
            );
            if let Some(part) = &capture.part {
                let others = match (part.number, part.last) {
                    (_, false) => "needs the parts that follow",
                    (_, true) => "the last one",
                };
                let _ = writeln!(text, "    part {}, {others}", part.number);
            }
            for disk in &capture.disks {
                let words = [disk.model.clone(), disk.serial.clone()];
                let identity: Vec<String> = words.into_iter().flatten().collect();
                let _ = write!(
                    text,
                    "    {}  {} of a disk of {}",
                    disk.file,
                    ByteLen(disk.file_bytes),
                    ByteLen(disk.disk_bytes)
                );
                if !identity.is_empty() {
                    let _ = write!(text, " ({})", identity.join(", "));
                }
                if let Some(since) = &disk.since {
                    let _ = write!(text, ", second pass, needs {since}");
                }
                if disk.bad_bytes > 0 {
                    let _ = write!(text, ", {} unreadable", ByteLen(disk.bad_bytes));
                }
                text.push('\n');
            }
            let later: Vec<&str> = self.built_on(capture).collect();
            if !later.is_empty() {
                let _ = writeln!(text, "    needed by {}: do not delete it", later.join(", "));
            }
            if let Some(problem) = &capture.problem {
                let _ = writeln!(text, "    {problem}");
            }
        }
        text
    }
}
