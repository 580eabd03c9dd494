//! The secrets that a person gives: passphrases, recovery keys, key files.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use crate::error::{Error, Result};
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use zeroize::Zeroizing;

/// What cryptsetup takes of a key file at most (`DEFAULT_KEYFILE_SIZE_MAXKB`), in bytes.
const MAX_KEY_FILE: u64 = 8 << 20;

/// One secret. What it opens is found out by trying: a BitLocker recovery key is a passphrase of 48
/// digits, and a startup key (`.BEK`) is a key file.
pub enum Secret {
    /// A passphrase in UTF-8, without a line break at its end.
    Passphrase(Zeroizing<Vec<u8>>),
    /// The content of a key file, as it is.
    KeyFile(Zeroizing<Vec<u8>>),
}

impl Secret {
    /// The bytes that LUKS takes.
    pub(super) fn bytes(&self) -> &[u8] {
        match self {
            Self::Passphrase(bytes) | Self::KeyFile(bytes) => bytes,
        }
    }
}

/// Secrets, tried in this order on every encrypted volume.
#[derive(Default)]
pub struct Secrets(Vec<Secret>);

impl Secrets {
    /// None at all.
    pub fn new() -> Self {
        Self::default()
    }

    /// A passphrase, or a recovery key of 48 digits.
    pub fn from_passphrase(passphrase: &str) -> Self {
        let bytes = Zeroizing::new(passphrase.as_bytes().to_vec());
        Self(vec![Secret::Passphrase(bytes)])
    }

    /// A key file. If it ends with a line break, what stands before it is tried too: people save
    /// passphrases with editors.
    ///
    /// # Errors
    /// If it cannot be read, is empty, or is larger than any key file is.
    pub fn from_key_file(path: &Path) -> Result<Self> {
        let name = || format!("the key file {}", path.display());
        let file = File::open(path).map_err(|error| Error::io("opening", error).on(name()))?;
        // At full size from the start: growing would leave copies behind.
        let len = file
            .metadata()
            .map_err(|error| Error::io("reading", error).on(name()))?
            .len();
        let capacity = usize::try_from(len.min(MAX_KEY_FILE).saturating_add(1)).unwrap_or(0);
        let mut bytes = Zeroizing::new(Vec::with_capacity(capacity));
        file.take(MAX_KEY_FILE.saturating_add(1))
            .read_to_end(&mut bytes)
            .map_err(|error| Error::io("reading", error).on(name()))?;
        if bytes.is_empty() {
            return Err(Error::refused("nothing is in it").on(name()));
        }
        if u64::try_from(bytes.len()).is_ok_and(|len| len > MAX_KEY_FILE) {
            return Err(Error::refused("it is larger than the 8 MiB of a key file").on(name()));
        }
        let line = bytes
            .strip_suffix(b"\r\n")
            .or_else(|| bytes.strip_suffix(b"\n"))
            .filter(|line| !line.is_empty())
            .map(|line| Secret::Passphrase(Zeroizing::new(line.to_vec())));
        let mut secrets = vec![Secret::KeyFile(bytes)];
        secrets.extend(line);
        Ok(Self(secrets))
    }

    /// Adds others behind these.
    pub fn append(&mut self, others: Self) {
        self.0.extend(others.0);
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Secret> {
        self.0.iter()
    }
}

/// A BitLocker recovery key: eight groups of six digits, each a multiple of 11 whose quotient has 16
/// bits. The quotients, little-endian, are the key. `None` if the text is none.
pub(super) fn recovery_key(text: &[u8]) -> Option<Zeroizing<[u8; 16]>> {
    let groups = groups(text)?;
    let mut key = Zeroizing::new([0; 16]);
    for (place, group) in key.as_chunks_mut::<2>().0.iter_mut().zip(groups.iter()) {
        *place = quotient(*group)?.to_le_bytes();
    }
    Some(key)
}

/// If the text is a recovery key with a typing mistake, in which of the eight groups the first one
/// is (from 1 on), for a question to ask again.
pub fn mistyped_recovery_group(text: &str) -> Option<usize> {
    let groups = groups(text.as_bytes())?;
    let wrong = groups.iter().position(|&group| quotient(group).is_none())?;
    wrong.checked_add(1)
}

fn quotient(group: u32) -> Option<u16> {
    let whole = group.is_multiple_of(11);
    whole.then(|| u16::try_from(group.checked_div(11)?).ok())?
}

/// Eight numbers of six digits, whatever stands between the digits: hyphens, blanks, line breaks.
fn groups(text: &[u8]) -> Option<Zeroizing<[u32; 8]>> {
    let digits = || text.iter().filter(|byte| byte.is_ascii_digit());
    let only_digits = text
        .iter()
        .all(|byte| byte.is_ascii_digit() || matches!(byte, b'-' | b' ' | b'\t' | b'\r' | b'\n'));
    if !only_digits || digits().count() != 48 {
        return None;
    }
    let mut groups = Zeroizing::new([0_u32; 8]);
    for (index, digit) in digits().enumerate() {
        let group = groups.get_mut(index / 6)?;
        let value = u32::from(digit.checked_sub(b'0')?);
        *group = group.checked_mul(10)?.checked_add(value)?;
    }
    Some(groups)
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Passphrase(_) => "a passphrase",
            Self::KeyFile(_) => "a key file",
        })
    }
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.0).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_not_in_its_debug_output() {
        let mut secrets = Secrets::from_passphrase("correct horse");
        secrets.append(Secrets::from_passphrase("battery"));
        assert_eq!(format!("{secrets:?}"), "[a passphrase, a passphrase]");
    }

    #[test]
    fn a_recovery_key_is_known_by_its_groups() {
        let key = "235818-357951-253979-013365-241120-245575-342914-591910";
        let bytes = recovery_key(key.as_bytes()).unwrap();
        assert_eq!(u16::from_le_bytes([bytes[0], bytes[1]]), 21438);
        assert_eq!(u16::from_le_bytes([bytes[14], bytes[15]]), 53810);
        let spaced = format!(" {}\n", key.replace('-', " "));
        assert_eq!(recovery_key(spaced.as_bytes()).unwrap(), bytes);
        assert_eq!(
            recovery_key(key.replace('-', "").as_bytes()).unwrap(),
            bytes
        );
        assert_eq!(mistyped_recovery_group(key), None);
        // Two digits of the third group changed places; a quotient of more than 16 bits.
        for wrong in [
            key.replace("253979", "259379"),
            key.replace("253979", "999999"),
        ] {
            assert_eq!(recovery_key(wrong.as_bytes()), None);
            assert_eq!(mistyped_recovery_group(&wrong), Some(3));
        }
        for other in ["", "anaconda", &key[..54], &format!("{key}1")] {
            assert_eq!(recovery_key(other.as_bytes()), None);
            assert_eq!(mistyped_recovery_group(other), None);
        }
    }

    #[test]
    fn a_key_file_is_taken_as_it_is_and_without_its_line_break() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        std::fs::write(&path, b"secret\n").unwrap();
        let secrets = Secrets::from_key_file(&path).unwrap();
        let bytes: Vec<_> = secrets.iter().map(Secret::bytes).collect();
        assert_eq!(bytes, [&b"secret\n"[..], b"secret"]);
        std::fs::write(&path, b"").unwrap();
        assert!(Secrets::from_key_file(&path).is_err());
        File::create(&path)
            .unwrap()
            .set_len(MAX_KEY_FILE + 1)
            .unwrap();
        assert!(Secrets::from_key_file(&path).is_err());
        assert!(Secrets::from_key_file(&dir.path().join("none")).is_err());
    }
}
