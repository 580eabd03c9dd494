//! LUKS2 (LUKS2 On-Disk Format Specification 1.1.3): `header` finds the newer sound copy of the
//! metadata, `json` reads it, and here is decided whether it is understood.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

mod header;
mod json;

use super::cipher::sector_cipher;
use super::slot::{self, KeyDigest, Slot};
use super::view::{Piece, PieceContent, View};
use super::{Header, Locked, Secrets, Unlocked};
use crate::device::ReadAt;
use crate::extent::{Extent, ExtentList};
use crate::refusal::Refusal;
use crate::volume::SharedVolume;
use header::Copy;
use json::{Metadata, Segment, number};
use std::sync::Arc;

/// Sectors are counted in units of 512 bytes, however large they are (`dm-crypt` without
/// `iv_large_sectors`, which cryptsetup never sets for LUKS2).
const UNIT: u64 = 512;

/// Tokens whose key slots a person can open by typing.
const TYPED: [&str; 2] = ["luks2-keyring", "systemd-recovery"];

/// A volume that is understood as far as can be told without a key.
struct Luks2 {
    copy: Copy,
    metadata: Metadata,
}

/// The encrypted part.
#[derive(Debug, PartialEq, Eq)]
struct Data {
    /// In bytes.
    offset: u64,
    /// In bytes: whole sectors.
    len: u64,
    cipher: String,
    /// In bytes.
    sector_size: u64,
    iv_tweak: u64,
}

fn read(volume: &dyn ReadAt) -> Result<Luks2, Refusal> {
    let copy = header::newest(volume)?;
    let metadata = Metadata::parse(&copy.json)?;
    Ok(Luks2 { copy, metadata })
}

impl Luks2 {
    /// The one segment, if it can be decrypted sector by sector.
    fn data(&self, size: u64) -> Result<Data, Refusal> {
        self.check_requirements()?;
        let mut segments = self.metadata.segments.values();
        let (Some(segment), None) = (segments.next(), segments.next()) else {
            return Err(Refusal::Unsupported(format!(
                "it has {} parts, encrypted differently",
                self.metadata.segments.len()
            )));
        };
        if segment.kind != "crypt" {
            return Err(Refusal::Unsupported(format!(
                "its data is of type {}, which is not known here",
                segment.kind
            )));
        }
        if segment.integrity.is_some() {
            return Err(Refusal::Unsupported(
                "its sectors have checksums between them (dm-integrity)".into(),
            ));
        }
        self.place(segment, size)
    }

    fn check_requirements(&self) -> Result<(), Refusal> {
        let requirements = self.metadata.config.requirements.as_ref();
        let Some(first) = requirements.and_then(|all| all.mandatory.first()) else {
            return Ok(());
        };
        Err(Refusal::Unsupported(if first.contains("reencrypt") {
            "it is being encrypted anew (let cryptsetup reencrypt finish for a smaller copy)".into()
        } else {
            format!("it requires {first:?}, which is not known here")
        }))
    }

    fn place(&self, segment: &Segment, size: u64) -> Result<Data, Refusal> {
        let sector_size = segment.sector_size;
        if !sector_size.is_power_of_two() || !(512..=4096).contains(&sector_size) {
            return Err(Refusal::Damaged(format!("sectors of {sector_size} bytes")));
        }
        let offset = number(&segment.offset)?;
        // Both copies of the header lie before the data; with a detached header they do not.
        let head = self.copy.hdr_size.saturating_mul(2);
        if offset < head || !offset.is_multiple_of(UNIT) || offset >= size {
            return Err(Refusal::Damaged(format!(
                "its data should begin at byte {offset} of {size}"
            )));
        }
        let room = size.saturating_sub(offset);
        let len = match segment.size.as_str() {
            "dynamic" => room & !sector_size.saturating_sub(1),
            fixed => number(fixed)?,
        };
        if len == 0 || len > room || !len.is_multiple_of(sector_size) {
            return Err(Refusal::Damaged(format!(
                "its data of {len} bytes does not fit the {room} bytes behind its header"
            )));
        }
        Ok(Data {
            offset,
            len,
            cipher: segment.encryption.clone(),
            sector_size,
            iv_tweak: number(&segment.iv_tweak)?,
        })
    }

    /// The digest of the segment's key, and the key slots that hold that key; the last is why one of
    /// them is left out.
    fn keys(&self) -> Result<(KeyDigest, Vec<Slot>, Option<Refusal>), Refusal> {
        let digest = self
            .metadata
            .digests
            .values()
            .find(|digest| {
                self.metadata
                    .segments
                    .keys()
                    .all(|segment| digest.segments.contains(segment))
            })
            .ok_or_else(|| Refusal::Damaged("no digest belongs to its data".into()))?;
        let mut bound: Vec<_> = digest
            .keyslots
            .iter()
            .filter_map(|name| Some((name, self.metadata.keyslots.get(name)?)))
            .collect();
        bound.sort_by_key(|(_, slot)| std::cmp::Reverse(slot.priority.unwrap_or(1)));
        let mut slots = Vec::new();
        let mut refused = None;
        for (name, keyslot) in bound {
            match keyslot.slot(name) {
                Ok(slot) => slots.push(slot),
                Err(refusal) => {
                    refused.get_or_insert(refusal);
                }
            }
        }
        Ok((digest.key_digest()?, slots, refused))
    }

    /// For people: what opens it.
    fn opened_by(&self) -> String {
        let tokens = || {
            self.metadata
                .tokens
                .values()
                .filter(|token| !TYPED.contains(&token.kind.as_str()))
        };
        let alone = self
            .metadata
            .keyslots
            .keys()
            .all(|slot| tokens().any(|token| token.keyslots.contains(slot)));
        if !alone || self.metadata.keyslots.is_empty() {
            return "one of its passphrases or key files".into();
        }
        let mut names: Vec<_> = tokens().map(|token| device(&token.kind)).collect();
        names.sort_unstable();
        names.dedup();
        format!(
            "a passphrase, which has to be added first with cryptsetup luksAddKey because now only {} \
             opens it,",
            names.join(" or ")
        )
    }
}

/// For people: what a token stands for.
fn device(token: &str) -> &str {
    match token {
        "systemd-tpm2" => "this machine's TPM",
        "systemd-fido2" => "a FIDO2 stick",
        "systemd-pkcs11" => "a smart card",
        "clevis" => "Clevis (a Tang server or a TPM)",
        _ => "a token",
    }
}

/// See [`super::header`].
pub(super) fn header(volume: &dyn ReadAt) -> Result<Header, Refusal> {
    let luks = read(volume)?;
    let mut ciphers: Vec<_> = luks
        .metadata
        .segments
        .values()
        .map(|segment| segment.encryption.as_str())
        .collect();
    ciphers.dedup();
    Ok(Header {
        name: "LUKS2",
        uuid: luks.copy.uuid.clone(),
        label: luks.copy.label.clone(),
        cipher: ciphers.join(", "),
        opened_by: luks.opened_by(),
        opens_by_itself: false,
    })
}

/// See [`super::unlock`].
pub(super) fn unlock<'a>(
    volume: SharedVolume<'a>,
    secrets: &Secrets,
) -> Result<Unlocked<'a>, Locked> {
    let luks = read(&volume)?;
    let size = volume.size().0;
    let data = luks.data(size)?;
    let (digest, slots, refused) = luks.keys()?;
    if slots.is_empty() {
        return Err(refused
            .unwrap_or_else(|| Refusal::Unsupported("no key slot holds its key".into()))
            .into());
    }
    // Before minutes are spent on keys for it.
    for slot in &slots {
        sector_cipher(&data.cipher, &vec![0; slot.key_len])?;
    }
    let key = slot::open(&volume, &slots, refused, &digest, secrets)?;
    let cipher = sector_cipher(&data.cipher, &key)?;
    let inconsistent = || Refusal::Damaged("its data does not lie inside it".into());
    let piece = Piece {
        plain: Extent::between(0, data.len).ok_or_else(inconsistent)?,
        at: data.offset,
        content: PieceContent::Encrypted(data.iv_tweak),
    };
    let head = Extent::between(0, data.offset);
    let tail = Extent::between(data.offset.saturating_add(data.len), size);
    let metadata: ExtentList = head.into_iter().chain(tail).collect();
    let view =
        View::new(volume, vec![piece], data.sector_size, UNIT, cipher).ok_or_else(inconsistent)?;
    Ok(Unlocked {
        volume: Arc::new(view),
        metadata,
        name: format!("LUKS2 ({})", data.cipher),
    })
}
