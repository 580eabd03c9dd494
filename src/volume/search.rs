//! The way back: which bytes of a volume lie in certain runs of the disks.
//!
//! A volume only knows the way down ([`Volume::trace`]). So it is halved, and halved again, as long as
//! what it is traced to is hit; where a part lies on the disks as one run of its own length, in the
//! volume's order, it need not be halved any more. (Whoever traces calls `push` in the order of the
//! volume: a permutation shows as several runs.)

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use super::{DiskIndex, Places, Volume};
use crate::extent::{Extent, ExtentList};
use crate::units::ByteOffset;

/// Smaller parts are not told apart: no disk has smaller sectors.
const SMALLEST: u64 = 512;
/// Hits kept of one part: more only say that it has to be halved.
const MOST_HITS: usize = 64;

/// Bytes of a volume that lie in a sought run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Hit {
    /// In the volume.
    pub inside: Extent,
    /// The disk.
    pub disk: DiskIndex,
    /// On the disk: as long as `inside`, or, where several bytes of the volume hang together (the
    /// sector of an encryption), what of it was hit.
    pub place: Extent,
}

/// What a search looks for, and what it has hit so far.
#[derive(Debug)]
pub(super) struct Sought {
    runs: Vec<ExtentList>,
    hits: Vec<(DiskIndex, Extent)>,
}

impl Sought {
    pub(super) fn push(&mut self, disk: DiskIndex, extent: Extent) {
        let hit = self
            .runs
            .get(disk.0)
            .is_some_and(|runs| runs.within(extent).next().is_some());
        if hit && self.hits.len() <= MOST_HITS {
            self.hits.push((disk, extent));
        }
    }

    fn inside(&self, disk: DiskIndex, extent: Extent) -> impl Iterator<Item = Extent> + '_ {
        let runs = self.runs.get(disk.0);
        runs.into_iter().flat_map(move |runs| runs.within(extent))
    }
}

/// Calls `found` with all bytes of a volume that lie in `runs` (disk by disk), ascending within the
/// volume; a byte that is hit in several copies comes once for each. Ends early when `found` says
/// false.
pub(crate) fn search(volume: &dyn Volume, runs: &[ExtentList], mut found: impl FnMut(Hit) -> bool) {
    let mut places = Places {
        disks: Vec::new(),
        sought: Some(Sought {
            runs: runs.to_vec(),
            hits: Vec::new(),
        }),
    };
    // The first is at the end; a halving adds one, so that it holds at most 64 parts.
    let mut parts: Vec<Extent> = Extent::new(ByteOffset(0), volume.size())
        .into_iter()
        .collect();
    while let Some(part) = parts.pop() {
        if let Some(sought) = &mut places.sought {
            sought.hits.clear();
        }
        volume.trace(part, &mut places);
        let Some(sought) = &places.sought else { return };
        let straight = sought.hits.iter().all(|(_, run)| run.len() == part.len());
        if sought.hits.is_empty() {
            continue;
        }
        if !straight && let Some((first, second)) = halves(part) {
            parts.extend([second, first]);
            continue;
        }
        for &(disk, run) in &sought.hits {
            for place in sought.inside(disk, run) {
                let inside = if straight {
                    let skip = place.start().0.saturating_sub(run.start().0);
                    let start = part.start().0.saturating_add(skip);
                    Extent::between(start, start.saturating_add(place.len().0))
                } else {
                    Some(part)
                };
                if let Some(inside) = inside
                    && !found(Hit {
                        inside,
                        disk,
                        place,
                    })
                {
                    return;
                }
            }
        }
    }
}

/// Cut about the middle, at a multiple of a power of two, as chunks are; `None` if it is a smallest
/// part.
fn halves(part: Extent) -> Option<(Extent, Extent)> {
    let (start, half) = (part.start().0, part.len().0 >> 1);
    let step = 1_u64.checked_shl(half.checked_ilog2()?)?.max(SMALLEST);
    let mask = step.checked_sub(1)?;
    let about = start.checked_add(half)? & !mask;
    let middle = if about > start {
        about
    } else {
        (start & !mask).checked_add(step)?
    };
    Some((
        Extent::between(start, middle)?,
        Extent::between(middle, part.end())?,
    ))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::arithmetic_side_effects)]

    use super::*;
    use crate::device::MemDisk;
    use crate::volume::concat::Concat;
    use crate::volume::raid::{Leg, Mirror, Parity, Raid, Rotation, Stripes};
    use crate::volume::{SharedVolume, Slice};
    use proptest::prelude::*;
    use std::sync::Arc;

    const KIB: u64 = 1024;

    fn run(start: u64, end: u64) -> Extent {
        Extent::between(start, end).unwrap()
    }

    fn leg(disk: &MemDisk, index: usize, start: u64, end: u64) -> SharedVolume<'_> {
        Arc::new(Slice::new(disk, DiskIndex(index), run(start, end)).unwrap())
    }

    fn legs(disks: &[MemDisk]) -> Vec<Vec<Leg<'_>>> {
        let one = |(index, disk): (usize, _)| {
            vec![Leg {
                volume: leg(disk, index, 0, 256 * KIB),
                start: 0,
                readable: true,
            }]
        };
        disks.iter().enumerate().map(one).collect()
    }

    fn disks(count: usize) -> Vec<MemDisk> {
        vec![MemDisk(vec![0; 256 << 10]); count]
    }

    fn all(volume: &dyn Volume, runs: &[ExtentList]) -> Vec<Hit> {
        let mut hits = Vec::new();
        search(volume, runs, |hit| {
            hits.push(hit);
            true
        });
        hits
    }

    #[test]
    fn extents_that_were_swapped_are_told_apart() {
        let disk = MemDisk(vec![0; 64 << 10]);
        // Together they are one run of the disk, but not in its order.
        let parts = [(16, 32), (0, 16), (32, 48)];
        let parts = parts.map(|(from, to)| leg(&disk, 0, from * KIB, to * KIB));
        let volume = Concat::new("swapped", parts.to_vec()).unwrap();
        let bad = [run(KIB, 2 * KIB), run(40 * KIB, 41 * KIB)];
        let hits = all(&volume, &[bad.into_iter().collect()]);
        let inside: Vec<Extent> = hits.iter().map(|hit| hit.inside).collect();
        assert_eq!(inside, [run(17 * KIB, 18 * KIB), run(40 * KIB, 41 * KIB)]);
        assert_eq!(hits.iter().map(|hit| hit.place).collect::<Vec<_>>(), bad);
    }

    #[test]
    fn a_mirror_is_hit_on_either_side() {
        let disks = disks(2);
        let size = 256 * KIB;
        let mirror = Raid::new("m", Box::new(Mirror { slots: 2, size }), legs(&disks)).unwrap();
        let bad = |from, to| ExtentList::from_iter([run(from, to)]);
        let hits = all(&mirror, &[bad(512, 1024), bad(8192, 8704)]);
        let places: Vec<(Extent, usize)> = hits.iter().map(|h| (h.inside, h.disk.0)).collect();
        assert_eq!(places, [(run(512, 1024), 0), (run(8192, 8704), 1)]);
    }

    proptest! {
        #[test]
        fn what_is_found_is_where_it_is_read_from(
            kind in 0_usize..2, disk in 0_usize..3, sector in 0_u64..512, sectors in 1_u64..40,
        ) {
            let clean = disks(3);
            let sectors = sectors.min(512 - sector);
            let bad = run(sector * 512, (sector + sectors) * 512);
            let mut marked = clean.clone();
            let range = usize::try_from(bad.start().0).unwrap()..usize::try_from(bad.end()).unwrap();
            marked[disk].0[range].fill(0xBD);
            let geometry = |kind| -> Box<dyn crate::volume::raid::Geometry> {
                match kind {
                    0 => Box::new(Stripes::new(16 * KIB, &[256 * KIB; 3], None).unwrap()),
                    _ => Box::new(
                        Parity::new((Rotation::LeftSymmetric, false), 16 * KIB, 3, 1, 256 * KIB)
                            .unwrap(),
                    ),
                }
            };
            let mut runs = vec![ExtentList::new(); 3];
            runs[disk].insert(bad);
            let found: ExtentList = all(&Raid::new("r", geometry(kind), legs(&clean)).unwrap(), &runs)
                .into_iter()
                .map(|hit| hit.inside)
                .collect();
            // Where the copy is that is read first: where the marks are read.
            let geometry = geometry(kind);
            let mut expected = ExtentList::new();
            let mut at = 0;
            while at < geometry.size() {
                let piece = geometry.piece(at);
                let (slot, from) = piece.copies[0];
                if slot == disk && bad.intersect(run(from, from + 512)).is_some() {
                    expected.insert(run(at, at + 512));
                }
                at += 512;
            }
            prop_assert_eq!(found, expected);
        }
    }
}
