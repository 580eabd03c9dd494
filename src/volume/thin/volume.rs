//! A thin volume: blocks of its pool where it maps some, elsewhere zeros or another volume.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use super::Run;
use crate::device::ReadAt;
use crate::device::read::check_range;
use crate::error::Result;
use crate::extent::Extent;
use crate::units::{ByteLen, ByteOffset};
use crate::volume::{Places, SharedVolume, Volume};
use std::sync::Arc;

pub(super) struct ThinVolume<'a> {
    pub name: String,
    /// The pool's data.
    pub data: SharedVolume<'a>,
    /// Bytes of a block.
    pub chunk: u64,
    pub size: ByteLen,
    /// Ascending.
    pub runs: Arc<Vec<Run>>,
    /// What is read where nothing is mapped, as far as it reaches.
    pub external: Option<SharedVolume<'a>>,
}

impl ThinVolume<'_> {
    /// Calls `each(start, end, place in the data)` for the bytes from `start` to `end`, cut where
    /// the mapping changes; `None` where there is none.
    fn pieces<E>(
        &self,
        start: u64,
        end: u64,
        mut each: impl FnMut(u64, u64, Option<u64>) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        let mut at = start;
        let first = start.checked_div(self.chunk).unwrap_or(0);
        let index = self.runs.partition_point(|run| run.end() <= first);
        for run in self.runs.get(index..).unwrap_or_default() {
            let from = run.block.saturating_mul(self.chunk);
            if from >= end {
                break;
            }
            if from > at {
                each(at, from, None)?;
                at = from;
            }
            let to = run.end().saturating_mul(self.chunk).min(end);
            let place = run
                .data
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

impl ReadAt for ThinVolume<'_> {
    fn size(&self) -> ByteLen {
        self.size
    }

    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> Result<()> {
        check_range(&self.name, self.size, offset, buf.len())?;
        let end = offset
            .0
            .saturating_add(u64::try_from(buf.len()).unwrap_or(u64::MAX));
        self.pieces(offset.0, end, |from, to, place| {
            let at = usize::try_from(from.saturating_sub(offset.0)).unwrap_or(usize::MAX);
            let len = usize::try_from(to.saturating_sub(from)).unwrap_or(usize::MAX);
            let Some(piece) = buf.get_mut(at..).and_then(|rest| rest.get_mut(..len)) else {
                return Ok(());
            };
            let external = match (place, &self.external) {
                (Some(place), _) => return self.data.read_at(ByteOffset(place), piece),
                (None, None) => {
                    piece.fill(0);
                    return Ok(());
                }
                (None, Some(external)) => external,
            };
            let room = external
                .size()
                .0
                .saturating_sub(from)
                .min(to.saturating_sub(from));
            let room = usize::try_from(room).unwrap_or(usize::MAX);
            if let Some((there, behind)) = piece.split_at_mut_checked(room) {
                behind.fill(0);
                if !there.is_empty() {
                    external.read_at(ByteOffset(from), there)?;
                }
            }
            Ok(())
        })
    }

    fn name(&self) -> String {
        self.name.clone()
    }
}

impl Volume for ThinVolume<'_> {
    fn trace(&self, extent: Extent, places: &mut Places) {
        let end = extent.end().min(self.size.0);
        let _ = self.pieces(extent.start().0, end, |from, to, place| {
            let (volume, at) = match (place, &self.external) {
                (Some(place), _) => (&self.data, place),
                (None, Some(external)) => (external, from),
                (None, None) => return Ok(()),
            };
            if let Some(run) = Extent::between(at, at.saturating_add(to.saturating_sub(from))) {
                volume.trace(run, places);
            }
            Ok::<(), std::convert::Infallible>(())
        });
    }
}
