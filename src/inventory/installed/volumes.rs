//! The volumes that systems may lie in, and finding one by what a system calls it.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use super::notes::Notes;
use super::system::{CrypttabEntry, RootPlace};
use crate::device::ReadAt;
use crate::files::{self, Tree};
use crate::ptable::PartitionType;
use crate::usedmap::survey::{Holds, Surveyed};
use crate::volume::DiskIndex;

/// Filesystems that are looked into: each may have a journal to be read and kept.
const MOST_TREES: usize = 256;
/// Volumes deep that are looked for an encrypted one.
const DEEPEST: usize = 16;

/// A volume, and its files if they can be read.
pub(super) struct Volumes<'t> {
    surveyed: &'t [Surveyed<'t>],
    trees: Vec<Option<Box<dyn Tree + 't>>>,
    /// The disks' names: `sda`, or the path of an image.
    disks: Vec<String>,
    /// Further devices of filesystems that lie on several: which filesystem, and on which disks.
    further: Vec<(Option<String>, Vec<DiskIndex>)>,
}

/// What stands in front of a device's own name.
const BY: [(&str, By); 8] = [
    ("UUID=", By::Uuid),
    ("/dev/disk/by-uuid/", By::Uuid),
    ("LABEL=", By::Label),
    ("/dev/disk/by-label/", By::Label),
    ("PARTUUID=", By::PartUuid),
    ("/dev/disk/by-partuuid/", By::PartUuid),
    ("PARTLABEL=", By::PartLabel),
    ("/dev/disk/by-partlabel/", By::PartLabel),
];

#[derive(Clone, Copy)]
enum By {
    Uuid,
    Label,
    PartUuid,
    PartLabel,
}

impl<'t> Volumes<'t> {
    /// Opens every filesystem whose files can be read. Why one cannot goes to `notes`.
    pub(super) fn open(surveyed: &'t [Surveyed<'t>], disks: Vec<String>, notes: &Notes) -> Self {
        let mut taken = Vec::new();
        let mut further = Vec::new();
        let trees = surveyed
            .iter()
            .map(|volume| {
                let Holds::Filesystem(name) = &volume.holds else {
                    return None;
                };
                if taken.len() >= MOST_TREES {
                    notes.add("there are too many filesystems to look into all".into());
                    return None;
                }
                let others = surveyed.iter().filter(
                    |other| matches!(&other.holds, Holds::Filesystem(other) if other == name),
                );
                let all: Vec<&dyn ReadAt> = others.map(|other| as_read(other)).collect();
                match files::open(name, as_read(volume), &all)? {
                    // A filesystem on several devices is one.
                    Ok(tree) if name == "btrfs" && taken.contains(&tree.uuid()) => {
                        further.push((tree.uuid(), volume.origin.disks.clone()));
                        None
                    }
                    Ok(tree) => {
                        taken.push(tree.uuid());
                        Some(tree)
                    }
                    Err(refusal) => {
                        let name = volume.name.as_deref().unwrap_or("a whole disk");
                        notes.add(format!("the files of {name} cannot be read: {refusal}"));
                        None
                    }
                }
            })
            .collect();
        Self {
            surveyed,
            trees,
            disks,
            further,
        }
    }

    /// The volumes with files, by their place.
    pub(super) fn trees(&self) -> impl Iterator<Item = (usize, &(dyn Tree + 't))> {
        let trees = self.trees.iter().enumerate();
        trees.filter_map(|(place, tree)| Some((place, tree.as_deref()?)))
    }

    /// The files of a volume.
    pub(super) fn tree(&self, place: usize) -> Option<&(dyn Tree + 't)> {
        self.trees.get(place)?.as_deref()
    }

    /// A volume's name for people.
    pub(super) fn name(&self, place: usize) -> String {
        let volume = self.surveyed.get(place);
        let name = volume.and_then(|volume| volume.name.clone());
        name.or_else(|| {
            let disk = volume?.origin.disks.first()?;
            self.disks.get(disk.0).cloned()
        })
        .unwrap_or_default()
    }

    /// The first partition of a type, with files, on the only disk that the volume `root` lies on.
    pub(super) fn of_type(&self, kind: PartitionType, root: usize) -> Option<usize> {
        let disks = |place: usize| self.surveyed.get(place).map(|v| &*v.origin.disks);
        let [_] = disks(root)? else {
            return None;
        };
        let of_type = self.trees().filter(|(place, _)| {
            let partition = self.surveyed.get(*place);
            let partition = partition.and_then(|volume| volume.origin.partition.as_ref());
            partition.is_some_and(|partition| partition.kind == kind)
                && disks(*place) == disks(root)
        });
        Some(of_type.min_by_key(|(place, _)| self.number(*place))?.0)
    }

    fn number(&self, place: usize) -> Option<u32> {
        let partition = self.surveyed.get(place)?.origin.partition.as_ref();
        Some(partition?.number)
    }

    /// Encrypted volumes that nothing opened, by their place and what they are.
    pub(super) fn closed(&self) -> impl Iterator<Item = (usize, &str)> {
        let volumes = self.surveyed.iter().enumerate();
        volumes.filter_map(|(place, volume)| match &volume.holds {
            Holds::Locked { what, .. } => Some((place, what.as_str())),
            _ => None,
        })
    }

    /// Where a volume lies.
    pub(super) fn describe(&self, place: usize) -> RootPlace {
        let Some(volume) = self.surveyed.get(place) else {
            return RootPlace::default();
        };
        let tree = self.tree(place);
        let uuid = tree.and_then(Tree::uuid);
        let further = self.further.iter().filter(|(of, _)| *of == uuid);
        let mut disks = volume.origin.disks.clone();
        disks.extend(further.flat_map(|(_, disks)| disks));
        disks.sort_unstable();
        disks.dedup();
        let (filesystem, uuid) = match (&volume.holds, tree) {
            (_, Some(tree)) => (tree.filesystem().to_owned(), tree.uuid()),
            (Holds::Locked { what, uuid }, None) => (what.clone(), uuid.clone()),
            (Holds::Filesystem(name), None) => (name.clone(), None),
            _ => (String::new(), None),
        };
        RootPlace {
            disks: disks
                .iter()
                .filter_map(|disk| self.disks.get(disk.0).cloned())
                .collect(),
            partition: volume.origin.partition.as_ref().map(|p| p.number),
            volume: volume.origin.made.clone(),
            filesystem,
            uuid,
            label: tree.and_then(Tree::label),
            subvolume: None,
            encrypted: self.is_encrypted(place, 0),
        }
    }

    fn is_encrypted(&self, place: usize, depth: usize) -> bool {
        let Some(volume) = self.surveyed.get(place) else {
            return false;
        };
        if depth > DEEPEST {
            return false;
        }
        let depth = depth.saturating_add(1);
        matches!(volume.holds, Holds::Locked { .. })
            || matches!(
                &volume.holds,
                Holds::Member {
                    is_encryption: true,
                    ..
                }
            )
            || volume
                .origin
                .of
                .iter()
                .any(|below| self.is_encrypted(*below, depth))
    }

    /// The volume with files that a system calls `spec`: `UUID=…`, `/dev/vg0/usr`, `/dev/sda1`.
    /// `root` is the system's own volume.
    pub(super) fn find(
        &self,
        spec: &str,
        crypttab: &[CrypttabEntry],
        root: usize,
    ) -> Option<usize> {
        let spec = spec.trim_matches('"');
        for (prefix, by) in BY {
            if let Some(value) = spec.strip_prefix(prefix) {
                return self.find_by(by, value.trim_matches('"'));
            }
        }
        let device = spec.strip_prefix("/dev/")?;
        self.made_as(device)
            .or_else(|| self.decrypted_as(device.strip_prefix("mapper/")?, crypttab))
            .or_else(|| self.partition_as(device, root))
    }

    fn find_by(&self, by: By, value: &str) -> Option<usize> {
        let partition = |place: usize| self.surveyed.get(place)?.origin.partition.clone();
        let same = |found: Option<String>| found.is_some_and(|f| f.eq_ignore_ascii_case(value));
        let mut trees = self.trees();
        let found = trees.find(|(place, tree)| match by {
            By::Uuid => same(tree.uuid()),
            By::Label => tree.label().as_deref() == Some(value),
            By::PartUuid => same(partition(*place).and_then(|p| p.uuid)),
            By::PartLabel => partition(*place).and_then(|p| p.label).as_deref() == Some(value),
        });
        Some(found?.0)
    }

    /// A logical volume or array by its device: `vg0/root`, `mapper/vg0-root`, `md0`, `md/web`.
    fn made_as(&self, device: &str) -> Option<usize> {
        let mut trees = self.trees();
        let found = trees.find(|(place, _)| {
            let made = self
                .surveyed
                .get(*place)
                .and_then(|v| v.origin.made.as_deref());
            made.is_some_and(|made| is_named(made, device))
        });
        Some(found?.0)
    }

    /// What `/etc/crypttab` makes of an encrypted volume.
    fn decrypted_as(&self, name: &str, crypttab: &[CrypttabEntry]) -> Option<usize> {
        let entry = crypttab.iter().find(|entry| entry.name == name)?;
        let uuid = entry.spec.strip_prefix("UUID=");
        let mut trees = self.trees();
        let found = trees.find(|(place, _)| {
            let below = self.surveyed.get(*place).map(|volume| &volume.origin.of);
            below.into_iter().flatten().any(|below| {
                let below = self.surveyed.get(*below).map(|volume| &volume.holds);
                matches!(
                    below,
                    Some(Holds::Member { is_encryption: true, uuid: own, .. })
                        if uuid.is_none_or(|uuid| own.as_deref().is_some_and(|o| o.eq_ignore_ascii_case(uuid)))
                )
            })
        });
        Some(found?.0)
    }

    /// A partition by its number: of the root's disk, which may have had another name then, if there is
    /// only one disk; else of the disk with this name.
    fn partition_as(&self, device: &str, root: usize) -> Option<usize> {
        let disk = device.trim_end_matches(|c: char| c.is_ascii_digit());
        let number: u32 = device.strip_prefix(disk)?.parse().ok()?;
        let disk = match disk.strip_suffix('p') {
            Some(with_digit) if with_digit.ends_with(|c: char| c.is_ascii_digit()) => with_digit,
            _ => disk,
        };
        let of_root = &self.surveyed.get(root)?.origin.disks;
        let mut trees = self.trees();
        let found = trees.find(|(place, _)| {
            let origin = self.surveyed.get(*place).map(|volume| &volume.origin);
            origin.is_some_and(|origin| {
                let named = origin
                    .disks
                    .first()
                    .and_then(|index| self.disks.get(index.0))
                    .is_some_and(|name| name == disk);
                let only = self.disks.len() == 1 && origin.disks == *of_root;
                origin
                    .partition
                    .as_ref()
                    .is_some_and(|p| p.number == number)
                    && (named || only)
            })
        });
        Some(found?.0)
    }
}

fn as_read<'t>(volume: &'t Surveyed<'t>) -> &'t dyn ReadAt {
    &*volume.volume
}

/// Whether what the survey calls `made` is the device `device` (without `/dev/`).
fn is_named(made: &str, device: &str) -> bool {
    if let Some((group, volume)) = made.split_once('/') {
        // device-mapper doubles hyphens (`dm_build_dm_name`).
        let mapped = format!(
            "mapper/{}-{}",
            group.replace('-', "--"),
            volume.replace('-', "--")
        );
        return device == made || device == mapped;
    }
    // `web:0`: the host that it was made on comes first.
    let own = made.rsplit(':').next().unwrap_or(made);
    device == made
        || device.strip_prefix("md/") == Some(own)
        || device.strip_prefix("md") == Some(own)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_are_known_by_their_devices() {
        assert!(is_named("vg0/root", "vg0/root"));
        assert!(is_named("my-vg/root-1", "mapper/my--vg-root--1"));
        assert!(!is_named("my-vg/root", "mapper/my-vg-root"));
        assert!(is_named("web:0", "md0") && is_named("web:0", "md/0"));
        assert!(is_named("md127", "md127") && !is_named("md127", "md12"));
        assert!(is_named("web:boot", "md/boot") && !is_named("web:boot", "boot"));
    }
}
