//! A descriptor block: a tag for each of the data blocks that follow it in the log, saying where
//! they belong (`journal_block_tag_t`, `journal_block_tag3_t` in `include/linux/jbd2.h`).

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use super::header::{HEADER_BYTES, TAIL_BYTES};
use super::superblock::{Checksums, JournalSuperblock};
use crate::bytes::{read_u16be, read_u32be};
use crate::usedmap::crc::{crc32c, matches_checksum};

/// The data block began with the journal's magic, which is 0 in the log.
const FLAG_ESCAPE: u16 = 0x1;
/// No UUID follows the tag.
const FLAG_SAME_UUID: u16 = 0x2;
/// The last tag of the block.
const FLAG_LAST_TAG: u16 = 0x8;

/// One tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tag {
    /// The filesystem's block that the data belongs to.
    pub block: u64,
    /// Whether the data has to begin with the magic again.
    pub escaped: bool,
    /// Its checksum: 32 bits in version 3, 16 in version 2.
    checksum: u32,
}

impl Tag {
    /// Whether a data block matches the checksum in its tag, if there is one.
    pub(super) fn accepts(&self, sb: &JournalSuperblock, sequence: u32, data: &[u8]) -> bool {
        let sum = || crc32c(sb.checksum_seed, [&sequence.to_be_bytes(), data]);
        match sb.checksums {
            Checksums::V3 => matches_checksum(sum(), self.checksum),
            Checksums::V2 => matches_checksum(sum() & 0xFFFF, self.checksum),
            Checksums::None | Checksums::Transaction => true,
        }
    }
}

/// The tags of a descriptor block, in the order of their data blocks.
pub(super) fn tags<'a>(
    sb: &'a JournalSuperblock,
    block: &'a [u8],
) -> impl Iterator<Item = Tag> + 'a {
    let tail = if sb.checks_blocks() { TAIL_BYTES } else { 0 };
    let room = block.len().saturating_sub(tail);
    let tag_bytes = tag_bytes(sb);
    let mut at = Some(HEADER_BYTES);
    std::iter::from_fn(move || {
        let from = at?;
        let to = from.checked_add(tag_bytes).filter(|&to| to <= room)?;
        let tag = block.get(from..to)?;
        let t_blocknr = u64::from(read_u32be(tag, 0x0));
        // Version 3 has 32 bits of flags here, of which none of the upper half is used.
        let t_flags = read_u16be(tag, 0x6);
        let t_blocknr_high = if sb.wide {
            u64::from(read_u32be(tag, 0x8))
        } else {
            0
        };
        let uuid = if t_flags & FLAG_SAME_UUID == 0 { 16 } else { 0 };
        at = if t_flags & FLAG_LAST_TAG == 0 {
            to.checked_add(uuid)
        } else {
            None
        };
        Some(Tag {
            block: t_blocknr_high << 32 | t_blocknr,
            escaped: t_flags & FLAG_ESCAPE != 0,
            checksum: match sb.checksums {
                Checksums::V3 => read_u32be(tag, 0xC),
                _ => u32::from(read_u16be(tag, 0x4)),
            },
        })
    })
}

/// `journal_tag_bytes`: version 2 is two bytes longer than what it uses.
fn tag_bytes(sb: &JournalSuperblock) -> usize {
    match (sb.checksums, sb.wide) {
        (Checksums::V3, _) => 16,
        (Checksums::V2, true) => 14,
        (Checksums::V2, false) => 10,
        (_, true) => 12,
        (_, false) => 8,
    }
}
