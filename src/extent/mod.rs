//! Extents: sorted, disjoint runs of bytes. Past the parsers everything is an [`ExtentList`]; no
//! bitmap leaves the file that read it.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

pub(crate) mod collect;

pub(crate) use collect::RunCollector;

use crate::units::{ByteLen, ByteOffset};
use serde::{Deserialize, Serialize};

/// A run of bytes that is not empty and whose end fits 64 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Extent {
    start_byte: u64,
    length_bytes: u64,
}

impl Extent {
    /// `None` if it is empty or its end does not fit 64 bits.
    pub fn new(start: ByteOffset, len: ByteLen) -> Option<Self> {
        start.0.checked_add(len.0)?;
        (len.0 > 0).then_some(Self {
            start_byte: start.0,
            length_bytes: len.0,
        })
    }

    /// The run from `start` up to, not including, `end`; `None` if that is empty.
    pub fn between(start: u64, end: u64) -> Option<Self> {
        Self::new(ByteOffset(start), ByteLen(end.checked_sub(start)?))
    }

    /// The first byte.
    pub fn start(self) -> ByteOffset {
        ByteOffset(self.start_byte)
    }

    /// How many bytes; never 0.
    pub fn len(self) -> ByteLen {
        ByteLen(self.length_bytes)
    }

    /// Always false: an extent holds at least one byte.
    pub fn is_empty(self) -> bool {
        false
    }

    /// The first byte behind it.
    pub fn end(self) -> u64 {
        // Checked in `new`; a deserialised one may lie, and saturating keeps it harmless.
        self.start_byte.saturating_add(self.length_bytes)
    }

    /// What both have in common.
    pub fn intersect(self, other: Self) -> Option<Self> {
        Self::between(
            self.start_byte.max(other.start_byte),
            self.end().min(other.end()),
        )
    }
}

/// Sorted, disjoint extents; neighbours that touch are one.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(from = "Vec<Extent>")]
pub struct ExtentList(Vec<Extent>);

impl ExtentList {
    /// Nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a run. Constant time when runs come in ascending order, as parsers give them.
    pub fn insert(&mut self, extent: Extent) {
        match self.0.last_mut() {
            Some(last) if extent.start_byte >= last.start_byte => {
                if extent.start_byte <= last.end() {
                    if let Some(merged) =
                        Extent::between(last.start_byte, last.end().max(extent.end()))
                    {
                        *last = merged;
                    }
                } else {
                    self.0.push(extent);
                }
            }
            None => self.0.push(extent),
            Some(_) => {
                let from = self.0.partition_point(|e| e.end() < extent.start_byte);
                let to = self.0.partition_point(|e| e.start_byte <= extent.end());
                let merged =
                    self.0
                        .get(from..to)
                        .unwrap_or_default()
                        .iter()
                        .fold(extent, |sum, e| {
                            Extent::between(
                                sum.start_byte.min(e.start_byte),
                                sum.end().max(e.end()),
                            )
                            .unwrap_or(sum)
                        });
                self.0.splice(from..to, [merged]);
            }
        }
    }

    /// All bytes that are in `self` or in `other`.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        // Merged without a copy of both: each may have millions of runs.
        let mut all = Self(Vec::with_capacity(self.0.len().max(other.0.len())));
        let mut theirs = other.0.iter().copied().peekable();
        for extent in self.0.iter().copied() {
            while let Some(before) = theirs.next_if(|theirs| theirs < &extent) {
                all.insert(before);
            }
            all.insert(extent);
        }
        theirs.for_each(|extent| all.insert(extent));
        all
    }

    /// All bytes of `self` that are not in `other`.
    #[must_use]
    pub fn subtract(&self, other: &Self) -> Self {
        let mut left = Vec::with_capacity(self.0.len());
        let mut holes = other.0.iter().copied().peekable();
        for extent in &self.0 {
            let mut start = extent.start_byte;
            while holes.peek().is_some_and(|hole| hole.end() <= start) {
                holes.next();
            }
            let mut ahead = holes.clone();
            while let Some(hole) = ahead.next_if(|hole| hole.start_byte < extent.end()) {
                left.extend(Extent::between(start, hole.start_byte));
                start = start.max(hole.end());
            }
            left.extend(Extent::between(start, extent.end()));
        }
        Self(left)
    }

    /// All bytes that are in both.
    #[must_use]
    pub fn intersect(&self, other: &Self) -> Self {
        self.subtract(&self.subtract(other))
    }

    /// The part that lies inside `window`.
    pub fn within(&self, window: Extent) -> impl Iterator<Item = Extent> + '_ {
        let from = self.0.partition_point(|e| e.end() <= window.start_byte);
        self.0
            .get(from..)
            .unwrap_or_default()
            .iter()
            .take_while(move |e| e.start_byte < window.end())
            .filter_map(move |e| e.intersect(window))
    }

    /// In ascending order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Extent> + '_ {
        self.0.iter().copied()
    }

    /// How many runs.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether it holds no byte.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many bytes in all.
    pub fn total(&self) -> ByteLen {
        ByteLen(
            self.0
                .iter()
                .fold(0_u64, |sum, e| sum.saturating_add(e.length_bytes)),
        )
    }
}

impl FromIterator<Extent> for ExtentList {
    fn from_iter<T: IntoIterator<Item = Extent>>(extents: T) -> Self {
        let mut list = Self::new();
        for extent in extents {
            list.insert(extent);
        }
        list
    }
}

impl From<Vec<Extent>> for ExtentList {
    fn from(extents: Vec<Extent>) -> Self {
        // From a file, perhaps a stranger's: take nothing on trust.
        extents
            .into_iter()
            .filter_map(|e| Extent::new(e.start(), e.len()))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::arithmetic_side_effects, clippy::indexing_slicing)]

    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn list(runs: &[(u64, u64)]) -> ExtentList {
        runs.iter()
            .filter_map(|&(s, e)| Extent::between(s, e))
            .collect()
    }

    fn bytes(list: &ExtentList) -> BTreeSet<u64> {
        list.iter().flat_map(|e| e.start().0..e.end()).collect()
    }

    #[test]
    fn touching_runs_become_one() {
        assert_eq!(list(&[(0, 4), (4, 8), (10, 12)]), list(&[(10, 12), (0, 8)]));
        assert_eq!(list(&[(0, 4), (4, 8)]).len(), 1);
    }

    #[test]
    fn a_run_whose_end_does_not_fit_is_refused() {
        assert_eq!(Extent::new(ByteOffset(u64::MAX), ByteLen(2)), None);
        assert_eq!(Extent::new(ByteOffset(7), ByteLen(0)), None);
    }

    #[test]
    fn a_lying_file_cannot_make_an_unsorted_list() {
        let json = r#"[{"start_byte":8,"length_bytes":8},{"start_byte":0,"length_bytes":9},
                       {"start_byte":5,"length_bytes":0},
                       {"start_byte":18446744073709551615,"length_bytes":3}]"#;
        let list: ExtentList = serde_json::from_str(json).unwrap();
        assert_eq!(list, self::list(&[(0, 16)]));
    }

    proptest! {
        #[test]
        fn the_set_operations_are_those_of_sets_of_bytes(
            a in prop::collection::vec((0_u64..64, 1_u64..9), 0..12),
            b in prop::collection::vec((0_u64..64, 1_u64..9), 0..12),
        ) {
            let a: ExtentList =
                a.iter().filter_map(|&(s, l)| Extent::new(ByteOffset(s), ByteLen(l))).collect();
            let b: ExtentList =
                b.iter().filter_map(|&(s, l)| Extent::new(ByteOffset(s), ByteLen(l))).collect();
            let (sa, sb) = (bytes(&a), bytes(&b));
            prop_assert_eq!(bytes(&a.union(&b)), &sa | &sb);
            prop_assert_eq!(bytes(&a.subtract(&b)), &sa - &sb);
            prop_assert_eq!(bytes(&a.intersect(&b)), &sa & &sb);
            for list in [a.union(&b), a.subtract(&b), a.intersect(&b)] {
                let runs: Vec<_> = list.iter().collect();
                prop_assert!(runs.windows(2).all(|w| w[0].end() < w[1].start().0));
            }
            let window = Extent::between(10, 30).unwrap();
            let inside: ExtentList = a.within(window).collect();
            prop_assert_eq!(bytes(&inside), &sa & &(10..30).collect());
        }
    }
}
