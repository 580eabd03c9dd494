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
    Ok(path_in(&folder()?, package))
}

/// Brings all packages of `lock` into the cache and gives their paths in the lock's order. Each
/// file there is checked against its digest; a damaged one is fetched again.
///
/// # Errors
/// When a package is gone from the archive, cannot be reached, or is not what the lock says.
pub fn fetch(lock: &Lock) -> Result<Vec<PathBuf>> {
    fetch_into(&folder()?, lock, mirror)
}

fn folder() -> Result<PathBuf> {
    Ok(cache_dir()?.join("debs"))
}

fn path_in(folder: &Path, package: &Package) -> PathBuf {
    folder.join(format!("{}.deb", package.sha256))
}

/// [`fetch`] with a folder and a mirror; the mirror is asked for when something is missing.
fn fetch_into(
    folder: &Path,
    lock: &Lock,
    mirror: impl FnOnce() -> Result<String>,
) -> Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    let mut missing = Vec::new();
    for package in &lock.packages {
        let path = path_in(folder, package);
        if !is_whole(&path, package)? {
            missing.push(package);
        }
        paths.push(path);
    }
    if !missing.is_empty() {
        let mirror = mirror()?;
        for package in missing {
            download(folder, &mirror, package)?;
        }
    }
    Ok(paths)
}

/// Fetches one package under a passing name and moves it to its own once it is proven whole, so
/// that several builds can share the cache.
fn download(folder: &Path, mirror: &str, package: &Package) -> Result<()> {
    let path = path_in(folder, package);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packages::SUITE;
    use std::io::{BufRead, BufReader, Write};
    use std::net::TcpListener;

    const CONTENTS: &[u8] = b"not really a package";

    /// A mirror on this machine that has one file; everything else is 404.
    fn serve() -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut request = String::new();
                let mut lines = BufReader::new(stream.try_clone().unwrap());
                lines.read_line(&mut request).unwrap();
                let mut header = String::new();
                while lines.read_line(&mut header).unwrap() > 2 {
                    header.clear();
                }
                let (status, body) = if request.contains("/pool/main/h/here%2B1.deb ") {
                    ("200 OK", CONTENTS)
                } else {
                    ("404 Not Found", &[][..])
                };
                let length = body.len();
                let head = format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\n");
                // apt may hang up once it has seen enough.
                let _ = stream.write_all(format!("{head}Connection: close\r\n\r\n").as_bytes());
                let _ = stream.write_all(body);
            }
        });
        format!("http://{address}")
    }

    fn lock(file: &str, contents: &[u8]) -> Lock {
        let package = Package {
            name: "here".to_owned(),
            version: "1".to_owned(),
            arch: "all".to_owned(),
            path: format!("pool/main/h/{file}.deb"),
            size: u64::try_from(contents.len()).unwrap(),
            sha256: crate::hex(&Sha256::digest(contents)),
        };
        Lock::new(SUITE, vec![package]).unwrap()
    }

    #[test]
    fn a_missing_package_is_fetched_and_then_kept() {
        let folder = tempfile::tempdir().unwrap();
        let lock = lock("here+1", CONTENTS);
        let paths = fetch_into(folder.path(), &lock, || Ok(serve())).unwrap();
        assert_eq!(fs::read(&paths[0]).unwrap(), CONTENTS);
        let again = fetch_into(folder.path(), &lock, || bail!("no mirror is needed now")).unwrap();
        assert_eq!(again, paths);
    }

    #[test]
    fn a_damaged_package_in_the_cache_is_fetched_again() {
        let folder = tempfile::tempdir().unwrap();
        let lock = lock("here+1", CONTENTS);
        let path = path_in(folder.path(), &lock.packages[0]);
        let mut damaged = CONTENTS.to_vec();
        damaged[3] ^= 1;
        fs::write(&path, &damaged).unwrap();
        fetch_into(folder.path(), &lock, || Ok(serve())).unwrap();
        assert_eq!(fs::read(&path).unwrap(), CONTENTS);
    }

    #[test]
    fn a_version_that_is_gone_is_told_with_the_way_out() {
        let folder = tempfile::tempdir().unwrap();
        let error = fetch_into(folder.path(), &lock("gone", CONTENTS), || Ok(serve()))
            .unwrap_err()
            .to_string();
        assert!(error.contains("no longer has here 1"), "{error}");
        assert!(error.contains("cargo xtask image --relock"), "{error}");
    }

    #[test]
    fn what_the_lock_does_not_name_is_not_kept() {
        let folder = tempfile::tempdir().unwrap();
        let lock = lock("here+1", b"what was expected...");
        let error = fetch_into(folder.path(), &lock, || Ok(serve())).unwrap_err();
        assert!(error.to_string().contains("here 1"), "{error}");
        assert!(!path_in(folder.path(), &lock.packages[0]).exists());
    }
}
