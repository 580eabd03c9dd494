//! Striping, mirroring and parity as Linux lays them out, for md arrays and for logical volumes. In:
//! legs (members' data areas, images of a logical volume) and a geometry. Out: a volume.
//!
//! A geometry says for each byte where its copies lie (`piece`) and for a run of bytes everything
//! that belongs to it (`each`): all copies, and with parity the whole rows.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

mod mirror;
mod parity;
mod raid10;
mod stripes;
#[cfg(test)]
mod tests;

pub(crate) use mirror::Mirror;
pub(crate) use parity::{Parity, Rotation};
pub(crate) use raid10::{Raid10, Raid10Layout};
pub(crate) use stripes::{Stripes, ZoneOrder};

use super::{Places, SharedVolume, Volume};
use crate::device::ReadAt;
use crate::device::read::check_range;
use crate::error::{Error, Kind, Result};
use crate::extent::Extent;
use crate::units::{ByteLen, ByteOffset};

/// A member's data area or an image, in the place of a slot.
#[derive(Clone)]
pub(crate) struct Leg<'a> {
    /// Where it lies.
    pub volume: SharedVolume<'a>,
    /// Where its data starts on `volume`, in bytes.
    pub start: u64,
    /// Whether its data is up to date. What is not is traced all the same, but never read.
    pub readable: bool,
}

/// Where a byte lies, and how many behind it lie in the same way.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    /// Bytes, at least one.
    pub len: u64,
    /// Slot and byte in the slot's data; any of them can be read.
    pub copies: Vec<(usize, u64)>,
    /// Slots whose bytes at the same place give these bytes when they are XORed.
    pub rebuild: Vec<usize>,
}

/// How the bytes lie on the slots. Everything is in bytes from the start of a slot's data.
pub(crate) trait Geometry: std::fmt::Debug + Send + Sync {
    /// How many bytes there are.
    fn size(&self) -> u64;
    /// How many slots.
    fn slots(&self) -> usize;
    /// Where byte `at` (less than `size`) lies.
    fn piece(&self, at: u64) -> Piece;
    /// Calls `put(slot, start, end)` for everything that belongs to the bytes from `start` to
    /// `end` (not more than `size`).
    fn each(&self, start: u64, end: u64, put: &mut dyn FnMut(usize, u64, u64));
    /// How many bytes of a slot are used.
    fn used(&self, slot: usize) -> u64;
}

/// A volume of legs.
pub(crate) struct Raid<'a> {
    name: String,
    geometry: Box<dyn Geometry>,
    /// Slot by slot; none where a member is missing, several where one replaces another.
    legs: Vec<Vec<Leg<'a>>>,
}

impl<'a> Raid<'a> {
    /// Fails with a clause if a slot cannot be read in any way, or a leg is too short.
    pub(crate) fn new(
        name: impl Into<String>,
        geometry: Box<dyn Geometry>,
        legs: Vec<Vec<Leg<'a>>>,
    ) -> std::result::Result<Self, String> {
        if legs.len() != geometry.slots() {
            return Err(format!(
                "{} members instead of {}",
                legs.len(),
                geometry.slots()
            ));
        }
        for (slot, legs) in legs.iter().enumerate() {
            let used = geometry.used(slot);
            for leg in legs {
                let end = leg.start.checked_add(used);
                if end.is_none_or(|end| end > leg.volume.size().0) {
                    return Err(format!("member {slot} is shorter than its data"));
                }
            }
        }
        Ok(Self {
            name: name.into(),
            geometry,
            legs,
        })
    }

    fn readable(&self, slot: usize) -> impl Iterator<Item = &Leg<'a>> {
        self.legs
            .get(slot)
            .map_or(&[][..], Vec::as_slice)
            .iter()
            .filter(|leg| leg.readable)
    }

    /// Whether every byte can be read: `piece` repeats itself after so many pieces.
    pub(crate) fn is_complete(&self, pieces: usize) -> bool {
        let mut at = 0;
        for _ in 0..pieces {
            if at >= self.geometry.size() {
                break;
            }
            let piece = self.geometry.piece(at);
            let direct = piece
                .copies
                .iter()
                .any(|(slot, _)| self.readable(*slot).next().is_some());
            let rebuilt = !piece.rebuild.is_empty()
                && piece
                    .rebuild
                    .iter()
                    .all(|slot| self.readable(*slot).next().is_some());
            if !direct && !rebuilt {
                return false;
            }
            at = at.saturating_add(piece.len.max(1));
        }
        true
    }

    /// Reads `buf` from byte `at` of a slot's data, from whichever leg gives it.
    fn read_slot(&self, slot: usize, at: u64, buf: &mut [u8]) -> Result<()> {
        let mut failed = None;
        for leg in self.readable(slot) {
            match leg
                .volume
                .read_at(ByteOffset(leg.start.saturating_add(at)), buf)
            {
                Ok(()) => return Ok(()),
                Err(error) if error.kind() == Kind::Vanished => return Err(error),
                Err(error) => failed = Some(error),
            }
        }
        Err(failed.unwrap_or_else(|| {
            Error::new(Kind::Io, format!("member {slot} is missing")).on(self.name.clone())
        }))
    }

    /// Reads bytes that lie in the same way, and holds every other copy and the parity against them.
    ///
    /// Whoever reads here draws a map for all members from it. Members whose content does not agree
    /// are not (or no longer) what their superblocks say: disks that were taken out of an array and
    /// used by themselves still carry them.
    fn read_piece(&self, piece: &Piece, buf: &mut [u8]) -> Result<()> {
        self.read_any(piece, buf)?;
        let differ = || {
            Error::corrupt("its members do not agree: the array is out of step, or is none")
                .on(self.name.clone())
        };
        let mut other = vec![0; buf.len()];
        for (slot, at) in &piece.copies {
            for leg in self.readable(*slot) {
                let at = ByteOffset(leg.start.saturating_add(*at));
                match leg.volume.read_at(at, &mut other) {
                    Ok(()) if other != buf => return Err(differ()),
                    Err(error) if error.kind() == Kind::Vanished => return Err(error),
                    // What one copy cannot say, the others do.
                    Ok(()) | Err(_) => {}
                }
            }
        }
        if piece.rebuild.is_empty() {
            return Ok(());
        }
        match self.rebuild(piece, &mut other) {
            Ok(()) if other != buf => Err(differ()),
            Err(error) if error.kind() == Kind::Vanished => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    fn read_any(&self, piece: &Piece, buf: &mut [u8]) -> Result<()> {
        let mut failed = None;
        for (slot, at) in &piece.copies {
            match self.read_slot(*slot, *at, buf) {
                Ok(()) => return Ok(()),
                Err(error) if error.kind() == Kind::Vanished => return Err(error),
                Err(error) => failed = Some(error),
            }
        }
        let failed = failed.unwrap_or_else(|| Error::corrupt("bytes that lie nowhere"));
        if piece.rebuild.is_empty() {
            return Err(failed);
        }
        self.rebuild(piece, buf)
    }

    /// The bytes as the other members and the parity give them.
    fn rebuild(&self, piece: &Piece, buf: &mut [u8]) -> Result<()> {
        let Some((_, at)) = piece.copies.first() else {
            return Err(Error::corrupt("bytes that lie nowhere"));
        };
        let mut sum = vec![0; buf.len()];
        let mut one = vec![0; buf.len()];
        for slot in &piece.rebuild {
            self.read_slot(*slot, *at, &mut one).map_err(|error| {
                let kind = match error.kind() {
                    Kind::Vanished => Kind::Vanished,
                    _ => Kind::Io,
                };
                Error::new(kind, "rebuilding from the parity").on(self.name.clone())
            })?;
            for (sum, one) in sum.iter_mut().zip(&one) {
                *sum ^= one;
            }
        }
        buf.copy_from_slice(&sum);
        Ok(())
    }
}

impl ReadAt for Raid<'_> {
    fn size(&self) -> ByteLen {
        ByteLen(self.geometry.size())
    }

    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> Result<()> {
        check_range(&self.name, self.size(), offset, buf.len())?;
        let mut at = offset.0;
        let mut rest = buf;
        while !rest.is_empty() {
            let piece = self.geometry.piece(at);
            let len = usize::try_from(piece.len)
                .unwrap_or(usize::MAX)
                .clamp(1, rest.len());
            let Some((now, later)) = rest.split_at_mut_checked(len) else {
                break;
            };
            self.read_piece(&piece, now)?;
            rest = later;
            at = at.saturating_add(u64::try_from(len).unwrap_or(u64::MAX));
        }
        Ok(())
    }

    fn name(&self) -> String {
        self.name.clone()
    }
}

impl Volume for Raid<'_> {
    fn trace(&self, extent: Extent, places: &mut Places) {
        let end = extent.end().min(self.geometry.size());
        if extent.start().0 >= end {
            return;
        }
        if places.wants_only_data() && self.trace_data(extent.start().0, end, places) {
            return;
        }
        self.geometry
            .each(extent.start().0, end, &mut |slot, from, to| {
                self.trace_slot(slot, from, to, places);
            });
    }
}

impl Raid<'_> {
    fn trace_slot(&self, slot: usize, from: u64, to: u64, places: &mut Places) {
        for leg in self.legs.get(slot).into_iter().flatten() {
            let run = Extent::between(leg.start.saturating_add(from), leg.start.saturating_add(to));
            if let Some(run) = run {
                leg.volume.trace(run, places);
            }
        }
    }

    /// Every copy of the bytes, but no parity; false if they are in so many pieces that nobody should
    /// wait for it.
    fn trace_data(&self, start: u64, end: u64, places: &mut Places) -> bool {
        const MOST_PIECES: usize = 64;
        let mut pieces = Vec::new();
        let mut at = start;
        while at < end {
            let piece = self.geometry.piece(at);
            let len = piece.len.clamp(1, end.saturating_sub(at));
            at = at.saturating_add(len);
            pieces.push((piece, len));
            if pieces.len() > MOST_PIECES {
                return false;
            }
        }
        for (piece, len) in pieces {
            for (slot, from) in piece.copies {
                self.trace_slot(slot, from, from.saturating_add(len), places);
            }
        }
        true
    }
}

/// Cuts the bytes from `start` to `end` into `(start, end)`: what fills no whole row of `row`
/// bytes, the whole rows in the middle, and again what fills none.
fn by_rows(start: u64, end: u64, row: u64) -> [Option<(u64, u64)>; 3] {
    let up = start.div_ceil(row.max(1)).saturating_mul(row);
    let down = end.checked_div(row).unwrap_or(0).saturating_mul(row);
    if up >= down {
        return [Some((start, end)), None, None];
    }
    [
        (start < up).then_some((start, up)),
        Some((up, down)),
        (down < end).then_some((down, end)),
    ]
}

/// Calls `each(start, end)` for the bytes from `start` to `end`, cut where a chunk ends.
fn by_chunks(start: u64, end: u64, chunk: u64, mut each: impl FnMut(u64, u64)) {
    let mut at = start;
    while at < end {
        let next = at
            .checked_div(chunk)
            .and_then(|index| index.checked_add(1))
            .and_then(|index| index.checked_mul(chunk))
            .unwrap_or(end)
            .min(end);
        each(at, next);
        at = next;
    }
}

/// `a / b` and what is left; `b` is never 0 here.
fn divide(a: u64, b: u64) -> (u64, u64) {
    (a.checked_div(b).unwrap_or(0), a.checked_rem(b).unwrap_or(0))
}

/// A slot's number as an index.
fn index(slot: u64) -> usize {
    usize::try_from(slot).unwrap_or(usize::MAX)
}
