//! `cargo xtask fuzz`: builds the fuzzer of `tests/fuzz` and runs it over the folders of its corpus.
//! The parsers have no `unsafe` code, so no sanitizer is needed and the ordinary toolchain does:
//! libFuzzer's coverage counters come from LLVM.

use anyhow::{Context, Result, ensure};
use haulier_testbed::product::workspace;
use std::fs;
use std::path::Path;
use std::process::Command;

/// As cargo-fuzz sets them, less the sanitizer.
const RUSTFLAGS: &str = "--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares";
/// Naming the target keeps these flags from build scripts.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Runs one folder of the corpus, or all of them, each for `seconds`.
pub(crate) fn run(only: Option<&str>, seconds: u32) -> Result<()> {
    let root = workspace();
    let corpus = root.join("tests/fuzz/corpus");
    let built = root.join("target/fuzz");
    let status = Command::new("cargo")
        .args([
            "build",
            "--locked",
            "--release",
            "--bin",
            "map",
            "--target",
            TARGET,
        ])
        .arg("--manifest-path")
        .arg(root.join("tests/fuzz/Cargo.toml"))
        .env("CARGO_TARGET_DIR", &built)
        .env("RUSTFLAGS", RUSTFLAGS)
        .status()
        .context("running cargo")?;
    ensure!(status.success(), "the fuzzer could not be built");
    let program = built.join(TARGET).join("release/map");
    let mut names = Vec::new();
    for entry in fs::read_dir(&corpus).with_context(|| format!("reading {}", corpus.display()))? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    if let Some(only) = only {
        ensure!(
            names.iter().any(|name| name == only),
            "no target {only}: there are {names:?}"
        );
        names.retain(|name| name == only);
    }
    for name in names {
        println!("== {name}");
        fuzz(
            &program,
            &corpus.join(&name),
            &root.join("tests/fuzz/dict").join(&name),
            &built.join("found").join(&name),
            seconds,
        )?;
    }
    Ok(())
}

/// New inputs go beside the build, crashers too; the seeds are only read.
fn fuzz(program: &Path, seeds: &Path, dictionary: &Path, found: &Path, seconds: u32) -> Result<()> {
    let inputs = found.join("inputs");
    fs::create_dir_all(&inputs).with_context(|| format!("making {}", inputs.display()))?;
    let status = Command::new(program)
        .args([
            "-timeout=10",
            "-rss_limit_mb=512",
            "-malloc_limit_mb=256",
            "-max_len=262144",
            "-print_final_stats=1",
            "-report_slow_units=2",
        ])
        .arg(format!("-dict={}", dictionary.display()))
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-artifact_prefix={}/", found.display()))
        .args([&inputs, seeds])
        .status()
        .with_context(|| format!("running {}", program.display()))?;
    ensure!(
        status.success(),
        "a map that is not sane: see the file in {}; minimise it with -minimize_crash=1 and keep \
         it in tests/fuzz/corpus",
        found.display()
    );
    Ok(())
}
