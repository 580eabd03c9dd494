//! A volume as it would be after a log has been replayed, without writing to it: blocks that lie
//! over the volume and are read instead of its own.
//!
//! A block is either elsewhere on the volume already (its copy in the log: nothing of it is kept in
//! memory) or its bytes are kept. Both are bounded, because a damaged log may name any number.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use super::finding::Refusal;
use crate::device::ReadAt;
use crate::device::read::check_range;
use crate::error::Result;
use crate::units::{ByteLen, ByteOffset};
use std::collections::BTreeMap;

/// Blocks that may lie over a volume: about 100 MiB of memory, or a log of 8 GiB in blocks of 4 KiB.
const MAX_BLOCKS: usize = 2 << 20;
/// Bytes that may be kept of blocks that are nowhere on the volume.
const MAX_BYTES: usize = 128 << 20;

/// What is read instead of a block.
#[derive(Debug)]
enum Source {
    /// The block at this offset of the volume.
    At(ByteOffset),
    /// These bytes.
    Bytes(Box<[u8]>),
}

/// There are more changes than an overlay holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Full;

impl From<Full> for Refusal {
    fn from(_: Full) -> Self {
        Self::Dirty(
            "its log holds more changes than are kept in memory (boot the server once and power it \
             off properly for a smaller copy)"
                .into(),
        )
    }
}

/// See the module.
pub(crate) struct Overlay<'a> {
    volume: &'a dyn ReadAt,
    /// Bytes a block; never 0.
    block_size: u64,
    blocks: BTreeMap<u64, Source>,
    bytes_kept: usize,
}

impl<'a> Overlay<'a> {
    /// Nothing lies over the volume yet. `block_size` is in bytes.
    pub(super) fn new(volume: &'a dyn ReadAt, block_size: u64) -> Self {
        Self {
            volume,
            block_size: block_size.max(1),
            blocks: BTreeMap::new(),
            bytes_kept: 0,
        }
    }

    /// What lies beneath.
    pub(super) fn volume(&self) -> &'a dyn ReadAt {
        self.volume
    }

    /// Whether a block is read from elsewhere.
    pub(super) fn covers(&self, block: u64) -> bool {
        self.blocks.contains_key(&block)
    }

    /// The blocks that are read from elsewhere, ascending.
    pub(super) fn blocks(&self) -> impl Iterator<Item = u64> {
        self.blocks.keys().copied()
    }

    /// From now on a block reads as what is at `at` of the volume itself.
    pub(super) fn redirect(&mut self, block: u64, at: ByteOffset) -> Result<(), Full> {
        self.insert(block, Source::At(at))
    }

    /// From now on a block reads as `bytes` (a whole block).
    pub(super) fn put(&mut self, block: u64, bytes: Box<[u8]>) -> Result<(), Full> {
        let kept = self.bytes_kept.saturating_add(bytes.len());
        if kept > MAX_BYTES {
            return Err(Full);
        }
        self.bytes_kept = kept;
        self.insert(block, Source::Bytes(bytes))
    }

    fn insert(&mut self, block: u64, source: Source) -> Result<(), Full> {
        if let Some(Source::Bytes(old)) = self.blocks.insert(block, source) {
            self.bytes_kept = self.bytes_kept.saturating_sub(old.len());
        }
        if self.blocks.len() > MAX_BLOCKS {
            return Err(Full);
        }
        Ok(())
    }

    /// Bytes from `at` on up to the next block that lies over the volume.
    fn bare(&self, at: u64, block: u64) -> u64 {
        let next = self.blocks.range(block..).next();
        next.map_or(u64::MAX, |(next, _)| {
            next.saturating_mul(self.block_size).saturating_sub(at)
        })
    }
}

impl ReadAt for Overlay<'_> {
    fn size(&self) -> ByteLen {
        self.volume.size()
    }

    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> Result<()> {
        check_range(&self.name(), self.size(), offset, buf.len())?;
        let ByteOffset(mut at) = offset;
        let mut rest = buf;
        while !rest.is_empty() {
            let block = at.checked_div(self.block_size).unwrap_or(0);
            let within = at.checked_rem(self.block_size).unwrap_or(0);
            let source = self.blocks.get(&block);
            let len = match source {
                Some(_) => self.block_size.saturating_sub(within),
                None => self.bare(at, block),
            };
            let len = usize::try_from(len)
                .unwrap_or(usize::MAX)
                .clamp(1, rest.len());
            let (piece, behind) = rest.split_at_mut(len);
            match source {
                None => self.volume.read_at(ByteOffset(at), piece)?,
                Some(Source::At(from)) => {
                    let from = ByteOffset(from.0.saturating_add(within));
                    self.volume.read_at(from, piece)?;
                }
                Some(Source::Bytes(bytes)) => {
                    let within = usize::try_from(within).unwrap_or(usize::MAX);
                    let bytes = bytes.get(within..).unwrap_or_default();
                    for (to, from) in piece.iter_mut().zip(bytes) {
                        *to = *from;
                    }
                }
            }
            at = at.saturating_add(u64::try_from(len).unwrap_or(u64::MAX));
            rest = behind;
        }
        Ok(())
    }

    fn name(&self) -> String {
        self.volume.name()
    }
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::arithmetic_side_effects,
        clippy::as_conversions,
        clippy::indexing_slicing
    )]

    use super::*;
    use crate::device::MemDisk;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn reads_as_if_the_blocks_had_been_written(
            changes in prop::collection::vec((0_u64..16, prop::option::of(0_u64..16)), 0..12),
            from in 0_usize..100, len in 0_usize..60,
        ) {
            let disk: Vec<u8> = (0_u8..160).collect();
            let beneath = MemDisk(disk.clone());
            let mut overlay = Overlay::new(&beneath, 10);
            let mut written = disk.clone();
            for (n, (block, source)) in changes.iter().enumerate() {
                let to = *block as usize * 10;
                match source {
                    Some(other) => {
                        let from = *other as usize * 10;
                        overlay.redirect(*block, ByteOffset(other * 10)).unwrap();
                        written[to..to + 10].copy_from_slice(&disk[from..from + 10]);
                    }
                    None => {
                        let bytes = [200 + n as u8; 10];
                        overlay.put(*block, Box::new(bytes)).unwrap();
                        written[to..to + 10].copy_from_slice(&bytes);
                    }
                }
            }
            let mut read = vec![0; len];
            overlay.read_at(ByteOffset(from as u64), &mut read).unwrap();
            prop_assert_eq!(&read, &written[from..from + len]);
            prop_assert!(overlay.read_at(ByteOffset(160), &mut [0]).is_err());
        }
    }

    #[test]
    fn what_is_kept_in_memory_is_bounded_and_counted_once() {
        let beneath = MemDisk(Vec::new());
        let mut overlay = Overlay::new(&beneath, 1 << 20);
        let block = || vec![1; 1 << 20].into_boxed_slice();
        for _ in 0..200 {
            overlay.put(7, block()).unwrap();
        }
        for number in 0..127 {
            overlay.put(100 + number, block()).unwrap();
        }
        assert_eq!(overlay.put(99, block()), Err(Full));
        overlay.redirect(7, ByteOffset(0)).unwrap();
        overlay.put(99, block()).unwrap();
    }
}
