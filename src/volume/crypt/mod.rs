//! Encrypted volumes: LUKS1, LUKS2 and BitLocker. In: a volume with one of their headers, and
//! secrets. Out: the volume of the plaintext, which is decrypted sector by sector as it is read, so
//! that the used map of what is inside chooses which *ciphertext* is copied. The virtual machine
//! stays as encrypted as the server was, and its image is as small as that of a plain one.
//!
//! Nothing decrypted is stored here, and nothing is unlocked in the kernel. Secrets and keys are
//! overwritten in memory when they are no longer needed, and never shown.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

mod af;
mod bitlocker;
mod cipher;
mod kdf;
mod luks1;
mod luks2;
mod secret;
mod slot;
#[cfg(test)]
mod tests;
mod view;

pub(crate) use bitlocker::is_bitlocker;
pub use secret::{Secret, Secrets, mistyped_recovery_group};

use super::SharedVolume;
use crate::bytes::{has_magic, read_array};
use crate::device::ReadAt;
use crate::extent::ExtentList;
use crate::refusal::Refusal;
use crate::units::ByteOffset;

/// What can be said of an encrypted volume without any secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Header {
    /// `LUKS1`, `LUKS2`, `BitLocker`.
    pub name: &'static str,
    /// As blkid prints it.
    pub uuid: Option<String>,
    /// Its label.
    pub label: Option<String>,
    /// How it is encrypted, for people: `aes-xts-plain64`.
    pub cipher: String,
    /// What opens it, for people, as an object of "give": "its passphrase or a key file".
    pub opened_by: String,
    /// Whether it opens without any secret: BitLocker whose protection is suspended.
    pub opens_by_itself: bool,
}

/// An encrypted volume whose plaintext can be read.
pub(crate) struct Unlocked<'a> {
    /// The plaintext. A run of it is traced to the whole encryption sectors that it is made of.
    pub volume: SharedVolume<'a>,
    /// What is always taken, counted from the encrypted volume's start: headers, key slots, copies
    /// of the metadata, boot sectors, and what lies behind the encrypted part.
    pub metadata: ExtentList,
    /// For people: `LUKS2 (aes-xts-plain64)`.
    pub name: String,
}

/// Why an encrypted volume stays closed.
#[derive(Debug)]
pub(crate) enum Locked {
    /// No secret was given.
    NoSecret,
    /// None of the secrets that were given opens it.
    WrongSecret,
    /// With a right secret it would not open either, or not be understood.
    Refusal(Refusal),
}

impl<T: Into<Refusal>> From<T> for Locked {
    fn from(refusal: T) -> Self {
        Self::Refusal(refusal.into())
    }
}

/// The formats.
enum Format {
    Luks1,
    Luks2,
    BitLocker,
}

/// By its first sector, which format it is.
fn format(volume: &dyn ReadAt) -> Result<Format, Refusal> {
    let mut sector = [0; 512];
    volume.read_at(ByteOffset(0), &mut sector)?;
    if is_bitlocker(&sector) {
        return Ok(Format::BitLocker);
    }
    if !has_magic(&sector, 0, b"LUKS\xBA\xBE") {
        return Err(Refusal::Unsupported(
            "neither a LUKS nor a BitLocker volume".into(),
        ));
    }
    match u16::from_be_bytes(read_array(&sector, 6)) {
        1 => Ok(Format::Luks1),
        2 => Ok(Format::Luks2),
        version => Err(Refusal::Unsupported(format!("LUKS of version {version}"))),
    }
}

/// What an encrypted volume tells without a secret.
pub(crate) fn header(volume: &dyn ReadAt) -> Result<Header, Refusal> {
    match format(volume)? {
        Format::Luks1 => luks1::header(volume),
        Format::Luks2 => luks2::header(volume),
        Format::BitLocker => bitlocker::header(volume),
    }
}

/// Makes the plaintext of an encrypted volume readable, with the first secret that fits.
pub(crate) fn unlock<'a>(
    volume: SharedVolume<'a>,
    secrets: &Secrets,
) -> Result<Unlocked<'a>, Locked> {
    match format(&volume)? {
        Format::Luks1 => luks1::unlock(volume, secrets),
        Format::Luks2 => luks2::unlock(volume, secrets),
        Format::BitLocker => bitlocker::unlock(volume, secrets),
    }
}
