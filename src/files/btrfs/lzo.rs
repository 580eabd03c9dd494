//! LZO as btrfs packs it (`fs/btrfs/lzo.c`): the length of all of it (4 bytes), then for each sector the
//! length of its packed bytes and these; no length lies across the border of two sectors.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use crate::bytes::read_u32le;

const LENGTH: usize = 4;

/// Unpacks up to `most` bytes; `None` if it is damaged.
pub(super) fn unpack(bytes: &[u8], sector: usize, most: usize) -> Option<Vec<u8>> {
    let whole = usize::try_from(read_u32le(bytes, 0)).ok()?;
    let bytes = bytes.get(..whole)?;
    let mut text = Vec::new();
    let mut at = LENGTH;
    while at < bytes.len() && text.len() < most {
        let left = sector.checked_sub(at.checked_rem(sector)?)?;
        if left < LENGTH {
            at = at.checked_add(left)?;
        }
        let len = usize::try_from(read_u32le(bytes.get(at..)?.get(..LENGTH)?, 0)).ok()?;
        at = at.checked_add(LENGTH)?;
        let packed = bytes.get(at..)?.get(..len)?;
        let room = sector.min(most.saturating_sub(text.len()));
        text.extend(lzo::decompress(packed, room).ok()?);
        at = at.checked_add(len)?;
    }
    Some(text)
}
