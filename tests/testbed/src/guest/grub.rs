//! How the guests start: shim and GRUB on an ESP, systemd-boot with kernels on an ESP, GRUB in the gap behind an MBR, or in a BIOS boot
//! partition.

use super::base::Base;
use super::keys::OwnKeys;
use super::recipe::{Boot, EFI_VOLUME, Recipe};
use crate::command::{run, tool};
use anyhow::{Context, Result, ensure};
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// The MBR's code area; the disk signature and the table follow.
const MBR_CODE_BYTES: usize = 440;

/// What GRUB must be able to do before it can read modules from a disk.
const MODULES: [&str; 16] = [
    "biosdisk",
    "btrfs",
    "configfile",
    "echo",
    "ext2",
    "gzio",
    "linux",
    "ls",
    "mdraid1x",
    "normal",
    "part_gpt",
    "part_msdos",
    "search",
    "search_fs_uuid",
    "test",
    "xfs",
];

/// Where GRUB finds its menu.
fn search(recipe: &Recipe) -> String {
    format!(
        "search.fs_uuid {} root\n\
         set prefix=($root)'{}/grub'\n\
         configfile $prefix/grub.cfg\n",
        recipe.grub_uuid(),
        recipe.grub_folder()
    )
}

/// Makes the ESP as Debian's installer does, with or without the fallback path that makes the disk
/// boot in a machine whose NVRAM knows nothing of it.
pub(super) fn esp(base: &Base, disk: &Path, recipe: &Recipe, keys: Option<&OwnKeys>) -> Result<()> {
    let (start, length) = recipe.layout().loader.context("this disk has no ESP")?;
    run(tool("mkfs.vfat")
        .args(["-F", "32", "-s", "1", "-n", "EFI", "-i"])
        .arg(EFI_VOLUME.replace('-', ""))
        .args(["--offset", &(start / 512).to_string()])
        .arg(disk)
        .arg((length / 1024).to_string()))?;
    let esp = format!("{}@@{start}", disk.display());
    if recipe.flavor.has_systemd_boot() {
        for entry in fs::read_dir(base.esp()).context("reading the tree of the ESP")? {
            run(tool("mcopy")
                .args(["-s", "-i", &esp])
                .arg(entry?.path())
                .arg("::/"))?;
        }
        if !recipe.fallback_loader {
            run(tool("mdeltree").args(["-i", &esp, "::/EFI/BOOT"]))?;
        }
        return Ok(());
    }
    run(tool("mmd").args(["-i", &esp, "::/EFI", "::/EFI/BOOT", "::/EFI/debian"]))?;
    let mut menu = tempfile::NamedTempFile::new().context("making the ESP's grub.cfg")?;
    menu.write_all(search(recipe).as_bytes())?;
    let mut shim = base.file("usr/lib/shim/shimx64.efi.signed");
    if let Some(keys) = keys {
        shim = keys.sign(&shim)?;
    }
    let grub = base.file("usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed");
    for (from, to) in [
        (shim.as_path(), "EFI/BOOT/BOOTX64.EFI"),
        (&grub, "EFI/BOOT/grubx64.efi"),
        (&shim, "EFI/debian/shimx64.efi"),
        (&grub, "EFI/debian/grubx64.efi"),
        (menu.path(), "EFI/debian/grub.cfg"),
    ] {
        if to.starts_with("EFI/BOOT") && !recipe.fallback_loader {
            continue;
        }
        run(tool("mcopy")
            .args(["-i", &esp])
            .arg(from)
            .arg(format!("::/{to}")))?;
    }
    Ok(())
}

/// Puts GRUB's first stage into the MBR and its core into the sectors behind it, which is where the
/// first stage looks unless told otherwise; or into the BIOS boot partition, and tells it.
pub(super) fn bios(base: &Base, path: &Path, disk: &File, recipe: &Recipe) -> Result<()> {
    let folder = base.file("usr/lib/grub/i386-pc");
    let core = tempfile::NamedTempFile::new().context("making GRUB's core")?;
    let mut menu = tempfile::NamedTempFile::new().context("making GRUB's first menu")?;
    menu.write_all(search(recipe).as_bytes())?;
    run(base
        .command("usr/bin/grub-mkimage")
        .args(["-O", "i386-pc", "-p", "/boot/grub", "-d"])
        .arg(&folder)
        .arg("-c")
        .arg(menu.path())
        .arg("-o")
        .arg(core.path())
        .args(MODULES))?;
    let mut core = fs::read(core.path()).context("reading GRUB's core")?;
    let mut first = fs::read(folder.join("boot.img")).context("reading GRUB's first stage")?;
    ensure!(
        core.len() < (1 << 20) - 512 && first.len() >= MBR_CODE_BYTES && core.len() > 512,
        "GRUB's core of {} bytes does not fit behind the MBR",
        core.len()
    );
    let mut sector = 1;
    if let (Boot::BiosGpt, Some((start, _))) = (recipe.boot, recipe.layout().loader) {
        sector = start / 512;
        // Where boot.img loads the core's first sector from, and that sector the rest.
        first[0x5c..0x64].copy_from_slice(&sector.to_le_bytes());
        core[500..508].copy_from_slice(&(sector + 1).to_le_bytes());
    }
    let doing = || format!("writing GRUB to {}", path.display());
    disk.write_all_at(&first[..MBR_CODE_BYTES], 0)
        .with_context(doing)?;
    disk.write_all_at(&core, sector * 512).with_context(doing)
}
