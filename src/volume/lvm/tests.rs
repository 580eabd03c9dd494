//! Where dm-raid puts the chunks of each of its types: read from the recorded images themselves,
//! which are plain volumes. (The parity of the recording is not known, so that the arrays as a whole
//! are not read.)

#![allow(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use super::build::Builder;
use super::{assemble, raid};
use crate::device::ReadAt;
use crate::extent::Extent;
use crate::units::ByteOffset;
use crate::volume::recorded::{Disk, set};
use crate::volume::{DiskIndex, SharedVolume, Slice};
use std::collections::HashMap;
use std::sync::Arc;

#[test]
fn every_type_of_dm_raid_lies_where_the_kernel_put_it() {
    let set = set("raids");
    let disks = Disk::all(&set.members);
    let members: Vec<_> = disks
        .iter()
        .enumerate()
        .map(|(index, disk)| {
            let whole = Extent::new(ByteOffset(0), disk.size()).unwrap();
            let slice = Slice::new(disk, DiskIndex(index), whole).unwrap();
            let volume: SharedVolume<'_> = Arc::new(slice);
            (super::member(&*volume).unwrap(), volume)
        })
        .collect();
    assert!(assemble(members.clone()).is_ok());
    let group = members[0].0.group.clone();
    let physical: HashMap<_, _> = group
        .physical
        .iter()
        .map(|physical| {
            let (_, volume) = members
                .iter()
                .find(|(member, _)| member.label.uuid == physical.id)
                .unwrap();
            (physical.name.as_str(), (physical, volume.clone()))
        })
        .collect();
    let mut builder = Builder::new(&group, physical);
    let mut kinds = Vec::new();
    for expected in &set.volumes {
        let name = expected.name.trim_start_matches("raids/");
        let logical = group.logical.iter().find(|l| l.name == name).unwrap();
        let segment = &logical.segments[0];
        let images: Vec<SharedVolume<'_>> = raid::images(segment)
            .unwrap()
            .into_iter()
            .map(|(data, _)| builder.logical(data).unwrap())
            .collect();
        let chunk = segment.bytes("stripe_size").unwrap_or(0);
        let geometry = raid::geometry(segment, expected.size, images.len(), chunk).unwrap();
        assert_eq!(geometry.size(), expected.size, "{name}");
        let tag = expected.tag.unwrap();
        for at in (0..expected.size).step_by(4096) {
            let piece = geometry.piece(at);
            assert!(!piece.copies.is_empty());
            for (slot, byte) in piece.copies {
                let mut word = [0; 8];
                images[slot].read_at(ByteOffset(byte), &mut word).unwrap();
                let found = u64::from_le_bytes(word);
                assert_eq!(found, at / 8 + 1 | tag << 48, "{name} at {at} on {slot}");
            }
        }
        kinds.push(segment.kind.clone());
    }
    kinds.sort_unstable();
    let all = [
        "raid0",
        "raid0_meta",
        "raid1",
        "raid10",
        "raid4",
        "raid5",
        "raid5_la",
        "raid5_n",
        "raid6",
        "raid6_n_6",
        "raid6_nr",
    ];
    assert_eq!(kinds, all);
}
