//! Volumes: where the bytes of a partition, an array, a logical volume or a decrypted container lie
//! on the disks. In: members that can be read. Out: volumes that can be read in turn, each of which
//! knows for any of its bytes which bytes of which disks have to be kept (all mirrors, the parity).
//!
//! Nothing is ever activated, assembled or unlocked in the kernel: all of it happens in memory, on
//! disks that are only read.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

mod concat;
pub mod crypt;
pub(crate) mod lvm;
pub(crate) mod md;
mod raid;
#[cfg(test)]
mod recorded;
mod search;
mod snapshot;
mod thin;
mod zeros;

use concat::Concat;
pub(crate) use search::{Hit, search};
use zeros::Zeros;

use crate::device::ReadAt;
use crate::device::read::check_range;
use crate::error::Result;
use crate::extent::{Extent, ExtentList, RunCollector};
use crate::units::{ByteLen, ByteOffset};
use std::sync::Arc;

/// One of the disks that are mapped together, by its place among them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct DiskIndex(pub usize);

/// Something with an address space of its own whose bytes lie on disks.
pub(crate) trait Volume: ReadAt {
    /// Adds every place on the disks that has to be kept so that `extent` of this volume reads as it
    /// does now, from any of its copies: all mirrors, and the parity with all that it is made of.
    /// What lies behind the end of the volume is ignored.
    fn trace(&self, extent: Extent, places: &mut Places);
}

/// A volume that others are made of.
pub(crate) type SharedVolume<'a> = Arc<dyn Volume + 'a>;

/// Runs on the disks, disk by disk, in bounded memory.
#[derive(Debug)]
pub(crate) struct Places {
    disks: Vec<RunCollector>,
    /// Where a search looks for what lies in certain runs: those that were hit, nothing else.
    sought: Option<search::Sought>,
}

impl Places {
    /// Of so many disks, nothing.
    pub(crate) fn new(disks: usize) -> Self {
        Self {
            disks: (0..disks).map(|_| RunCollector::new()).collect(),
            sought: None,
        }
    }

    /// Adds a run of a disk.
    pub(crate) fn push(&mut self, disk: DiskIndex, extent: Extent) {
        if let Some(sought) = &mut self.sought {
            sought.push(disk, extent);
        } else if let Some(runs) = self.disks.get_mut(disk.0) {
            runs.push(extent);
        }
    }

    /// Whether only the bytes themselves are asked for, not what has to be kept along with them (the
    /// parity and the rest of its row).
    pub(crate) fn wants_only_data(&self) -> bool {
        self.sought.is_some()
    }

    /// The runs of each disk, in the order of the disks.
    pub(crate) fn finish(self) -> Vec<ExtentList> {
        self.disks.into_iter().map(RunCollector::finish).collect()
    }
}

/// What several members make together, or what keeps them from it is a
/// [`Refusal`](crate::refusal::Refusal).
pub(crate) struct Assembly<'a> {
    /// For people: `volume group vg0`, `RAID 5 array web1:0`.
    pub name: String,
    /// Member by member, in the order in which they were given: the bytes that are always taken
    /// (labels, superblocks, bitmaps, metadata), counted from the member's start.
    pub metadata: Vec<ExtentList>,
    /// A clause for the members' regions: "a physical volume of vg0: free extents are not copied".
    pub reason: String,
    /// What is made of them.
    pub volumes: Vec<Made<'a>>,
}

/// One volume of an [`Assembly`].
pub(crate) struct Made<'a> {
    /// As people know it: `vg0/root`, `md0`.
    pub name: String,
    /// How it lies on its members: `linear`, `striped over 2`, `RAID 5 of 3`, `thin`.
    pub layout: String,
    /// Its bytes.
    pub volume: SharedVolume<'a>,
    /// What is to be taken of it.
    pub content: Content,
}

/// What is to be taken of a volume that was made of others.
pub(crate) enum Content {
    /// What is in it decides: a filesystem, a partition table, a member of yet another volume.
    Look,
    /// Everything but zeros, for this reason.
    Whole(String),
    /// These bytes of it, for this reason.
    Exactly(ExtentList, String),
}

/// A part of a disk: the lowest of all volumes.
pub(crate) struct Slice<'a> {
    disk: &'a dyn ReadAt,
    index: DiskIndex,
    extent: Extent,
}

impl<'a> Slice<'a> {
    /// `None` unless `extent` lies inside the disk.
    pub(crate) fn new(disk: &'a dyn ReadAt, index: DiskIndex, extent: Extent) -> Option<Self> {
        (extent.end() <= disk.size().0).then_some(Self {
            disk,
            index,
            extent,
        })
    }
}

impl ReadAt for Slice<'_> {
    fn size(&self) -> ByteLen {
        self.extent.len()
    }

    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> Result<()> {
        check_range(&self.name(), self.size(), offset, buf.len())?;
        let at = self.extent.start().0.saturating_add(offset.0);
        self.disk.read_at(ByteOffset(at), buf)
    }

    fn name(&self) -> String {
        self.disk.name()
    }
}

impl Volume for Slice<'_> {
    fn trace(&self, extent: Extent, places: &mut Places) {
        let start = self.extent.start().0;
        let shifted = Extent::between(
            start.saturating_add(extent.start().0),
            start.saturating_add(extent.end()),
        );
        if let Some(inside) = shifted.and_then(|shifted| shifted.intersect(self.extent)) {
            places.push(self.index, inside);
        }
    }
}

/// A part of another volume: a partition of an array, a linear logical volume's segment.
pub(crate) struct Part<'a> {
    volume: SharedVolume<'a>,
    extent: Extent,
}

impl<'a> Part<'a> {
    /// `None` unless `extent` lies inside the volume.
    pub(crate) fn new(volume: SharedVolume<'a>, extent: Extent) -> Option<Self> {
        (extent.end() <= volume.size().0).then_some(Self { volume, extent })
    }
}

impl ReadAt for Part<'_> {
    fn size(&self) -> ByteLen {
        self.extent.len()
    }

    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> Result<()> {
        check_range(&self.name(), self.size(), offset, buf.len())?;
        let at = self.extent.start().0.saturating_add(offset.0);
        self.volume.read_at(ByteOffset(at), buf)
    }

    fn name(&self) -> String {
        self.volume.name()
    }
}

impl Volume for Part<'_> {
    fn trace(&self, extent: Extent, places: &mut Places) {
        let start = self.extent.start().0;
        let shifted = Extent::between(
            start.saturating_add(extent.start().0),
            start.saturating_add(extent.end()),
        );
        if let Some(inside) = shifted.and_then(|shifted| shifted.intersect(self.extent)) {
            self.volume.trace(inside, places);
        }
    }
}
