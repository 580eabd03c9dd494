//! The space manager of APFS (`spaceman_phys_t`): the container in chunks of 32,768 blocks (with
//! blocks of 4 KiB), each with a bitmap. Chunk info blocks list chunks. Containers of more than 8 TiB
//! have lists of those blocks (CAB); no tool here makes one, so they are refused.
//!
//! Blocks that were freed lately wait in queues and are still called used.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use super::container::{Container, Run};
use super::object;
use crate::bytes::{read_u32le, read_u64le};
use crate::device::ReadAt;
use crate::usedmap::finding::Refusal;

/// The space manager of a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Spaceman {
    /// `sm_free_count` of the main device.
    pub free_count: u64,
    /// The pool of blocks for its own bitmaps, and the bitmaps of that pool.
    pub internal: [Run; 2],
    /// `sm_blocks_per_chunk`.
    blocks_per_chunk: u64,
    chunk_count: u64,
    chunks_per_cib: u64,
    /// Where the chunk info blocks are.
    addresses: Vec<u64>,
}

/// A run of blocks with one bitmap (`chunk_info_t`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Chunk {
    /// `ci_addr`: its first block.
    pub first: u64,
    /// `ci_block_count`.
    pub blocks: u64,
    /// `ci_free_count`.
    pub free: u64,
    /// `ci_bitmap_addr`: the block of its bitmap; 0 if all of it is free.
    pub bitmap: u64,
}

impl Spaceman {
    pub(super) fn read(volume: &dyn ReadAt, container: &Container) -> Result<Self, Refusal> {
        let (at, len) = container.spaceman(volume)?;
        let bytes = object::read(volume, at, len, object::SPACEMAN, "the space manager")?;
        let damaged = |what: &str| Refusal::Damaged(format!("the space manager claims {what}"));
        let block_count = read_u64le(&bytes, 48);
        let chunk_count = read_u64le(&bytes, 56);
        let cib_count = u64::from(read_u32le(&bytes, 64));
        let cab_count = u64::from(read_u32le(&bytes, 68));
        let addr_offset = usize::try_from(read_u32le(&bytes, 80)).unwrap_or(usize::MAX);
        let second_device_blocks = read_u64le(&bytes, 96);
        let blocks_per_chunk = u64::from(read_u32le(&bytes, 36));
        let chunks_per_cib = u64::from(read_u32le(&bytes, 40));
        if second_device_blocks != 0 {
            return Err(Refusal::Unsupported(
                "a Fusion Drive, which spans two disks".into(),
            ));
        }
        if u64::from(read_u32le(&bytes, 32)) != container.block_size
            || block_count != container.block_count
            || blocks_per_chunk != container.block_size.saturating_mul(8)
            || chunk_count != block_count.div_ceil(blocks_per_chunk)
            || chunks_per_cib == 0
            || cib_count != chunk_count.div_ceil(chunks_per_cib)
        {
            return Err(damaged("chunks that do not make up the container"));
        }
        let run = |base: u64, blocks: u64| {
            let end = base.saturating_add(blocks);
            (end <= block_count).then_some((base, end))
        };
        let pool = run(read_u64le(&bytes, 176), read_u64le(&bytes, 152));
        let pool_bitmaps = run(read_u64le(&bytes, 168), u64::from(read_u32le(&bytes, 164)));
        let (Some(pool), Some(pool_bitmaps)) = (pool, pool_bitmaps) else {
            return Err(damaged("a pool outside the container"));
        };
        if cab_count != 0 {
            return Err(Refusal::Unsupported(
                "larger than this version knows how to read".into(),
            ));
        }
        let listed = usize::try_from(cib_count)
            .ok()
            .and_then(|count| count.checked_mul(8))
            .and_then(|len| bytes.get(addr_offset..)?.get(..len));
        let Some(listed) = listed else {
            return Err(damaged("more chunk info blocks than it lists"));
        };
        Ok(Self {
            free_count: read_u64le(&bytes, 72),
            internal: [pool, pool_bitmaps],
            blocks_per_chunk,
            chunk_count,
            chunks_per_cib,
            addresses: listed.chunks_exact(8).map(|at| read_u64le(at, 0)).collect(),
        })
    }

    /// Hands the chunks of each chunk info block to `each`, in the order of the disk.
    pub(super) fn for_each_cib(
        &self,
        volume: &dyn ReadAt,
        container: &Container,
        mut each: impl FnMut(&[Chunk]) -> Result<(), Refusal>,
    ) -> Result<(), Refusal> {
        let mut next_chunk = 0_u64;
        for &cib in &self.addresses {
            let chunks = self.chunks(volume, container, cib, next_chunk)?;
            next_chunk = next_chunk.saturating_add(u64::try_from(chunks.len()).unwrap_or(0));
            each(&chunks)?;
        }
        if next_chunk != self.chunk_count {
            return Err(Refusal::Damaged(format!(
                "the space manager lists {next_chunk} of {} chunks",
                self.chunk_count
            )));
        }
        Ok(())
    }

    /// The chunks of a chunk info block, of which the first must be number `next_chunk`.
    fn chunks(
        &self,
        volume: &dyn ReadAt,
        container: &Container,
        cib: u64,
        next_chunk: u64,
    ) -> Result<Vec<Chunk>, Refusal> {
        let at = cib.saturating_mul(container.block_size);
        let what = "a list of chunks";
        let bytes = object::read(volume, at, container.block_size, object::SPACEMAN_CIB, what)?;
        let left = self.chunk_count.saturating_sub(next_chunk);
        let expected = left.min(self.chunks_per_cib);
        let count = u64::from(read_u32le(&bytes, 36));
        let entries = bytes.get(40..).unwrap_or_default().chunks_exact(32);
        let chunks: Vec<Chunk> = entries
            .take(usize::try_from(expected).unwrap_or(0))
            .map(|entry| Chunk {
                first: read_u64le(entry, 8),
                // The upper twelve bits are reserved.
                blocks: u64::from(read_u32le(entry, 16) & 0x000F_FFFF),
                free: u64::from(read_u32le(entry, 20) & 0x000F_FFFF),
                bitmap: read_u64le(entry, 24),
            })
            .collect();
        let fits = chunks.iter().zip(next_chunk..).all(|(chunk, number)| {
            let first = number.saturating_mul(self.blocks_per_chunk);
            let left = container.block_count.saturating_sub(first);
            chunk.first == first
                && chunk.blocks == left.min(self.blocks_per_chunk)
                && chunk.bitmap < container.block_count
        });
        if count != expected || count != u64::try_from(chunks.len()).unwrap_or(0) || !fits {
            return Err(Refusal::Damaged(format!(
                "the list of chunks from {next_chunk} on does not fit the container"
            )));
        }
        Ok(chunks)
    }
}
