//! The map of a disk: what the composition of it and of the disks beside it says of its regions.

use super::compose::{Composition, Looks, Source, Taken};
use super::finding::Finding;
use super::made::{self, MadeVolume};
use super::node::{Look, Node, Origin, Piece};
use super::region::{Policy, Region, RegionKind, State};
use super::text;
use crate::device::{DiskIdentity, ReadAt};
use crate::error::Result;
use crate::extent::{Extent, ExtentList};
use crate::ptable::Scheme;
use crate::units::{ByteLen, ByteOffset, SectorSize};
use crate::volume::DiskIndex;
use crate::volume::crypt::Secrets;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Version of the JSON document; see `docs/map-json.md`.
const VERSION: u32 = 1;

/// The disk that a map is of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskInfo {
    /// The path that it was opened by.
    pub path: PathBuf,
    /// Exact size.
    pub size_bytes: u64,
    /// Logical sector.
    pub logical_sector_bytes: SectorSize,
    /// Physical sector.
    pub physical_sector_bytes: SectorSize,
}

impl From<&DiskIdentity> for DiskInfo {
    fn from(identity: &DiskIdentity) -> Self {
        Self {
            path: identity.path.clone(),
            size_bytes: identity.size_bytes,
            logical_sector_bytes: identity.logical_sector_bytes,
            physical_sector_bytes: identity.physical_sector_bytes,
        }
    }
}

/// What a capture reads of a disk, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskMap {
    version: u32,
    /// The disk.
    pub disk: DiskInfo,
    /// How it is divided.
    pub scheme: Scheme,
    /// Disk GUID or MBR signature.
    pub disk_id: Option<String>,
    /// Damage and oddities of the partition table.
    pub notes: Vec<String>,
    /// The decisions, in the order of the disk.
    pub regions: Vec<Region>,
    /// Volumes that lie on the disk by way of others: logical volumes, arrays, decrypted containers.
    pub volumes: Vec<MadeVolume>,
    /// What a capture reads: sorted, disjoint.
    pub extents: ExtentList,
    /// Bytes in `extents`.
    pub used_bytes: u64,
    /// The part of `extents` that was taken for want of knowledge.
    #[serde(skip)]
    nonzero: ExtentList,
}

/// Maps the disks of a machine together: a volume group or an array may lie on several of them.
/// What `secrets` open is looked into, in memory.
///
/// # Errors
/// When a disk vanishes. What else cannot be read or understood is copied, with the reason in its
/// region.
pub fn map_disks(disks: &[(&dyn ReadAt, DiskInfo)], secrets: &Secrets) -> Result<Vec<DiskMap>> {
    let sources = disks.iter().map(|(disk, info)| Source {
        disk: *disk,
        sector: info.logical_sector_bytes,
    });
    let composition = Composition::of(sources.collect(), secrets, Looks::Used)?;
    let Taken { exact, nonzero } = composition.taken();
    let names: Vec<String> = disks
        .iter()
        .map(|(_, info)| info.path.display().to_string())
        .collect();
    let mut maps = Vec::new();
    for (index, (exact, nonzero)) in exact.into_iter().zip(nonzero).enumerate() {
        let disk = DiskIndex(index);
        if let (Some((_, info)), Some(table)) = (disks.get(index), composition.table(disk)) {
            let extents = exact.union(&nonzero);
            maps.push(DiskMap {
                version: VERSION,
                disk: info.clone(),
                scheme: table.scheme,
                disk_id: table.id.map(|id| id.to_string()),
                notes: table.notes.clone(),
                regions: regions(&composition, disk, &extents),
                volumes: volumes(&composition, disk, &names),
                used_bytes: extents.total().0,
                nonzero: nonzero.subtract(&exact),
                extents,
            });
        }
    }
    Ok(maps)
}

/// The decisions on a disk, in its order.
fn regions(composition: &Composition<'_>, disk: DiskIndex, taken: &ExtentList) -> Vec<Region> {
    let mut regions = Vec::new();
    for (_, node) in composition.nodes() {
        match &node.origin {
            Origin::Disk(index) if *index == disk => {
                if let Look::Divided(pieces) = &node.look {
                    regions.extend(pieces.iter().map(Region::of_piece));
                } else if let Some(whole) = Extent::new(ByteOffset(0), node.volume.size()) {
                    of_node(node, whole, None, &mut regions);
                }
            }
            Origin::Partition {
                of, number, extent, ..
            } => {
                let parent = composition.node(*of).map(|parent| &parent.origin);
                if matches!(parent, Some(Origin::Disk(index)) if *index == disk) {
                    of_node(node, *extent, Some(*number), &mut regions);
                }
            }
            _ => {}
        }
    }
    for region in &mut regions {
        let inside = region.extent().into_iter().flat_map(|e| taken.within(e));
        region.used_bytes = inside.map(|extent| extent.len().0).sum();
    }
    regions.sort_by_key(|region| (region.start_byte, region.length_bytes));
    regions
}

/// The regions of a partition or an undivided disk at `extent`: itself, and what lies behind the end
/// of a filesystem that is smaller.
fn of_node(node: &Node<'_>, extent: Extent, partition: Option<u32>, regions: &mut Vec<Region>) {
    let unknown = Finding::unknown("not looked into: copied except zeros");
    let finding = match &node.look {
        Look::Found(finding) => finding,
        _ => &unknown,
    };
    let Some(used) = &finding.used else {
        let mut region = Region::of_finding(finding, extent, partition);
        region.policy = Policy::CopyNonzero;
        regions.push(region);
        return;
    };
    let end = extent.start().0 + used.covers.0.min(extent.len().0);
    if let Some(covered) = Extent::between(extent.start().0, end) {
        regions.push(Region::of_finding(finding, covered, partition));
    }
    if let Some(tail) = Extent::between(end, extent.end()) {
        regions.push(Region::of_piece(&Piece {
            extent: tail,
            kind: RegionKind::Unknown,
            partition,
            filesystem: None,
            policy: Policy::CopyNonzero,
            reason: "behind the end of the filesystem: copied except zeros".into(),
        }));
    }
}

fn volumes(composition: &Composition<'_>, disk: DiskIndex, names: &[String]) -> Vec<MadeVolume> {
    composition
        .nodes()
        .filter(|(id, node)| {
            made::is_made(composition, node) && composition.disks_of(*id).contains(&disk)
        })
        .map(|(id, node)| made::describe(composition, id, node, names))
        .collect()
}

impl DiskMap {
    /// Maps a disk by itself.
    ///
    /// # Errors
    /// As [`map_disks`].
    pub fn of(disk: &dyn ReadAt, info: DiskInfo) -> Result<Self> {
        let table_only = info.clone();
        let mut maps = map_disks(&[(disk, info)], &Secrets::default())?;
        Ok(maps.pop().unwrap_or_else(|| Self::empty(table_only)))
    }

    /// Of a disk without a byte.
    fn empty(info: DiskInfo) -> Self {
        Self {
            version: VERSION,
            disk: info,
            scheme: Scheme::None,
            disk_id: None,
            notes: Vec::new(),
            regions: Vec::new(),
            volumes: Vec::new(),
            extents: ExtentList::new(),
            used_bytes: 0,
            nonzero: ExtentList::new(),
        }
    }

    /// The part of [`extents`](Self::extents) that was taken for want of knowledge: much of it may
    /// be zero, so it says little about the size of the result. (Leaving out zeros is right
    /// everywhere: a hole in the result reads as zeros.)
    pub fn nonzero_only(&self) -> &ExtentList {
        &self.nonzero
    }

    /// The document of `haulier map --json`.
    ///
    /// # Errors
    /// Never in practice: everything in it has a JSON form.
    pub fn to_json(&self) -> Result<String, serde_json::Error> {
        serde_json::to_string_pretty(self)
    }

    /// For a small screen: a line a volume, at most 80 columns.
    pub fn render_brief(&self) -> String {
        text::brief(self)
    }

    /// For people: volume by volume, at most 80 columns.
    pub fn render_text(&self) -> String {
        text::render(self)
    }
}

impl Region {
    fn of_piece(piece: &Piece) -> Self {
        Self {
            start_byte: piece.extent.start().0,
            length_bytes: piece.extent.len().0,
            kind: piece.kind,
            partition: piece.partition,
            filesystem: piece.filesystem.map(str::to_owned),
            label: None,
            uuid: None,
            state: None,
            policy: piece.policy,
            reason: piece.reason.clone(),
            used_bytes: 0,
        }
    }

    fn of_finding(finding: &Finding, extent: Extent, partition: Option<u32>) -> Self {
        Self {
            start_byte: extent.start().0,
            length_bytes: extent.len().0,
            kind: finding.kind,
            partition,
            filesystem: finding.filesystem.clone(),
            label: finding.label.clone(),
            uuid: finding.uuid.clone(),
            state: finding.state,
            policy: Policy::UsedBlocks,
            reason: finding.reason.clone(),
            used_bytes: 0,
        }
    }

    /// Whether the technician should read the reason: something kept the map from being small.
    pub(super) fn is_remarkable(&self) -> bool {
        self.state.is_some_and(|state| state != State::Clean)
            || self.policy == Policy::CopyNonzero && self.length_bytes > ByteLen(1 << 20).0
    }
}
