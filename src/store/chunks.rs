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
use crate::units::{ByteLen, ByteOffset};
use serde::{Deserialize, Serialize};

/// The chunk that captures are digested in.
pub const CHUNK_BYTES: u64 = 4 << 20;

/// The digest of one whole chunk (the last one of a disk may be shorter); `None` if it is all
/// zeros. For callers that hold whole chunks, on as many threads as they like.
pub fn chunk_digest(chunk: &[u8]) -> Option<Digest> {
    (!is_zero(chunk)).then(|| Digest(*blake3::hash(chunk).as_bytes()))
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

/// Takes what is read of a disk, in ascending order and in pieces of any size, and digests it.
pub struct ChunkDigests {
    size: ByteLen,
    /// Everything before this was digested or skipped.
    at: u64,
    /// The chunk that `at` lies in; `None` while it has nothing but zeros.
    open: Option<blake3::Hasher>,
    done: ChunkList,
}

impl ChunkDigests {
    /// For a disk of `size`.
    pub fn new(size: ByteLen) -> Self {
        Self {
            size,
            at: 0,
            open: None,
            done: ChunkList::default(),
        }
    }

    /// Takes the bytes at `offset`. What lies between them and those before is zeros.
    ///
    /// # Errors
    /// When they are not behind those before or not on the disk.
    pub fn update(&mut self, offset: ByteOffset, bytes: &[u8]) -> Result<()> {
        let end = u64::try_from(bytes.len())
            .ok()
            .and_then(|len| offset.0.checked_add(len))
            .filter(|end| *end <= self.size.0 && offset.0 >= self.at)
            .ok_or_else(|| {
                Error::corrupt(format!(
                    "digesting {} bytes out of order: the next may be {} to {}",
                    bytes.len(),
                    self.at,
                    self.size.0
                ))
                .at(offset.0)
            })?;
        self.zeros_to(offset.0)?;
        let mut rest = bytes;
        while self.at < end {
            let room = usize::try_from(self.chunk_end().saturating_sub(self.at)).unwrap_or(0);
            let (now, later) = rest.split_at(room.min(rest.len()));
            if self.open.is_some() || !is_zero(now) {
                let leading = self.at.checked_rem(CHUNK_BYTES).unwrap_or(0);
                self.open
                    .get_or_insert_with(|| {
                        let mut hasher = blake3::Hasher::new();
                        hash_zeros(&mut hasher, leading);
                        hasher
                    })
                    .update(now);
            }
            self.advance(u64::try_from(now.len()).unwrap_or(0))?;
            rest = later;
        }
        Ok(())
    }

    /// The digests, once the rest of the disk is known to be zeros.
    ///
    /// # Errors
    /// None that a caller can cause.
    pub fn finish(mut self) -> Result<ChunkList> {
        self.zeros_to(self.size.0)?;
        Ok(self.done)
    }

    /// Where the chunk that `at` lies in ends.
    fn chunk_end(&self) -> u64 {
        let start = self
            .at
            .saturating_sub(self.at.checked_rem(CHUNK_BYTES).unwrap_or(0));
        start.saturating_add(CHUNK_BYTES).min(self.size.0)
    }

    fn zeros_to(&mut self, to: u64) -> Result<()> {
        let end = self.chunk_end();
        if let Some(hasher) = &mut self.open {
            let length = to.min(end).saturating_sub(self.at);
            hash_zeros(hasher, length);
            self.advance(length)?;
        }
        // No chunk is open now, or `to` is reached.
        if self.open.is_none() {
            self.at = self.at.max(to);
        }
        Ok(())
    }

    /// `count` more bytes of the chunk are dealt with; closes it where it ends.
    fn advance(&mut self, count: u64) -> Result<()> {
        let end = self.chunk_end();
        let index = self.at.checked_div(CHUNK_BYTES).unwrap_or(0);
        self.at = self.at.saturating_add(count);
        if self.at >= end
            && let Some(hasher) = self.open.take()
        {
            self.done
                .push(index, Digest(*hasher.finalize().as_bytes()))?;
        }
        Ok(())
    }
}

/// Feeds `count` zeros.
fn hash_zeros(hasher: &mut blake3::Hasher, count: u64) {
    static ZEROS: [u8; 65_536] = [0; 65_536];
    let mut left = usize::try_from(count).unwrap_or(0);
    while left > 0 {
        let (now, _) = ZEROS.split_at(left.min(ZEROS.len()));
        hasher.update(now);
        left = left.saturating_sub(now.len());
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
    use proptest::prelude::*;

    /// Every chunk of the whole disk in memory, hashed at once.
    fn naive(disk: &[u8]) -> Vec<(u64, Digest)> {
        (0..)
            .zip(disk.chunks(CHUNK_BYTES as usize))
            .filter(|(_, chunk)| chunk.iter().any(|byte| *byte != 0))
            .map(|(index, chunk)| (index, Digest(*blake3::hash(chunk).as_bytes())))
            .collect()
    }

    fn check(size: usize, pieces: &[(usize, usize, u8)]) {
        let mut disk = vec![0; size];
        let mut digests = ChunkDigests::new(ByteLen(size as u64));
        let mut at = 0;
        for &(gap, length, byte) in pieces {
            let start = (at + gap).min(size);
            let end = (start + length).min(size);
            disk[start..end].fill(byte);
            digests
                .update(ByteOffset(start as u64), &disk[start..end])
                .unwrap();
            at = end;
        }
        let list = digests.finish().unwrap();
        assert_eq!(list.iter().collect::<Vec<_>>(), naive(&disk));
    }

    #[test]
    fn a_disk_of_zeros_has_no_digests_whether_read_or_not() {
        check(10 << 20, &[]);
        check(10 << 20, &[(0, 10 << 20, 0)]);
    }

    #[test]
    fn one_byte_in_the_last_short_chunk_is_seen() {
        check((8 << 20) + 512, &[((8 << 20) + 511, 1, 7)]);
    }

    #[test]
    fn going_back_and_going_beyond_are_refused() {
        let mut digests = ChunkDigests::new(ByteLen(1024));
        digests.update(ByteOffset(512), &[1; 10]).unwrap();
        assert!(digests.update(ByteOffset(521), &[1]).is_err());
        assert!(digests.update(ByteOffset(1023), &[1; 2]).is_err());
        assert!(digests.update(ByteOffset(u64::MAX), &[1]).is_err());
    }

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

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        #[test]
        fn pieces_of_any_size_give_the_digests_of_whole_chunks(
            size in 1_usize..20_000_000,
            pieces in prop::collection::vec(
                (
                    prop_oneof![Just(0_usize), 0_usize..9_000_000],
                    prop_oneof![0_usize..5_000_000, 1_usize..600],
                    0_u8..3,
                ),
                0..12,
            ),
        ) {
            check(size, &pieces);
        }
    }
}
