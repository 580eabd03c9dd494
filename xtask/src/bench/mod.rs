//! `cargo xtask bench`: a capture beside what else could be used, on the same disk in one run, and
//! beside the machine's own limits.
//!
//! In: a disk of 16 GiB that is 36 % live and 27 % deleted data ([`source`]), programs of this
//! machine ([`tools`]), stores that are as slow as sticks ([`store`]). Out: tables of ratios
//! ([`table`]); what is printed is what docs/measured.md keeps.

mod source;
mod store;
mod table;
mod tools;

use crate::say;
use anyhow::{Context, Result, ensure};
use haulier_image::programs;
use haulier_testbed::product::{target, workspace};
use haulier_testbed::setup::{self, Purpose};
use serde::Deserialize;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use store::Store;
use table::Table;
use tools::{Measured, Tool};

/// The stores' speeds in million bytes a second: a slow stick, a good one, an SSD in a USB case.
const STICKS: [u64; 3] = [30, 120, 400];

/// What `stages` prints.
#[derive(Debug, Clone, Copy, Deserialize)]
struct Stage {
    seconds: f64,
    bytes: u64,
    stored: u64,
}

/// Where everything is.
struct Bench {
    disk: PathBuf,
    stages: PathBuf,
    haulier: PathBuf,
    folder: PathBuf,
    /// Whether the disk is in memory, where reading is the processors' work.
    in_memory: bool,
}

/// Runs the bench. `rounds` times each tool, of which the fastest counts; `quick` leaves out the
/// sticks and all tools but ours.
pub(crate) fn run(rounds: u32, quick: bool) -> Result<()> {
    ensure!(
        rustix::process::geteuid().is_root(),
        "the bench mounts a filesystem to fill it: run it as root"
    );
    setup::ensure(&Purpose::ALL, &say)?;
    let folder = target().join("bench");
    fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    let source = source::disk(&folder)?;
    let mut bench = Bench {
        disk: source.clone(),
        stages: build_stages()?,
        haulier: programs::build(&workspace())?.haulier,
        folder,
        in_memory: false,
    };
    if let Some(fast) = source::in_memory(&source)? {
        bench.disk = fast.disk();
        bench.in_memory = true;
        println!("\n## The disk in memory, the store on this machine's disk\n");
        bench.run(rounds, quick)?;
        bench.sticks(quick)?;
    }
    bench.disk = source;
    bench.in_memory = false;
    println!("\n## The disk and the store on the same disk of this machine\n");
    bench.run(rounds, quick)
}

impl Bench {
    fn run(&self, rounds: u32, quick: bool) -> Result<()> {
        let fast = Store::folder(&self.folder.join("store"))?;
        let tools: &[Tool] = if quick {
            &[Tool::Haulier, Tool::HaulierVerified]
        } else {
            &Tool::ALL
        };
        // In turns, so that what else the machine does meets all of them alike.
        let mut best: Vec<Option<Measured>> = vec![None; tools.len()];
        let (mut read, mut compress, mut both) = (None, None, None);
        for _ in 0..rounds {
            keep_best(&mut read, self.stage(&["read", self.disk_word()])?);
            keep_best(&mut compress, self.stage(&["compress", self.disk_word()])?);
            if self.in_memory {
                keep_best(&mut both, self.stage(&["both", self.disk_word()])?);
            }
            for (tool, best) in tools.iter().zip(&mut best) {
                let measured = tool.run(&self.haulier, &self.disk, fast.path())?;
                println!("{measured}");
                if best.as_ref().is_none_or(|b| measured.seconds < b.seconds) {
                    *best = Some(measured);
                }
            }
        }
        let (read, compress) = (read.context("no round")?, compress.context("no round")?);
        let measured: Vec<Measured> = best.into_iter().flatten().collect();
        let image = measured.first().map_or(0, |ours| ours.written);
        let write = self.write(fast.path(), image)?;
        let mut table = Table::new(read, compress, write, both);
        table.tools(&measured);
        if !quick {
            let (ours, theirs) = tools::live(&self.haulier, &self.disk, fast.path())?;
            table.live(ours, theirs);
        }
        println!("\n{table}");
        Ok(())
    }

    /// Captures to stores that are as slow as sticks.
    fn sticks(&self, quick: bool) -> Result<()> {
        if quick {
            return Ok(());
        }
        let read = self.stage(&["read", self.disk_word()])?;
        let compress = self.stage(&["compress", self.disk_word()])?;
        let mut table = table::Sticks::new(read, compress);
        for rate in STICKS {
            let stick = Store::throttled(&self.folder, rate * 1_000_000)?;
            let write = self.write(stick.path(), rate * 1_000_000 * 10)?;
            let ours = Tool::Haulier.run(&self.haulier, &self.disk, stick.path())?;
            println!("{ours}");
            table.add(rate, write, &ours);
        }
        println!("\n{table}");
        Ok(())
    }

    fn disk_word(&self) -> &str {
        self.disk.to_str().unwrap_or_default()
    }

    fn write(&self, store: &Path, bytes: u64) -> Result<Stage> {
        let file = store.join("stage");
        self.stage(&[
            "write",
            file.to_str().unwrap_or_default(),
            &bytes.to_string(),
        ])
    }

    fn stage(&self, words: &[&str]) -> Result<Stage> {
        tools::forget(&self.disk)?;
        let output = haulier_testbed::command::run(Command::new(&self.stages).args(words))?;
        let stage: Stage = serde_json::from_str(&output)
            .with_context(|| format!("reading what the stage {} printed", words[0]))?;
        println!(
            "{:<10} {:7.1} s {:8.0} MB/s",
            words[0],
            stage.seconds,
            stage.bytes as f64 / stage.seconds / 1e6
        );
        Ok(stage)
    }
}

fn keep_best(best: &mut Option<Stage>, stage: Stage) {
    if best.is_none_or(|best| stage.seconds < best.seconds) {
        *best = Some(stage);
    }
}

/// Builds tests/bench/stages.rs as the product is built.
fn build_stages() -> Result<PathBuf> {
    #[derive(Deserialize)]
    struct Built {
        executable: Option<PathBuf>,
    }
    let output = haulier_testbed::command::run(
        Command::new("cargo")
            .current_dir(workspace())
            .args(["bench", "--locked", "--no-run", "--bench", "stages"])
            .args(["--message-format", "json"])
            .args(["--config", "profile.bench.inherits='release'"])
            .env("CARGO_TARGET_DIR", target().join("bench/build")),
    )?;
    output
        .lines()
        .filter_map(|line| serde_json::from_str::<Built>(line).ok())
        .filter_map(|built| built.executable)
        .find(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with("stages")
        })
        .context("cargo did not say where the stages are")
}
