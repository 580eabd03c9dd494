//! The EFI system partition: a FAT32 file system, made and filled as a file.
//!
//! mkfs.fat and mtools come from the locked packages, so their versions, and with them the bytes,
//! are the lock's and not the host's.

use super::disk::SECTOR;
use crate::packages::Sysroot;
use crate::programs::SOURCE_DATE_EPOCH;
use crate::tool;
use anyhow::{Context, Result};
use std::collections::BTreeSet;
use std::fs;

/// Room for two slots of kernel and initramfs. FAT32 it is by its number of clusters (over
/// 65,524), which UEFI firmware counts: hence clusters of 1 KiB.
const SIZE: u64 = 96 << 20;

/// The volume's name.
const LABEL: &str = "HAULIER-ESP";

/// A file on the ESP.
#[derive(Debug)]
pub(super) struct EspFile {
    /// Its path, without a slash at the start.
    pub(super) path: &'static str,
    /// What is in it.
    pub(super) data: Vec<u8>,
}

impl EspFile {
    pub(super) fn new(path: &'static str, data: Vec<u8>) -> Self {
        Self { path, data }
    }
}

/// Makes the file system with `files` in it, in their order.
///
/// # Errors
/// When mkfs.fat or mtools fails; most likely the files do not fit.
pub(super) fn write(sysroot: &Sysroot, files: &[EspFile], volume_id: u32) -> Result<Vec<u8>> {
    let scratch = tempfile::tempdir().context("making a folder for the ESP")?;
    let esp = scratch.path().join("esp");
    fs::File::create(&esp)?.set_len(SIZE)?;
    tool::run(
        sysroot
            .command("usr/sbin/mkfs.fat")
            .args(["--invariant", "-F", "32", "-s", "2", "-n", LABEL, "-i"])
            .arg(format!("{volume_id:08x}"))
            .args(["-h", &(super::disk::ESP_START / SECTOR).to_string()])
            .arg(&esp),
        "dosfstools",
    )?;
    let mtools = |program: &str| {
        let mut command = sysroot.command(program);
        command
            .env("SOURCE_DATE_EPOCH", SOURCE_DATE_EPOCH)
            .env("MTOOLSRC", "/dev/null")
            .arg("-i")
            .arg(&esp);
        command
    };
    let mut folders = BTreeSet::new();
    for file in files {
        for (end, _) in file.path.match_indices('/') {
            folders.insert(&file.path[..end]);
        }
    }
    for folder in folders {
        tool::run(mtools("usr/bin/mmd").arg(format!("::/{folder}")), "mtools")?;
    }
    let source = scratch.path().join("file");
    for file in files {
        fs::write(&source, &file.data)?;
        tool::run(
            mtools("usr/bin/mcopy")
                .arg(&source)
                .arg(format!("::/{}", file.path)),
            "mtools",
        )
        .with_context(|| format!("putting {} onto the ESP", file.path))?;
    }
    Ok(fs::read(&esp)?)
}
