//! Makes the bootable stick image out of locked Debian packages.
//!
//! In: a lock file of Debian packages and the appliance's own programs. Out: one disk image to
//! write onto a USB stick, which boots on legacy BIOS, UEFI and UEFI with Secure Boot. Nothing is
//! mounted and no root is needed; the same inputs give the same bytes.
//!
//! The way through: [`packages`] turns names into a lock and a lock into files; [`programs`]
//! builds what runs in the appliance; `initramfs` packs both into what the kernel boots into;
//! `boot` lays out the disk around it. [`edit`] changes the few files in a finished image that are
//! meant to be changed.

mod boot;
mod contents;
pub mod edit;
pub mod initramfs;
pub mod packages;
pub mod programs;
mod tool;

use anyhow::{Context, Result, ensure};
pub use contents::{kernel_release, relock};
use programs::Programs;
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};

/// No image is larger: 128 MiB.
pub const MAX_SIZE: u64 = 128 << 20;

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

/// Makes the image.
///
/// # Errors
/// When a package cannot be fetched, a part is missing or does not fit, or the image would be
/// larger than [`MAX_SIZE`].
pub fn build(inputs: &Inputs) -> Result<Summary> {
    let release = contents::kernel_release(&inputs.lock)?;
    let sysroot = packages::unpack(&inputs.lock)?;
    let initrd = initramfs::pack(&sysroot, &inputs.programs, release)?;
    boot::write(&inputs.out, &sysroot, release, &initrd)?;
    let image =
        std::fs::read(&inputs.out).with_context(|| format!("reading {}", inputs.out.display()))?;
    let size = u64::try_from(image.len())?;
    ensure!(
        size <= MAX_SIZE,
        "the image is {size} bytes long, more than {MAX_SIZE}"
    );
    let kernel = std::fs::metadata(sysroot.path().join(format!("boot/vmlinuz-{release}")))?;
    Ok(Summary {
        image: inputs.out.clone(),
        size,
        sha256: hex(&Sha256::digest(&image)),
        kernel: release.to_owned(),
        boot_bytes: kernel.len() + u64::try_from(initrd.len())?,
    })
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
