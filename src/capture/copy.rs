//! One disk into one image: read in disk order, hash and compress in parallel, append in order.
//!
//! ```text
//! readers --4 MiB chunks--> workers (BLAKE3, compression) --> image --> writing thread
//!    ^------------------------- empty buffers ----------------------|
//! ```
//!
//! A fixed number of buffers goes round, so memory is bounded whatever is slow. The digest of a
//! chunk is taken from the very buffer that was read, before anything else is done with it.
//!
//! A chunk that cannot be read is left for the end: what is well is on the medium before a disk
//! that is about to die is asked for the rest.

use super::image::{Chunk, Done, Image};
use super::level::Level;
use super::read::ChunkReader;
use super::since::Earlier;
use crate::device::{AlignedBuf, ReadAt};
use crate::error::{Error, Kind, Result};
use crate::extent::{Extent, ExtentList};
use crate::qcow2::{CLUSTER_BYTES, Compression, Encoder, Storage};
use crate::report::{Progress, Report};
use crate::store::{CHUNK_BYTES, chunk_digest};
use crate::units::{ByteLen, SectorSize};
use crate::warn;
use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// How many chunks are asked of the disk at once.
const READERS: usize = 3;

/// A disk to copy.
#[derive(Debug)]
pub struct Source<'a, D: ReadAt + ?Sized> {
    /// Where the bytes come from.
    pub disk: &'a D,
    /// What is read of it.
    pub used: &'a ExtentList,
    /// The unit in which bad spots are told apart.
    pub sector: SectorSize,
    /// What an earlier capture has of it: then only what changed is stored.
    pub earlier: Option<&'a Earlier>,
}

/// A chunk on its way: its number among the chunks that are read, its place, its bytes.
struct Raw {
    turn: u64,
    place: Extent,
    read: u64,
    bytes: AlignedBuf,
}

/// What comes back of a chunk, with its buffer.
struct Ready {
    turn: u64,
    bytes: AlignedBuf,
    /// Nothing: its place could not be read.
    chunk: Result<Chunk, Extent>,
}

/// What readers take from, one at a time: a buffer, and then the next chunk, so that a chunk that
/// is waited for has its buffer.
struct Todo<P> {
    empty: Receiver<AlignedBuf>,
    places: P,
}

/// Goes on with `image` of `source`; it may have been begun earlier. `threads` workers compress;
/// `taken` says how much of the image the medium has.
///
/// # Errors
/// When the source is gone or the destination full or gone; the image is then not readable as one.
pub fn copy_disk<D: ReadAt + ?Sized, S: Storage>(
    source: &Source<'_, D>,
    mut image: Image<S>,
    compression: Compression,
    threads: usize,
    taken: &dyn Fn() -> ByteLen,
    report: &dyn Report,
) -> Result<Done> {
    let total = source.used.total();
    let show = |image: &mut Image<S>| {
        let written = taken();
        report.progress(Progress {
            done: image.safe(written),
            total,
            written: written.min(image.bytes_written()),
        });
    };
    let reader = ChunkReader::new(source.disk, source.used, source.sector);
    let change = Change {
        earlier: source.earlier,
        report,
    };
    first_pass(
        source,
        &reader,
        &change,
        &mut image,
        compression,
        threads,
        &show,
    )?;

    let mut encoder = Encoder::new(compression)?;
    let deferred = image.deferred().to_vec();
    if !deferred.is_empty() {
        warn!(
            report,
            "{}: going back to {} places of {} that could not be read; this can take long",
            source.disk.name(),
            deferred.len(),
            ByteLen(CHUNK_BYTES)
        );
        image.checkpoint()?;
    }
    for index in deferred {
        let start = index.saturating_mul(CHUNK_BYTES);
        let end = start.saturating_add(CHUNK_BYTES).min(source.disk.size().0);
        if let Some(place) = Extent::between(start, end) {
            let chunk = rescue(&reader, &change, &mut encoder, place)?;
            image.append_late(chunk)?;
            // Each may have cost minutes.
            image.checkpoint()?;
            show(&mut image);
        }
    }
    image.finish()
}

/// Reads around what cannot be read.
fn rescue<D: ReadAt + ?Sized>(
    reader: &ChunkReader<'_, D>,
    change: &Change<'_>,
    encoder: &mut Encoder,
    place: Extent,
) -> Result<Chunk> {
    let mut bytes = AlignedBuf::new(chunk_len()?);
    bytes.set_len(usize::try_from(place.len().0).unwrap_or(0));
    let (read, bad) = reader.rescue(place, &mut bytes)?;
    Ok(change.encode(encoder, place, read.0, &bytes, bad))
}

/// All chunks that `image` does not have yet, but those that cannot be read.
fn first_pass<D: ReadAt + ?Sized, S: Storage>(
    source: &Source<'_, D>,
    reader: &ChunkReader<'_, D>,
    change: &Change<'_>,
    image: &mut Image<S>,
    compression: Compression,
    threads: usize,
    show: &dyn Fn(&mut Image<S>),
) -> Result<()> {
    let threads = threads.max(1);
    let buffers = threads.saturating_add(READERS).saturating_add(2);
    let (empty_in, empty_out) = channel::<AlignedBuf>();
    let (work_in, work_out) = sync_channel::<Raw>(buffers);
    let (ready_in, ready_out) = channel::<Result<Ready>>();
    for _ in 0..buffers {
        // Cannot fail: the receiver lives until the scope ends.
        let _ = empty_in.send(AlignedBuf::new(chunk_len()?));
    }
    let work_out = Mutex::new(work_out);
    let skip = usize::try_from(image.next()).unwrap_or(usize::MAX);
    // What was not zero then may be gone from what is used now.
    let wanted = source.earlier.map(|earlier| earlier.wanted(source.used));
    let wanted = wanted.as_ref().unwrap_or(source.used);
    let places = (0_u64..).zip(chunks_of(wanted, source.disk.size()));
    let todo = Mutex::new(Todo {
        empty: empty_out,
        places: places.skip(skip),
    });
    let level = Level::new();

    std::thread::scope(|scope| {
        for _ in 0..READERS {
            let (work_in, ready_in) = (work_in.clone(), ready_in.clone());
            let todo = &todo;
            scope.spawn(move || read_chunks(reader, todo, &work_in, &ready_in));
        }
        drop(work_in);
        for _ in 0..threads {
            let ready_in = ready_in.clone();
            let (work_out, level) = (&work_out, &level);
            scope.spawn(move || encode_chunks(compression, level, change, work_out, &ready_in));
        }
        drop(ready_in);

        let mut pilot = level.pilot(threads);
        let mut order = Order {
            waiting: BTreeMap::new(),
            empty: empty_in,
        };
        let mut encoder = Encoder::new(compression)?;
        for ready in ready_out {
            order.take(ready?, image, &mut |place| {
                rescue(reader, change, &mut encoder, place)
            })?;
            pilot.look();
            show(image);
        }
        // After an error `order` is gone, and without buffers coming back the readers end, and with
        // them the workers.
        Ok(())
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

fn chunk_len() -> Result<usize> {
    usize::try_from(CHUNK_BYTES)
        .map_err(|_| Error::corrupt("a chunk does not fit the address space"))
}

fn read_chunks<D: ReadAt + ?Sized>(
    reader: &ChunkReader<'_, D>,
    todo: &Mutex<Todo<impl Iterator<Item = (u64, Extent)>>>,
    work: &SyncSender<Raw>,
    ready: &Sender<Result<Ready>>,
) {
    loop {
        let mut next = todo.lock().unwrap_or_else(PoisonError::into_inner);
        // The other side hung up: it knows why.
        let Ok(mut bytes) = next.empty.recv() else {
            return;
        };
        let Some((turn, place)) = next.places.next() else {
            return;
        };
        drop(next);
        bytes.set_len(usize::try_from(place.len().0).unwrap_or(0));
        let sent = match reader.fill(place, &mut bytes) {
            Ok(read) => {
                let read = read.0;
                work.send(Raw {
                    turn,
                    place,
                    read,
                    bytes,
                })
                .is_ok()
            }
            Err(error) if error.kind() == Kind::Io => ready
                .send(Ok(Ready {
                    turn,
                    bytes,
                    chunk: Err(place),
                }))
                .is_ok(),
            Err(error) => {
                let _ = ready.send(Err(error));
                false
            }
        };
        if !sent {
            return;
        }
    }
}

fn encode_chunks(
    compression: Compression,
    level: &Level,
    change: &Change<'_>,
    work: &Mutex<Receiver<Raw>>,
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
        let Ok(raw) = next else { return };
        let start = Instant::now();
        if let Err(error) = encoder.set_level(level.now()) {
            let _ = ready.send(Err(error));
            return;
        }
        let chunk = change.encode(
            &mut encoder,
            raw.place,
            raw.read,
            &raw.bytes,
            ExtentList::new(),
        );
        level.worked(start);
        let encoded = Ready {
            turn: raw.turn,
            bytes: raw.bytes,
            chunk: Ok(chunk),
        };
        if ready.send(Ok(encoded)).is_err() {
            return;
        }
    }
}

/// What is stored of what was read.
struct Change<'a> {
    earlier: Option<&'a Earlier>,
    report: &'a dyn Report,
}

impl Change<'_> {
    fn encode(
        &self,
        encoder: &mut Encoder,
        place: Extent,
        read: u64,
        bytes: &[u8],
        bad: ExtentList,
    ) -> Chunk {
        let digest = chunk_digest(bytes);
        let clusters = match (self.earlier, digest) {
            (Some(earlier), _) => earlier.changes(place, digest, bytes, encoder, |error| {
                warn!(
                    self.report,
                    "the earlier capture is damaged, so all of bytes {} to {} of the disk is \
                         stored anew: {error}",
                    place.start(),
                    place.end()
                );
            }),
            (None, None) => Vec::new(),
            (None, Some(_)) => bytes
                .chunks(CLUSTER_BYTES)
                .map(|c| encoder.encode(c))
                .collect(),
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

/// Puts chunks back into the order of the disk, and buffers back into the round.
struct Order {
    waiting: BTreeMap<u64, Ready>,
    empty: Sender<AlignedBuf>,
}

impl Order {
    fn take<S: Storage>(
        &mut self,
        ready: Ready,
        image: &mut Image<S>,
        rescue: &mut dyn FnMut(Extent) -> Result<Chunk>,
    ) -> Result<()> {
        self.waiting.insert(ready.turn, ready);
        while let Some(ready) = self.waiting.remove(&image.next()) {
            match ready.chunk {
                Ok(chunk) => image.append(chunk)?,
                Err(place) if image.can_defer() => image.defer(place)?,
                Err(place) => image.append(rescue(place)?)?,
            }
            // The readers may have ended already and left.
            let _ = self.empty.send(ready.bytes);
        }
        Ok(())
    }
}
