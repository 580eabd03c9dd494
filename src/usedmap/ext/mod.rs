//! ext2, ext3 and ext4: the blocks in use, from the block bitmaps.
//!
//! In: a volume. Out: its used bytes, or the reason why its bitmaps are not to be trusted. Bitmaps
//! are read a group at a time and never kept; beside them everything that the format puts at fixed
//! places is taken, and the three counts of free blocks (bitmap, group descriptor, superblock) must
//! agree.
//!
//! Each file is one structure: `superblock`, `features`, `layout` (what is where), `group_desc`.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

mod features;
mod group_desc;
mod layout;
mod superblock;

pub use features::Features;
pub use superblock::Superblock;

use super::bitmap;
use super::collect::RunCollector;
use super::finding::{Filesystem, Mapped, Refusal, UsedBytes};
use super::region::State;
use crate::bytes::read_u32le;
use crate::device::ReadAt;
use crate::error::Error;
use crate::extent::Extent;
use crate::units::{ByteLen, ByteOffset};
use group_desc::GroupDesc;
use layout::BlockRun;

/// Bitmaps of neighbouring groups lie side by side (flex_bg): read up to this many at once.
const BITMAPS_AT_ONCE: u64 = 64;

/// Reads what a volume with the signature of ext2/3/4 holds.
pub(super) fn look(volume: &dyn ReadAt) -> Filesystem {
    let superblock = match Superblock::read(volume) {
        Ok(superblock) => superblock,
        Err(refusal) => return Filesystem::refused(refusal),
    };
    Filesystem {
        name: Some(superblock.flavour().into()),
        label: superblock.label.clone(),
        uuid: Some(superblock.uuid.hyphenated().to_string()),
        used_if_clean: Some(superblock.used_bytes()),
        verdict: used(volume, &superblock).map(|used| Mapped {
            state: State::Clean,
            reason: "clean: the blocks that its bitmaps call used are taken".into(),
            used,
        }),
    }
}

/// The bytes in use of a clean filesystem.
fn used(volume: &dyn ReadAt, sb: &Superblock) -> Result<UsedBytes, Refusal> {
    sb.refuse_unless_clean()?;
    refuse_if_multi_mounted(volume, sb)?;
    let mut walk = Walk {
        volume,
        sb,
        runs: RunCollector::new(),
        metadata: RunCollector::new(),
        free_clusters: 0,
    };
    for nth in 0..sb.desc_blocks() {
        walk.descriptor_block(nth)?;
    }
    walk.finish()
}

struct Walk<'a> {
    volume: &'a dyn ReadAt,
    sb: &'a Superblock,
    runs: RunCollector,
    metadata: RunCollector,
    free_clusters: u64,
}

impl Walk<'_> {
    /// All groups whose descriptors are in one block.
    fn descriptor_block(&mut self, nth: u64) -> Result<(), Refusal> {
        let sb = self.sb;
        let block = sb.desc_block(nth);
        let bytes = self.read_blocks(block, 1, || {
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
        // Runs of groups whose bitmaps are neighbours.
        for chunk in
            groups.chunk_by(|(_, a), (_, b)| a.block_bitmap.checked_add(1) == Some(b.block_bitmap))
        {
            for batch in chunk.chunks(usize::try_from(BITMAPS_AT_ONCE).unwrap_or(1)) {
                self.groups(batch)?;
            }
        }
        Ok(())
    }

    fn take_metadata(&mut self, group: u64, desc: &GroupDesc) {
        let base = self.sb.base_metadata(group);
        let extents = [base]
            .into_iter()
            .chain(desc.metadata())
            .filter_map(|run| self.sb.bytes_of(run));
        for extent in extents {
            self.metadata.push(extent);
        }
    }

    /// Groups whose bitmaps lie side by side.
    fn groups(&mut self, batch: &[(u64, GroupDesc)]) -> Result<(), Refusal> {
        let Some((first_group, first)) = batch.first() else {
            return Ok(());
        };
        let sb = self.sb;
        let all_uninit = batch.iter().all(|(_, desc)| desc.block_uninit);
        let bitmaps = if all_uninit {
            Vec::new()
        } else {
            self.read_blocks(first.block_bitmap, batch.len(), || {
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
        let start = self.sb.group_start(group);
        let clusters = self.sb.clusters_in(group);
        let mut free = clusters;
        for (from, to) in bitmap::runs(bitmap, clusters) {
            free = free.saturating_sub(to.saturating_sub(from));
            let block = |cluster: u64| {
                start.saturating_add(cluster.saturating_mul(self.sb.blocks_per_cluster))
            };
            let run = BlockRun {
                start: block(from),
                end: block(to).min(self.sb.blocks_count),
            };
            if let Some(extent) = self.sb.bytes_of(run) {
                self.runs.push(extent);
            }
        }
        Ok(free)
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
        if free_blocks != sb.free_blocks {
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

    fn read_blocks(
        &self,
        block: u64,
        count: usize,
        doing: impl Fn() -> String,
    ) -> Result<Vec<u8>, Refusal> {
        let block_size = usize::try_from(self.sb.block_size).unwrap_or(usize::MAX);
        let at = block.checked_mul(self.sb.block_size);
        let len = count.checked_mul(block_size);
        let (Some(at), Some(len)) = (at, len) else {
            return Err(Refusal::Damaged(format!("{} overflows", doing())));
        };
        let end = u64::try_from(len).ok().and_then(|len| at.checked_add(len));
        if end.is_none_or(|end| end > self.volume.size().0) {
            return Err(Refusal::Damaged(format!(
                "{}: it lies outside the filesystem",
                doing()
            )));
        }
        let mut bytes = vec![0; len];
        self.volume
            .read_at(ByteOffset(at), &mut bytes)
            .map_err(|error| {
                let kind = error.kind();
                Error::new(kind, doing()).because(error).at(at)
            })?;
        Ok(bytes)
    }
}

impl Superblock {
    /// What it calls used, in bytes.
    fn used_bytes(&self) -> ByteLen {
        let used = self.blocks_count.saturating_sub(self.free_blocks);
        ByteLen(used.saturating_mul(self.block_size))
    }

    fn bytes_of(&self, run: BlockRun) -> Option<Extent> {
        Extent::between(
            run.start.checked_mul(self.block_size)?,
            run.end.checked_mul(self.block_size)?,
        )
    }

    /// Bits of a group's bitmap that stand for something.
    fn clusters_in(&self, group: u64) -> u64 {
        let BlockRun { start, end } = self.group_blocks(group);
        end.saturating_sub(start).div_ceil(self.blocks_per_cluster)
    }
}

/// Multi-mount protection: another node may be using the filesystem while we look at it.
fn refuse_if_multi_mounted(volume: &dyn ReadAt, sb: &Superblock) -> Result<(), Refusal> {
    /// `EXT4_MMP_MAGIC` and `EXT4_MMP_SEQ_CLEAN`.
    const MAGIC: u32 = 0x004D_4D50;
    const CLEAN: u32 = 0xFF4D_4D50;
    if sb.mmp_block == 0 {
        return Ok(());
    }
    let mut bytes = [0; 8];
    let at = sb.mmp_block.saturating_mul(sb.block_size);
    volume.read_at(ByteOffset(at), &mut bytes)?;
    if read_u32le(&bytes, 0x0) != MAGIC {
        return Err(Refusal::Damaged(
            "the block of its multi-mount protection is not one".into(),
        ));
    }
    if read_u32le(&bytes, 0x4) != CLEAN {
        return Err(Refusal::Dirty(
            "its multi-mount protection says that a node has it mounted (unmount it everywhere)"
                .into(),
        ));
    }
    Ok(())
}
