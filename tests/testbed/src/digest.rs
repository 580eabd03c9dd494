//! SHA-256 of files and whole disk images, as `sha256sum` prints it.

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// SHA-256 in lower-case hexadecimal.
pub fn sha256_hex(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// SHA-256 of all bytes of a file or block device; holes count as zeros.
///
/// # Errors
/// When the file cannot be opened or read.
pub fn sha256_file(path: &Path) -> Result<String> {
    let mut file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
    let mut digest = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let count = file
            .read(&mut buffer)
            .with_context(|| format!("reading {}", path.display()))?;
        if count == 0 {
            return Ok(hex(&digest.finalize()));
        }
        digest.update(&buffer[..count]);
    }
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_sha256sum_on_a_sparse_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(5_000_001).unwrap();
        std::os::unix::fs::FileExt::write_all_at(file.as_file(), b"haulier", 3_000_000).unwrap();
        let mut sha256sum = std::process::Command::new("sha256sum");
        let told = crate::command::run(sha256sum.arg(file.path())).unwrap();
        assert_eq!(
            told.split_whitespace().next().unwrap(),
            sha256_file(file.path()).unwrap()
        );
    }
}
