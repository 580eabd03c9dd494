//! Following a file's map, whole or damaged, with its holes: the tree of extents, or the lists of
//! block numbers of ext2 and ext3 (`fs/ext4/indirect.c`).

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use super::read_block;
use crate::device::ReadAt;
use crate::usedmap::ext::Superblock;
use crate::usedmap::ext::extent_node::{ExtentNode, Target};
use crate::usedmap::ext::inode::Inode;

/// Gaps of one file that are told.
const MAX_GAPS: usize = 2;

/// How many blocks of maps may be read in one walk: as many as there are. Only a map that points back
/// into itself has more.
#[derive(Debug)]
pub(crate) struct Budget {
    left: u64,
    spent: bool,
}

impl Budget {
    pub(crate) fn new(sb: &Superblock) -> Self {
        Self {
            left: sb.blocks_count,
            spent: false,
        }
    }

    /// So many blocks.
    pub(crate) fn of(blocks: u64) -> Self {
        Self {
            left: blocks,
            spent: false,
        }
    }

    pub(crate) fn is_spent(&self) -> bool {
        self.spent
    }

    fn take(&mut self) -> bool {
        match self.left.checked_sub(1) {
            Some(left) => self.left = left,
            None => self.spent = true,
        }
        !self.spent
    }
}

/// What a map has.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Found {
    /// A block of the map itself.
    Map(u64),
    /// Blocks of the file.
    Run {
        /// The file's block that it starts with.
        file_block: u64,
        start: u64,
        len: u64,
        /// False if it reads as zeros whatever is in it.
        written: bool,
    },
}

/// A file's map.
pub(crate) struct Blocks<'a> {
    volume: &'a dyn ReadAt,
    sb: &'a Superblock,
    inode: &'a Inode,
    budget: &'a mut Budget,
    gaps: Vec<String>,
}

impl<'a> Blocks<'a> {
    pub(crate) fn new(
        volume: &'a dyn ReadAt,
        sb: &'a Superblock,
        inode: &'a Inode,
        budget: &'a mut Budget,
    ) -> Self {
        Self {
            volume,
            sb,
            inode,
            budget,
            gaps: Vec::new(),
        }
    }

    /// Calls `each` for everything in it that can be read.
    pub(crate) fn each(&mut self, each: &mut dyn FnMut(Found)) {
        let inode = self.inode;
        if inode.has_extents {
            self.node(&inode.block, None, each);
            return;
        }
        let mut file_block = 0;
        for (nth, number) in inode.block.as_chunks::<4>().0.iter().enumerate() {
            let levels = u32::try_from(nth.saturating_sub(11)).unwrap_or(0);
            self.indirect(u32::from_le_bytes(*number), levels, file_block, each);
            file_block = file_block.saturating_add(self.covers(levels));
        }
    }

    /// What could not be followed, for people.
    pub(crate) fn into_gaps(self) -> Vec<String> {
        self.gaps
    }

    fn gap(&mut self, why: String) {
        if self.gaps.len() < MAX_GAPS {
            self.gaps.push(why);
        }
    }

    fn map_block(&mut self, block: u64, each: &mut dyn FnMut(Found)) -> Option<Vec<u8>> {
        if !self.budget.take() {
            return None;
        }
        each(Found::Map(block));
        match read_block(self.volume, self.sb, block) {
            Ok(bytes) => Some(bytes),
            Err(why) => {
                self.gap(why);
                None
            }
        }
    }

    fn node(&mut self, bytes: &[u8], depth: Option<u16>, each: &mut dyn FnMut(Found)) {
        let node = match ExtentNode::parse(bytes, depth, self.sb, self.inode.checksum_seed) {
            Ok(node) => node,
            Err(why) => return self.gap(format!("it {why}")),
        };
        for entry in node.entries() {
            match entry.target {
                Target::Node(block) => {
                    if let Some(child) = self.map_block(block, each) {
                        self.node(&child, node.depth.checked_sub(1), each);
                    }
                }
                Target::Run {
                    start,
                    len,
                    written,
                } => each(Found::Run {
                    file_block: entry.file_block,
                    start,
                    len,
                    written,
                }),
            }
        }
    }

    /// How many blocks of the file a number of so many levels stands for.
    fn covers(&self, levels: u32) -> u64 {
        (self.sb.block_size >> 2).saturating_pow(levels)
    }

    /// What a block number stands for: itself (`levels` 0), or a block of numbers.
    fn indirect(&mut self, number: u32, levels: u32, file_block: u64, each: &mut dyn FnMut(Found)) {
        if number == 0 {
            return;
        }
        let start = u64::from(number);
        let Some(below) = levels.checked_sub(1) else {
            return each(Found::Run {
                file_block,
                start,
                len: 1,
                written: true,
            });
        };
        let Some(block) = self.map_block(start, each) else {
            return;
        };
        let mut file_block = file_block;
        for number in block.as_chunks::<4>().0 {
            self.indirect(u32::from_le_bytes(*number), below, file_block, each);
            file_block = file_block.saturating_add(self.covers(below));
        }
    }
}
