//! Collecting runs in bounded memory.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use super::{Extent, ExtentList};

/// Runs kept of one filesystem: 32 MiB of them.
pub(crate) const MAX_RUNS: usize = 2 << 20;

/// Takes runs in any order, best in ascending. When there are too many (tens of terabytes, badly
/// fragmented), the smallest gaps between them are taken too: the map grows a little, its size in
/// memory not.
#[derive(Debug)]
pub(crate) struct RunCollector {
    runs: Vec<Extent>,
    max_runs: usize,
    /// Gaps up to this many bytes are taken along.
    gap: u64,
}

impl RunCollector {
    pub(crate) fn new() -> Self {
        Self::with_max_runs(MAX_RUNS)
    }

    /// For readers that keep several collections at a time.
    pub(crate) fn with_max_runs(max_runs: usize) -> Self {
        Self {
            runs: Vec::new(),
            max_runs,
            gap: 0,
        }
    }

    pub(crate) fn push(&mut self, run: Extent) {
        push_joining(&mut self.runs, run, self.gap);
        if self.runs.len() <= self.max_runs {
            return;
        }
        self.join();
        // Down to half, so that this does not happen again with the next run.
        while self.runs.len() > self.max_runs / 2 {
            self.gap = self.gap.saturating_mul(2).max(4096);
            self.join();
        }
    }

    /// Sorts, and joins in place: there may be no room for a second copy.
    fn join(&mut self) {
        self.runs.sort_unstable();
        let gap = self.gap;
        self.runs
            .dedup_by(|run, last| joined(*last, *run, gap).map(|both| *last = both).is_some());
    }

    /// Everything that was pushed, and the gaps that were taken along.
    pub(crate) fn finish(mut self) -> ExtentList {
        self.join();
        ExtentList(self.runs)
    }
}

fn push_joining(runs: &mut Vec<Extent>, run: Extent, gap: u64) {
    if let Some(last) = runs.last_mut()
        && let Some(both) = joined(*last, run, gap)
    {
        *last = both;
    } else {
        runs.push(run);
    }
}

/// Two runs as one, if the second starts in the first, or up to `gap` bytes behind it.
fn joined(first: Extent, second: Extent, gap: u64) -> Option<Extent> {
    let behind = first.end().saturating_add(gap);
    let near = second.start() >= first.start() && second.start().0 <= behind;
    let end = first.end().max(second.end());
    near.then(|| Extent::between(first.start().0, end))
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_collected_in_any_order_is_the_list_of_it(
            runs in prop::collection::vec((0_u64..200, 1_u64..9), 0..60),
        ) {
            let mut collector = RunCollector::with_max_runs(1000);
            let mut list = ExtentList::new();
            for (start, len) in runs {
                let run = Extent::between(start, start.saturating_add(len)).unwrap();
                collector.push(run);
                list.insert(run);
            }
            prop_assert_eq!(collector.finish(), list);
        }
    }

    #[test]
    fn too_many_runs_are_joined_over_their_smallest_gaps_and_none_is_lost() {
        let mut all = ExtentList::new();
        let mut collector = RunCollector::with_max_runs(8);
        let mut at = 0_u64;
        for i in 0..100_u64 {
            let run = Extent::between(at, at.saturating_add(4096)).unwrap();
            all.insert(run);
            collector.push(run);
            let gap = if i == 50 { 1 << 30 } else { 4096 };
            at = run.end().saturating_add(gap);
        }
        let joined = collector.finish();
        assert!(all.subtract(&joined).is_empty(), "a run was lost");
        // Only the one gap of 1 GiB is worth keeping.
        assert_eq!(joined.len(), 2);
    }
}
