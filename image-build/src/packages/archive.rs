//! What the archive holds today: apt with a root of its own, and the lock made from it.

use super::{ARCHITECTURE, COMPONENTS, Lock, Package, SUITE, keyring, mirror};
use crate::tool;
use anyhow::{Context, Result, bail, ensure};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use tempfile::TempDir;

/// A fresh, verified package list of [`SUITE`], in a private apt root that goes with this value.
#[derive(Debug)]
pub struct Archive {
    root: TempDir,
}

impl Archive {
    /// Fetches the package lists. The host's apt settings for proxies and transports hold.
    ///
    /// # Errors
    /// When no mirror or keyring is known, or the lists cannot be fetched or verified.
    pub fn open() -> Result<Self> {
        let root = tempfile::tempdir().context("making apt's private root")?;
        let path = root.path().display();
        for folder in ["state/lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(root.path().join(folder))?;
        }
        fs::write(root.path().join("status"), "")?;
        fs::write(
            root.path().join("sources.sources"),
            format!(
                "Types: deb\nURIs: {}\nSuites: {SUITE}\nComponents: {COMPONENTS}\nSigned-By: {}\n",
                mirror()?,
                keyring()?.display()
            ),
        )?;
        // An empty status file: the host's installed packages play no part. Sandbox::User "": apt
        // does not try to become another user. Host pins and extra sources are shut out.
        fs::write(
            root.path().join("apt.conf"),
            format!(
                "Dir::State \"{path}/state\";\n\
                 Dir::State::status \"{path}/status\";\n\
                 Dir::Cache \"{path}/cache\";\n\
                 Dir::Etc::sourcelist \"{path}/sources.sources\";\n\
                 Dir::Etc::sourceparts \"/dev/null\";\n\
                 Dir::Etc::preferences \"/dev/null\";\n\
                 Dir::Etc::preferencesparts \"/dev/null\";\n\
                 APT::Architecture \"{ARCHITECTURE}\";\n\
                 APT::Architectures {{ \"{ARCHITECTURE}\"; }};\n\
                 APT::Sandbox::User \"\";\n\
                 Acquire::Languages \"none\";\n\
                 Acquire::IndexTargets::deb::DEP-11::DefaultEnabled \"false\";\n"
            ),
        )?;
        let archive = Self { root };
        // Error-Mode=any: a list that could not be fetched is an error, not a warning.
        tool::run(
            archive
                .apt("apt-get")
                .args(["update", "-qq", "-o", "APT::Update::Error-Mode=any"]),
            "apt",
        )
        .context("fetching the package lists of the Debian archive")?;
        Ok(archive)
    }

    /// The lock of the packages called `names`, as the archive has them now. Dependencies are not
    /// followed: what goes into an image is named.
    ///
    /// # Errors
    /// When one of them is not in the archive.
    pub fn lock(&self, names: &[&str]) -> Result<Lock> {
        let stanzas = self.show(names)?;
        let packages = names
            .iter()
            .map(|name| {
                let stanza = stanzas.get(*name).with_context(|| {
                    format!("the package {name} is not in {SUITE} ({COMPONENTS})")
                })?;
                package(stanza).with_context(|| format!("the archive's record of {name}"))
            })
            .collect::<Result<Vec<_>>>()?;
        Lock::new(SUITE, packages)
    }

    /// What the package `name` depends on, without versions, alternatives cut to the first.
    ///
    /// # Errors
    /// When there is no such package.
    pub fn depends(&self, name: &str) -> Result<Vec<String>> {
        let stanzas = self.show(&[name])?;
        let stanza = stanzas
            .get(name)
            .with_context(|| format!("the package {name} is not in {SUITE}"))?;
        let depends = stanza.get("Depends").map_or("", String::as_str);
        Ok(depends
            .split(',')
            .filter_map(|clause| clause.split(['(', '|', ':']).next())
            .map(|word| word.trim().to_owned())
            .filter(|word| !word.is_empty())
            .collect())
    }

    fn show(&self, names: &[&str]) -> Result<BTreeMap<String, BTreeMap<String, String>>> {
        let text = tool::run(
            self.apt("apt-cache")
                .args(["show", "--no-all-versions"])
                .args(names),
            "apt",
        )?;
        Ok(stanzas(&String::from_utf8_lossy(&text)))
    }

    fn apt(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .env("APT_CONFIG", self.root.path().join("apt.conf"))
            .env("LC_ALL", "C");
        command
    }
}

/// Writes a lock file for the packages called `names` at `path`, as the archive has them now.
///
/// # Errors
/// See [`Archive::open`] and [`Archive::lock`]; a lock file that was there is left as it was.
pub fn relock(path: &Path, names: &[&str]) -> Result<Lock> {
    let lock = Archive::open()?.lock(names)?;
    lock.write(path)?;
    Ok(lock)
}

/// Cuts `apt-cache show` into the fields of each package; continuation lines are not needed.
fn stanzas(text: &str) -> BTreeMap<String, BTreeMap<String, String>> {
    text.split("\n\n")
        .filter_map(|stanza| {
            let fields: BTreeMap<String, String> = stanza
                .lines()
                .filter(|line| !line.starts_with([' ', '\t']))
                .filter_map(|line| line.split_once(':'))
                .map(|(key, value)| (key.to_owned(), value.trim().to_owned()))
                .collect();
            Some((fields.get("Package")?.clone(), fields))
        })
        .collect()
}

fn package(stanza: &BTreeMap<String, String>) -> Result<Package> {
    let field = |key: &str| {
        stanza
            .get(key)
            .cloned()
            .with_context(|| format!("has no field {key}"))
    };
    let package = Package {
        name: field("Package")?,
        version: field("Version")?,
        arch: field("Architecture")?,
        path: field("Filename")?,
        size: field("Size")?.parse().context("has no size")?,
        sha256: field("SHA256")?,
    };
    ensure!(package.size > 0, "has size 0");
    if package.arch != ARCHITECTURE && package.arch != "all" {
        bail!("is for {}, not {ARCHITECTURE}", package.arch);
    }
    Ok(package)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHOWN: &str = "Package: shim-signed\nVersion: 1.47\nArchitecture: amd64\n\
        Depends: shim-helpers-amd64-signed (>= 1+15), grub2-common | grub-legacy, libc6:any\n\
        Description: boot loader\n chain-loading: it: all\nFilename: pool/main/s/shim-signed/a.deb\n\
        Size: 320476\nSHA256: 00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff\n\n\
        Package: other\nVersion: 2\n";

    #[test]
    fn a_stanza_becomes_a_package() {
        let stanzas = stanzas(SHOWN);
        let shim = package(&stanzas["shim-signed"]).unwrap();
        assert_eq!(shim.version, "1.47");
        assert_eq!(shim.size, 320_476);
        assert_eq!(shim.path, "pool/main/s/shim-signed/a.deb");
    }

    #[test]
    fn a_stanza_without_a_digest_is_refused() {
        let stanzas = stanzas(SHOWN);
        assert!(package(&stanzas["other"]).is_err());
    }
}
