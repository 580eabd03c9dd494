//! The key slots of LUKS: a passphrase opens the slot's area, the area's stripes make the volume
//! key, and a digest of it tells whether it is the right one. LUKS1 and LUKS2 differ only in where
//! they write this down.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use super::af;
use super::cipher::{decrypt_area, sector_cipher};
use super::kdf::{Budget, Hash, Kdf};
use super::{Locked, Secrets};
use crate::checksum;
use crate::device::ReadAt;
use crate::refusal::Refusal;
use crate::units::ByteOffset;
use zeroize::Zeroizing;

/// The largest volume key, in bytes: two keys of 256 bits.
pub(super) const MAX_KEY: usize = 64;
/// The most stripes: what cryptsetup writes (`LUKS_STRIPES`) is 4000.
pub(super) const MAX_STRIPES: usize = 8192;

/// One key slot in use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Slot {
    /// For people: `key slot 3`.
    pub name: String,
    /// How the key of the area is derived.
    pub kdf: Kdf,
    /// How the area is encrypted: `aes-xts-plain64`.
    pub area_cipher: String,
    /// How long the area's key is, in bytes.
    pub area_key_len: usize,
    /// Where the area is, from the start of the volume.
    pub area: ByteOffset,
    /// How many stripes there are.
    pub stripes: usize,
    /// What diffuses them.
    pub stripe_hash: Hash,
    /// How long the volume key is, in bytes.
    pub key_len: usize,
}

/// What tells the right volume key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct KeyDigest {
    /// How it is made of the key.
    pub kdf: Kdf,
    /// What it has to be.
    pub digest: Vec<u8>,
}

impl Slot {
    /// How long the area is, in bytes: whole sectors.
    pub(super) fn area_len(&self) -> Option<usize> {
        let sane = (1..=MAX_KEY).contains(&self.key_len)
            && (1..=MAX_KEY).contains(&self.area_key_len)
            && (1..=MAX_STRIPES).contains(&self.stripes);
        let len = sane.then(|| self.key_len.checked_mul(self.stripes))??;
        len.checked_next_multiple_of(512)
    }

    /// What this secret makes of the slot: the volume key if it is the right one.
    fn open(
        &self,
        volume: &dyn ReadAt,
        secret: &[u8],
        budget: &mut Budget,
    ) -> Result<Zeroizing<Vec<u8>>, Refusal> {
        let len = self
            .area_len()
            .ok_or_else(|| Refusal::Damaged(format!("the sizes of its {}", self.name)))?;
        let mut area = Zeroizing::new(vec![0; len]);
        volume.read_at(self.area, &mut area)?;
        let key = self.kdf.derive(secret, self.area_key_len, budget)?;
        let cipher = sector_cipher(&self.area_cipher, &key)?;
        decrypt_area(&*cipher, &mut area);
        let stripes = self
            .key_len
            .checked_mul(self.stripes)
            .and_then(|len| area.get(..len))
            .unwrap_or_default();
        Ok(af::merge(stripes, self.key_len, self.stripe_hash))
    }
}

impl KeyDigest {
    fn fits(&self, key: &[u8], budget: &mut Budget) -> Result<bool, Refusal> {
        if self.digest.is_empty() || self.digest.len() > MAX_KEY {
            return Err(Refusal::Damaged("the digest of its key".into()));
        }
        let digest = self.kdf.derive(key, self.digest.len(), budget)?;
        Ok(checksum::matches(&*digest, &self.digest))
    }
}

/// The volume key, out of the first slot that one of the secrets opens. `refused` tells of a slot
/// that is not among them because it is not understood: the secret may be for that one.
pub(super) fn open(
    volume: &dyn ReadAt,
    slots: &[Slot],
    mut refused: Option<Refusal>,
    digest: &KeyDigest,
    secrets: &Secrets,
) -> Result<Zeroizing<Vec<u8>>, Locked> {
    if secrets.is_empty() {
        return Err(Locked::NoSecret);
    }
    let mut budget = Budget::new();
    for secret in secrets.iter() {
        for slot in slots {
            let opened = slot
                .open(volume, secret.bytes(), &mut budget)
                .and_then(|key| Ok((digest.fits(&key, &mut budget)?, key)));
            match opened {
                Ok((true, key)) => return Ok(key),
                Ok((false, _)) => {}
                // Another slot may be one that we know.
                Err(refusal) => {
                    refused.get_or_insert(refusal);
                }
            }
        }
    }
    Err(refused.map_or(Locked::WrongSecret, Locked::Refusal))
}
