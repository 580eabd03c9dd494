//! What a disk's bad sectors cost: the names of the files that lay there.
//!
//! In: disks, and for each the bytes that could not be read. Out: for each run of them a [`Loss`]: the
//! file (ext2/3/4, XFS, NTFS) with its path and the offset in it, a directory, metadata, free space, or
//! why nobody knows. It works on the damaged disk itself: what cannot be read is gone around, and what
//! that hides is told as a reason; the answer is never given up as a whole.
//!
//! `usedmap::survey` says which volumes there are, `volume::search` which of their bytes were lost.
//! Then the inodes are gone through for those that own the bytes (`ext`, `xfs`, `ntfs`), and only
//! their names are looked for in the directories (`names`). Only what is wanted is kept: memory does
//! not depend on how many files there are.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

mod claims;
pub(crate) mod ext;
mod loss;
pub(crate) mod names;
pub(crate) mod ntfs;
mod source;
pub(crate) mod xfs;

pub use loss::{Loss, What};

use crate::device::ReadAt;
use crate::error::{Kind, Result};
use crate::extent::{Extent, ExtentList, RunCollector};
use crate::units::ByteOffset;
use crate::usedmap::DiskInfo;
use crate::usedmap::survey::{Holds, Left, Surveyed, survey};
use crate::volume::crypt::Secrets;
use crate::volume::{DiskIndex, Hit, search};
use source::Damaged;

/// Runs that are told apart in one volume; what a disk has lost beyond that is told as one.
const MAX_HITS: usize = 1 << 18;
/// Losses that are told: of thousands of snapshots each sees the same bytes.
const MAX_LOSSES: usize = 1 << 20;

/// Says what lay in the bytes of `sources` that could not be read: `bad` has them disk by disk, in the
/// same order. What `secrets` open is looked into, in memory.
///
/// The losses come in the order of the disks; together they cover all of `bad`. Bytes that several
/// files share, or that several volumes see, come once for each.
///
/// # Errors
/// Only when a disk is gone.
pub fn name_losses(
    sources: &[(&dyn ReadAt, DiskInfo)],
    bad: &[ExtentList],
    secrets: &Secrets,
) -> Result<Vec<Loss>> {
    let nothing = ExtentList::new();
    let bad: Vec<ExtentList> = sources
        .iter()
        .enumerate()
        .map(|(index, (disk, _))| {
            let whole = Extent::new(ByteOffset(0), disk.size());
            let bad = bad.get(index).unwrap_or(&nothing);
            whole
                .into_iter()
                .flat_map(|whole| bad.within(whole))
                .collect()
        })
        .collect();
    if bad.iter().all(ExtentList::is_empty) {
        return Ok(Vec::new());
    }
    let damaged: Vec<Damaged<'_>> = sources
        .iter()
        .zip(&bad)
        .map(|((disk, _), bad)| Damaged { disk: *disk, bad })
        .collect();
    let disks: Vec<(&dyn ReadAt, DiskInfo)> = damaged
        .iter()
        .zip(sources)
        .map(|(disk, (_, info))| {
            let disk: &dyn ReadAt = disk;
            (disk, info.clone())
        })
        .collect();
    let volumes = match survey(&disks, secrets) {
        Ok(volumes) => volumes,
        Err(error) if error.kind() == Kind::Vanished => return Err(error),
        Err(error) => {
            let mut losses = Losses::new(&bad);
            losses.leave(&format!("nothing could be looked into: {error}"));
            return Ok(losses.finish());
        }
    };
    let mut losses = Losses::new(&bad);
    // What is made of others comes behind them: it says more of the same bytes.
    for volume in volumes.iter().rev() {
        if losses.losses.len() >= MAX_LOSSES || !losses.volume(volume) {
            losses.leave("so much was lost that it is not told apart any more");
        }
    }
    losses.leave("it is in none of the volumes that are on the disks");
    Ok(losses.finish())
}

struct Losses<'a> {
    bad: &'a [ExtentList],
    /// What nobody has said anything about yet.
    left: Vec<ExtentList>,
    losses: Vec<Loss>,
}

impl<'a> Losses<'a> {
    fn new(bad: &'a [ExtentList]) -> Self {
        Self {
            bad,
            left: bad.to_vec(),
            losses: Vec::new(),
        }
    }

    /// False if so much of the volume was lost that it was not looked at in whole.
    fn volume(&mut self, volume: &Surveyed<'_>) -> bool {
        // A filesystem speaks for all its bytes, also where another volume has spoken: two thin volumes
        // share them. Whatever lies below says only what is left.
        let is_filesystem = matches!(volume.holds, Holds::Filesystem(_));
        let runs = if is_filesystem { self.bad } else { &self.left };
        let mut hits = Vec::new();
        search(&*volume.volume, runs, |hit| {
            hits.push(hit);
            hits.len() < MAX_HITS
        });
        if hits.is_empty() {
            return true;
        }
        let inside: Vec<Extent> = hits.iter().map(|hit| hit.inside).collect();
        let lost = list(inside);
        let words = match &volume.holds {
            Holds::Filesystem(name) => in_filesystem(name, &volume.volume, &lost),
            Holds::Pieces(pieces) => in_pieces(pieces, &lost),
            Holds::Member { what, metadata, .. } => in_member(what, metadata, &lost),
            Holds::Swap => all(&lost, &What::outside("swap space")),
            Holds::Closed(reason) => all(&lost, &What::unknown(reason)),
            Holds::Locked { what, .. } => {
                let why = format!("it is in {what}, which no secret that was given opens");
                all(&lost, &What::unknown(why))
            }
        };
        let mut told: Vec<RunCollector> = self.left.iter().map(|_| RunCollector::new()).collect();
        for (disk, place, what) in placed(&hits, &words) {
            if let Some(told) = told.get_mut(disk.0) {
                told.push(place);
            }
            self.losses.push(Loss {
                disk: disk.0,
                range: place,
                volume: volume.name.clone(),
                what,
            });
        }
        for (left, told) in self.left.iter_mut().zip(told) {
            *left = left.subtract(&told.finish());
        }
        hits.len() < MAX_HITS && self.losses.len() < MAX_LOSSES
    }

    /// What is left is unknown.
    fn leave(&mut self, reason: &str) {
        for (disk, left) in self.left.iter_mut().enumerate() {
            for range in std::mem::take(left).iter() {
                self.losses.push(Loss {
                    disk,
                    range,
                    volume: None,
                    what: What::unknown(reason),
                });
            }
        }
    }

    fn finish(mut self) -> Vec<Loss> {
        self.losses.sort_by(|a, b| {
            (a.disk, a.range, &a.volume, &a.what).cmp(&(b.disk, b.range, &b.volume, &b.what))
        });
        self.losses.dedup();
        self.losses
    }
}

/// From the bytes of a volume back to those of the disks. The starts of `words` ascend.
fn placed(hits: &[Hit], words: &[(Extent, What)]) -> Vec<(DiskIndex, Extent, What)> {
    // How far the words up to each reach: they may overlap.
    let mut reach = Vec::with_capacity(words.len());
    for (piece, _) in words {
        let before = reach.last().copied().unwrap_or(0);
        reach.push(piece.end().max(before));
    }
    let mut placed = Vec::new();
    for hit in hits {
        let from = reach.partition_point(|&end| end <= hit.inside.start().0);
        let behind = words.partition_point(|(piece, _)| piece.start().0 < hit.inside.end());
        for (piece, what) in words.get(from..behind).unwrap_or_default() {
            let Some(part) = piece.intersect(hit.inside) else {
                continue;
            };
            let skip = part.start().0.saturating_sub(piece.start().0);
            let what = what.part(skip, part.len().0, piece.len().0);
            let into = part.start().0.saturating_sub(hit.inside.start().0);
            let start = hit.place.start().0.saturating_add(into);
            let place = if hit.place.len() == hit.inside.len() {
                Extent::new(ByteOffset(start), part.len())
            } else {
                // All of it hangs on all of the sector.
                Some(hit.place)
            };
            placed.extend(place.map(|place| (hit.disk, place, what)));
        }
    }
    placed
}

fn list(mut extents: Vec<Extent>) -> ExtentList {
    extents.sort_unstable();
    extents.into_iter().collect()
}

fn all(lost: &ExtentList, what: &What) -> Vec<(Extent, What)> {
    lost.iter().map(|extent| (extent, what.clone())).collect()
}

fn in_filesystem(name: &str, volume: &dyn ReadAt, lost: &ExtentList) -> Vec<(Extent, What)> {
    match name {
        "ext" => ext::name(volume, lost),
        "xfs" => xfs::name(volume, lost),
        "ntfs" => ntfs::name(volume, lost),
        other => all(
            lost,
            &What::unknown(format!("the names of files are not looked for in {other}")),
        ),
    }
}

fn in_pieces(pieces: &[(Extent, Left)], lost: &ExtentList) -> Vec<(Extent, What)> {
    let mut words = Vec::new();
    for (piece, left) in pieces {
        let what = match left {
            Left::Table => What::metadata("partition table"),
            Left::BootGap => What::outside("before the first partition, where boot code may be"),
            Left::Unpartitioned => What::outside("in no partition"),
            Left::Partition(number) => {
                What::unknown(format!("partition {number} is not looked into"))
            }
        };
        words.extend(lost.within(*piece).map(|part| (part, what.clone())));
    }
    words.sort();
    words
}

fn in_member(what: &str, metadata: &ExtentList, lost: &ExtentList) -> Vec<(Extent, What)> {
    let own = What::metadata(format!("labels, headers or metadata of {what}"));
    let rest = What::outside(format!("in {what}, but in none of the volumes in it"));
    let mut words = all(&lost.intersect(metadata), &own);
    words.extend(all(&lost.subtract(metadata), &rest));
    words.sort();
    words
}
