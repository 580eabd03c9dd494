//! A record of the master file table (`MFT_RECORD` and `ATTR_RECORD` in `include/ntfs-3g/layout.h`
//! of ntfs-3g) and the protection of blocks of several sectors: the last two bytes of each 512 are
//! kept in an array and replaced by a number that must be the same in all of them.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use super::runlist::{self, Run};
use crate::bytes::{has_magic, read_u8, read_u16le, read_u32le, read_u64le};
use crate::usedmap::finding::Refusal;

pub(crate) const ATTRIBUTE_LIST: u32 = 0x20;
pub(crate) const FILE_NAME: u32 = 0x30;
pub(crate) const VOLUME_NAME: u32 = 0x60;
pub(crate) const VOLUME_INFORMATION: u32 = 0x70;
pub(crate) const DATA: u32 = 0x80;
pub(crate) const INDEX_ROOT: u32 = 0x90;
pub(crate) const INDEX_ALLOCATION: u32 = 0xA0;
pub(crate) const BITMAP: u32 = 0xB0;
const END: u32 = 0xFFFF_FFFF;

const IN_USE: u16 = 0x0001;
const DIRECTORY: u16 = 0x0002;
/// Bytes that one number of the array protects, whatever the sector size.
const STRIDE: usize = 512;

/// The number of a record, without the count of how often it was reused in the upper 16 bits.
pub(crate) fn record_number(reference: u64) -> u64 {
    reference & 0xFFFF_FFFF_FFFF
}

/// Puts the bytes back that the update sequence array keeps. False if the block was written in
/// part (or is none): its content is then not to be trusted.
pub(crate) fn apply_fixups(block: &mut [u8]) -> bool {
    let usa_ofs = usize::from(read_u16le(block, 0x04));
    let usa_count = usize::from(read_u16le(block, 0x06));
    let strides = block.len() / STRIDE;
    let end = usa_count.saturating_mul(2).saturating_add(usa_ofs);
    if usa_count != strides.saturating_add(1) || usa_ofs & 1 != 0 || end > STRIDE.saturating_sub(2)
    {
        return false;
    }
    let array = block.get(usa_ofs..end).map(<[u8]>::to_vec);
    let array = array.unwrap_or_default();
    let mut numbers = array.chunks_exact(2);
    let Some(usn) = numbers.next() else {
        return false;
    };
    for (stride, kept) in block.chunks_exact_mut(STRIDE).zip(numbers) {
        let Some(last) = stride.last_chunk_mut::<2>() else {
            return false;
        };
        if last.as_slice() != usn {
            return false;
        }
        last.copy_from_slice(kept);
    }
    true
}

/// A record whose fixups were applied.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Record<'a> {
    number: u64,
    bytes: &'a [u8],
}

impl<'a> Record<'a> {
    /// `block` is a whole record as it is on the disk. `None` if it is not one, or torn.
    pub(crate) fn parse(number: u64, block: &'a mut [u8]) -> Option<Self> {
        let whole = has_magic(block, 0, b"FILE") && apply_fixups(block);
        let bytes: &[u8] = block;
        whole.then_some(Self { number, bytes })
    }

    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    pub(crate) fn is_in_use(&self) -> bool {
        read_u16le(self.bytes, 0x16) & IN_USE != 0
    }

    /// Whether it is a directory.
    pub(crate) fn is_directory(&self) -> bool {
        read_u16le(self.bytes, 0x16) & DIRECTORY != 0
    }

    /// How often it was given away: the upper 16 bits of a reference to it.
    pub(crate) fn sequence(&self) -> u16 {
        read_u16le(self.bytes, 0x10)
    }

    /// The record that this one continues; itself if it continues none.
    pub(crate) fn base(&self) -> u64 {
        // Record 0 has extensions too: only the count of its uses tells it from "none".
        match read_u64le(self.bytes, 0x20) {
            0 => self.number,
            reference => record_number(reference),
        }
    }

    /// What is in use of it, without the update sequence array: equal in a copy of the record.
    pub(crate) fn content(&self) -> Vec<u8> {
        let len = usize::try_from(read_u32le(self.bytes, 0x18)).unwrap_or(usize::MAX);
        let mut content = self.bytes.get(..len).unwrap_or(self.bytes).to_vec();
        let usa_ofs = usize::from(read_u16le(self.bytes, 0x04));
        let usa_len = usize::from(read_u16le(self.bytes, 0x06)).saturating_mul(2);
        let usa = content.iter_mut().skip(usa_ofs).take(usa_len);
        usa.for_each(|byte| *byte = 0);
        content
    }

    /// Its attributes.
    pub(crate) fn attributes(&self) -> Attributes<'a> {
        let used = usize::try_from(read_u32le(self.bytes, 0x18)).unwrap_or(usize::MAX);
        let first = usize::from(read_u16le(self.bytes, 0x14));
        let rest = self.bytes.get(..used).and_then(|bytes| bytes.get(first..));
        Attributes {
            record: self.number,
            // Nothing at all is an error too: there is always an end mark.
            rest: Some(rest.filter(|_| first >= 0x28).unwrap_or_default()),
        }
    }

    /// The piece of an attribute that starts at `lowest_vcn`, or its value if it is resident.
    pub(crate) fn attribute(
        &self,
        kind: u32,
        name: &[u8],
        lowest_vcn: u64,
    ) -> Result<Option<Attribute<'a>>, Refusal> {
        for attribute in self.attributes() {
            let attribute = attribute?;
            if attribute.kind() == kind
                && attribute.name() == name
                && (!attribute.is_non_resident() || attribute.lowest_vcn() == lowest_vcn)
            {
                return Ok(Some(attribute));
            }
        }
        Ok(None)
    }
}

/// See [`Record::attributes`].
pub(crate) struct Attributes<'a> {
    record: u64,
    /// What lies behind the last one; `None` once an error was told or the end was seen.
    rest: Option<&'a [u8]>,
}

impl<'a> Iterator for Attributes<'a> {
    type Item = Result<Attribute<'a>, Refusal>;

    fn next(&mut self) -> Option<Self::Item> {
        let rest = self.rest.take()?;
        if rest.len() >= 4 && read_u32le(rest, 0x00) == END {
            return None;
        }
        let len = usize::try_from(read_u32le(rest, 0x04)).unwrap_or(usize::MAX);
        let least = if read_u8(rest, 0x08) == 0 { 0x18 } else { 0x40 };
        match rest.split_at_checked(len) {
            Some((bytes, behind)) if len >= least => {
                self.rest = Some(behind);
                Some(Ok(Attribute {
                    record: self.record,
                    bytes,
                }))
            }
            _ => Some(Err(Refusal::Damaged(format!(
                "the attributes of file record {} have no end",
                self.record
            )))),
        }
    }
}

/// One attribute, or a piece of one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Attribute<'a> {
    record: u64,
    bytes: &'a [u8],
}

impl<'a> Attribute<'a> {
    pub(crate) fn kind(&self) -> u32 {
        read_u32le(self.bytes, 0x00)
    }

    pub(crate) fn is_non_resident(&self) -> bool {
        read_u8(self.bytes, 0x08) != 0
    }

    /// In UTF-16LE, as it is on the disk.
    pub(crate) fn name(&self) -> &'a [u8] {
        let len = usize::from(read_u8(self.bytes, 0x09)).saturating_mul(2);
        let at = usize::from(read_u16le(self.bytes, 0x0A));
        slice(self.bytes, at, len).unwrap_or_default()
    }

    /// The value of a resident one.
    pub(crate) fn value(&self) -> Result<&'a [u8], Refusal> {
        let len = usize::try_from(read_u32le(self.bytes, 0x10)).unwrap_or(usize::MAX);
        let at = usize::from(read_u16le(self.bytes, 0x14));
        slice(self.bytes, at, len).ok_or_else(|| self.odd("a value that lies outside it"))
    }

    /// The first cluster of the stream that this piece maps.
    pub(crate) fn lowest_vcn(&self) -> u64 {
        read_u64le(self.bytes, 0x10)
    }

    /// Bytes of the stream; only in its first piece.
    pub(crate) fn data_size(&self) -> u64 {
        read_u64le(self.bytes, 0x30)
    }

    /// Bytes of the stream that were ever written; only in its first piece.
    pub(crate) fn initialized_size(&self) -> u64 {
        read_u64le(self.bytes, 0x38)
    }

    /// Clusters that are compressed together; only in the first piece of a stream that is compressed.
    pub(crate) fn compressed_clusters(&self) -> Option<u64> {
        const COMPRESSED: u16 = 0x0001;
        let shift = u32::from(read_u8(self.bytes, 0x22));
        let is_compressed = read_u16le(self.bytes, 0x0C) & COMPRESSED != 0;
        // Windows makes units of 16 clusters; more than 64 nobody does.
        (is_compressed && (1..=6).contains(&shift)).then(|| 1 << shift)
    }

    /// The runs of a piece of a non-resident one, all of them inside the volume's `clusters`.
    pub(crate) fn runs(&self, clusters: u64) -> Result<Vec<Run>, Refusal> {
        let at = usize::from(read_u16le(self.bytes, 0x20));
        let pairs = self
            .bytes
            .get(at..)
            .filter(|_| at >= 0x40)
            .ok_or_else(|| self.odd("a run list that lies outside it"))?;
        let lowest = self.lowest_vcn();
        let runs = runlist::decode(pairs, lowest, clusters)
            .ok_or_else(|| self.odd("a run list that makes no sense"))?;
        // 0 also stands for "not told".
        let highest = read_u64le(self.bytes, 0x18);
        let end = runs.last().map_or(lowest, Run::end);
        if highest != 0 && end != highest.wrapping_add(1) {
            return Err(self.odd("a run list of another length than it says"));
        }
        Ok(runs)
    }

    fn odd(&self, what: &str) -> Refusal {
        Refusal::Damaged(format!(
            "attribute {:#x} in file record {} has {what} (run chkdsk /f in Windows for a \
             smaller copy)",
            self.kind(),
            self.record
        ))
    }
}

fn slice(bytes: &[u8], at: usize, len: usize) -> Option<&[u8]> {
    bytes.get(at..)?.get(..len)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block() -> Vec<u8> {
        let mut block = vec![0; 1024];
        block[0x04] = 0x30;
        block[0x06] = 3;
        block[0x30..0x36].copy_from_slice(&[7, 0, 0xAA, 0xBB, 0xCC, 0xDD]);
        for at in [510, 1022] {
            block[at] = 7;
        }
        block
    }

    #[test]
    fn what_the_array_keeps_is_put_back() {
        let mut block = block();
        assert!(apply_fixups(&mut block));
        assert_eq!(block[510..512], [0xAA, 0xBB]);
        assert_eq!(block[1022..1024], [0xCC, 0xDD]);
    }

    #[test]
    fn a_torn_block_is_seen() {
        for (at, byte) in [(1022, 8), (510, 6), (0x06, 2), (0x04, 0x31), (0x05, 2)] {
            let mut block = block();
            block[at] = byte;
            assert!(!apply_fixups(&mut block), "byte {at}");
        }
        assert!(!apply_fixups(&mut []));
    }
}
