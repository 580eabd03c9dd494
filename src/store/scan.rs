//! One pass over an image: its own digest and the digest of every chunk of the disk that it holds.
//!
//! ```text
//! file --pieces--> hasher (of the file)
//!      \-clusters of a chunk-> workers (decompress, BLAKE3, compare)
//! ```
//!
//! Our images hold a disk's clusters almost in order, so the file is read from its beginning to
//! its end, as slow sticks like it. Memory is bounded: a few chunks a worker.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use super::chunks::{ChunkList, chunk_digest};
use super::digest::{Digest, FileDigest, FileHasher};
use super::fault::{Fault, Faults};
use super::merge::Merged;
use super::tee::{Piece, Tee};
use crate::device::ReadAt;
use crate::error::{Error, Result};
use crate::extent::Extent;
use crate::qcow2::reader::Mapped;
use crate::qcow2::{Decoder, Mapping, Reader};
use crate::units::{ByteLen, ByteOffset};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

/// The largest chunk that a manifest may speak of; it bounds our memory.
const CHUNK_MAX: u64 = 16 << 20;

/// More workers than this starve for want of data from any stick.
const WORKERS_MAX: usize = 4;

/// What an image should hold.
pub(super) struct Expected<'a> {
    /// Its name.
    pub(super) file: &'a str,
    /// What a guest should see.
    pub(super) virtual_size: ByteLen,
    /// The size of a chunk.
    pub(super) chunk_bytes: u64,
    /// The digests of the disk.
    pub(super) chunks: &'a ChunkList,
    /// The file that the header names as the one below, and what it holds: that is the disk where
    /// the image says nothing.
    pub(super) below: Option<(String, &'a Merged)>,
}

/// What was found.
pub(super) struct Scan {
    /// Of the file; `None` if not all of it could be read, which is among the faults.
    pub(super) digest: Option<FileDigest>,
    /// What is not as expected.
    pub(super) faults: Faults,
}

/// A cluster as the file stores it.
enum Stored {
    Zeros,
    Plain(Vec<u8>),
    Compressed(Vec<u8>),
}

/// A chunk to decode and compare.
struct Job {
    index: u64,
    expected: Option<Digest>,
    /// Where each cluster starts in the chunk, where it lies in the file, what is there.
    clusters: Vec<(usize, Option<Extent>, Stored)>,
}

/// Reads the whole of `file`, of which `hasher` takes the digest; `watch` is told how far it is.
///
/// # Errors
/// Only when the decompressors cannot be set up: what is wrong with the file is a fault.
pub(super) fn scan(
    file: &dyn ReadAt,
    expected: &Expected<'_>,
    mut hasher: FileHasher,
    watch: &dyn Fn(ByteLen),
) -> Result<Scan> {
    let faults = Mutex::new(Faults::default());
    let fault = |fault| {
        let mut faults = faults.lock().unwrap_or_else(PoisonError::into_inner);
        faults.push(fault);
    };
    let reader = match open(file, expected) {
        Ok(reader) => reader,
        Err(error) => {
            fault(Fault::new(expected.file, error.to_string()));
            let faults = faults.into_inner().unwrap_or_else(PoisonError::into_inner);
            return Ok(Scan {
                digest: None,
                faults,
            });
        }
    };
    let workers = std::thread::available_parallelism()
        .map_or(1, usize::from)
        .min(WORKERS_MAX);
    let checkers = (0..workers)
        .map(|_| {
            Ok(Checker {
                expected,
                cluster_bytes: usize::try_from(reader.cluster_bytes()).unwrap_or(0),
                decoder: Decoder::new(reader.compression())?,
                chunk: Vec::new(),
            })
        })
        .collect::<Result<Vec<_>>>()?;
    let digest = std::thread::scope(|scope| {
        let (pieces_in, pieces_out) = sync_channel::<Piece>(4);
        let hasher = scope.spawn(move || {
            for piece in pieces_out {
                hasher.update(&piece);
            }
            hasher.finish()
        });
        let (jobs_in, jobs_out) = sync_channel::<Job>(workers);
        let jobs_out = Arc::new(Mutex::new(jobs_out));
        for mut checker in checkers {
            let jobs = Arc::clone(&jobs_out);
            let fault = &fault;
            scope.spawn(move || {
                while let Some(job) = next_job(&jobs) {
                    checker.check(&job, fault);
                }
            });
        }
        // Only the workers hold it now: without them sending fails instead of waiting.
        drop(jobs_out);
        let mut feeder = Feeder {
            tee: Tee::new(file, pieces_in),
            reader: &reader,
            expected,
            jobs: jobs_in,
            fault: &fault,
            watch,
        };
        let all = feeder.run();
        // Ends the workers and the hasher.
        drop(feeder);
        let digest = hasher.join().ok();
        match all {
            Ok(()) => digest,
            Err(error) => {
                fault(Fault::new(expected.file, error.to_string()));
                None
            }
        }
    });
    Ok(Scan {
        digest,
        faults: faults.into_inner().unwrap_or_else(PoisonError::into_inner),
    })
}

fn next_job(jobs: &Mutex<Receiver<Job>>) -> Option<Job> {
    jobs.lock()
        .unwrap_or_else(PoisonError::into_inner)
        .recv()
        .ok()
}

fn open<'a>(file: &'a dyn ReadAt, expected: &Expected<'_>) -> Result<Reader<&'a dyn ReadAt>> {
    let below = expected.below.as_ref();
    let reader = Reader::open_over(file, below.map(|(backing, _)| &**backing))?;
    if reader.size() != expected.virtual_size {
        return Err(Error::corrupt(format!(
            "the image is of a disk of {} bytes, the manifest says {}",
            reader.size().0,
            expected.virtual_size.0
        )));
    }
    let chunk = expected.chunk_bytes;
    if !chunk.is_power_of_two() || chunk < reader.cluster_bytes() || chunk > CHUNK_MAX {
        return Err(Error::corrupt(format!(
            "chunks of {chunk} bytes in the manifest and clusters of {} in the image",
            reader.cluster_bytes()
        )));
    }
    if let Some((_, below)) = below {
        let of = |size: ByteLen, chunk, cluster| (size.0, chunk, cluster);
        let ours = of(reader.size(), chunk, reader.cluster_bytes());
        if ours != of(below.size(), below.chunk_bytes(), below.cluster_bytes()) {
            return Err(Error::corrupt(format!(
                "the disk, its chunks and its clusters have other sizes than those of {}",
                below.name()
            )));
        }
    }
    Ok(reader)
}

impl Expected<'_> {
    /// The bytes of the disk that a chunk consists of.
    fn range(&self, index: u64) -> Option<Extent> {
        let start = index.checked_mul(self.chunk_bytes)?;
        Extent::between(
            start,
            start
                .saturating_add(self.chunk_bytes)
                .min(self.virtual_size.0),
        )
    }

    /// The chunks of which the image has to say something.
    fn due(&self) -> Box<dyn Iterator<Item = u64> + '_> {
        match &self.below {
            None => Box::new(self.chunks.iter().map(|(index, _)| index)),
            Some((_, below)) => Box::new(self.chunks.differing(below.chunks())),
        }
    }
}

/// Reads on, and gives the clusters of a chunk to the workers once it has them all.
struct Feeder<'a, F: Fn(Fault)> {
    tee: Tee<'a>,
    reader: &'a Reader<&'a dyn ReadAt>,
    expected: &'a Expected<'a>,
    jobs: SyncSender<Job>,
    fault: &'a F,
    watch: &'a dyn Fn(ByteLen),
}

impl<F: Fn(Fault)> Feeder<'_, F> {
    fn run(&mut self) -> Result<()> {
        let reader = self.reader;
        let mut due = self.expected.due().peekable();
        let mut job: Option<Job> = None;
        for mapped in reader.mapped() {
            let mapped = match mapped {
                Ok(mapped) => mapped,
                Err(error) => {
                    (self.fault)(Fault::new(self.expected.file, error.to_string()));
                    continue;
                }
            };
            let start = mapped.cluster.0.saturating_mul(reader.cluster_bytes());
            let index = start.checked_div(self.expected.chunk_bytes).unwrap_or(0);
            if job.as_ref().is_none_or(|job| job.index != index) {
                self.send(job.take());
                while let Some(missing) = due.next_if(|chunk| *chunk < index) {
                    self.missing(missing);
                }
                due.next_if(|chunk| *chunk == index);
                job = Some(Job {
                    index,
                    expected: self.expected.chunks.get(index),
                    clusters: Vec::new(),
                });
            }
            let within = start.checked_rem(self.expected.chunk_bytes).unwrap_or(0);
            let stored = self.fetch(mapped)?;
            if let (Some(job), Some((place, stored))) = (&mut job, stored) {
                let within = usize::try_from(within).unwrap_or(0);
                job.clusters.push((within, place, stored));
            }
        }
        self.send(job);
        for missing in due {
            self.missing(missing);
        }
        while self.tee.advance()? {
            (self.watch)(ByteLen(self.tee.position()));
        }
        Ok(())
    }

    fn fetch(&mut self, mapped: Mapped) -> Result<Option<(Option<Extent>, Stored)>> {
        let (host, length) = match mapped.mapping {
            Mapping::Unallocated => return Ok(None),
            Mapping::Zero => return Ok(Some((None, Stored::Zeros))),
            Mapping::Plain(host) => (host, self.reader.cluster_bytes()),
            Mapping::Compressed { host, bytes } => (host, bytes),
        };
        // The reader has checked that it begins in the file.
        let Some(place) = Extent::between(host.0, host.0.saturating_add(length)) else {
            return Ok(None);
        };
        let bytes = self
            .tee
            .copy(host.0, usize::try_from(length).unwrap_or(0))?;
        let stored = match mapped.mapping {
            Mapping::Compressed { .. } => Stored::Compressed(bytes),
            Mapping::Plain(_) | Mapping::Unallocated | Mapping::Zero => Stored::Plain(bytes),
        };
        Ok(Some((Some(place), stored)))
    }

    fn send(&self, job: Option<Job>) {
        (self.watch)(ByteLen(self.tee.position()));
        if let Some(job) = job {
            // Workers end only when we do, or panic, and that the scope passes on.
            let _ = self.jobs.send(job);
        }
    }

    fn missing(&self, index: u64) {
        let what = match self.expected.below {
            None => "the image has only zeros where there was data",
            Some(_) => "the image does not hold what changed since the capture that it builds on",
        };
        let fault = Fault::new(self.expected.file, what);
        (self.fault)(fault.on_disk(self.expected.range(index)));
    }
}

/// Decodes a chunk and compares its digest. A cluster that cannot be decoded is a fault of its
/// own, which says more than that the chunk is wrong.
struct Checker<'a> {
    expected: &'a Expected<'a>,
    cluster_bytes: usize,
    decoder: Decoder,
    /// Reused from job to job.
    chunk: Vec<u8>,
}

impl Checker<'_> {
    fn check(&mut self, job: &Job, fault: &impl Fn(Fault)) {
        let Some(range) = self.expected.range(job.index) else {
            return;
        };
        let file = self.expected.file;
        self.chunk.clear();
        let length = usize::try_from(self.expected.chunk_bytes).unwrap_or(0);
        self.chunk.resize(length, 0);
        let mut decoded = self.fill_from_below(job, range, fault);
        let mut place: Option<Extent> = None;
        for (within, at, stored) in &job.clusters {
            place = match (place, *at) {
                (Some(sum), Some(at)) => {
                    Extent::between(sum.start().0.min(at.start().0), sum.end().max(at.end()))
                }
                (sum, at) => sum.or(at),
            };
            // A cluster is never longer than a chunk, and both are powers of two.
            let rest = self.chunk.get_mut(*within..);
            let Some(target) = rest.and_then(|rest| rest.get_mut(..self.cluster_bytes)) else {
                continue;
            };
            match stored {
                Stored::Zeros => target.fill(0),
                Stored::Plain(bytes) => target.copy_from_slice(bytes),
                Stored::Compressed(stream) => {
                    if let Err(error) = self.decoder.decode(stream, target) {
                        decoded = false;
                        let start = u64::try_from(*within)
                            .ok()
                            .and_then(|within| range.start().0.checked_add(within));
                        let cluster = start
                            .and_then(|start| {
                                let length = u64::try_from(self.cluster_bytes).ok()?;
                                Extent::between(start, start.checked_add(length)?)
                            })
                            .and_then(|cluster| cluster.intersect(range));
                        fault(
                            Fault::new(file, error.to_string())
                                .on_disk(cluster)
                                .in_file(*at),
                        );
                    }
                }
            }
        }
        let length = usize::try_from(range.len().0).unwrap_or(0);
        let found = self.chunk.get(..length).and_then(chunk_digest);
        if decoded && found != job.expected {
            let what = match job.expected {
                Some(_) => "what is stored is not what was read",
                None => "there is data where the disk had only zeros",
            };
            fault(Fault::new(file, what).on_disk(Some(range)).in_file(place));
        }
    }

    /// Fills the chunk with what lies below, where the image says nothing; `false` if that cannot be
    /// read. Nothing else of it is read: what is damaged there may be the reason why the image has
    /// clusters of its own.
    fn fill_from_below(&mut self, job: &Job, range: Extent, fault: &impl Fn(Fault)) -> bool {
        let Some((_, below)) = &self.expected.below else {
            return true;
        };
        let mut own = job.clusters.iter().map(|(within, _, _)| *within).peekable();
        let length = usize::try_from(range.len().0).unwrap_or(0);
        let rest = self.chunk.get_mut(..length).unwrap_or_default();
        let mut readable = true;
        for (number, target) in rest.chunks_mut(self.cluster_bytes.max(1)).enumerate() {
            let within = number.saturating_mul(self.cluster_bytes);
            if own.next_if_eq(&within).is_some() {
                continue;
            }
            let start = u64::try_from(within).unwrap_or(0);
            let at = ByteOffset(range.start().0.saturating_add(start));
            if let Err(error) = below.read_at(at, target) {
                readable = false;
                let length = u64::try_from(target.len()).unwrap_or(0);
                let place = Extent::new(at, ByteLen(length));
                let what = format!("what it builds on cannot be read: {error}");
                fault(Fault::new(self.expected.file, what).on_disk(place));
            }
        }
        readable
    }
}
