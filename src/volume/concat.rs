//! Volumes one behind another: a linear array, a logical volume of several segments.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use super::{Places, SharedVolume, Volume};
use crate::device::ReadAt;
use crate::device::read::check_range;
use crate::error::{Error, Result};
use crate::extent::Extent;
use crate::units::{ByteLen, ByteOffset};

/// Volumes one behind another, without gaps.
pub(crate) struct Concat<'a> {
    name: String,
    /// Each with its first byte in the whole, ascending from 0.
    parts: Vec<(u64, SharedVolume<'a>)>,
    size: u64,
}

impl<'a> Concat<'a> {
    /// `None` if the sum of the sizes does not fit 64 bits. Empty parts are left out.
    pub(crate) fn new(name: impl Into<String>, volumes: Vec<SharedVolume<'a>>) -> Option<Self> {
        let mut size = 0_u64;
        let mut parts = Vec::with_capacity(volumes.len());
        for volume in volumes {
            let len = volume.size().0;
            if len > 0 {
                parts.push((size, volume));
                size = size.checked_add(len)?;
            }
        }
        Some(Self {
            name: name.into(),
            parts,
            size,
        })
    }

    /// The parts from the one that holds byte `at` on, each with its first and the byte behind it.
    fn from(&self, at: u64) -> impl Iterator<Item = (u64, u64, &SharedVolume<'a>)> {
        let first = self
            .parts
            .partition_point(|(start, _)| *start <= at)
            .saturating_sub(1);
        self.parts
            .get(first..)
            .unwrap_or_default()
            .iter()
            .map(|(start, part)| (*start, start.saturating_add(part.size().0), part))
    }
}

impl ReadAt for Concat<'_> {
    fn size(&self) -> ByteLen {
        ByteLen(self.size)
    }

    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> Result<()> {
        check_range(&self.name, self.size(), offset, buf.len())?;
        let mut at = offset.0;
        let mut rest = buf;
        let mut left = rest.len();
        for (start, end, part) in self.from(at) {
            let room = usize::try_from(end.saturating_sub(at)).unwrap_or(usize::MAX);
            let len = room.min(rest.len());
            let Some((now, later)) = rest.split_at_mut_checked(len) else {
                break;
            };
            if !now.is_empty() {
                part.read_at(ByteOffset(at.saturating_sub(start)), now)?;
            }
            rest = later;
            left = rest.len();
            if left == 0 {
                break;
            }
            at = end;
        }
        if left == 0 {
            Ok(())
        } else {
            Err(Error::corrupt("a volume that ends before its size").on(self.name()))
        }
    }

    fn name(&self) -> String {
        self.name.clone()
    }
}

impl Volume for Concat<'_> {
    fn trace(&self, extent: Extent, places: &mut Places) {
        for (start, end, part) in self.from(extent.start().0) {
            if start >= extent.end() {
                break;
            }
            let inside = Extent::between(
                extent.start().0.max(start).saturating_sub(start),
                extent.end().min(end).saturating_sub(start),
            );
            if let Some(inside) = inside {
                part.trace(inside, places);
            }
        }
    }
}
