//! The fault matrix in full: in come how many of each fault, out comes one table. `cargo test` has
//! a few of each.

use crate::say;
use crate::test::cargo_with;
use anyhow::{Context, Result, ensure};
use haulier_testbed::product::scratch;
use haulier_testbed::setup::{self, Purpose};

/// How often each fault is made, by the variable that the test looks at.
const COUNTS: [(&str, u32); 8] = [
    ("HAULIER_KILLS", 100),
    ("HAULIER_STICK_CUTS", 100),
    ("HAULIER_MACHINE_CUTS", 30),
    ("HAULIER_SIZES", 20),
    ("HAULIER_PULLS", 20),
    ("HAULIER_MACHINE_PULLS", 20),
    ("HAULIER_BAD_DISKS", 20),
    ("HAULIER_FLIPS", 200),
];

/// The tests that make the lines of the table.
const TESTS: [&[&str]; 3] = [
    &["--test", "faults"],
    &["--test", "resume", "killed_again_and_again"],
    &["--package", "haulier-testbed", "--test", "capture_faults"],
];

/// Runs all of them, and prints what came of it even when one failed; `percent` of the counts, one
/// of each at least.
pub(crate) fn run(percent: u32) -> Result<()> {
    setup::ensure(&Purpose::ALL, &say)?;
    let folder = scratch()?;
    let table = folder.path().join("table");
    let mut variables: Vec<(&str, String)> = COUNTS
        .iter()
        .map(|(name, count)| (*name, (count * percent).div_ceil(100).to_string()))
        .collect();
    variables.push(("HAULIER_FAULTS_TABLE", table.display().to_string()));
    crate::image::build(None)?;
    let mut failed = Vec::new();
    for words in TESTS {
        let fixed = ["test", "--locked"];
        let end = ["--", "--nocapture", "--test-threads=1"];
        if let Err(error) = cargo_with(&variables, &[&fixed, words, &end].concat()) {
            failed.push(error.to_string());
        }
    }
    println!("\n| fault | moments | identical | refused clearly | found and located |");
    println!("| --- | ---: | ---: | ---: | ---: |");
    let lines = std::fs::read_to_string(&table).context("reading the lines of the table")?;
    print!("{lines}");
    ensure!(failed.is_empty(), "{}", failed.join("; "));
    Ok(())
}
