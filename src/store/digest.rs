//! 256-bit digests: SHA-256 for files, which anyone can check with `sha256sum`; BLAKE3 for the
//! chunks of a disk, which is four times faster on servers without SHA instructions, and for an
//! image that is not read back, of which SHA-256 cannot be had while it is written.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use crate::device::ReadAt;
use crate::error::Result;
use crate::units::ByteOffset;
use serde::{Deserialize, Serialize};
use sha2::Digest as _;
use std::fmt;

/// A SHA-256 or BLAKE3 digest; in files 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// What a hasher has come to.
    pub fn of_sha256(hasher: sha2::Sha256) -> Self {
        Self(hasher.finalize().into())
    }

    /// SHA-256 of a whole file, which is read in pieces.
    pub fn sha256_of_file(file: &dyn ReadAt) -> Result<Self> {
        match FileHasher::sha256().file(file)? {
            FileDigest::Sha256(digest) | FileDigest::Blake3(digest) => Ok(digest),
        }
    }
}

/// The digest of a whole file, of one kind or the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileDigest {
    /// As `sha256sum` prints it.
    Sha256(Digest),
    /// As `b3sum` prints it.
    Blake3(Digest),
}

/// Comes to a [`FileDigest`].
#[derive(Debug, Clone)]
pub struct FileHasher(Kind);

#[derive(Debug, Clone)]
enum Kind {
    Sha256(sha2::Sha256),
    Blake3(Box<blake3::Hasher>),
}

impl FileDigest {
    /// A hasher of the same kind.
    pub fn hasher(self) -> FileHasher {
        match self {
            Self::Sha256(_) => FileHasher::sha256(),
            Self::Blake3(_) => FileHasher(Kind::Blake3(Box::default())),
        }
    }

    /// What people call its kind.
    pub fn kind(self) -> &'static str {
        match self {
            Self::Sha256(_) => "SHA-256",
            Self::Blake3(_) => "BLAKE3",
        }
    }
}

impl fmt::Display for FileDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Sha256(digest) | Self::Blake3(digest)) = self;
        digest.fmt(f)
    }
}

impl FileHasher {
    /// Comes to a [`FileDigest::Sha256`].
    pub fn sha256() -> Self {
        Self(Kind::Sha256(sha2::Sha256::new()))
    }

    /// Takes in what follows.
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.0 {
            Kind::Sha256(hasher) => hasher.update(bytes),
            Kind::Blake3(hasher) => {
                hasher.update(bytes);
            }
        }
    }

    /// The digest of a whole file, which is read in pieces.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn file(mut self, file: &dyn ReadAt) -> Result<FileDigest> {
        let mut piece = vec![0; 1 << 20];
        let mut at = 0_u64;
        while at < file.size().0 {
            let left = usize::try_from(file.size().0.saturating_sub(at)).unwrap_or(usize::MAX);
            let most = left.min(piece.len());
            let (now, _) = piece.split_at_mut(most);
            file.read_at(ByteOffset(at), now)?;
            self.update(now);
            at = at.saturating_add(u64::try_from(now.len()).unwrap_or(0));
        }
        Ok(self.finish())
    }

    /// What it has come to.
    pub fn finish(self) -> FileDigest {
        match self.0 {
            Kind::Sha256(hasher) => FileDigest::Sha256(Digest::of_sha256(hasher)),
            Kind::Blake3(hasher) => FileDigest::Blake3(Digest(*hasher.finalize().as_bytes())),
        }
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

impl TryFrom<String> for Digest {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::try_from(&*text)
    }
}

impl TryFrom<&str> for Digest {
    type Error = String;

    fn try_from(text: &str) -> Result<Self, Self::Error> {
        let wrong = || format!("{text:?} is not a digest of 64 lower-case hexadecimal digits");
        let nibble = |digit: u8| match digit {
            b'0'..=b'9' => digit.checked_sub(b'0'),
            b'a'..=b'f' => digit.checked_sub(b'a').and_then(|d| d.checked_add(10)),
            _ => None,
        };
        let (pairs, rest) = text.as_bytes().as_chunks::<2>();
        let mut digest = [0; 32];
        if pairs.len() != digest.len() || !rest.is_empty() {
            return Err(wrong());
        }
        for (byte, [high, low]) in digest.iter_mut().zip(pairs) {
            *byte = nibble(*high).ok_or_else(wrong)? << 4 | nibble(*low).ok_or_else(wrong)?;
        }
        Ok(Self(digest))
    }
}

#[cfg(test)]
#[allow(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]
mod tests {
    use super::*;
    use crate::device::MemDisk;

    #[test]
    fn a_digest_is_written_as_sha256sum_writes_it() {
        // printf abc | sha256sum
        let text = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let digest = Digest::sha256_of_file(&MemDisk(b"abc".to_vec())).unwrap();
        assert_eq!(digest.to_string(), text);
        assert_eq!(Digest::try_from(text), Ok(digest));
    }

    #[test]
    fn other_spellings_of_a_digest_are_refused() {
        for text in [
            "",
            "ba",
            "BA7816BF8F01CFEA414140DE5DAE2223B00361A396177A9CB410FF61F20015AD",
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad0",
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015a ",
        ] {
            assert!(Digest::try_from(text).is_err(), "{text}");
        }
    }
}
