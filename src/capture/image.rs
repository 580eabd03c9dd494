//! The image of one disk as it grows: chunks come in any order and are appended in that of the
//! disk; what was appended is noted for each checkpoint.

use super::journal::{ChunkNote, Note, Stored, What};
use crate::error::{Error, Result};
use crate::extent::{Extent, ExtentList};
use crate::qcow2::{CLUSTER_BYTES, Encoded, GuestCluster, Spares, Storage, Writer};
use crate::store::{CHUNK_BYTES, ChunkList, Digest};
use crate::units::ByteLen;
use std::collections::{BTreeMap, VecDeque};

/// A checkpoint comes after so many bytes of the image …
const CHECKPOINT_WRITTEN: u64 = 64 << 20;

/// … or of the disk.
const CHECKPOINT_READ: u64 = 512 << 20;

/// How many of the image's tables may wait in memory (64 KiB each) for deferred chunks.
const MOST_HELD: usize = 512;

/// How a cluster of zeros over an image below where it is not is noted: no stream is that short.
const ZEROED: u32 = 1;

/// A chunk that was read and encoded.
#[derive(Debug)]
pub struct Chunk {
    /// Its place on the disk.
    pub place: Extent,
    /// How many of its bytes are used.
    pub read: u64,
    /// Its digest; nothing if it is all zeros.
    pub digest: Option<Digest>,
    /// Its clusters.
    pub clusters: Vec<Encoded>,
    /// What of it could not be read, and is zero.
    pub bad: ExtentList,
}

/// See the module.
pub struct Image<S: Storage> {
    writer: Writer<S>,
    /// The number of the chunk that comes next.
    next: u64,
    /// Digests of chunks that were appended in turn, and of late ones.
    chunks: ChunkList,
    late: BTreeMap<u64, Digest>,
    /// Numbers on the disk of chunks that are tried again at the end.
    deferred: Vec<u64>,
    bad: ExtentList,
    read: u64,
    /// Since the last checkpoint.
    notes: Vec<ChunkNote>,
    noted_end: u64,
    noted_read: u64,
    /// Where the image ended when so much of the disk was dealt with, for what the medium has not
    /// taken yet.
    passed: VecDeque<(u64, u64)>,
    taken: u64,
}

/// What has become of a disk.
#[derive(Debug)]
pub struct Done {
    /// Size of the image.
    pub file_bytes: ByteLen,
    /// Digest of every chunk that is not all zero, ascending.
    pub chunks: ChunkList,
    /// What could not be read; zero in the image.
    pub bad: ExtentList,
    /// How much of the disk was dealt with.
    pub read: ByteLen,
    /// The byte of the disk from which on nothing was done, for want of room.
    pub stopped: Option<u64>,
}

impl<S: Storage> Image<S> {
    /// An image with nothing in it, or one that is told again what it has ([`Self::again`]).
    pub fn new(writer: Writer<S>) -> Self {
        Self {
            writer,
            next: 0,
            chunks: ChunkList::default(),
            late: BTreeMap::new(),
            deferred: Vec::new(),
            bad: ExtentList::new(),
            read: 0,
            notes: Vec::new(),
            noted_end: 0,
            noted_read: 0,
            passed: VecDeque::new(),
            taken: 0,
        }
    }

    /// Gives the memory of written clusters back to `spares` from now on.
    pub fn recycle(&mut self, spares: Spares) {
        self.writer.recycle(spares);
    }

    /// The number, among the chunks that are read, of the next one.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// How much of the disk was dealt with.
    pub fn read(&self) -> u64 {
        self.read
    }

    /// How much of it the medium has, which took the image up to byte `taken`.
    pub fn safe(&mut self, taken: ByteLen) -> ByteLen {
        while let Some((end, read)) = self.passed.front()
            && *end <= taken.0
        {
            self.taken = *read;
            self.passed.pop_front();
        }
        ByteLen(self.taken)
    }

    /// How large the image is so far.
    pub fn bytes_written(&self) -> ByteLen {
        self.writer.bytes_written()
    }

    /// The digests of the chunks so far, by their number on the disk, ascending; without those
    /// with bad places.
    pub fn chunks(&self) -> &ChunkList {
        &self.chunks
    }

    /// The chunks that are to be tried again.
    pub fn deferred(&self) -> &[u64] {
        &self.deferred
    }

    /// Whether one more chunk, whatever is in it, and then all that ends the image fit into `limit`
    /// bytes.
    pub fn has_room(&self, limit: ByteLen) -> bool {
        let chunks = u64::try_from(self.deferred.len()).unwrap_or(u64::MAX);
        // The clusters of a chunk, and a table for each kind of trouble.
        let chunks = chunks
            .saturating_add(1)
            .saturating_mul(CHUNK_BYTES + (256 << 10));
        let end = self.writer.bytes_written().0;
        let end = end.saturating_add(self.writer.bytes_to_finish().0);
        end.saturating_add(chunks) <= limit.0
    }

    /// Whether a chunk can be tried again later: if not, now.
    pub fn can_defer(&self) -> bool {
        self.writer.held() < MOST_HELD
    }

    /// Appends the next chunk.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn append(&mut self, chunk: Chunk) -> Result<()> {
        let (index, read) = (number(chunk.place), chunk.read);
        let stored = stored(&chunk);
        self.store(index, &stored, chunk.clusters, false)?;
        self.next = self.next.saturating_add(1);
        self.note(read, index, What::Stored(stored))
    }

    /// Leaves the next chunk for the end.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn defer(&mut self, place: Extent) -> Result<()> {
        let index = number(place);
        self.hold(index)?;
        self.next = self.next.saturating_add(1);
        self.note(0, index, What::Deferred)
    }

    /// Appends a chunk that was left for the end.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn append_late(&mut self, chunk: Chunk) -> Result<()> {
        let (index, read) = (number(chunk.place), chunk.read);
        let stored = stored(&chunk);
        self.store(index, &stored, chunk.clusters, true)?;
        self.note(read, index, What::Late(stored))
    }

    fn hold(&mut self, index: u64) -> Result<()> {
        self.writer.hold(first_cluster(index))?;
        self.deferred.push(index);
        Ok(())
    }

    fn note(&mut self, read: u64, index: u64, what: What) -> Result<()> {
        self.read = self.read.saturating_add(read);
        self.notes.push(ChunkNote { index, what });
        let end = self.writer.bytes_written().0;
        self.passed.push_back((end, self.read));
        if end.saturating_sub(self.noted_end) >= CHECKPOINT_WRITTEN
            || self.read.saturating_sub(self.noted_read) >= CHECKPOINT_READ
        {
            self.checkpoint()?;
        }
        Ok(())
    }

    fn store(
        &mut self,
        index: u64,
        stored: &Stored,
        clusters: Vec<Encoded>,
        late: bool,
    ) -> Result<()> {
        for (cluster, encoded) in (first_cluster(index).0..).zip(clusters) {
            if late {
                self.writer.append_late(GuestCluster(cluster), encoded)?;
            } else {
                self.writer.append(GuestCluster(cluster), encoded)?;
            }
        }
        for (at, len) in &stored.bad {
            let bad = at
                .checked_add(*len)
                .and_then(|end| Extent::between(*at, end));
            bad.into_iter().for_each(|bad| self.bad.insert(bad));
        }
        if late {
            self.deferred.retain(|deferred| *deferred != index);
            self.late
                .extend(stored.blake3.map(|digest| (index, digest)));
        } else if let Some(digest) = stored.blake3 {
            self.chunks.push(index, digest)?;
        }
        Ok(())
    }

    /// Has a resume begin here, from now on.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn checkpoint(&mut self) -> Result<()> {
        let (next, read) = (self.next, self.read);
        let chunks = std::mem::take(&mut self.notes);
        self.writer.checkpoint(|end| {
            super::journal::line(&Note {
                next,
                end: end.0,
                read,
                chunks,
            })
        })?;
        self.noted_end = self.writer.bytes_written().0;
        self.noted_read = self.read;
        Ok(())
    }

    /// Tells an image that is begun again what it has.
    ///
    /// # Errors
    /// When the note contradicts what was told before.
    pub fn again(&mut self, note: Note) -> Result<()> {
        for ChunkNote { index, what } in note.chunks {
            let (stored, late) = match what {
                What::Deferred => {
                    self.hold(index)?;
                    continue;
                }
                What::Stored(stored) => (stored, false),
                What::Late(stored) => (stored, true),
            };
            let clusters = stored.clusters.iter().copied().map(stand_in).collect();
            self.store(index, &stored, clusters, late)?;
        }
        self.writer.checkpoint(|_| Ok(Vec::new()))?;
        let end = self.writer.bytes_written().0;
        if end != note.end || note.next < self.next {
            return Err(Error::corrupt(format!(
                "by its journal the image ends at byte {} and by what was appended at {end}",
                note.end
            )));
        }
        (self.next, self.read, self.taken) = (note.next, note.read, note.read);
        (self.noted_end, self.noted_read) = (end, note.read);
        Ok(())
    }

    /// How many bytes before the end are needed to go on.
    pub fn tail_bytes(&self) -> ByteLen {
        self.writer.tail_bytes()
    }

    /// All was told; see [`Writer::go_on`].
    ///
    /// # Errors
    /// When `tail` is of another length.
    pub fn go_on(&mut self, tail: &[u8]) -> Result<()> {
        self.writer.go_on(tail)
    }

    /// Ends the image.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn finish(self) -> Result<Done> {
        let finished = self.writer.finish()?;
        let mut all: BTreeMap<u64, Digest> = self.late;
        let chunks = if all.is_empty() {
            self.chunks
        } else {
            all.extend(self.chunks.iter());
            let mut chunks = ChunkList::default();
            for (index, digest) in all {
                chunks.push(index, digest)?;
            }
            chunks
        };
        Ok(Done {
            file_bytes: finished.file_bytes,
            chunks,
            bad: self.bad,
            read: ByteLen(self.read),
            stopped: None,
        })
    }
}

/// The number of a chunk on its disk.
fn number(place: Extent) -> u64 {
    place.start().0 / CHUNK_BYTES
}

fn first_cluster(index: u64) -> GuestCluster {
    let per_chunk = CHUNK_BYTES >> crate::qcow2::CLUSTER_BITS;
    GuestCluster(index.saturating_mul(per_chunk))
}

fn stored(chunk: &Chunk) -> Stored {
    let length = |encoded: &Encoded| match encoded {
        Encoded::Zero => 0,
        Encoded::Zeroed => ZEROED,
        Encoded::Compressed(bytes) | Encoded::Plain(bytes) => {
            u32::try_from(bytes.len()).unwrap_or(u32::MAX)
        }
    };
    Stored {
        blake3: chunk.digest,
        clusters: chunk.clusters.iter().map(length).collect(),
        bad: chunk.bad.iter().map(|e| (e.start().0, e.len().0)).collect(),
    }
}

/// A cluster of this length in the image, when it is told again.
fn stand_in(length: u32) -> Encoded {
    match usize::try_from(length).unwrap_or(usize::MAX) {
        0 => Encoded::Zero,
        1 => Encoded::Zeroed,
        length if length < CLUSTER_BYTES => Encoded::Compressed(vec![0; length]),
        // A longer one is none of ours: the writer refuses what is not a cluster.
        length => Encoded::Plain(vec![0; length.min(CLUSTER_BYTES.saturating_add(1))]),
    }
}
