//! Reads a file once from its beginning to its end, gives every byte to a hasher, and hands out
//! pieces of it on the way.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use crate::device::ReadAt;
use crate::error::Result;
use crate::units::ByteOffset;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;

/// What is read at a time.
const PIECE_BYTES: u64 = 1 << 20;

/// How many pieces stay at hand. The writer lets clusters overtake each other by no more than
/// 6 MiB.
const PIECES_KEPT: usize = 16;

/// A piece of the file.
pub(super) type Piece = Arc<Vec<u8>>;

/// See the module.
pub(super) struct Tee<'a> {
    file: &'a dyn ReadAt,
    hasher: SyncSender<Piece>,
    /// The pieces before `end`, with their offsets.
    kept: VecDeque<(u64, Piece)>,
    end: u64,
}

impl<'a> Tee<'a> {
    /// Reads `file`; whoever receives from `hasher` gets all its pieces in order.
    pub(super) fn new(file: &'a dyn ReadAt, hasher: SyncSender<Piece>) -> Self {
        Self {
            file,
            hasher,
            kept: VecDeque::new(),
            end: 0,
        }
    }

    /// How far the file was read.
    pub(super) fn position(&self) -> u64 {
        self.end
    }

    /// Reads the next piece; `false` at the end of the file.
    pub(super) fn advance(&mut self) -> Result<bool> {
        let left = self.file.size().0.saturating_sub(self.end);
        if left == 0 {
            return Ok(false);
        }
        let length = left.min(PIECE_BYTES);
        let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
        self.file.read_at(ByteOffset(self.end), &mut bytes)?;
        let piece = Arc::new(bytes);
        // The hasher lives as long as the tee: if it is gone, its thread panicked, and that is
        // seen where it is joined.
        let _ = self.hasher.send(Arc::clone(&piece));
        if self.kept.len() >= PIECES_KEPT {
            self.kept.pop_front();
        }
        self.kept.push_back((self.end, piece));
        self.end = self.end.saturating_add(length);
        Ok(true)
    }

    /// The bytes at `at`; behind the end of the file are zeros.
    pub(super) fn copy(&mut self, at: u64, length: usize) -> Result<Vec<u8>> {
        let size = self.file.size().0;
        let end = u64::try_from(length).map_or(size, |len| at.saturating_add(len).min(size));
        while self.end < end && self.advance()? {}
        let mut bytes = Vec::with_capacity(length);
        let oldest = self.kept.front().map_or(self.end, |(start, _)| *start);
        if at < oldest && at < end {
            // Not one of our images, or a cluster that overtook many: once more from the medium.
            let there = usize::try_from(end.saturating_sub(at)).unwrap_or(0);
            bytes.resize(there, 0);
            self.file.read_at(ByteOffset(at), &mut bytes)?;
        } else {
            for (start, piece) in &self.kept {
                let from = usize::try_from(at.saturating_sub(*start)).unwrap_or(usize::MAX);
                let to = usize::try_from(end.saturating_sub(*start)).unwrap_or(usize::MAX);
                let part = piece.get(from..to.min(piece.len()));
                bytes.extend_from_slice(part.unwrap_or_default());
            }
        }
        bytes.resize(length, 0);
        Ok(bytes)
    }
}

#[cfg(test)]
#[allow(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]
mod tests {
    use super::*;
    use crate::device::MemDisk;
    use std::sync::mpsc::sync_channel;

    #[test]
    fn whatever_is_asked_for_on_the_way_all_bytes_are_seen_once_and_in_order() {
        let size = 20 * PIECE_BYTES as usize + 777;
        let bytes: Vec<u8> = (0..size).map(|at| (at % 251) as u8).collect();
        let disk = MemDisk(bytes.clone());
        let (hasher, seen) = sync_channel(100);
        let mut tee = Tee::new(&disk, hasher);
        for (at, length) in [
            (0, 10),
            (5, 3_000_000),
            (PIECE_BYTES as usize - 1, 2),
            (19_000_000, 500_000),
            // Before what is kept, and across its beginning.
            (100, 70_000),
            (3_000_000, 9_000_000),
            (size - 5, 5),
        ] {
            let copy = tee.copy(at as u64, length).unwrap();
            assert!(copy == bytes[at..at + length], "{length} bytes at {at}");
        }
        let mut tail = bytes[size - 5..].to_vec();
        tail.resize(100, 0);
        assert_eq!(tee.copy(size as u64 - 5, 100).unwrap(), tail);
        assert_eq!(tee.copy(u64::MAX - 1, 3).unwrap(), [0; 3]);
        while tee.advance().unwrap() {}
        drop(tee);
        let seen: Vec<u8> = seen.iter().flat_map(|piece| piece.to_vec()).collect();
        assert!(seen == bytes);
    }
}
