//! The segment information table of F2FS (`struct f2fs_sit_entry`): for each segment of the main
//! area how many of its blocks are valid, and which. Each of its blocks exists twice; a bitmap in
//! the checkpoint says which one counts, and a journal there overrides up to six entries.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use super::checkpoint::{Checkpoint, read_block};
use super::superblock::Superblock;
use crate::bytes::{read_array, read_u16le, read_u32le};
use crate::device::ReadAt;
use crate::usedmap::finding::Refusal;
use std::collections::BTreeMap;

/// Entries a block: 4096 / 74.
pub(super) const ENTRIES_PER_BLOCK: u64 = 55;
const ENTRY_BYTES: usize = 74;
const MAX_JOURNAL_ENTRIES: u16 = 6;
/// Blocks of the SIT read at once: 1 MiB.
const BLOCKS_AT_ONCE: u64 = 256;
/// Types 0 to 2 hold data, 3 to 5 nodes.
const FIRST_NODE_TYPE: u16 = 3;

/// What the SIT says of a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    /// How many of its 512 blocks are valid.
    pub valid_blocks: u64,
    /// Whether they are nodes.
    pub is_node: bool,
    /// Which are valid, the least significant bit of a byte first (on disk it is the most).
    pub valid_map: [u8; 64],
}

impl Entry {
    fn parse(segment: u64, bytes: &[u8]) -> Result<Self, Refusal> {
        let vblocks = read_u16le(bytes, 0);
        let valid_map: [u8; 64] = read_array(bytes, 2);
        let valid_map = valid_map.map(u8::reverse_bits);
        let set: u32 = valid_map.iter().map(|byte| byte.count_ones()).sum();
        let claimed = vblocks & 0x3FF;
        if u32::from(claimed) != set {
            return Err(Refusal::Damaged(format!(
                "segment {segment} has {set} valid blocks, but says {claimed} (boot the server \
                 and let fsck.f2fs repair it for a smaller copy)"
            )));
        }
        Ok(Self {
            valid_blocks: u64::from(claimed),
            is_node: vblocks >> 10 >= FIRST_NODE_TYPE,
            valid_map,
        })
    }
}

/// Hands every segment's entry to `each`, in ascending order.
pub(super) fn for_each(
    volume: &dyn ReadAt,
    sb: &Superblock,
    checkpoint: &Checkpoint,
    mut each: impl FnMut(u64, &Entry),
) -> Result<(), Refusal> {
    let journal = journal(&checkpoint.sit_journal(volume)?, sb.main_segments)?;
    let blocks = sb.main_segments.div_ceil(ENTRIES_PER_BLOCK);
    let mut first = 0;
    while first < blocks {
        let end = first.saturating_add(BLOCKS_AT_ONCE).min(blocks);
        let copies = [
            copy(volume, sb, checkpoint, first, end, false)?,
            copy(volume, sb, checkpoint, first, end, true)?,
        ];
        let [first_copy, second_copy] = copies.each_ref().map(|copy| copy.chunks_exact(4096));
        for ((nth, one), two) in (first..end).zip(first_copy).zip(second_copy) {
            let block = if is_second(checkpoint, nth) { two } else { one };
            let segments = nth.saturating_mul(ENTRIES_PER_BLOCK)..sb.main_segments;
            for (segment, bytes) in segments.zip(block.chunks_exact(ENTRY_BYTES)) {
                match journal.get(&segment) {
                    Some(entry) => each(segment, entry),
                    None => each(segment, &Entry::parse(segment, bytes)?),
                }
            }
        }
        first = end;
    }
    Ok(())
}

/// Blocks `first..end` of one copy of the SIT; zeros if none of them counts.
fn copy(
    volume: &dyn ReadAt,
    sb: &Superblock,
    checkpoint: &Checkpoint,
    first: u64,
    end: u64,
    second: bool,
) -> Result<Vec<u8>, Refusal> {
    let len = end.saturating_sub(first).saturating_mul(4096);
    let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
    if (first..end).any(|nth| is_second(checkpoint, nth) == second) {
        let skipped = if second { sb.sit_blocks } else { 0 };
        let at = sb.sit_blkaddr.saturating_add(skipped).saturating_add(first);
        read_block(volume, at, &mut bytes)?;
    }
    Ok(bytes)
}

/// Whether the second copy of a block of the SIT counts.
fn is_second(checkpoint: &Checkpoint, nth: u64) -> bool {
    let byte = usize::try_from(nth >> 3)
        .ok()
        .and_then(|at| checkpoint.sit_bitmap.get(at));
    // The most significant bit first.
    let shift = u32::try_from(nth & 7).unwrap_or(0);
    let mask = 0x80_u8.checked_shr(shift).unwrap_or(0);
    byte.is_some_and(|byte| byte & mask != 0)
}

/// The entries of the journal by their segment (`struct sit_journal_entry`).
fn journal(bytes: &[u8], main_segments: u64) -> Result<BTreeMap<u64, Entry>, Refusal> {
    let n_sits = read_u16le(bytes, 0);
    if n_sits > MAX_JOURNAL_ENTRIES {
        return Err(Refusal::Damaged(format!(
            "the journal of the SIT claims {n_sits} entries"
        )));
    }
    let entries = bytes.get(2..).unwrap_or_default();
    let mut all = BTreeMap::new();
    for bytes in entries.chunks_exact(78).take(usize::from(n_sits)) {
        let segment = u64::from(read_u32le(bytes, 0));
        if segment >= main_segments {
            return Err(Refusal::Damaged(format!(
                "the journal of the SIT speaks of segment {segment} of {main_segments}"
            )));
        }
        let entry = Entry::parse(segment, bytes.get(4..).unwrap_or_default())?;
        all.insert(segment, entry);
    }
    Ok(all)
}
