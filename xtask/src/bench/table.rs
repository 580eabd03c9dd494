//! The figures as docs/measured.md has them.

use super::Stage;
use super::tools::{Measured, Tool};
use std::fmt::{self, Write as _};

/// The bench's result.
#[derive(Debug)]
pub(super) struct Table {
    read: Stage,
    compress: Stage,
    write: Stage,
    /// Reading and compressing together, where both are the processors' work.
    both: Option<Stage>,
    ours: Option<f64>,
    tools: String,
    live: Option<(u64, u64)>,
}

fn rate(stage: Stage) -> f64 {
    stage.bytes as f64 / stage.seconds / 1e6
}

impl Table {
    pub(super) fn new(read: Stage, compress: Stage, write: Stage, both: Option<Stage>) -> Self {
        Self {
            read,
            compress,
            write,
            both,
            ours: None,
            tools: String::new(),
            live: None,
        }
    }

    pub(super) fn tools(&mut self, measured: &[Measured]) {
        let seconds_of = |tool| {
            let found = measured.iter().find(|m| m.tool == tool);
            found.map(|m| m.seconds)
        };
        let (qemu, partclone) = (
            seconds_of(Tool::QemuCompressed),
            seconds_of(Tool::Partclone),
        );
        let ratio = |seconds: f64, to: Option<f64>| {
            to.map_or_else(|| "-".to_owned(), |to| format!("{:.2}", seconds / to))
        };
        self.ours = seconds_of(Tool::Haulier);
        let (ideal, _) = ideal(self.read, self.compress, self.write.seconds);
        for m in measured {
            // Writing to a String does not fail.
            let _ = writeln!(
                self.tools,
                "| {} | {:.1} | {} | {} | {:.2} | {} | {} | {:.1} |",
                m.tool.name(),
                m.seconds,
                ratio(m.seconds, qemu),
                ratio(m.seconds, partclone),
                ideal / m.seconds,
                m.written / 1_000_000,
                m.peak_kib >> 10,
                m.processor
            );
        }
    }

    /// What an image of the live data takes: ours and that of qemu-img, in bytes.
    pub(super) fn live(&mut self, ours: u64, theirs: u64) {
        self.live = Some((ours, theirs));
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| stage alone | seconds | MB/s |\n| --- | ---: | ---: |")?;
        for (name, stage) in [
            ("reading what is used", self.read),
            (
                "digesting and compressing it on all processors",
                self.compress,
            ),
            ("writing the image", self.write),
        ] {
            writeln!(f, "| {name} | {:.1} | {:.0} |", stage.seconds, rate(stage))?;
        }
        writeln!(
            f,
            "\nThe slowest is to {}; what is compressed alone comes to {} MB.\n",
            ideal(self.read, self.compress, self.write.seconds).1,
            self.compress.stored / 1_000_000
        )?;
        writeln!(
            f,
            "| tool | seconds | of qemu-img -c | of partclone | efficiency | MB written | peak MiB | CPU s |\n\
             | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n{}",
            self.tools
        )?;
        if let (Some(both), Some(ours)) = (self.both, self.ours) {
            writeln!(
                f,
                "The disk is memory, so the processors copy what is read: reading, digesting and compressing it on \
                 all of them, without writing anything, takes {:.1} s, and that is {:.2} of our capture.\n",
                both.seconds,
                both.seconds / ours
            )?;
        }
        if let Some((ours, theirs)) = self.live {
            writeln!(
                f,
                "Our image of the live data has {} MB, that of `qemu-img convert -c` {} MB: {:.3} of it.\n",
                ours / 1_000_000,
                theirs / 1_000_000,
                ours as f64 / theirs as f64
            )?;
        }
        Ok(())
    }
}

/// Captures to slow stores.
#[derive(Debug)]
pub(super) struct Sticks {
    read: Stage,
    compress: Stage,
    rows: String,
}

impl Sticks {
    pub(super) fn new(read: Stage, compress: Stage) -> Self {
        Self {
            read,
            compress,
            rows: String::new(),
        }
    }

    /// Adds a capture to a store of `rate` million bytes a second, to which `write` was written.
    pub(super) fn add(&mut self, rate_mb: u64, write: Stage, ours: &Measured) {
        let alone = ours.written as f64 / rate(write) / 1e6;
        let (ideal, held_by) = ideal(self.read, self.compress, alone);
        // Writing to a String does not fail.
        let _ = writeln!(
            self.rows,
            "| {rate_mb} MB/s | {:.0} MB/s | {:.1} | {:.1} ({held_by}) | {:.2} | {} | {} |",
            rate(write),
            ours.seconds,
            ideal,
            ideal / ours.seconds,
            ours.written / 1_000_000,
            ours.peak_kib >> 10
        );
    }
}

impl fmt::Display for Sticks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "| store | measured | seconds | ideal (held by) | efficiency | MB written | peak MiB |\n\
             | --- | ---: | ---: | ---: | ---: | ---: | ---: |\n{}",
            self.rows
        )
    }
}

/// The slowest single stage, in seconds, and its name.
fn ideal(read: Stage, compress: Stage, write: f64) -> (f64, &'static str) {
    let stages = [
        (read.seconds, "read"),
        (compress.seconds, "digest and compress"),
        (write, "write"),
    ];
    stages
        .into_iter()
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .unwrap_or((0.0, "none"))
}
