//! A capture from its beginning to its commit.

use super::copy::{Copied, Source, copy_disk};
use super::plan::{DiskPlan, Plan};
use crate::cli::args::CaptureOptions;
use crate::device::Disk;
use crate::error::{Error, Kind, Result};
use crate::inventory::Machine;
use crate::report::log::Log;
use crate::report::{Level, Report};
use crate::store::{CaptureDir, DiskRecord, Manifest, layout, manifest, seal};
use crate::units::ByteLen;
use crate::vm::{self, VmDisk, VmPlan};
use crate::volume::crypt::Secrets;
use crate::{say, warn};
use std::path::{Path, PathBuf};

/// More workers than this starve the reader of a fast array, and of memory.
const MOST_WORKERS: usize = 16;

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
/// gone or full. Then only `<capture>.partial` with its log is left.
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
    let started = jiff::Timestamp::now();
    let free = free_space(&request.store)?;
    say!(
        report,
        "Reading the used maps of {} disk(s)",
        request.disks.len()
    );
    let plan = Plan::new(
        &request.disks,
        free,
        request.options.compression,
        &request.secrets,
    )?;
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

    let name = request
        .options
        .name
        .as_deref()
        .unwrap_or(&request.machine.name);
    let directory = CaptureDir::begin(&request.store, name, started)?;
    log.attach(&directory.file(layout::LOG))
        .map_err(|e| Error::io("beginning capture.log", e))?;
    let session = Session {
        request,
        plan: &plan,
        directory: &directory,
        report,
    };
    match session.write(started).and_then(|manifest| {
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
            // Without its manifest an image is of no use, and its room is needed for the next try.
            directory.discard_images();
            // Kept where it still can be; a pulled medium has been said already.
            let _ = log.detach();
            Err(error)
        }
    }
}

struct Session<'a> {
    request: &'a Request,
    plan: &'a Plan,
    directory: &'a CaptureDir,
    report: &'a dyn Report,
}

impl Session<'_> {
    fn write(&self, started: jiff::Timestamp) -> Result<Manifest> {
        let names: Vec<String> = (0..self.plan.disks.len()).map(layout::disk_file).collect();
        self.write_configuration(&names)?;
        let disks = self
            .request
            .disks
            .iter()
            .zip(&self.plan.disks)
            .zip(&names)
            .map(|((disk, plan), name)| self.capture_disk(disk, plan, name))
            .collect::<Result<Vec<_>>>()?;
        say!(self.report, "All disks are captured; writing the manifest");
        Ok(Manifest {
            version: manifest::VERSION,
            tool_version: env!("CARGO_PKG_VERSION").into(),
            machine: self.directory.machine().into(),
            started,
            finished: jiff::Timestamp::now(),
            disks,
            files: Vec::new(),
        })
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

    fn capture_disk(&self, disk: &Disk, plan: &DiskPlan, name: &str) -> Result<DiskRecord> {
        let file = self.directory.create(name)?;
        let workers = std::thread::available_parallelism()
            .map_or(1, usize::from)
            .min(MOST_WORKERS);
        let used = &plan.map.extents;
        self.report.begin(
            &format!("capturing {} to {name}", disk.identity().path.display()),
            used.total(),
        );
        let source = Source {
            disk,
            used,
            sector: disk.identity().logical_sector_bytes,
        };
        let copied = copy_disk(
            &source,
            file,
            self.request.options.compression,
            workers,
            self.report,
        );
        self.report.end();
        let Copied {
            chunks,
            bad,
            file_bytes,
            ..
        } = copied?;
        for range in bad.iter() {
            warn!(
                self.report,
                "{}: {} bytes from byte {} on could not be read and are zero in the image",
                disk.identity().describe(),
                range.len().0,
                range.start()
            );
        }
        let mut record = DiskRecord::new(
            name,
            disk.identity().clone(),
            self.request.options.compression,
            &plan.map,
            chunks,
            bad,
            file_bytes,
        );
        record.sha256 = seal(
            self.directory.path(),
            &record,
            !self.request.options.no_verify,
            self.report,
        )?;
        Ok(record)
    }
}
