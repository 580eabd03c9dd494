//! What a composition is made of: every volume that was looked into, from whole disks up to the
//! filesystems in logical volumes.

use super::finding::Finding;
use super::region::{Policy, RegionKind};
use crate::extent::Extent;
use crate::volume::{DiskIndex, SharedVolume};

/// A volume by its place among the nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct NodeId(pub usize);

/// One volume and what was found in it.
pub(super) struct Node<'a> {
    /// Its bytes.
    pub volume: SharedVolume<'a>,
    /// Where it comes from.
    pub origin: Origin,
    /// What is in it.
    pub look: Look,
    /// How many volumes are below it.
    pub depth: usize,
}

/// Where a volume comes from.
#[derive(Debug, Clone)]
pub(super) enum Origin {
    /// A whole disk.
    Disk(DiskIndex),
    /// A partition of a disk, or of a volume that has a partition table.
    Partition {
        /// What is divided.
        of: NodeId,
        /// In the kernel's numbering.
        number: u32,
        /// Where it lies in what is divided.
        extent: Extent,
    },
    /// Made of members: a logical volume, an array, a decrypted container.
    Made {
        /// Its members.
        of: Vec<NodeId>,
        /// As people know it: `vg0/root`.
        name: String,
        /// How it lies on its members: `linear`, `RAID 5 of 3`.
        layout: String,
    },
}

/// What is in a volume.
pub(super) enum Look {
    /// Not looked into yet.
    Waiting,
    /// Something with a decision of its own.
    Found(Finding),
    /// Divided by a partition table; its partitions are nodes of their own.
    /// In pieces: what is not a partition that was looked into, each with its decision.
    Divided(Vec<Piece>),
}

/// A part of a divided volume with one decision.
#[derive(Debug, Clone)]
pub(super) struct Piece {
    /// Where it lies in the divided volume.
    pub extent: Extent,
    /// What it is.
    pub kind: RegionKind,
    /// The partition that it is, if it is one.
    pub partition: Option<u32>,
    /// The name of what is in it, where the partition's type tells.
    pub filesystem: Option<&'static str>,
    /// `CopyAll` or `CopyNonzero`.
    pub policy: Policy,
    /// Why, for people.
    pub reason: String,
}
