//! One disk into one image: read in disk order, hash and compress in parallel, append in order.
//!
//! ```text
//! reader --4 MiB chunks--> workers (BLAKE3, compression) --> appender (qcow2 writer)
//!    ^------------------------- empty buffers ----------------------|
//! ```
//!
//! A fixed number of buffers goes round, so memory is bounded whatever is slow. The digest of a
//! chunk is taken from the very buffer that was read, before anything else is done with it.

use super::read::ChunkReader;
use crate::device::ReadAt;
use crate::error::{Error, Result};
use crate::extent::{Extent, ExtentList};
use crate::qcow2::{self, CLUSTER_BYTES, Compression, Encoded, Encoder, GuestCluster};
use crate::report::{Progress, Report};
use crate::store::{CHUNK_BYTES, ChunkList, Digest, chunk_digest};
use crate::units::{ByteLen, SectorSize};
use std::collections::BTreeMap;
use std::fs::File;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Mutex, PoisonError};

/// What was copied.
#[derive(Debug)]
pub struct Copied {
    /// Size of the finished image file.
    pub file_bytes: ByteLen,
    /// Digest of every chunk that is not all zero, ascending.
    pub chunks: ChunkList,
    /// What could not be read; zero in the image.
    pub bad: ExtentList,
    /// How much was read off the disk.
    pub read: ByteLen,
}

/// A disk to copy.
#[derive(Debug)]
pub struct Source<'a, D: ReadAt + ?Sized> {
    /// Where the bytes come from.
    pub disk: &'a D,
    /// What is read of it.
    pub used: &'a ExtentList,
    /// The unit in which bad spots are told apart.
    pub sector: SectorSize,
}

/// A chunk on its way: its number among the chunks that are read, its place, its bytes.
struct Chunk {
    turn: u64,
    place: Extent,
    bytes: Vec<u8>,
}

/// A chunk that is ready to be appended.
struct Ready {
    chunk: Chunk,
    digest: Option<Digest>,
    clusters: Vec<Encoded>,
}

/// Copies the used extents of `source` into a new image in `file`. `threads` workers compress.
///
/// # Errors
/// When the source is gone or the destination full or gone; the image is then not readable as one.
pub fn copy_disk<D: ReadAt + ?Sized>(
    source: &Source<'_, D>,
    file: File,
    compression: Compression,
    threads: usize,
    report: &dyn Report,
) -> Result<Copied> {
    let threads = threads.max(1);
    let mut writer = qcow2::Writer::create(file, source.disk.size(), compression)?;
    let total = source.used.total();
    let read_so_far = AtomicU64::new(0);

    let buffers = threads.saturating_add(3);
    let (empty_in, empty_out) = channel::<Vec<u8>>();
    let (work_in, work_out) = sync_channel::<Chunk>(buffers);
    let (ready_in, ready_out) = channel::<Result<Ready>>();
    let chunk_len = usize::try_from(CHUNK_BYTES)
        .map_err(|_| Error::corrupt("a chunk does not fit the address space"))?;
    for _ in 0..buffers {
        // Cannot fail: the receiver lives until the scope ends.
        let _ = empty_in.send(Vec::with_capacity(chunk_len));
    }
    let work_out = Mutex::new(work_out);

    std::thread::scope(|scope| {
        let reader = scope.spawn({
            let read_so_far = &read_so_far;
            move || read_chunks(source, &empty_out, &work_in, read_so_far)
        });
        for _ in 0..threads {
            let ready_in = ready_in.clone();
            let work_out = &work_out;
            scope.spawn(move || encode_chunks(compression, work_out, &ready_in));
        }
        drop(ready_in);

        let mut chunks = ChunkList::default();
        let mut appender = Appender {
            next: 0,
            waiting: BTreeMap::new(),
        };
        let mut failure = None;
        for ready in ready_out {
            let appended = ready.and_then(|ready| {
                appender.take(ready, &mut writer, &mut chunks, &empty_in)?;
                report.progress(Progress {
                    done: ByteLen(read_so_far.load(Ordering::Relaxed)),
                    total,
                    written: writer.bytes_written(),
                });
                Ok(())
            });
            if let Err(error) = appended {
                failure = Some(error);
                break;
            }
        }
        // Without buffers coming back the reader ends, and with it the workers.
        drop(empty_in);
        let bad = reader
            .join()
            .unwrap_or_else(|_| Err(Error::corrupt("the reading thread ended unexpectedly")));
        // A reader that ran out of buffers because appending failed has nothing of its own to say.
        if let Some(error) = failure {
            return Err(error);
        }
        let bad = bad?;
        let finished = writer.finish()?;
        Ok(Copied {
            file_bytes: finished.file_bytes,
            chunks,
            bad,
            read: ByteLen(read_so_far.load(Ordering::Relaxed)),
        })
    })
}

/// The chunks that hold at least one used byte, ascending.
pub(super) fn chunks_of(used: &ExtentList, size: ByteLen) -> impl Iterator<Item = Extent> + '_ {
    let mut next = 0_u64;
    used.iter()
        .flat_map(move |extent| {
            let first = (extent.start().0 / CHUNK_BYTES).max(next);
            let last = extent.end().saturating_sub(1) / CHUNK_BYTES;
            next = last.saturating_add(1);
            first..next
        })
        .filter_map(move |index| {
            let start = index.saturating_mul(CHUNK_BYTES);
            Extent::between(start, start.saturating_add(CHUNK_BYTES).min(size.0))
        })
}

fn read_chunks<D: ReadAt + ?Sized>(
    source: &Source<'_, D>,
    empty: &Receiver<Vec<u8>>,
    work: &SyncSender<Chunk>,
    read_so_far: &AtomicU64,
) -> Result<ExtentList> {
    let mut reader = ChunkReader::new(source.disk, source.used, source.sector);
    for (turn, place) in (0_u64..).zip(chunks_of(source.used, source.disk.size())) {
        // The other side hung up: it knows why.
        let Ok(mut bytes) = empty.recv() else { break };
        let len = usize::try_from(place.len().0)
            .map_err(|_| Error::corrupt("a chunk does not fit the address space"))?;
        bytes.resize(len, 0);
        let read = reader.fill(place, &mut bytes)?;
        read_so_far.fetch_add(read.0, Ordering::Relaxed);
        if work.send(Chunk { turn, place, bytes }).is_err() {
            break;
        }
    }
    Ok(reader.into_bad())
}

fn encode_chunks(
    compression: Compression,
    work: &Mutex<Receiver<Chunk>>,
    ready: &Sender<Result<Ready>>,
) {
    let mut encoder = match Encoder::new(compression) {
        Ok(encoder) => encoder,
        Err(error) => {
            // If nobody listens any more, somebody else has failed and said so.
            let _ = ready.send(Err(error));
            return;
        }
    };
    loop {
        let next = work.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(chunk) = next else { return };
        if ready.send(Ok(encode(&mut encoder, chunk))).is_err() {
            return;
        }
    }
}

fn encode(encoder: &mut Encoder, chunk: Chunk) -> Ready {
    let digest = chunk_digest(&chunk.bytes);
    let clusters = match digest {
        None => Vec::new(),
        Some(_) => chunk
            .bytes
            .chunks(CLUSTER_BYTES)
            .map(|c| encoder.encode(c))
            .collect(),
    };
    Ready {
        chunk,
        digest,
        clusters,
    }
}

/// Puts chunks back into the order of the disk.
struct Appender {
    next: u64,
    waiting: BTreeMap<u64, Ready>,
}

impl Appender {
    fn take(
        &mut self,
        ready: Ready,
        writer: &mut qcow2::Writer,
        chunks: &mut ChunkList,
        empty: &Sender<Vec<u8>>,
    ) -> Result<()> {
        self.waiting.insert(ready.chunk.turn, ready);
        while let Some(ready) = self.waiting.remove(&self.next) {
            self.next = self.next.saturating_add(1);
            let start = ready.chunk.place.start().0;
            let first = start / cluster_bytes();
            for (index, encoded) in (first..).zip(ready.clusters) {
                writer.append(GuestCluster(index), encoded)?;
            }
            if let Some(digest) = ready.digest {
                chunks.push(start / CHUNK_BYTES, digest)?;
            }
            // The reader may have ended already and left.
            let _ = empty.send(ready.chunk.bytes);
        }
        Ok(())
    }
}

fn cluster_bytes() -> u64 {
    // 65,536 on every platform.
    u64::try_from(CLUSTER_BYTES).unwrap_or(u64::MAX)
}
