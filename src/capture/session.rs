//! One part of a capture, mostly all of it: the images of the disks on one medium, and what is written
//! beside them. In: an uncommitted directory, and where the part begins. Out: its manifest.

use super::copy::Source;
use super::disks::{Copied, Work, copy_all};
use super::image::Done;
use super::journal::Head;
use super::plan::{DiskPlan, Plan};
use super::rescue_map;
use super::resume::{self, Begun, Files};
use super::run::{Request, free_space};
use super::since::Earlier;
use super::span::{self, Span};
use crate::device::{Disk, ReadAt};
use crate::error::{Error, Kind, Result};
use crate::extent::ExtentList;
use crate::lost::{Loss, name_losses};
use crate::report::Report;
use crate::report::page::page;
use crate::store::{CaptureDir, DiskRecord, Manifest, Since, append, layout, manifest, seal};
use crate::units::ByteLen;
use crate::usedmap::DiskInfo;
use crate::vm::{self, VmDisk, VmPlan};
use crate::{say, warn};
use std::path::Path;

/// Losses beyond these are only in their file.
const MOST_LOSSES_SHOWN: usize = 40;

/// What a part is made of.
pub(super) struct Session<'a> {
    pub(super) request: &'a Request<'a>,
    pub(super) plan: &'a Plan,
    /// What an earlier capture has of each disk; empty without one.
    pub(super) earlier: &'a [Earlier],
    pub(super) directory: &'a CaptureDir,
    /// Which part it is.
    pub(super) span: &'a Span,
    /// What is left of the disk that it begins with, if that is not all.
    pub(super) rest: Option<ExtentList>,
    /// The store, if what does not fit on its medium can go on on another.
    pub(super) room_on: Option<&'a Path>,
    pub(super) started: jiff::Timestamp,
    /// Whether an interrupted capture is gone on with.
    pub(super) going_on: bool,
    pub(super) report: &'a dyn Report,
}

impl Session<'_> {
    /// Writes all but the manifest, which it returns.
    ///
    /// # Errors
    /// As [`super::run()`].
    pub(super) fn write(&self) -> Result<Manifest> {
        let names: Vec<String> = (0..self.plan.disks.len()).map(layout::disk_file).collect();
        // Whatever is refused is refused before anything is written.
        let todo = self.request.disks.iter().zip(&self.plan.disks).enumerate();
        let begun = todo
            .skip(self.span.disk)
            .map(|(number, (disk, plan))| {
                let took = self.take_up(number, disk, plan)?;
                Ok((number, took))
            })
            .collect::<Result<Vec<_>>>()?;
        self.write_configuration(&names)?;
        let (disks, last) = self.capture_disks(begun)?;
        let losses = if disks.iter().any(|disk| !disk.bad_ranges.is_empty()) {
            self.write_losses(&disks)?
        } else {
            None
        };
        match last {
            true => say!(self.report, "All disks are captured; writing the manifest"),
            false => say!(
                self.report,
                "The medium is full; writing the manifest of this part"
            ),
        }
        let manifest = Manifest {
            version: manifest::VERSION,
            tool_version: env!("CARGO_PKG_VERSION").into(),
            machine: self.directory.machine().into(),
            started: self.started,
            finished: jiff::Timestamp::now(),
            disks,
            part: self.span.part(last),
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
        let mut bad = vec![ExtentList::new(); self.request.disks.len()];
        for (disk, number) in disks.iter().zip(self.span.disk..) {
            let size = ByteLen(disk.virtual_size_bytes);
            let map = rescue_map(size, &disk.extents, &disk.bad_ranges);
            self.directory
                .write(&layout::rescue_map_file(number), map.as_bytes())?;
            if let Some(bad) = bad.get_mut(number) {
                bad.clone_from(&disk.bad_ranges);
            }
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
        let used = self.used(number);
        if let Some(record) = self.directory.record(number)? {
            // That of a part is only of what it holds.
            let all = &plan.map.extents;
            let part = record.range.map(|(from, to)| span::within(all, from, to));
            let used = part.as_ref().unwrap_or(used);
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
            self.remove_image(number)?;
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

    /// Removes the image of a disk, if it is there, and its journal.
    fn remove_image(&self, number: usize) -> Result<()> {
        let files = self.files(number);
        for path in [&files.image, &files.journal] {
            match std::fs::remove_file(path) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    return Err(Error::io(format!("removing {}", path.display()), e));
                }
                _ => {}
            }
        }
        self.directory.forget_record(number)
    }

    /// Has those disks whose images are not finished go on from one checkpoint earlier: the medium is
    /// full, and what was written since makes room for the tables.
    ///
    /// # Errors
    /// When a journal cannot be read or cut.
    pub(super) fn step_back(&self) -> Result<()> {
        for number in self.span.disk..self.request.disks.len() {
            if self.directory.record(number)?.is_none() {
                resume::step_back(&self.files(number))?;
            }
        }
        Ok(())
    }

    /// How large the image of a disk may become, if what does not fit can go on elsewhere.
    fn limit(&self, number: usize) -> Result<Option<ByteLen>> {
        let Some(store) = self.room_on else {
            return Ok(None);
        };
        let there = std::fs::metadata(self.files(number).image).map_or(0, |image| image.len());
        let free = ByteLen(free_space(store)?.0.saturating_add(there));
        let disks = (self.span.disk..=number).map(|number| {
            let size = self.plan.disks[number].disk.size_bytes;
            (self.used(number), ByteLen(size))
        });
        Ok(Some(span::limit(free, disks)))
    }

    /// What this part is about of a disk.
    fn used(&self, number: usize) -> &ExtentList {
        match &self.rest {
            Some(rest) if number == self.span.disk => rest,
            _ => &self.plan.disks[number].map.extents,
        }
    }

    /// The image below that of a disk.
    fn since(&self, number: usize) -> Option<&Since> {
        self.earlier.get(number).map(|earlier| &earlier.since)
    }

    fn files(&self, number: usize) -> Files {
        Files {
            image: self.directory.file(&layout::disk_file(number)),
            journal: self.directory.journal(number),
            pieces: match self.request.disks.len() {
                1 => append::PIECES_ALONE,
                _ => append::PIECES,
            },
        }
    }

    /// Copies what is not copied yet, then reads each image back. Also returns whether nothing is left
    /// for another part.
    fn capture_disks(&self, took: Vec<(usize, Took)>) -> Result<(Vec<DiskRecord>, bool)> {
        if self.room_on.is_some() {
            return self.capture_as_fits(took);
        }
        let mut records: Vec<Option<DiskRecord>> = Vec::new();
        let mut work = Vec::new();
        for (at, (number, took)) in took.into_iter().enumerate() {
            let (record, begun) = match took {
                Took::All(record) => (Some(*record), None),
                Took::Part(begun) => (None, Some(begun)),
                Took::Nothing => (None, None),
            };
            if record.is_none() {
                work.push(((at, number), self.work(number, begun)?));
            }
            records.push(record);
        }
        let (numbers, work): (Vec<(usize, usize)>, Vec<Work<'_>>) = work.into_iter().unzip();
        for ((at, number), copied) in numbers.into_iter().zip(copy_all(work, self.report)?) {
            records[at] = Some(self.seal(number, copied)?);
        }
        Ok((records.into_iter().flatten().collect(), true))
    }

    /// One disk after the other, until the medium is full.
    fn capture_as_fits(&self, took: Vec<(usize, Took)>) -> Result<(Vec<DiskRecord>, bool)> {
        let mut records = Vec::new();
        let mut took = took.into_iter();
        while let Some((number, took_)) = took.next() {
            let record = match took_ {
                Took::All(record) => *record,
                begun => {
                    let begun = match begun {
                        Took::Part(begun) => Some(begun),
                        Took::All(_) | Took::Nothing => None,
                    };
                    let copied = copy_all(vec![self.work(number, begun)?], self.report)?;
                    let copied = copied.into_iter().next();
                    let copied =
                        copied.ok_or_else(|| Error::new(Kind::Io, "a disk was not copied"))?;
                    self.seal(number, copied)?
                }
            };
            let size = record.virtual_size_bytes;
            let end = record.range.map_or(size, |(_, end)| end);
            if end >= size {
                records.push(record);
                continue;
            }
            if end > self.span.begin(number) {
                records.push(record);
            } else if records.is_empty() {
                return Err(Error::new(
                    Kind::NoSpace,
                    "there is no room for a part of the capture",
                ));
            } else {
                // Not one chunk fitted: the disk begins in the next part.
                self.remove_image(number)?;
            }
            // Those behind may have been begun when there was another order.
            for (number, _) in took.by_ref() {
                self.remove_image(number)?;
            }
            return Ok((records, false));
        }
        Ok((records, true))
    }

    /// The copying of a disk of which an interrupted capture has `begun`.
    fn work(&self, number: usize, begun: Option<Box<Begun>>) -> Result<Work<'_>> {
        let disk = &self.request.disks[number];
        let identity = disk.identity();
        let used = self.used(number);
        Ok(Work {
            source: Source {
                disk,
                used,
                sector: identity.logical_sector_bytes,
                earlier: self.earlier.get(number),
                limit: self.limit(number)?,
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
        })
    }

    /// Reads the image of a disk back, and keeps what is known of it.
    fn seal(&self, number: usize, copied: Copied) -> Result<DiskRecord> {
        let Copied {
            done:
                Done {
                    chunks,
                    bad,
                    file_bytes,
                    stopped,
                    ..
                },
            compression,
            digest,
        } = copied;
        let plan = &self.plan.disks[number];
        let disk = &self.request.disks[number];
        let identity = disk.identity();
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
        let (from, to) = (self.span.begin(number), stopped.unwrap_or(disk.size().0));
        if from > 0 || stopped.is_some() {
            record.range = Some((from, to));
            record.extents = span::within(&plan.map.extents, from, to);
        }
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
