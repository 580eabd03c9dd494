//! Where the data partition goes on the stick, and what is there already.
//!
//! | entry | name | |
//! | --- | --- | --- |
//! | 1, 2 | | ESP and BIOS boot, from the image |
//! | 3 | `haulier-data-new` | ours, but not yet formatted: whatever it holds is nobody's |
//! | 3 | `haulier-data` | holds captures; never formatted |
//!
//! The name is the commit record: it changes only once the filesystem is on the stick for certain,
//! so after a power cut nobody has to guess from the content.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use super::table::{Geometry, Table, last_usable};
use crate::error::{Error, Result};
use crate::units::{ByteLen, ByteOffset, Lba};
use gpt::partition::Partition;
use uuid::Uuid;

/// The entry of the data partition.
pub(super) const DATA_NUMBER: u32 = 3;
/// Its name once it is formatted.
pub(super) const DATA_NAME: &str = "haulier-data";
/// Its name before.
pub(super) const DATA_NAME_NEW: &str = "haulier-data-new";
/// Partitions whose name begins so mark a disk as a Haulier stick.
pub(super) const NAMES: &str = "haulier-";

const ALIGNMENT: u64 = 1 << 20;
/// Below this nothing useful fits, and ext4's journal takes most of it.
const SMALLEST: ByteLen = ByteLen(64 << 20);

/// How far the stick's data partition is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// There is none.
    Absent,
    /// It has its place, its filesystem may be missing or half made.
    Begun,
    /// It holds a filesystem.
    Made,
}

/// What a table says of the data partition.
///
/// # Errors
/// `Refused` when entry 3 is somebody else's.
pub(super) fn state(table: &Table) -> Result<State> {
    match table.partitions.get(&DATA_NUMBER) {
        None => Ok(State::Absent),
        Some(entry) if entry.name == DATA_NAME => Ok(State::Made),
        Some(entry) if entry.name == DATA_NAME_NEW => Ok(State::Begun),
        Some(entry) => Err(Error::refused(format!(
            "partition {DATA_NUMBER} is not Haulier's (name {:?}, type {}, sectors {} to {}); \
             Haulier does not touch it",
            entry.name, entry.part_type_guid.guid, entry.first_lba, entry.last_lba
        ))
        .advise("Save what it holds and delete it, or write the image to another stick")),
    }
}

/// First and last sector of the free space in which the data partition goes, in whole MiB.
///
/// It begins behind the whole image, the image's own backup table included: writing a newer image
/// of the same size onto a used stick then leaves the captures alone.
///
/// # Errors
/// `Refused` when less than 64 MiB are free.
pub(super) fn free_space(table: &Table, geometry: Geometry) -> Result<(Lba, Lba)> {
    let last_used = table.partitions.values().map(|p| p.last_lba).max();
    let image_end = (table.other_header < geometry.last).then_some(table.other_header.0);
    let first_free = last_used
        .max(image_end)
        .unwrap_or(table.first_usable.0)
        .saturating_add(1);
    let last = last_usable(table, geometry)?;
    let alignment = ALIGNMENT
        .checked_div(geometry.sector_bytes())
        .unwrap_or(ALIGNMENT);
    let start = first_free.checked_next_multiple_of(alignment);
    let end = last
        .0
        .checked_add(1)
        .and_then(|behind| behind.checked_sub(behind.checked_rem(alignment)?))
        .unwrap_or(0);
    let free = start
        .and_then(|start| end.checked_sub(start))
        .and_then(|sectors| sectors.checked_mul(geometry.sector_bytes()))
        .map_or(ByteLen::ZERO, ByteLen);
    match start {
        Some(start) if free >= SMALLEST => Ok((Lba(start), Lba(end.saturating_sub(1)))),
        _ => Err(Error::refused(format!(
            "there is no room for captures on the stick: {free} are free behind the boot \
             partitions, at least {SMALLEST} are needed"
        ))
        .advise("Write the image to a larger stick")),
    }
}

/// `table` with the data partition in these sectors, and new GUIDs for the disk and all partitions:
/// from now on it is a stick of its own and not the twin of any other from the same image.
pub(super) fn with_data_partition(table: &Table, (first, last): (Lba, Lba), name: &str) -> Table {
    let mut table = table.clone();
    table.partitions.insert(
        DATA_NUMBER,
        Partition {
            part_type_guid: gpt::partition_types::LINUX_FS,
            part_guid: Uuid::nil(),
            first_lba: first.0,
            last_lba: last.0,
            flags: 0,
            name: name.to_owned(),
        },
    );
    table.disk_guid = Uuid::new_v4();
    for partition in table.partitions.values_mut() {
        partition.part_guid = Uuid::new_v4();
    }
    table
}

/// `table` with the data partition's name saying that it is formatted.
pub(super) fn with_data_partition_made(table: &Table) -> Table {
    let mut table = table.clone();
    if let Some(entry) = table.partitions.get_mut(&DATA_NUMBER) {
        entry.name = DATA_NAME.to_owned();
    }
    table
}

/// Where the data partition lies, in bytes.
pub(super) fn data_extent(table: &Table, geometry: Geometry) -> Option<(ByteOffset, ByteLen)> {
    let entry = table.partitions.get(&DATA_NUMBER)?;
    extent((Lba(entry.first_lba), Lba(entry.last_lba)), geometry)
}

/// Sectors, both included, as bytes.
pub(super) fn extent(
    (first, last): (Lba, Lba),
    geometry: Geometry,
) -> Option<(ByteOffset, ByteLen)> {
    let start = first.0.checked_mul(geometry.sector_bytes())?;
    let sectors = last.0.checked_sub(first.0)?.checked_add(1)?;
    let length = sectors.checked_mul(geometry.sector_bytes())?;
    Some((ByteOffset(start), ByteLen(length)))
}

#[cfg(test)]
mod tests {
    use super::super::table::Copies;
    use super::super::testing::{MIB, StickImage};
    use super::*;
    use crate::error::Kind;

    fn table(image: &StickImage) -> Table {
        let copies = Copies::read(&mut image.open(), image.geometry());
        copies.table().unwrap().clone()
    }

    #[test]
    fn the_data_partition_lies_behind_the_image_and_fills_the_stick() {
        let image = StickImage::new(512 * MIB);
        let (first, last) = free_space(&table(&image), image.geometry()).unwrap();
        assert_eq!(first, Lba(98 * 2048));
        assert_eq!(last, Lba(511 * 2048 - 1));
    }

    #[test]
    fn a_stick_no_larger_than_the_image_has_no_room() {
        for size in [98 * MIB, 162 * MIB] {
            let image = StickImage::new(size);
            let error = free_space(&table(&image), image.geometry()).unwrap_err();
            assert_eq!(error.kind(), Kind::Refused);
            assert!(error.to_string().contains("67.1 MB are needed"), "{error}");
        }
    }

    #[test]
    fn the_name_of_entry_3_says_how_far_it_is() {
        let image = StickImage::new(512 * MIB);
        assert_eq!(state(&table(&image)).unwrap(), State::Absent);
        let free = free_space(&table(&image), image.geometry()).unwrap();
        let begun = with_data_partition(&table(&image), free, DATA_NAME_NEW);
        assert_eq!(state(&begun).unwrap(), State::Begun);
        assert_eq!(
            state(&with_data_partition_made(&begun)).unwrap(),
            State::Made
        );
    }

    #[test]
    fn a_third_partition_of_somebody_else_is_refused() {
        let image = StickImage::new(512 * MIB);
        image.sgdisk(&[
            "--move-second-header",
            "--new=3:0:+100M",
            "--change-name=3:photos",
        ]);
        let error = state(&table(&image)).unwrap_err();
        assert_eq!(error.kind(), Kind::Refused);
        assert!(error.to_string().contains("\"photos\""), "{error}");
    }

    #[test]
    fn all_guids_are_new_and_no_two_are_the_same() {
        let image = StickImage::new(512 * MIB);
        let old = table(&image);
        let free = free_space(&old, image.geometry()).unwrap();
        let make = || with_data_partition(&old, free, DATA_NAME_NEW);
        let mut guids: Vec<_> = [&old, &make(), &make()]
            .into_iter()
            .flat_map(|table| {
                let parts = table.partitions.values().map(|p| p.part_guid);
                parts.chain([table.disk_guid]).collect::<Vec<_>>()
            })
            .collect();
        assert_eq!(guids.len(), 3 + 4 + 4);
        guids.sort();
        guids.dedup();
        assert_eq!(guids.len(), 11);
    }
}
