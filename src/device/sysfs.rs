//! What `/sys` says of a block device: model, serial, world-wide name, users.

use std::fs;
use std::path::{Path, PathBuf};

/// The names of a disk.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names {
    /// Vendor and model.
    pub model: Option<String>,
    /// Serial number.
    pub serial: Option<String>,
    /// World-wide name.
    pub wwn: Option<String>,
}

/// The trimmed text of an attribute; `None` if it is missing or empty.
pub fn attribute(path: &Path) -> Option<String> {
    let bytes = fs::read(path).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    let text = text.trim_matches(|c: char| c.is_whitespace() || c == '\0');
    (!text.is_empty()).then(|| text.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// The names of the disk at `sysfs` (`/sys/devices/…/block/sda`).
///
/// SCSI and ATA disks have no `serial` attribute: it is page 0x80 of the vital product data
/// (SPC-4, 7.8.15), which the kernel shows as `device/vpd_pg80`. A USB stick has it on the USB
/// device further up.
pub fn names(sysfs: &Path) -> Names {
    let device = sysfs.join("device");
    let vendor = attribute(&device.join("vendor"))
        // virtio and NVMe give a number, ATA the word "ATA": neither helps a person.
        .filter(|vendor| vendor != "ATA" && !vendor.starts_with("0x"));
    let model = attribute(&device.join("model"));
    let model = match (vendor, model) {
        (Some(vendor), Some(model)) => Some(format!("{vendor} {model}")),
        (vendor, model) => model.or(vendor),
    };
    let serial = attribute(&device.join("serial"))
        .or_else(|| attribute(&sysfs.join("serial")))
        .or_else(|| vpd_serial(&device.join("vpd_pg80")))
        .or_else(|| usb_serial(sysfs));
    let wwn = attribute(&sysfs.join("wwid")).or_else(|| attribute(&device.join("wwid")));
    Names { model, serial, wwn }
}

fn vpd_serial(path: &Path) -> Option<String> {
    let page = fs::read(path).ok()?;
    let length = usize::from(u16::from_be_bytes([*page.get(2)?, *page.get(3)?]));
    let text = String::from_utf8_lossy(page.get(4..4 + length)?)
        .trim()
        .to_owned();
    (!text.is_empty()).then_some(text)
}

fn usb_serial(sysfs: &Path) -> Option<String> {
    sysfs
        .ancestors()
        .take_while(|dir| dir.as_os_str() != "/sys/devices")
        .filter(|dir| dir.join("idVendor").exists())
        .find_map(|dir| attribute(&dir.join("serial")))
}

/// Who uses the disk or one of its partitions: mount points, swap, holders (dm, md).
pub fn users(sysfs: &Path) -> Vec<String> {
    let mut users = Vec::new();
    for part in parts(sysfs) {
        let Some(name) = part.file_name().and_then(|name| name.to_str()) else {
            continue;
        };
        let number = attribute(&part.join("dev")).unwrap_or_default();
        for line in fs::read_to_string("/proc/self/mountinfo")
            .unwrap_or_default()
            .lines()
        {
            // proc(5): id, parent, major:minor, root, mount point, …
            let mut fields = line.split(' ').skip(2);
            if fields.next() == Some(&number)
                && let Some(point) = fields.nth(1)
            {
                users.push(format!("{name} is mounted on {point}"));
            }
        }
        for line in fs::read_to_string("/proc/swaps")
            .unwrap_or_default()
            .lines()
            .skip(1)
        {
            if line.split_whitespace().next() == Some(&format!("/dev/{name}")) {
                users.push(format!("{name} is swap space"));
            }
        }
        for holder in fs::read_dir(part.join("holders"))
            .into_iter()
            .flatten()
            .flatten()
        {
            users.push(format!(
                "{name} belongs to {}",
                holder.file_name().to_string_lossy()
            ));
        }
    }
    users
}

/// The disk's own folder and those of its partitions.
fn parts(sysfs: &Path) -> Vec<PathBuf> {
    let mut parts = vec![sysfs.to_owned()];
    for entry in fs::read_dir(sysfs).into_iter().flatten().flatten() {
        if entry.path().join("partition").exists() {
            parts.push(entry.path());
        }
    }
    parts.sort();
    parts
}
