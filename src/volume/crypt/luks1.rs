//! LUKS1 (LUKS On-Disk Format Specification 1.2.3). `phdr`, big-endian:
//!
//! | at | field |
//! | --- | --- |
//! | 0x00 | `magic` `LUKS\xBA\xBE` |
//! | 0x06 | `version` 1 |
//! | 0x08 | `cipher-name`, 32 bytes |
//! | 0x28 | `cipher-mode`, 32 bytes |
//! | 0x48 | `hash-spec`, 32 bytes |
//! | 0x68 | `payload-offset`, in sectors of 512 bytes |
//! | 0x6C | `key-bytes` |
//! | 0x70 | `mk-digest`, 20 bytes |
//! | 0x84 | `mk-digest-salt`, 32 bytes |
//! | 0xA4 | `mk-digest-iter` |
//! | 0xA8 | `uuid`, 40 bytes |
//! | 0xD0 | eight key slots of 48 bytes: `active`, `iterations`, `salt` (32), `key-material-offset` in sectors, `stripes` |

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use super::cipher::sector_cipher;
use super::kdf::{Hash, Kdf};
use super::slot::{self, KeyDigest, MAX_KEY, Slot};
use super::view::{Piece, PieceContent, View};
use super::{Header, Locked, Secrets, Unlocked};
use crate::bytes::{read_array, read_text, read_u32be};
use crate::device::ReadAt;
use crate::extent::{Extent, ExtentList};
use crate::refusal::Refusal;
use crate::units::ByteOffset;
use crate::volume::SharedVolume;
use std::sync::Arc;

/// The unit of its offsets, and its encryption sector, in bytes.
const SECTOR: u64 = 512;
/// `active` of a slot in use.
const ENABLED: u32 = 0x00AC_71F3;
/// `active` of a slot that is not.
const DISABLED: u32 = 0x0000_DEAD;

/// The header, checked.
struct Phdr {
    cipher: String,
    payload: ByteOffset,
    key_len: usize,
    digest: KeyDigest,
    uuid: Option<String>,
    slots: Vec<Slot>,
}

fn read(volume: &dyn ReadAt) -> Result<Phdr, Refusal> {
    let mut phdr = [0; 592];
    volume.read_at(ByteOffset(0), &mut phdr)?;
    let text = |at| read_text(&phdr, at, 32).unwrap_or_default();
    let cipher = format!("{}-{}", text(0x08), text(0x28));
    let hash = Hash::known(&text(0x48))?;
    let payload = u64::from(read_u32be(&phdr, 0x68)).saturating_mul(SECTOR);
    if payload == 0 {
        return Err(Refusal::Unsupported(
            "its LUKS header belongs to another disk (a detached header)".into(),
        ));
    }
    if payload >= volume.size().0 {
        return Err(Refusal::Damaged(format!(
            "its data should begin at byte {payload}, behind its end"
        )));
    }
    let key_len = usize::try_from(read_u32be(&phdr, 0x6C)).unwrap_or(usize::MAX);
    if !(1..=MAX_KEY).contains(&key_len) {
        return Err(Refusal::Damaged(format!("a key of {key_len} bytes")));
    }
    let mut slots = Vec::new();
    for number in 0..8_usize {
        let start = number.saturating_mul(48).saturating_add(0xD0);
        let slot = phdr.get(start..).unwrap_or_default();
        match read_u32be(slot, 0) {
            ENABLED => {}
            DISABLED => continue,
            other => {
                return Err(Refusal::Damaged(format!(
                    "its key slot {number} is neither in use nor free ({other:#010x})"
                )));
            }
        }
        let slot = Slot {
            name: format!("key slot {number}"),
            kdf: Kdf::Pbkdf2 {
                hash,
                salt: read_array::<32>(slot, 8).to_vec(),
                iterations: read_u32be(slot, 4),
            },
            area_cipher: cipher.clone(),
            area_key_len: key_len,
            area: ByteOffset(u64::from(read_u32be(slot, 40)).saturating_mul(SECTOR)),
            stripes: usize::try_from(read_u32be(slot, 44)).unwrap_or(usize::MAX),
            stripe_hash: hash,
            key_len,
        };
        let inside = slot
            .area_len()
            .and_then(|len| slot.area.0.checked_add(u64::try_from(len).ok()?))
            .is_some_and(|end| end <= payload);
        if !inside {
            return Err(Refusal::Damaged(format!(
                "its key slot {number} does not lie before its data"
            )));
        }
        slots.push(slot);
    }
    Ok(Phdr {
        cipher,
        payload: ByteOffset(payload),
        key_len,
        digest: KeyDigest {
            kdf: Kdf::Pbkdf2 {
                hash,
                salt: read_array::<32>(&phdr, 0x84).to_vec(),
                iterations: read_u32be(&phdr, 0xA4),
            },
            digest: read_array::<20>(&phdr, 0x70).to_vec(),
        },
        uuid: read_text(&phdr, 0xA8, 40),
        slots,
    })
}

/// See [`super::header`].
pub(super) fn header(volume: &dyn ReadAt) -> Result<Header, Refusal> {
    let phdr = read(volume)?;
    Ok(Header {
        name: "LUKS1",
        uuid: phdr.uuid,
        label: None,
        cipher: phdr.cipher,
        opened_by: "one of its passphrases or key files".into(),
        opens_by_itself: false,
    })
}

/// See [`super::unlock`].
pub(super) fn unlock<'a>(
    volume: SharedVolume<'a>,
    secrets: &Secrets,
) -> Result<Unlocked<'a>, Locked> {
    let phdr = read(&volume)?;
    if phdr.slots.is_empty() {
        return Err(Refusal::Unsupported("none of its key slots is in use".into()).into());
    }
    // Before minutes are spent on keys for it.
    sector_cipher(&phdr.cipher, &vec![0; phdr.key_len])?;
    let key = slot::open(&volume, &phdr.slots, None, &phdr.digest, secrets)?;
    let cipher = sector_cipher(&phdr.cipher, &key)?;
    let size = volume.size().0;
    let len = size.saturating_sub(phdr.payload.0) & !SECTOR.saturating_sub(1);
    let plain = Extent::between(0, len)
        .ok_or_else(|| Refusal::Damaged("there is no data behind its header".into()))?;
    let piece = Piece {
        plain,
        at: phdr.payload.0,
        content: PieceContent::Encrypted(0),
    };
    let head = Extent::between(0, phdr.payload.0);
    let tail = Extent::between(phdr.payload.0.saturating_add(len), size);
    let metadata: ExtentList = head.into_iter().chain(tail).collect();
    let view = View::new(volume, vec![piece], SECTOR, SECTOR, cipher)
        .ok_or_else(|| Refusal::Damaged("its data does not lie inside it".into()))?;
    Ok(Unlocked {
        volume: Arc::new(view),
        metadata,
        name: format!("LUKS1 ({})", phdr.cipher),
    })
}
