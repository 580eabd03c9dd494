//! HFS+ and HFSX: the blocks in use, from the allocation file (Apple, Technical Note TN1150, "HFS
//! Plus Volume Format"). All numbers on disk are big-endian.
//!
//! In: a volume. Out: its used bytes, or the reason why the allocation file is not to be trusted.
//! An HFS+ volume that is wrapped in an HFS one does not show its signature and does not come here.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

mod journal;
mod label;
mod volume_header;

use super::bitmap;
use super::collect::RunCollector;
use super::finding::{Filesystem, Mapped, Refusal, UsedBytes};
use super::region::State;
use crate::device::ReadAt;
use crate::extent::Extent;
use crate::units::{ByteLen, ByteOffset};
use volume_header::{Extents, HEADER_AT, HEADER_BYTES, VolumeHeader};

/// Bytes of the allocation file read at once.
const READ_AT_ONCE: u64 = 1 << 20;

/// Reads what a volume with the signature of HFS+ or HFSX holds.
pub(super) fn look(volume: &dyn ReadAt) -> Filesystem {
    let header = match VolumeHeader::read(volume) {
        Ok(header) => header,
        Err(refusal) => return Filesystem::refused(refusal),
    };
    Filesystem {
        name: None,
        label: label::read(volume, &header),
        uuid: None,
        used_if_clean: Some(ByteLen(
            header
                .total_blocks
                .saturating_sub(header.free_blocks)
                .saturating_mul(header.block_size),
        )),
        verdict: used(volume, &header).map(|used| Mapped {
            state: State::Clean,
            reason: "clean: the blocks that its allocation file calls used are taken".into(),
            used,
        }),
    }
}

/// The bytes in use of a clean filesystem.
fn used(volume: &dyn ReadAt, header: &VolumeHeader) -> Result<UsedBytes, Refusal> {
    header.refuse_unless_clean()?;
    if header.journaled {
        journal::refuse_unless_empty(volume, header)?;
    }
    let mut runs = RunCollector::new();
    let used_blocks = allocation_file(volume, header, &mut runs)?;
    let free = header.total_blocks.saturating_sub(used_blocks);
    if free != header.free_blocks {
        return Err(Refusal::Damaged(format!(
            "the allocation file has {free} free blocks, the volume header says {} (repair it \
             with fsck for a smaller copy)",
            header.free_blocks
        )));
    }
    // The boot blocks with the volume header, and the alternate one: in use by definition.
    let size = header.total_blocks.saturating_mul(header.block_size);
    let tail = size.saturating_sub(HEADER_AT);
    let ends = [
        Extent::between(0, HEADER_AT.saturating_add(HEADER_BYTES)),
        Extent::between(tail, size),
    ];
    let mut fixed = RunCollector::new();
    for extent in ends.into_iter().flatten() {
        fixed.push(extent);
    }
    Ok(UsedBytes {
        covers: ByteLen(size),
        extents: runs.finish().union(&fixed.finish()),
    })
}

/// Takes what the allocation file calls used: a bit a block, the most significant bit of a byte
/// first. How many blocks that is.
fn allocation_file(
    volume: &dyn ReadAt,
    header: &VolumeHeader,
    runs: &mut RunCollector,
) -> Result<u64, Refusal> {
    let mut first_block = 0_u64;
    let mut used = 0_u64;
    for piece in pieces(&header.allocation_file, header.block_size) {
        let blocks_left = header.total_blocks.saturating_sub(first_block);
        let bytes_left = blocks_left.div_ceil(8);
        let len = piece.len().0.min(bytes_left);
        if len == 0 {
            break;
        }
        let mut bits = vec![0; usize::try_from(len).unwrap_or(0)];
        volume.read_at(piece.start(), &mut bits)?;
        for byte in &mut bits {
            *byte = byte.reverse_bits();
        }
        let blocks = blocks_left.min(len.saturating_mul(8));
        for (from, to) in bitmap::runs(&bits, blocks) {
            used = used.saturating_add(to.saturating_sub(from));
            let byte = |block: u64| {
                first_block
                    .saturating_add(block)
                    .saturating_mul(header.block_size)
            };
            if let Some(extent) = Extent::between(byte(from), byte(to)) {
                runs.push(extent);
            }
        }
        first_block = first_block.saturating_add(blocks);
    }
    if first_block < header.total_blocks {
        return Err(Refusal::Damaged(format!(
            "the allocation file speaks of {first_block} of {} blocks",
            header.total_blocks
        )));
    }
    Ok(used)
}

/// The bytes of a file in its order, in pieces of a size to read at once.
fn pieces(file: &Extents, block_size: u64) -> impl Iterator<Item = Extent> {
    file.runs.iter().flat_map(move |&(start, count)| {
        let start = start.saturating_mul(block_size);
        let end = start.saturating_add(count.saturating_mul(block_size));
        let step = usize::try_from(READ_AT_ONCE).unwrap_or(usize::MAX);
        (start..end)
            .step_by(step)
            .filter_map(move |at| Extent::between(at, at.saturating_add(READ_AT_ONCE).min(end)))
    })
}

/// Reads `len` bytes at a place that must lie in the volume.
fn read<const N: usize>(volume: &dyn ReadAt, at: u64) -> Result<[u8; N], Refusal> {
    let mut bytes = [0; N];
    volume.read_at(ByteOffset(at), &mut bytes)?;
    Ok(bytes)
}
