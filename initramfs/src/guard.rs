//! Every disk is set read-only in the kernel the moment it appears, the stick too: only the code
//! that has proven the stick lifts that again, from the stick alone.

use crate::console::Console;
use anyhow::{Context, Result};
use haulier::device::{ioctl, sysfs};
use haulier::units::ByteLen;
use rustix::fs::{Mode, OFlags};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// Memory and optical media: nothing of the server's to protect, and zram has to be written.
const NO_DISKS: [&str; 4] = ["ram", "loop", "zram", "sr"];

/// Sets disks read-only and remembers which.
#[derive(Debug)]
pub(crate) struct Guard {
    console: Arc<Console>,
    /// By name, with the kernel's count of disks: a name may come back with another disk.
    protected: Mutex<BTreeMap<String, Protected>>,
}

#[derive(Debug)]
struct Protected {
    sequence: Option<String>,
    size: ByteLen,
}

impl Guard {
    pub(crate) fn new(console: Arc<Console>) -> Self {
        Self {
            console,
            protected: Mutex::default(),
        }
    }

    /// Protects every disk that is not yet: for the start, and when events were lost.
    pub(crate) fn protect_all(&self) {
        for entry in std::fs::read_dir("/sys/block")
            .into_iter()
            .flatten()
            .flatten()
        {
            let name = entry.file_name().to_string_lossy().into_owned();
            let known = {
                let protected = self.protected.lock().unwrap_or_else(|e| e.into_inner());
                protected
                    .get(&name)
                    .is_some_and(|disk| disk.sequence == sequence(&name))
            };
            // One that is known may meanwhile be the stick, made writable.
            if !known {
                self.protect(&name);
            }
        }
    }

    /// Protects the disk `name`, as in `/sys/block`, if it is one.
    pub(crate) fn protect(&self, name: &str) {
        let folder = Path::new("/sys/block").join(name);
        let hidden = sysfs::attribute(&folder.join("hidden")).is_some_and(|hidden| hidden != "0");
        if !is_disk(name) || hidden {
            return;
        }
        match set_read_only(&node(name)) {
            Ok(()) => {
                let size = sysfs::attribute(&folder.join("size"))
                    .and_then(|sectors| sectors.parse::<u64>().ok())
                    .and_then(|sectors| sectors.checked_mul(512));
                let size = ByteLen(size.unwrap_or(0));
                self.console.note(&format!("{name} ({size}) is read-only"));
                self.protected
                    .lock()
                    .unwrap_or_else(|e| e.into_inner())
                    .insert(
                        name.to_owned(),
                        Protected {
                            sequence: sequence(name),
                            size,
                        },
                    );
            }
            // It went away between the event and now.
            Err(_) if !folder.exists() => {}
            Err(error) => self.console.alert(&format!(
                "The disk {name} could not be set read-only: {error:#}. Haulier opens it for \
                 reading only, all the same."
            )),
        }
    }

    /// One line for the technician.
    pub(crate) fn summary(&self) -> String {
        let protected = self.protected.lock().unwrap_or_else(|e| e.into_inner());
        let present: Vec<_> = protected
            .iter()
            .filter(|(name, _)| Path::new("/sys/block").join(name).exists())
            .map(|(name, disk)| (name.as_str(), disk.size))
            .collect();
        summary(&present)
    }
}

fn summary(disks: &[(&str, ByteLen)]) -> String {
    if disks.is_empty() {
        return "No disk found".into();
    }
    let disks: Vec<_> = disks
        .iter()
        .map(|(name, size)| match size.0 {
            0 => format!("{name} (empty)"),
            _ => format!("{name} ({size})"),
        })
        .collect();
    format!("Disks set read-only: {}", disks.join(", "))
}

fn set_read_only(node: &Path) -> Result<()> {
    // Non-blocking, so that a card reader without a card opens too: the card comes later.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let fd = rustix::fs::open(node, flags, Mode::empty())
        .with_context(|| format!("opening {}", node.display()))?;
    ioctl::set_read_only(&fd, true).context("BLKROSET")?;
    anyhow::ensure!(
        ioctl::is_read_only(&fd).context("BLKROGET")?,
        "the kernel did not keep it"
    );
    Ok(())
}

/// Linux counts disks (5.15 and later): a name that comes back has another number.
fn sequence(name: &str) -> Option<String> {
    sysfs::attribute(&Path::new("/sys/block").join(name).join("diskseq"))
}

/// `cciss!c0d0` is `/dev/cciss/c0d0`.
fn node(name: &str) -> PathBuf {
    Path::new("/dev").join(name.replace('!', "/"))
}

fn is_disk(name: &str) -> bool {
    !NO_DISKS.iter().any(|kind| {
        name.strip_prefix(kind)
            .is_some_and(|rest| rest.bytes().all(|b| b.is_ascii_digit()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_but_memory_and_optical_media_is_a_disk() {
        for name in [
            "sda",
            "nvme0n1",
            "vda",
            "mmcblk0",
            "mmcblk0boot0",
            "cciss!c0d0",
            "md0",
        ] {
            assert!(is_disk(name), "{name}");
        }
        for name in ["ram0", "loop12", "zram0", "sr0"] {
            assert!(!is_disk(name), "{name}");
        }
        assert_eq!(node("cciss!c0d0"), Path::new("/dev/cciss/c0d0"));
    }

    #[test]
    fn the_summary_is_one_line() {
        let disks = [("nvme0n1", ByteLen(480_103_981_056)), ("sdc", ByteLen(0))];
        assert_eq!(
            summary(&disks),
            "Disks set read-only: nvme0n1 (480.1 GB), sdc (empty)"
        );
        assert_eq!(summary(&[]), "No disk found");
    }
}
