//! A volume with some pieces replaced in memory: what it would be after a replay of its log.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use crate::device::ReadAt;
use crate::error::Result;
use crate::units::{ByteLen, ByteOffset};
use std::collections::BTreeMap;

/// See the module. Pieces do not overlap: each is a metadata buffer.
pub(super) struct Overlay<'a> {
    volume: &'a dyn ReadAt,
    pieces: BTreeMap<u64, Vec<u8>>,
    held: usize,
}

impl<'a> Overlay<'a> {
    pub(super) fn new(volume: &'a dyn ReadAt) -> Self {
        Self {
            volume,
            pieces: BTreeMap::new(),
            held: 0,
        }
    }

    /// Bytes in memory.
    pub(super) fn held(&self) -> usize {
        self.held
    }

    /// The piece that begins at `at`, if there is one.
    pub(super) fn existing(&mut self, at: u64) -> Option<&mut Vec<u8>> {
        self.pieces.get_mut(&at)
    }

    /// The piece of `len` bytes at `at`, to be changed; `None` if it would cut through another one.
    pub(super) fn piece(&mut self, at: u64, len: usize) -> Result<Option<&mut Vec<u8>>> {
        let end = at.saturating_add(u64::try_from(len).unwrap_or(u64::MAX));
        let clash = self.pieces.range(..end).next_back();
        if let Some((&start, piece)) = clash {
            let piece_end = start.saturating_add(u64::try_from(piece.len()).unwrap_or(u64::MAX));
            if (start, piece.len()) != (at, len) && piece_end > at {
                return Ok(None);
            }
        }
        if !self.pieces.contains_key(&at) {
            let mut bytes = vec![0; len];
            self.volume.read_at(ByteOffset(at), &mut bytes)?;
            self.held = self.held.saturating_add(len);
            self.pieces.insert(at, bytes);
        }
        Ok(self.pieces.get_mut(&at))
    }
}

impl ReadAt for Overlay<'_> {
    fn size(&self) -> ByteLen {
        self.volume.size()
    }

    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> Result<()> {
        self.volume.read_at(offset, buf)?;
        let end = offset
            .0
            .saturating_add(u64::try_from(buf.len()).unwrap_or(u64::MAX));
        // No piece is longer than 64 KiB.
        let from = offset.0.saturating_sub(65_536);
        for (&start, piece) in self.pieces.range(from..end) {
            // Where the two begin, each counted from its own start.
            let in_buf = start.saturating_sub(offset.0);
            let in_piece = offset.0.saturating_sub(start);
            let target = usize::try_from(in_buf)
                .ok()
                .and_then(|at| buf.get_mut(at..));
            let source = usize::try_from(in_piece)
                .ok()
                .and_then(|at| piece.get(at..));
            if let (Some(target), Some(source)) = (target, source) {
                for (to, from) in target.iter_mut().zip(source) {
                    *to = *from;
                }
            }
        }
        Ok(())
    }

    fn name(&self) -> String {
        self.volume.name()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::indexing_slicing)]

    use super::*;
    use crate::device::MemDisk;

    #[test]
    fn a_read_shows_the_pieces_that_it_touches() {
        let disk = MemDisk(vec![1; 4096]);
        let mut overlay = Overlay::new(&disk);
        overlay.piece(512, 512).unwrap().unwrap().fill(2);
        overlay.piece(1024, 512).unwrap().unwrap().fill(3);
        let mut all = vec![0; 4096];
        overlay.read_at(ByteOffset(0), &mut all).unwrap();
        assert_eq!(&all[..512], [1; 512]);
        assert_eq!(&all[512..1024], [2; 512]);
        assert_eq!(&all[1024..1536], [3; 512]);
        assert_eq!(&all[1536..], [1; 2560]);
        let mut middle = [0; 4];
        overlay.read_at(ByteOffset(1022), &mut middle).unwrap();
        assert_eq!(middle, [2, 2, 3, 3]);
        assert_eq!(overlay.held(), 1024);
    }

    #[test]
    fn a_piece_that_cuts_through_another_is_refused() {
        let disk = MemDisk(vec![1; 4096]);
        let mut overlay = Overlay::new(&disk);
        overlay.piece(512, 1024).unwrap().unwrap().fill(2);
        assert!(overlay.piece(1024, 512).unwrap().is_none());
        assert!(overlay.piece(0, 1024).unwrap().is_none());
        assert!(overlay.piece(512, 512).unwrap().is_none());
        assert!(overlay.piece(512, 1024).unwrap().is_some());
        assert!(overlay.piece(1536, 512).unwrap().is_some());
    }
}
