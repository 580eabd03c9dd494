//! RAID 10 of md: copies of each chunk on several slots, near, far or offset (`raid10.c` of Linux,
//! `__raid10_find_phys`; md(4)).

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use super::{Geometry, Piece, by_chunks, by_rows, divide, index};

/// Where the copies of a chunk lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Raid10Layout {
    /// Side by side.
    Near(u64),
    /// In as many sections of each slot, each section one slot further on.
    Far(u64),
    /// In as many rows one below another, each one slot further on.
    Offset(u64),
}

impl Raid10Layout {
    fn copies(self) -> u64 {
        match self {
            Self::Near(copies) | Self::Far(copies) | Self::Offset(copies) => copies,
        }
    }
}

/// Mirrored chunks.
#[derive(Debug)]
pub(crate) struct Raid10 {
    layout: Raid10Layout,
    chunk: u64,
    slots: u64,
    size: u64,
    /// From one far copy to the next, in bytes.
    stride: u64,
    used: u64,
}

impl Raid10 {
    /// `slot_size` bytes are given of each slot. `None` if that makes no array.
    pub(crate) fn new(
        layout: Raid10Layout,
        chunk: u64,
        slots: usize,
        slot_size: u64,
    ) -> Option<Self> {
        let slots = u64::try_from(slots).ok()?;
        let copies = layout.copies();
        if chunk == 0 || copies == 0 || copies > slots {
            return None;
        }
        let near = if matches!(layout, Raid10Layout::Near(_)) {
            copies
        } else {
            1
        };
        let far = copies.checked_div(near)?;
        // `raid10_size` and `calc_sectors`, in chunks.
        let chunks = divide(slot_size, chunk)
            .0
            .checked_div(far)?
            .checked_mul(slots)?
            .checked_div(near)?;
        let used = chunks.checked_mul(copies)?.div_ceil(slots);
        let stride = match layout {
            Raid10Layout::Offset(_) => 1,
            _ => used.checked_div(far)?,
        };
        (chunks > 0).then_some(Self {
            layout,
            chunk,
            slots,
            size: chunks.checked_mul(chunk)?,
            stride: stride.checked_mul(chunk)?,
            used: used.checked_mul(chunk)?,
        })
    }

    /// All copies of byte `at`.
    fn copies(&self, at: u64) -> Vec<(usize, u64)> {
        let (number, inside) = divide(at, self.chunk);
        let place = |cell: u64, rows_each: u64, below: u64, aside: u64| {
            let (row, column) = divide(cell, self.slots);
            let (_, slot) = divide(column.saturating_add(aside), self.slots);
            let byte = row
                .saturating_mul(rows_each)
                .saturating_mul(self.chunk)
                .saturating_add(below)
                .saturating_add(inside);
            (index(slot), byte)
        };
        match self.layout {
            Raid10Layout::Near(copies) => (0..copies)
                .map(|copy| place(number.saturating_mul(copies).saturating_add(copy), 1, 0, 0))
                .collect(),
            Raid10Layout::Far(copies) => (0..copies)
                .map(|copy| place(number, 1, copy.saturating_mul(self.stride), copy))
                .collect(),
            Raid10Layout::Offset(copies) => (0..copies)
                .map(|copy| place(number, copies, copy.saturating_mul(self.stride), copy))
                .collect(),
        }
    }
}

impl Geometry for Raid10 {
    fn size(&self) -> u64 {
        self.size
    }

    fn slots(&self) -> usize {
        index(self.slots)
    }

    fn piece(&self, at: u64) -> Piece {
        Piece {
            len: self.chunk.saturating_sub(divide(at, self.chunk).1),
            copies: self.copies(at),
            rebuild: Vec::new(),
        }
    }

    fn each(&self, start: u64, end: u64, put: &mut dyn FnMut(usize, u64, u64)) {
        // As many chunks as there are slots fill as many whole rows as there are copies.
        let block = self.chunk.saturating_mul(self.slots);
        let [head, blocks, tail] = by_rows(start, end, block);
        if let Some((from, to)) = blocks {
            let row = |at: u64| divide(at, self.slots).0;
            let (rows, sections) = match self.layout {
                Raid10Layout::Near(copies) | Raid10Layout::Offset(copies) => (copies, 1),
                Raid10Layout::Far(copies) => (1, copies),
            };
            for section in 0..sections {
                let base = section.saturating_mul(self.stride);
                for slot in 0..self.slots {
                    put(
                        index(slot),
                        base.saturating_add(row(from).saturating_mul(rows)),
                        base.saturating_add(row(to).saturating_mul(rows)),
                    );
                }
            }
        }
        for (from, to) in [head, tail].into_iter().flatten() {
            by_chunks(from, to, self.chunk, |from, to| {
                for (slot, at) in self.copies(from) {
                    put(slot, at, at.saturating_add(to.saturating_sub(from)));
                }
            });
        }
    }

    fn used(&self, _slot: usize) -> u64 {
        self.used
    }
}
