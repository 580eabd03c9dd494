//! BitLocker of Windows 7 and later, and BitLocker To Go. In: an encrypted volume. Out: the volume
//! as Windows shows it: the boot sectors come from where they were moved to, and where the metadata
//! lies there are zeros. Every other sector stays where it is.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

mod block;
mod boot;
mod datum;
mod elephant;
mod keys;

pub(crate) use boot::is_bitlocker;

use super::cipher::{BlockCipher, DecryptSector, sector_cipher};
use super::kdf::Budget;
use super::view::{Piece, PieceContent, View};
use super::{Header, Locked, Secrets, Unlocked};
use crate::device::ReadAt;
use crate::extent::{Extent, ExtentList};
use crate::refusal::Refusal;
use crate::units::ByteOffset;
use crate::volume::SharedVolume;
use aes::{Aes128, Aes256};
use block::{BLOCK, Block, Layout};
use boot::Boot;
use datum::Protection;
use elephant::{CbcOfOffset, Elephant};
use std::sync::Arc;
use zeroize::Zeroizing;

/// The encryption methods: number, name, length of the key in bytes.
const METHODS: [(u16, &str, usize); 6] = [
    (0x8000, "AES-CBC 128 with Elephant diffuser", 64),
    (0x8001, "AES-CBC 256 with Elephant diffuser", 64),
    (0x8002, "AES-CBC 128", 16),
    (0x8003, "AES-CBC 256", 32),
    (0x8004, "AES-XTS 128", 32),
    (0x8005, "AES-XTS 256", 64),
];

fn read(volume: &dyn ReadAt) -> Result<(Boot, Block), Refusal> {
    let mut sector = [0; 512];
    volume.read_at(ByteOffset(0), &mut sector)?;
    let boot = Boot::parse(&sector)?;
    let block = Block::newest(volume, &boot)?;
    Ok((boot, block))
}

fn method_name(method: u16) -> String {
    METHODS
        .iter()
        .find(|(number, ..)| *number == method)
        .map_or_else(
            || format!("method {method:#06x}"),
            |(_, name, _)| (*name).into(),
        )
}

/// See [`super::header`].
pub(super) fn header(volume: &dyn ReadAt) -> Result<Header, Refusal> {
    let (_, block) = read(volume)?;
    let vmks = keys::vmks(&block.datums()?)?;
    let has = |protection| vmks.iter().any(|vmk| vmk.protection == protection);
    let ways: Vec<&str> = [
        (Protection::Recovery, "its recovery key of 48 digits"),
        (Protection::Passphrase, "its passphrase"),
        (Protection::StartupKey, "its startup key (a .BEK file)"),
    ]
    .into_iter()
    .filter_map(|(protection, name)| has(protection).then_some(name))
    .collect();
    let opened_by = if ways.is_empty() {
        "a recovery password, which has to be added first with manage-bde -protectors -add -rp,"
            .into()
    } else {
        ways.join(" or ")
    };
    Ok(Header {
        name: "BitLocker",
        uuid: None,
        label: block.description.clone(),
        cipher: method_name(block.layout.method),
        opened_by,
        opens_by_itself: has(Protection::Clear),
    })
}

/// See [`super::unlock`].
pub(super) fn unlock<'a>(
    volume: SharedVolume<'a>,
    secrets: &Secrets,
) -> Result<Unlocked<'a>, Locked> {
    let (boot, block) = read(&volume)?;
    block.check_state()?;
    let layout = &block.layout;
    let areas = Areas::of(layout, &boot, volume.size().0)?;
    let (_, name, key_len) = METHODS
        .into_iter()
        .find(|(number, ..)| *number == layout.method)
        .ok_or_else(|| {
            Refusal::Unsupported(format!(
                "encrypted by BitLocker with method {:#06x}, which is not known here",
                layout.method
            ))
        })?;
    let vmk = open(&block, secrets)?;
    let fvek = keys::fvek(&block.datums()?, &vmk)?;
    if fvek.method != layout.method || fvek.key.len() != key_len {
        return Err(Refusal::Damaged(format!(
            "its key of {} bytes is for method {:#06x}, its sectors are of method {:#06x}",
            fvek.key.len(),
            fvek.method,
            layout.method
        ))
        .into());
    }
    let cipher = cipher(layout.method, &fvek.key)?;
    // XTS counts sectors, CBC counts bytes.
    let unit = match layout.method {
        0x8004 | 0x8005 => boot.sector_size,
        _ => 1,
    };
    let pieces = areas.pieces(unit);
    let metadata = areas.metadata(layout, volume.size().0);
    let view = View::new(volume, pieces, boot.sector_size, unit, cipher)
        .ok_or_else(|| Refusal::Damaged("its BitLocker areas do not lie inside it".into()))?;
    Ok(Unlocked {
        volume: Arc::new(view),
        metadata,
        name: format!("BitLocker ({name})"),
    })
}

/// The volume master key.
fn open(block: &Block, secrets: &Secrets) -> Result<Zeroizing<Vec<u8>>, Locked> {
    let datums = block.datums()?;
    let vmks = keys::vmks(&datums)?;
    if let Some(key) = vmks.iter().find_map(datum::Vmk::open_clear) {
        return Ok(key);
    }
    if secrets.is_empty() {
        return Err(Locked::NoSecret);
    }
    let mut budget = Budget::new();
    for secret in secrets.iter() {
        for vmk in &vmks {
            if let Some(key) = vmk.open(secret, &mut budget)? {
                return Ok(key);
            }
        }
    }
    Err(Locked::WrongSecret)
}

/// For tests, which make volumes of their own with them: the volume master key and the full volume
/// encryption key.
#[cfg(test)]
pub(super) fn keys_of(volume: &dyn ReadAt, secrets: &Secrets) -> [Zeroizing<Vec<u8>>; 2] {
    let (_, block) = read(volume).unwrap();
    let vmk = open(&block, secrets).unwrap();
    let fvek = keys::fvek(&block.datums().unwrap(), &vmk).unwrap();
    [vmk, fvek.key]
}

fn cipher(method: u16, key: &[u8]) -> Result<Box<dyn DecryptSector>, Refusal> {
    let half = key.len() / 2;
    let (first, second) = key.split_at_checked(half).unwrap_or_default();
    match method {
        // Of each half, a key of 128 bits is the beginning.
        0x8000 => elephant::<Aes128>(first.get(..16), second.get(..16)),
        0x8001 => elephant::<Aes256>(Some(first), Some(second)),
        0x8002 => cbc::<Aes128>(Some(key)),
        0x8003 => cbc::<Aes256>(Some(key)),
        _ => return sector_cipher("aes-xts-plain64", key),
    }
    .ok_or_else(|| Refusal::Damaged("its key has a wrong length".into()))
}

fn cbc<C: BlockCipher + 'static>(key: Option<&[u8]>) -> Option<Box<dyn DecryptSector>> {
    Some(Box::new(CbcOfOffset(C::new_from_slice(key?).ok()?)))
}

fn elephant<C: BlockCipher + 'static>(
    key: Option<&[u8]>,
    tweak: Option<&[u8]>,
) -> Option<Box<dyn DecryptSector>> {
    Some(Box::new(Elephant {
        cbc: CbcOfOffset(C::new_from_slice(key?).ok()?),
        tweak: C::new_from_slice(tweak?).ok()?,
    }))
}

/// Where BitLocker's own data is.
struct Areas {
    /// The boot sector that is seen without the key, and what was moved to make room for it.
    start: Extent,
    /// Where that was moved to.
    moved: Extent,
    /// All that reads as zeros, in order: `moved` and the metadata blocks.
    zeros: Vec<Extent>,
    /// The end of the encrypted part, in bytes.
    end: u64,
}

impl Areas {
    fn of(layout: &Layout, boot: &Boot, size: u64) -> Result<Self, Refusal> {
        let inconsistent = |what: &str| Refusal::Damaged(format!("its BitLocker metadata: {what}"));
        if layout.encrypted_size > size {
            return Err(inconsistent("the volume is larger than its partition"));
        }
        let end = layout.encrypted_size & !boot.sector_size.saturating_sub(1);
        let area = |start: u64, len: u64| {
            Extent::between(start, start.checked_add(len)?).filter(|area| {
                start.is_multiple_of(boot.sector_size)
                    && len.is_multiple_of(boot.sector_size)
                    && area.end() <= end
            })
        };
        let outside = || inconsistent("an area does not lie inside the volume");
        let start = area(0, layout.header_len).ok_or_else(outside)?;
        let moved = area(layout.header_at, layout.header_len).ok_or_else(outside)?;
        let mut zeros = vec![moved];
        for at in boot.blocks {
            zeros.push(area(at, BLOCK).ok_or_else(outside)?);
        }
        zeros.sort_unstable();
        let mut free_from = start.end();
        for zero in &zeros {
            if zero.start().0 < free_from {
                return Err(inconsistent("two areas overlap"));
            }
            free_from = zero.end();
        }
        Ok(Self {
            start,
            moved,
            zeros,
            end,
        })
    }

    /// The plaintext, from 0 to the end.
    fn pieces(&self, unit: u64) -> Vec<Piece> {
        let encrypted = |plain: Extent, at: u64| Piece {
            plain,
            at,
            content: PieceContent::Encrypted(at.checked_div(unit).unwrap_or(0)),
        };
        let mut pieces = vec![encrypted(self.start, self.moved.start().0)];
        let mut from = self.start.end();
        for &zero in &self.zeros {
            let before = Extent::between(from, zero.start().0);
            pieces.extend(before.map(|run| encrypted(run, run.start().0)));
            pieces.push(Piece {
                plain: zero,
                at: zero.start().0,
                content: PieceContent::Zeros,
            });
            from = zero.end();
        }
        pieces.extend(Extent::between(from, self.end).map(|run| encrypted(run, run.start().0)));
        pieces
    }

    /// What is always taken.
    fn metadata(&self, layout: &Layout, size: u64) -> ExtentList {
        let further = layout.further.iter().filter_map(|&(start, len)| {
            Extent::between(start.min(size), start.saturating_add(len).min(size))
        });
        let mut all: Vec<Extent> = [self.start]
            .into_iter()
            .chain(self.zeros.iter().copied())
            .chain(further)
            .chain(Extent::between(self.end, size))
            .collect();
        all.sort_unstable();
        all.into_iter().collect()
    }
}
