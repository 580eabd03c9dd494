//! The disk around kernel and initramfs: what firmware finds and starts.
//!
//! In: the sysroot with shim, GRUB and the kernel, and the packed initramfs. Out: the image.
//! `grub` makes GRUB's BIOS core and configuration, `esp` the FAT32 partition that both kinds of
//! firmware read, `disk` the sectors around it.

mod disk;
mod esp;
mod grub;

pub(crate) use grub::{ENV_PATH, environment};

use crate::packages::Sysroot;
use anyhow::{Context, Result};
use esp::EspFile;
use sha2::{Digest, Sha256};
use std::fs;
use std::path::Path;

/// Writes the image at `out`.
///
/// # Errors
/// When a part is missing, does not fit, or cannot be written.
pub(crate) fn write(out: &Path, sysroot: &Sysroot, release: &str, initrd: &[u8]) -> Result<()> {
    let core = grub::core(sysroot)?;
    let kernel = read(sysroot, &format!("boot/vmlinuz-{release}"))?;
    let sums = format!(
        "{}  vmlinuz\n{}  initrd.img\n",
        crate::hex(&Sha256::digest(&kernel)),
        crate::hex(&Sha256::digest(initrd))
    );
    // No fbx64.efi beside shim: it would write boot entries into the server's NVRAM.
    let files = [
        EspFile::new(
            "EFI/BOOT/BOOTX64.EFI",
            read(sysroot, "usr/lib/shim/shimx64.efi.signed")?,
        ),
        EspFile::new(
            "EFI/BOOT/grubx64.efi",
            read(sysroot, "usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed")?,
        ),
        EspFile::new(
            "EFI/BOOT/mmx64.efi",
            read(sysroot, "usr/lib/shim/mmx64.efi.signed")?,
        ),
        EspFile::new("EFI/debian/grub.cfg", grub::CONFIG.as_bytes().to_vec()),
        EspFile::new(ENV_PATH, environment(&[])?),
        EspFile::new("slot-a/vmlinuz", kernel),
        EspFile::new("slot-a/initrd.img", initrd.to_vec()),
        EspFile::new("slot-a/SHA256SUMS", sums.into_bytes()),
    ];
    let identity = disk::Identity::of(&core, &files);
    let esp = esp::write(sysroot, &files, identity.volume_id)?;
    let mbr = read(sysroot, "usr/lib/grub/i386-pc/boot.img")?;
    disk::write(out, &mbr, &core, &esp, &identity)
}

fn read(sysroot: &Sysroot, path: &str) -> Result<Vec<u8>> {
    let path = sysroot.path().join(path);
    fs::read(&path).with_context(|| format!("reading {}", path.display()))
}
