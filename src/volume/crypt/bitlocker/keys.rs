//! The keys of BitLocker (libbde, "BitLocker Drive Encryption (BDE) format", section 4): a secret is
//! stretched by 0x100000 rounds of SHA-256 and unwraps the volume master key, which unwraps the full
//! volume encryption key; both are wrapped with AES-CCM, whose tag tells a wrong secret.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use super::datum::{self, Datum, Protection, Vmk};
use crate::bytes::read_u32le;
use crate::checksum::repetitions;
use crate::refusal::Refusal;
use crate::volume::crypt::Secret;
use crate::volume::crypt::kdf::{Budget, Hash};
use crate::volume::crypt::secret::recovery_key;
use aes::Aes256;
use ccm::Ccm;
use ccm::aead::{Aead, KeyInit};
use ccm::consts::{U12, U16};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

type Aes256Ccm = Ccm<Aes256, U16, U12>;

/// Rounds for every passphrase and recovery key.
const ROUNDS: u64 = 0x10_0000;

/// What a key file of a stick (`.BEK`) holds: a metadata header of 48 bytes, and an external key
/// behind it.
fn startup_key(file: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    if read_u32le(file, 8) != 48 {
        return None;
    }
    let len = usize::try_from(read_u32le(file, 0)).ok()?;
    let datums = datum::datums(file.get(..len)?.get(48..)?).ok()?;
    let external = datums
        .iter()
        .find(|datum| datum.kind == datum::STARTUP_KEY && datum.value == datum::EXTERNAL_KEY)?;
    // GUID and time before the entries.
    let inner = datum::datums(external.data.get(24..)?).ok()?;
    let (_, key) = datum::key(datum::by_value(&inner, datum::KEY)?);
    Some(Zeroizing::new(key.to_vec()))
}

/// `struct`: last hash, first hash, salt, count; its hash becomes the next last one.
fn stretch(
    first: &[u8],
    salt: [u8; 16],
    budget: &mut Budget,
) -> Result<Zeroizing<Vec<u8>>, Refusal> {
    budget.pay_rounds(ROUNDS)?;
    let mut last = Zeroizing::new([0_u8; 32]);
    let mut hash = Sha256::new();
    for count in 0..repetitions(ROUNDS, 16) {
        hash.update(*last);
        hash.update(first);
        hash.update(salt);
        hash.update(count.to_le_bytes());
        hash.finalize_into_reset((&mut *last).into());
    }
    Ok(Zeroizing::new(last.to_vec()))
}

/// A passphrase as BitLocker hashes it: UTF-16, without a NUL.
fn first_of_passphrase(passphrase: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let text = std::str::from_utf8(passphrase).ok()?;
    // At full size from the start: growing would leave copies behind.
    let mut utf16 = Zeroizing::new(Vec::with_capacity(text.len().saturating_mul(2)));
    for unit in text.encode_utf16() {
        utf16.extend(unit.to_le_bytes());
    }
    Some(Hash::Sha256.digest(&[&Hash::Sha256.digest(&[&utf16])]))
}

/// What is wrapped in `data` of an entry of value `AES_CCM_KEY`: nonce (12), tag (16), and an entry
/// with the key. `None` with a wrong key.
pub(super) fn unwrap(key: &[u8], data: &[u8]) -> Option<Wrapped> {
    let (nonce, rest) = data.split_first_chunk::<12>()?;
    let (tag, text) = rest.split_first_chunk::<16>()?;
    // The crate wants the tag behind the text.
    let sealed = [text, tag].concat();
    let cipher = Aes256Ccm::new_from_slice(key).ok()?;
    let entry = Zeroizing::new(cipher.decrypt(&(*nonce).into(), sealed.as_slice()).ok()?);
    let datums = datum::datums(&entry).ok()?;
    let (method, key) = datum::key(datum::by_value(&datums, datum::KEY)?);
    Some(Wrapped {
        method,
        key: Zeroizing::new(key.to_vec()),
    })
}

/// What was wrapped.
pub(super) struct Wrapped {
    pub method: u16,
    pub key: Zeroizing<Vec<u8>>,
}

impl Vmk<'_> {
    fn unwrap(&self, key: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        Some(unwrap(key, datum::by_value(&self.datums, datum::AES_CCM_KEY)?)?.key)
    }

    /// The key, where protection is suspended.
    pub(super) fn open_clear(&self) -> Option<Zeroizing<Vec<u8>>> {
        if self.protection != Protection::Clear {
            return None;
        }
        let (_, key) = datum::key(datum::by_value(&self.datums, datum::KEY)?);
        self.unwrap(key)
    }

    /// The key, if the secret is of its sort and the right one.
    pub(super) fn open(
        &self,
        secret: &Secret,
        budget: &mut Budget,
    ) -> Result<Option<Zeroizing<Vec<u8>>>, Refusal> {
        let stretched = |first: &[u8], budget: &mut Budget| {
            datum::by_value(&self.datums, datum::STRETCH_KEY)
                .map(|data| stretch(first, datum::salt(data), budget))
                .transpose()
        };
        let key = match self.protection {
            Protection::Recovery => match recovery_key(secret.bytes()) {
                Some(digits) => stretched(&Hash::Sha256.digest(&[&*digits]), budget)?,
                None => None,
            },
            Protection::Passphrase => match first_of_passphrase(secret.bytes()) {
                Some(first) => stretched(&first, budget)?,
                None => None,
            },
            Protection::StartupKey => startup_key(secret.bytes()),
            _ => None,
        };
        Ok(key.and_then(|key| self.unwrap(&key)))
    }
}

/// The volume master keys among the entries.
pub(super) fn vmks<'a>(datums: &[Datum<'a>]) -> Result<Vec<Vmk<'a>>, Refusal> {
    datums
        .iter()
        .filter(|datum| datum.kind == datum::VMK && datum.value == datum::PROTECTED_VMK)
        .map(|datum| datum::vmk(datum.data))
        .collect()
}

/// The full volume encryption key, unwrapped with the volume master key.
pub(super) fn fvek(datums: &[Datum<'_>], vmk: &[u8]) -> Result<Wrapped, Refusal> {
    datums
        .iter()
        .find(|datum| datum.kind == datum::FVEK && datum.value == datum::AES_CCM_KEY)
        .and_then(|datum| unwrap(vmk, datum.data))
        .ok_or_else(|| {
            Refusal::Damaged("its volume master key does not open its volume key".into())
        })
}
