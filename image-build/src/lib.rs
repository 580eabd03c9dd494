//! Makes the bootable stick image out of locked Debian packages.
//!
//! In: a lock file of Debian packages and the appliance's own programs. Out: one disk image to
//! write onto a USB stick, which boots on legacy BIOS, UEFI and UEFI with Secure Boot. Nothing is
//! mounted and no root is needed; the same inputs give the same bytes.
//!
//! The way through: [`packages`] turns names into a lock and a lock into files; [`programs`]
//! builds what runs in the appliance; `initramfs` packs both into what the kernel boots into;
//! `boot` lays out the disk around it. `edit` changes the few files in a finished image that are
//! meant to be changed.

pub mod packages;
pub mod programs;
mod tool;

use anyhow::{Context, Result};
use programs::Programs;
use std::path::{Path, PathBuf};

/// What an image is made of.
#[derive(Debug, Clone)]
pub struct Inputs {
    /// The appliance's programs.
    pub programs: Programs,
    /// The packages, from [`lock_path`].
    pub lock: packages::Lock,
    /// Where the image goes; an older one there is replaced.
    pub out: PathBuf,
}

/// What was made.
#[derive(Debug, Clone)]
pub struct Summary {
    /// The image.
    pub image: PathBuf,
    /// Its length in bytes.
    pub size: u64,
    /// Its SHA-256, lower-case hex.
    pub sha256: String,
    /// The kernel's release: `6.12.107+deb13-amd64`.
    pub kernel: String,
    /// Length of kernel and initramfs in bytes: what firmware has to read at boot.
    pub boot_bytes: u64,
}

/// The image's lock file in the workspace at `workspace`.
pub fn lock_path(workspace: &Path) -> PathBuf {
    workspace.join("image-build/packages.lock")
}

/// The folder where downloads and other costly things are kept between builds and shared by all
/// clones: `$HAULIER_CACHE`, else `$XDG_CACHE_HOME/haulier`, else `~/.cache/haulier`.
///
/// # Errors
/// When none of the variables (nor `HOME`) is set.
pub fn cache_dir() -> Result<PathBuf> {
    let named = |key: &str| std::env::var_os(key).filter(|value| !value.is_empty());
    if let Some(path) = named("HAULIER_CACHE") {
        return Ok(PathBuf::from(path));
    }
    let base = match named("XDG_CACHE_HOME") {
        Some(path) => PathBuf::from(path),
        None => PathBuf::from(named("HOME").context("neither HAULIER_CACHE nor HOME is set")?)
            .join(".cache"),
    };
    Ok(base.join("haulier"))
}

/// Lower-case hex of `bytes`.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
