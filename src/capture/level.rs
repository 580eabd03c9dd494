//! How hard to compress: as hard as the processors can afford while something else is waited for.
//!
//! Where the stick or the disk is slow, the processors have time, and every percent that an image
//! is smaller is a percent less to write; where both are fast, the compressor must not hold them up.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use crate::qcow2::encode::ZSTD_BASE;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Zstandard's levels, from that which keeps up with everything to that beyond which clusters of
/// 64 KiB hardly get smaller. Measured in docs/decisions/0017-capture-engine.md.
pub const LADDER: [i32; 3] = [ZSTD_BASE, 4, 6];

/// How often is decided.
const WINDOW: Duration = Duration::from_millis(400);

/// Below this share of their time, in percent, the workers can take more.
const IDLE: u64 = 70;

/// Above this share they are what is waited for.
const BUSY: u64 = 93;

/// How many windows after a step that was too high none is tried again.
const PATIENCE: u32 = 25;

/// The level that all workers compress with, and how busy they were.
#[derive(Debug)]
pub struct Level {
    step: AtomicUsize,
    /// Nanoseconds that workers spent.
    worked: AtomicU64,
}

/// Decides; there is one.
#[derive(Debug)]
pub struct Pilot {
    level: Arc<Level>,
    workers: u64,
    /// The last decision, and what workers had spent until then.
    since: Instant,
    before: u64,
    /// Windows until the next step up may be tried.
    wait: u32,
}

impl Level {
    /// The lowest.
    pub fn new() -> Self {
        Self {
            step: AtomicUsize::new(0),
            worked: AtomicU64::new(0),
        }
    }

    /// Zstandard's level.
    pub fn now(&self) -> i32 {
        let step = self.step.load(Ordering::Relaxed);
        LADDER.get(step).copied().unwrap_or(ZSTD_BASE)
    }

    /// A worker was busy since `start`.
    pub fn worked(&self, start: Instant) {
        let nanos = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.worked.fetch_add(nanos, Ordering::Relaxed);
    }

    /// Nanoseconds that all workers together were busy so far.
    pub fn busy(&self) -> u64 {
        self.worked.load(Ordering::Relaxed)
    }
}

impl Default for Level {
    fn default() -> Self {
        Self::new()
    }
}

impl Pilot {
    /// Decides about `level` from now on, for so many workers.
    pub fn new(level: Arc<Level>, workers: usize) -> Self {
        Self {
            before: level.busy(),
            level,
            workers: u64::try_from(workers).unwrap_or(1).max(1),
            since: Instant::now(),
            wait: 0,
        }
    }

    /// Called often; decides once in a while.
    pub fn look(&mut self) {
        let elapsed = self.since.elapsed();
        if elapsed < WINDOW {
            return;
        }
        self.since = Instant::now();
        let busy = self.level.busy();
        let worked = busy.saturating_sub(self.before);
        self.before = busy;
        let nanos = u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX);
        let share = worked
            .saturating_mul(100)
            .checked_div(nanos.saturating_mul(self.workers))
            .unwrap_or(0);
        self.decide(share);
    }

    /// `share`: percent of their time that the workers were busy.
    fn decide(&mut self, share: u64) {
        let step = self.level.step.load(Ordering::Relaxed);
        let next = if share > BUSY {
            if step > 0 {
                self.wait = PATIENCE;
            }
            step.saturating_sub(1)
        } else if share < IDLE && self.wait == 0 {
            let highest = LADDER.len().saturating_sub(1);
            step.saturating_add(1).min(highest)
        } else {
            step
        };
        self.wait = self.wait.saturating_sub(1);
        self.level.step.store(next, Ordering::Relaxed);
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

    #[test]
    fn idle_workers_compress_harder_and_busy_ones_give_way_and_wait() {
        let level = Arc::new(Level::new());
        let mut pilot = Pilot::new(Arc::clone(&level), 2);
        assert_eq!(level.now(), ZSTD_BASE);
        pilot.decide(100);
        assert_eq!(level.now(), ZSTD_BASE);
        for _ in 0..10 {
            pilot.decide(20);
        }
        assert_eq!(level.now(), LADDER[LADDER.len() - 1]);
        pilot.decide(80);
        assert_eq!(level.now(), LADDER[LADDER.len() - 1]);
        pilot.decide(99);
        let lower = level.now();
        assert!(lower < LADDER[LADDER.len() - 1]);
        // What was too high is not tried again at once.
        pilot.decide(60);
        assert_eq!(level.now(), lower);
        for _ in 0..PATIENCE {
            pilot.decide(60);
        }
        assert!(level.now() > lower);
    }
}
