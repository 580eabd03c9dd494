//! The entries of a directory (`struct ext4_dir_entry_2` in `fs/ext4/ext4.h`): block by block, one
//! behind the other. A hashed directory has the same in its leaves; its inner nodes look like empty
//! entries, and so do the checksums at the end of blocks.
//!
//! | 0x0 | 0x4 | 0x6 | 0x7 | 0x8 |
//! | --- | --- | --- | --- | --- |
//! | inode | rec_len | name_len | file_type | name |

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use super::blocks::{Blocks, Budget, Found};
use super::inline;
use super::inodes::Numbered;
use super::read_block;
use crate::bytes::{read_u8, read_u16le, read_u32le};
use crate::device::ReadAt;
use crate::lost::names::Entry;
use crate::usedmap::ext::Superblock;
use std::cell::Cell;

/// Calls `each` for every entry that can be read, of as many blocks as are `left`.
pub(crate) fn entries(
    volume: &dyn ReadAt,
    sb: &Superblock,
    directory: &Numbered<'_>,
    budget: &mut Budget,
    left: &Cell<u64>,
    each: &mut dyn FnMut(Entry<'_>),
) {
    if directory.is_inline() {
        return inline::entries(directory, each);
    }
    let mut blocks = Blocks::new(volume, sb, &directory.inode, budget);
    blocks.each(&mut |found| {
        let Found::Run {
            start,
            len,
            written: true,
            ..
        } = found
        else {
            return;
        };
        for block in start..start.saturating_add(len) {
            let Some(rest) = left.get().checked_sub(1) else {
                return;
            };
            left.set(rest);
            if let Ok(bytes) = read_block(volume, sb, block) {
                in_block(&bytes, each);
            }
        }
    });
}

/// The entries in one block, or in what is inline.
pub(crate) fn in_block(bytes: &[u8], each: &mut dyn FnMut(Entry<'_>)) {
    const HEADER: usize = 8;
    let mut rest = bytes;
    while rest.len() >= HEADER {
        let inode = read_u32le(rest, 0x0);
        // With blocks of 64 KiB the whole block does not fit the field.
        let rec_len = match read_u16le(rest, 0x4) {
            0 | 0xFFFF => rest.len(),
            len => usize::from(len & 0xFFFC),
        };
        let name_len = usize::from(read_u8(rest, 0x6));
        let Some((entry, behind)) = rest.split_at_checked(rec_len).filter(|_| rec_len >= HEADER)
        else {
            return;
        };
        let name = entry.get(HEADER..).and_then(|rest| rest.get(..name_len));
        if let Some(name) = name.filter(|name| inode != 0 && !name.is_empty()) {
            each(Entry {
                name,
                inode: u64::from(inode),
            });
        }
        rest = behind;
    }
}
