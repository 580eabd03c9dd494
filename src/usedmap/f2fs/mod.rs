//! F2FS: the blocks in use, from its segment information table.
//!
//! In: a volume. Out: its used bytes, or the reason why the table is not to be trusted. All
//! metadata before the main area is taken, except the summaries of segments without a valid block:
//! they are 2 GiB for each TiB, and nobody reads them before writing them.
//!
//! Each file is one structure: `superblock`, `checkpoint`, `sit`; `checksum` is theirs.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

mod checkpoint;
mod checksum;
mod sit;
mod superblock;

use super::bitmap;
use super::collect::RunCollector;
use super::finding::{Filesystem, Mapped, Refusal, UsedBytes};
use super::region::State;
use crate::device::ReadAt;
use crate::extent::Extent;
use crate::units::ByteLen;
use checkpoint::Checkpoint;
use superblock::{BLOCK, BLOCKS_PER_SEGMENT, Superblock};

/// Reads what a volume with the signature of F2FS holds.
pub(super) fn look(volume: &dyn ReadAt) -> Filesystem {
    let superblock = match Superblock::read(volume) {
        Ok(superblock) => superblock,
        Err(refusal) => return Filesystem::refused(refusal),
    };
    let checkpoint = Checkpoint::newest(volume, &superblock);
    let used_if_clean = checkpoint.as_ref().ok().map(|checkpoint| {
        let blocks = superblock
            .main_blkaddr
            .saturating_add(checkpoint.valid_block_count)
            .min(superblock.block_count);
        ByteLen(blocks.saturating_mul(BLOCK))
    });
    Filesystem {
        name: None,
        label: superblock.label.clone(),
        uuid: Some(superblock.uuid.hyphenated().to_string()),
        used_if_clean,
        verdict: checkpoint
            .and_then(|checkpoint| used(volume, &superblock, &checkpoint))
            .map(|used| Mapped {
                state: State::Clean,
                reason: "clean: the blocks that its segment information table calls valid are \
                         taken"
                    .into(),
                used,
            }),
    }
}

/// The bytes in use of a clean filesystem.
fn used(
    volume: &dyn ReadAt,
    sb: &Superblock,
    checkpoint: &Checkpoint,
) -> Result<UsedBytes, Refusal> {
    checkpoint.refuse_unless_clean(volume, sb)?;
    let mut metadata = RunCollector::new();
    let mut runs = RunCollector::new();
    take(&mut metadata, 0, sb.ssa_blkaddr);
    let (mut nodes, mut all) = (0_u64, 0_u64);
    sit::for_each(volume, sb, checkpoint, |segment, entry| {
        all = all.saturating_add(entry.valid_blocks);
        if entry.is_node {
            nodes = nodes.saturating_add(entry.valid_blocks);
        }
        if entry.valid_blocks > 0 || checkpoint.current_segments.contains(&segment) {
            let summary = sb.ssa_blkaddr.saturating_add(segment);
            take(&mut metadata, summary, summary.saturating_add(1));
        }
        let start = sb.segment_start(segment);
        for (from, to) in bitmap::runs(&entry.valid_map, BLOCKS_PER_SEGMENT) {
            take(
                &mut runs,
                start.saturating_add(from),
                start.saturating_add(to),
            );
        }
    })?;
    // As `build_sit_entries` of Linux checks it: blocks that are promised to files but have no
    // place yet are in the checkpoint's count only.
    if nodes != checkpoint.valid_node_count || all > checkpoint.valid_block_count {
        return Err(Refusal::Damaged(format!(
            "its segments have {all} valid blocks, {nodes} of them nodes, but the checkpoint says \
             {} and {} (boot the server and let fsck.f2fs repair it for a smaller copy)",
            checkpoint.valid_block_count, checkpoint.valid_node_count
        )));
    }
    Ok(UsedBytes {
        covers: ByteLen(sb.block_count.saturating_mul(BLOCK)),
        extents: metadata.finish().union(&runs.finish()),
    })
}

/// Takes blocks, `end` not included.
fn take(runs: &mut RunCollector, start: u64, end: u64) {
    let bytes = Extent::between(start.saturating_mul(BLOCK), end.saturating_mul(BLOCK));
    if let Some(bytes) = bytes {
        runs.push(bytes);
    }
}
