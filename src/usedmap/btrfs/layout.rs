//! How the logical bytes of a chunk lie on its stripes (`btrfs_map_block` in `fs/btrfs/volumes.c`).
//!
//! RAID0, RAID10, RAID5 and RAID6 deal out elements of 64 KiB: a *row* is one element on every
//! stripe, one element of data a *column*. Everything here counts from the start of the chunk
//! (logical) or of a stripe (physical).

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

/// `BTRFS_STRIPE_LEN`: one element.
pub(crate) const ELEMENT: u64 = 64 << 10;

const RAID0: u64 = 1 << 3;
const RAID1: u64 = 1 << 4;
const DUP: u64 = 1 << 5;
const RAID10: u64 = 1 << 6;
const RAID5: u64 = 1 << 7;
const RAID6: u64 = 1 << 8;
const RAID1C3: u64 = 1 << 9;
const RAID1C4: u64 = 1 << 10;
/// All bits that name a profile; none of them: SINGLE.
pub(crate) const PROFILE_MASK: u64 =
    RAID0 | RAID1 | DUP | RAID10 | RAID5 | RAID6 | RAID1C3 | RAID1C4;

/// A profile with its number of stripes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layout {
    /// SINGLE, DUP, RAID1, RAID1C3, RAID1C4: every stripe has everything.
    Mirrors { stripes: u64 },
    /// RAID0 (one copy), RAID10 (two): a column is on `copies` stripes side by side.
    Columns { columns: u64, copies: u64 },
    /// RAID5 (one parity), RAID6 (two): each row begins one stripe further on.
    Parity { columns: u64, stripes: u64 },
}

/// A run of bytes, its end not included.
pub(crate) type Run = (u64, u64);

impl Layout {
    /// By the bits of a chunk's type; `None` if the profile is unknown or cannot have so many stripes.
    pub(crate) fn of(profile: u64, stripes: u64, sub_stripes: u64) -> Option<Self> {
        let mirrors = |want: u64| (stripes == want).then_some(Self::Mirrors { stripes });
        match profile & PROFILE_MASK {
            0 => mirrors(1),
            DUP | RAID1 => mirrors(2),
            RAID1C3 => mirrors(3),
            RAID1C4 => mirrors(4),
            RAID0 if stripes > 0 => Some(Self::Columns {
                columns: stripes,
                copies: 1,
            }),
            RAID10 if stripes > 0 && sub_stripes == 2 && stripes.is_multiple_of(2) => {
                Some(Self::Columns {
                    columns: stripes / 2,
                    copies: 2,
                })
            }
            RAID5 if stripes >= 2 => Some(Self::Parity {
                columns: stripes.saturating_sub(1),
                stripes,
            }),
            RAID6 if stripes >= 3 => Some(Self::Parity {
                columns: stripes.saturating_sub(2),
                stripes,
            }),
            _ => None,
        }
    }

    /// How many elements of data a row has; 1 where nothing is dealt out.
    pub(crate) fn columns(self) -> u64 {
        match self {
            Self::Mirrors { .. } => 1,
            Self::Columns { columns, .. } | Self::Parity { columns, .. } => columns,
        }
    }

    /// How many bytes each stripe of a chunk of `length` takes; `None` if rows do not fill it.
    pub(crate) fn stripe_length(self, length: u64) -> Option<u64> {
        match self {
            Self::Mirrors { .. } => Some(length),
            _ => {
                let rows = length.checked_div(self.columns().checked_mul(ELEMENT)?)?;
                let stripe_length = rows.checked_mul(ELEMENT)?;
                (stripe_length.checked_mul(self.columns())? == length).then_some(stripe_length)
            }
        }
    }

    /// From how many places the same logical byte can be read.
    pub(crate) fn copies(self) -> u64 {
        match self {
            Self::Mirrors { stripes } => stripes,
            Self::Columns { copies, .. } => copies,
            Self::Parity { .. } => 1,
        }
    }

    /// Where a copy of the logical byte `at` is, and how many bytes behind it are there too: the
    /// number of the stripe, the byte on it, the length.
    pub(crate) fn locate(self, at: u64, copy: u64) -> Option<(u64, u64, u64)> {
        if let Self::Mirrors { .. } = self {
            return Some((copy, at, u64::MAX.saturating_sub(at)));
        }
        let element = at.checked_div(ELEMENT)?;
        let within = at.checked_rem(ELEMENT)?;
        let row = element.checked_div(self.columns())?;
        let column = element.checked_rem(self.columns())?;
        let stripe = match self {
            Self::Columns { copies, .. } => column.checked_mul(copies)?.checked_add(copy)?,
            Self::Parity { stripes, .. } => column.checked_add(row)?.checked_rem(stripes)?,
            Self::Mirrors { .. } => copy,
        };
        let physical = row.checked_mul(ELEMENT)?.checked_add(within)?;
        Some((stripe, physical, ELEMENT.saturating_sub(within)))
    }

    /// What stripe number `stripe` has of the logical run: in ascending order, each handed to
    /// `take`. Of RAID5 and RAID6 every stripe has to be taken where one of its row is: the parity
    /// is of all of them.
    pub(crate) fn project(self, (start, end): Run, stripe: u64, mut take: impl FnMut(Run)) {
        if start >= end {
            return;
        }
        match self {
            Self::Mirrors { .. } => take((start, end)),
            Self::Columns { columns, copies } => {
                let column = stripe.checked_div(copies).unwrap_or(0);
                if let Some(run) = column_run((start, end), column, columns) {
                    take(run);
                }
            }
            Self::Parity { columns, .. } => row_runs((start, end), columns, take),
        }
    }
}

/// The first and last element that a run touches.
fn elements((start, end): Run) -> Run {
    (start / ELEMENT, end.saturating_sub(1) / ELEMENT)
}

/// The part of one column is a single run on its stripe.
fn column_run(run: Run, column: u64, columns: u64) -> Option<Run> {
    let (first, last) = elements(run);
    let row_of = |element: u64| element.checked_div(columns);
    let element_in = |row: u64| row.checked_mul(columns)?.checked_add(column);
    let mut low = row_of(first)?;
    if element_in(low)? < first {
        low = low.checked_add(1)?;
    }
    let mut high = row_of(last)?;
    if element_in(high)? > last {
        high = high.checked_sub(1)?;
    }
    if low > high {
        return None;
    }
    let head = if element_in(low)? == first {
        run.0 % ELEMENT
    } else {
        0
    };
    let tail = if element_in(high)? == last {
        (run.1.saturating_sub(1) % ELEMENT).saturating_add(1)
    } else {
        ELEMENT
    };
    let start = low.checked_mul(ELEMENT)?.checked_add(head)?;
    let end = high.checked_mul(ELEMENT)?.checked_add(tail)?;
    Some((start, end))
}

/// What any column of each row has of a run: the same on all stripes.
fn row_runs(run: Run, columns: u64, mut take: impl FnMut(Run)) {
    let (first, last) = elements(run);
    let row_of = |element: u64| element.checked_div(columns).unwrap_or(0);
    let head = run.0 % ELEMENT;
    let tail = (run.1.saturating_sub(1) % ELEMENT).saturating_add(1);
    let mut row = |row: u64, start: u64, end: u64| {
        let base = row.saturating_mul(ELEMENT);
        if start < end {
            take((base.saturating_add(start), base.saturating_add(end)));
        }
    };
    let (low, high) = (row_of(first), row_of(last));
    if first == last {
        row(low, head, tail);
        return;
    }
    // The run's first element is taken to its end, its last from its start, those between in full.
    let last_of_low = low
        .saturating_add(1)
        .saturating_mul(columns)
        .saturating_sub(1)
        .min(last);
    let first_of_high = high.saturating_mul(columns).max(first);
    if low == high {
        if last.saturating_sub(first) > 1 || head <= tail {
            row(low, 0, ELEMENT);
        } else {
            row(low, 0, tail);
            row(low, head, ELEMENT);
        }
        return;
    }
    row(low, if last_of_low > first { 0 } else { head }, ELEMENT);
    let between = (low.saturating_add(1), high);
    let whole = between.1.saturating_sub(between.0);
    row(between.0, 0, whole.saturating_mul(ELEMENT));
    row(high, 0, if first_of_high < last { ELEMENT } else { tail });
}

#[cfg(test)]
mod tests {
    #![allow(clippy::arithmetic_side_effects)]

    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn layouts() -> impl Strategy<Value = (Layout, u64)> {
        let columns = |copies| {
            (1_u64..5)
                .prop_map(move |columns| (Layout::Columns { columns, copies }, columns * copies))
        };
        let parity = |parity| {
            (1_u64..4).prop_map(move |columns| {
                let stripes = columns + parity;
                (Layout::Parity { columns, stripes }, stripes)
            })
        };
        prop_oneof![columns(1), columns(2), parity(1), parity(2)]
    }

    proptest! {
        /// Sector by sector: what `project` takes is what `locate` says, no more and no less; with
        /// parity, on every stripe of the row.
        #[test]
        fn a_run_is_taken_where_its_bytes_are(
            (layout, stripes) in layouts(),
            start in 0_u64..200,
            len in 1_u64..200,
        ) {
            // Sectors of 16 KiB: four an element.
            let sector = ELEMENT / 4;
            let mut expected = BTreeSet::new();
            for at in start..start + len {
                for copy in 0..layout.copies() {
                    let (stripe, physical, _) = layout.locate(at * sector, copy).unwrap();
                    if let Layout::Parity { .. } = layout {
                        expected.extend((0..stripes).map(|stripe| (stripe, physical / sector)));
                    } else {
                        expected.insert((stripe, physical / sector));
                    }
                }
            }
            let mut taken = BTreeSet::new();
            for stripe in 0..stripes {
                layout.project((start * sector, (start + len) * sector), stripe, |(from, to)| {
                    assert!(from % sector == 0 && to % sector == 0 && from < to);
                    taken.extend((from / sector..to / sector).map(|at| (stripe, at)));
                });
            }
            prop_assert_eq!(taken, expected);
        }
    }

    #[test]
    fn the_parity_wanders_and_rows_begin_one_stripe_further_on() {
        // RAID5 of three devices as the kernel has it: D0 D1 P / P D0 D1 / D1 P D0.
        let raid5 = Layout::of(RAID5, 3, 1).unwrap();
        let stripes: Vec<_> = (0..6)
            .map(|element| raid5.locate(element * ELEMENT, 0).unwrap().0)
            .collect();
        assert_eq!(stripes, [0, 1, 1, 2, 2, 0]);
    }

    #[test]
    fn a_profile_with_too_few_stripes_is_none() {
        for (profile, stripes, sub_stripes) in [
            (0, 2, 0),
            (RAID1, 3, 0),
            (RAID1C4, 3, 0),
            (RAID10, 3, 2),
            (RAID10, 4, 1),
            (RAID5, 1, 1),
            (RAID6, 2, 1),
            (RAID0, 0, 1),
            (RAID0 | RAID1, 2, 1),
        ] {
            assert_eq!(
                Layout::of(profile, stripes, sub_stripes),
                None,
                "{profile:#x}"
            );
        }
    }
}
