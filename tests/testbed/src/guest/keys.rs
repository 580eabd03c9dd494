//! Keys of a server's owner for Secure Boot: who has them enrolled starts only what they signed, and what
//! whoever else is enrolled signed.

use crate::command::{run, tool};
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// A pair of keys with its certificate, in a folder.
#[derive(Debug, Clone)]
pub struct OwnKeys(PathBuf);

impl OwnKeys {
    /// Makes a pair in `folder`.
    pub(super) fn make(folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
        let keys = Self(folder.to_owned());
        run(tool("openssl")
            .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-sha256"])
            .args(["-days", "3650", "-subj", "/CN=Owner of ledger/", "-keyout"])
            .arg(keys.file("key.pem"))
            .arg("-out")
            .arg(keys.file("certificate.pem")))?;
        run(tool("openssl")
            .args(["x509", "-outform", "DER", "-in"])
            .arg(keys.file("certificate.pem"))
            .arg("-out")
            .arg(keys.file("certificate.der")))?;
        Ok(keys)
    }

    /// The certificate as firmware takes it (X.509, DER).
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn certificate(&self) -> Result<Vec<u8>> {
        let path = self.file("certificate.der");
        fs::read(&path).with_context(|| format!("reading {}", path.display()))
    }

    /// A copy of a UEFI program with this signature and no other.
    pub(super) fn sign(&self, program: &Path) -> Result<PathBuf> {
        let bare = self.file("unsigned.efi");
        fs::copy(program, &bare).with_context(|| format!("copying {}", program.display()))?;
        run(tool("sbattach").arg("--remove").arg(&bare))?;
        let signed = self.file("signed.efi");
        run(tool("sbsign")
            .arg("--key")
            .arg(self.file("key.pem"))
            .arg("--cert")
            .arg(self.file("certificate.pem"))
            .arg("--output")
            .arg(&signed)
            .arg(&bare))?;
        Ok(signed)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}
