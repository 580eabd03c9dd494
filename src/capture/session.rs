//! A capture from its beginning to its commit.

use super::copy::Source;
use super::disks::{Copied, Work, copy_all};
use super::image::Done;
use super::journal::Head;
use super::plan::{DiskPlan, Plan};
use super::rescue_map;
use super::resume::{self, Begun, Files};
use super::since::{self, Earlier};
use crate::cli::args::CaptureOptions;
use crate::device::{Disk, ReadAt};
use crate::error::{Error, Kind, Result};
use crate::extent::ExtentList;
use crate::inventory::Machine;
use crate::lost::{Loss, name_losses};
use crate::report::log::Log;
use crate::report::page::page;
use crate::report::{Level, Report};
use crate::store::{CaptureDir, DiskRecord, Manifest, Since, layout, manifest, seal};
use crate::units::ByteLen;
use crate::usedmap::DiskInfo;
use crate::vm::{self, VmDisk, VmPlan};
use crate::volume::crypt::Secrets;
use crate::{say, warn};
use std::path::{Path, PathBuf};

/// Losses beyond these are only in their file.
const MOST_LOSSES_SHOWN: usize = 40;

/// What is to be captured, and where to.
#[derive(Debug)]
pub struct Request {
    /// What the machine is.
    pub machine: Machine,
    /// Its disks; the first is the one that it boots from.
    pub disks: Vec<Disk>,
    /// The directory of the store.
    pub store: PathBuf,
    /// What opens its encrypted volumes.
    pub secrets: Secrets,
    /// How people know the medium that the store is on.
    pub medium: String,
    /// How.
    pub options: CaptureOptions,
}

/// A finished capture.
#[derive(Debug)]
pub struct Outcome {
    /// Its directory.
    pub directory: PathBuf,
    /// How much could not be read and is zero in the images.
    pub bad_bytes: ByteLen,
}

/// Opens what the words name: a path, or the serial number of one of `known`.
pub fn find_disks(words: &[String], known: &[PathBuf]) -> Result<Vec<Disk>> {
    let mut disks: Vec<Disk> = Vec::new();
    for word in words {
        let disk = find_disk(word, known)?;
        if disks
            .iter()
            .any(|other| other.identity().path == disk.identity().path)
        {
            return Err(Error::refused(format!("{word} is named twice")));
        }
        disks.push(disk);
    }
    Ok(disks)
}

fn find_disk(word: &str, known: &[PathBuf]) -> Result<Disk> {
    let path = Path::new(word);
    if path.exists() {
        return Disk::open(path);
    }
    let mut seen = Vec::new();
    for path in known {
        // A disk that cannot be opened (no medium, no permission) is not the one.
        let Ok(disk) = Disk::open(path) else { continue };
        if disk.identity().serial.as_deref() == Some(word) {
            return Ok(disk);
        }
        seen.push(disk.identity().describe());
    }
    let seen = if seen.is_empty() {
        "none".into()
    } else {
        seen.join("; ")
    };
    Err(Error::refused(format!(
        "no disk {word}: it is neither a path nor the serial number of a disk that can be opened \
         here (there are: {seen})"
    )))
}

/// What the filesystem of a directory has left for us.
pub fn free_space(directory: &Path) -> Result<ByteLen> {
    let stat = rustix::fs::statvfs(directory).map_err(|e| {
        Error::io(
            format!("asking the free space of {}", directory.display()),
            e,
        )
        .into_kind(Kind::Refused)
        .advise("The store must be a directory that exists")
    })?;
    Ok(ByteLen(stat.f_bavail.saturating_mul(stat.f_frsize)))
}

/// Captures. Every refusal comes before the first byte is written.
///
/// # Errors
/// Refused, when a disk is in use or the medium too small; failed, when a disk or the medium is
/// gone or full. Then `<capture>.partial` is left, to be gone on with.
pub fn run(request: &Request, log: &Log, report: &dyn Report) -> Result<Outcome> {
    if request.disks.is_empty() {
        return Err(Error::refused("no disk to capture"));
    }
    for disk in &request.disks {
        disk.refuse_if_in_use()?;
    }
    let _protected = request
        .disks
        .iter()
        .map(Disk::protect)
        .collect::<Result<Vec<_>>>()?;
    let name = request
        .options
        .name
        .as_deref()
        .unwrap_or(&request.machine.name);
    let interrupted = match CaptureDir::interrupted(&request.store, name)? {
        Some(_) if !request.options.resume => {
            warn!(
                report,
                "there is an interrupted capture of this machine on {}: --resume would go on with \
                 it",
                request.medium
            );
            None
        }
        None if request.options.resume => {
            return Err(Error::refused(format!(
                "there is no interrupted capture of {name} on {}",
                request.medium
            ))
            .advise("Capture it without --resume"));
        }
        found => found,
    };
    let begun = match &interrupted {
        Some(directory) => resume::head(&directory.journal(0))?,
        None => None,
    };
    let earlier = since::find(
        &request.store,
        &request.machine,
        name,
        &request.disks,
        request.options.since.as_deref(),
        &begun.as_ref().map(|head| head.since.clone()),
    )?;
    // What is there already needs no room any more.
    let there = interrupted.as_ref().map_or(Ok(0), CaptureDir::bytes)?;
    let free = free_space(&request.store)?;
    let free = ByteLen(free.0.saturating_add(there));
    say!(
        report,
        "Reading the used maps of {} disk(s)",
        request.disks.len()
    );
    let mut plan = Plan::new(
        &request.disks,
        free,
        request.options.compression,
        &request.secrets,
    )?;
    plan.since(&request.disks, &earlier)?;
    for line in plan.to_text().lines() {
        say!(report, "{line}");
    }
    for disk in &plan.disks {
        for note in &disk.map.notes {
            warn!(report, "{}: {note}", disk.disk.path.display());
        }
    }
    plan.refuse_if_too_large(&request.medium)?;
    if plan.is_tight() {
        warn!(
            report,
            "the capture fits if the data compresses as its samples did; if it does not, it will \
             end with a full medium and nothing will be lost but time"
        );
    }

    let now = jiff::Timestamp::now();
    let going_on = interrupted.is_some();
    let directory = match interrupted {
        Some(directory) => directory,
        None => CaptureDir::begin(&request.store, name, now)?,
    };
    // A capture that is gone on with began when it was begun.
    let started = match &begun {
        Some(head) => head.started()?,
        None => now,
    };
    log.attach(&directory.file(layout::LOG))
        .map_err(|e| Error::io("beginning capture.log", e))?;
    let session = Session {
        request,
        plan: &plan,
        earlier: &earlier,
        directory: &directory,
        started,
        going_on,
        report,
    };
    match session.write().and_then(|manifest| {
        log.detach()
            .map_err(|e| Error::io("ending capture.log", e))?;
        Ok(manifest)
    }) {
        Ok(manifest) => {
            let bad = manifest.disks.iter().map(|disk| disk.bad_ranges.total().0);
            let bad_bytes = ByteLen(bad.fold(0, u64::saturating_add));
            Ok(Outcome {
                directory: directory.commit(manifest)?,
                bad_bytes,
            })
        }
        Err(error) => {
            let error = error.on(request.medium.clone());
            report.line(Level::Error, format_args!("{error}"));
            if error.kind() != Kind::Refused {
                say!(
                    report,
                    "What was captured so far stays on {}: capture with --resume to go on with it",
                    request.medium
                );
            }
            // Kept where it still can be; a pulled medium has been said already.
            let _ = log.detach();
            Err(error)
        }
    }
}

struct Session<'a> {
    request: &'a Request,
    plan: &'a Plan,
    /// What an earlier capture has of each disk; empty without one.
    earlier: &'a [Earlier],
    directory: &'a CaptureDir,
    started: jiff::Timestamp,
    /// Whether an interrupted capture is gone on with.
    going_on: bool,
    report: &'a dyn Report,
}

impl Session<'_> {
    fn write(&self) -> Result<Manifest> {
        let names: Vec<String> = (0..self.plan.disks.len()).map(layout::disk_file).collect();
        // Whatever is refused is refused before anything is written.
        let begun = self
            .request
            .disks
            .iter()
            .zip(&self.plan.disks)
            .enumerate()
            .map(|(number, (disk, plan))| self.take_up(number, disk, plan))
            .collect::<Result<Vec<_>>>()?;
        self.write_configuration(&names)?;
        let disks = self.capture_disks(begun)?;
        let losses = if disks.iter().any(|disk| !disk.bad_ranges.is_empty()) {
            self.write_losses(&disks)?
        } else {
            None
        };
        say!(self.report, "All disks are captured; writing the manifest");
        let manifest = Manifest {
            version: manifest::VERSION,
            tool_version: env!("CARGO_PKG_VERSION").into(),
            machine: self.directory.machine().into(),
            started: self.started,
            finished: jiff::Timestamp::now(),
            disks,
            files: Vec::new(),
        };
        let read_back = !self.request.options.no_verify;
        let page = page(
            &self.request.machine,
            &manifest,
            losses.as_deref(),
            read_back,
        );
        self.directory.write(layout::PAGE, page.as_bytes())?;
        Ok(manifest)
    }

    /// What the sectors cost that could not be read: the names of the files, and maps for ddrescue.
    fn write_losses(&self, disks: &[DiskRecord]) -> Result<Option<Vec<Loss>>> {
        for (number, disk) in disks.iter().enumerate() {
            let size = ByteLen(disk.virtual_size_bytes);
            let map = rescue_map(size, &disk.extents, &disk.bad_ranges);
            self.directory
                .write(&layout::rescue_map_file(number), map.as_bytes())?;
        }
        say!(
            self.report,
            "Looking for the files that the unreadable sectors belong to"
        );
        let sources: Vec<(&dyn ReadAt, DiskInfo)> = self
            .request
            .disks
            .iter()
            .map(|disk| (disk as &dyn ReadAt, DiskInfo::from(disk.identity())))
            .collect();
        let bad: Vec<ExtentList> = disks.iter().map(|disk| disk.bad_ranges.clone()).collect();
        let losses = match name_losses(&sources, &bad, &self.request.secrets) {
            Ok(losses) => losses,
            // The images are whole as far as the disk was; its names are gone with it.
            Err(error) => {
                warn!(self.report, "the names of the files are not known: {error}");
                return Ok(None);
            }
        };
        for loss in losses.iter().take(MOST_LOSSES_SHOWN) {
            warn!(self.report, "lost: {loss}");
        }
        if losses.len() > MOST_LOSSES_SHOWN {
            let more = losses.len().saturating_sub(MOST_LOSSES_SHOWN);
            warn!(self.report, "lost: and {more} more, see {}", layout::LOSSES);
        }
        let mut json = serde_json::to_vec_pretty(&losses)
            .map_err(|e| Error::corrupt("writing the losses").because(e))?;
        json.push(b'\n');
        self.directory.write(layout::LOSSES, &json)?;
        Ok(Some(losses))
    }

    /// machine.json and the VM configuration, first: small, and of use even to a failed capture.
    fn write_configuration(&self, names: &[String]) -> Result<()> {
        let machine = &self.request.machine;
        self.directory
            .write(layout::MACHINE, machine.to_json().as_bytes())?;
        let disks: Vec<VmDisk> = self
            .plan
            .disks
            .iter()
            .zip(names)
            .map(|(plan, name)| VmDisk {
                file: name.into(),
                source: plan.disk.clone(),
            })
            .collect();
        let vm = VmPlan::new(machine, &disks);
        self.directory
            .write(layout::DOMAIN, vm::libvirt::domain_xml(&vm).as_bytes())
    }

    /// What an interrupted capture has of a disk.
    fn take_up(&self, number: usize, disk: &Disk, plan: &DiskPlan) -> Result<Took> {
        if !self.going_on {
            return Ok(Took::Nothing);
        }
        let identity = disk.identity();
        let used = &plan.map.extents;
        if let Some(record) = self.directory.record(number)? {
            let head = Head::new(
                &record.source,
                &record.extents,
                record.compression,
                self.started,
            );
            let head = head.since(record.since.clone());
            head.refuse_other(identity, used, self.since(number))?;
            say!(self.report, "{}: captured already", identity.describe());
            return Ok(Took::All(Box::new(record)));
        }
        let files = self.files(number);
        let Some(begun) = resume::go_on(&files, disk, used, self.since(number))? else {
            // Not as far as its first checkpoint.
            for path in [&files.image, &files.journal] {
                match std::fs::remove_file(path) {
                    Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                        return Err(Error::io(format!("removing {}", path.display()), e));
                    }
                    _ => {}
                }
            }
            return Ok(Took::Nothing);
        };
        say!(
            self.report,
            "{}: going on after {} of {}",
            identity.describe(),
            ByteLen(begun.image.read()),
            used.total()
        );
        if begun.compression != self.request.options.compression {
            let compression = begun.compression.name();
            say!(
                self.report,
                "Its image was begun with compression {compression} and stays so"
            );
        }
        Ok(Took::Part(Box::new(begun)))
    }

    /// The image below that of a disk.
    fn since(&self, number: usize) -> Option<&Since> {
        self.earlier.get(number).map(|earlier| &earlier.since)
    }

    fn files(&self, number: usize) -> Files {
        Files {
            image: self.directory.file(&layout::disk_file(number)),
            journal: self.directory.journal(number),
        }
    }

    /// Copies what is not copied yet, then reads each image back.
    fn capture_disks(&self, took: Vec<Took>) -> Result<Vec<DiskRecord>> {
        let mut records: Vec<Option<DiskRecord>> = Vec::new();
        let mut work = Vec::new();
        for (number, took) in took.into_iter().enumerate() {
            let (record, begun) = match took {
                Took::All(record) => (Some(*record), None),
                Took::Part(begun) => (None, Some(begun)),
                Took::Nothing => (None, None),
            };
            if record.is_none() {
                work.push((number, self.work(number, begun)));
            }
            records.push(record);
        }
        let (numbers, work): (Vec<usize>, Vec<Work<'_>>) = work.into_iter().unzip();
        for (number, copied) in numbers.into_iter().zip(copy_all(work, self.report)?) {
            records[number] = Some(self.seal(number, copied)?);
        }
        Ok(records.into_iter().flatten().collect())
    }

    /// The copying of a disk of which an interrupted capture has `begun`.
    fn work(&self, number: usize, begun: Option<Box<Begun>>) -> Work<'_> {
        let disk = &self.request.disks[number];
        let identity = disk.identity();
        let used = &self.plan.disks[number].map.extents;
        Work {
            source: Source {
                disk,
                used,
                sector: identity.logical_sector_bytes,
                earlier: self.earlier.get(number),
            },
            begin: Box::new(move || match begun {
                Some(begun) => Ok(*begun),
                None => {
                    let compression = self.request.options.compression;
                    let head = Head::new(identity, used, compression, self.started)
                        .since(self.since(number).cloned());
                    let digested = self.request.options.no_verify;
                    resume::begin(&self.files(number), &head, disk.size(), digested)
                }
            }),
            name: format!(
                "{} to {}",
                identity.path.display(),
                layout::disk_file(number)
            ),
        }
    }

    /// Reads the image of a disk back, and keeps what is known of it.
    fn seal(&self, number: usize, copied: Copied) -> Result<DiskRecord> {
        let Copied {
            done:
                Done {
                    chunks,
                    bad,
                    file_bytes,
                    ..
                },
            compression,
            digest,
        } = copied;
        let plan = &self.plan.disks[number];
        let identity = self.request.disks[number].identity();
        for range in bad.iter() {
            warn!(
                self.report,
                "{}: {} bytes from byte {} on could not be read and are zero in the image",
                identity.describe(),
                range.len().0,
                range.start()
            );
        }
        let mut record = DiskRecord::new(
            &layout::disk_file(number),
            identity.clone(),
            compression,
            &plan.map,
            chunks,
            bad,
            file_bytes,
        );
        record.since = self.since(number).cloned();
        record.blake3 = digest.and_then(|digest| digest.finish());
        if record.blake3.is_none() {
            let prove = !self.request.options.no_verify;
            let digest = seal(self.directory.path(), &record, prove, self.report)?;
            record.sha256 = Some(digest);
        }
        self.directory.keep_record(number, &record)?;
        Ok(record)
    }
}

/// What an interrupted capture has of a disk.
enum Took {
    Nothing,
    Part(Box<Begun>),
    All(Box<DiskRecord>),
}
