//! The map of a whole disk: table, boot gap, partitions and what lies between them.

use super::finding::{self, Finding};
use super::region::{Policy, Region, RegionKind, State};
use super::text;
use crate::device::{DiskIdentity, ReadAt, Window};
use crate::error::Result;
use crate::extent::{Extent, ExtentList};
use crate::ptable::{Partition, PartitionTable, Scheme};
use crate::units::{ByteLen, ByteOffset, SectorSize};
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
    /// What a capture reads: sorted, disjoint.
    pub extents: ExtentList,
    /// Bytes in `extents`.
    pub used_bytes: u64,
}

impl DiskMap {
    /// Maps a disk.
    ///
    /// # Errors
    /// When the first sector cannot be read or the disk vanishes. What else cannot be read or
    /// understood is copied, with the reason in its region.
    pub fn of(disk: &dyn ReadAt, info: DiskInfo) -> Result<Self> {
        let table = PartitionTable::read(disk, info.logical_sector_bytes)?;
        let mut builder = Builder::default();
        for extent in table.metadata.iter() {
            builder.add_whole(
                extent,
                RegionKind::PartitionTable,
                None,
                Policy::CopyAll,
                "the partition table is always taken",
            );
        }
        let mut partitions: Vec<&Partition> = table.partitions.iter().collect();
        partitions.sort_by_key(|partition| (partition.start, partition.number));
        if partitions.is_empty() {
            builder.add_undivided(disk, &table)?;
        } else {
            let mut covered = 0;
            for partition in partitions {
                let Some(extent) = partition.extent() else {
                    continue;
                };
                builder.add_gap(covered, extent.start().0, &table);
                builder.add_partition(disk, partition, extent, extent.start().0 < covered)?;
                covered = covered.max(extent.end());
            }
            builder.add_gap(covered, disk.size().0, &table);
        }
        let Builder {
            mut regions,
            mut extents,
        } = builder;
        regions.sort_by_key(|region| (region.start_byte, region.length_bytes));
        extents.sort_unstable();
        let extents: ExtentList = extents.into_iter().collect();
        Ok(Self {
            version: VERSION,
            disk: info,
            scheme: table.scheme,
            disk_id: table.id.map(|id| id.to_string()),
            notes: table.notes,
            regions,
            used_bytes: extents.total().0,
            extents,
        })
    }

    /// The part of [`extents`](Self::extents) that was taken for want of knowledge: much of it may
    /// be zero, so it says little about the size of the result. (Leaving out zeros is right
    /// everywhere: a hole in the result reads as zeros.)
    pub fn nonzero_only(&self) -> ExtentList {
        let windows = |wanted: fn(Policy) -> bool| -> ExtentList {
            self.regions
                .iter()
                .filter(|region| wanted(region.policy))
                .filter_map(Region::extent)
                .collect()
        };
        windows(|policy| policy == Policy::CopyNonzero)
            .subtract(&windows(|policy| policy == Policy::CopyAll))
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

#[derive(Default)]
struct Builder {
    regions: Vec<Region>,
    extents: Vec<Extent>,
}

impl Builder {
    /// A region that is taken in full.
    fn add_whole(
        &mut self,
        extent: Extent,
        kind: RegionKind,
        partition: Option<u32>,
        policy: Policy,
        reason: &str,
    ) {
        self.extents.push(extent);
        self.regions.push(Region {
            start_byte: extent.start().0,
            length_bytes: extent.len().0,
            kind,
            partition,
            filesystem: None,
            label: None,
            uuid: None,
            state: None,
            policy,
            reason: reason.into(),
            used_bytes: extent.len().0,
        });
    }

    /// What no partition covers from `start` to `end`, less the tables in it.
    fn add_gap(&mut self, start: u64, end: u64, table: &PartitionTable) {
        let gap: ExtentList = Extent::between(start, end).into_iter().collect();
        for extent in gap.subtract(&table.metadata).iter() {
            if start == 0 {
                self.add_whole(
                    extent,
                    RegionKind::BootGap,
                    None,
                    Policy::CopyAll,
                    "boot code may be here: always taken",
                );
            } else {
                self.add_whole(
                    extent,
                    RegionKind::Unpartitioned,
                    None,
                    Policy::CopyNonzero,
                    "no partition covers it: copied except zeros",
                );
            }
        }
    }

    fn add_partition(
        &mut self,
        disk: &dyn ReadAt,
        partition: &Partition,
        extent: Extent,
        overlaps: bool,
    ) -> Result<()> {
        let number = Some(partition.number);
        if partition.kind.is_raw_boot() {
            self.add_whole(
                extent,
                RegionKind::Unknown,
                number,
                Policy::CopyAll,
                "a boot loader without a filesystem: always taken",
            );
            return Ok(());
        }
        if overlaps {
            self.add_whole(
                extent,
                RegionKind::Unknown,
                number,
                Policy::CopyNonzero,
                "it overlaps another partition: copied except zeros",
            );
            return Ok(());
        }
        let volume = Window::new(disk, extent.start(), extent.len())?;
        let finding = finding::look(&volume)?;
        self.add_finding(finding, extent, number);
        Ok(())
    }

    /// A disk without partitions: what is on it as a whole. But where a table is, even an empty or
    /// broken one, a filesystem that seems to fill the disk is from before: there may be data in
    /// partitions that we do not see.
    fn add_undivided(&mut self, disk: &dyn ReadAt, table: &PartitionTable) -> Result<()> {
        let Some(extent) = Extent::new(ByteOffset(0), disk.size()) else {
            return Ok(());
        };
        if table.metadata.is_empty() {
            let finding = finding::look(&disk)?;
            self.add_finding(finding, extent, None);
            return Ok(());
        }
        let whole: ExtentList = [extent].into_iter().collect();
        for extent in whole.subtract(&table.metadata).iter() {
            self.add_whole(
                extent,
                RegionKind::Unpartitioned,
                None,
                Policy::CopyNonzero,
                "there is a partition table, but no partition in it: copied except zeros",
            );
        }
        Ok(())
    }

    fn add_finding(&mut self, finding: Finding, extent: Extent, partition: Option<u32>) {
        let start = extent.start().0;
        let Some(used) = finding.used else {
            self.add_whole(
                extent,
                finding.kind,
                partition,
                Policy::CopyNonzero,
                &finding.reason,
            );
            if let Some(region) = self.regions.last_mut() {
                region.filesystem = finding.filesystem;
                region.label = finding.label;
                region.uuid = finding.uuid;
                region.state = finding.state;
            }
            return;
        };
        let covers = used.covers.min(extent.len());
        let inside = Extent::new(ByteOffset(0), covers);
        let mut used_bytes = 0;
        for run in inside
            .into_iter()
            .flat_map(|inside| used.extents.within(inside))
        {
            used_bytes += run.len().0;
            self.extents
                .extend(Extent::between(start + run.start().0, start + run.end()));
        }
        self.regions.push(Region {
            start_byte: start,
            length_bytes: covers.0,
            kind: finding.kind,
            partition,
            filesystem: finding.filesystem,
            label: finding.label,
            uuid: finding.uuid,
            state: finding.state,
            policy: Policy::UsedBlocks,
            reason: finding.reason,
            used_bytes,
        });
        if let Some(tail) = Extent::between(start + covers.0, extent.end()) {
            self.add_whole(
                tail,
                RegionKind::Unknown,
                partition,
                Policy::CopyNonzero,
                "behind the end of the filesystem: copied except zeros",
            );
        }
    }
}

impl Region {
    /// Whether the technician should read the reason: something kept the map from being small.
    pub(super) fn is_remarkable(&self) -> bool {
        self.state.is_some_and(|state| state != State::Clean)
            || self.policy == Policy::CopyNonzero && self.length_bytes > ByteLen(1 << 20).0
    }
}
