//! Disks and partitions that are members of a RAID, named as what they are: two halves of a mirror
//! that are taken for two disks are imported twice.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use crate::device::{ReadAt, Window};
use crate::ptable::{Partition, PartitionTable};
use crate::units::SectorSize;
use crate::usedmap::identify::{MD, identify};
use crate::volume::md;
use serde::{Deserialize, Serialize};

/// A membership.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RaidMember {
    /// The partition that is the member; `None` for the whole disk.
    pub partition: Option<u32>,
    /// `md RAID`, `Intel RST RAID`, `DDF RAID`, `LSI MegaRAID`.
    pub kind: String,
    /// UUID of the array that it belongs to (md only).
    pub array: Option<String>,
}

/// All memberships of a disk. What cannot be read is not one.
pub(super) fn members(disk: &dyn ReadAt, sector: SectorSize) -> Vec<RaidMember> {
    let partitions = PartitionTable::read(disk, sector)
        .map(|table| table.partitions)
        .unwrap_or_default();
    let extents = partitions.iter().filter_map(Partition::extent);
    let of_partition = md::is_of_a_partition(disk, extents);
    let mut members: Vec<RaidMember> = kinds(disk)
        .into_iter()
        .filter(|kind| *kind != MD || !of_partition)
        .map(|kind| member(disk, None, kind))
        .collect();
    for part in &partitions {
        let Ok(volume) = Window::new(disk, part.start, part.len) else {
            continue;
        };
        // Metadata of the firmware lie at the end of a disk, so only by chance in a partition.
        if kinds(&volume).contains(&MD) {
            members.push(member(&volume, Some(part.number), MD));
        }
    }
    members
}

fn kinds(volume: &dyn ReadAt) -> Vec<&'static str> {
    identify(volume)
        .unwrap_or_default()
        .into_iter()
        .filter(|signature| signature.owns_whole_disk())
        .map(|signature| signature.name)
        .collect()
}

fn member(volume: &dyn ReadAt, partition: Option<u32>, kind: &str) -> RaidMember {
    RaidMember {
        partition,
        kind: kind.to_owned(),
        array: (kind == MD)
            .then(|| md::member(volume).ok().map(|member| member.uuid()))
            .flatten(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::MemDisk;

    #[test]
    fn a_disk_of_the_firmwares_raid_is_named() {
        let mut disk = vec![0; 1 << 20];
        assert_eq!(members(&MemDisk(disk.clone()), SectorSize::B512), []);
        let at = disk.len() - 1024;
        disk[at..at + 24].copy_from_slice(b"Intel Raid ISM Cfg Sig. ");
        let found = members(&MemDisk(disk), SectorSize::B512);
        assert_eq!(
            found,
            [RaidMember {
                partition: None,
                kind: "Intel RST RAID".into(),
                array: None
            }]
        );
    }
}
