//! RAID 0 and striped segments: chunks go round the slots. Where members of md's RAID 0 differ in
//! size, the array has several zones: the first over all members as far as the smallest reaches,
//! the next over those that are longer, and so on (`create_strip_zones` in `raid0.c` of Linux).

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use super::{Geometry, Piece, by_chunks, by_rows, divide, index};

/// From which member the chunks of the second and later zones go round; Linux before 3.14 and
/// since differ, and the superblock says which it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ZoneOrder {
    /// `RAID0_ORIG_LAYOUT`, 1: counted from the start of the array.
    Original,
    /// `RAID0_ALT_MULTIZONE_LAYOUT`, 2: counted from the start of the zone.
    Alternate,
}

#[derive(Debug)]
struct Zone {
    /// First byte in the array, and the byte behind it.
    start: u64,
    end: u64,
    /// Where it starts on each of its slots.
    slot_start: u64,
    /// Which slots, in their order.
    slots: Vec<usize>,
    /// How many slots the round is turned.
    turn: u64,
}

/// Chunks that go round.
#[derive(Debug)]
pub(crate) struct Stripes {
    chunk: u64,
    zones: Vec<Zone>,
    used: Vec<u64>,
}

impl Stripes {
    /// `sizes` of the slots in bytes, which are rounded down to chunks. `order` is only needed for
    /// more than one zone of more than one slot: then without it, or if nothing is left, `None`.
    pub(crate) fn new(chunk: u64, sizes: &[u64], order: Option<ZoneOrder>) -> Option<Self> {
        if chunk == 0 || sizes.is_empty() {
            return None;
        }
        let used: Vec<u64> = sizes
            .iter()
            .map(|size| divide(*size, chunk).0.saturating_mul(chunk))
            .collect();
        let mut zones: Vec<Zone> = Vec::new();
        let (mut start, mut slot_start) = (0_u64, 0_u64);
        while let Some(until) = used.iter().copied().filter(|&size| size > slot_start).min() {
            let slots: Vec<usize> = used
                .iter()
                .enumerate()
                .filter(|(_, size)| **size > slot_start)
                .map(|(slot, _)| slot)
                .collect();
            let width = u64::try_from(slots.len()).ok()?;
            let end = until
                .checked_sub(slot_start)?
                .checked_mul(width)?
                .checked_add(start)?;
            let first = zones.is_empty();
            let turn = if first || width == 1 {
                0
            } else {
                match order? {
                    ZoneOrder::Original => divide(divide(start, chunk).0, width).1,
                    ZoneOrder::Alternate => 0,
                }
            };
            zones.push(Zone {
                start,
                end,
                slot_start,
                slots,
                turn,
            });
            (start, slot_start) = (end, until);
        }
        (!zones.is_empty()).then_some(Self { chunk, zones, used })
    }

    fn zone(&self, at: u64) -> Option<&Zone> {
        let index = self.zones.partition_point(|zone| zone.end <= at);
        self.zones.get(index)
    }
}

impl Zone {
    /// The slot and the byte in it of byte `at` of the array.
    fn place(&self, at: u64, chunk: u64) -> (usize, u64) {
        let (number, inside) = divide(at.saturating_sub(self.start), chunk);
        let width = u64::try_from(self.slots.len()).unwrap_or(1);
        let (row, _) = divide(number, width);
        let (_, column) = divide(number.saturating_add(self.turn), width);
        let slot = self.slots.get(index(column)).copied().unwrap_or(usize::MAX);
        let byte = row
            .saturating_mul(chunk)
            .saturating_add(inside)
            .saturating_add(self.slot_start);
        (slot, byte)
    }
}

impl Geometry for Stripes {
    fn size(&self) -> u64 {
        self.zones.last().map_or(0, |zone| zone.end)
    }

    fn slots(&self) -> usize {
        self.used.len()
    }

    fn piece(&self, at: u64) -> Piece {
        let (_, inside) = divide(at, self.chunk);
        Piece {
            len: self.chunk.saturating_sub(inside),
            copies: self
                .zone(at)
                .map(|zone| zone.place(at, self.chunk))
                .into_iter()
                .collect(),
            rebuild: Vec::new(),
        }
    }

    fn each(&self, start: u64, end: u64, put: &mut dyn FnMut(usize, u64, u64)) {
        for zone in &self.zones {
            let from = start.max(zone.start);
            let to = end.min(zone.end);
            if from >= to {
                continue;
            }
            let width = u64::try_from(zone.slots.len()).unwrap_or(1);
            let row = self.chunk.saturating_mul(width);
            let [head, rows, tail] = by_rows(
                from.saturating_sub(zone.start),
                to.saturating_sub(zone.start),
                row,
            );
            let per_slot = |at: u64| divide(at, width).0;
            if let Some((from, to)) = rows.map(|(from, to)| (per_slot(from), per_slot(to))) {
                for slot in &zone.slots {
                    put(
                        *slot,
                        zone.slot_start.saturating_add(from),
                        zone.slot_start.saturating_add(to),
                    );
                }
            }
            for (from, to) in [head, tail].into_iter().flatten() {
                by_chunks(from, to, self.chunk, |from, to| {
                    let (slot, at) = zone.place(zone.start.saturating_add(from), self.chunk);
                    put(slot, at, at.saturating_add(to.saturating_sub(from)));
                });
            }
        }
    }

    fn used(&self, slot: usize) -> u64 {
        self.used.get(slot).copied().unwrap_or(0)
    }
}
