//! RAID 4, 5 and 6: rows of data chunks with one or two of parity, which move from row to row
//! (`raid5_compute_sector` in `raid5.c` of Linux).
//!
//! The parity of a byte is made of the bytes at the same place of all slots. Whoever keeps one of
//! them keeps all, so that the copy's parity is as right as the original's; rows of which nothing
//! is kept are zero on every slot, whose parity is zero too.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use super::{Geometry, Piece, by_chunks, by_rows, divide, index};

/// Linux computes parity in pieces of so many bytes.
const PAGE: u64 = 4096;

/// Where the parity lies in each row: md's `layout`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rotation {
    /// 0.
    LeftAsymmetric,
    /// 1.
    RightAsymmetric,
    /// 2.
    LeftSymmetric,
    /// 3.
    RightSymmetric,
    /// 4.
    ParityFirst,
    /// 5, and RAID 4.
    ParityLast,
    /// 8: RAID 6 of DDF.
    ZeroRestart,
    /// 9: RAID 6 of DDF.
    NRestart,
    /// 10: RAID 6 of DDF.
    NContinue,
}

impl Rotation {
    /// By md's number, and whether it is a RAID 5 whose Q lies on one more slot (16 to 20).
    pub(crate) fn of(layout: u32) -> Option<(Self, bool)> {
        let plain = |layout| {
            Some(match layout {
                0 => Self::LeftAsymmetric,
                1 => Self::RightAsymmetric,
                2 => Self::LeftSymmetric,
                3 => Self::RightSymmetric,
                4 => Self::ParityFirst,
                5 => Self::ParityLast,
                8 => Self::ZeroRestart,
                9 => Self::NRestart,
                10 => Self::NContinue,
                _ => return None,
            })
        };
        match layout {
            16..=20 => plain(layout & 15).map(|rotation| (rotation, true)),
            _ => plain(layout).map(|rotation| (rotation, false)),
        }
    }
}

/// Rows with parity.
#[derive(Debug)]
pub(crate) struct Parity {
    rotation: Rotation,
    /// Q lies on the last slot, and the others are a RAID 5.
    q_apart: bool,
    chunk: u64,
    slots: u64,
    parities: u64,
    data: u64,
    rows: u64,
}

/// The slots of one row.
struct Row {
    /// Reading does without: it is whatever of the row is left.
    #[cfg(test)]
    p: u64,
    q: Option<u64>,
    data: u64,
}

impl Parity {
    /// `slot_size` bytes are given of each of `slots`, of which `parities` (1 or 2) hold no data.
    /// `None` if that makes no array.
    pub(crate) fn new(
        (rotation, q_apart): (Rotation, bool),
        chunk: u64,
        slots: usize,
        parities: u64,
        slot_size: u64,
    ) -> Option<Self> {
        let slots = u64::try_from(slots).ok()?;
        let data = slots.checked_sub(parities)?;
        let ddf = matches!(
            rotation,
            Rotation::ZeroRestart | Rotation::NRestart | Rotation::NContinue
        );
        if !(1..=2).contains(&parities) || data == 0 || (q_apart || ddf) && parities != 2 {
            return None;
        }
        let rows = slot_size.checked_div(chunk)?;
        rows.checked_mul(data)?.checked_mul(chunk)?;
        (rows > 0).then_some(Self {
            rotation,
            q_apart,
            chunk,
            slots,
            parities,
            data,
            rows,
        })
    }

    /// Where the data chunk `column` of `row` and the row's parity lie.
    fn row(&self, row: u64, column: u64) -> Row {
        use Rotation::{
            LeftAsymmetric, LeftSymmetric, NContinue, NRestart, ParityFirst, ParityLast,
            RightAsymmetric, RightSymmetric, ZeroRestart,
        };
        let rotating = if self.q_apart {
            self.slots.saturating_sub(1)
        } else {
            self.slots
        };
        let last = rotating.saturating_sub(1);
        let turn = |row: u64| divide(row, rotating).1;
        let p = match self.rotation {
            LeftAsymmetric | LeftSymmetric | NContinue => last.saturating_sub(turn(row)),
            NRestart => last.saturating_sub(turn(row.saturating_add(1))),
            RightAsymmetric | RightSymmetric | ZeroRestart => turn(row),
            ParityFirst => 0,
            ParityLast => self.data,
        };
        let two = self.parities == 2 && !self.q_apart;
        let around = |slot: u64| divide(slot, rotating).1;
        let past = |slot: u64| column.saturating_add(slot);
        let (q, data) = match self.rotation {
            LeftAsymmetric | RightAsymmetric | ZeroRestart | NRestart if two => {
                // Q D D D P, or D D P Q D.
                if p == last {
                    (0, past(1))
                } else if column >= p {
                    (p.saturating_add(1), past(2))
                } else {
                    (p.saturating_add(1), column)
                }
            }
            LeftAsymmetric | RightAsymmetric | ZeroRestart | NRestart => {
                (last, if column >= p { past(1) } else { column })
            }
            LeftSymmetric | RightSymmetric if two => (
                around(p.saturating_add(1)),
                around(past(p.saturating_add(2))),
            ),
            LeftSymmetric | RightSymmetric => (last, around(past(p.saturating_add(1)))),
            NContinue => (
                around(p.saturating_add(last)),
                around(past(p.saturating_add(1))),
            ),
            ParityFirst => (1, past(if two { 2 } else { 1 })),
            ParityLast => (self.data.saturating_add(1), column),
        };
        let q = match (self.parities, self.q_apart) {
            (2, true) => Some(self.slots.saturating_sub(1)),
            (2, false) => Some(q),
            _ => None,
        };
        Row {
            #[cfg(test)]
            p,
            q,
            data,
        }
    }
}

impl Geometry for Parity {
    fn size(&self) -> u64 {
        self.rows
            .saturating_mul(self.data)
            .saturating_mul(self.chunk)
    }

    fn slots(&self) -> usize {
        index(self.slots)
    }

    fn piece(&self, at: u64) -> Piece {
        let (number, inside) = divide(at, self.chunk);
        let (row, column) = divide(number, self.data);
        let Row { q, data, .. } = self.row(row, column);
        Piece {
            len: self.chunk.saturating_sub(inside),
            copies: vec![(
                index(data),
                row.saturating_mul(self.chunk).saturating_add(inside),
            )],
            rebuild: (0..self.slots)
                .filter(|slot| *slot != data && Some(*slot) != q)
                .map(index)
                .collect(),
        }
    }

    fn each(&self, start: u64, end: u64, put: &mut dyn FnMut(usize, u64, u64)) {
        let mut put_all = |from: u64, to: u64| {
            for slot in 0..self.slots {
                put(index(slot), from, to);
            }
        };
        let [head, rows, tail] = by_rows(start, end, self.chunk.saturating_mul(self.data));
        if let Some((from, to)) = rows {
            put_all(divide(from, self.data).0, divide(to, self.data).0);
        }
        for (from, to) in [head, tail].into_iter().flatten() {
            by_chunks(from, to, self.chunk, |from, to| {
                let (number, inside) = divide(from, self.chunk);
                let row = divide(number, self.data).0.saturating_mul(self.chunk);
                let first = row.saturating_add(inside);
                let end = first.saturating_add(to.saturating_sub(from));
                // Rounded out to pages, but not out of the chunk.
                let first = (first & !PAGE.saturating_sub(1)).max(row);
                let end = end
                    .div_ceil(PAGE)
                    .saturating_mul(PAGE)
                    .min(row.saturating_add(self.chunk));
                put_all(first, end);
            });
        }
    }

    fn used(&self, _slot: usize) -> u64 {
        self.rows.saturating_mul(self.chunk)
    }
}

/// Test access to where the parity of a row lies.
#[cfg(test)]
impl Parity {
    pub(super) fn p_and_q(&self, row: u64) -> (usize, Option<usize>) {
        let Row { p, q, .. } = self.row(row, 0);
        (index(p), q.map(index))
    }
}
