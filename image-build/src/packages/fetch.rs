//! From a lock to verified package files in the cache.
//!
//! The lock carries path, length and digest of each package, so no package list and no keyring is
//! needed here: whatever the mirror sends is what the lock names or is refused.

use super::{Lock, Package, mirror};
use crate::{cache_dir, tool};
use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::Command;

/// apt's own downloader: it knows this machine's proxies and transports.
const HELPER: &str = "/usr/lib/apt/apt-helper";

/// Where the cache keeps `package`: `<cache>/debs/<sha256>.deb`.
///
/// # Errors
/// When this machine has no cache folder.
pub fn deb_path(package: &Package) -> Result<PathBuf> {
    Ok(cache_dir()?
        .join("debs")
        .join(format!("{}.deb", package.sha256)))
}

/// Brings all packages of `lock` into the cache and gives their paths in the lock's order. Each
/// file there is checked against its digest; a damaged one is fetched again.
///
/// # Errors
/// When a package is gone from the archive, cannot be reached, or is not what the lock says.
pub fn fetch(lock: &Lock) -> Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    let mut missing = Vec::new();
    for package in &lock.packages {
        let path = deb_path(package)?;
        if !is_whole(&path, package)? {
            missing.push(package);
        }
        paths.push(path);
    }
    if !missing.is_empty() {
        let mirror = mirror()?;
        for package in missing {
            download(&mirror, package)?;
        }
    }
    Ok(paths)
}

/// Fetches one package under a passing name and moves it to its own once it is proven whole, so
/// that several builds can share the cache.
fn download(mirror: &str, package: &Package) -> Result<()> {
    let path = deb_path(package)?;
    let folder = path.parent().context("the cache has no folder")?;
    fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    let passing = tempfile::tempdir_in(folder)
        .with_context(|| format!("making a folder in {}", folder.display()))?;
    let target = passing.path().join("package.deb");
    let uri = format!("{mirror}/{}", package.path.replace('+', "%2B"));
    let output = tool::output(
        Command::new(HELPER)
            .args(["-o", "APT::Sandbox::User=", "-o", "Acquire::Retries=3"])
            .arg("download-file")
            .args([&uri, &target.display().to_string()])
            .arg(format!("SHA256:{}", package.sha256))
            .env("LC_ALL", "C"),
        "apt",
    )?;
    if !output.status.success() {
        let words = tool::last_words(&output);
        if words.contains("404") {
            bail!(
                "the archive no longer has {} {}: `cargo xtask image --relock` takes the version \
                 that it has now ({uri})",
                package.name,
                package.version
            );
        }
        bail!(
            "fetching {} {} from {uri}: {words}",
            package.name,
            package.version
        );
    }
    if !is_whole(&target, package)? {
        bail!(
            "{uri} is not the {} {} that the lock file names: its length or SHA-256 differs",
            package.name,
            package.version
        );
    }
    fs::rename(&target, &path).with_context(|| format!("writing {}", path.display()))
}

/// Whether `path` is there with the length and digest of `package`.
fn is_whole(path: &Path, package: &Package) -> Result<bool> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error).with_context(|| format!("opening {}", path.display())),
    };
    if file.metadata()?.len() != package.size {
        return Ok(false);
    }
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let count = file
            .read(&mut buffer)
            .with_context(|| format!("reading {}", path.display()))?;
        if count == 0 {
            break;
        }
        hash.update(&buffer[..count]);
    }
    Ok(crate::hex(&hash.finalize()) == package.sha256)
}
