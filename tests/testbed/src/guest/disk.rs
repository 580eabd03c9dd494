//! A guest's disks: partition tables, filesystems and swap, made in sparse files.

use super::base::{Base, run_fed};
use super::files::{self, Payload};
use super::keys::OwnKeys;
use super::recipe::{Boot, ROOT_UUID, Recipe, Root, SWAP_UUID};
use super::{grub, junk, volumes};
use crate::command::{run, tool};
use anyhow::{Context, Result, ensure};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

const MIB: u64 = 1 << 20;

/// A server's disks and what is known of it.
#[derive(Debug, Clone)]
pub struct Guest {
    /// The raw image of the first disk.
    pub path: PathBuf,
    /// Those of further disks.
    pub more: Vec<PathBuf>,
    /// What sort of server.
    pub recipe: Recipe,
    /// What it will say about its data files.
    pub payload: Payload,
    /// The owner's own, if it has such.
    pub keys: Option<OwnKeys>,
}

impl Guest {
    /// Makes the disk at `path`, and further ones beside it; takes seconds with an ext4 root, else a
    /// minute or two.
    ///
    /// # Errors
    /// When one of the tools is missing or fails.
    pub fn make(base: &Base, recipe: Recipe, path: &Path) -> Result<Self> {
        ensure!(
            recipe.boot == Boot::Uefi || matches!(recipe.root, Root::Ext4 | Root::Md),
            "only UEFI servers have a root on {:?} here",
            recipe.root
        );
        let layout = recipe.layout();
        let doing = || format!("making the disk {}", path.display());
        let more: Vec<PathBuf> = (1..recipe.disks())
            .map(|number| path.with_extension(format!("{number}.img")))
            .collect();
        let paths: Vec<&Path> = std::iter::once(path)
            .chain(more.iter().map(PathBuf::as_path))
            .collect();
        for (number, path) in paths.iter().enumerate() {
            File::create(path)
                .and_then(|disk| disk.set_len(layout.disk))
                .with_context(doing)?;
            run_fed(
                tool("sfdisk").args(["--quiet", "--no-reread"]).arg(path),
                |stdin| std::io::Write::write_all(stdin, recipe.table(number).as_bytes()),
            )?;
        }
        let folder = path.parent().unwrap_or(Path::new("."));
        let overlay = tempfile::NamedTempFile::new_in(folder).with_context(doing)?;
        let payload = files::write(overlay.path(), base, &recipe)?;
        let plain = recipe.root == Root::Ext4;
        // What is only copied from must not look like what is copied to.
        let uuid = if plain { ROOT_UUID } else { "random" };
        let system = system(base, layout.root.1, uuid, folder, overlay.path())?;
        if plain {
            junk::in_free_blocks(base, &system)?;
            // Holes stay holes.
            run(tool("dd")
                .args(["bs=1M", "conv=sparse,notrunc", "status=none"])
                .arg(format!("if={}", system.path().display()))
                .arg(format!("of={}", path.display()))
                .arg(format!("seek={}", layout.root.0 / MIB)))?;
        } else {
            volumes::fill(&recipe, system.path(), &paths)?;
        }
        let keys = path.with_extension("keys");
        let keys = recipe.own_keys.then(|| OwnKeys::make(&keys)).transpose()?;
        for path in &paths {
            let disk = File::options()
                .read(true)
                .write(true)
                .open(path)
                .with_context(doing)?;
            match recipe.boot {
                Boot::Uefi => grub::esp(base, path, &recipe, keys.as_ref())?,
                Boot::BiosMbr | Boot::BiosGpt => grub::bios(base, path, &disk, &recipe)?,
            }
            if let Some(at) = layout.swap {
                swap(path, &disk, at)?;
                junk::in_swap(&disk, at.0)?;
            }
        }
        Ok(Self {
            path: path.to_owned(),
            more,
            recipe,
            payload,
            keys,
        })
    }
}

/// An ext4 image of `bytes` with the system, out of the two archives, one after the other.
fn system(
    base: &Base,
    bytes: u64,
    uuid: &str,
    folder: &Path,
    overlay: &Path,
) -> Result<tempfile::NamedTempFile> {
    let filesystem =
        tempfile::NamedTempFile::new_in(folder).context("making a file for the root filesystem")?;
    filesystem.as_file().set_len(bytes)?;
    let mut system = File::open(base.tar()).context("opening the installed system")?;
    let mut overlay = File::open(overlay).context("opening the guest's files")?;
    run_fed(
        base.command("usr/sbin/mke2fs")
            .args(["-q", "-F", "-t", "ext4", "-b", "4096", "-m", "1"])
            .args(["-L", "root", "-U", uuid, "-d", "-"])
            .args(["-E", "root_owner=0:0"])
            .arg(filesystem.path()),
        |stdin| {
            std::io::copy(&mut system, stdin)?;
            std::io::copy(&mut overlay, stdin)?;
            Ok(())
        },
    )?;
    Ok(filesystem)
}

/// Makes the swap area: one page at its start says what it is.
fn swap(path: &Path, disk: &File, (start, length): (u64, u64)) -> Result<()> {
    let area = tempfile::NamedTempFile::new_in(path.parent().unwrap_or(Path::new(".")))
        .context("making a swap area")?;
    area.as_file().set_len(length)?;
    run(tool("mkswap")
        .args(["--quiet", "--uuid", SWAP_UUID])
        .arg(area.path()))?;
    let mut page = [0; 4096];
    area.as_file()
        .read_exact_at(&mut page, 0)
        .context("reading the swap area's header")?;
    disk.write_all_at(&page, start)
        .context("writing the swap area's header")
}
