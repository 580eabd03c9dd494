//! Whether another disk is copied beside those that are: where the disks are what is waited for, and
//! as long as they do not share what holds them up.
//!
//! Two virtual disks of one RAID set, or two partitions of one spindle, are slower together than one
//! after the other. That cannot be asked for, only tried: a newcomer that does not make the whole
//! faster is held until another disk is done.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use std::time::Duration;

/// How often is decided.
pub(super) const WINDOW: Duration = Duration::from_secs(3);

/// With a worker's or the store's time used up to this share, in percent, the disks are what is
/// waited for.
const IDLE: u64 = 60;

/// What a newcomer has to bring, in percent of what was read before.
const GAIN: u64 = 115;

/// What was counted so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Count {
    /// Since the beginning.
    pub(super) at: Duration,
    /// Bytes of disks that workers got.
    pub(super) read: u64,
    /// Nanoseconds that all workers together were busy.
    pub(super) workers: u64,
    /// Nanoseconds that all writing threads together were busy.
    pub(super) store: u64,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing.
    Stay,
    /// Begin with another disk.
    Start,
    /// Hold the one that was begun last.
    Hold,
}

/// Decides.
#[derive(Debug)]
pub(super) struct Pace {
    threads: u64,
    mark: Count,
    /// Bytes a second before the last disk was begun, as long as it is on trial.
    before: Option<u64>,
    /// Whether the last one was held.
    blocked: bool,
}

impl Pace {
    pub(super) fn new(threads: usize) -> Self {
        Self {
            threads: u64::try_from(threads).unwrap_or(1).max(1),
            mark: Count::default(),
            before: None,
            blocked: false,
        }
    }

    /// A disk is done: what was found out no longer holds.
    pub(super) fn ended(&mut self, now: Count) {
        self.mark = now;
        self.before = None;
        self.blocked = false;
    }

    /// Called often; decides once a [`WINDOW`].
    pub(super) fn look(&mut self, now: Count) -> Step {
        let elapsed = now.at.saturating_sub(self.mark.at);
        if elapsed < WINDOW {
            return Step::Stay;
        }
        let nanos = u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX);
        let share = |busy: u64, before: u64, of: u64| {
            let busy = busy.saturating_sub(before).saturating_mul(100);
            busy.checked_div(nanos.saturating_mul(of)).unwrap_or(100)
        };
        let workers = share(now.workers, self.mark.workers, self.threads);
        let store = share(now.store, self.mark.store, 1);
        let millis = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
        let read = now.read.saturating_sub(self.mark.read);
        let rate = read.saturating_mul(1000).checked_div(millis).unwrap_or(0);
        self.mark = now;
        if let Some(before) = self.before.take() {
            if rate.saturating_mul(100) < before.saturating_mul(GAIN) {
                self.blocked = true;
                return Step::Hold;
            }
            return Step::Stay;
        }
        if self.blocked || workers > IDLE || store > IDLE || rate == 0 {
            return Step::Stay;
        }
        self.before = Some(rate);
        Step::Start
    }

    /// There was nothing to begin with.
    pub(super) fn none_left(&mut self) {
        self.before = None;
    }
}

#[cfg(test)]
#[allow(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]
mod tests {
    use super::*;

    /// Windows one after the other: MB/s, and the shares of workers and store in percent.
    fn steps(pace: &mut Pace, windows: &[(u64, u64, u64)]) -> Vec<Step> {
        let mut now = pace.mark;
        windows
            .iter()
            .map(|(rate, workers, store)| {
                now.at += WINDOW;
                now.read += rate * 3_000_000;
                now.workers += workers * 2 * 30_000_000;
                now.store += store * 30_000_000;
                pace.look(now)
            })
            .collect()
    }

    #[test]
    fn a_second_disk_is_begun_where_the_first_is_what_is_waited_for() {
        let mut pace = Pace::new(2);
        assert_eq!(
            steps(&mut pace, &[(150, 30, 40), (290, 55, 58), (290, 62, 58)]),
            [Step::Start, Step::Stay, Step::Stay]
        );
        // A third brings nothing and is held; not again until one is done.
        assert_eq!(
            steps(&mut pace, &[(290, 50, 50), (300, 50, 50), (290, 50, 50)]),
            [Step::Start, Step::Hold, Step::Stay]
        );
        pace.ended(pace.mark);
        assert_eq!(steps(&mut pace, &[(150, 30, 30)]), [Step::Start]);
    }

    #[test]
    fn none_is_begun_where_the_processors_or_the_store_are_waited_for() {
        let mut pace = Pace::new(2);
        let busy = [(300, 95, 20), (30, 10, 99), (0, 0, 0)];
        assert_eq!(steps(&mut pace, &busy), [Step::Stay; 3]);
    }

    #[test]
    fn nothing_is_decided_within_a_window() {
        let mut pace = Pace::new(2);
        let now = Count {
            at: WINDOW / 2,
            read: 1 << 30,
            ..Count::default()
        };
        assert_eq!(pace.look(now), Step::Stay);
    }
}
