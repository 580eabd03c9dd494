//! All disks of a capture, each into its image: one after the other, or several at once where that
//! is faster ([`super::pace`]).

use super::copy::{Source, copy_disk};
use super::image::Done;
use super::pace::{Count, Pace, Step};
use super::pool::Pool;
use super::resume::Begun;
use crate::device::Disk;
use crate::error::{Error, Kind, Result};
use crate::qcow2::Compression;
use crate::report::{Level, Progress, Report};
use crate::say;
use crate::store::append::Taken;
use crate::store::tree::TreeDigest;
use crate::units::ByteLen;
use std::collections::VecDeque;
use std::fmt;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How many disks are copied at once at the most: each takes some 60 MiB.
const AT_ONCE: usize = 3;

/// More workers than this starve the reader of a fast array, and of memory.
const MOST_WORKERS: usize = 12;

/// As many keep up with any store; with more, buffers would take too much memory.
const MOST_WORKERS_OF_SEVERAL: usize = 6;

/// How often is looked at what the disks do.
const TICK: Duration = Duration::from_millis(250);

/// A disk that is to be copied.
pub struct Work<'a> {
    /// What is read.
    pub source: Source<'a, Disk>,
    /// Begins its image, or takes it up.
    pub begin: Box<dyn FnOnce() -> Result<Begun> + 'a>,
    /// What people call it.
    pub name: String,
}

/// A disk that was copied.
#[derive(Debug)]
pub struct Copied {
    /// What has become of it.
    pub done: Done,
    /// How the clusters of its image are compressed.
    pub compression: Compression,
    /// The digest of its image, if it was taken while it was written.
    pub digest: Option<TreeDigest>,
}

/// Copies all; returns them in the same order.
///
/// # Errors
/// The first; all others are stopped then.
pub fn copy_all(work: Vec<Work<'_>>, report: &dyn Report) -> Result<Vec<Copied>> {
    let at_once = work.len().clamp(1, AT_ONCE);
    let most = match at_once {
        1 => MOST_WORKERS,
        _ => MOST_WORKERS_OF_SEVERAL,
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let total = Total {
        report,
        disks: Mutex::new(
            work.iter()
                .map(|work| Progress {
                    total: work.source.used.total(),
                    ..Progress::default()
                })
                .collect(),
        ),
    };
    let shares: Vec<Share<'_>> = (0..work.len())
        .map(|number| Share {
            total: &total,
            number,
        })
        .collect();
    let gates: Vec<Gate> = work.iter().map(|_| Gate::default()).collect();
    let name = match &work[..] {
        [] => return Ok(Vec::new()),
        [only] => format!("capturing {}", only.name),
        several => format!("capturing {} disks", several.len()),
    };
    let several = work.len() > 1;
    report.begin(&name, total.sum().total);
    let copied = Pool::run(threads.min(most), at_once, |pool| {
        Crew {
            pool,
            shares: &shares,
            gates: &gates,
            report,
            several,
            at_once,
        }
        .run(work)
    });
    report.end();
    copied
}

/// Whether a disk's readers are to wait.
#[derive(Debug, Default)]
pub struct Gate {
    closed: Mutex<bool>,
    opened: Condvar,
}

impl Gate {
    /// Returns when it is open.
    pub(super) fn pass(&self) {
        let closed = self.closed.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.opened.wait_while(closed, |closed| *closed));
    }

    fn set(&self, closed: bool) {
        *self.closed.lock().unwrap_or_else(PoisonError::into_inner) = closed;
        self.opened.notify_all();
    }
}

/// Progress of all disks together.
struct Total<'a> {
    report: &'a dyn Report,
    disks: Mutex<Vec<Progress>>,
}

impl Total<'_> {
    fn sum(&self) -> Progress {
        let disks = self.disks.lock().unwrap_or_else(PoisonError::into_inner);
        let sum = |of: fn(&Progress) -> ByteLen| {
            ByteLen(disks.iter().map(|p| of(p).0).fold(0, u64::saturating_add))
        };
        Progress {
            done: sum(|p| p.done),
            total: sum(|p| p.total),
            written: sum(|p| p.written),
        }
    }
}

/// One disk's part of it.
struct Share<'a> {
    total: &'a Total<'a>,
    number: usize,
}

impl Report for Share<'_> {
    fn line(&self, level: Level, text: fmt::Arguments<'_>) {
        self.total.report.line(level, text);
    }

    /// The whole has begun.
    fn begin(&self, _: &str, _: ByteLen) {}

    fn progress(&self, progress: Progress) {
        let mut disks = self
            .total
            .disks
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(mine) = disks.get_mut(self.number) {
            *mine = progress;
        }
        drop(disks);
        self.total.report.progress(self.total.sum());
    }

    fn end(&self) {}
}

/// A disk that is being copied.
struct Running {
    number: usize,
    name: String,
    taken: Taken,
    /// Whether it waits for another one to be done.
    held: bool,
}

/// Copies, and decides what is copied.
struct Crew<'a, 'env> {
    pool: &'a Pool<'env>,
    shares: &'env [Share<'env>],
    gates: &'env [Gate],
    report: &'env dyn Report,
    several: bool,
    at_once: usize,
}

impl<'env> Crew<'_, 'env> {
    fn run(&self, work: Vec<Work<'env>>) -> Result<Vec<Copied>> {
        let began = Instant::now();
        let mut copied: Vec<Option<Copied>> = work.iter().map(|_| None).collect();
        let mut waiting: VecDeque<(usize, Work<'env>)> = work.into_iter().enumerate().collect();
        let mut running: Vec<Running> = Vec::new();
        let mut failed: Option<Error> = None;
        let mut pace = Pace::new(self.pool.threads());
        // Of those that are done.
        let mut store = 0_u64;
        std::thread::scope(|scope| {
            let (ended_in, ended) = channel();
            loop {
                let next = running.is_empty() || {
                    let busy = running.iter().map(|r| r.taken.busy());
                    let now = Count {
                        at: began.elapsed(),
                        read: self.pool.read(),
                        workers: self.pool.busy(),
                        store: busy.fold(store, u64::saturating_add),
                    };
                    match pace.look(now) {
                        Step::Stay => false,
                        Step::Start if waiting.is_empty() || running.len() >= self.at_once => {
                            pace.none_left();
                            false
                        }
                        Step::Start => true,
                        Step::Hold => {
                            self.hold(&mut running);
                            false
                        }
                    }
                };
                if next && let Some((number, work)) = waiting.pop_front() {
                    match (work.begin)() {
                        Ok(begun) => {
                            self.say_start(&work.name, &running);
                            running.push(Running {
                                number,
                                name: work.name,
                                taken: begun.taken.clone(),
                                held: false,
                            });
                            let ended = ended_in.clone();
                            let source = work.source;
                            scope.spawn(move || {
                                // The receiver lives as long as anybody runs.
                                let _ = ended.send((number, self.copy(number, &source, begun)));
                            });
                        }
                        Err(error) => {
                            self.stop(&mut waiting);
                            failed.get_or_insert(error);
                        }
                    }
                }
                if running.is_empty() {
                    break;
                }
                let (number, result) = match ended.recv_timeout(TICK) {
                    Ok(ended) => ended,
                    Err(RecvTimeoutError::Timeout) => continue,
                    Err(RecvTimeoutError::Disconnected) => break,
                };
                if let Some(at) = running.iter().position(|r| r.number == number) {
                    store = store.saturating_add(running.remove(at).taken.busy());
                }
                match result {
                    Ok(done) => copied[number] = Some(done),
                    Err(error) => {
                        self.stop(&mut waiting);
                        // What comes after the first are consequences.
                        failed.get_or_insert(error);
                    }
                }
                if let Some(held) = running.iter_mut().find(|r| r.held) {
                    held.held = false;
                    self.gates[held.number].set(false);
                }
                pace.ended(Count {
                    at: began.elapsed(),
                    read: self.pool.read(),
                    workers: self.pool.busy(),
                    store: running
                        .iter()
                        .map(|r| r.taken.busy())
                        .fold(store, u64::saturating_add),
                });
            }
        });
        match failed {
            Some(error) => Err(error),
            None => copied
                .into_iter()
                .map(|one| one.ok_or_else(|| Error::new(Kind::Io, "a disk was not copied")))
                .collect(),
        }
    }

    fn copy(&self, number: usize, source: &Source<'env, Disk>, begun: Begun) -> Result<Copied> {
        let Begun {
            image,
            taken,
            compression,
            digest,
        } = begun;
        let bytes = || taken.bytes();
        let share: &'env Share<'env> = &self.shares[number];
        let gate = &self.gates[number];
        let done = copy_disk(
            source,
            image,
            compression,
            self.pool,
            Some(gate),
            &bytes,
            share,
        )?;
        Ok(Copied {
            done,
            compression,
            digest,
        })
    }

    fn say_start(&self, name: &str, running: &[Running]) {
        if !self.several {
            return;
        }
        match running.last() {
            None => say!(self.report, "Capturing {name}"),
            Some(other) => say!(
                self.report,
                "Capturing {name} at the same time, as {} is what is waited for",
                other.name
            ),
        }
    }

    fn hold(&self, running: &mut [Running]) {
        if let Some(last) = running.last_mut() {
            say!(
                self.report,
                "Together the disks are no faster: {} waits until another one is done",
                last.name
            );
            last.held = true;
            self.gates[last.number].set(true);
        }
    }

    /// Has all others end.
    fn stop(&self, waiting: &mut VecDeque<(usize, Work<'env>)>) {
        waiting.clear();
        self.pool.stop();
        self.gates.iter().for_each(|gate| gate.set(false));
    }
}
