//! How the guests start: shim and GRUB on an ESP, or GRUB in the gap behind an MBR.

use super::base::Base;
use super::disk::{EFI_VOLUME, Layout, ROOT_UUID};
use crate::command::{run, tool};
use anyhow::{Context, Result, ensure};
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// The MBR's code area; the disk signature and the table follow.
const MBR_CODE_BYTES: usize = 440;

/// What GRUB must be able to do before it can read modules from a disk.
const MODULES: [&str; 12] = [
    "biosdisk",
    "configfile",
    "echo",
    "ext2",
    "gzio",
    "linux",
    "ls",
    "normal",
    "part_gpt",
    "part_msdos",
    "search",
    "search_fs_uuid",
];

/// Makes the ESP as Debian's installer does, with the fallback path that makes the disk boot in a
/// machine whose NVRAM knows nothing of it.
pub(super) fn esp(base: &Base, disk: &Path, layout: &Layout) -> Result<()> {
    let (start, length) = layout.esp.context("this disk has no ESP")?;
    run(tool("mkfs.vfat")
        .args(["-F", "32", "-s", "1", "-n", "EFI", "-i"])
        .arg(EFI_VOLUME.replace('-', ""))
        .args(["--offset", &(start / 512).to_string()])
        .arg(disk)
        .arg((length / 1024).to_string()))?;
    let esp = format!("{}@@{start}", disk.display());
    run(tool("mmd").args(["-i", &esp, "::/EFI", "::/EFI/BOOT", "::/EFI/debian"]))?;
    let mut menu = tempfile::NamedTempFile::new().context("making the ESP's grub.cfg")?;
    write!(
        menu,
        "search.fs_uuid {ROOT_UUID} root\n\
         set prefix=($root)'/boot/grub'\n\
         configfile $prefix/grub.cfg\n"
    )?;
    let shim = base.file("usr/lib/shim/shimx64.efi.signed");
    let grub = base.file("usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed");
    for (from, to) in [
        (shim.as_path(), "EFI/BOOT/BOOTX64.EFI"),
        (&grub, "EFI/BOOT/grubx64.efi"),
        (&shim, "EFI/debian/shimx64.efi"),
        (&grub, "EFI/debian/grubx64.efi"),
        (menu.path(), "EFI/debian/grub.cfg"),
    ] {
        run(tool("mcopy")
            .args(["-i", &esp])
            .arg(from)
            .arg(format!("::/{to}")))?;
    }
    Ok(())
}

/// Puts GRUB's first stage into the MBR and its core into the sectors behind it, which is where
/// the first stage looks unless told otherwise.
pub(super) fn gap(base: &Base, path: &Path, disk: &File) -> Result<()> {
    let folder = base.file("usr/lib/grub/i386-pc");
    let core = tempfile::NamedTempFile::new().context("making GRUB's core")?;
    run(base
        .command("usr/bin/grub-mkimage")
        .args(["-O", "i386-pc", "-p", "(hd0,msdos1)/boot/grub", "-d"])
        .arg(&folder)
        .arg("-o")
        .arg(core.path())
        .args(MODULES))?;
    let core = fs::read(core.path()).context("reading GRUB's core")?;
    let first = fs::read(folder.join("boot.img")).context("reading GRUB's first stage")?;
    ensure!(
        core.len() < (1 << 20) - 512 && first.len() >= MBR_CODE_BYTES,
        "GRUB's core of {} bytes does not fit behind the MBR",
        core.len()
    );
    let doing = || format!("writing GRUB to {}", path.display());
    disk.write_all_at(&first[..MBR_CODE_BYTES], 0)
        .with_context(doing)?;
    disk.write_all_at(&core, 512).with_context(doing)
}
