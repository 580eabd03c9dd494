//! A guest's disk: partition table, filesystems and swap, made in one sparse file.

use super::base::{Base, run_fed};
use super::files::{self, Payload};
use super::{grub, junk};
use crate::command::{run, tool};
use anyhow::{Context, Result};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// The disk's size in bytes: what its machine sees, not what the file takes up.
const DISK_BYTES: u64 = 2 << 30;

/// UUID of the root filesystem.
pub(super) const ROOT_UUID: &str = "6f0ab5a4-57d9-4c0c-9a0d-2f8d4f8a1c11";
/// UUID of the swap area.
pub(super) const SWAP_UUID: &str = "b1d3c7de-02c4-4a39-8b0a-0d5f3a7e9922";
/// Volume number of the ESP, as Linux shows it.
pub(super) const EFI_VOLUME: &str = "4A1D-7E33";

const MIB: u64 = 1 << 20;

/// What sort of server it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// UEFI: GPT with an ESP, an ext4 root and swap.
    UefiGpt,
    /// Legacy BIOS: MBR with GRUB in the gap, an ext4 root, and swap as a logical partition.
    BiosMbr,
}

/// Where the partitions lie, in bytes from the disk's start.
#[derive(Debug, Clone, Copy)]
pub(super) struct Layout {
    /// The ESP's start and length; nothing on an MBR disk.
    pub(super) esp: Option<(u64, u64)>,
    /// The root filesystem's start and length.
    pub(super) root: (u64, u64),
    /// The swap area's start and length.
    pub(super) swap: (u64, u64),
}

impl Kind {
    fn layout(self) -> Layout {
        match self {
            Self::UefiGpt => Layout {
                esp: Some((MIB, 64 * MIB)),
                root: (65 * MIB, 1536 * MIB),
                swap: (1601 * MIB, 256 * MIB),
            },
            Self::BiosMbr => Layout {
                esp: None,
                root: (MIB, 1536 * MIB),
                // Behind its EBR, which is the first sector of the extended partition.
                swap: (1538 * MIB, 256 * MIB),
            },
        }
    }

    /// The table in sfdisk's language, where sizes without a unit are sectors of 512 bytes.
    fn table(self, layout: &Layout) -> String {
        let at =
            |(start, length): (u64, u64)| format!("start={}, size={}", start / 512, length / 512);
        match self {
            Self::UefiGpt => format!(
                "label: gpt\nlabel-id: 0E4C9B1A-6D3B-4C43-9E1B-7A5D12C0F001\n\
                 {}, type=uefi, uuid=0E4C9B1A-6D3B-4C43-9E1B-7A5D12C0F002, name=\"EFI System\"\n\
                 {}, type=linux, uuid=0E4C9B1A-6D3B-4C43-9E1B-7A5D12C0F003, name=\"root\"\n\
                 {}, type=swap, uuid=0E4C9B1A-6D3B-4C43-9E1B-7A5D12C0F004, name=\"swap\"\n",
                at(layout.esp.unwrap_or_default()),
                at(layout.root),
                at(layout.swap),
            ),
            Self::BiosMbr => format!(
                "label: dos\nlabel-id: 0x51a7c0de\n\
                 1 : {}, type=83, bootable\n\
                 2 : start={}, size={}, type=5\n\
                 5 : {}, type=82\n",
                at(layout.root),
                (layout.swap.0 - MIB) / 512,
                (layout.swap.1 + MIB) / 512,
                at(layout.swap),
            ),
        }
    }
}

/// A server's disk and what is known of it.
#[derive(Debug, Clone)]
pub struct Guest {
    /// The raw image.
    pub path: PathBuf,
    /// What sort of server.
    pub kind: Kind,
    /// What it will say about its data files.
    pub payload: Payload,
}

impl Guest {
    /// Makes the disk at `path`; takes seconds.
    ///
    /// # Errors
    /// When one of the tools is missing or fails.
    pub fn make(base: &Base, kind: Kind, path: &Path) -> Result<Self> {
        let layout = kind.layout();
        let doing = || format!("making the disk {}", path.display());
        let disk = File::create(path).with_context(doing)?;
        disk.set_len(DISK_BYTES).with_context(doing)?;
        run_fed(
            tool("sfdisk").args(["--quiet", "--no-reread"]).arg(path),
            |stdin| std::io::Write::write_all(stdin, kind.table(&layout).as_bytes()),
        )?;
        let overlay = tempfile::NamedTempFile::new_in(path.parent().unwrap_or(Path::new(".")))
            .with_context(doing)?;
        let payload = files::write(overlay.path(), kind)?;
        root(base, path, &layout, overlay.path())?;
        swap(path, &disk, &layout)?;
        match kind {
            Kind::UefiGpt => grub::esp(base, path, &layout)?,
            Kind::BiosMbr => grub::gap(base, path, &disk)?,
        }
        junk::in_swap(&disk, layout.swap.0)?;
        Ok(Self {
            path: path.to_owned(),
            kind,
            payload,
        })
    }
}

/// Makes the root filesystem, fills it from the two archives, one after the other, and leaves
/// junk in its free blocks.
fn root(base: &Base, path: &Path, layout: &Layout, overlay: &Path) -> Result<()> {
    let (start, length) = layout.root;
    let filesystem = tempfile::NamedTempFile::new_in(path.parent().unwrap_or(Path::new(".")))
        .context("making a file for the root filesystem")?;
    filesystem.as_file().set_len(length)?;
    let mut system = File::open(base.tar()).context("opening the installed system")?;
    let mut overlay = File::open(overlay).context("opening the guest's files")?;
    run_fed(
        base.command("usr/sbin/mke2fs")
            .args(["-q", "-F", "-t", "ext4", "-b", "4096", "-m", "1"])
            .args(["-L", "root", "-U", ROOT_UUID, "-d", "-"])
            .args(["-E", "root_owner=0:0"])
            .arg(filesystem.path()),
        |stdin| {
            std::io::copy(&mut system, stdin)?;
            std::io::copy(&mut overlay, stdin)?;
            Ok(())
        },
    )?;
    junk::in_free_blocks(base, &filesystem)?;
    // Holes stay holes.
    run(tool("dd")
        .args(["bs=1M", "conv=sparse,notrunc", "status=none"])
        .arg(format!("if={}", filesystem.path().display()))
        .arg(format!("of={}", path.display()))
        .arg(format!("seek={}", start / MIB)))?;
    Ok(())
}

/// Makes the swap area: one page at its start says what it is.
fn swap(path: &Path, disk: &File, layout: &Layout) -> Result<()> {
    let (start, length) = layout.swap;
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
