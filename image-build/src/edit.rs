//! The files in a finished image that are meant to be changed: the answer file and GRUB's
//! settings. A person does the same with the stick plugged in, as its ESP is a plain FAT volume.

use crate::boot::{ENV_PATH, environment};
use crate::packages::{Lock, Sysroot, unpack};
use crate::tool;
use anyhow::{Context, Result};
use gpt::disk::LogicalBlockSize;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The ESP inside an image file, or inside a copy of one that has been booted since.
#[derive(Debug)]
pub struct Esp {
    image: PathBuf,
    start: u64,
    sysroot: Sysroot,
}

impl Esp {
    /// Finds the ESP of `image`; mtools are taken from the packages of `lock`.
    ///
    /// # Errors
    /// When the image has no partition table, or the packages cannot be fetched.
    pub fn open(image: &Path, lock: &Lock) -> Result<Self> {
        let disk = gpt::GptConfig::new()
            .logical_block_size(LogicalBlockSize::Lb512)
            .open(image)
            .with_context(|| format!("reading the partition table of {}", image.display()))?;
        let esp = disk
            .partitions()
            .get(&1)
            .with_context(|| format!("{} has no partition 1", image.display()))?;
        Ok(Self {
            image: image.to_path_buf(),
            start: esp.bytes_start(LogicalBlockSize::Lb512)?,
            sysroot: unpack(lock)?,
        })
    }

    /// Puts a file at `path` (`haulier.toml`), in place of the one that is there.
    ///
    /// # Errors
    /// When its folder is missing or it does not fit.
    pub fn put(&self, path: &str, contents: &[u8]) -> Result<()> {
        let file = tempfile::NamedTempFile::new()?;
        fs::write(file.path(), contents)?;
        tool::run(
            self.mtools("usr/bin/mcopy")
                .arg("-o")
                .arg(file.path())
                .arg(format!("::/{path}")),
            "mtools",
        )
        .with_context(|| format!("putting {path} into {}", self.image.display()))?;
        Ok(())
    }

    /// What is in the file at `path`.
    ///
    /// # Errors
    /// When there is none.
    pub fn get(&self, path: &str) -> Result<Vec<u8>> {
        let folder = tempfile::tempdir()?;
        let target = folder.path().join("file");
        tool::run(
            self.mtools("usr/bin/mcopy")
                .arg(format!("::/{path}"))
                .arg(&target),
            "mtools",
        )
        .with_context(|| format!("taking {path} out of {}", self.image.display()))?;
        Ok(fs::read(&target)?)
    }

    /// Removes the file at `path`.
    ///
    /// # Errors
    /// When there is none.
    pub fn remove(&self, path: &str) -> Result<()> {
        tool::run(
            self.mtools("usr/bin/mdel").arg(format!("::/{path}")),
            "mtools",
        )
        .with_context(|| format!("removing {path} from {}", self.image.display()))?;
        Ok(())
    }

    /// Sets GRUB's variables, all of them: `haulier_timeout` (seconds that the menu waits),
    /// `haulier_args` (further words for the kernel command line), `haulier_slot` (`slot-a` or
    /// `slot-b`).
    ///
    /// # Errors
    /// When they do not fit GRUB's 1024 bytes.
    pub fn set_grub(&self, variables: &[(&str, &str)]) -> Result<()> {
        self.put(ENV_PATH, &environment(variables)?)
    }

    fn mtools(&self, program: &str) -> Command {
        let mut command = self.sysroot.command(program);
        command.env("MTOOLSRC", "/dev/null").arg("-i").arg(format!(
            "{}@@{}",
            self.image.display(),
            self.start
        ));
        command
    }
}
