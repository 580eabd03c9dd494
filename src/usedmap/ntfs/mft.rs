//! The master file table: records by their number, and the attributes of a file that is described
//! in several records (`$ATTRIBUTE_LIST`, `ATTR_LIST_ENTRY` in `include/ntfs-3g/layout.h` of
//! ntfs-3g).

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use super::boot::Boot;
use super::record::{ATTRIBUTE_LIST, DATA, Record, record_number};
use super::stream::Stream;
use crate::bytes::{read_u8, read_u16le, read_u32le, read_u64le};
use crate::device::ReadAt;
use crate::error::Error;
use crate::units::ByteOffset;
use crate::usedmap::finding::Refusal;

/// The most that Windows lets an attribute list grow to.
const MAX_LIST_BYTES: u64 = 256 << 10;

/// The table, ready to be read.
pub(crate) struct Mft<'a> {
    pub volume: &'a dyn ReadAt,
    pub boot: &'a Boot,
    /// Its own content: record 0's unnamed data.
    pub stream: Stream,
}

/// The whole block of a record, from which a [`Record`] is parsed.
pub(crate) struct Block {
    number: u64,
    bytes: Vec<u8>,
}

impl Block {
    /// The record, which must be in use.
    pub(crate) fn record(&mut self) -> Result<Record<'_>, Refusal> {
        let number = self.number;
        Record::parse(number, &mut self.bytes)
            .filter(Record::is_in_use)
            .ok_or_else(|| {
                Refusal::Damaged(format!(
                    "file record {number} is not one, or was written in part (run chkdsk /f in \
                     Windows for a smaller copy)"
                ))
            })
    }
}

/// Where a piece of an attribute is.
pub(crate) struct Entry {
    lowest_vcn: u64,
    /// The number of the record that it is in.
    pub record: u64,
}

impl<'a> Mft<'a> {
    /// Finds all of the table, from its first record on.
    pub(crate) fn open(volume: &'a dyn ReadAt, boot: &'a Boot) -> Result<Self, Refusal> {
        let at = boot.mft_lcn.saturating_mul(boot.cluster_size);
        let mut bytes = vec![0; boot.record_size];
        volume
            .read_at(ByteOffset(at), &mut bytes)
            .map_err(|error| {
                Error::new(
                    error.kind(),
                    "reading the first record of the master file table",
                )
                .because(error)
                .at(at)
            })?;
        let mut block = Block { number: 0, bytes };
        let base = block.record()?;
        let first = base
            .attribute(DATA, &[], 0)?
            .filter(|first| first.is_non_resident())
            .ok_or_else(|| Refusal::Damaged("the master file table has no content".into()))?;
        let mut mft = Self {
            volume,
            boot,
            stream: Stream::new(&first, boot)?,
        };
        // Each piece is in a record that the pieces before it map.
        for entry in mft.entries(&base, DATA, &[])?.into_iter().flatten() {
            if entry.lowest_vcn == 0 {
                continue;
            }
            let mut block = mft.block(entry.record)?;
            let record = block.record()?;
            let piece = piece_of(&base, &record, DATA, &[], entry.lowest_vcn)?;
            mft.stream.append(&piece, boot)?;
        }
        if !mft.stream.is_on_disk_once() {
            return Err(Refusal::Damaged(
                "the master file table has holes, or clusters that it has twice (run chkdsk /f in \
                 Windows for a smaller copy)"
                    .into(),
            ));
        }
        Ok(mft)
    }

    /// How many records there are.
    pub(crate) fn records(&self) -> u64 {
        let record_size = u64::try_from(self.boot.record_size).unwrap_or(u64::MAX);
        let bytes = self.stream.initialized();
        bytes.checked_div(record_size).unwrap_or(0)
    }

    /// Reads a record.
    pub(crate) fn block(&self, number: u64) -> Result<Block, Refusal> {
        if number >= self.records() {
            return Err(Refusal::Damaged(format!(
                "file record {number} is behind the end of the master file table"
            )));
        }
        let mut bytes = vec![0; self.boot.record_size];
        self.read(number, &mut bytes)?;
        Ok(Block { number, bytes })
    }

    /// Reads whole records from `number` on.
    pub(crate) fn read(&self, number: u64, buf: &mut [u8]) -> Result<(), Refusal> {
        let record_size = u64::try_from(self.boot.record_size).unwrap_or(u64::MAX);
        let at = number.saturating_mul(record_size);
        let what = "the master file table";
        self.stream.read(self.volume, self.boot, at, buf, what)
    }

    /// All of an attribute of the file whose base record it is; `None` if it has no such one.
    pub(crate) fn attribute(
        &self,
        base: &Record<'_>,
        kind: u32,
        name: &[u8],
    ) -> Result<Option<Stream>, Refusal> {
        let Some(entries) = self.entries(base, kind, name)? else {
            let attribute = base.attribute(kind, name, 0)?;
            return attribute
                .map(|attribute| Stream::new(&attribute, self.boot))
                .transpose();
        };
        let mut stream: Option<Stream> = None;
        for entry in entries {
            let mut block;
            let record = if entry.record == base.number() {
                *base
            } else {
                block = self.block(entry.record)?;
                block.record()?
            };
            let piece = piece_of(base, &record, kind, name, entry.lowest_vcn)?;
            match &mut stream {
                None if entry.lowest_vcn == 0 => stream = Some(Stream::new(&piece, self.boot)?),
                Some(stream) => stream.append(&piece, self.boot)?,
                None => {
                    return Err(Refusal::Damaged(format!(
                        "attribute {kind:#x} of file record {} has no beginning",
                        base.number()
                    )));
                }
            }
        }
        Ok(stream)
    }

    /// Where the pieces of an attribute are, in their order; `None` if the file has no list, so that
    /// all is in its base record.
    pub(crate) fn entries(
        &self,
        base: &Record<'_>,
        kind: u32,
        name: &[u8],
    ) -> Result<Option<Vec<Entry>>, Refusal> {
        let Some(list) = base.attribute(ATTRIBUTE_LIST, &[], 0)? else {
            return Ok(None);
        };
        let list = Stream::new(&list, self.boot)?;
        let what = format!("the attribute list of file record {}", base.number());
        let len = usize::try_from(list.size().min(MAX_LIST_BYTES)).unwrap_or(0);
        if list.size() > MAX_LIST_BYTES || list.initialized() < list.size() {
            return Err(Refusal::Damaged(format!("{what} is larger than can be")));
        }
        let mut bytes = vec![0; len];
        list.read(self.volume, self.boot, 0, &mut bytes, &what)?;
        let mut entries = Vec::new();
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let length = usize::from(read_u16le(rest, 0x04));
            let (entry, behind) = rest
                .split_at_checked(length)
                .filter(|_| length >= 0x1A)
                .ok_or_else(|| Refusal::Damaged(format!("{what} has an entry without an end")))?;
            let name_len = usize::from(read_u8(entry, 0x06)).saturating_mul(2);
            let name_at = usize::from(read_u8(entry, 0x07));
            let named = entry.get(name_at..).and_then(|rest| rest.get(..name_len));
            if read_u32le(entry, 0x00) == kind && named == Some(name) {
                entries.push(Entry {
                    lowest_vcn: read_u64le(entry, 0x08),
                    record: record_number(read_u64le(entry, 0x10)),
                });
            }
            rest = behind;
        }
        Ok(Some(entries))
    }
}

/// The piece in a record that must be the base record or one that continues it.
fn piece_of<'r>(
    base: &Record<'_>,
    record: &Record<'r>,
    kind: u32,
    name: &[u8],
    lowest_vcn: u64,
) -> Result<super::record::Attribute<'r>, Refusal> {
    record
        .attribute(kind, name, lowest_vcn)?
        .filter(|_| record.base() == base.number())
        .ok_or_else(|| {
            Refusal::Damaged(format!(
                "file record {} should have a piece of attribute {kind:#x} of file record {} (run \
                 chkdsk /f in Windows for a smaller copy)",
                record.number(),
                base.number()
            ))
        })
}
