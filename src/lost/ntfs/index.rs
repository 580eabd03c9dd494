//! The entries of a directory's index: in its record ($INDEX_ROOT), and in blocks of their own
//! ($INDEX_ALLOCATION, `INDEX_BLOCK` in `include/ntfs-3g/layout.h` of ntfs-3g), which are protected as
//! file records are.
//!
//! | `INDEX_HEADER` | 0x00 | 0x04 | | `INDEX_ENTRY` | 0x00 | 0x08 | 0x0A | 0x0C | 0x10 |
//! | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |
//! | | entries_offset | index_length | | | indexed_file | length | key_length | ie_flags | key |

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use crate::bytes::{has_magic, read_u16le, read_u32le, read_u64le};
use crate::usedmap::ntfs::mft::Mft;
use crate::usedmap::ntfs::record::{INDEX_ALLOCATION, INDEX_ROOT, Record, apply_fixups};

/// `$I30`, the index of names, in UTF-16LE.
const NAMES: &[u8] = b"$\0I\x003\x000\0";
/// Where the header is in the root's value, and in a block.
const IN_ROOT: usize = 0x10;
const IN_BLOCK: usize = 0x18;
/// Bytes a block: from a sector to what Windows makes with large clusters.
const BLOCK_BYTES: std::ops::RangeInclusive<usize> = 512..=65_536;

/// Calls `each(reference, file name)` for every entry of a directory that can be read, of as many
/// blocks as are `left`; nothing, if the record is of none.
pub(crate) fn entries(
    mft: &Mft<'_>,
    record: &Record<'_>,
    left: &mut u64,
    each: &mut dyn FnMut(u64, &[u8]),
) {
    if record.base() != record.number() {
        return;
    }
    let Ok(Some(root)) = record.attribute(INDEX_ROOT, NAMES, 0) else {
        return;
    };
    let Ok(value) = root.value() else { return };
    in_node(value.get(IN_ROOT..).unwrap_or_default(), each);
    let block_size = usize::try_from(read_u32le(value, 0x8)).unwrap_or(0);
    if !BLOCK_BYTES.contains(&block_size) || !block_size.is_power_of_two() {
        return;
    }
    let Ok(Some(blocks)) = mft.attribute(record, INDEX_ALLOCATION, NAMES) else {
        return;
    };
    let step = u64::try_from(block_size).unwrap_or(u64::MAX);
    let count = blocks.initialized().checked_div(step).unwrap_or(0);
    let mut bytes = vec![0; block_size];
    for nth in 0..count.min(*left) {
        *left = left.saturating_sub(1);
        let at = nth.saturating_mul(step);
        let read = blocks.read(mft.volume, mft.boot, at, &mut bytes, "an index");
        if read.is_ok() && has_magic(&bytes, 0, b"INDX") && apply_fixups(&mut bytes) {
            in_node(bytes.get(IN_BLOCK..).unwrap_or_default(), each);
        }
    }
}

/// The entries behind a header.
fn in_node(header: &[u8], each: &mut dyn FnMut(u64, &[u8])) {
    const LAST: u16 = 0x2;
    let at = usize::try_from(read_u32le(header, 0x0)).unwrap_or(usize::MAX);
    let end = usize::try_from(read_u32le(header, 0x4)).unwrap_or(usize::MAX);
    let mut rest = header.get(at..end.min(header.len())).unwrap_or_default();
    while rest.len() >= 0x10 && read_u16le(rest, 0xC) & LAST == 0 {
        let length = usize::from(read_u16le(rest, 0x8));
        let key_length = usize::from(read_u16le(rest, 0xA));
        if let Some(key) = rest.get(0x10..).and_then(|rest| rest.get(..key_length)) {
            each(read_u64le(rest, 0x0), key);
        }
        match rest.get(length..) {
            Some(behind) if length >= 0x10 => rest = behind,
            _ => return,
        }
    }
}
