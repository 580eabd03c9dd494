//! Which packages an image is made of, and why each.

use crate::packages::{Archive, Lock};
use anyhow::{Context, Result, ensure};
use std::path::Path;

/// Depends on the newest signed kernel package.
const KERNEL_META: &str = "linux-image-amd64";

/// The start of a kernel package's name; the rest is the kernel's release.
const KERNEL_PREFIX: &str = "linux-image-";

/// Everything but the kernel, whose name holds its version.
const PACKAGES: [&str; 30] = [
    // The boot chain that firmware with Secure Boot accepts, and its counterpart for BIOS.
    "shim-signed",
    "shim-helpers-amd64-signed",
    "grub-efi-amd64-signed",
    "grub-pc-bin",
    // grub-mkimage with its libraries.
    "grub-common",
    "libdevmapper1.02.1",
    "libselinux1",
    "libpcre2-8-0",
    "libudev1",
    "libcap2",
    // depmod and modinfo with their libraries.
    "kmod",
    "libkmod2",
    "libssl3t64",
    "liblzma5",
    "libzstd1",
    "zlib1g",
    // Makes and fills the ESP.
    "dosfstools",
    "mtools",
    // In the initramfs: a shell for the debug entry, and what formats the data partition.
    "busybox-static",
    "e2fsprogs",
    "libblkid1",
    "libcom-err2",
    "libext2fs2t64",
    "libss2",
    "libuuid1",
    "libc6",
    // In the initramfs: what storage controllers and network cards load into themselves.
    "firmware-bnx2x",
    "firmware-misc-nonfree",
    "firmware-qlogic",
    // Early in the initramfs.
    "amd64-microcode",
];

/// Writes the image's lock file at `path`, as the archive is now.
///
/// # Errors
/// When the archive cannot be reached or lacks one of the packages.
pub fn relock(path: &Path) -> Result<Lock> {
    let archive = Archive::open()?;
    let kernel = archive
        .depends(KERNEL_META)?
        .into_iter()
        .find(|name| name.starts_with(KERNEL_PREFIX))
        .with_context(|| format!("{KERNEL_META} names no kernel package"))?;
    let mut names = vec![kernel.as_str()];
    names.extend(PACKAGES);
    let lock = archive.lock(&names)?;
    lock.write(path)?;
    Ok(lock)
}

/// The kernel's release, by the name of the lock's kernel package.
///
/// # Errors
/// When the lock holds no kernel, or more than one.
pub fn kernel_release(lock: &Lock) -> Result<&str> {
    let mut releases = lock
        .packages
        .iter()
        .filter_map(|package| package.name.strip_prefix(KERNEL_PREFIX));
    let release = releases.next().context("the lock file has no kernel")?;
    ensure!(
        releases.next().is_none(),
        "the lock file has more than one kernel"
    );
    Ok(release)
}
