//! One disk that is reached by several paths shows as several: on a SAN each volume four or eight
//! times. Only the world-wide name tells: serial numbers of volumes are often that of their array, and
//! taking two disks for one would lose one of them (docs/decisions/0022-inventory.md).

use super::Machine;
use super::disks::{Bus, DiskInfo};
use std::path::{Path, PathBuf};

impl Machine {
    /// The device by which the disk of `path` is listed, where `path` is another way to the same disk.
    pub fn first_path_of(&self, path: &Path) -> Option<PathBuf> {
        let name = path.strip_prefix("/dev").ok()?.to_str()?;
        let listed = |disk: &&DiskInfo| {
            let mut others = disk.paths.iter().filter(|other| **other != disk.name);
            others.any(|other| other == name)
        };
        self.disks.iter().find(listed).map(DiskInfo::device)
    }
}

/// Keeps the first path of each disk, which lists all of them.
pub(super) fn collapse(disks: Vec<DiskInfo>) -> Vec<DiskInfo> {
    let mut kept: Vec<DiskInfo> = Vec::new();
    for disk in disks {
        let Some(first) = kept.iter_mut().find(|first| same(first, &disk)) else {
            kept.push(disk);
            continue;
        };
        if first.paths.is_empty() {
            first.paths.push(first.name.clone());
        }
        first.paths.push(disk.name);
    }
    kept
}

fn same(a: &DiskInfo, b: &DiskInfo) -> bool {
    // Names that are unique in the world: NAA (SPC-4, 7.8.6.6), EUI-64 and NVMe's UUID. A name made
    // of model and serial number (`t10.`, `nvme.`) is not.
    let unique = |wwn: &str| {
        ["naa.", "eui.", "uuid."]
            .iter()
            .any(|kind| wwn.starts_with(kind))
            && wwn.bytes().any(|byte| matches!(byte, b'1'..=b'9'))
    };
    a.wwn.as_deref().is_some_and(unique)
        && a.wwn == b.wwn
        && a.size_bytes == b.size_bytes
        && a.size_bytes != 0
        && a.serial == b.serial
        && a.bus == b.bus
        && matches!(a.bus, Bus::Sas | Bus::Scsi | Bus::Nvme)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(name: &str, wwn: &str, size_bytes: u64) -> DiskInfo {
        DiskInfo {
            name: name.into(),
            wwn: Some(wwn.into()),
            serial: Some("LUN".into()),
            size_bytes,
            bus: Bus::Scsi,
            ..DiskInfo::default()
        }
    }

    #[test]
    fn four_paths_are_one_disk() {
        let wwn = "naa.600508b1001c4d3f";
        let disks = ["sda", "sdb", "sdc", "sdd"].map(|name| disk(name, wwn, 1 << 30));
        let kept = collapse(disks.to_vec());
        assert_eq!(kept.len(), 1);
        assert_eq!(kept[0].name, "sda");
        assert_eq!(kept[0].paths, ["sda", "sdb", "sdc", "sdd"]);
    }

    #[test]
    fn what_may_be_two_disks_stays_two() {
        for (a, b) in [
            (disk("sda", "naa.5", 1 << 30), disk("sdb", "naa.6", 1 << 30)),
            (disk("sda", "naa.5", 1 << 30), disk("sdb", "naa.5", 1 << 31)),
            (disk("sda", "t10.X", 1 << 30), disk("sdb", "t10.X", 1 << 30)),
            (
                disk("sda", "naa.000", 1 << 30),
                disk("sdb", "naa.000", 1 << 30),
            ),
            (disk("sda", "naa.5", 0), disk("sdb", "naa.5", 0)),
        ] {
            let kept = collapse(vec![a, b]);
            assert_eq!(kept.len(), 2, "{kept:?}");
            assert!(kept[0].paths.is_empty());
        }
    }
}
