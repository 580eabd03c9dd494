//! The packages' contents in a folder, and their programs run from it on any host.

use super::{Lock, fetch};
use crate::{cache_dir, tool};
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A folder that holds what the packages of one lock install; never changed once it is there.
#[derive(Debug, Clone)]
pub struct Sysroot {
    path: PathBuf,
}

impl Sysroot {
    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The program at `program` (`usr/bin/mcopy`), run through the loader and the libraries of
    /// this sysroot: the host's C library and versions play no part.
    pub fn command(&self, program: &str) -> Command {
        self.loader(&[], program)
    }

    /// The loader's list of the libraries that `program` needs.
    pub(crate) fn libraries_of(&self, program: &str) -> Command {
        self.loader(&["--list"], program)
    }

    fn loader(&self, options: &[&str], program: &str) -> Command {
        let mut command = Command::new(self.path.join("usr/lib64/ld-linux-x86-64.so.2"));
        command
            .args(options)
            .arg("--library-path")
            .arg(self.path.join("usr/lib/x86_64-linux-gnu"))
            .arg(self.path.join(program))
            .env("LC_ALL", "C")
            .env("TZ", "UTC");
        command
    }
}

/// Fetches and unpacks the packages of `lock`, or takes the folder from the cache, where it is
/// kept by the lock's digest.
///
/// # Errors
/// When fetching fails ([`fetch`]) or a package cannot be unpacked.
pub fn unpack(lock: &Lock) -> Result<Sysroot> {
    let folder = cache_dir()?.join("sysroots");
    let path = folder.join(lock.digest());
    if !path.exists() {
        let debs = fetch(lock)?;
        fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
        let passing = tempfile::Builder::new()
            .prefix("unpacking-")
            .tempdir_in(&folder)
            .with_context(|| format!("making a folder in {}", folder.display()))?;
        let root = passing.path().join("root");
        for deb in &debs {
            tool::run(
                Command::new("dpkg-deb").arg("-x").arg(deb).arg(&root),
                "dpkg",
            )?;
        }
        // Another build may have been faster; its folder has the same contents.
        if let Err(error) = fs::rename(&root, &path)
            && !path.exists()
        {
            return Err(error).with_context(|| format!("making {}", path.display()));
        }
    }
    Ok(Sysroot { path })
}
