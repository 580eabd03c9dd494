//! APFS: the blocks in use of a container, from its space manager, whatever volumes, snapshots and
//! encryption are in it (Apple, "Apple File System Reference").
//!
//! In: a volume. Out: its used bytes, or the reason why the space manager is not to be trusted. APFS
//! never writes in place, but which of its checkpoints a mount would choose after a crash is its
//! own decision: only one that was unmounted is mapped.
//!
//! Each file is one structure: `object`, `container`, `spaceman`.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

mod container;
mod object;
mod spaceman;

use super::bitmap;
use super::collect::RunCollector;
use super::finding::{Filesystem, Mapped, Refusal, UsedBytes};
use super::region::State;
use crate::device::ReadAt;
use crate::extent::Extent;
use crate::units::{ByteLen, ByteOffset};
use container::Container;
use spaceman::{Chunk, Spaceman};

/// Bitmaps that lie side by side are read up to this many at once.
const BITMAPS_AT_ONCE: usize = 64;

/// Reads what a volume with the signature of APFS holds.
pub(super) fn look(volume: &dyn ReadAt) -> Filesystem {
    let container = match Container::read(volume) {
        Ok(container) => container,
        Err(refusal) => return Filesystem::refused(refusal),
    };
    let spaceman = Spaceman::read(volume, &container);
    let used_if_clean = spaceman.as_ref().ok().map(|spaceman| {
        let blocks = container.block_count.saturating_sub(spaceman.free_count);
        ByteLen(blocks.saturating_mul(container.block_size))
    });
    Filesystem {
        name: None,
        label: None,
        uuid: Some(container.uuid.hyphenated().to_string()),
        used_if_clean,
        verdict: container
            .refuse_unless_clean(volume)
            .and_then(|()| used(volume, &container, &spaceman?))
            .map(|used| Mapped {
                state: State::Clean,
                reason: "clean: the blocks that its space manager calls used are taken".into(),
                used,
            }),
    }
}

/// The bytes in use of a clean container.
fn used(
    volume: &dyn ReadAt,
    container: &Container,
    spaceman: &Spaceman,
) -> Result<UsedBytes, Refusal> {
    let mut walk = Walk {
        volume,
        block_size: container.block_size,
        runs: RunCollector::new(),
        free: 0,
    };
    spaceman.for_each_cib(volume, container, |chunks| walk.chunks(chunks))?;
    if walk.free != spaceman.free_count {
        return Err(Refusal::Damaged(format!(
            "the bitmaps have {} free blocks, the space manager says {} (repair it with fsck_apfs \
             for a smaller copy)",
            walk.free, spaceman.free_count
        )));
    }
    // In use by definition: the first block, both checkpoint areas, the space manager's own.
    let mut fixed = RunCollector::new();
    let areas = container.areas.into_iter().chain(spaceman.internal);
    for (start, end) in areas.chain([(0, 1)]) {
        take(&mut fixed, container.block_size, start, end);
    }
    Ok(UsedBytes {
        covers: ByteLen(container.block_count.saturating_mul(container.block_size)),
        extents: walk.runs.finish().union(&fixed.finish()),
    })
}

struct Walk<'a> {
    volume: &'a dyn ReadAt,
    block_size: u64,
    runs: RunCollector,
    free: u64,
}

impl Walk<'_> {
    /// The chunks of a chunk info block; bitmaps of neighbours are often neighbours.
    fn chunks(&mut self, chunks: &[Chunk]) -> Result<(), Refusal> {
        for side_by_side in
            chunks.chunk_by(|a, b| a.bitmap != 0 && a.bitmap.checked_add(1) == Some(b.bitmap))
        {
            for batch in side_by_side.chunks(BITMAPS_AT_ONCE) {
                self.batch(batch)?;
            }
        }
        Ok(())
    }

    /// Chunks whose bitmaps lie side by side, or one without.
    fn batch(&mut self, batch: &[Chunk]) -> Result<(), Refusal> {
        let Some(first) = batch.first() else {
            return Ok(());
        };
        let block_size = usize::try_from(self.block_size).unwrap_or(0);
        let mut bitmaps = vec![0; batch.len().saturating_mul(block_size)];
        if first.bitmap != 0 {
            let at = first.bitmap.saturating_mul(self.block_size);
            self.volume.read_at(ByteOffset(at), &mut bitmaps)?;
        }
        for (chunk, bits) in batch.iter().zip(bitmaps.chunks_exact(block_size)) {
            let mut free = chunk.blocks;
            for (from, to) in bitmap::runs(bits, chunk.blocks) {
                free = free.saturating_sub(to.saturating_sub(from));
                take(
                    &mut self.runs,
                    self.block_size,
                    chunk.first.saturating_add(from),
                    chunk.first.saturating_add(to),
                );
            }
            if free != chunk.free {
                return Err(Refusal::Damaged(format!(
                    "the bitmap of the chunk from block {} on has {free} free blocks, its list \
                     says {} (repair it with fsck_apfs for a smaller copy)",
                    chunk.first, chunk.free
                )));
            }
            self.free = self.free.saturating_add(free);
        }
        Ok(())
    }
}

/// Takes blocks, `end` not included.
fn take(runs: &mut RunCollector, block_size: u64, start: u64, end: u64) {
    let bytes = Extent::between(
        start.saturating_mul(block_size),
        end.saturating_mul(block_size),
    );
    if let Some(bytes) = bytes {
        runs.push(bytes);
    }
}
