//! Digests of a disk's chunks: BLAKE3 of each 4 MiB as a guest sees them, taken from the buffer
//! that was read. Bytes that were not read are zeros; a chunk of nothing but zeros has no digest.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use super::digest::Digest;
use crate::error::{Error, Result};
use crate::qcow2::is_zero;
use serde::{Deserialize, Serialize};

/// The chunk that captures are digested in.
pub const CHUNK_BYTES: u64 = 4 << 20;

/// The digest of one whole chunk (the last one of a disk may be shorter); `None` if it is all
/// zeros. For callers that hold whole chunks, on as many threads as they like.
pub fn chunk_digest(chunk: &[u8]) -> Option<Digest> {
    (!is_zero(chunk)).then(|| Digest(*blake3::hash(chunk).as_bytes()))
}

/// [`chunk_digest`] of a chunk that comes piece by piece and is not all zeros.
#[derive(Debug, Default)]
pub struct ChunkHasher(blake3::Hasher);

impl ChunkHasher {
    /// Takes in what comes next of the chunk.
    pub fn update(&mut self, piece: &[u8]) {
        self.0.update(piece);
    }

    /// The digest of all that came.
    pub fn finish(&self) -> Digest {
        Digest(*self.0.finalize().as_bytes())
    }
}

/// Digests by chunk number, ascending. In files: runs of consecutive chunks.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "Vec<Run>", into = "Vec<Run>")]
pub struct ChunkList(Vec<Run>);

/// Consecutive chunks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Run {
    /// Number of the first chunk: it starts at byte `first * chunk_bytes` of the disk.
    first: u64,
    /// Its digest and those of the chunks behind it.
    blake3: Vec<Digest>,
}

impl Run {
    fn end(&self) -> Option<u64> {
        u64::try_from(self.blake3.len())
            .ok()
            .and_then(|len| self.first.checked_add(len))
    }
}

impl ChunkList {
    /// Adds the digest of a chunk behind all others.
    ///
    /// # Errors
    /// When it is not behind them.
    pub fn push(&mut self, index: u64, digest: Digest) -> Result<()> {
        let next = self.0.last().and_then(Run::end).unwrap_or(0);
        match self.0.last_mut() {
            Some(run) if index == next => run.blake3.push(digest),
            _ if index >= next => self.0.push(Run {
                first: index,
                blake3: vec![digest],
            }),
            _ => {
                return Err(Error::corrupt(format!(
                    "the digest of chunk {index} comes after that of chunk {}",
                    next.saturating_sub(1)
                )));
            }
        }
        Ok(())
    }

    /// The digest of a chunk; `None` says that it is all zeros.
    pub fn get(&self, index: u64) -> Option<Digest> {
        let run = self
            .0
            .partition_point(|run| run.first <= index)
            .checked_sub(1)
            .and_then(|at| self.0.get(at))?;
        let at = usize::try_from(index.checked_sub(run.first)?).ok()?;
        run.blake3.get(at).copied()
    }

    /// Chunk numbers and digests, ascending.
    pub fn iter(&self) -> impl Iterator<Item = (u64, Digest)> + '_ {
        self.0
            .iter()
            .flat_map(|run| (run.first..).zip(run.blake3.iter().copied()))
    }

    /// The numbers of chunks that are not the same in both, ascending.
    pub fn differing<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = u64> + 'a {
        let (mut ours, mut theirs) = (self.iter().peekable(), other.iter().peekable());
        std::iter::from_fn(move || {
            loop {
                match (ours.peek().copied(), theirs.peek().copied()) {
                    (None, None) => return None,
                    (Some((index, a)), Some((same, b))) if index == same => {
                        ours.next();
                        theirs.next();
                        if a != b {
                            return Some(index);
                        }
                    }
                    (Some((index, _)), next) if next.is_none_or(|(other, _)| index < other) => {
                        ours.next();
                        return Some(index);
                    }
                    (_, Some((index, _))) => {
                        theirs.next();
                        return Some(index);
                    }
                    (Some((index, _)), None) => {
                        ours.next();
                        return Some(index);
                    }
                }
            }
        })
    }

    /// How many chunks are not all zeros.
    pub fn len(&self) -> usize {
        self.0.iter().map(|run| run.blake3.len()).sum()
    }

    /// Whether the whole disk is zeros.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The first byte that no chunk of the list reaches.
    pub fn end(&self) -> u64 {
        self.0.last().and_then(Run::end).unwrap_or(0)
    }
}

impl TryFrom<Vec<Run>> for ChunkList {
    type Error = String;

    fn try_from(runs: Vec<Run>) -> Result<Self, String> {
        let mut next = 0;
        for run in &runs {
            let end = run.end().filter(|_| !run.blake3.is_empty());
            match end {
                Some(end) if run.first >= next => next = end,
                _ => {
                    return Err(format!(
                        "a run of chunks from {} is out of order",
                        run.first
                    ));
                }
            }
        }
        Ok(Self(runs))
    }
}

impl From<ChunkList> for Vec<Run> {
    fn from(list: ChunkList) -> Self {
        list.0
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

    #[test]
    fn a_list_in_disorder_is_refused() {
        let digest = Digest([7; 32]);
        for json in [
            format!(
                r#"[{{"first":5,"blake3":["{digest}","{digest}"]}},{{"first":6,"blake3":["{digest}"]}}]"#
            ),
            r#"[{"first":5,"blake3":[]}]"#.into(),
            format!(r#"[{{"first":18446744073709551615,"blake3":["{digest}"]}}]"#),
        ] {
            assert!(serde_json::from_str::<ChunkList>(&json).is_err(), "{json}");
        }
    }

    #[test]
    fn runs_of_chunks_are_kept_apart_by_the_zeros_between_them() {
        let mut list = ChunkList::default();
        for index in [0, 1, 5, 6, 7] {
            list.push(index, Digest([u8::try_from(index).unwrap(); 32]))
                .unwrap();
        }
        assert!(list.push(7, Digest([7; 32])).is_err());
        assert_eq!((list.len(), list.end()), (5, 8));
        assert_eq!(list.get(4), None);
        assert_eq!(list.get(6), Some(Digest([6; 32])));
        let again: ChunkList =
            serde_json::from_str(&serde_json::to_string(&list).unwrap()).unwrap();
        assert_eq!(again, list);
    }

    #[test]
    fn what_differs_of_two_lists_is_found_wherever_one_has_a_gap() {
        let list = |chunks: &[(u64, u8)]| {
            let mut list = ChunkList::default();
            for (index, digest) in chunks {
                list.push(*index, Digest([*digest; 32])).unwrap();
            }
            list
        };
        let a = list(&[(0, 1), (1, 1), (4, 1), (5, 1), (9, 1)]);
        let b = list(&[(1, 1), (3, 1), (4, 2), (5, 1), (11, 1)]);
        let differing: Vec<u64> = a.differing(&b).collect();
        assert_eq!(differing, [0, 3, 4, 9, 11]);
        assert_eq!(b.differing(&a).collect::<Vec<_>>(), differing);
        assert_eq!(a.differing(&a).next(), None);
        assert_eq!(list(&[]).differing(&list(&[(2, 1)])).next(), Some(2));
    }

    #[test]
    fn a_chunk_of_zeros_has_no_digest() {
        assert_eq!(chunk_digest(&[0; 8192]), None);
        let bytes = [&[0; 8191][..], &[1]].concat();
        let mut pieces = ChunkHasher::default();
        bytes.chunks(1000).for_each(|piece| pieces.update(piece));
        assert_eq!(chunk_digest(&bytes), Some(pieces.finish()));
    }
}
