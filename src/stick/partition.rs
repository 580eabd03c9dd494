//! Bringing the stick's partition table to the layout: the data partition made, both copies whole,
//! the kernel told.
//!
//! In: the proven stick. Out: the data partition's device node. Each step may be cut off by a power
//! cut; the next call goes on from what it finds.

#![forbid(unsafe_code)]

use super::content::{self, Content};
use super::disks::{devnum, number};
use super::identify::{Guids, Role, Stick};
use super::layout::{self, DATA_NAME, DATA_NAME_NEW, DATA_NUMBER, State};
use super::renamed;
use super::table::{self, Copies, Geometry, Medium, Table};
use crate::device::ioctl;
use crate::error::{Error, Kind, Result};
use crate::report::Report;
use crate::units::{ByteLen, ByteOffset};
use crate::{say, warn};
use std::fs::File;
use std::path::{Path, PathBuf};
use uuid::Uuid;

/// A partition of the stick as the kernel knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Node {
    /// `/dev/sdb3`
    pub(super) path: PathBuf,
    /// Its device number.
    pub(super) devnum: u64,
}

/// Makes the data partition if there is none, repairs a damaged copy of the table, and tells the
/// kernel. `State::Begun` means that it has to be formatted and then [`finish`]ed.
pub(super) fn prepare(stick: &Stick, report: &dyn Report) -> Result<(State, Node)> {
    let geometry = Geometry::of(stick.identity())?;
    let (table, state) = {
        let (mut file, copies) = stick.open_to_write()?;
        let plan = plan(&mut file, &copies, geometry).map_err(|e| e.on(stick.describe()))?;
        match plan {
            Plan::Nothing(table, state) => (table, state),
            Plan::Repair(table, state) => {
                warn!(
                    report,
                    "The stick's partition table was damaged; it is repaired"
                );
                table::write(&mut file, &table, geometry).map_err(|e| e.on(stick.describe()))?;
                (table, state)
            }
            Plan::Make(table, state) => {
                if state == State::Made {
                    say!(
                        report,
                        "The stick holds captures from before; they are kept"
                    );
                } else {
                    say!(report, "Making the data partition on {}", stick.describe());
                }
                rename_and_write(stick, &mut file, &table, geometry)?;
                (table, state)
            }
        }
        // Closed here: this was the only user that the stick may have (O_EXCL).
    };
    let extent = layout::data_extent(&table, geometry).ok_or_else(|| {
        Error::corrupt("the data partition lies beyond 64 bits").on(stick.describe())
    })?;
    Ok((state, announce(stick, extent)?))
}

/// Writes down that the data partition is formatted. Call it only once the filesystem lasts.
pub(super) fn finish(stick: &Stick) -> Result<()> {
    let (mut file, copies) = stick.open_to_write()?;
    let geometry = Geometry::of(stick.identity())?;
    let table = known_table(&copies)?;
    table::write(
        &mut file,
        &layout::with_data_partition_made(table),
        geometry,
    )
    .map_err(|e| e.on(stick.describe()))
}

/// What has to be written before the data partition can be used, with the table and the state that
/// it leads to.
#[derive(Debug, PartialEq, Eq)]
enum Plan {
    Nothing(Table, State),
    Repair(Table, State),
    Make(Table, State),
}

fn plan(device: &mut impl Medium, copies: &Copies, geometry: Geometry) -> Result<Plan> {
    let table = known_table(copies)?;
    match layout::state(table)? {
        State::Absent => {
            let free = layout::free_space(table, geometry)?;
            let (name, state) = if holds_captures(device, free, geometry)? {
                (DATA_NAME, State::Made)
            } else {
                (DATA_NAME_NEW, State::Begun)
            };
            Ok(Plan::Make(
                layout::with_data_partition(table, free, name),
                state,
            ))
        }
        state if copies.are_sound(geometry) => Ok(Plan::Nothing(table.clone(), state)),
        state => Ok(Plan::Repair(table.clone(), state)),
    }
}

/// A newer image was written over a used stick: its table knows no data partition, but the
/// filesystem is where it was.
fn holds_captures(
    device: &mut impl Medium,
    free: (crate::units::Lba, crate::units::Lba),
    geometry: Geometry,
) -> Result<bool> {
    let Some((start, length)) = layout::extent(free, geometry) else {
        return Ok(false);
    };
    Ok(matches!(
        content::read(device, start)?,
        Content::Ours { size, .. } if size <= length
    ))
}

fn known_table(copies: &Copies) -> Result<&Table> {
    copies.table().ok_or_else(|| {
        let why = |copy: &Result<Table, String>| match copy {
            Ok(_) => "is whole".to_owned(),
            Err(why) => why.clone(),
        };
        Error::corrupt(format!(
            "neither copy of the partition table is whole: the primary {}, the backup {}",
            why(&copies.primary),
            why(&copies.backup)
        ))
    })
}

/// Writes a table with new GUIDs, with the record of them kept in step.
fn rename_and_write(
    stick: &Stick,
    file: &mut File,
    table: &Table,
    geometry: Geometry,
) -> Result<()> {
    let number = stick.guids().esp_number;
    let esp = esp_guid(table, number)?;
    // The record says by which name the stick is known that we booted from, and none other.
    let record = (stick.role() == Role::Booted).then_some(Path::new(renamed::PATH));
    record.map_or(Ok(()), |record| renamed::plan(record, esp))?;
    table::write(file, table, geometry).map_err(|e| e.on(stick.describe()))?;
    record.map_or(Ok(()), |record| renamed::written(record, esp))?;
    *stick.guids() = Guids {
        disk: table.disk_guid,
        esp,
        esp_number: number,
    };
    Ok(())
}

fn esp_guid(table: &Table, number: u32) -> Result<Uuid> {
    table
        .partitions
        .get(&number)
        .map(|esp| esp.part_guid)
        .ok_or_else(|| Error::corrupt(format!("partition {number}, the ESP, is gone")))
}

/// The data partition's node; where the kernel does not have it yet, it is told.
fn announce(stick: &Stick, (start, length): (ByteOffset, ByteLen)) -> Result<Node> {
    let telling = || format!("telling the kernel of partition {DATA_NUMBER}");
    if find(stick, DATA_NUMBER).is_none() {
        let signed = |bytes: u64| {
            i64::try_from(bytes).map_err(|e| {
                Error::new(Kind::Unsupported, telling())
                    .on(stick.describe())
                    .because(e)
            })
        };
        let number = i32::try_from(DATA_NUMBER).unwrap_or(i32::MAX);
        let file = stick.open_to_read()?;
        ioctl::add_partition(&file, number, signed(start.0)?, signed(length.0)?)
            .map_err(|e| Error::io(telling(), e).on(stick.describe()))?;
    }
    let (folder, node) = find(stick, DATA_NUMBER)
        .ok_or_else(|| Error::new(Kind::Vanished, telling()).on(stick.describe()))?;
    // Both in units of 512 bytes, whatever the sector.
    let known = number(&folder.join("start")).zip(number(&folder.join("size")));
    if known == Some((start.0 / 512, length.0 / 512)) {
        return Ok(node);
    }
    Err(Error::refused(format!(
        "the kernel still knows another partition {DATA_NUMBER} than the table on {}",
        stick.describe()
    ))
    .advise("Restart the server from the stick"))
}

/// The node of partition `number`, which the kernel must have found at boot.
pub(super) fn node(stick: &Stick, number: u32) -> Result<Node> {
    find(stick, number).map(|(_, node)| node).ok_or_else(|| {
        Error::new(
            Kind::Vanished,
            format!("the kernel has no partition {number}"),
        )
        .on(stick.describe())
        .advise("Pull the stick out and plug it in again")
    })
}

/// The sysfs folder and the node of a partition.
fn find(stick: &Stick, partition: u32) -> Option<(PathBuf, Node)> {
    let folder = std::fs::read_dir(&stick.disk().sysfs)
        .ok()?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| number(&path.join("partition")) == Some(u64::from(partition)))?;
    let name = folder.file_name()?.to_str()?.replace('!', "/");
    let node = Node {
        path: Path::new("/dev").join(name),
        devnum: devnum(&folder)?,
    };
    Some((folder, node))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{MIB, PowerCut, StickImage, run};
    use super::*;

    /// Carries out a plan on an image file, as [`prepare`] does on the stick.
    fn apply(image: &StickImage) -> (Table, State) {
        let geometry = image.geometry();
        let mut file = image.open();
        let copies = Copies::read(&mut file, geometry);
        match plan(&mut file, &copies, geometry).unwrap() {
            Plan::Nothing(table, state) => (table, state),
            Plan::Repair(table, state) | Plan::Make(table, state) => {
                table::write(&mut file, &table, geometry).unwrap();
                (table, state)
            }
        }
    }

    /// Nothing is left to be done, and the image holds this.
    #[track_caller]
    fn assert_holds(image: &StickImage, table: &Table, state: State) {
        match plan_of(image).unwrap() {
            Plan::Nothing(found, s) if found.says_the_same(table) && s == state => {}
            plan => panic!("{plan:?} instead of {table:?}, {state:?}"),
        }
    }

    fn plan_of(image: &StickImage) -> Result<Plan> {
        let copies = Copies::read(&mut image.open(), image.geometry());
        plan(&mut image.open(), &copies, image.geometry())
    }

    #[test]
    fn the_first_use_makes_it_and_the_second_finds_it() {
        let image = StickImage::new(512 * MIB);
        let (table, state) = apply(&image);
        assert_eq!(state, State::Begun);
        image.verify();
        let said = image.sgdisk(&["--info=3"]);
        assert!(said.contains("haulier-data-new"), "{said}");
        assert_holds(&image, &table, state);

        let made = layout::with_data_partition_made(&table);
        table::write(&mut image.open(), &made, image.geometry()).unwrap();
        image.verify();
        assert_holds(&image, &made, State::Made);
    }

    #[test]
    fn two_sticks_of_one_image_are_distinct_after_their_first_use() {
        let (image, twin) = (StickImage::new(256 * MIB), StickImage::new(256 * MIB));
        let (one, _) = apply(&image);
        let (other, _) = apply(&twin);
        assert_ne!(one.disk_guid, other.disk_guid);
        assert_ne!(esp_guid(&one, 1).unwrap(), esp_guid(&other, 1).unwrap());
    }

    #[test]
    fn a_damaged_primary_table_is_repaired_from_the_backup() {
        let image = StickImage::new(512 * MIB);
        let (table, _) = apply(&image);
        image.patch(512, &[0; 1024]);
        let plan = plan_of(&image).unwrap();
        assert!(matches!(plan, Plan::Repair(_, State::Begun)), "{plan:?}");
        apply(&image);
        image.verify();
        assert_holds(&image, &table, State::Begun);
    }

    #[test]
    fn with_no_copy_left_both_are_described() {
        let image = StickImage::new(512 * MIB);
        image.patch(512, &[0; 512]);
        let error = plan_of(&image).unwrap_err();
        assert_eq!(error.kind(), Kind::Corrupt);
        assert!(
            error.to_string().contains("the primary is missing"),
            "{error}"
        );
    }

    #[test]
    fn captures_survive_a_newer_image_written_over_them() {
        let image = StickImage::new(512 * MIB);
        let (table, _) = apply(&image);
        let (start, length) = layout::data_extent(&table, image.geometry()).unwrap();
        let options = format!("offset={}", start.0);
        let path = image.path();
        let path = path.to_str().unwrap();
        let blocks = format!("{}k", length.0 / 1024);
        run(
            "mke2fs",
            &[
                "-q", "-F", "-t", "ext4", "-L", "HAULIER", "-E", &options, path, &blocks,
            ],
        );
        // dd of a fresh image of the same size.
        let fresh = StickImage::new(98 * MIB);
        image.patch(0, &fresh.contents());

        let (table, state) = apply(&image);
        assert_eq!(state, State::Made);
        assert_eq!(table.partitions[&DATA_NUMBER].name, DATA_NAME);
        image.verify();
        let inside = format!("{path}?offset={}", start.0);
        run("e2fsck", &["-f", "-n", &inside]);
    }

    #[test]
    fn another_filesystem_in_the_free_space_is_not_taken_for_captures() {
        let image = StickImage::new(512 * MIB);
        let path = image.path();
        let offset = format!("offset={}", 98 * MIB);
        run(
            "mke2fs",
            &[
                "-q",
                "-F",
                "-L",
                "photos",
                "-E",
                &offset,
                path.to_str().unwrap(),
                "100M",
            ],
        );
        assert_eq!(apply(&image).1, State::Begun);
    }

    #[test]
    fn whenever_the_power_is_cut_the_next_start_ends_with_a_sound_table() {
        let image = StickImage::new(192 * MIB);
        let geometry = image.geometry();
        let base = image.contents();
        let goal = |disk: &mut PowerCut<'_>| -> Result<(Table, State)> {
            let copies = Copies::read(disk, geometry);
            match plan(disk, &copies, geometry)? {
                Plan::Nothing(table, state) => Ok((table, state)),
                Plan::Repair(table, state) | Plan::Make(table, state) => {
                    table::write(disk, &table, geometry)?;
                    Ok((table, state))
                }
            }
        };
        let mut whole = PowerCut::never(&base);
        let (made, _) = goal(&mut whole).unwrap();
        let extent = layout::data_extent(&made, geometry);
        for cut in 0..whole.sectors_written() {
            for loss in PowerCut::LOSSES {
                let mut disk = PowerCut::after(&base, cut, loss);
                goal(&mut disk).unwrap_err();
                let mut disk = disk.restored();
                let (table, state) = goal(&mut disk).unwrap();
                assert_eq!(state, State::Begun);
                assert_eq!(layout::data_extent(&table, geometry), extent);
                assert!(Copies::read(&mut disk, geometry).are_sound(geometry));
            }
        }
    }
}
