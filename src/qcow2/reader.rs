//! The reader: what an image says that the disk holds. It takes nothing on trust: every offset is
//! checked against the file, every table has a bounded size, and an image that needs another file
//! or a password is refused.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use super::backing::refuse_other;
use super::decode::Decoder;
use super::entry::{Mapping, OFFSET_MASK};
use super::header::{CompressionType, HEADER_BYTES, Header};
use super::{GuestCluster, HostOffset};
use crate::device::ReadAt;
use crate::error::{Error, Result};
use crate::units::{ByteLen, ByteOffset};
use std::sync::{Arc, Mutex};

/// L2 tables that random reads keep in memory.
const TABLES_CACHED: usize = 16;

/// One L2 table: where each of its clusters lies.
type Table = Arc<Vec<u64>>;

/// See the module. Reads at offsets of the disk that the image is of.
pub struct Reader<F> {
    file: F,
    header: Header,
    l1: Vec<u64>,
    /// Latest last.
    tables: Mutex<Vec<(usize, Table)>>,
    decoders: Mutex<Vec<Decoder>>,
}

/// A cluster that an image holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mapped {
    /// Which cluster of the disk.
    pub cluster: GuestCluster,
    /// Where it lies in the file; never [`Mapping::Unallocated`].
    pub mapping: Mapping,
}

impl<F: ReadAt> Reader<F> {
    /// Reads the header and the L1 table.
    ///
    /// # Errors
    /// [`Kind::Corrupt`](crate::error::Kind::Corrupt) when `file` is not a whole qcow2 image,
    /// [`Kind::Unsupported`](crate::error::Kind::Unsupported) when it is one that this one file
    /// does not suffice to read.
    pub fn open(file: F) -> Result<Self> {
        Self::open_over(file, None)
    }

    /// As [`Self::open`], for an image whose header names exactly `backing` as the file below it, a
    /// qcow2 image. What that holds is not looked at: such clusters are [`Mapping::Unallocated`],
    /// and zeros to [`ReadAt::read_at`].
    ///
    /// # Errors
    /// As [`Self::open`], and when the header names another file, or none.
    pub fn open_over(file: F, backing: Option<&str>) -> Result<Self> {
        let mut bytes = [0; HEADER_BYTES];
        let on_file = |e: Error| e.on(file.name());
        // A version 2 header may be a whole (strange) file of 72 bytes; ours never is.
        file.read_at(ByteOffset(0), &mut bytes).map_err(on_file)?;
        let header = match backing {
            None => Header::parse(&bytes),
            Some(backing) => match Header::parse_over(&bytes) {
                Ok((header, Some(place))) => refuse_other(&file, place, backing).map(|()| header),
                Ok((_, None)) => Err(Error::corrupt(format!(
                    "the image does not name its backing file {backing:?}"
                ))),
                Err(error) => Err(error),
            },
        }
        .map_err(on_file)?;
        Self::with_header(file, header)
    }

    /// As [`Self::open`], for an image that another program made over one that the caller knows: what its
    /// header names is not looked at. Clusters that it does not hold are [`Mapping::Unallocated`].
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_top(file: F) -> Result<Self> {
        let mut bytes = [0; HEADER_BYTES];
        let on_file = |e: Error| e.on(file.name());
        file.read_at(ByteOffset(0), &mut bytes).map_err(on_file)?;
        let (header, _) = Header::parse_over(&bytes).map_err(on_file)?;
        Self::with_header(file, header)
    }

    fn with_header(file: F, header: Header) -> Result<Self> {
        let on_file = |e: Error| e.on(file.name());
        let table_bytes = u64::from(header.l1_entries).saturating_mul(8);
        let inside = |offset: u64, len: u64| {
            offset
                .checked_add(len)
                .is_some_and(|end| end <= file.size().0)
        };
        if !inside(header.l1_table.0, table_bytes) {
            return Err(on_file(Error::corrupt(format!(
                "the L1 table ({table_bytes} bytes from {}) ends behind the file",
                header.l1_table.0
            ))));
        }
        let l1 = read_table(&file, header.l1_table, table_bytes)?;
        refuse_shared_tables(&l1).map_err(on_file)?;
        Ok(Self {
            file,
            header,
            l1,
            tables: Mutex::new(Vec::new()),
            decoders: Mutex::new(Vec::new()),
        })
    }

    /// The header.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The file.
    pub fn file(&self) -> &F {
        &self.file
    }

    /// How compressed clusters are compressed.
    pub fn compression(&self) -> CompressionType {
        self.header.compression
    }

    /// In bytes.
    pub fn cluster_bytes(&self) -> u64 {
        1_u64.checked_shl(self.header.cluster_bits).unwrap_or(0)
    }

    /// The clusters that the image holds, in the order of the disk; that is also the order of the
    /// file, nearly, in images that we wrote. After an error it goes on with the next L2 table.
    pub fn mapped(&self) -> impl Iterator<Item = Result<Mapped>> + '_ {
        let per_table = self.entries_per_table();
        let clusters = self
            .header
            .virtual_size
            .0
            .div_ceil(self.cluster_bytes().max(1));
        self.l1
            .iter()
            .enumerate()
            .filter(|(_, entry)| *entry & OFFSET_MASK != 0)
            .flat_map(move |(index, _)| {
                let first = u64::try_from(index)
                    .unwrap_or(u64::MAX)
                    .saturating_mul(per_table);
                let (table, error) = match self.load_table(index) {
                    Ok(table) => (table.unwrap_or_default(), None),
                    Err(error) => (Arc::default(), Some(Err(error))),
                };
                let found = (0..table.len()).filter_map(move |at| {
                    let cluster = first.saturating_add(u64::try_from(at).ok()?);
                    let mapping = self.check(*table.get(at)?, cluster);
                    match mapping {
                        Ok(Mapping::Unallocated) => None,
                        _ if cluster >= clusters => None,
                        Ok(mapping) => Some(Ok(Mapped {
                            cluster: GuestCluster(cluster),
                            mapping,
                        })),
                        Err(error) => Some(Err(error)),
                    }
                });
                error.into_iter().chain(found)
            })
    }

    fn entries_per_table(&self) -> u64 {
        self.cluster_bytes() >> 3
    }

    /// The mapping that an L2 entry stands for, if it lies in the file.
    fn check(&self, entry: u64, cluster: u64) -> Result<Mapping> {
        let mapping = Mapping::from_entry(entry, self.header.cluster_bits);
        let wrong = |what: &str, host: HostOffset| {
            Err(Error::corrupt(format!(
                "guest cluster {cluster} is said to lie at {}, {what}",
                host.0
            ))
            .on(self.file.name()))
        };
        match mapping {
            Mapping::Unallocated | Mapping::Zero => {}
            Mapping::Plain(host) | Mapping::Compressed { host, .. }
                if host.0 >= self.file.size().0 =>
            {
                return wrong("behind the file", host);
            }
            Mapping::Plain(host)
                if host
                    .0
                    .checked_rem(self.cluster_bytes())
                    .is_none_or(|r| r != 0) =>
            {
                return wrong("not at the start of a cluster", host);
            }
            Mapping::Plain(_) | Mapping::Compressed { .. } => {}
        }
        Ok(mapping)
    }

    /// The L2 table of this L1 entry; `None` if there is none.
    fn load_table(&self, l1_index: usize) -> Result<Option<Table>> {
        let entry = self.l1.get(l1_index).copied().unwrap_or(0) & OFFSET_MASK;
        if entry == 0 {
            return Ok(None);
        }
        let lock = || self.tables.lock().unwrap_or_else(|e| e.into_inner());
        {
            let mut tables = lock();
            if let Some(at) = tables.iter().position(|(index, _)| *index == l1_index) {
                let hit = tables.remove(at);
                let table = Arc::clone(&hit.1);
                tables.push(hit);
                return Ok(Some(table));
            }
        }
        let length = self.cluster_bytes();
        let aligned = entry.checked_rem(length) == Some(0);
        let inside = entry
            .checked_add(length)
            .is_some_and(|end| end <= self.file.size().0);
        if !aligned || !inside {
            return Err(Error::corrupt(format!(
                "L2 table {l1_index} is said to lie at {entry}, which is not a cluster of the file"
            ))
            .on(self.file.name()));
        }
        let table = Arc::new(read_table(&self.file, HostOffset(entry), length)?);
        let mut tables = lock();
        if tables.len() >= TABLES_CACHED {
            tables.remove(0);
        }
        tables.push((l1_index, Arc::clone(&table)));
        Ok(Some(table))
    }

    /// Where a cluster lies.
    ///
    /// # Errors
    /// When its table cannot be read, or says what cannot be.
    pub fn find(&self, cluster: u64) -> Result<Mapping> {
        let per_table = self.entries_per_table();
        let l1_index = cluster
            .checked_div(per_table)
            .and_then(|index| usize::try_from(index).ok());
        let index = cluster
            .checked_rem(per_table)
            .and_then(|index| usize::try_from(index).ok());
        let (Some(l1_index), Some(index)) = (l1_index, index) else {
            return Ok(Mapping::Unallocated);
        };
        match self.load_table(l1_index)? {
            Some(table) => self.check(table.get(index).copied().unwrap_or(0), cluster),
            None => Ok(Mapping::Unallocated),
        }
    }

    /// What the file stores for a cluster: nothing, all of its bytes, or a compressed stream with up to
    /// 511 bytes of what follows.
    ///
    /// # Errors
    /// Those of the file.
    pub fn stored(&self, mapping: Mapping) -> Result<Vec<u8>> {
        let (host, length) = match mapping {
            Mapping::Unallocated | Mapping::Zero => return Ok(Vec::new()),
            Mapping::Plain(host) => (host, self.cluster_bytes()),
            // Bounded by the cluster size: an entry holds no larger count.
            Mapping::Compressed { host, bytes } => (host, bytes),
        };
        let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
        read_padded(&self.file, host.0, &mut bytes)?;
        Ok(bytes)
    }

    /// Fills `out` (one cluster at the most) with the bytes from `within` on of a cluster.
    fn read_cluster(&self, cluster: u64, within: usize, out: &mut [u8]) -> Result<()> {
        let mapping = self.find(cluster)?;
        self.read_mapped(cluster, mapping, within, out)
    }

    /// Fills `out` (one cluster at the most) with the bytes from `within` on of a cluster that lies
    /// at `mapping`.
    ///
    /// # Errors
    /// Those of the file, and when a stream is damaged.
    pub fn read_mapped(
        &self,
        cluster: u64,
        mapping: Mapping,
        within: usize,
        out: &mut [u8],
    ) -> Result<()> {
        match mapping {
            Mapping::Unallocated | Mapping::Zero => out.fill(0),
            Mapping::Plain(host) => {
                let at = u64::try_from(within)
                    .ok()
                    .and_then(|within| host.0.checked_add(within));
                read_padded(&self.file, at.unwrap_or(u64::MAX), out)?;
            }
            Mapping::Compressed { host, bytes } => {
                // Both are bounded by the cluster size: an entry holds no larger count.
                let mut stream = vec![0; usize::try_from(bytes).unwrap_or(0)];
                read_padded(&self.file, host.0, &mut stream)?;
                let mut whole = vec![0; usize::try_from(self.cluster_bytes()).unwrap_or(0)];
                let mut decoder = self.decoder()?;
                decoder.decode(&stream, &mut whole).map_err(|e| {
                    e.on(format!("{} (guest cluster {cluster})", self.file.name()))
                        .at(host.0)
                })?;
                self.decoders
                    .lock()
                    .unwrap_or_else(|e| e.into_inner())
                    .push(decoder);
                if let Some(part) = whole.get(within..).and_then(|rest| rest.get(..out.len())) {
                    out.copy_from_slice(part);
                }
            }
        }
        Ok(())
    }

    fn decoder(&self) -> Result<Decoder> {
        let kept = self
            .decoders
            .lock()
            .unwrap_or_else(|e| e.into_inner())
            .pop();
        match kept {
            Some(decoder) => Ok(decoder),
            None => Decoder::new(self.header.compression),
        }
    }
}

impl<F: ReadAt> ReadAt for Reader<F> {
    fn size(&self) -> ByteLen {
        self.header.virtual_size
    }

    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> Result<()> {
        crate::device::read::check_range(&self.name(), self.size(), offset, buf.len())?;
        let length = self.cluster_bytes().max(1);
        let mut at = offset.0;
        let mut rest = buf;
        while !rest.is_empty() {
            let within = at.checked_rem(length).unwrap_or(0);
            let room = usize::try_from(length.saturating_sub(within)).unwrap_or(usize::MAX);
            let (now, later) = rest.split_at_mut(room.min(rest.len()));
            self.read_cluster(
                at.checked_div(length).unwrap_or(0),
                usize::try_from(within).unwrap_or(0),
                now,
            )?;
            at = at.saturating_add(u64::try_from(now.len()).unwrap_or(0));
            rest = later;
        }
        Ok(())
    }

    fn name(&self) -> String {
        self.file.name()
    }
}

/// Refuses an image in which two L1 entries share a table: no writer makes that, and it would let
/// a file of a few clusters hold a disk that takes years to read.
fn refuse_shared_tables(l1: &[u64]) -> Result<()> {
    let tables = l1.iter().map(|entry| entry & OFFSET_MASK);
    let mut tables: Vec<u64> = tables.filter(|host| *host != 0).collect();
    tables.sort_unstable();
    let twice = tables
        .iter()
        .zip(tables.iter().skip(1))
        .find(|(a, b)| a == b);
    match twice {
        Some((host, _)) => Err(Error::corrupt(format!(
            "two L1 entries share the L2 table at {host}"
        ))),
        None => Ok(()),
    }
}

/// Reads big-endian entries; the caller has checked that they lie in the file.
fn read_table(file: &impl ReadAt, host: HostOffset, bytes: u64) -> Result<Vec<u64>> {
    let mut raw = vec![0; usize::try_from(bytes).unwrap_or(0)];
    file.read_at(ByteOffset(host.0), &mut raw)?;
    let (entries, _) = raw.as_chunks();
    Ok(entries.iter().map(|e| u64::from_be_bytes(*e)).collect())
}

/// Reads what the file has from `at` on; behind its end are zeros (QEMU leaves the last cluster
/// of a file short).
fn read_padded(file: &impl ReadAt, at: u64, out: &mut [u8]) -> Result<()> {
    let left = usize::try_from(file.size().0.saturating_sub(at)).unwrap_or(usize::MAX);
    let (there, missing) = out.split_at_mut(left.min(out.len()));
    missing.fill(0);
    if there.is_empty() {
        return Ok(());
    }
    file.read_at(ByteOffset(at), there)
}
