//! One disk into one image: read in disk order, hash and compress in parallel, append in order.
//!
//! ```text
//! readers --4 MiB chunks--> workers of the pool --> image --> writing thread
//!    ^------------------------- empty buffers ----------------------|
//! ```
//!
//! A fixed number of buffers goes round, so memory is bounded whatever is slow. The digest of a
//! chunk is taken from the very buffer that was read, before anything else is done with it.
//!
//! A chunk that cannot be read is left for the end: what is well is on the medium before a disk
//! that is about to die is asked for the rest.

use super::disks::Gate;
use super::image::{Chunk, Done, Image};
use super::pool::{How, Job, Pool, Raw, Ready};
use super::read::ChunkReader;
use super::since::Earlier;
use crate::device::{AlignedBuf, ReadAt};
use crate::error::{Error, Kind, Result};
use crate::extent::{Extent, ExtentList};
use crate::qcow2::{Compression, Encoder, Storage};
use crate::report::{Progress, Report};
use crate::store::CHUNK_BYTES;
use crate::units::{ByteLen, SectorSize};
use crate::warn;
use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};

/// How many chunks are asked of the disk at once.
const READERS: usize = 4;

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
    /// How large the image may become: before it does, it is ended, and what is left of the disk is
    /// for another one.
    pub limit: Option<ByteLen>,
}

/// What readers take from, one at a time: a buffer, and then the next chunk, so that a chunk that
/// is waited for has its buffer.
struct Todo<P> {
    empty: Receiver<AlignedBuf>,
    places: P,
}

/// Goes on with `image` of `source`, with the workers of `pool`; it may have been begun earlier.
/// `gate` has reading wait while it is closed; `taken` says how much of the image the medium has.
///
/// # Errors
/// When the source is gone or the destination full (without a limit) or gone, or the pool stopped;
/// the image is then not readable as one.
pub fn copy_disk<'env, D: ReadAt + ?Sized, S: Storage>(
    source: &Source<'env, D>,
    mut image: Image<S>,
    compression: Compression,
    pool: &Pool<'env>,
    gate: Option<&Gate>,
    taken: &dyn Fn() -> ByteLen,
    report: &'env dyn Report,
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
    let how = Arc::new(How {
        compression,
        earlier: source.earlier,
        report,
    });
    let readers = Readers {
        reader: &reader,
        how: &how,
        pool,
        gate,
    };
    image.recycle(pool.spares());
    let stopped = first_pass(source, &readers, &mut image, &show)?;

    let mut encoder = Encoder::new(compression)?.with(pool.spares());
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
            let chunk = rescue(&reader, &how, &mut encoder, place)?;
            image.append_late(chunk)?;
            // Each may have cost minutes.
            image.checkpoint()?;
            show(&mut image);
        }
    }
    Ok(Done {
        stopped,
        ..image.finish()?
    })
}

/// Reads around what cannot be read.
fn rescue<D: ReadAt + ?Sized>(
    reader: &ChunkReader<'_, D>,
    how: &How<'_>,
    encoder: &mut Encoder,
    place: Extent,
) -> Result<Chunk> {
    let mut bytes = chunk_buffer()?;
    bytes.set_len(usize::try_from(place.len().0).unwrap_or(0));
    let (read, bad) = reader.rescue(place, &mut bytes)?;
    Ok(how.encode(encoder, place, read.0, &bytes, bad))
}

/// All chunks that `image` does not have yet, but those that cannot be read. Returns where it had no
/// more room, if it had not.
fn first_pass<'env, D: ReadAt + ?Sized, S: Storage>(
    source: &Source<'env, D>,
    readers: &Readers<'_, 'env, D>,
    image: &mut Image<S>,
    show: &dyn Fn(&mut Image<S>),
) -> Result<Option<u64>> {
    let Readers {
        reader, how, pool, ..
    } = *readers;
    let buffers = pool.chunks_a_disk().saturating_add(READERS);
    let (empty_in, empty_out) = channel::<AlignedBuf>();
    let (ready_in, ready_out) = channel::<Result<Ready>>();
    for _ in 0..buffers {
        // Cannot fail: the receiver lives until the scope ends.
        let _ = empty_in.send(chunk_buffer()?);
    }
    let skip = usize::try_from(image.next()).unwrap_or(usize::MAX);
    // What was not zero then may be gone from what is used now.
    let wanted = source.earlier.map(|earlier| earlier.wanted(source.used));
    let wanted = wanted.as_ref().unwrap_or(source.used);
    let places = (0_u64..).zip(chunks_of(wanted, source.disk.size()));
    let todo = Mutex::new(Todo {
        empty: empty_out,
        places: places.skip(skip),
    });

    std::thread::scope(|scope| {
        for _ in 0..READERS {
            let ready = ready_in.clone();
            let todo = &todo;
            scope.spawn(move || readers.read(todo, &ready));
        }
        drop(ready_in);

        let mut order = Order {
            waiting: BTreeMap::new(),
            empty: empty_in,
        };
        let mut encoder = Encoder::new(how.compression)?.with(pool.spares());
        for ready in ready_out {
            if pool.is_stopped() {
                return Err(Error::new(Kind::Io, "another disk could not be captured"));
            }
            let stopped = order.take(ready?, image, source.limit, &mut |place| {
                rescue(reader, how, &mut encoder, place)
            })?;
            if stopped.is_some() {
                return Ok(stopped);
            }
            pool.look();
            show(image);
        }
        // After an error `order` is gone, and without buffers coming back the readers end.
        Ok(None)
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

fn chunk_buffer() -> Result<AlignedBuf> {
    let length = usize::try_from(CHUNK_BYTES)
        .map_err(|_| Error::corrupt("a chunk does not fit the address space"))?;
    AlignedBuf::new(length).map_err(|e| Error::io("getting memory for a chunk", e))
}

/// What the readers of a disk have in common.
struct Readers<'a, 'env, D: ReadAt + ?Sized> {
    reader: &'a ChunkReader<'a, D>,
    how: &'a Arc<How<'env>>,
    pool: &'a Pool<'env>,
    gate: Option<&'a Gate>,
}

impl<D: ReadAt + ?Sized> Readers<'_, '_, D> {
    fn read(
        &self,
        todo: &Mutex<Todo<impl Iterator<Item = (u64, Extent)>>>,
        ready: &Sender<Result<Ready>>,
    ) {
        loop {
            if let Some(gate) = self.gate {
                gate.pass();
            }
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
            let sent = match self.reader.fill(place, &mut bytes) {
                Ok(read) => {
                    let raw = Raw {
                        turn,
                        place,
                        read: read.0,
                        bytes,
                    };
                    let (how, ready) = (Arc::clone(self.how), ready.clone());
                    self.pool.send(Job { raw, how, ready }).is_ok()
                }
                Err(error) if error.kind() == Kind::Io => {
                    let chunk = Err(place);
                    ready.send(Ok(Ready { turn, bytes, chunk })).is_ok()
                }
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
        limit: Option<ByteLen>,
        rescue: &mut dyn FnMut(Extent) -> Result<Chunk>,
    ) -> Result<Option<u64>> {
        self.waiting.insert(ready.turn, ready);
        while let Some(ready) = self.waiting.remove(&image.next()) {
            if limit.is_some_and(|limit| !image.has_room(limit)) {
                let place = ready.chunk.map_or_else(|place| place, |chunk| chunk.place);
                return Ok(Some(place.start().0));
            }
            match ready.chunk {
                Ok(chunk) => image.append(chunk)?,
                Err(place) if image.can_defer() => image.defer(place)?,
                Err(place) => image.append(rescue(place)?)?,
            }
            // The readers may have ended already and left.
            let _ = self.empty.send(ready.bytes);
        }
        Ok(None)
    }
}
