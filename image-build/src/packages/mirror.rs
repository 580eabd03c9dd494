//! Where Debian packages come from on this machine.
//!
//! On Debian, apt's own configuration knows the mirror that this machine can reach. Elsewhere the
//! distribution's template of Debian's sources (package python-apt-common) knows the main one.
//! `HAULIER_DEBIAN_MIRROR` overrides both.

use crate::tool;
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Environment variable that names the mirror's root, the folder that holds `dists` and `pool`.
const OVERRIDE: &str = "HAULIER_DEBIAN_MIRROR";

/// Ubuntu's knowledge of Debian's archive.
const TEMPLATE: &str = "/usr/share/python-apt/templates/Debian.info";

/// The keys that Debian signs its releases with, under the names that its package has used.
const KEYRINGS: [&str; 2] = [
    "/usr/share/keyrings/debian-archive-keyring.gpg",
    "/usr/share/keyrings/debian-archive-keyring.pgp",
];

/// The root of the Debian mirror to use, without a slash at its end.
///
/// # Errors
/// When neither apt's configuration nor the template name one.
pub fn mirror() -> Result<String> {
    if let Some(mirror) = std::env::var(OVERRIDE).ok().filter(|m| !m.is_empty()) {
        return Ok(mirror.trim_end_matches('/').to_owned());
    }
    let release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    // The one that the machine already uses is the one that it can reach.
    let targets = tool::run(
        Command::new("apt-get").args([
            "indextargets",
            "--format",
            "$(ORIGIN)|$(LABEL)|$(RELEASE)|$(REPO_URI)",
            "Created-By: Packages",
        ]),
        "apt",
    )?;
    if let Some(mirror) = from_targets(&String::from_utf8_lossy(&targets), &release) {
        return Ok(mirror);
    }
    if let Ok(text) = std::fs::read_to_string(TEMPLATE)
        && let Some(mirror) = from_template(&text)
    {
        return Ok(mirror);
    }
    bail!(
        "no Debian mirror is known on this machine: install the package python-apt-common, \
         or set {OVERRIDE} to the address of a mirror's root folder"
    )
}

/// The file with Debian's archive keys.
///
/// # Errors
/// When the package debian-archive-keyring is not installed.
pub fn keyring() -> Result<PathBuf> {
    KEYRINGS
        .iter()
        .map(Path::new)
        .find(|path| path.exists())
        .map(Path::to_path_buf)
        .context("Debian's archive keys are missing: install the package debian-archive-keyring")
}

/// The mirror among apt's index targets, `ORIGIN|LABEL|RELEASE|URI` a line.
///
/// Origin and label are only there once apt has fetched its lists. Before that, on a machine that
/// is Debian by its os-release, the source of its own release is taken.
fn from_targets(targets: &str, os_release: &str) -> Option<String> {
    let rows = || {
        targets.lines().filter_map(|line| {
            let mut fields = line.splitn(4, '|');
            let (origin, label) = (fields.next()?, fields.next()?);
            let (release, uri) = (fields.next()?, fields.next()?);
            Some((origin, label, release, uri.trim_end_matches('/')))
        })
    };
    if let Some((.., uri)) =
        rows().find(|(origin, label, ..)| (*origin, *label) == ("Debian", "Debian"))
    {
        return Some(uri.to_owned());
    }
    let field = |key: &str| {
        os_release
            .lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
            .map(|value| value.trim_matches('"'))
    };
    if field("ID") != Some("debian") {
        return None;
    }
    let codename = field("VERSION_CODENAME")?;
    rows()
        .find(|(_, _, release, _)| *release == codename)
        .map(|(.., uri)| uri.to_owned())
}

/// The `BaseURI` of the first suite in a python-apt template.
fn from_template(text: &str) -> Option<String> {
    text.lines()
        .find_map(|line| line.strip_prefix("BaseURI:"))
        .map(|uri| uri.trim().trim_end_matches('/').to_owned())
        .filter(|uri| !uri.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEBIAN: &str = "NAME=\"Debian GNU/Linux\"\nID=debian\nVERSION_CODENAME=bookworm\n";
    const UBUNTU: &str = "NAME=\"Ubuntu\"\nID=ubuntu\nID_LIKE=debian\nVERSION_CODENAME=noble\n";

    #[test]
    fn the_archive_labelled_debian_wins_over_other_sources() {
        let targets = "Google|tools|stable|https://vendor.example/apt/\n\
                       Debian|Debian-Security|bookworm-security|http://mirror.example/debian-security/\n\
                       Debian|Debian|bookworm|http://mirror.example/debian/\n";
        assert_eq!(
            from_targets(targets, DEBIAN).as_deref(),
            Some("http://mirror.example/debian")
        );
    }

    #[test]
    fn before_the_first_update_the_source_of_the_own_release_is_taken() {
        let targets = "||stable|https://vendor.example/apt/\n\
                       ||bookworm-security|http://mirror.example/debian-security/\n\
                       ||bookworm|http://mirror.example/debian/\n";
        assert_eq!(
            from_targets(targets, DEBIAN).as_deref(),
            Some("http://mirror.example/debian")
        );
    }

    #[test]
    fn ubuntus_own_sources_are_not_debian() {
        let targets = "Ubuntu|Ubuntu|noble|http://mirror.example/ubuntu/\n";
        assert_eq!(from_targets(targets, UBUNTU), None);
    }

    #[test]
    fn the_template_gives_its_base_uri() {
        let text = "_ChangelogURI: x\nSuite: trixie\nBaseURI: http://mirror.example/debian/\n";
        assert_eq!(
            from_template(text).as_deref(),
            Some("http://mirror.example/debian")
        );
    }
}
