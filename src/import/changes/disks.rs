//! Which disk a name by place meant on the machine, and whether it means the same in the VM.

use super::mounts::PlaceName;
use crate::inventory::{Bus, DiskInfo};
use crate::vm::{DiskBus, PlannedDisk, VmPlan};

/// Which disks the names of a system's tables mean.
pub(super) struct Disks<'a> {
    pub(super) plan: &'a VmPlan,
    /// All names by place in its tables.
    pub(super) names: Vec<PlaceName>,
    /// Names of the root filesystem.
    pub(super) anchors: Vec<PlaceName>,
    /// The disk that the root filesystem was found on, by its content.
    pub(super) root: Option<usize>,
    /// Whether all disks of the machine are in the VM.
    pub(super) all: bool,
}

impl Disks<'_> {
    /// The disk in the VM. A name that the root filesystem has is known by it; where the machine had no more
    /// disks than these, what is left over is known, too. All else would be a guess.
    pub(super) fn index(&self, place: &PlaceName) -> Option<usize> {
        let kind = kind(&place.disk);
        let same_kind = |other: &&PlaceName| self::kind(&other.disk) == kind;
        let anchor = self.anchors.iter().find(same_kind);
        if anchor.is_some_and(|anchor| anchor.disk == place.disk) {
            return self
                .root
                .or_else(|| (self.plan.disks.len() == 1).then_some(0));
        }
        let mut others: Vec<&str> = self
            .names
            .iter()
            .filter(same_kind)
            .map(|name| name.disk.as_str())
            .filter(|disk| anchor.is_none_or(|anchor| anchor.disk != *disk))
            .collect();
        others.sort_unstable();
        others.dedup();
        match (self.plan.disks.len(), anchor, self.root) {
            _ if !self.all || others.len() != 1 => None,
            (1, None, _) => Some(0),
            (2, Some(_), Some(root)) => Some(1_usize.saturating_sub(root)),
            _ => None,
        }
    }

    /// Whether the name means the same in the VM.
    pub(super) fn stays(&self, place: &PlaceName, index: usize) -> bool {
        let prefix = |disk: &PlannedDisk| match disk.bus {
            DiskBus::Nvme => "/dev/nvme",
            DiskBus::VirtioBlk => "/dev/vd",
            _ => "/dev/sd",
        };
        let Some(disk) = self.plan.disks.get(index) else {
            return false;
        };
        // The kernel counts the disks of a kind.
        let before = self.plan.disks.iter().take(index);
        let number = before.filter(|other| prefix(other) == prefix(disk)).count();
        let expected = match disk.bus {
            DiskBus::Nvme => format!("/dev/nvme{number}n1"),
            _ => format!("{}{}", prefix(disk), letter(number)),
        };
        place.disk == expected
    }
}

/// Names of one kind say something about each other.
fn kind(disk: &str) -> &str {
    let by = disk.strip_prefix("/dev/disk/");
    by.and_then(|rest| rest.split('/').next())
        .unwrap_or("kernel")
}

/// A stick's disks are not the machine's.
pub(super) fn is_own(disk: &DiskInfo) -> bool {
    disk.bus != Bus::Usb && !disk.removable && disk.size_bytes > 0
}

/// The kernel's letter of the `index`th disk; past `z` nothing that is a name.
fn letter(index: usize) -> char {
    ('a'..='z').nth(index).unwrap_or('?')
}
