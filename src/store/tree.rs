//! The BLAKE3 of a file while it is written, though its first bytes are written last: an image gets
//! its header when all else is on the medium.
//!
//! BLAKE3 is a tree: what covers 4 MiB from a multiple of 4 MiB on is a node of it, and the nodes are
//! merged at the end (section 2.1 of the BLAKE3 paper). Only the first piece waits in memory.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use super::digest::Digest;
use blake3::hazmat::{
    ChainingValue, HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root,
};
use std::sync::{Arc, Mutex, PoisonError};

/// What a node covers, in bytes: a power of two, as BLAKE3 wants it, and what the writer of images
/// writes at a time.
const PIECE_BYTES: usize = 4 << 20;

/// See the module.
#[derive(Debug, Default)]
struct Tree {
    /// The first piece, as far as it was written.
    first: Vec<u8>,
    /// The nodes of all others.
    nodes: Vec<ChainingValue>,
    /// The end of the file.
    end: usize,
    /// Something was written in another order than this can follow.
    lost: bool,
}

/// Asks from elsewhere what the digest has come to.
#[derive(Debug, Clone, Default)]
pub struct TreeDigest(Arc<Mutex<Tree>>);

impl TreeDigest {
    /// Takes in what is written at `offset`: anywhere in the first piece; of any other one, the whole
    /// of what it has so far, again each time that it grows.
    pub(super) fn write(&self, bytes: &[u8], offset: u64) {
        let mut tree = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match usize::try_from(offset) {
            Ok(offset) => tree.write(bytes, offset),
            Err(_) => tree.lost = true,
        }
    }

    /// The digest of all that was written; nothing if it was written in another order than this can
    /// follow: then the file has to be read.
    pub fn finish(&self) -> Option<Digest> {
        let tree = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        tree.finish()
    }
}

impl Tree {
    fn write(&mut self, mut bytes: &[u8], mut offset: usize) {
        self.end = self.end.max(offset.saturating_add(bytes.len()));
        let room = PIECE_BYTES.saturating_sub(offset);
        if room > 0 {
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            let end = offset.saturating_add(now.len());
            if self.first.len() < end {
                self.first.resize(end, 0);
            }
            if let Some(place) = self.first.get_mut(offset..end) {
                place.copy_from_slice(now);
            }
            (bytes, offset) = (later, end);
        }
        for piece in bytes.chunks(PIECE_BYTES) {
            // The first piece has no node.
            let index = (offset / PIECE_BYTES).saturating_sub(1);
            if !offset.is_multiple_of(PIECE_BYTES) || index > self.nodes.len() {
                self.lost = true;
                return;
            }
            let mut hasher = blake3::Hasher::new();
            hasher.set_input_offset(u64::try_from(offset).unwrap_or(u64::MAX));
            let node = hasher.update(piece).finalize_non_root();
            self.nodes.truncate(index);
            self.nodes.push(node);
            offset = offset.saturating_add(piece.len());
        }
    }

    fn finish(&self) -> Option<Digest> {
        let pieces = self.end.div_ceil(PIECE_BYTES).max(1);
        let whole = self.first.len() == self.end.min(PIECE_BYTES)
            && self.nodes.len() == pieces.saturating_sub(1);
        if self.lost || !whole {
            return None;
        }
        if self.nodes.is_empty() {
            return Some(Digest(*blake3::hash(&self.first).as_bytes()));
        }
        let first = blake3::Hasher::new()
            .update(&self.first)
            .finalize_non_root();
        let nodes: Vec<ChainingValue> = [first].into_iter().chain(self.nodes.clone()).collect();
        let (left, right) = nodes.split_at(left_of(nodes.len()));
        let root = merge_subtrees_root(&merged(left)?, &merged(right)?, Mode::Hash);
        Some(Digest(*root.as_bytes()))
    }
}

/// How many of `count` nodes lie below the left child: the largest power of two that leaves some.
fn left_of(count: usize) -> usize {
    count.div_ceil(2).next_power_of_two()
}

fn merged(nodes: &[ChainingValue]) -> Option<ChainingValue> {
    if let [node] = nodes {
        return Some(*node);
    }
    let (left, right) = nodes.split_at_checked(left_of(nodes.len()))?;
    let (left, right) = (merged(left)?, merged(right)?);
    Some(merge_subtrees_non_root(&left, &right, Mode::Hash))
}

#[cfg(test)]
#[allow(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]
mod tests {
    use super::*;

    #[test]
    fn whatever_the_length_the_digest_is_that_of_the_whole_file_whose_header_came_last() {
        let bytes: Vec<u8> = (0..PIECE_BYTES * 9 + 5)
            .map(|at| (at * at / 7 % 251) as u8)
            .collect();
        let header = 65_536;
        for length in [0, 1, 1023, 65_537, PIECE_BYTES - 1]
            .into_iter()
            .chain((1..=9).flat_map(|n| [n * PIECE_BYTES, n * PIECE_BYTES + 1 + n % 3 * 1024]))
        {
            let tree = TreeDigest::default();
            let mut at = header.min(length);
            while at < length {
                let end = (at / PIECE_BYTES + 1) * PIECE_BYTES;
                // A checkpoint comes before the piece is whole.
                let part = (at + 100).min(length);
                tree.write(&bytes[at..part], at as u64);
                tree.write(&bytes[at..end.min(length)], at as u64);
                at = end.min(length);
            }
            tree.write(&bytes[..header.min(length)], 0);
            let expected = Digest(*blake3::hash(&bytes[..length]).as_bytes());
            assert_eq!(tree.finish(), Some(expected), "{length} bytes");
        }
    }

    #[test]
    fn what_was_written_out_of_order_has_no_digest() {
        let piece = vec![1; PIECE_BYTES];
        let at = PIECE_BYTES as u64;
        for (offset, length) in [(at + 1, 5), (2 * at, PIECE_BYTES)] {
            let tree = TreeDigest::default();
            tree.write(&piece, 0);
            tree.write(&piece[..length], offset);
            assert_eq!(tree.finish(), None);
        }
        // The header is missing.
        let tree = TreeDigest::default();
        tree.write(&piece, at);
        assert_eq!(tree.finish(), None);
    }
}
