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
use crate::volume::SharedVolume;
use crate::volume::crypt::Secrets;

/// One volume.
pub(crate) struct Surveyed<'a> {
    /// As the map names it: `/dev/sda partition 2`, `vg0/root`; `None` for a whole disk.
    pub name: Option<String>,
    /// Its bytes, and where they lie.
    pub volume: SharedVolume<'a>,
    /// What is in it.
    pub holds: Holds,
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
        })
        .collect())
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
                },
                _ if finding.kind == RegionKind::Encrypted => Holds::Closed(format!(
                    "it is in {what}, which no secret that was given opens"
                )),
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
