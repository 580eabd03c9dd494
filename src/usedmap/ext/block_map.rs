//! Where a file's blocks are: its extent tree (`fs/ext4/ext4_extents.h`), or the lists of block
//! numbers that ext2 and ext3 have (`fs/ext4/indirect.c`). Only whole maps are read: a file with a
//! hole is refused, since the journal has none.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use super::extent_node::{ExtentNode, Target};
use super::inode::Inode;
use super::layout::BlockRun;
use super::read_blocks;
use super::superblock::Superblock;
use crate::device::ReadAt;
use crate::usedmap::finding::Refusal;

/// Pieces that a journal may be in; mke2fs makes one to a few.
const MAX_RUNS: usize = 1 << 18;
/// Blocks of a map that are read: enough for a journal of 16 GiB in indirect blocks.
const MAX_MAP_BLOCKS: usize = 1 << 13;

/// A file's blocks in their order, without holes.
#[derive(Debug, Default)]
pub(super) struct BlockMap {
    /// Each run with the number of the file's block that it starts with; ascending, gapless.
    runs: Vec<(u64, BlockRun)>,
    /// The file's blocks so far.
    len: u64,
    /// Blocks that hold the map itself.
    pub map_blocks: Vec<u64>,
}

impl BlockMap {
    /// The map of a file's first `len` blocks.
    pub(super) fn read(
        volume: &dyn ReadAt,
        sb: &Superblock,
        inode: &Inode,
        len: u64,
    ) -> Result<Self, Refusal> {
        let mut reader = Reader {
            volume,
            sb,
            inode,
            wanted: len,
            map: Self::default(),
        };
        if inode.has_extents {
            reader.extents(&inode.block, None)?;
        } else {
            reader.blocks()?;
        }
        if reader.map.len < len {
            return Err(damaged("ends too early"));
        }
        Ok(reader.map)
    }

    /// The filesystem's block that is the file's block `nth`, and how many follow it in one run
    /// (itself included).
    pub(super) fn find(&self, nth: u64) -> Option<(u64, u64)> {
        let behind = self.runs.partition_point(|&(first, _)| first <= nth);
        let &(first, run) = self.runs.get(behind.checked_sub(1)?)?;
        let block = run.start.checked_add(nth.checked_sub(first)?)?;
        let follow = run.end.checked_sub(block).filter(|&follow| follow > 0)?;
        Some((block, follow))
    }

    /// The runs in the order of the file.
    pub(super) fn runs(&self) -> impl Iterator<Item = BlockRun> + '_ {
        self.runs.iter().map(|&(_, run)| run)
    }

    /// The runs in the order of the disk.
    pub(super) fn sorted_runs(&self) -> Vec<BlockRun> {
        let mut runs: Vec<BlockRun> = self.runs().collect();
        runs.sort_unstable_by_key(|run| run.start);
        runs
    }

    fn push(&mut self, run: BlockRun) -> Result<(), Refusal> {
        let len = run.end.saturating_sub(run.start);
        match self.runs.last_mut() {
            Some((_, last)) if last.end == run.start => last.end = run.end,
            _ => self.runs.push((self.len, run)),
        }
        self.len = self.len.saturating_add(len);
        if self.runs.len() > MAX_RUNS {
            return Err(damaged("is in more pieces than any that mke2fs makes"));
        }
        Ok(())
    }
}

struct Reader<'a> {
    volume: &'a dyn ReadAt,
    sb: &'a Superblock,
    inode: &'a Inode,
    wanted: u64,
    map: BlockMap,
}

impl Reader<'_> {
    fn push(&mut self, start: u64, len: u64) -> Result<(), Refusal> {
        let end = start.saturating_add(len);
        if start < self.sb.first_data_block.max(1) || end > self.sb.blocks_count {
            return Err(damaged("has blocks outside the filesystem"));
        }
        self.map.push(BlockRun { start, end })
    }

    fn map_block(&mut self, block: u64) -> Result<Vec<u8>, Refusal> {
        if self.map.map_blocks.len() >= MAX_MAP_BLOCKS {
            return Err(damaged("has a map larger than any that mke2fs makes"));
        }
        self.map.map_blocks.push(block);
        read_blocks(self.volume, self.sb, block, 1, || {
            format!("reading the map of its journal in block {block}")
        })
    }

    /// A node of the extent tree; `depth` is what its parent promises.
    fn extents(&mut self, node: &[u8], depth: Option<u16>) -> Result<(), Refusal> {
        let node =
            ExtentNode::parse(node, depth, self.sb, self.inode.checksum_seed).map_err(damaged)?;
        for entry in node.entries() {
            if self.map.len >= self.wanted {
                break;
            }
            if entry.file_block != self.map.len {
                return Err(damaged("has a hole"));
            }
            match entry.target {
                Target::Node(block) => {
                    let child = self.map_block(block)?;
                    self.extents(&child, node.depth.checked_sub(1))?;
                }
                Target::Run {
                    start,
                    len,
                    written,
                } => {
                    if len == 0 || !written {
                        return Err(damaged("has blocks that were never written"));
                    }
                    self.push(start, len)?;
                }
            }
        }
        Ok(())
    }

    /// Twelve blocks, then one block of blocks, one of blocks of blocks, and one more level.
    fn blocks(&mut self) -> Result<(), Refusal> {
        let numbers = self.inode.block.as_chunks::<4>().0;
        for (nth, number) in numbers.iter().enumerate() {
            let levels = nth.saturating_sub(11);
            self.indirect(u32::from_le_bytes(*number), levels)?;
        }
        Ok(())
    }

    /// What a block number stands for: itself (`levels` 0), or a block of numbers.
    fn indirect(&mut self, number: u32, levels: usize) -> Result<(), Refusal> {
        if self.map.len >= self.wanted {
            return Ok(());
        }
        let number = u64::from(number);
        let Some(below) = levels.checked_sub(1) else {
            return self.push(number, 1);
        };
        if number == 0 {
            return Err(damaged("has a hole"));
        }
        let block = self.map_block(number)?;
        for number in block.as_chunks::<4>().0 {
            self.indirect(u32::from_le_bytes(*number), below)?;
        }
        Ok(())
    }
}

fn damaged(what: &str) -> Refusal {
    Refusal::Damaged(format!("the file that is its journal {what}"))
}
