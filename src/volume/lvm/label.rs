//! What lies at the head of an LVM2 physical volume (`layout.h`, `label.h` and `format-text.c` of
//! LVM2). Little-endian.
//!
//! Label, in one of the first four sectors of 512 bytes: 0x00 `LABELONE`, 0x08 sector, 0x10 CRC of
//! what follows, 0x14 offset of the PV header, 0x18 `LVM2 001`. PV header: 0x00 UUID (32 letters),
//! 0x20 size of the device, 0x28 data areas, then metadata areas, each a list of offset and size
//! (64-bit) that ends with zeros, then an extension: version, flags, boot loader areas.
//!
//! Metadata area: 0x00 CRC of the rest of its sector, 0x04 magic, 0x14 version 1, 0x18 start, 0x20
//! size, 0x28 places of texts: offset in the area, size, CRC, flags. The area is a ring behind its
//! first sector; the first place is the committed text, a second one is not committed yet.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use crate::bytes::{has_magic, read_u32le, read_u64le};
use crate::checksum;
use crate::device::ReadAt;
use crate::error::Result;
use crate::extent::{Extent, ExtentList};
use crate::refusal::Refusal;
use crate::units::{ByteLen, ByteOffset};

const SECTOR: usize = 512;
const MDA_MAGIC: &[u8] = b" LVM2 x[5A%r0N*>";
/// `INITIAL_CRC`.
const INITIAL_CRC: u32 = 0xF597_A6CF;
/// Far above what LVM writes (`metadata/pvmetadatasize` is a megabyte).
const MAX_TEXT: u64 = 64 << 20;

/// The head of a physical volume.
#[derive(Debug, Clone)]
pub(super) struct Label {
    /// 32 letters, without hyphens.
    pub uuid: String,
    /// Label, metadata areas, boot loader areas.
    pub metadata: ExtentList,
    /// The committed texts whose checksums are right.
    pub texts: Vec<Vec<u8>>,
    /// Why others were not taken.
    pub trouble: Option<String>,
}

/// LVM's CRC-32: the usual polynomial, its own start, no final inversion.
fn crc(pieces: &[&[u8]]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(!INITIAL_CRC);
    for piece in pieces {
        hasher.update(piece);
    }
    !hasher.finalize()
}

/// Reads the head of a physical volume.
pub(super) fn read(volume: &dyn ReadAt) -> Result<Label, Refusal> {
    let mut head = vec![0; SECTOR.saturating_mul(4)];
    volume.read_at(ByteOffset(0), &mut head)?;
    // As LVM: the first label that is right.
    let sector = head
        .chunks_exact(SECTOR)
        .zip(0_u64..)
        .find(|(sector, number)| {
            sector.starts_with(b"LABELONE")
                && read_u64le(sector, 8) == *number
                && has_magic(sector, 24, b"LVM2 001")
                && sector
                    .get(20..)
                    .is_some_and(|rest| checksum::matches(crc(&[rest]), read_u32le(sector, 16)))
        })
        .map(|(sector, _)| sector)
        .ok_or_else(|| Refusal::Damaged("the checksum of its LVM label is wrong".into()))?;
    let at = usize::try_from(read_u32le(sector, 20)).unwrap_or(usize::MAX);
    let header = sector
        .get(at..)
        .filter(|header| header.len() > 64)
        .ok_or_else(|| Refusal::Damaged("its LVM label points outside of itself".into()))?;
    let uuid: String = header
        .iter()
        .take(32)
        .filter(|letter| letter.is_ascii_graphic())
        .map(|letter| char::from(*letter))
        .collect();
    let mut rest = header.get(40..).unwrap_or_default();
    let _data = take_areas(&mut rest)?;
    let metadata_areas = take_areas(&mut rest)?;
    let boot_areas = if read_u32le(rest, 0) > 0 {
        rest = rest.get(8..).unwrap_or_default();
        take_areas(&mut rest)?
    } else {
        Vec::new()
    };
    let size = volume.size().0;
    let mut label = Label {
        uuid,
        metadata: Extent::between(0, size.min(2048)).into_iter().collect(),
        texts: Vec::new(),
        trouble: None,
    };
    for (start, len) in metadata_areas.iter().chain(&boot_areas) {
        let area = Extent::new(ByteOffset(*start), ByteLen(*len)).filter(|a| a.end() <= size);
        label.metadata.insert(area.ok_or_else(|| {
            Refusal::Damaged("an area of its LVM metadata lies outside of it".into())
        })?);
    }
    for (start, len) in metadata_areas {
        match read_area(volume, start, len)? {
            Ok(text) => label.texts.extend(text),
            Err(why) => label.trouble = Some(why),
        }
    }
    Ok(label)
}

/// A list of places that ends with zeros.
fn take_areas(rest: &mut &[u8]) -> Result<Vec<(u64, u64)>, Refusal> {
    let mut areas = Vec::new();
    loop {
        let (Some(entry), Some(behind)) = (rest.get(..16), rest.get(16..)) else {
            return Err(Refusal::Damaged(
                "a list in its LVM label has no end".into(),
            ));
        };
        *rest = behind;
        match (read_u64le(entry, 0), read_u64le(entry, 8)) {
            (0, _) => return Ok(areas),
            area => areas.push(area),
        }
    }
}

/// The committed text of a metadata area; `None` if there is none, a clause if it is broken.
fn read_area(
    volume: &dyn ReadAt,
    start: u64,
    len: u64,
) -> Result<std::result::Result<Option<Vec<u8>>, String>, Refusal> {
    let broken = |why: &str| Ok(Err(format!("the LVM metadata at byte {start} {why}")));
    let mut header = vec![0; SECTOR];
    volume.read_at(ByteOffset(start), &mut header)?;
    let sound = has_magic(&header, 4, MDA_MAGIC)
        && header
            .get(4..)
            .is_some_and(|rest| checksum::matches(crc(&[rest]), read_u32le(&header, 0)));
    if !sound {
        return broken("has a wrong checksum");
    }
    if read_u32le(&header, 20) != 1 {
        return broken("is of an unknown version");
    }
    let size = read_u64le(&header, 32);
    if read_u64le(&header, 24) != start || size > len {
        return broken("says that it lies elsewhere");
    }
    let (at, text_len) = (read_u64le(&header, 40), read_u64le(&header, 48));
    if at == 0 {
        return Ok(Ok(None));
    }
    let first = u64::try_from(SECTOR).unwrap_or(u64::MAX);
    if at < first || at >= size || text_len == 0 || text_len > size.saturating_sub(first) {
        return broken("points outside of itself");
    }
    if text_len > MAX_TEXT {
        return broken("is too long");
    }
    let head_len = text_len.min(size.saturating_sub(at));
    let mut text = vec![0; usize::try_from(text_len).unwrap_or(0)];
    let Some((head, tail)) = text.split_at_mut_checked(usize::try_from(head_len).unwrap_or(0))
    else {
        return broken("points outside of itself");
    };
    volume.read_at(ByteOffset(start.saturating_add(at)), head)?;
    if !tail.is_empty() {
        volume.read_at(ByteOffset(start.saturating_add(first)), tail)?;
    }
    if !checksum::matches(crc(&[&text]), read_u32le(&header, 56)) {
        return broken("has a text with a wrong checksum");
    }
    Ok(Ok(Some(text)))
}
