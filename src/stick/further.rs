//! Further Haulier sticks, on which a capture goes on when the first one is full.
//!
//! In: the disks of this machine, and the sticks that the capture lies on already. Out: the sticks
//! that are none of these, each proven by its table and its system, as a [`Stick`]; and why another
//! disk that was plugged in is not taken.
//!
//! A stick fresh from the image carries the names of the image, so a name on the kernel command line
//! proves nothing here: what proves it is that its table is that of the image, entry by entry, and
//! that the image's system is in it.

#![forbid(unsafe_code)]

use super::disks::{self, WholeDisk};
use super::identify::{Candidate, Guids, Role, Stick, candidates};
use super::layout::{self, DATA_NUMBER, NAMES};
use super::mount;
use super::table::Table;
use crate::error::Result;
use std::path::PathBuf;
use uuid::Uuid;

/// The image's own partitions: entry, name and type.
const IMAGE: [(u32, &str, &gpt::partition_types::Type); 2] = [
    (ESP_NUMBER, "haulier-esp", &gpt::partition_types::EFI),
    (2, "haulier-bios", &gpt::partition_types::BIOS),
];
const ESP_NUMBER: u32 = 1;

/// The disks that were there at one moment.
#[derive(Debug)]
pub struct Seen(Vec<WholeDisk>);

/// Which disks are there now: what is plugged in later can be told from them.
///
/// # Errors
/// When the disks cannot be listed.
pub fn seen() -> Result<Seen> {
    disks::whole_disks().map(Seen)
}

/// What was found when looking for further sticks.
#[derive(Debug)]
pub struct Further {
    /// On these a capture can go on, in the order of their names.
    pub sticks: Vec<Stick>,
    /// Disks that were plugged in and are none, each with the reason, as sentences.
    pub refused: Vec<String>,
}

/// Haulier sticks on which nothing of this capture lies. Those are `used`; a disk of `sources` is
/// never one, and of a disk that was `seen` before and is no stick nothing is said.
///
/// # Errors
/// When the disks cannot be listed.
pub fn further(used: &[&Stick], sources: &[PathBuf], seen: &Seen) -> Result<Further> {
    let used: Vec<Guids> = used.iter().map(|stick| *stick.guids()).collect();
    let mut found = Further {
        sticks: Vec::new(),
        refused: Vec::new(),
    };
    for candidate in candidates()? {
        if sources.contains(&candidate.disk.identity.path) {
            continue;
        }
        let is_new = !seen.0.contains(&candidate.disk);
        let name = candidate.disk.identity.describe();
        match judge(&candidate, &used) {
            Verdict::Stick(guids) => {
                let stick = Stick::new(candidate.disk, guids, Role::Further);
                stick.wait_for_protection();
                match mount::refuse_without_system(&stick) {
                    Ok(()) => found.sticks.push(stick),
                    Err(error) => found.refused.push(error.to_string()),
                }
            }
            Verdict::Used => found.refused.push(format!(
                "{name} holds a part of this capture already: put in another Haulier stick"
            )),
            Verdict::Foreign(why) if is_new => found.refused.push(format!(
                "{name} is no Haulier stick ({why}). Nothing was written to it: only a stick with \
                 Haulier's image on it is taken"
            )),
            Verdict::Foreign(_) => {}
        }
    }
    Ok(found)
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// By its table it is one.
    Stick(Guids),
    /// It is one of those that are used already, or a copy of it.
    Used,
    /// It is none.
    Foreign(String),
}

fn judge(candidate: &Candidate, used: &[Guids]) -> Verdict {
    let table = match (&candidate.copies, candidate.table()) {
        (Ok(_), Some(table)) => table,
        (Ok(_), None) => return Verdict::Foreign("it has no whole GPT".into()),
        (Err(why), _) => return Verdict::Foreign(why.clone()),
    };
    match guids(table) {
        Ok(guids) => {
            let same = |used: &Guids| used.disk == guids.disk || used.esp == guids.esp;
            if used.iter().any(same) {
                return Verdict::Used;
            }
            Verdict::Stick(guids)
        }
        Err(why) => Verdict::Foreign(why),
    }
}

/// The names of a stick whose table is that of the image, with our data partition or without it.
fn guids(table: &Table) -> Result<Guids, String> {
    let mut esp = Uuid::nil();
    for (number, name, kind) in IMAGE {
        match table.partitions.get(&number) {
            Some(entry) if entry.name == name && entry.part_type_guid.guid == kind.guid => {
                if number == ESP_NUMBER {
                    esp = entry.part_guid;
                }
            }
            _ => return Err(format!("partition {number} is not {name}")),
        }
    }
    if let Some(number) = table
        .partitions
        .keys()
        .find(|number| **number > DATA_NUMBER)
    {
        return Err(format!("it has a partition {number}"));
    }
    layout::state(table).map_err(|error| error.to_string())?;
    Ok(Guids {
        disk: table.disk_guid,
        esp,
        esp_number: ESP_NUMBER,
    })
}

/// By the names that Haulier gives its partitions, in either copy of the table.
pub(super) fn is_haulier_stick(candidate: &Candidate) -> bool {
    candidate.table().is_some_and(|table| {
        let mut partitions = table.partitions.values();
        partitions.any(|partition| partition.name.starts_with(NAMES))
    })
}

#[cfg(test)]
mod tests {
    use super::super::table::Copies;
    use super::super::testing::{MIB, StickImage};
    use super::*;
    use crate::device::DiskIdentity;
    use crate::units::SectorSize;

    fn candidate(image: &StickImage) -> Candidate {
        Candidate {
            disk: WholeDisk {
                identity: DiskIdentity {
                    path: "/dev/sdc".into(),
                    model: None,
                    serial: None,
                    wwn: None,
                    size_bytes: image.open().metadata().unwrap().len(),
                    logical_sector_bytes: SectorSize::B512,
                    physical_sector_bytes: SectorSize::B512,
                },
                devnum: 0,
                sequence: None,
                sysfs: "sdc".into(),
            },
            copies: Ok(Copies::read(&mut image.open(), image.geometry())),
        }
    }

    /// As the image names its partitions.
    fn stick() -> StickImage {
        let image = StickImage::new(512 * MIB);
        image.sgdisk(&["--change-name=2:haulier-bios"]);
        image
    }

    fn guids_of(image: &StickImage) -> Guids {
        match judge(&candidate(image), &[]) {
            Verdict::Stick(guids) => guids,
            verdict => panic!("{verdict:?}"),
        }
    }

    #[test]
    fn a_fresh_stick_and_a_used_one_are_sticks() {
        guids_of(&stick());
        for name in [layout::DATA_NAME_NEW, layout::DATA_NAME] {
            let image = stick();
            image.sgdisk(&[
                "--move-second-header",
                "--new=3:0:+100M",
                &format!("--change-name=3:{name}"),
            ]);
            guids_of(&image);
        }
    }

    #[test]
    fn the_same_stick_and_its_copy_are_used_and_a_renamed_twin_is_not() {
        let image = stick();
        let guids = guids_of(&image);
        assert_eq!(judge(&candidate(&image), &[guids]), Verdict::Used);
        let other = stick().with_other_guids();
        assert_eq!(
            judge(&candidate(&other), &[guids]),
            Verdict::Stick(guids_of(&other))
        );
    }

    #[test]
    fn whatever_differs_from_the_image_is_foreign() {
        let cases: [&[&str]; 5] = [
            &["--change-name=1:EFI System"],
            &["--typecode=1:0700"],
            &["--delete=2"],
            &[
                "--move-second-header",
                "--new=3:0:+100M",
                "--change-name=3:photos",
            ],
            &[
                "--move-second-header",
                "--new=4:0:+100M",
                "--change-name=4:haulier-data",
            ],
        ];
        for change in cases {
            let image = stick();
            image.sgdisk(change);
            let verdict = judge(&candidate(&image), &[]);
            assert!(
                matches!(verdict, Verdict::Foreign(_)),
                "{change:?}: {verdict:?}"
            );
        }
        let image = stick();
        image.sgdisk(&["--zap-all"]);
        let verdict = judge(&candidate(&image), &[]);
        assert!(matches!(verdict, Verdict::Foreign(_)), "{verdict:?}");
    }
}
