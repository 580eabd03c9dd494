//! A capture from its beginning to its commit, part by part where one medium does not suffice.

use super::journal::Head;
use super::plan::Plan;
use super::resume;
use super::session::Session;
use super::since::{self, Earlier};
use super::span::{self, More, Span, Start, Store, There};
use crate::cli::args::CaptureOptions;
use crate::device::Disk;
use crate::error::{Error, Kind, Result};
use crate::inventory::Machine;
use crate::report::log::Log;
use crate::report::{Level, Report};
use crate::store::{CaptureDir, DirFiles, Manifest, layout};
use crate::units::ByteLen;
use crate::volume::crypt::Secrets;
use crate::{say, warn};
use std::path::{Path, PathBuf};

/// How often a part is ended earlier because others fill its medium, before that is given up.
const MOST_CUTS: u32 = 4;

/// What is to be captured, and where to.
#[derive(Debug)]
pub struct Request<'a> {
    /// What the machine is.
    pub machine: Machine,
    /// Its disks; the first is the one that it boots from.
    pub disks: Vec<Disk>,
    /// The directory of the store.
    pub store: PathBuf,
    /// Where it goes on when that is full, in this order.
    pub further: Vec<Store>,
    /// Asked when those are full, too.
    pub more: Option<&'a dyn More>,
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

/// A second pass cannot be cut into parts.
///
/// # Errors
/// Refused, when one is asked for and more than one of `stores` are named.
pub fn refuse_second_pass_over(stores: usize, options: &CaptureOptions) -> Result<()> {
    if stores > 1 && options.since.is_some() {
        return Err(Error::refused(
            "a second pass lies in one store, beside what it builds on, and several are named",
        )
        .advise("Name the store of the earlier capture only"));
    }
    Ok(())
}

/// Captures. Every refusal comes before the first byte is written.
///
/// # Errors
/// Refused, when a disk is in use or the medium too small; failed, when a disk or the medium is
/// gone or full. Then `<capture>.partial` is left, to be gone on with.
pub fn run(request: &Request<'_>, log: &Log, report: &dyn Report) -> Result<Outcome> {
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
    let stores: Vec<Store> = [Store {
        path: request.store.clone(),
        medium: request.medium.clone(),
    }]
    .into_iter()
    .chain(request.further.iter().cloned())
    .collect();
    let mut start = if request.options.resume {
        Span::resume(&stores, name, request.more.is_some())?.ok_or_else(|| {
            Error::refused(format!(
                "there is no interrupted capture of {name} on {}",
                media(&stores)
            ))
            .advise("Capture it without --resume")
        })?
    } else {
        for store in &stores {
            if CaptureDir::interrupted(&store.path, name)?.is_some() {
                warn!(
                    report,
                    "there is an interrupted capture of this machine on {}: --resume would go on \
                     with it",
                    store.medium
                );
            }
        }
        Span::start()
    };
    let begun = match &start.interrupted {
        Some(directory) => resume::head(&directory.journal(start.span.disk))?,
        None => None,
    };
    refuse_second_pass_over(stores.len(), &request.options)?;
    let earlier = since::find(
        &request.store,
        &request.machine,
        name,
        &request.disks,
        request.options.since.as_deref(),
        &begun.as_ref().map(|head| head.since.clone()),
    )?;
    // What is there already needs no room any more.
    let mut free = start
        .interrupted
        .as_ref()
        .map_or(Ok(0), CaptureDir::bytes)?;
    for store in stores.iter().skip(start.store) {
        free = free.saturating_add(free_space(&store.path)?.0);
    }
    let free = ByteLen(free);
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
    if start.span.number > 1 {
        plan.begin_at(start.span.disk, start.span.byte);
    }
    for line in plan.to_text().lines() {
        say!(report, "{line}");
    }
    for disk in &plan.disks {
        for note in &disk.map.notes {
            warn!(report, "{}: {note}", disk.disk.path.display());
        }
    }
    // Whoever is asked for the next store at once need not be asked whether to begin.
    let asked_at_once = request.more.is_some() && start.store >= stores.len();
    match plan.refuse_if_too_large(&media(&stores)) {
        Err(error) if !asked_at_once => {
            let goes_on = match request.more {
                Some(more) => more.begin(&error.to_string(), plan.missing())?,
                None => false,
            };
            if !goes_on {
                return Err(error);
            }
        }
        Ok(()) if plan.is_tight() && request.more.is_some() => say!(
            report,
            "The capture fits if the data compresses as its samples did; if it does not, it goes on \
             on a further medium"
        ),
        Ok(()) if plan.is_tight() => warn!(
            report,
            "the capture fits if the data compresses as its samples did; if it does not, it will \
             end with a full medium and nothing will be lost but time"
        ),
        _ => {}
    }

    let disks = plan
        .disks
        .iter()
        .map(|disk| (&disk.disk, &disk.map.extents));
    start.span.set_disks(disks)?;
    for record in &start.before {
        let disks = request.disks.iter().zip(&plan.disks).enumerate();
        let mut disks = disks.filter(|(number, _)| layout::disk_file(*number) == record.file);
        if let Some((_, (disk, plan))) = disks.next() {
            resume::refuse_changed(disk, &plan.map.extents, &record.chunks)?;
        }
    }
    let run = Run {
        request,
        name,
        stores,
        plan: &plan,
        earlier: &earlier,
        log,
        report,
    };
    run.all_parts(start, begun)
}

/// The media of all stores, in words.
fn media(stores: &[Store]) -> String {
    let names: Vec<&str> = stores.iter().map(|store| &*store.medium).collect();
    names.join(" and ")
}

/// What is the same for all parts of a capture.
struct Run<'a> {
    request: &'a Request<'a>,
    name: &'a str,
    stores: Vec<Store>,
    plan: &'a Plan,
    /// What an earlier capture has of each disk; empty without one.
    earlier: &'a [Earlier],
    log: &'a Log,
    report: &'a dyn Report,
}

impl Run<'_> {
    /// What the medium of a part must have free.
    fn least(&self, span: &Span) -> ByteLen {
        let disk = self.plan.disks.get(span.disk);
        let rest = disk.and_then(|disk| span.rest(&disk.map.extents));
        let part = disk.map(|disk| {
            let used = rest.as_ref().unwrap_or(&disk.map.extents);
            (used, ByteLen(disk.disk.size_bytes))
        });
        span::least(part)
    }

    /// Part by part, mostly one.
    fn all_parts(mut self, start: Start, begun: Option<Head>) -> Result<Outcome> {
        let report = self.report;
        let more = self.request.more;
        let (mut span, mut number) = (start.span, start.store);
        let mut interrupted = start.interrupted;
        let mut going_on = interrupted.is_some();
        // A capture that is gone on with began when it was begun.
        let mut started = match &begun {
            Some(head) => head.started()?,
            None => jiff::Timestamp::now(),
        };
        let (mut bad_bytes, mut cuts) = (0_u64, 0);
        loop {
            if number >= self.stores.len() {
                let parts = span.number.saturating_sub(1);
                let store = more.map_or(Ok(None), |more| more.next(parts, self.least(&span)))?;
                let there = match &store {
                    Some(store) => span.there(&store.path, self.name)?,
                    None => There::Nothing,
                };
                self.stores.extend(store);
                match there {
                    There::Nothing => {}
                    There::Interrupted(directory) => {
                        if let Some(head) = resume::head(&directory.journal(span.disk))? {
                            started = head.started()?;
                        }
                        (interrupted, going_on) = (Some(directory), true);
                    }
                    There::Whole(whole) => {
                        let (manifest, json, directory) = *whole;
                        say!(
                            report,
                            "Part {} is whole already, at {}",
                            span.number,
                            directory.display()
                        );
                        let bad = manifest.disks.iter().map(|disk| disk.bad_ranges.total().0);
                        bad_bytes = bad.fold(bad_bytes, u64::saturating_add);
                        if manifest.part.as_ref().is_none_or(|part| part.last) {
                            return Ok(Outcome {
                                directory,
                                bad_bytes: ByteLen(bad_bytes),
                            });
                        }
                        let medium = self.stores.get(number).map_or("", |store| &*store.medium);
                        span = span.after(&manifest, &json, medium, &directory);
                        number = number.saturating_add(1);
                        continue;
                    }
                }
            }
            let Some(store) = self.stores.get(number) else {
                return Err(Error::new(
                    Kind::NoSpace,
                    format!(
                        "all media are full, after part {}",
                        span.number.saturating_sub(1)
                    ),
                )
                .advise(
                    "What is on them is whole: capture with --resume and one more --to to go on \
                     with it",
                ));
            };
            // Disks are copied one after the other where a part may have to be cut; not for the mere
            // possibility to ask.
            let asked = more.is_some() && (span.number > 1 || self.plan.is_tight());
            let follows = asked || number.saturating_add(1) < self.stores.len();
            let directory = match interrupted.take() {
                Some(directory) => directory,
                None => {
                    let directory = CaptureDir::begin(&store.path, self.name, started)?;
                    if span.number > 1 {
                        directory.keep_part(&span)?;
                    }
                    directory
                }
            };
            self.log
                .attach(&directory.file(layout::LOG))
                .map_err(|e| Error::io("beginning capture.log", e))?;
            let session = Session {
                request: self.request,
                plan: self.plan,
                earlier: self.earlier,
                directory: &directory,
                span: &span,
                rest: self
                    .plan
                    .disks
                    .get(span.disk)
                    .and_then(|disk| span.rest(&disk.map.extents)),
                room_on: follows.then_some(&*store.path),
                started,
                going_on,
                report,
            };
            let written = session.write().and_then(|manifest| {
                self.log
                    .detach()
                    .map_err(|e| Error::io("ending capture.log", e))?;
                Ok(manifest)
            });
            match written {
                Ok(manifest) => {
                    let bad = manifest.disks.iter().map(|disk| disk.bad_ranges.total().0);
                    bad_bytes = bad.fold(bad_bytes, u64::saturating_add);
                    let whole = directory.commit(manifest)?;
                    let (manifest, json) = Manifest::read(&DirFiles::new(&whole))?;
                    if manifest.part.as_ref().is_none_or(|part| part.last) {
                        return Ok(Outcome {
                            directory: whole,
                            bad_bytes: ByteLen(bad_bytes),
                        });
                    }
                    say!(
                        report,
                        "{} is full: part {} is whole on it, at {}",
                        store.medium,
                        span.number,
                        whole.display()
                    );
                    span = span.after(&manifest, &json, &store.medium, &whole);
                    number = number.saturating_add(1);
                    (going_on, started) = (false, jiff::Timestamp::now());
                }
                // Somebody else's files took the room: what is durable becomes the part, but for the
                // last checkpoint, so that there is room to end it.
                Err(error)
                    if error.kind() == Kind::NoSpace
                        && session.room_on.is_some()
                        && cuts < MOST_CUTS =>
                {
                    warn!(report, "{}: {error}", store.medium);
                    let _ = self.log.detach();
                    session.step_back()?;
                    (going_on, cuts) = (true, cuts + 1);
                    interrupted = Some(directory);
                }
                Err(error) => {
                    let error = error.on(store.medium.clone());
                    report.line(Level::Error, format_args!("{error}"));
                    if error.kind() != Kind::Refused {
                        say!(
                            report,
                            "What was captured so far stays on {}: capture with --resume to go on \
                             with it",
                            store.medium
                        );
                    }
                    // Kept where it still can be; a pulled medium has been said already.
                    let _ = self.log.detach();
                    return Err(error);
                }
            }
        }
    }
}
