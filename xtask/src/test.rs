//! `cargo xtask test`: everything that CI runs, and how long each step took.

use crate::say;
use crate::steps::Steps;
use anyhow::{Context, Result, bail, ensure};
use haulier_testbed::guest::Base;
use haulier_testbed::product::workspace;
use haulier_testbed::setup::{self, Purpose};
use std::process::Command;
use std::thread;
use std::time::Instant;

/// What is run with cargo, in this order: (step, arguments).
const CARGO: [(&str, &[&str]); 4] = [
    ("format", &["fmt", "--all", "--check"]),
    (
        "lint",
        &[
            "clippy",
            "--workspace",
            "--all-targets",
            "--locked",
            "--",
            "-D",
            "warnings",
        ],
    ),
    // What the machines' own library says of itself, before anything waits for them.
    (
        "tests of the testbed",
        &["test", "--locked", "--package", "haulier-testbed", "--lib"],
    ),
    ("tests", &["test", "--locked"]),
];

/// The step that builds the product for the machine tests.
const IMAGE: &str = "image";
/// The tests that boot machines: one machine at a time, each wants both processors.
const MACHINES: (&str, &[&str]) = (
    "machines",
    &[
        "test",
        "--locked",
        "--package",
        "haulier-testbed",
        "--",
        "--test-threads=1",
    ],
);

/// Every guest × bus × profile, one after the other.
const GUESTS: (&str, &[&str]) = (
    "guests",
    &[
        "test",
        "--locked",
        "--package",
        "haulier-testbed",
        "--test",
        "guests",
        "--",
        "--ignored",
        "--nocapture",
        "--test-threads=1",
    ],
);

/// Runs the steps whose name contains `filter`; with `all` the long ones too.
pub(crate) fn run(filter: Option<&str>, all: bool) -> Result<()> {
    let wanted = |name: &str| filter.is_none_or(|filter| name.contains(filter));
    let names = || {
        CARGO
            .iter()
            .map(|step| step.0)
            .chain([IMAGE, MACHINES.0, GUESTS.0])
    };
    ensure!(
        names().any(wanted),
        "no step is called so; there are: {}",
        names().collect::<Vec<_>>().join(", ")
    );
    let start = Instant::now();
    let mut steps = Steps::default();
    steps.run("setup", || setup::ensure(&Purpose::ALL, &say))?;

    // Installing the test server waits for the network and for dpkg: it goes on beside cargo.
    let guests = all && wanted(GUESTS.0);
    let guest = (wanted(MACHINES.0) || guests).then(|| {
        thread::spawn(|| {
            let start = Instant::now();
            Base::get(&say).map(|_| start.elapsed())
        })
    });
    let verdict = (|| {
        for (name, arguments) in CARGO.into_iter().filter(|(name, _)| wanted(name)) {
            steps.run(name, || cargo(arguments))?;
        }
        if wanted(IMAGE) || wanted(MACHINES.0) || guests {
            steps.run(IMAGE, || crate::image::build(None))?;
        }
        if let Some(guest) = guest {
            let Ok(took) = guest.join() else {
                bail!("installing the test server panicked");
            };
            steps.add("test server (beside the others)", took?);
            if wanted(MACHINES.0) {
                steps.run(MACHINES.0, || cargo(MACHINES.1))?;
            }
            if guests {
                steps.run(GUESTS.0, || cargo(GUESTS.1))?;
            }
        }
        Ok(())
    })();
    steps.print();
    println!("{:7.1} s  in all", start.elapsed().as_secs_f64());
    verdict
}

/// The long campaign of power cuts; `cargo test` runs a short one.
pub(crate) fn powercut(cuts: u64, seed: u64) -> Result<()> {
    setup::ensure(&Purpose::ALL, &say)?;
    cargo_with(
        &[
            ("HAULIER_POWER_CUTS", cuts.to_string()),
            ("HAULIER_POWER_SEED", seed.to_string()),
        ],
        &[
            "test",
            "--locked",
            "--package",
            "haulier-testbed",
            "--test",
            "powercut",
            "--",
            "--nocapture",
            "--test-threads=1",
        ],
    )
}

/// Maps and captures of the largest filesystems, in full; `cargo test` has a quick form of each.
pub(crate) fn size(files: u64) -> Result<()> {
    setup::ensure(&Purpose::ALL, &say)?;
    cargo(&["build", "--release", "--locked", "--bin", "haulier"])?;
    let program = haulier_testbed::product::target().join("release/haulier");
    cargo_with(
        &[
            ("HAULIER_SIZE_PROGRAM", program.display().to_string()),
            ("HAULIER_SIZE_FILES", files.to_string()),
            ("HAULIER_SIZE_RUNS", (50_000_000).to_string()),
            // All of them.
            ("HAULIER_SIZE_GROUPS", (1 << 19).to_string()),
            ("HAULIER_SIZE_CLUSTERS", (1_u64 << 32).to_string()),
            ("HAULIER_SIZE_CAPTURED_TIB", (64).to_string()),
            ("HAULIER_SIZE_CAPTURED_GROUPS", (6_000).to_string()),
        ],
        &[
            "test",
            "--locked",
            "--test",
            "map_size",
            "--test",
            "capture_size",
            "--",
            "--nocapture",
            "--test-threads=1",
        ],
    )
}

fn cargo(arguments: &[&str]) -> Result<()> {
    cargo_with(&[], arguments)
}

pub(crate) fn cargo_with(variables: &[(&str, String)], arguments: &[&str]) -> Result<()> {
    println!("+ cargo {}", arguments.join(" "));
    let status = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(arguments)
        .envs(variables.iter().map(|(name, value)| (name, value)))
        .current_dir(workspace())
        .status()
        .context("starting cargo")?;
    ensure!(status.success(), "cargo {} failed", arguments.join(" "));
    Ok(())
}
