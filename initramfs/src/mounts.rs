//! The kernel's own filesystems. No disk is mounted here.

use crate::console::Console;
use anyhow::{Context, Result};
use rustix::mount::{MountFlags, mount};
use std::path::Path;

/// `/proc`, `/sys`, `/dev` and `/run`.
pub(crate) fn basic() -> Result<()> {
    let data = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    for (kind, folder, flags, options) in [
        ("proc", "/proc", data, None),
        ("sysfs", "/sys", data, None),
        ("devtmpfs", "/dev", MountFlags::NOSUID, Some(c"mode=0755")),
        (
            "tmpfs",
            "/run",
            MountFlags::NOSUID | MountFlags::NODEV,
            Some(c"mode=0755"),
        ),
    ] {
        std::fs::create_dir_all(folder).with_context(|| format!("making {folder}"))?;
        mount(kind, folder, kind, flags, options)
            .with_context(|| format!("mounting {kind} on {folder}"))?;
    }
    for folder in ["/run/haulier", "/tmp"] {
        std::fs::create_dir_all(folder).with_context(|| format!("making {folder}"))?;
    }
    Ok(())
}

/// The firmware's variables, read-only: Haulier reads them for the inventory and must not change
/// any. Without them it goes on.
pub(crate) fn efivars(console: &Console) {
    let folder = "/sys/firmware/efi/efivars";
    if !Path::new(folder).exists() {
        return;
    }
    let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    if let Err(error) = mount("efivarfs", folder, "efivarfs", flags, None) {
        console.note(&format!("The firmware's variables cannot be read: {error}"));
    }
}
