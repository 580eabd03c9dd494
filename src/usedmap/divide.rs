//! Dividing a volume by its partition table: which of its bytes are partitions to look into, and
//! what is to become of the others.

use super::node::Piece;
use super::region::{Policy, RegionKind};
use crate::extent::{Extent, ExtentList};
use crate::ptable::{Partition, PartitionTable};
use crate::units::ByteLen;

/// A volume divided.
pub(super) struct Division {
    /// The partitions that are to be looked into.
    pub partitions: Vec<Partition>,
    /// Everything else; together they cover the volume.
    pub pieces: Vec<Piece>,
}

/// Divides a volume of `size` bytes by its table, which has partitions or at least sectors.
pub(super) fn divide(table: &PartitionTable, size: ByteLen) -> Division {
    let mut division = Division {
        partitions: Vec::new(),
        pieces: Vec::new(),
    };
    for extent in table.metadata.iter() {
        division.pieces.push(Piece {
            extent,
            kind: RegionKind::PartitionTable,
            partition: None,
            filesystem: None,
            policy: Policy::CopyAll,
            reason: "the partition table is always taken".into(),
        });
    }
    let mut partitions: Vec<&Partition> = table.partitions.iter().collect();
    partitions.sort_by_key(|partition| (partition.start, partition.number));
    if partitions.is_empty() {
        division.unseen(table, size);
        return division;
    }
    let mut covered = 0;
    for partition in partitions {
        let Some(extent) = partition.extent() else {
            continue;
        };
        division.gap(covered, extent.start().0, table);
        division.partition(partition, extent, extent.start().0 < covered);
        covered = covered.max(extent.end());
    }
    division.gap(covered, size.0, table);
    division
}

impl Division {
    /// Under a table without partitions a filesystem that seems to fill the disk is from before:
    /// there may be data in partitions that we do not see.
    fn unseen(&mut self, table: &PartitionTable, size: ByteLen) {
        let whole: ExtentList = Extent::between(0, size.0).into_iter().collect();
        for extent in whole.subtract(&table.metadata).iter() {
            self.pieces.push(Piece {
                extent,
                kind: RegionKind::Unpartitioned,
                partition: None,
                filesystem: None,
                policy: Policy::CopyNonzero,
                reason: "there is a partition table, but no partition in it: copied except zeros"
                    .into(),
            });
        }
    }

    /// What no partition covers from `start` to `end`, less the tables in it.
    fn gap(&mut self, start: u64, end: u64, table: &PartitionTable) {
        let gap: ExtentList = Extent::between(start, end).into_iter().collect();
        for extent in gap.subtract(&table.metadata).iter() {
            let (kind, policy, reason) = if start == 0 {
                (
                    RegionKind::BootGap,
                    Policy::CopyAll,
                    "boot code may be here: always taken",
                )
            } else {
                (
                    RegionKind::Unpartitioned,
                    Policy::CopyNonzero,
                    "no partition covers it: copied except zeros",
                )
            };
            self.pieces.push(Piece {
                extent,
                kind,
                partition: None,
                filesystem: None,
                policy,
                reason: reason.into(),
            });
        }
    }

    fn partition(&mut self, partition: &Partition, extent: Extent, overlaps: bool) {
        let mut piece = Piece {
            extent,
            kind: RegionKind::Unknown,
            partition: Some(partition.number),
            filesystem: None,
            policy: Policy::CopyNonzero,
            reason: String::new(),
        };
        if partition.kind.is_raw_boot() {
            piece.policy = Policy::CopyAll;
            piece.reason = "a boot loader without a filesystem: always taken".into();
        } else if overlaps {
            piece.reason = "it overlaps another partition: copied except zeros".into();
        } else if let Some(owner) = partition.kind.foreign_volume_manager() {
            // What looks like a filesystem at its start may be one stripe of it.
            piece.kind = RegionKind::VolumeManager;
            piece.filesystem = Some(owner);
            piece.reason = format!(
                "belongs to {owner}, whose free space is not looked for: copied except zeros"
            );
        } else {
            self.partitions.push(partition.clone());
            return;
        }
        self.pieces.push(piece);
    }
}
