//! The project's own commands: in comes a checkout, out come an image, a demonstration, a verdict.

mod bench;
mod demo;
mod faults;
mod fuzz;
mod image;
mod steps;
mod test;

use clap::{Parser, Subcommand};
use haulier_testbed::setup::{self, Purpose};
use std::path::PathBuf;
use std::process::ExitCode;

/// Haulier's own commands for building, showing and testing it
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", max_term_width = 80)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Install the packages that building and testing need
    Setup,
    /// Make the stick image
    Image {
        /// First fix the newest Debian packages in the lock file
        #[arg(long)]
        relock: bool,
        /// Where the image goes [default: target/haulier.img]
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Show the whole journey: capture a server, import it, boot it
    Demo {
        /// Leave the screen to you: press Enter yourself
        #[arg(long)]
        interactive: bool,
    },
    /// Measure a capture beside other tools and the machine's own limits
    Bench {
        /// How often each is run; the fastest counts
        #[arg(long, default_value_t = 3)]
        rounds: u32,
        /// Only our own captures, to a fast store
        #[arg(long)]
        quick: bool,
    },
    /// Look for disks whose map is not sane
    Fuzz {
        /// One folder of tests/fuzz/corpus [default: one after the other]
        target: Option<String>,
        /// How long each is run
        #[arg(long, default_value_t = 60, value_name = "N")]
        seconds: u32,
    },
    /// Cut a guest's power in the middle of writing, many times, and prove each disk's map
    Powercut {
        /// How many cuts each filesystem gets
        #[arg(long, default_value_t = 50)]
        cuts: u64,
        /// Which ones
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Map and capture filesystems of up to 64 TiB, and say what that took
    Size {
        /// How many files are made in some of them
        #[arg(long, default_value_t = 20_000_000)]
        files: u64,
    },
    /// Kill, cut, fill, pull, break and flip captures, many times, and print what came of it
    Faults {
        /// How much of the whole matrix
        #[arg(long, default_value_t = 100)]
        percent: u32,
    },
    /// Run everything that CI runs
    Test {
        /// And every guest on every bus with every profile, which takes an hour more
        #[arg(long)]
        all: bool,
        /// Only steps whose name contains this text
        filter: Option<String>,
    },
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Setup => setup::ensure(&Purpose::ALL, &say),
        Command::Image { relock, out } => image::run(relock, out),
        Command::Demo { interactive } => demo::run(interactive),
        Command::Bench { rounds, quick } => bench::run(rounds, quick),
        Command::Fuzz { target, seconds } => fuzz::run(target.as_deref(), seconds),
        Command::Powercut { cuts, seed } => test::powercut(cuts, seed),
        Command::Size { files } => test::size(files),
        Command::Faults { percent } => faults::run(percent),
        Command::Test { all, filter } => test::run(filter.as_deref(), all),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// A line for the person.
fn say(line: &str) {
    println!("{line}");
}
