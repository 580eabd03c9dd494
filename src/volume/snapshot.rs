//! Snapshots of device-mapper's `snapshot` target: the origin, except for chunks that a store holds
//! (`dm-snap-persistent.c` of Linux). The store, little-endian, in chunks:
//!
//! - Chunk 0, the header: 0x00 `magic` `SnAp`, 0x04 `valid`, 0x08 `version` 1, 0x0C `chunk_size` in
//!   sectors.
//! - Chunk 1, and from there on one behind as many chunks of data as it has room for: a table of
//!   exceptions, `old_chunk` and `new_chunk` (64-bit each). A `new_chunk` of 0 ends the last table.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use super::{Places, SharedVolume, Volume};
use crate::bytes::{has_magic, read_u32le, read_u64le};
use crate::device::ReadAt;
use crate::device::read::check_range;
use crate::error::Result;
use crate::extent::{Extent, ExtentList, RunCollector};
use crate::units::{ByteLen, ByteOffset};

const SECTOR: u64 = 512;
const ENTRY: u64 = 16;
/// 64 MiB of memory.
const MAX_EXCEPTIONS: usize = 4 << 20;

/// The origin as it was.
pub(crate) struct Snapshot<'a> {
    name: String,
    origin: SharedVolume<'a>,
    store: SharedVolume<'a>,
    chunk: u64,
    /// Chunk of the origin, chunk of the store; ascending.
    exceptions: Vec<(u64, u64)>,
}

impl<'a> Snapshot<'a> {
    /// With what is in use of the store: its tables, and the chunks that they speak of. `chunk` in
    /// bytes. An error is a clause.
    pub(crate) fn new(
        name: String,
        origin: SharedVolume<'a>,
        store: SharedVolume<'a>,
        chunk: u64,
    ) -> std::result::Result<(Self, ExtentList), String> {
        let unreadable = |error| format!("whose table is not readable: {error}");
        let mut header = [0; 16];
        store
            .read_at(ByteOffset(0), &mut header)
            .map_err(unreadable)?;
        if !has_magic(&header, 0, b"SnAp") || read_u32le(&header, 8) != 1 {
            return Err("whose store has no header that we know".into());
        }
        if read_u32le(&header, 4) != 1 {
            return Err("which is invalid: it overflowed".into());
        }
        if u64::from(read_u32le(&header, 12)).saturating_mul(SECTOR) != chunk
            || !chunk.is_power_of_two()
            || !(4096..=1 << 20).contains(&chunk)
        {
            return Err("whose chunk size is not what its volume group says".into());
        }
        let chunks = store.size().0.checked_div(chunk).unwrap_or(0);
        let old_chunks = origin.size().0.div_ceil(chunk);
        let mut used = RunCollector::new();
        let mut take = |number: u64| {
            let at = number.saturating_mul(chunk);
            used_push(&mut used, at, chunk);
        };
        take(0);
        let mut exceptions = Vec::new();
        let mut table = vec![0; usize::try_from(chunk).unwrap_or(0)];
        let stride = chunk
            .checked_div(ENTRY)
            .and_then(|entries| entries.checked_add(1))
            .unwrap_or(1);
        let mut at = 1_u64;
        'tables: while at < chunks {
            take(at);
            store
                .read_at(ByteOffset(at.saturating_mul(chunk)), &mut table)
                .map_err(unreadable)?;
            for entry in table.chunks_exact(16) {
                let (old, new) = (read_u64le(entry, 0), read_u64le(entry, 8));
                if new == 0 {
                    break 'tables;
                }
                if old >= old_chunks || new >= chunks || exceptions.len() >= MAX_EXCEPTIONS {
                    return Err("whose table points outside of it".into());
                }
                take(new);
                exceptions.push((old, new));
            }
            at = at.saturating_add(stride);
        }
        exceptions.sort_unstable();
        let twice = exceptions
            .iter()
            .zip(exceptions.iter().skip(1))
            .any(|(a, b)| a.0 == b.0);
        if twice {
            return Err("whose table says of a chunk that it is in two places".into());
        }
        let snapshot = Self {
            name,
            origin,
            store,
            chunk,
            exceptions,
        };
        Ok((snapshot, used.finish()))
    }

    /// Calls `each(start, end, place in the store)` for the bytes from `start` to `end`, cut where
    /// they change sides; `None` stands for the origin.
    fn pieces<E>(
        &self,
        start: u64,
        end: u64,
        mut each: impl FnMut(u64, u64, Option<u64>) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        let mut at = start;
        let first = at.checked_div(self.chunk).unwrap_or(0);
        let index = self.exceptions.partition_point(|(old, _)| *old < first);
        for (old, new) in self.exceptions.get(index..).unwrap_or_default() {
            let from = old.saturating_mul(self.chunk);
            if from >= end {
                break;
            }
            if from > at {
                each(at, from, None)?;
                at = from;
            }
            let to = from.saturating_add(self.chunk).min(end);
            let place = new
                .saturating_mul(self.chunk)
                .saturating_add(at.saturating_sub(from));
            each(at, to, Some(place))?;
            at = to;
        }
        if at < end {
            each(at, end, None)?;
        }
        Ok(())
    }
}

fn used_push(used: &mut RunCollector, at: u64, len: u64) {
    if let Some(run) = Extent::new(ByteOffset(at), ByteLen(len)) {
        used.push(run);
    }
}

impl ReadAt for Snapshot<'_> {
    fn size(&self) -> ByteLen {
        self.origin.size()
    }

    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> Result<()> {
        check_range(&self.name, self.size(), offset, buf.len())?;
        let end = offset
            .0
            .saturating_add(u64::try_from(buf.len()).unwrap_or(u64::MAX));
        self.pieces(offset.0, end, |from, to, place| {
            let at = usize::try_from(from.saturating_sub(offset.0)).unwrap_or(usize::MAX);
            let len = usize::try_from(to.saturating_sub(from)).unwrap_or(usize::MAX);
            let Some(piece) = buf.get_mut(at..).and_then(|rest| rest.get_mut(..len)) else {
                return Ok(());
            };
            match place {
                Some(place) => self.store.read_at(ByteOffset(place), piece),
                None => self.origin.read_at(ByteOffset(from), piece),
            }
        })
    }

    fn name(&self) -> String {
        self.name.clone()
    }
}

impl Volume for Snapshot<'_> {
    fn trace(&self, extent: Extent, places: &mut Places) {
        let end = extent.end().min(self.size().0);
        let _ = self.pieces(extent.start().0, end, |from, to, place| {
            let (volume, at) = match place {
                Some(place) => (&self.store, place),
                None => (&self.origin, from),
            };
            if let Some(run) = Extent::between(at, at.saturating_add(to.saturating_sub(from))) {
                volume.trace(run, places);
            }
            Ok::<(), std::convert::Infallible>(())
        });
    }
}
