//! Which volumes are on the disks and what they are, without asking which of their bytes are in use:
//! for whoever wants to know what lay in certain bytes of the disks.

use super::compose::{Composition, Looks, Source};
use super::disk::DiskInfo;
use super::finding::Finding;
use super::made;
use super::node::{Look, Node, NodeId, Origin};
use super::region::{RegionKind, State};
use crate::device::ReadAt;
use crate::error::Result;
use crate::extent::{Extent, ExtentList};
use crate::ptable::{DiskId, PartitionType};
use crate::volume::crypt::Secrets;
use crate::volume::{DiskIndex, SharedVolume};

/// One volume.
pub(crate) struct Surveyed<'a> {
    /// As the map names it: `/dev/sda partition 2`, `vg0/root`; `None` for a whole disk.
    pub name: Option<String>,
    /// Its bytes, and where they lie.
    pub volume: SharedVolume<'a>,
    /// What is in it.
    pub holds: Holds,
    /// Where it comes from.
    pub origin: Whence,
}

/// Where a volume comes from.
#[derive(Debug, Clone)]
pub(crate) struct Whence {
    /// The disks that it has bytes on, ascending.
    pub disks: Vec<DiskIndex>,
    /// The volumes that it is made of, or the one that it is a partition of, by their place.
    pub of: Vec<usize>,
    /// What it is made as, if it is made of others: `vg0/root`, `md0`.
    pub made: Option<String>,
    /// If it is a partition of a disk.
    pub partition: Option<PartitionNames>,
}

/// What a partition is known by.
#[derive(Debug, Clone)]
pub(crate) struct PartitionNames {
    /// In the kernel's numbering.
    pub number: u32,
    /// As `PARTUUID=` names it, lower case; on MBR the disk's signature and the number.
    pub uuid: Option<String>,
    /// As `PARTLABEL=` names it.
    pub label: Option<String>,
    /// What it says it is for.
    pub kind: PartitionType,
}

/// What is in a volume.
#[derive(Debug)]
pub(crate) enum Holds {
    /// What `identify` calls by this name; everything in it is its own.
    Filesystem(String),
    /// A partition table and what it leaves over: each piece, and what it is.
    Pieces(Vec<(Extent, Left)>),
    /// A member of a volume group or an array, or an encrypted volume, that was put together: its own
    /// metadata; the rest is what was made of it.
    Member {
        /// As it calls itself: `LVM2`, `LUKS2`.
        what: String,
        /// Labels, superblocks, headers, key slots.
        metadata: ExtentList,
        /// Whether it is an encrypted volume.
        is_encryption: bool,
        /// The set's or the encrypted volume's UUID.
        uuid: Option<String>,
    },
    /// An encrypted volume that no secret that was given opens.
    Locked {
        /// As it calls itself: `LUKS2`.
        what: String,
        /// Its UUID.
        uuid: Option<String>,
    },
    /// Swap space.
    Swap,
    /// Nothing that can be looked into, and why.
    Closed(String),
}

/// What of a divided volume is not a partition that was looked into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Left {
    /// Sectors of the partition table.
    Table,
    /// Before the first partition.
    BootGap,
    /// Between or behind the partitions.
    Unpartitioned,
    /// A partition that nobody looks into.
    Partition(u32),
}

/// All volumes, each behind those that it is made of.
///
/// # Errors
/// When a disk is gone.
pub(crate) fn survey<'a>(
    disks: &[(&'a dyn ReadAt, DiskInfo)],
    secrets: &Secrets,
) -> Result<Vec<Surveyed<'a>>> {
    let sources = disks.iter().map(|(disk, info)| Source {
        disk: *disk,
        sector: info.logical_sector_bytes,
    });
    let names: Vec<String> = disks
        .iter()
        .map(|(_, info)| info.path.display().to_string())
        .collect();
    let composition = Composition::of(sources.collect(), secrets, Looks::NamesOnly)?;
    Ok(composition
        .nodes()
        .map(|(id, node)| Surveyed {
            name: name_of(&composition, id, node, &names),
            volume: SharedVolume::clone(&node.volume),
            holds: holds(node),
            origin: whence(&composition, id, node),
        })
        .collect())
}

fn whence(composition: &Composition<'_>, id: NodeId, node: &Node<'_>) -> Whence {
    let (of, made) = match &node.origin {
        Origin::Disk(_) => (Vec::new(), None),
        Origin::Partition { of, .. } => (vec![of.0], None),
        Origin::Made { of, name, .. } => (of.iter().map(|id| id.0).collect(), Some(name.clone())),
    };
    Whence {
        disks: composition.disks_of(id),
        of,
        made,
        partition: partition_names(composition, node),
    }
}

/// Only partitions of disks: those of arrays have no names that a system would use.
fn partition_names(composition: &Composition<'_>, node: &Node<'_>) -> Option<PartitionNames> {
    let Origin::Partition { of, number, .. } = &node.origin else {
        return None;
    };
    let Origin::Disk(disk) = composition.node(*of)?.origin else {
        return None;
    };
    let table = composition.table(disk)?;
    let partition = table.partitions.iter().find(|p| p.number == *number)?;
    let uuid = match (partition.guid, table.id) {
        (Some(guid), _) => Some(guid.hyphenated().to_string()),
        // As the kernel does for MBR (`block/partitions/msdos.c`).
        (None, Some(DiskId::Mbr(signature))) => Some(format!("{signature:08x}-{number:02x}")),
        _ => None,
    };
    Some(PartitionNames {
        number: *number,
        uuid,
        label: partition.name.clone(),
        kind: partition.kind,
    })
}

fn name_of(
    composition: &Composition<'_>,
    id: NodeId,
    node: &Node<'_>,
    names: &[String],
) -> Option<String> {
    match node.origin {
        Origin::Disk(_) => None,
        _ => Some(made::name_of(composition, id, names)),
    }
}

fn holds(node: &Node<'_>) -> Holds {
    match &node.look {
        Look::Waiting => Holds::Closed("it was not looked into".into()),
        Look::Divided(pieces) => Holds::Pieces(
            pieces
                .iter()
                .map(|piece| {
                    let left = match (piece.partition, piece.kind) {
                        (Some(number), _) => Left::Partition(number),
                        (None, RegionKind::PartitionTable) => Left::Table,
                        (None, RegionKind::BootGap) => Left::BootGap,
                        (None, _) => Left::Unpartitioned,
                    };
                    (piece.extent, left)
                })
                .collect(),
        ),
        Look::Found(finding) => found(finding),
    }
}

fn found(finding: &Finding) -> Holds {
    let what = finding.filesystem.clone();
    match (finding.kind, what) {
        (RegionKind::Filesystem, Some(what)) => Holds::Filesystem(what),
        (RegionKind::Swap, _) => Holds::Swap,
        (RegionKind::VolumeManager | RegionKind::Encrypted, what) => {
            let what = what.unwrap_or_default();
            match &finding.used {
                Some(used) if finding.state == Some(State::Clean) => Holds::Member {
                    what,
                    metadata: used.extents.clone(),
                    is_encryption: finding.kind == RegionKind::Encrypted,
                    uuid: finding.uuid.clone(),
                },
                _ if finding.kind == RegionKind::Encrypted => Holds::Locked {
                    what,
                    uuid: finding.uuid.clone(),
                },
                _ => Holds::Closed(format!("it is in {what}, which could not be put together")),
            }
        }
        (RegionKind::Filesystem, None) => {
            Holds::Closed("the volume has the signatures of several filesystems".into())
        }
        _ if finding.reason.is_empty() => {
            Holds::Closed("the volume holds no filesystem that is known".into())
        }
        _ => Holds::Closed(finding.reason.clone()),
    }
}
