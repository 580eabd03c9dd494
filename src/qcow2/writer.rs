//! The writer: appends, and nothing else. Host offsets only grow, so a slow stick sees large
//! sequential writes; the header comes last, so a file cut short at any write has no magic.
//!
//! What is in memory does not grow with the disk: L2 tables and refcount blocks that are final
//! are written between the data, a few hundred at a time; only the L1 table (8 bytes per 512 MiB)
//! stays.
//!
//! A run that was interrupted goes on in the same file: what was appended up to a checkpoint is
//! told again, without the bytes, and leads to the same state ([`Writer::replay`]).

use super::backing::header_over;
use super::encode::{Compression, Encoded};
use super::entry::{COPIED, Mapping};
use super::header::{CompressionType, Header, MAX_L1_BYTES, l1_entries_for};
use super::refcount::Refcounts;
use super::spares::Spares;
use super::{CLUSTER, CLUSTER_BITS, CLUSTER_BYTES, GuestCluster, HostOffset, Storage};
use crate::device::AlignedBuf;
use crate::error::{Error, Kind, Result};
use crate::units::ByteLen;
use std::collections::BTreeMap;
use std::fs::File;

/// Every write but the last ends at a multiple of this: whole erase blocks of most sticks.
const WRITE_BYTES: u64 = 4 << 20;

/// L2 entries in a table: it covers 512 MiB of the disk.
const L2_ENTRIES: u64 = CLUSTER / 8;

/// Tables that are kept back so that they lie together (16 MiB): their reader seeks less.
const TABLES_KEPT: usize = 256;

/// A plain cluster must lie at a multiple of the cluster size, a compressed one need not. Where
/// both kinds alternate, filling up each time would cost what compression gains, so plain ones
/// wait until this many are together …
const PLAIN_KEPT: usize = 32;

/// … or this many bytes of compressed ones were written since the first of them.
const PLAIN_KEPT_FOR: u64 = 4 << 20;

/// No compressor makes 64 KiB of anything shorter; refcounts of 16 bits rely on it.
const SHORTEST_STREAM: usize = 9;

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Finished {
    /// The size of the file.
    pub file_bytes: ByteLen,
    /// Clusters of the disk that the file holds; all others read as zeros.
    pub data_clusters: u64,
    /// Those of them that are compressed.
    pub compressed_clusters: u64,
}

/// See the module. After an error it refuses all further work.
#[must_use = "without finish() the file has no header"]
pub struct Writer<S: Storage = File> {
    storage: S,
    virtual_size: ByteLen,
    compression: CompressionType,
    /// The image below, if what is not in this one is in that.
    backing: Option<String>,
    /// Bytes for the storage from `end - buffer.len()` on.
    buffer: AlignedBuf,
    /// Where the next byte goes.
    end: u64,
    /// The guest cluster that may come next at the earliest.
    next: u64,
    l1: Vec<u64>,
    /// Index of the L2 table being filled, and the table.
    open_table: Option<(usize, Vec<u64>)>,
    /// L2 tables that are final, by their L1 index.
    tables: Vec<(usize, Vec<u64>)>,
    /// L2 tables that wait for late clusters, by their L1 index.
    held: BTreeMap<usize, Vec<u64>>,
    /// Plain clusters that wait, by their index in the open table.
    plain: Vec<(usize, Vec<u8>)>,
    /// `end` when the first of them came.
    plain_since: u64,
    refcounts: Refcounts,
    /// Where the memory of clusters goes that were written.
    spares: Option<Spares>,
    finished: Finished,
    failed: bool,
    /// Whether what comes is in the file already.
    replaying: bool,
}

impl<S: Storage> Writer<S> {
    /// Starts an image of a disk of `virtual_size` bytes in an empty `storage`. Errors do not name
    /// the file, as only the caller knows how people call it: add it with [`Error::on`].
    ///
    /// # Errors
    /// When a qcow2 image cannot have that size.
    pub fn create(storage: S, virtual_size: ByteLen, compression: Compression) -> Result<Self> {
        if virtual_size.0 == 0 || !virtual_size.0.is_multiple_of(512) {
            return Err(Error::new(
                Kind::Unsupported,
                format!(
                    "a disk of {} bytes: not a whole number of 512-byte sectors",
                    virtual_size.0
                ),
            ));
        }
        let l1_entries = l1_entries_for(virtual_size, CLUSTER_BITS);
        if l1_entries * 8 > MAX_L1_BYTES {
            return Err(Error::new(
                Kind::Unsupported,
                format!("a disk of {virtual_size}: qcow2 ends at 2 PiB"),
            ));
        }
        let mut refcounts = Refcounts::default();
        refcounts.add(HostOffset(0), CLUSTER);
        Ok(Self {
            storage,
            virtual_size,
            compression: match compression {
                Compression::Zstd => CompressionType::Zstd,
                // Of an image without compressed clusters the type says nothing.
                Compression::Zlib | Compression::None => CompressionType::Zlib,
            },
            backing: None,
            buffer: AlignedBuf::new(WRITE_BYTES as usize)
                .map_err(|e| Error::io("getting memory for an image", e))?,
            end: CLUSTER,
            next: 0,
            l1: vec![0; l1_entries as usize],
            open_table: None,
            tables: Vec::new(),
            held: BTreeMap::new(),
            plain: Vec::new(),
            plain_since: 0,
            refcounts,
            spares: None,
            finished: Finished {
                file_bytes: ByteLen::ZERO,
                data_clusters: 0,
                compressed_clusters: 0,
            },
            failed: false,
            replaying: false,
        })
    }

    /// As [`Self::create`], for a file that an interrupted run has left. First tell again what was
    /// appended to it ([`Self::append`], [`Self::hold`], [`Self::checkpoint`] and the others; of the
    /// clusters only the kind and the length matter), then call [`Self::go_on`].
    ///
    /// # Errors
    /// As [`Self::create`].
    pub fn replay(storage: S, virtual_size: ByteLen, compression: Compression) -> Result<Self> {
        let mut writer = Self::create(storage, virtual_size, compression)?;
        writer.replaying = true;
        Ok(writer)
    }

    /// Clusters that are left out read as those of the qcow2 image at `backing`, a path from the
    /// image's own folder.
    pub fn over(mut self, backing: Option<String>) -> Self {
        self.backing = backing;
        self
    }

    /// Gives the memory of written clusters back to `spares` from now on.
    pub fn recycle(&mut self, spares: Spares) {
        self.spares = Some(spares);
    }

    /// The end of the replay: what comes from now on is written. `tail` are the last bytes of the
    /// file as far as it was replayed, [`Self::tail_bytes`] of them.
    ///
    /// # Errors
    /// When it is of another length.
    pub fn go_on(&mut self, tail: &[u8]) -> Result<()> {
        if tail.len() as u64 != self.tail_bytes().0 {
            return Err(Error::corrupt(format!(
                "going on after {} bytes instead of {}",
                tail.len(),
                self.tail_bytes().0
            )));
        }
        self.buffer.extend_from_slice(tail);
        self.replaying = false;
        Ok(())
    }

    /// How many bytes before [`Self::bytes_written`] belong to a write that was not whole yet.
    pub fn tail_bytes(&self) -> ByteLen {
        // The first write begins behind the header's cluster.
        let since = self.end - self.end % WRITE_BYTES;
        ByteLen(self.end - since.max(CLUSTER))
    }

    /// Has all clusters so far written, and `note` kept as soon as they are on the medium; does not
    /// wait for it.
    ///
    /// # Errors
    /// As [`Self::append`].
    pub fn checkpoint(&mut self, note: impl FnOnce(ByteLen) -> Result<Vec<u8>>) -> Result<()> {
        self.refuse_after_failure()?;
        let result = self.write_checkpoint(note);
        self.failed = result.is_err();
        result
    }

    fn write_checkpoint(&mut self, note: impl FnOnce(ByteLen) -> Result<Vec<u8>>) -> Result<()> {
        self.write_plain()?;
        if self.replaying {
            return Ok(());
        }
        let start = self.end - self.buffer.len() as u64;
        if !self.buffer.is_empty() {
            // Stays in the buffer, and is written once more as a part of the whole write.
            self.storage
                .write_all_at(&self.buffer, start)
                .map_err(|e| Error::io("writing what leads to a checkpoint", e).at(start))?;
        }
        let note = note(ByteLen(self.end))?;
        self.storage
            .checkpoint(note)
            .map_err(|e| Error::io("writing a checkpoint", e).at(self.end))
    }

    /// Expects `cluster`, which is not behind the next one, among the late ones: the table that it
    /// belongs to stays in memory (64 KiB).
    ///
    /// # Errors
    /// When its table is written already, or it is not within the disk.
    pub fn hold(&mut self, cluster: GuestCluster) -> Result<()> {
        self.refuse_after_failure()?;
        let table = (cluster.0 / L2_ENTRIES) as usize;
        if cluster.0 < self.next || table >= self.l1.len() {
            return Err(Error::corrupt(format!(
                "holding guest cluster {}: the next is {}",
                cluster.0, self.next
            )));
        }
        self.held.entry(table).or_default();
        Ok(())
    }

    /// How many tables wait for late clusters.
    pub fn held(&self) -> usize {
        self.held.len()
    }

    /// Adds a cluster whose table is held; in any order, when all others were appended.
    ///
    /// # Errors
    /// As [`Self::append`].
    pub fn append_late(&mut self, cluster: GuestCluster, encoded: Encoded) -> Result<()> {
        self.refuse_after_failure()?;
        let table = (cluster.0 / L2_ENTRIES) as usize;
        if !self.held.contains_key(&table) {
            return Err(Error::corrupt(format!(
                "writing guest cluster {}, for which nothing was held",
                cluster.0
            )));
        }
        let result = self.store_late(table, cluster, encoded);
        self.failed = result.is_err();
        result
    }

    fn store_late(&mut self, table: usize, cluster: GuestCluster, encoded: Encoded) -> Result<()> {
        if self
            .open_table
            .as_ref()
            .is_none_or(|(open, _)| *open != table)
        {
            self.close_table()?;
            let held = self.held.get_mut(&table).map(std::mem::take);
            self.open_table = held
                .filter(|entries| !entries.is_empty())
                .map(|entries| (table, entries));
        }
        self.store(cluster, encoded)
    }

    /// What all is written to.
    pub fn storage(&self) -> &S {
        &self.storage
    }

    /// Adds the next cluster. Clusters that are left out read as zeros, unless there is an image below.
    ///
    /// # Errors
    /// When it is not behind the one before or not within the disk, and when writing fails: the
    /// offset is that in the file, a full medium is [`Kind::NoSpace`].
    pub fn append(&mut self, cluster: GuestCluster, encoded: Encoded) -> Result<()> {
        self.refuse_after_failure()?;
        let clusters = self.virtual_size.0.div_ceil(CLUSTER);
        if cluster.0 < self.next || cluster.0 >= clusters {
            return Err(Error::corrupt(format!(
                "writing guest cluster {}: the next may be {} to {}",
                cluster.0,
                self.next,
                clusters - 1
            )));
        }
        self.next = cluster.0 + 1;
        let result = self.store(cluster, encoded);
        self.failed = result.is_err();
        result
    }

    /// How large the file is so far, with what waits to be written.
    pub fn bytes_written(&self) -> ByteLen {
        ByteLen(self.end + (self.plain.len() * CLUSTER_BYTES) as u64)
    }

    /// By how much the file will grow, at the most, when it is finished now.
    pub fn bytes_to_finish(&self) -> ByteLen {
        let l1 = (self.l1.len() as u64 * 8).next_multiple_of(CLUSTER);
        // Besides: the open table, the last two blocks of refcounts, their table, and the filling in
        // front of each kind.
        let tables = self.tables.len() + self.held.len() + self.refcounts.final_blocks() + 10;
        ByteLen(l1 + (tables + self.plain.len()) as u64 * CLUSTER)
    }

    /// Writes the tables, makes all durable, writes the header and makes that durable.
    ///
    /// # Errors
    /// As [`Self::append`]; the file then has no magic.
    pub fn finish(mut self) -> Result<Finished> {
        self.refuse_after_failure()?;
        self.close_table()?;
        let held = std::mem::take(&mut self.held);
        self.tables
            .extend(held.into_iter().filter(|(_, table)| !table.is_empty()));
        self.write_tables()?;

        let l1_table = self.align()?;
        let l1: Vec<u8> = self.l1.iter().flat_map(|e| e.to_be_bytes()).collect();
        self.refcounts.add(l1_table, l1.len() as u64);
        self.push(&l1)?;
        self.align()?;

        let (blocks, table_clusters) = self.refcounts.close(self.end / CLUSTER);
        for _ in 0..blocks {
            self.write_refcount_block()?;
        }
        let refcount_table = HostOffset(self.end);
        let table: Vec<u8> = self
            .refcounts
            .table()
            .iter()
            .flat_map(|block| block.0.to_be_bytes())
            .collect();
        self.push(&table)?;
        self.align()?;
        self.flush()?;
        self.sync()?;

        let header = Header {
            version: 3,
            cluster_bits: CLUSTER_BITS,
            virtual_size: self.virtual_size,
            l1_entries: self.l1.len() as u32,
            l1_table,
            refcount_table,
            refcount_table_clusters: table_clusters as u32,
            compression: self.compression,
        };
        let mut cluster = match &self.backing {
            Some(backing) => header_over(&header, backing)?,
            None => header.to_bytes().to_vec(),
        };
        cluster.resize(CLUSTER_BYTES, 0);
        self.storage
            .write_all_at(&cluster, 0)
            .map_err(|e| Error::io("writing the qcow2 header", e).at(0))?;
        self.sync()?;
        Ok(Finished {
            file_bytes: ByteLen(self.end),
            ..self.finished
        })
    }

    fn refuse_after_failure(&self) -> Result<()> {
        if self.failed {
            return Err(Error::new(
                Kind::Io,
                "writing to an image after a write to it failed",
            ));
        }
        Ok(())
    }

    fn store(&mut self, cluster: GuestCluster, encoded: Encoded) -> Result<()> {
        let table = (cluster.0 / L2_ENTRIES) as usize;
        let index = (cluster.0 % L2_ENTRIES) as usize;
        if self
            .open_table
            .as_ref()
            .is_some_and(|(open, _)| *open != table)
        {
            self.close_table()?;
        }
        if encoded == Encoded::Zero {
            return Ok(());
        }
        if self.open_table.is_none() {
            self.open_table = Some((table, vec![0; L2_ENTRIES as usize]));
        }
        if encoded != Encoded::Zeroed {
            self.finished.data_clusters += 1;
        }
        match encoded {
            Encoded::Zero => {}
            Encoded::Zeroed => self.set_entry(index, Mapping::zero_entry()),
            Encoded::Compressed(stream) => {
                let host = HostOffset(self.end);
                let length = stream.len() as u64;
                let entry = Mapping::compressed_entry(host, length, CLUSTER_BITS)
                    .filter(|_| (SHORTEST_STREAM..CLUSTER_BYTES).contains(&stream.len()))
                    .ok_or_else(|| {
                        Error::corrupt(format!("a compressed cluster of {length} bytes")).at(host.0)
                    })?;
                self.finished.compressed_clusters += 1;
                self.refcounts.add(host, length);
                self.set_entry(index, entry);
                self.push(&stream)?;
                self.written(stream);
            }
            Encoded::Plain(bytes) => {
                if bytes.len() != CLUSTER_BYTES {
                    return Err(Error::corrupt(format!(
                        "a plain cluster of {} bytes",
                        bytes.len()
                    )));
                }
                if self.plain.is_empty() {
                    self.plain_since = self.end;
                }
                self.plain.push((index, bytes));
            }
        }
        let kept_long = self.end - self.plain_since >= PLAIN_KEPT_FOR;
        if !self.plain.is_empty()
            && (self.end.is_multiple_of(CLUSTER) || self.plain.len() >= PLAIN_KEPT || kept_long)
        {
            self.write_plain()?;
        }
        Ok(())
    }

    fn set_entry(&mut self, index: usize, entry: u64) {
        if let Some((_, table)) = &mut self.open_table {
            table[index] = entry;
        }
    }

    fn write_plain(&mut self) -> Result<()> {
        for (index, bytes) in std::mem::take(&mut self.plain) {
            let host = self.align()?;
            self.refcounts.add(host, CLUSTER);
            self.set_entry(index, Mapping::plain_entry(host));
            self.push(&bytes)?;
            self.written(bytes);
        }
        Ok(())
    }

    /// The memory of a cluster is not needed any more.
    fn written(&self, bytes: Vec<u8>) {
        if let Some(spares) = &self.spares {
            spares.give(bytes);
        }
    }

    /// The open table is final.
    fn close_table(&mut self) -> Result<()> {
        self.write_plain()?;
        if let Some((index, table)) = self.open_table.take() {
            match self.held.get_mut(&index) {
                Some(held) => *held = table,
                None => self.tables.push((index, table)),
            }
        }
        if self.tables.len() + self.refcounts.final_blocks() >= TABLES_KEPT {
            self.write_tables()?;
        }
        Ok(())
    }

    /// Writes all tables that are final.
    fn write_tables(&mut self) -> Result<()> {
        for (l1_index, table) in std::mem::take(&mut self.tables) {
            let host = self.align()?;
            self.refcounts.add(host, CLUSTER);
            self.l1[l1_index] = COPIED | host.0;
            let bytes: Vec<u8> = table.iter().flat_map(|e| e.to_be_bytes()).collect();
            self.push(&bytes)?;
        }
        for _ in 0..self.refcounts.final_blocks() {
            let host = self.align()?;
            self.refcounts.add(host, CLUSTER);
            self.write_refcount_block()?;
        }
        Ok(())
    }

    fn write_refcount_block(&mut self) -> Result<()> {
        let Some(block) = self.refcounts.place(HostOffset(self.end)) else {
            return Ok(());
        };
        let bytes: Vec<u8> = block.iter().flat_map(|count| count.to_be_bytes()).collect();
        self.push(&bytes)
    }

    /// Fills up with zeros to the next multiple of the cluster size.
    fn align(&mut self) -> Result<HostOffset> {
        static ZEROS: [u8; CLUSTER_BYTES] = [0; CLUSTER_BYTES];
        let missing = self.end.next_multiple_of(CLUSTER) - self.end;
        self.push(&ZEROS[..missing as usize])?;
        Ok(HostOffset(self.end))
    }

    fn push(&mut self, mut bytes: &[u8]) -> Result<()> {
        if self.replaying {
            self.end += bytes.len() as u64;
            return Ok(());
        }
        while !bytes.is_empty() {
            let room = (WRITE_BYTES - self.end % WRITE_BYTES) as usize;
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.buffer.extend_from_slice(now);
            self.end += now.len() as u64;
            if self.end.is_multiple_of(WRITE_BYTES) {
                self.flush()?;
            }
            bytes = later;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        let length = self.buffer.len();
        let start = self.end - length as u64;
        self.storage
            .write_buffer(&mut self.buffer, start)
            .map_err(|e| Error::io(format!("writing {length} bytes"), e).at(start))
    }

    fn sync(&mut self) -> Result<()> {
        self.storage
            .sync()
            .map_err(|e| Error::io("waiting until the image is on the medium", e))
    }
}
