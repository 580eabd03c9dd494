//! The three ways in which servers boot, and where this machine keeps the firmware for them.

use anyhow::{Context, Result, bail};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// How the machine boots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Firmware {
    /// Legacy BIOS: SeaBIOS.
    Bios,
    /// UEFI without Secure Boot: OVMF.
    Uefi,
    /// UEFI that starts only what Microsoft's or Debian's keys signed: OVMF with enrolled keys.
    SecureBoot,
}

/// Where distributions put OVMF's 4 MiB builds, the only ones that Debian 13 still has.
const OVMF: &str = "/usr/share/OVMF";

impl Firmware {
    /// The name for messages and file names.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bios => "bios",
            Self::Uefi => "uefi",
            Self::SecureBoot => "secureboot",
        }
    }

    /// A fresh variable store for this mode, copied to `to`; nothing for the BIOS.
    ///
    /// # Errors
    /// When the package `ovmf` is missing or the copy fails.
    pub fn new_variables(self, to: &Path) -> Result<()> {
        let template = match self {
            Self::Bios => return Ok(()),
            Self::Uefi => "OVMF_VARS_4M.fd",
            Self::SecureBoot => "OVMF_VARS_4M.ms.fd",
        };
        let template = found(template)?;
        std::fs::copy(&template, to)
            .with_context(|| format!("copying {} to {}", template.display(), to.display()))?;
        Ok(())
    }

    /// QEMU's arguments for this mode, `variables` being the machine's own store.
    pub(crate) fn arguments(self, variables: &Path) -> Result<Vec<OsString>> {
        let code = match self {
            Self::Bios => return Ok(vec!["-machine".into(), "q35".into()]),
            Self::Uefi => found("OVMF_CODE_4M.fd")?,
            Self::SecureBoot => found("OVMF_CODE_4M.secboot.fd")?,
        };
        let mut code_drive = OsString::from("if=pflash,unit=0,format=raw,readonly=on,file=");
        code_drive.push(code);
        let mut variables_drive = OsString::from("if=pflash,unit=1,format=raw,file=");
        variables_drive.push(variables);
        let mut arguments: Vec<OsString> = match self {
            // Secure Boot keeps its variables from the operating system with the help of SMM.
            Self::SecureBoot => vec![
                "-machine".into(),
                "q35,smm=on".into(),
                "-global".into(),
                "driver=cfi.pflash01,property=secure,value=on".into(),
            ],
            Self::Bios | Self::Uefi => vec!["-machine".into(), "q35".into()],
        };
        arguments.extend([
            "-drive".into(),
            code_drive,
            "-drive".into(),
            variables_drive,
        ]);
        Ok(arguments)
    }
}

fn found(name: &str) -> Result<PathBuf> {
    let path = Path::new(OVMF).join(name);
    if !path.exists() {
        bail!("{} is missing: install the package ovmf", path.display());
    }
    Ok(path)
}
