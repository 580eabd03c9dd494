//! What a campaign found, as a table.

use super::proof::Outcome;
use super::setups::Disk;
use haulier::usedmap::{Policy, State};
use std::collections::BTreeMap;

/// The outcomes of all cuts, by the disk's name.
#[derive(Debug, Default)]
pub(crate) struct Report {
    rows: BTreeMap<&'static str, Row>,
    failures: Vec<String>,
}

#[derive(Debug, Default)]
struct Row {
    cuts: usize,
    failed: usize,
    dirty: usize,
    /// Cuts of which only the used blocks are read, their used bytes, and those of the disks.
    mapped: usize,
    used: u64,
    size: u64,
    files: usize,
    /// Why the others are copied whole, and how often.
    refusals: BTreeMap<String, usize>,
}

impl Report {
    pub(crate) fn add(&mut self, disk: &Disk, name: &str, outcome: Result<Outcome, String>) {
        let row = self.rows.entry(disk.name).or_default();
        row.cuts += 1;
        match outcome {
            Ok(outcome) => {
                row.dirty += usize::from(outcome.state != Some(State::Clean));
                row.files += outcome.files;
                if outcome.policy == Policy::UsedBlocks {
                    row.mapped += 1;
                    row.used += outcome.used;
                    row.size += outcome.size;
                } else {
                    *row.refusals.entry(outcome.reason).or_default() += 1;
                }
            }
            Err(error) => {
                row.failed += 1;
                self.failures.push(format!("{name}: {error}"));
            }
        }
    }

    /// Prints the table as `docs/measured.md` has it.
    pub(crate) fn print(&self) {
        println!(
            "\n| disk | cuts | recovered the same | dirty | used blocks | everything | used | files |"
        );
        println!("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |");
        for (name, row) in &self.rows {
            let share = if row.size == 0 {
                "-".into()
            } else {
                format!("{:.1} %", row.used as f64 * 100.0 / row.size as f64)
            };
            let good = row.cuts - row.failed;
            println!(
                "| {name} | {} | {good} | {} | {} | {} | {share} | {} |",
                row.cuts,
                row.dirty,
                row.mapped,
                good - row.mapped,
                row.files / good.max(1)
            );
        }
        for (name, row) in &self.rows {
            for (reason, count) in &row.refusals {
                println!("{name}: {count} copied except zeros: {reason}");
            }
        }
        println!();
    }

    /// Fails if one copy differed, or if so few disks were mapped that the campaign proves nothing.
    pub(crate) fn check(&self) {
        assert!(self.failures.is_empty(), "{}", self.failures.join("\n"));
        for (name, row) in &self.rows {
            assert!(
                row.mapped * 4 >= row.cuts * 3,
                "{name}: only {} of {} cuts were mapped: {:?}",
                row.mapped,
                row.cuts,
                row.refusals
            );
        }
    }
}
