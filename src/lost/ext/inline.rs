//! A directory that is in its inode (`fs/ext4/inline.c`): the number of its parent and the first
//! entries are in `i_block`, further ones in the extended attribute `system.data` behind the inode's
//! fields (`struct ext4_xattr_ibody_header` and `struct ext4_xattr_entry` in `fs/ext4/xattr.h`).
//!
//! | 0x0 | 0x1 | 0x2 | 0x4 | 0x8 | 0xC | 0x10 |
//! | --- | --- | --- | --- | --- | --- | --- |
//! | e_name_len | e_name_index | e_value_offs | e_value_inum | e_value_size | e_hash | e_name |

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use super::directory::in_block;
use super::inodes::Numbered;
use crate::bytes::{read_u8, read_u16le, read_u32le};
use crate::lost::names::Entry;

/// `EXT4_XATTR_MAGIC`, `EXT4_XATTR_INDEX_SYSTEM`.
const MAGIC: u32 = 0xEA02_0000;
const INDEX_SYSTEM: u8 = 7;
const OLD_INODE: usize = 128;
const HEADER: usize = 0x10;

/// Calls `each` for every entry.
pub(crate) fn entries(directory: &Numbered<'_>, each: &mut dyn FnMut(Entry<'_>)) {
    let block = &directory.inode.block;
    each(Entry {
        name: b"..",
        inode: u64::from(read_u32le(block, 0)),
    });
    in_block(block.get(4..).unwrap_or_default(), each);
    in_block(system_data(directory.raw).unwrap_or_default(), each);
}

/// The value of `system.data`.
pub(crate) fn system_data(raw: &[u8]) -> Option<&[u8]> {
    let extra = usize::from(read_u16le(raw, OLD_INODE));
    let body = raw.get(OLD_INODE..)?.get(extra..)?;
    if read_u32le(body, 0) != MAGIC {
        return None;
    }
    let first = body.get(4..)?;
    let mut rest = first;
    while rest.len() >= HEADER && read_u32le(rest, 0) != 0 {
        let name_len = usize::from(read_u8(rest, 0x0));
        let name = rest.get(HEADER..)?.get(..name_len)?;
        if read_u8(rest, 0x1) == INDEX_SYSTEM && name == b"data" {
            let at = usize::from(read_u16le(rest, 0x2));
            let len = usize::try_from(read_u32le(rest, 0x8)).ok()?;
            return first.get(at..)?.get(..len);
        }
        let len = HEADER.checked_add(name_len)?.checked_next_multiple_of(4)?;
        rest = rest.get(len..)?;
    }
    None
}
