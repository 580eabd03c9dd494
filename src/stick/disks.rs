//! The whole disks of this machine, from `/sys/block` alone: nothing is opened.

use crate::device::DiskIdentity;
use crate::device::sysfs::{attribute, names};
use crate::error::{Error, Result};
use crate::units::SectorSize;
use std::path::{Path, PathBuf};

/// Block devices that are no disks, by the start of their name.
const NO_DISKS: [&str; 10] = [
    "loop", "ram", "zram", "sr", "fd", "dm-", "md", "nbd", "mtdblock", "zd",
];

/// A whole disk as the kernel lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct WholeDisk {
    /// How people know it.
    pub(super) identity: DiskIdentity,
    /// Its device number.
    pub(super) devnum: u64,
    /// Counts the disks that the kernel has seen since boot: tells a stick that was pulled and put
    /// back from one that never went, where number and name are the same (Linux 5.15 and later).
    pub(super) sequence: Option<u64>,
    /// Its folder below `/sys/devices`, links resolved: a USB stick's serial is further up.
    pub(super) sysfs: PathBuf,
}

/// Every whole disk that has a device node and a medium.
///
/// # Errors
/// When `/sys/block` cannot be listed. A disk that goes away meanwhile is left out.
pub(super) fn whole_disks() -> Result<Vec<WholeDisk>> {
    list(Path::new("/sys/block"))
}

fn list(block: &Path) -> Result<Vec<WholeDisk>> {
    let listing = |e| Error::io("listing the disks", e).on(block.display().to_string());
    let mut disks = Vec::new();
    for entry in std::fs::read_dir(block).map_err(listing)? {
        let entry = entry.map_err(listing)?;
        let Some(name) = entry.file_name().to_str().map(str::to_owned) else {
            continue;
        };
        if !NO_DISKS.iter().any(|no_disk| is_named(&name, no_disk)) {
            disks.extend(disk(&name, &entry.path()));
        }
    }
    disks.sort_by(|a, b| a.identity.path.cmp(&b.identity.path));
    Ok(disks)
}

/// `sr0` is an `sr`, `srx` is not.
fn is_named(name: &str, start: &str) -> bool {
    name.strip_prefix(start).is_some_and(|rest| {
        !rest.is_empty() && (rest.bytes().all(|b| b.is_ascii_digit()) || start == "md")
    })
}

fn disk(name: &str, link: &Path) -> Option<WholeDisk> {
    let sysfs = std::fs::canonicalize(link).ok()?;
    // The legs of a multipath NVMe namespace have no node; the namespace itself has.
    if attribute(&sysfs.join("hidden")).is_some_and(|hidden| hidden != "0") {
        return None;
    }
    // Linux counts in units of 512 bytes here, whatever the sector (block/genhd.c).
    let size_bytes = number(&sysfs.join("size"))?.checked_mul(512)?;
    if size_bytes == 0 {
        return None;
    }
    let sector = |file: &str| {
        number(&sysfs.join("queue").join(file))
            .and_then(|bytes| u32::try_from(bytes).ok())
            .and_then(SectorSize::new)
    };
    let logical = sector("logical_block_size")?;
    let names = names(&sysfs);
    Some(WholeDisk {
        identity: DiskIdentity {
            // "cciss!c0d0" is /dev/cciss/c0d0.
            path: Path::new("/dev").join(name.replace('!', "/")),
            model: names.model,
            serial: names.serial,
            wwn: names.wwn,
            size_bytes,
            logical_sector_bytes: logical,
            physical_sector_bytes: sector("physical_block_size").unwrap_or(logical),
        },
        devnum: devnum(&sysfs)?,
        sequence: number(&sysfs.join("diskseq")),
        sysfs,
    })
}

/// The device number in a sysfs folder's `dev` (`8:16`).
pub(super) fn devnum(sysfs: &Path) -> Option<u64> {
    let text = attribute(&sysfs.join("dev"))?;
    let (major, minor) = text.split_once(':')?;
    Some(rustix::fs::makedev(
        major.parse().ok()?,
        minor.parse().ok()?,
    ))
}

/// A number in a sysfs attribute.
pub(super) fn number(path: &Path) -> Option<u64> {
    attribute(path)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// `/sys/block` with one folder a disk, as the kernel has it.
    fn sys(disks: &[(&str, &[(&str, &str)])]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, attributes) in disks {
            let disk = dir.path().join(name);
            fs::create_dir_all(disk.join("queue")).unwrap();
            fs::create_dir_all(disk.join("device")).unwrap();
            fs::write(disk.join("queue/logical_block_size"), "512\n").unwrap();
            for (file, text) in *attributes {
                fs::write(disk.join(file), text).unwrap();
            }
        }
        dir
    }

    #[test]
    fn disks_are_listed_with_their_names_and_nothing_else_is() {
        let sdb = &[
            ("dev", "8:16\n"),
            ("size", "62333952\n"),
            ("device/vendor", "SanDisk \n"),
            ("device/model", "Ultra           \n"),
            ("device/serial", "4C53\n"),
        ][..];
        let node = &[("dev", "7:0\n"), ("size", "8\n")][..];
        let sys = sys(&[
            ("sdb", sdb),
            ("loop0", node),
            ("ram3", node),
            ("zram0", node),
            ("sr0", node),
            ("dm-0", node),
            ("md127", node),
            ("md_d0", node),
            // An empty card reader, and one leg of a multipath namespace.
            ("sdc", &[("dev", "8:32\n"), ("size", "0\n")]),
            (
                "nvme0c0n1",
                &[("dev", "259:1\n"), ("size", "8\n"), ("hidden", "1\n")],
            ),
        ]);
        let disks = list(sys.path()).unwrap();
        assert_eq!(disks.len(), 1, "{disks:?}");
        assert_eq!(
            disks[0].identity.describe(),
            "/dev/sdb (SanDisk Ultra, serial 4C53, 31.9 GB)"
        );
        assert_eq!(disks[0].devnum, rustix::fs::makedev(8, 16));
    }

    #[test]
    fn an_old_raid_controllers_disk_lies_in_a_folder() {
        let sys = sys(&[("cciss!c0d0", &[("dev", "104:0\n"), ("size", "16\n")])]);
        let disks = list(sys.path()).unwrap();
        assert_eq!(disks[0].identity.path, Path::new("/dev/cciss/c0d0"));
    }
}
