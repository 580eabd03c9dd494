//! ReiserFS of formats 3.5 and 3.6: the blocks in use, from its bitmaps (`fs/reiserfs/reiserfs.h`,
//! `super.c` and `journal.c` of Linux).
//!
//! The superblock is 64 KiB into the volume, the first bitmap in the block behind it, each other one
//! in the first block that it speaks of. The older layout, with the superblock at 8 KiB and all
//! bitmaps behind it, is refused.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use super::bitmap;
use super::collect::RunCollector;
use super::finding::{Filesystem, Mapped, Refusal, UsedBytes};
use super::region::State;
use crate::bytes::{has_magic, read_array, read_text, read_u16le, read_u32le};
use crate::device::ReadAt;
use crate::extent::Extent;
use crate::units::{ByteLen, ByteOffset};
use uuid::Uuid;

const SUPERBLOCK_AT: u64 = 64 << 10;
const SUPERBLOCK_BYTES: usize = 204;
/// `REISERFS_VALID_FS`.
const VALID: u16 = 1;
/// `JOURNAL_DESC_MAGIC`, 12 bytes before the end of a transaction's first block.
const DESC_MAGIC: &[u8] = b"ReIsErLB";
/// Blocks of the journal read at once.
const BLOCKS_AT_ONCE: u64 = 128;
/// mkreiserfs makes no larger journal.
const MAX_JOURNAL_BLOCKS: u64 = 32_749;

/// A superblock whose numbers fit together and fit the volume.
struct Superblock {
    block_count: u64,
    free_blocks: u64,
    block_size: u64,
    /// `jp_journal_1st_block` and `jp_journal_size`, in blocks; the journal's header is behind it.
    journal_first: u64,
    journal_blocks: u64,
    umount_state: u16,
    fs_state: u16,
    label: Option<String>,
    uuid: Option<String>,
}

/// Reads what a volume with the signature of ReiserFS holds.
pub(super) fn look(volume: &dyn ReadAt) -> Filesystem {
    let superblock = match Superblock::read(volume) {
        Ok(superblock) => superblock,
        Err(refusal) => return Filesystem::refused(refusal),
    };
    let used_blocks = superblock
        .block_count
        .saturating_sub(superblock.free_blocks);
    Filesystem {
        name: None,
        label: superblock.label.clone(),
        uuid: superblock.uuid.clone(),
        used_if_clean: Some(ByteLen(used_blocks.saturating_mul(superblock.block_size))),
        verdict: used(volume, &superblock).map(|used| Mapped {
            state: State::Clean,
            reason: "clean: the blocks that its bitmaps call used are taken".into(),
            used,
        }),
    }
}

impl Superblock {
    fn read(volume: &dyn ReadAt) -> Result<Self, Refusal> {
        let mut bytes = [0; SUPERBLOCK_BYTES];
        volume.read_at(ByteOffset(SUPERBLOCK_AT), &mut bytes)?;
        Self::parse(&bytes, volume.size().0)
    }

    fn parse(bytes: &[u8; SUPERBLOCK_BYTES], volume_size: u64) -> Result<Self, Refusal> {
        let block_count = u64::from(read_u32le(bytes, 0));
        let free_blocks = u64::from(read_u32le(bytes, 4));
        let journal_first = u64::from(read_u32le(bytes, 12));
        let journal_device = read_u32le(bytes, 16);
        let journal_blocks = u64::from(read_u32le(bytes, 20));
        let block_size = u64::from(read_u16le(bytes, 44));
        let bitmaps = u64::from(read_u16le(bytes, 70));
        let version = read_u16le(bytes, 72);
        // The third is of either format with a journal of a size of its own.
        let known = [&b"ReIsErFs"[..], b"ReIsEr2Fs", b"ReIsEr3Fs"];
        if !known.iter().any(|magic| has_magic(bytes, 52, magic)) {
            return Err(Refusal::Unsupported(
                "in the layout of its first versions, with the superblock at 8 KiB".into(),
            ));
        }
        if journal_device != 0 {
            return Err(Refusal::Unsupported(
                "its journal is on another disk".into(),
            ));
        }
        if !matches!(version, 0 | 2) {
            return Err(Refusal::Unsupported(format!("of format {version}")));
        }
        let odd = |what: String| Refusal::Damaged(format!("the superblock claims {what}"));
        if !block_size.is_power_of_two() || !(1024..=8192).contains(&block_size) {
            return Err(odd(format!("blocks of {block_size} bytes")));
        }
        if block_count.saturating_mul(block_size) > volume_size {
            return Err(odd(format!(
                "{block_count} blocks of {block_size} bytes, but its partition has {volume_size} \
                 bytes"
            )));
        }
        let needed = block_count.div_ceil(block_size.saturating_mul(8));
        // Above 65,535 bitmaps the field is 0.
        if free_blocks > block_count || (bitmaps != needed && needed <= u64::from(u16::MAX)) {
            return Err(odd(format!(
                "{block_count} blocks, {free_blocks} of them free, and {bitmaps} bitmaps"
            )));
        }
        // One more block behind it is its header.
        let journal_end = journal_first.saturating_add(journal_blocks);
        if journal_end >= block_count
            || journal_first.saturating_mul(block_size) <= SUPERBLOCK_AT
            || !(1..=MAX_JOURNAL_BLOCKS).contains(&journal_blocks)
        {
            return Err(odd(format!(
                "a journal of {journal_blocks} blocks from block {journal_first} on"
            )));
        }
        // Format 3.5 ends before them.
        let named = version == 2;
        let uuid = Uuid::from_bytes(read_array(bytes, 84));
        Ok(Self {
            block_count,
            free_blocks,
            block_size,
            journal_first,
            journal_blocks,
            umount_state: read_u16le(bytes, 50),
            fs_state: read_u16le(bytes, 62),
            label: read_text(bytes, 100, 16).filter(|_| named),
            uuid: (named && !uuid.is_nil()).then(|| uuid.hyphenated().to_string()),
        })
    }

    /// Blocks that one bitmap speaks of.
    fn blocks_per_bitmap(&self) -> u64 {
        self.block_size.saturating_mul(8)
    }

    fn bytes_of(&self, start: u64, end: u64) -> Option<Extent> {
        Extent::between(
            start.checked_mul(self.block_size)?,
            end.checked_mul(self.block_size)?,
        )
    }
}

/// The bytes in use of a clean filesystem.
fn used(volume: &dyn ReadAt, sb: &Superblock) -> Result<UsedBytes, Refusal> {
    if sb.fs_state != 0 {
        return Err(Refusal::Dirty(
            "the filesystem has recorded errors (boot the server and let reiserfsck repair it for \
             a smaller copy)"
                .into(),
        ));
    }
    if sb.umount_state != VALID {
        return Err(Refusal::Dirty(
            "it was not unmounted (boot the server once and power it off properly for a smaller \
             copy)"
                .into(),
        ));
    }
    refuse_replay(volume, sb)?;
    let mut runs = RunCollector::new();
    let mut used_blocks = 0_u64;
    let mut first = 0;
    while first < sb.block_count {
        let at = if first == 0 {
            SUPERBLOCK_AT.saturating_add(sb.block_size)
        } else {
            first.saturating_mul(sb.block_size)
        };
        let bits = read_blocks(volume, sb, at, 1)?;
        let blocks = sb
            .blocks_per_bitmap()
            .min(sb.block_count.saturating_sub(first));
        for (from, to) in bitmap::runs(&bits, blocks) {
            used_blocks = used_blocks.saturating_add(to.saturating_sub(from));
            let extent = sb.bytes_of(first.saturating_add(from), first.saturating_add(to));
            if let Some(extent) = extent {
                runs.push(extent);
            }
        }
        first = first.saturating_add(sb.blocks_per_bitmap());
    }
    let free = sb.block_count.saturating_sub(used_blocks);
    if free != sb.free_blocks {
        return Err(Refusal::Damaged(format!(
            "the bitmaps have {free} free blocks, the superblock says {} (boot the server and let \
             reiserfsck repair it for a smaller copy)",
            sb.free_blocks
        )));
    }
    // Boot sectors, superblock and first bitmap: in use by definition.
    let head_end = SUPERBLOCK_AT.saturating_add(sb.block_size.saturating_mul(2));
    let head = Extent::between(0, head_end).into_iter().collect();
    Ok(UsedBytes {
        covers: ByteLen(sb.block_count.saturating_mul(sb.block_size)),
        extents: runs.finish().union(&head),
    })
}

/// The superblock's state is written through the journal, so it may still say that the filesystem
/// was unmounted after a crash: what counts is whether a transaction would be replayed
/// (`journal_read`).
fn refuse_replay(volume: &dyn ReadAt, sb: &Superblock) -> Result<(), Refusal> {
    let first = sb.journal_first.saturating_mul(sb.block_size);
    let header_at = first.saturating_add(sb.journal_blocks.saturating_mul(sb.block_size));
    let header = read_blocks(volume, sb, header_at, 1)?;
    let last_flushed = read_u32le(&header, 0);
    let first_unflushed = u64::from(read_u32le(&header, 4));
    let is_waiting = |block: &[u8]| {
        let magic_at = block.len().saturating_sub(12);
        has_magic(block, magic_at, DESC_MAGIC) && read_u32le(block, 0) > last_flushed
    };
    let dirty = if last_flushed > 0 {
        if first_unflushed >= sb.journal_blocks {
            return Err(Refusal::Damaged(
                "its journal's header points outside the journal".into(),
            ));
        }
        let at = first.saturating_add(first_unflushed.saturating_mul(sb.block_size));
        is_waiting(&read_blocks(volume, sb, at, 1)?)
    } else {
        // Nothing was ever flushed: any transaction anywhere may be one.
        let block_size = usize::try_from(sb.block_size).unwrap_or(usize::MAX);
        let mut nth = 0;
        let mut found = false;
        while nth < sb.journal_blocks && !found {
            let count = BLOCKS_AT_ONCE.min(sb.journal_blocks.saturating_sub(nth));
            let at = first.saturating_add(nth.saturating_mul(sb.block_size));
            let blocks = read_blocks(volume, sb, at, count)?;
            found = blocks.chunks_exact(block_size).any(is_waiting);
            nth = nth.saturating_add(count);
        }
        found
    };
    if dirty {
        return Err(Refusal::Dirty(
            "its journal holds writes that have not reached their places, because the server was \
             not shut down (boot it once and power it off properly for a smaller copy)"
                .into(),
        ));
    }
    Ok(())
}

/// Some blocks from a byte on, of which there are few.
fn read_blocks(
    volume: &dyn ReadAt,
    sb: &Superblock,
    at: u64,
    count: u64,
) -> Result<Vec<u8>, Refusal> {
    let len = usize::try_from(count.saturating_mul(sb.block_size)).unwrap_or(usize::MAX);
    let mut bytes = vec![0; len];
    volume.read_at(ByteOffset(at), &mut bytes)?;
    Ok(bytes)
}
