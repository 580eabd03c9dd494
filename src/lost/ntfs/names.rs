//! From a file record's number to its path: $FILE_NAME (`FILE_NAME_ATTR` in
//! `include/ntfs-3g/layout.h` of ntfs-3g) has the name and the record of the directory that it is in.
//! A record that is lost is looked for in the indexes of directories, which repeat it.
//!
//! | 0x00 | 0x40 | 0x41 | 0x42 |
//! | --- | --- | --- | --- |
//! | parent_directory | file_name_length | file_name_type | file_name |

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use super::{ROOT, each_record, index};
use crate::bytes::{read_u8, read_u16le, read_u64le};
use crate::lost::names::{Names, push_plain};
use crate::usedmap::ntfs::mft::Mft;
use crate::usedmap::ntfs::record::{FILE_NAME, Record, record_number};
use std::collections::BTreeSet;
use std::fmt::Write;

/// `FILE_NAME_DOS`: the short name that a file has beside its own.
const DOS: u8 = 2;
/// Records that continue one and are asked for names.
const MAX_CONTINUED: usize = 1024;

/// A name, and the reference of the directory that it is in.
struct Name {
    directory: u64,
    text: String,
    is_dos: bool,
}

/// Looks for the names of `wanted`.
pub(super) fn find(mft: &Mft<'_>, wanted: &BTreeSet<u64>) -> Names {
    let mut names = Names::new(ROOT, "file record");
    let mut missed = BTreeSet::new();
    for &number in wanted {
        climb(mft, number, &mut names, &mut missed);
    }
    if missed.is_empty() {
        return names;
    }
    // Records that are lost: their names are repeated in the directories that they are in.
    let mut directories = BTreeSet::new();
    // No two directories have the same blocks, which have at least a sector.
    let mut left = mft.volume.size().0 >> 9;
    each_record(mft, &mut |record| {
        index::entries(mft, record, &mut left, &mut |reference, file_name| {
            let number = record_number(reference);
            if missed.contains(&number)
                && let Some(name) = Name::parse(file_name)
                && !name.is_dos
            {
                names.add(number, record_number(name.directory), name.text);
                directories.insert(name.directory);
            }
        });
    });
    for reference in directories {
        climb(mft, record_number(reference), &mut names, &mut missed);
    }
    names
}

/// Names a record and the directories above it. What has no name to be read is `missed`.
fn climb(mft: &Mft<'_>, number: u64, names: &mut Names, missed: &mut BTreeSet<u64>) {
    let mut number = number;
    let mut sequence = None;
    while !names.knows(number) && !missed.contains(&number) {
        let Some(name) = name_of(mft, number, sequence) else {
            missed.insert(number);
            return;
        };
        let directory = record_number(name.directory);
        names.add(number, directory, name.text);
        if !names.knows(number) {
            return;
        }
        number = directory;
        sequence = u16::try_from(name.directory >> 48).ok();
    }
}

/// The name of a record in use, which must have been given away as often as `sequence` says.
fn name_of(mft: &Mft<'_>, number: u64, sequence: Option<u16>) -> Option<Name> {
    let mut block = mft.block(number).ok()?;
    let base = block.record().ok()?;
    let is_other = sequence.is_some_and(|wanted| wanted != 0 && wanted != base.sequence());
    if is_other || base.base() != number {
        return None;
    }
    let mut best = best_of(&base, None);
    if best.as_ref().is_some_and(|name| !name.is_dos) {
        return best;
    }
    let more = mft.entries(&base, FILE_NAME, &[]).ok().flatten();
    for entry in more.into_iter().flatten().take(MAX_CONTINUED) {
        let block = mft.block(entry.record);
        if let Ok(mut block) = block
            && let Ok(record) = block.record()
            && record.base() == number
        {
            best = best_of(&record, best);
        }
    }
    best
}

/// The best of the names in a record: none is only the short one if there is another.
fn best_of(record: &Record<'_>, mut best: Option<Name>) -> Option<Name> {
    for attribute in record.attributes().map_while(Result::ok) {
        if attribute.kind() != FILE_NAME || attribute.is_non_resident() {
            continue;
        }
        if let Some(name) = attribute.value().ok().and_then(Name::parse)
            && best.as_ref().is_none_or(|best| best.is_dos)
        {
            best = Some(name);
        }
    }
    best
}

impl Name {
    fn parse(file_name: &[u8]) -> Option<Self> {
        let len = usize::from(read_u8(file_name, 0x40)).saturating_mul(2);
        let name = file_name.get(0x42..)?.get(..len)?;
        (len > 0).then(|| Self {
            directory: read_u64le(file_name, 0x00),
            text: text(name),
            is_dos: read_u8(file_name, 0x41) == DOS,
        })
    }
}

/// UTF-16 as harmless text: half a pair comes as `\\u{d800}`.
pub(super) fn text(utf16: &[u8]) -> String {
    let units = utf16.chunks_exact(2).map(|unit| read_u16le(unit, 0));
    let mut text = String::new();
    for char in char::decode_utf16(units) {
        match char {
            Ok(char) => push_plain(&mut text, char),
            Err(half) => {
                let _ = write!(text, "\\u{{{:x}}}", half.unpaired_surrogate());
            }
        }
    }
    text
}
