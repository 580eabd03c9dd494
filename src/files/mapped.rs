//! The content of a file whose bytes lie on the volume as they are, in runs; what is in none of them
//! reads as zeros.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use super::Content;
use crate::device::ReadAt;
use crate::refusal::Refusal;
use crate::units::ByteOffset;

/// Runs of a file that are kept (3 MiB). A file in more pieces is not one of those that are read here.
pub(super) const MAX_RUNS: usize = 1 << 17;

/// Bytes of a file that lie side by side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    /// The first one in the file.
    pub at: u64,
    /// How many.
    pub len: u64,
    /// The first one on the volume.
    pub place: u64,
}

/// See the module.
pub(super) struct Mapped<'a> {
    volume: &'a dyn ReadAt,
    size: u64,
    runs: Vec<Run>,
}

impl<'a> Mapped<'a> {
    /// `runs` in any order.
    pub(super) fn new(volume: &'a dyn ReadAt, size: u64, mut runs: Vec<Run>) -> Self {
        runs.sort_unstable_by_key(|run| run.at);
        Self { volume, size, runs }
    }
}

impl Content for Mapped<'_> {
    fn size(&self) -> u64 {
        self.size
    }

    fn read(&self, at: u64, buf: &mut [u8]) -> Result<(), Refusal> {
        check_inside(self.size, at, buf)?;
        let mut at = at;
        let mut rest = buf;
        while !rest.is_empty() {
            let next = self.runs.partition_point(|run| run.at <= at);
            let here = next.checked_sub(1).and_then(|nth| self.runs.get(nth));
            let left = here.and_then(|run| {
                let into = at.checked_sub(run.at)?;
                let left = run.len.checked_sub(into).filter(|&left| left > 0)?;
                Some((run.place.checked_add(into)?, left))
            });
            // Up to the next run, which may begin inside this one if they contradict each other.
            let gap = self
                .runs
                .get(next)
                .map_or(u64::MAX, |run| run.at.saturating_sub(at));
            let room = left.map_or(gap, |(_, left)| left.min(gap));
            let room = usize::try_from(room).unwrap_or(usize::MAX).min(rest.len());
            let (piece, behind) = rest.split_at_mut(room);
            match left {
                Some((place, _)) => self.volume.read_at(ByteOffset(place), piece)?,
                None => piece.fill(0),
            }
            at = at.saturating_add(u64::try_from(room).unwrap_or(u64::MAX));
            rest = behind;
        }
        Ok(())
    }
}

/// What lies in memory already.
pub(super) struct Inline(pub Vec<u8>);

impl Content for Inline {
    fn size(&self) -> u64 {
        u64::try_from(self.0.len()).unwrap_or(u64::MAX)
    }

    fn read(&self, at: u64, buf: &mut [u8]) -> Result<(), Refusal> {
        check_inside(self.size(), at, buf)?;
        let from = usize::try_from(at).unwrap_or(usize::MAX);
        if let Some(bytes) = self.0.get(from..).and_then(|rest| rest.get(..buf.len())) {
            buf.copy_from_slice(bytes);
        }
        Ok(())
    }
}

/// A read behind the end of a file is a mistake of whoever reads, or of what said how long it is.
pub(super) fn check_inside(size: u64, at: u64, buf: &[u8]) -> Result<(), Refusal> {
    let len = u64::try_from(buf.len()).unwrap_or(u64::MAX);
    match at.checked_add(len) {
        Some(end) if end <= size => Ok(()),
        _ => Err(Refusal::Damaged(format!(
            "a file of {size} bytes has none at byte {at}"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::MemDisk;

    #[test]
    fn runs_and_holes_follow_each_other() {
        let disk = MemDisk((0..100).collect());
        let run = |at, len, place| Run { at, len, place };
        let file = Mapped::new(&disk, 30, vec![run(20, 5, 0), run(4, 6, 50)]);
        let mut bytes = [9; 30];
        file.read(0, &mut bytes).unwrap();
        let mut expected = [0; 30];
        expected[4..10].copy_from_slice(&[50, 51, 52, 53, 54, 55]);
        expected[20..25].copy_from_slice(&[0, 1, 2, 3, 4]);
        assert_eq!(bytes, expected);
        assert!(file.read(1, &mut bytes).is_err());
    }

    #[test]
    fn runs_that_overlap_or_lie_outside_end() {
        let disk = MemDisk(vec![7; 10]);
        let run = |at, len, place| Run { at, len, place };
        let file = Mapped::new(&disk, 8, vec![run(0, 8, 0), run(0, 0, 0), run(2, 8, 1)]);
        let mut bytes = [0; 8];
        file.read(0, &mut bytes).unwrap();
        assert_eq!(bytes[2..], [7; 6]);
        let outside = Mapped::new(&disk, 8, vec![run(0, 8, u64::MAX)]);
        assert!(outside.read(0, &mut bytes).is_err());
    }
}
