//! The lock file: which packages, exactly.

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::path::Path;

/// One package file of the archive.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Package {
    /// Its name: `shim-signed`.
    pub name: String,
    /// Its Debian version: `1.47+16.1-2`.
    pub version: String,
    /// `amd64` or `all`.
    pub arch: String,
    /// Where it lies under the mirror's root: `pool/main/s/shim-signed/….deb`.
    pub path: String,
    /// Length of the file in bytes.
    pub size: u64,
    /// SHA-256 of the file, lower-case hex.
    pub sha256: String,
}

/// What a lock file holds: packages sorted by name, each once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lock {
    /// The Debian release that it was made from.
    pub suite: String,
    /// The packages.
    #[serde(rename = "package")]
    pub packages: Vec<Package>,
}

impl Lock {
    /// Makes a lock of `packages`, in whichever order they come.
    ///
    /// # Errors
    /// When a package is there twice or one of its fields is not what it should be.
    pub fn new(suite: &str, mut packages: Vec<Package>) -> Result<Self> {
        packages.sort();
        let lock = Self {
            suite: suite.to_owned(),
            packages,
        };
        lock.check()?;
        Ok(lock)
    }

    /// Reads the lock file at `path`.
    ///
    /// # Errors
    /// When it cannot be read or is not a lock file.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("reading the lock file {}", path.display()))?;
        Self::parse(&text).with_context(|| format!("the lock file {}", path.display()))
    }

    /// Reads a lock file's text.
    ///
    /// # Errors
    /// When it is not one.
    pub fn parse(text: &str) -> Result<Self> {
        let lock: Self = toml::from_str(text)?;
        lock.check()?;
        Ok(lock)
    }

    /// Writes the lock file at `path`, whole or not at all.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        let text = format!(
            "# Made by `cargo xtask image --relock`; not edited by hand.\n{}",
            toml::to_string(self)?
        );
        let folder = path.parent().unwrap_or(Path::new("."));
        let file = tempfile::NamedTempFile::new_in(folder)
            .with_context(|| format!("making a file in {}", folder.display()))?;
        std::fs::write(file.path(), text)?;
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
        std::fs::set_permissions(file.path(), mode)?;
        file.persist(path)
            .with_context(|| format!("writing the lock file {}", path.display()))?;
        Ok(())
    }

    /// The package called `name`.
    pub fn package(&self, name: &str) -> Option<&Package> {
        self.packages.iter().find(|package| package.name == name)
    }

    /// SHA-256 over all packages' digests: two locks of the same files have the same.
    pub fn digest(&self) -> String {
        let mut hash = Sha256::new();
        for package in &self.packages {
            hash.update(package.sha256.as_bytes());
            hash.update(b"\n");
        }
        crate::hex(&hash.finalize())
    }

    fn check(&self) -> Result<()> {
        let mut names = BTreeSet::new();
        for package in &self.packages {
            let name = &package.name;
            ensure!(names.insert(name), "the package {name} is there twice");
            ensure!(
                package.sha256.len() == 64
                    && package
                        .sha256
                        .bytes()
                        .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')),
                "the SHA-256 of {name} is not 64 lower-case hex digits"
            );
            // The path is joined to a mirror's address and the digest names a file in the cache:
            // neither may lead elsewhere.
            ensure!(
                package.path.starts_with("pool/")
                    && package.path.ends_with(".deb")
                    && !package.path.split('/').any(|part| part == ".."),
                "the path of {name} is not a package file in the archive's pool"
            );
        }
        ensure!(!names.is_empty(), "it names no packages");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str) -> Package {
        Package {
            name: name.to_owned(),
            version: "1.2-3".to_owned(),
            arch: "amd64".to_owned(),
            path: format!("pool/main/x/{name}_1.2-3_amd64.deb"),
            size: 12_345,
            sha256: "0123456789abcdef".repeat(4),
        }
    }

    #[test]
    fn what_is_written_is_read_back_sorted() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("packages.lock");
        let lock = Lock::new("trixie", vec![package("zlib1g"), package("busybox")]).unwrap();
        lock.write(&path).unwrap();
        let read = Lock::read(&path).unwrap();
        assert_eq!(read, lock);
        let names: Vec<_> = read.packages.iter().map(|p| p.name.as_str()).collect();
        assert_eq!(names, ["busybox", "zlib1g"]);
    }

    #[test]
    fn a_package_named_twice_is_refused() {
        let error = Lock::new("trixie", vec![package("a"), package("a")]).unwrap_err();
        assert_eq!(error.to_string(), "the package a is there twice");
    }

    #[test]
    fn a_digest_that_could_lead_out_of_the_cache_is_refused() {
        let mut bad = package("a");
        bad.sha256 = format!("../{}", "a".repeat(61));
        assert!(Lock::new("trixie", vec![bad]).is_err());
    }

    #[test]
    fn a_path_out_of_the_pool_is_refused() {
        for path in ["../etc/passwd.deb", "pool/../x.deb", "pool/main/x.iso"] {
            let mut bad = package("a");
            bad.path = path.to_owned();
            assert!(Lock::new("trixie", vec![bad]).is_err(), "{path}");
        }
    }

    #[test]
    fn an_unknown_field_is_refused() {
        let error = Lock::parse("suite = \"trixie\"\npackage = []\nurl = \"x\"\n").unwrap_err();
        assert!(error.to_string().contains("unknown field"), "{error}");
    }

    #[test]
    fn the_digest_follows_the_files() {
        let one = Lock::new("trixie", vec![package("a")]).unwrap();
        let mut other = one.clone();
        assert_eq!(one.digest(), other.digest());
        other.packages[0].sha256 = "f".repeat(64);
        assert_ne!(one.digest(), other.digest());
    }
}
