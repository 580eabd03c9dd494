//! GRUB: the core that a BIOS starts, the configuration, and the environment block.

use crate::packages::Sysroot;
use crate::tool;
use anyhow::{Context, Result, ensure};
use std::fs;

/// Read by the signed GRUB (its built-in prefix) and by the BIOS core alike.
pub(super) const CONFIG: &str = include_str!("grub.cfg");

/// Where the environment block lies on the ESP.
pub(crate) const ENV_PATH: &str = "EFI/debian/grubenv";

/// Partition 1 of the disk that the BIOS booted: nothing is searched for.
const PREFIX: &str = "(,gpt1)/EFI/debian";

/// Everything that [`CONFIG`] and a person at GRUB's prompt may use: nothing is loaded later.
const MODULES: [&str; 26] = [
    "biosdisk",
    "cat",
    "configfile",
    "echo",
    "fat",
    "halt",
    "help",
    "linux",
    "loadenv",
    "ls",
    "lsmmap",
    "minicmd",
    "normal",
    "part_gpt",
    "part_msdos",
    "probe",
    "reboot",
    "regexp",
    "search",
    "search_fs_file",
    "search_fs_uuid",
    "search_label",
    "serial",
    "sleep",
    "terminal",
    "test",
];

/// GRUB's own size of an environment block.
const ENV_SIZE: usize = 1024;

/// What an environment block begins with.
const ENV_SIGNATURE: &str = "# GRUB Environment Block\n";

/// Makes the core image for BIOS.
///
/// # Errors
/// When grub-mkimage fails.
pub(super) fn core(sysroot: &Sysroot) -> Result<Vec<u8>> {
    // To a file: grub-mkimage syncs what it has written, which a pipe refuses.
    let scratch = tempfile::tempdir().context("making a folder for GRUB's core")?;
    let core = scratch.path().join("core.img");
    tool::run(
        sysroot
            .command("usr/bin/grub-mkimage")
            .arg("--directory")
            .arg(sysroot.path().join("usr/lib/grub/i386-pc"))
            .args(["--format", "i386-pc", "--prefix", PREFIX, "--output"])
            .arg(&core)
            .args(MODULES),
        "grub-common",
    )?;
    Ok(fs::read(&core)?)
}

/// An environment block with `variables`.
///
/// # Errors
/// When a name or value cannot be in one, or they do not fit.
pub(crate) fn environment(variables: &[(&str, &str)]) -> Result<Vec<u8>> {
    let mut text = ENV_SIGNATURE.to_owned();
    for (name, value) in variables {
        ensure!(
            !name.is_empty()
                && name
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_'),
            "{name} is no name of a GRUB variable"
        );
        ensure!(
            !value.contains(['\n', '\r', '\0']),
            "the value of {name} has a line break"
        );
        text.push_str(&format!("{name}={}\n", value.replace('\\', "\\\\")));
    }
    ensure!(
        text.len() <= ENV_SIZE,
        "the GRUB variables take {} bytes; there is room for {ENV_SIZE}",
        text.len()
    );
    let mut block = text.into_bytes();
    block.resize(ENV_SIZE, b'#');
    Ok(block)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_environment_block_has_grubs_size_and_signature() {
        let block = environment(&[("haulier_timeout", "0"), ("haulier_args", "a=b c\\d")]).unwrap();
        assert_eq!(block.len(), 1024);
        let text = String::from_utf8(block).unwrap();
        let start = "# GRUB Environment Block\nhaulier_timeout=0\nhaulier_args=a=b c\\\\d\n###";
        assert!(text.starts_with(start), "{text}");
    }

    #[test]
    fn what_does_not_fit_the_environment_block_is_refused() {
        assert!(environment(&[("haulier_args", &"x".repeat(1000))]).is_err());
        assert!(environment(&[("haulier_args", "a\nb=c")]).is_err());
        assert!(environment(&[("a=b", "c")]).is_err());
    }
}
