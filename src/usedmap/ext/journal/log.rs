//! Reading the blocks of the journal in the order of its file, several at once.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use super::super::block_map::BlockMap;
use super::super::read_blocks;
use super::super::superblock::Superblock;
use super::damaged;
use crate::device::ReadAt;
use crate::units::ByteOffset;
use crate::usedmap::finding::Refusal;

/// Bytes read at once.
const AT_ONCE: u64 = 512 << 10;

/// The journal's file, with the blocks that were read last.
pub(super) struct Log<'a> {
    volume: &'a dyn ReadAt,
    sb: &'a Superblock,
    map: &'a BlockMap,
    /// The block of the file that `bytes` starts with.
    first: u64,
    bytes: Vec<u8>,
}

impl<'a> Log<'a> {
    pub(super) fn new(volume: &'a dyn ReadAt, sb: &'a Superblock, map: &'a BlockMap) -> Self {
        Self {
            volume,
            sb,
            map,
            first: 0,
            bytes: Vec::new(),
        }
    }

    /// Where on the volume the file's block `nth` is.
    pub(super) fn place(&self, nth: u32) -> Result<ByteOffset, Refusal> {
        let (block, _) = self.find(nth)?;
        let at = block.checked_mul(self.sb.block_size);
        at.map(ByteOffset)
            .ok_or_else(|| damaged("lies behind the largest disk"))
    }

    fn find(&self, nth: u32) -> Result<(u64, u64), Refusal> {
        self.map
            .find(u64::from(nth))
            .ok_or_else(|| damaged("ends before its log"))
    }

    /// The file's block `nth`.
    pub(super) fn read(&mut self, nth: u32) -> Result<&[u8], Refusal> {
        let block_size = usize::try_from(self.sb.block_size).unwrap_or(usize::MAX);
        let held = u64::try_from(self.bytes.len())
            .ok()
            .and_then(|len| len.checked_div(self.sb.block_size))
            .unwrap_or(0);
        let ahead = u64::from(nth).checked_sub(self.first);
        let ahead = match ahead.filter(|&ahead| ahead < held) {
            Some(ahead) => ahead,
            None => {
                let (block, follow) = self.find(nth)?;
                let at_once = AT_ONCE.checked_div(self.sb.block_size).unwrap_or(1).max(1);
                let count = usize::try_from(follow.min(at_once)).unwrap_or(1);
                let doing = || format!("reading its journal in block {block}");
                // A bad sector further on must not hide what lies before it.
                let (volume, sb) = (self.volume, self.sb);
                let read = |count| read_blocks(volume, sb, block, count, doing);
                self.bytes = read(count).or_else(|_| read(1))?;
                self.first = u64::from(nth);
                0
            }
        };
        let from = usize::try_from(ahead)
            .unwrap_or(usize::MAX)
            .saturating_mul(block_size);
        self.bytes
            .get(from..)
            .and_then(|rest| rest.get(..block_size))
            .ok_or_else(|| damaged("ends before its log"))
    }
}
