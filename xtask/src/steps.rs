//! Steps with their times.

use anyhow::{Context, Result};
use std::time::{Duration, Instant};

/// Runs steps one after the other and remembers how long each took.
#[derive(Debug, Default)]
pub(crate) struct Steps {
    times: Vec<(&'static str, Duration)>,
}

impl Steps {
    /// Runs one step under a heading.
    pub(crate) fn run<T>(
        &mut self,
        name: &'static str,
        step: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        println!("== {name}");
        let start = Instant::now();
        let done = step();
        self.times.push((name, start.elapsed()));
        done.with_context(|| format!("step \"{name}\""))
    }

    /// Adds a step that ran beside the others.
    pub(crate) fn add(&mut self, name: &'static str, took: Duration) {
        self.times.push((name, took));
    }

    /// Prints every step's time.
    pub(crate) fn print(&self) {
        println!();
        for (name, took) in &self.times {
            println!("{:7.1} s  {name}", took.as_secs_f64());
        }
    }
}
