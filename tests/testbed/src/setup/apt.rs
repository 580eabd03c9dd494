//! Installing with apt-get.

use crate::command::{missing, run, shown, tool};
use anyhow::{Context, Result, bail};
use haulier_image::packages::mirror;
use std::path::Path;
use std::process::{Command, Stdio};

/// Installs `packages`.
///
/// # Errors
/// When apt-get fails: it has said why on the terminal.
pub fn install(packages: &[&str], say: &dyn Fn(&str)) -> Result<()> {
    administrate(&mut apt_get(&["update"]), say)?;
    let (qemu, others): (Vec<&str>, Vec<&str>) = packages
        .iter()
        .partition(|package| package.starts_with("qemu-"));
    if !qemu.is_empty() {
        let mut options = vec!["install"];
        let suite = foreign_suite(&qemu)?;
        if let Some(suite) = &suite {
            say(&format!(
                "Parts of QEMU on this machine are from {suite}: the others must be as well"
            ));
            add_suite(suite, say)?;
            administrate(&mut apt_get(&["update"]), say)?;
            options.extend(["--target-release", suite]);
        }
        options.extend(&qemu);
        administrate(&mut apt_get(&options), say)?;
    }
    if !others.is_empty() {
        if others.contains(&"hfsprogs") {
            add_non_free("hfsprogs", say)?;
        }
        let mut options = vec!["install"];
        options.extend(&others);
        administrate(&mut apt_get(&options), say)?;
    }
    Ok(())
}

/// The backports suite that the installed `qemu-utils` came from, if apt would now take the rest
/// of QEMU from elsewhere. Their versions must be the same: qemu-utils 10 breaks the
/// qemu-system-common 7 that Debian 12 itself has, and apt then gives up.
fn foreign_suite(qemu: &[&str]) -> Result<Option<String>> {
    let query = tool("dpkg-query")
        .args(["--show", "--showformat=${db:Status-Status} ${Version}"])
        .arg("qemu-utils")
        .output()
        .context("asking dpkg about qemu-utils")?;
    let told = String::from_utf8_lossy(&query.stdout).into_owned();
    let Some(installed) = told.strip_prefix("installed ") else {
        return Ok(None);
    };
    let mut candidates = Vec::new();
    for package in qemu {
        let policy = run(tool("apt-cache").args(["policy", package]))?;
        candidates.extend(candidate(&policy).map(str::to_owned));
    }
    if candidates.iter().all(|version| version == installed) {
        return Ok(None);
    }
    let release = std::fs::read_to_string("/etc/os-release").context("reading /etc/os-release")?;
    Ok(backports(installed, &release))
}

/// The version that apt would install, from `apt-cache policy`.
fn candidate(policy: &str) -> Option<&str> {
    policy
        .lines()
        .find_map(|line| line.trim().strip_prefix("Candidate: "))
}

/// The name of the release, from `/etc/os-release`.
fn codename(os_release: &str) -> Option<&str> {
    os_release
        .lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="))
}

/// The name of the backports suite, for a version that was built for it (`…~bpo12+1`).
fn backports(version: &str, os_release: &str) -> Option<String> {
    let codename = codename(os_release)?;
    version
        .contains("~bpo")
        .then(|| format!("{codename}-backports"))
}

/// Makes apt know `suite` of the mirror that the machine uses already.
fn add_suite(suite: &str, say: &dyn Fn(&str)) -> Result<()> {
    let known = run(tool("apt-get").args(["indextargets", "--format", "$(RELEASE)"]))?;
    if known.lines().any(|release| release == suite) {
        return Ok(());
    }
    let file = "/etc/apt/sources.list.d/haulier-backports.sources";
    let why = "parts of QEMU on this machine came from here";
    add_source(file, suite, "main", why, say)
}

/// Makes apt know Debian's non-free packages, if `package` is only there: what makes and checks
/// HFS+ is under Apple's licence.
fn add_non_free(package: &str, say: &dyn Fn(&str)) -> Result<()> {
    let policy = run(tool("apt-cache").args(["policy", package]))?;
    if candidate(&policy).is_some_and(|version| version != "(none)") {
        return Ok(());
    }
    let release = std::fs::read_to_string("/etc/os-release").context("reading /etc/os-release")?;
    let Some(codename) = codename(&release) else {
        return Ok(());
    };
    let file = "/etc/apt/sources.list.d/haulier-non-free.sources";
    let why = "what makes and checks HFS+ in tests is here";
    add_source(file, codename, "non-free", why, say)?;
    administrate(&mut apt_get(&["update"]), say)
}

/// Writes a source of packages for apt, of the mirror that the machine uses already.
fn add_source(
    file: &str,
    suite: &str,
    component: &str,
    why: &str,
    say: &dyn Fn(&str),
) -> Result<()> {
    let uri = mirror()?;
    say(&format!(
        "Adding {component} of {suite} from {uri} as {file}"
    ));
    let text = format!(
        "# Added by `cargo xtask`: {why}.\n\
         Types: deb\nURIs: {uri}\nSuites: {suite}\nComponents: {component}\n\
         Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg\n"
    );
    let draft = tempfile::NamedTempFile::new().context("drafting an apt source")?;
    std::fs::write(draft.path(), text).context("drafting an apt source")?;
    let mut install = Command::new("install");
    install
        .args(["-m", "644"])
        .arg(draft.path())
        .arg(Path::new(file));
    administrate(&mut install, say)
}

fn apt_get(arguments: &[&str]) -> Command {
    let mut command = Command::new("env");
    command
        .args(["DEBIAN_FRONTEND=noninteractive", "apt-get", "--yes"])
        .args(["--quiet=2", "--no-install-recommends"])
        .args(["--option", "Dpkg::Use-Pty=0"])
        .args(["--option", "Acquire::Retries=3"])
        .args(arguments);
    command
}

/// Runs `command` as the administrator; its words go to the terminal.
fn administrate(command: &mut Command, say: &dyn Fn(&str)) -> Result<()> {
    let mut whole;
    let command = if rustix::process::geteuid().is_root() {
        command
    } else {
        whole = Command::new("sudo");
        whole.arg(command.get_program()).args(command.get_args());
        &mut whole
    };
    say(&format!("+ {}", shown(command)));
    // apt-get's standard output is its chatter; what matters to a person is on standard error.
    let status = command
        .stdout(Stdio::null())
        .status()
        .with_context(|| missing(command))?;
    if !status.success() {
        bail!(
            "{} ended with {status}; it said why above. Run it yourself, then try again",
            shown(command)
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOOKWORM: &str = "ID=debian\nVERSION_CODENAME=bookworm\n";

    #[test]
    fn a_backported_version_names_its_suite() {
        let version = "1:10.0.2+ds-2+deb13u1~bpo12+1";
        assert_eq!(
            backports(version, BOOKWORM).as_deref(),
            Some("bookworm-backports")
        );
        assert_eq!(backports("1:7.2+dfsg-7+deb12u18+b3", BOOKWORM), None);
    }

    #[test]
    fn the_candidate_is_read_from_policy() {
        let policy =
            "qemu-system-x86:\n  Installed: (none)\n  Candidate: 1:7.2\n  Version table:\n";
        assert_eq!(candidate(policy), Some("1:7.2"));
    }
}
