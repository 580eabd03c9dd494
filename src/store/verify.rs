//! The proof that a capture is what was read: every file against its digest, every chunk of every
//! disk against the digest that was taken while it was read.

use super::chain;
use super::digest::{Digest, FileDigest, FileHasher};
use super::fault::{Fault, Faults};
use super::files::{CaptureFiles, DirFiles, FileReader};
use super::layout::PARTIAL;
use super::list::find;
use super::manifest::{DiskRecord, FileRecord, MANIFEST, Manifest, SUMS, Since};
use super::medium;
use super::merge::Merged;
use super::parts::{self, Member};
use super::scan::{Expected, scan};
use crate::device::ReadAt;
use crate::error::{Error, Kind, Result};
use crate::report::{Level, Progress, Report};
use crate::units::ByteLen;
use crate::{say, warn};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// The largest [`SUMS`] that is read: thousands of files.
const SUMS_MAX: ByteLen = ByteLen(1 << 20);

/// What verifying a path came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verdict {
    version: u32,
    /// Each whole capture that was found.
    pub captures: Vec<CaptureVerdict>,
    /// What keeps captures in parts from being complete.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub incomplete: Vec<String>,
}

/// What verifying one capture came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CaptureVerdict {
    /// Where it is.
    pub capture: String,
    /// Bytes that were read and compared.
    pub bytes: u64,
    /// The earlier captures beside it that it was made over.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub builds_on: BTreeSet<String>,
    /// What is wrong with it.
    pub faults: Faults,
    #[serde(skip)]
    member: Option<Member>,
}

impl Verdict {
    /// Whether every bit of every capture is what was read.
    pub fn is_proven(&self) -> bool {
        self.captures.iter().all(|c| c.faults.is_empty()) && self.incomplete.is_empty()
    }

    /// For people: a line a capture, and one a fault.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        for capture in &self.captures {
            // Writing to a String does not fail.
            let _ = match capture.faults.list.len() {
                0 => writeln!(
                    text,
                    "{}: right, {} compared",
                    capture.capture,
                    ByteLen(capture.bytes)
                ),
                _ => writeln!(text, "{}: DAMAGED", capture.capture),
            };
            if let Some(member) = &capture.member {
                let part = member.part();
                let last = if part.last { ", the last" } else { "" };
                let _ = writeln!(text, "  it is part {}{last}", part.number);
            }
            for earlier in &capture.builds_on {
                let _ = writeln!(text, "  it builds on {earlier}");
            }
            for fault in &capture.faults.list {
                let _ = writeln!(text, "  {fault}");
            }
            if capture.faults.more > 0 {
                let _ = writeln!(text, "  and {} more", capture.faults.more);
            }
        }
        for what in &self.incomplete {
            let _ = writeln!(text, "NOT COMPLETE: {what}");
        }
        text.truncate(text.trim_end().len());
        text
    }
}

/// Verifies a capture and those that it builds on, or all whole captures of a store (a directory, or
/// a stick).
///
/// # Errors
/// When there is none, or only a partial one; damage is no error but in the verdict.
pub fn verify_path(path: &Path, report: &dyn Report) -> Result<Verdict> {
    verify_paths(&[path.to_owned()], report)
}

/// As [`verify_path`], of several; the parts of a capture may lie on all of them, in any order.
///
/// # Errors
/// When there is nothing at one of them, or only partial captures.
pub fn verify_paths(paths: &[PathBuf], report: &dyn Report) -> Result<Verdict> {
    let mut captures = Vec::new();
    let mut partial = Vec::new();
    let mut todo = VecDeque::new();
    let mut seen = BTreeSet::new();
    for path in paths {
        let mut any = false;
        for found in find(medium::open(path)?)? {
            if found.partial {
                partial.push(found.files.name());
            } else {
                any = true;
                if seen.insert(found.files.name()) {
                    todo.push_back(found.files);
                }
            }
        }
        if !any {
            return Err(match partial.first() {
                Some(name) => refuse_partial(name),
                None => Error::refused(format!("there is no capture in {}", path.display()))
                    .advise("Name a capture, or the directory or stick that captures are in"),
            });
        }
    }
    while let Some(files) = todo.pop_front() {
        let verdict = verify(files.as_ref(), report)?;
        for earlier in &verdict.builds_on {
            // One that is missing is among the faults.
            if let Ok(earlier) = files.sibling(earlier)
                && seen.insert(earlier.name())
            {
                todo.push_back(earlier);
            }
        }
        captures.push(verdict);
    }
    for name in partial {
        warn!(report, "{name} is not a finished capture, passed over");
    }
    let incomplete = incomplete(&captures);
    for what in &incomplete {
        report.line(Level::Error, format_args!("not complete: {what}"));
    }
    Ok(Verdict {
        version: 1,
        captures,
        incomplete,
    })
}

/// What keeps captures in parts from being complete.
fn incomplete(captures: &[CaptureVerdict]) -> Vec<String> {
    let mut sets: BTreeMap<String, Vec<Member>> = BTreeMap::new();
    for member in captures.iter().filter_map(|capture| capture.member.clone()) {
        sets.entry(member.part().set.clone())
            .or_default()
            .push(member);
    }
    let mut found = Vec::new();
    for members in sets.into_values() {
        let members = parts::in_order(members);
        found.extend(parts::problems(&members));
    }
    found
}

fn refuse_partial(name: &str) -> Error {
    Error::refused(format!("{name} is not a finished capture"))
        .advise("It was interrupted: capture the machine again, with --resume to go on with it")
}

/// Verifies one capture.
///
/// # Errors
/// When it is not a finished capture, or of a later version. Damage is in the verdict.
pub fn verify(capture: &dyn CaptureFiles, report: &dyn Report) -> Result<CaptureVerdict> {
    let name = capture.name();
    if name.ends_with(PARTIAL) {
        return Err(refuse_partial(&name));
    }
    let present: BTreeMap<String, u64> = capture
        .list()?
        .into_iter()
        .map(|entry| (entry.name, entry.bytes.0))
        .collect();
    if !present.contains_key(MANIFEST) {
        return Err(Error::corrupt(format!(
            "{name} has no {MANIFEST}: it is not a finished capture"
        )));
    }
    let mut verifier = Verifier {
        capture,
        report,
        verdict: CaptureVerdict {
            capture: name,
            bytes: 0,
            builds_on: BTreeSet::new(),
            faults: Faults::default(),
            member: None,
        },
    };
    if let Some(manifest) = verifier.manifest()? {
        verifier.presence(&manifest, &present);
        for file in &manifest.files {
            verifier.file(file, &present);
        }
        for disk in &manifest.disks {
            verifier.disk(disk, &present)?;
        }
    }
    Ok(verifier.verdict)
}

struct Verifier<'a> {
    capture: &'a dyn CaptureFiles,
    report: &'a dyn Report,
    verdict: CaptureVerdict,
}

impl Verifier<'_> {
    fn fault(&mut self, fault: Fault) {
        self.report.line(Level::Error, format_args!("{fault}"));
        self.verdict.faults.push(fault);
    }

    /// Reads the manifest and compares it with [`SUMS`]; `None` if it is too damaged to go on.
    fn manifest(&mut self) -> Result<Option<Manifest>> {
        let sums = match self.capture.read_small(SUMS, SUMS_MAX) {
            Ok(sums) => sums,
            Err(error) => {
                self.fault(Fault::new(SUMS, error.to_string()));
                Vec::new()
            }
        };
        let (manifest, json) = match Manifest::read(self.capture) {
            Ok(read) => read,
            Err(error) if error.kind() == Kind::Unsupported => return Err(error),
            Err(error) => {
                self.fault(Fault::new(MANIFEST, error.to_string()));
                return Ok(None);
            }
        };
        self.verdict.bytes += json.len() as u64;
        let expected = manifest.sums(&json);
        if sums != expected.as_bytes() {
            // Which of the two is damaged, its last line tells: that of the manifest.
            let line = expected.lines().next_back().unwrap_or_default();
            let manifest_is_right = String::from_utf8_lossy(&sums).lines().any(|l| l == line);
            self.fault(if manifest_is_right {
                Fault::new(SUMS, format!("it does not agree with {MANIFEST}"))
            } else {
                Fault::new(MANIFEST, format!("its digest is not the one in {SUMS}"))
            });
        }
        self.verdict.member = Member::new(self.capture.name(), &manifest, &json);
        Ok(Some(manifest))
    }

    /// Names what is there and should not be, and what is not there.
    fn presence(&mut self, manifest: &Manifest, present: &BTreeMap<String, u64>) {
        let disks = manifest.disks.iter().map(|disk| disk.file.as_str());
        let files = manifest.files.iter().map(|file| file.name.as_str());
        let known: Vec<&str> = disks.chain(files).chain([MANIFEST, SUMS]).collect();
        for name in present
            .keys()
            .filter(|name| !known.contains(&name.as_str()))
        {
            self.fault(Fault::new(name, "the manifest knows of no such file"));
        }
        for name in known.iter().filter(|name| !present.contains_key(**name)) {
            self.fault(Fault::new(name, "the file is missing"));
        }
    }

    /// Opens a file that is there, and compares its size.
    fn open(
        &mut self,
        name: &str,
        bytes: u64,
        present: &BTreeMap<String, u64>,
    ) -> Option<Box<dyn ReadAt>> {
        // What is missing has been named.
        let found = *present.get(name)?;
        if found != bytes {
            self.fault(Fault::new(
                name,
                format!("it has {found} bytes instead of {bytes}"),
            ));
        }
        match self.capture.open(name) {
            Ok(file) => Some(file),
            Err(error) => {
                self.fault(Fault::new(name, error.to_string()));
                None
            }
        }
    }

    fn file(&mut self, record: &FileRecord, present: &BTreeMap<String, u64>) {
        let Some(file) = self.open(&record.name, record.bytes, present) else {
            return;
        };
        self.digest(&record.name, &*file, FileDigest::Sha256(record.sha256));
    }

    fn digest(&mut self, name: &str, file: &dyn ReadAt, expected: FileDigest) {
        match expected.hasher().file(file) {
            Ok(digest) if digest == expected => {}
            Ok(_) => self.fault(Fault::new(
                name,
                format!("its {} is not that of the manifest", expected.kind()),
            )),
            Err(error) => self.fault(Fault::new(name, error.to_string())),
        }
        self.verdict.bytes += file.size().0;
    }

    fn disk(&mut self, record: &DiskRecord, present: &BTreeMap<String, u64>) -> Result<()> {
        let Some(file) = self.open(&record.file, record.file_bytes, present) else {
            return Ok(());
        };
        let expected = match record.digest() {
            Ok(expected) => expected,
            Err(error) => {
                self.fault(Fault::new(MANIFEST, error.to_string()));
                return Ok(());
            }
        };
        if let Some(since) = &record.since {
            self.verdict.builds_on.insert(since.capture.clone());
        }
        let below = match below(self.capture, record) {
            Ok(below) => below,
            Err(error) => {
                self.fault(Fault::new(&record.file, error.to_string()));
                // Without it only the file itself can be held against its digest.
                self.digest(&record.file, &*file, expected);
                return Ok(());
            }
        };
        let (digest, faults) = scan_record(
            &*file,
            record,
            below.as_ref(),
            expected.hasher(),
            "verifying",
            self.report,
        )?;
        let chunks_are_right = faults.is_empty();
        for fault in &faults.list {
            self.report.line(Level::Error, format_args!("{fault}"));
        }
        self.verdict.faults.append(faults);
        if digest.is_some_and(|digest| digest != expected) {
            let mut what = format!("its {} is not that of the manifest", expected.kind());
            if chunks_are_right {
                what.push_str(
                    ", though it holds what was read: the change is in its tables or between the \
                     data",
                );
            }
            self.fault(Fault::new(&record.file, what));
        }
        self.verdict.bytes += file.size().0;
        if chunks_are_right && digest == Some(expected) {
            say!(
                self.report,
                "{}: {} chunks are what was read",
                record.file,
                record.chunks.len()
            );
        }
        Ok(())
    }
}

/// What the image of a record was made over, if it was.
fn below(capture: &dyn CaptureFiles, record: &DiskRecord) -> Result<Option<Merged>> {
    if record.since.is_none() {
        return Ok(None);
    }
    chain::merged(&chain::below(capture, record)?).map(Some)
}

fn scan_record(
    file: &dyn ReadAt,
    record: &DiskRecord,
    below: Option<&Merged>,
    hasher: FileHasher,
    doing: &str,
    report: &dyn Report,
) -> Result<(Option<FileDigest>, Faults)> {
    let total = file.size();
    report.begin(&format!("{doing} {}", record.file), total);
    let watch = |done| {
        report.progress(Progress {
            done,
            total,
            written: ByteLen::ZERO,
        });
    };
    let scan = scan(
        file,
        &Expected {
            file: &record.file,
            virtual_size: ByteLen(record.virtual_size_bytes),
            chunk_bytes: record.chunk_bytes,
            chunks: &record.chunks,
            below: record.since.as_ref().map(Since::backing).zip(below),
        },
        hasher,
        &watch,
    );
    report.end();
    scan.map(|scan| (scan.digest, scan.faults))
}

/// Reads an image that was just written back from the medium and returns its SHA-256 for the
/// manifest. With `prove`, every chunk is compared with what was read of the disk in the same
/// pass; without, the file is only digested.
///
/// # Errors
/// [`Kind::Mismatch`] when the medium does not give back what it was given.
pub fn seal(
    directory: &Path,
    record: &DiskRecord,
    prove: bool,
    report: &dyn Report,
) -> Result<Digest> {
    let path = directory.join(&record.file);
    let file = FileReader::open(&path)?;
    let on_medium = |e: std::io::Error| {
        Error::io(
            format!("waiting until {} is on the medium", path.display()),
            e,
        )
    };
    file.file().sync_all().map_err(on_medium)?;
    // Only advice, but followed for clean pages: what is read now comes from the medium.
    let _ = rustix::fs::fadvise(file.file(), 0, None, rustix::fs::Advice::DontNeed);
    let mismatch = |what: String| {
        Error::new(Kind::Mismatch, what)
            .on(path.display().to_string())
            .advise("The medium does not keep what is written to it: use another one")
    };
    if file.size().0 != record.file_bytes {
        return Err(mismatch(format!(
            "{} bytes were written and {} are there",
            record.file_bytes,
            file.size().0
        )));
    }
    if !prove {
        return Digest::sha256_of_file(&file);
    }
    let hasher = FileHasher::sha256();
    let below = below(&DirFiles::new(directory), record)?;
    let (digest, faults) = scan_record(
        &file,
        record,
        below.as_ref(),
        hasher,
        "reading back",
        report,
    )?;
    for fault in &faults.list {
        report.line(Level::Error, format_args!("{fault}"));
    }
    match (digest, faults.list.first()) {
        (Some(FileDigest::Sha256(digest)), None) => Ok(digest),
        (_, Some(fault)) => Err(mismatch(format!("reading back what was written: {fault}"))),
        (_, None) => Err(mismatch("reading back what was written".into())),
    }
}
