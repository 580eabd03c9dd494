//! The workers that all disks of a capture share: what was read of any of them goes in, chunks that
//! are digested and compressed come out, to whoever copies that disk.
//!
//! ```text
//! readers of disk 0 --\                                  /--> image of disk 0
//! readers of disk 1 ---> workers (BLAKE3, compression) ---> image of disk 1
//! ```

use super::image::Chunk;
use super::level::{Level, Pilot};
use super::since::Earlier;
use crate::device::AlignedBuf;
use crate::error::Result;
use crate::extent::{Extent, ExtentList};
use crate::qcow2::{CLUSTER_BYTES, Compression, Encoded, Encoder, Spares, is_zero};
use crate::report::Report;
use crate::store::{ChunkHasher, Digest, chunk_digest};
use crate::warn;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SendError, Sender, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError, TryLockError};
use std::time::Instant;

/// How many chunks wait for a worker at the most. There are never as many: readers wait for buffers
/// first.
const WAITING: usize = 1024;

/// How many chunks of a disk that is captured alone may wait …
const WAITING_ALONE: usize = 6;

/// … where not more than this are on their way: many workers have many on their way anyway.
const CHUNKS_ALONE: usize = 10;

/// A chunk on its way: its number among the chunks that are read of its disk, its place, how many of
/// its bytes are used, its bytes.
pub(super) struct Raw {
    pub(super) turn: u64,
    pub(super) place: Extent,
    pub(super) read: u64,
    pub(super) bytes: AlignedBuf,
}

/// What comes back of a chunk, with its buffer.
pub(super) struct Ready {
    pub(super) turn: u64,
    pub(super) bytes: AlignedBuf,
    /// Nothing: its place could not be read.
    pub(super) chunk: Result<Chunk, Extent>,
}

/// A chunk, what is to become of it, and who waits for it.
pub(super) struct Job<'env> {
    pub(super) raw: Raw,
    pub(super) how: Arc<How<'env>>,
    pub(super) ready: Sender<Result<Ready>>,
}

/// How a disk's chunks are stored.
pub(super) struct How<'env> {
    pub(super) compression: Compression,
    /// What an earlier capture has of the disk: then only what changed is stored.
    pub(super) earlier: Option<&'env Earlier>,
    pub(super) report: &'env dyn Report,
}

impl How<'_> {
    /// What is stored of a chunk whose bytes were read.
    pub(super) fn encode(
        &self,
        encoder: &mut Encoder,
        place: Extent,
        read: u64,
        bytes: &[u8],
        bad: ExtentList,
    ) -> Chunk {
        let (digest, clusters) = match self.earlier {
            None => digest_and_encode(bytes, encoder),
            Some(earlier) => {
                let digest = chunk_digest(bytes);
                let clusters = earlier.changes(place, digest, bytes, encoder, |error| {
                    warn!(
                        self.report,
                        "the earlier capture is damaged, so all of bytes {} to {} of the disk is \
                         stored anew: {error}",
                        place.start(),
                        place.end()
                    );
                });
                (digest, clusters)
            }
        };
        Chunk {
            place,
            read,
            digest,
            clusters,
            bad,
        }
    }
}

/// The digest of a chunk, and what is stored of its clusters; none of both if it is all zeros. One
/// cluster after the other, so that the compressor finds it in the processor's cache.
pub fn digest_and_encode(chunk: &[u8], encoder: &mut Encoder) -> (Option<Digest>, Vec<Encoded>) {
    if is_zero(chunk) {
        return (None, Vec::new());
    }
    let mut hasher = ChunkHasher::default();
    let clusters = chunk
        .chunks(CLUSTER_BYTES)
        .map(|cluster| {
            hasher.update(cluster);
            encoder.encode(cluster)
        })
        .collect();
    (Some(hasher.finish()), clusters)
}

/// See the module.
pub struct Pool<'env> {
    jobs: SyncSender<Job<'env>>,
    threads: usize,
    at_once: usize,
    level: Arc<Level>,
    read: Arc<AtomicU64>,
    pilot: Mutex<Pilot>,
    stopped: AtomicBool,
    spares: Spares,
}

impl fmt::Debug for Pool<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("threads", &self.threads)
            .finish_non_exhaustive()
    }
}

impl<'env> Pool<'env> {
    /// Lets `work` use `threads` workers for `at_once` disks; they end when it returns.
    pub fn run<R>(threads: usize, at_once: usize, work: impl FnOnce(&Self) -> R) -> R {
        let threads = threads.max(1);
        let (jobs, todo) = sync_channel(WAITING);
        let todo = Mutex::new(todo);
        let level = Arc::new(Level::new());
        let read = Arc::new(AtomicU64::new(0));
        let spares = Spares::default();
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| serve(&todo, &level, &read, &spares));
            }
            let pool = Self {
                jobs,
                threads,
                at_once: at_once.max(1),
                read: Arc::clone(&read),
                pilot: Mutex::new(Pilot::new(Arc::clone(&level), threads)),
                level: Arc::clone(&level),
                stopped: AtomicBool::new(false),
                spares: spares.clone(),
            };
            work(&pool)
        })
    }

    /// The memory that workers encode clusters into, for it to come back.
    pub(super) fn spares(&self) -> Spares {
        self.spares.clone()
    }

    /// How many workers there are.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// How many chunks of a disk may be with the workers, or wait for one of them or for its image's writer.
    pub(super) fn chunks_a_disk(&self) -> usize {
        let workers = self.threads.div_ceil(self.at_once);
        let least = workers.saturating_add(2);
        if self.at_once > 1 {
            return least;
        }
        // A disk alone may take more memory, so that a read that takes long is not waited for.
        workers
            .saturating_add(WAITING_ALONE)
            .min(least.max(CHUNKS_ALONE))
    }

    /// Bytes of disks that workers got so far.
    pub fn read(&self) -> u64 {
        self.read.load(Ordering::Relaxed)
    }

    /// Nanoseconds that all workers together were busy so far.
    pub fn busy(&self) -> u64 {
        self.level.busy()
    }

    /// Has all who use it stop, as one of them failed.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    /// Whether one of those who use it failed.
    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    pub(super) fn send(&self, job: Job<'env>) -> Result<(), SendError<Job<'env>>> {
        self.jobs.send(job)
    }

    /// Called often; adapts the level once in a while.
    pub(super) fn look(&self) {
        match self.pilot.try_lock() {
            Ok(mut pilot) => pilot.look(),
            Err(TryLockError::Poisoned(pilot)) => pilot.into_inner().look(),
            // Somebody else does.
            Err(TryLockError::WouldBlock) => {}
        }
    }
}

/// A worker, until nobody has work any more.
fn serve(todo: &Mutex<Receiver<Job<'_>>>, level: &Level, read: &AtomicU64, spares: &Spares) {
    let mut kept: Option<(Compression, Encoder)> = None;
    loop {
        let next = todo.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(Job { raw, how, ready }) = next else {
            return;
        };
        let start = Instant::now();
        read.fetch_add(raw.read, Ordering::Relaxed);
        let done = encoder(&mut kept, how.compression, level, spares).map(|encoder| Ready {
            turn: raw.turn,
            chunk: Ok(how.encode(encoder, raw.place, raw.read, &raw.bytes, ExtentList::new())),
            bytes: raw.bytes,
        });
        level.worked(start);
        // If nobody listens any more, somebody else has failed and said so.
        let _ = ready.send(done);
    }
}

/// The encoder that was kept, if it is of that kind, or a new one; at the level of now.
fn encoder<'a>(
    kept: &'a mut Option<(Compression, Encoder)>,
    compression: Compression,
    level: &Level,
    spares: &Spares,
) -> Result<&'a mut Encoder> {
    if kept.as_ref().is_none_or(|(kind, _)| *kind != compression) {
        *kept = None;
    }
    let (_, encoder) = match kept {
        Some(kept) => kept,
        None => kept.insert((compression, Encoder::new(compression)?.with(spares.clone()))),
    };
    encoder.set_level(level.now())?;
    Ok(encoder)
}
