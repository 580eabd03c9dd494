//! The appliance's own programs, built so that only the sources and the toolchain decide their
//! bytes: not the folder they lie in, not the user, not the clock.

use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};
use std::process::Command;

/// What a server runs; the C library is linked in, so the initramfs needs none for them.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Any fixed moment does; C's `__DATE__` and archive members take it.
pub(crate) const SOURCE_DATE_EPOCH: &str = "1764547200";

/// Static x86-64 programs for the initramfs.
#[derive(Debug, Clone)]
pub struct Programs {
    /// `/usr/bin/haulier`.
    pub haulier: PathBuf,
    /// `/init`.
    pub init: PathBuf,
}

/// Builds both programs from the workspace at `workspace`, in a target folder of their own
/// (`appliance` in cargo's target folder), so that other builds with other flags do not make them
/// compile again and again.
///
/// # Errors
/// When cargo fails; its own words went to standard error.
pub fn build(workspace: &Path) -> Result<Programs> {
    let workspace = workspace
        .canonicalize()
        .with_context(|| format!("finding the workspace {}", workspace.display()))?;
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| workspace.join("target"), PathBuf::from)
        .join("appliance");
    let remaps = [
        (cargo_home()?, "/cargo"),
        (target.clone(), "/target"),
        (workspace.clone(), "/haulier"),
    ];
    // The separator of CARGO_ENCODED_RUSTFLAGS: folders may have spaces in their names.
    let mut rustflags = String::from("-Ctarget-feature=+crt-static");
    let mut cflags = String::new();
    for (from, to) in &remaps {
        let from = from.display();
        rustflags.push_str(&format!("\x1f--remap-path-prefix={from}={to}"));
        cflags.push_str(&format!(" '-ffile-prefix-map={from}={to}'"));
    }
    let status = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["build", "--release", "--locked", "--target", TARGET])
        .args(["--package", "haulier", "--bin", "haulier"])
        .args(["--package", "haulier-init", "--bin", "haulier-init"])
        .arg("--target-dir")
        .arg(&target)
        .current_dir(&workspace)
        .env("CARGO_ENCODED_RUSTFLAGS", rustflags)
        .env("CARGO_INCREMENTAL", "0")
        .env("CFLAGS", cflags.trim_start())
        .env("CC_SHELL_ESCAPED_FLAGS", "1")
        .env("SOURCE_DATE_EPOCH", SOURCE_DATE_EPOCH)
        .env_remove("RUSTFLAGS")
        .status()
        .context("starting cargo")?;
    ensure!(status.success(), "building the appliance's programs failed");
    let folder = target.join(TARGET).join("release");
    Ok(Programs {
        haulier: folder.join("haulier"),
        init: folder.join("haulier-init"),
    })
}

fn cargo_home() -> Result<PathBuf> {
    match std::env::var_os("CARGO_HOME").filter(|value| !value.is_empty()) {
        Some(path) => Ok(PathBuf::from(path)),
        None => Ok(PathBuf::from(
            std::env::var_os("HOME").context("neither CARGO_HOME nor HOME is set")?,
        )
        .join(".cargo")),
    }
}
