//! The walk over all groups: their bitmaps one after the other, the counts compared.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use super::group_desc::GroupDesc;
use super::layout::BlockRun;
use super::read_blocks;
use super::superblock::Superblock;
use crate::device::ReadAt;
use crate::extent::Extent;
use crate::units::ByteLen;
use crate::usedmap::bitmap;
use crate::usedmap::collect::RunCollector;
use crate::usedmap::finding::{Refusal, UsedBytes};
use crate::usedmap::overlay::Overlay;

/// Bitmaps of neighbouring groups lie side by side (flex_bg): read up to this many at once.
const BITMAPS_AT_ONCE: u64 = 64;

/// The volume beneath a replayed journal, and the superblock that is still on it.
pub(super) struct Before<'a> {
    /// What the journal lays over it.
    pub overlay: &'a Overlay<'a>,
    /// As it is on the disk.
    pub sb: &'a Superblock,
}

/// See the module.
pub(super) struct Walk<'a> {
    volume: &'a dyn ReadAt,
    sb: &'a Superblock,
    /// Where a journal was replayed.
    before: Option<Before<'a>>,
    runs: RunCollector,
    metadata: RunCollector,
    free_clusters: u64,
}

impl<'a> Walk<'a> {
    /// `volume` as `before` was laid over it, if there is one.
    pub(super) fn new(
        volume: &'a dyn ReadAt,
        sb: &'a Superblock,
        before: Option<Before<'a>>,
    ) -> Self {
        Self {
            volume,
            sb,
            before,
            runs: RunCollector::new(),
            metadata: RunCollector::new(),
            free_clusters: 0,
        }
    }

    /// Takes blocks that are in use whatever the bitmaps say.
    pub(super) fn take(&mut self, run: BlockRun) {
        if let Some(extent) = self.sb.bytes_of(run) {
            self.metadata.push(extent);
        }
    }

    /// The bytes in use.
    pub(super) fn run(mut self) -> Result<UsedBytes, Refusal> {
        for nth in 0..self.sb.desc_blocks() {
            self.descriptor_block(nth)?;
        }
        self.finish()
    }

    /// All groups whose descriptors are in one block.
    fn descriptor_block(&mut self, nth: u64) -> Result<(), Refusal> {
        let sb = self.sb;
        let block = sb.desc_block(nth);
        let bytes = read_blocks(self.volume, sb, block, 1, || {
            format!("reading the group descriptors in block {block}")
        })?;
        let first_group = nth.saturating_mul(sb.descs_per_block());
        let mut groups = Vec::new();
        for (bytes, group) in bytes
            .chunks_exact(sb.desc_size)
            .zip(first_group..sb.group_count)
        {
            let desc = GroupDesc::parse(sb, group, bytes)?;
            self.take_metadata(group, &desc);
            groups.push((group, desc));
        }
        // Runs of groups whose bitmaps are neighbours, and all written or all not: in a large and
        // nearly empty filesystem that is one of sixteen.
        for chunk in groups.chunk_by(|(_, a), (_, b)| {
            a.block_bitmap.checked_add(1) == Some(b.block_bitmap)
                && a.block_uninit == b.block_uninit
        }) {
            for batch in chunk.chunks(usize::try_from(BITMAPS_AT_ONCE).unwrap_or(1)) {
                self.groups(batch)?;
            }
        }
        Ok(())
    }

    fn take_metadata(&mut self, group: u64, desc: &GroupDesc) {
        let base = self.sb.base_metadata(group);
        for run in [base].into_iter().chain(desc.metadata()) {
            self.take(run);
        }
    }

    /// Groups whose bitmaps lie side by side.
    fn groups(&mut self, batch: &[(u64, GroupDesc)]) -> Result<(), Refusal> {
        let Some((first_group, first)) = batch.first() else {
            return Ok(());
        };
        let sb = self.sb;
        let bitmaps = if first.block_uninit {
            Vec::new()
        } else {
            read_blocks(self.volume, sb, first.block_bitmap, batch.len(), || {
                format!("reading the block bitmaps of group {first_group} and its neighbours")
            })?
        };
        let block_size = usize::try_from(sb.block_size).unwrap_or(usize::MAX);
        let mut bitmaps = bitmaps.chunks_exact(block_size);
        for (group, desc) in batch {
            let bitmap = bitmaps.next().unwrap_or_default();
            let free = if desc.block_uninit {
                self.uninitialised(*group, desc)
            } else {
                self.initialised(*group, desc, bitmap)?
            };
            if free != desc.free_clusters {
                return Err(Refusal::Damaged(format!(
                    "in group {group} the bitmap has {free} free, its descriptor says {} (boot \
                     the server and let e2fsck repair it for a smaller copy)",
                    desc.free_clusters
                )));
            }
            self.free_clusters = self.free_clusters.saturating_add(free);
        }
        Ok(())
    }

    /// A group with a bitmap: its runs, and how many clusters are free.
    fn initialised(&mut self, group: u64, desc: &GroupDesc, bitmap: &[u8]) -> Result<u64, Refusal> {
        if !desc.accepts_bitmap(self.sb, bitmap) {
            return Err(Refusal::Damaged(format!(
                "the block bitmap of group {group} does not match its checksum (boot the server \
                 and let e2fsck repair it for a smaller copy)"
            )));
        }
        let (used, free) = used_in_group(self.sb, group, bitmap);
        for extent in used {
            self.runs.push(extent);
        }
        self.take_what_was_used_before(group, desc);
        Ok(free)
    }

    /// Where the journal replaces a bitmap, what the one on the disk calls used is taken too: so the
    /// copy holds what the source holds even if its journal is thrown away instead of replayed.
    fn take_what_was_used_before(&mut self, group: u64, now: &GroupDesc) {
        let Some(before) = &self.before else {
            return;
        };
        if !before.overlay.covers(now.block_bitmap) || group >= before.sb.group_count {
            return;
        }
        let (volume, sb) = (before.overlay.volume(), before.sb);
        // It need not be sound: the blocks that make it so may be in the journal.
        let Ok(desc) = GroupDesc::read(volume, sb, group) else {
            return;
        };
        if desc.block_uninit {
            return;
        }
        let bitmap = read_blocks(volume, sb, desc.block_bitmap, 1, String::new);
        let Some(bitmap) = bitmap.ok().filter(|bitmap| desc.accepts_bitmap(sb, bitmap)) else {
            return;
        };
        for extent in used_in_group(sb, group, &bitmap).0 {
            self.runs.push(extent);
        }
    }

    /// A group that nothing was ever allocated in: only its own metadata (already taken) is in use,
    /// as far as it lies in the group itself. How many clusters are free.
    fn uninitialised(&self, group: u64, desc: &GroupDesc) -> u64 {
        let sb = self.sb;
        let window = sb.group_blocks(group);
        let mut used: Vec<(u64, u64)> = [sb.base_metadata(group)]
            .into_iter()
            .chain(desc.metadata())
            .filter_map(|run| {
                let start = run.start.max(window.start).checked_sub(window.start)?;
                let end = run.end.min(window.end).checked_sub(window.start)?;
                let first = start.checked_div(sb.blocks_per_cluster)?;
                (start < end).then_some((first, end.div_ceil(sb.blocks_per_cluster)))
            })
            .collect();
        used.sort_unstable();
        let mut free = sb.clusters_in(group);
        let mut counted = 0;
        for (from, to) in used {
            free = free.saturating_sub(to.saturating_sub(from.max(counted)));
            counted = counted.max(to);
        }
        free
    }

    fn finish(self) -> Result<UsedBytes, Refusal> {
        let sb = self.sb;
        let free_blocks = self.free_clusters.saturating_mul(sb.blocks_per_cluster);
        // With clusters the superblock's count is of whole clusters too, so a short last one may
        // make it one cluster larger than the filesystem: equal is equal in both.
        // The kernel writes the superblock's count only now and then and counts anew when it mounts
        // a filesystem that was not shut down; the journal need not hold it.
        if self.before.is_none() && free_blocks != sb.free_blocks {
            return Err(Refusal::Damaged(format!(
                "the bitmaps have {free_blocks} free blocks, the superblock says {} (boot the \
                 server and let e2fsck repair it for a smaller copy)",
                sb.free_blocks
            )));
        }
        let mut metadata = self.metadata;
        // With blocks of 1 KiB the boot block lies before the first group.
        let boot_block = Extent::between(0, sb.first_data_block.saturating_mul(sb.block_size));
        if let Some(boot_block) = boot_block {
            metadata.push(boot_block);
        }
        let extents = self.runs.finish().union(&metadata.finish());
        Ok(UsedBytes {
            covers: ByteLen(sb.blocks_count.saturating_mul(sb.block_size)),
            extents,
        })
    }
}

/// The runs that a group's bitmap calls used, and how many clusters are free.
pub(crate) fn used_in_group<'a>(
    sb: &'a Superblock,
    group: u64,
    bitmap: &'a [u8],
) -> (impl Iterator<Item = Extent> + 'a, u64) {
    let start = sb.group_start(group);
    let clusters = sb.clusters_in(group);
    let used = bitmap::runs(bitmap, clusters).fold(0_u64, |sum, (from, to)| {
        sum.saturating_add(to.saturating_sub(from))
    });
    let extents = bitmap::runs(bitmap, clusters).filter_map(move |(from, to)| {
        let block =
            |cluster: u64| start.saturating_add(cluster.saturating_mul(sb.blocks_per_cluster));
        sb.bytes_of(BlockRun {
            start: block(from),
            end: block(to).min(sb.blocks_count),
        })
    });
    (extents, clusters.saturating_sub(used))
}
