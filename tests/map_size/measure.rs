//! One run of `haulier map`: its peak of memory, what it read, how long it took.

use super::map_support::{arg, run};
use haulier::usedmap::{DiskMap, Policy};
use std::fs;
use std::path::Path;
use std::time::Instant;

/// The bound of every map.
const MOST_KIB: f64 = 256.0 * 1024.0;

/// What was seen.
pub(crate) struct Measured {
    pub(crate) map: DiskMap,
}

/// The program: that of the test's own profile, or the one that `cargo xtask size` names.
fn program() -> String {
    std::env::var("HAULIER_SIZE_PROGRAM")
        .unwrap_or_else(|_| env!("CARGO_BIN_EXE_haulier").to_owned())
}

/// Maps `image` in a process of its own, prints a row for docs/measured.md and asserts the bound on
/// memory, never one on time. What is read is what the kernel counted for that process.
pub(crate) fn measure(what: &str, image: &Path) -> Measured {
    let scratch = tempfile::tempdir().unwrap();
    let json = scratch.path().join("map.json");
    let peak = scratch.path().join("peak");
    let script = format!(
        "exec time --quiet -f '%M %U %S' -o {} {} map --json {} > {}",
        arg(&peak),
        program(),
        arg(image),
        arg(&json)
    );
    let read = bytes_read();
    let start = Instant::now();
    run("sh", &["-c", &script]);
    let seconds = start.elapsed().as_secs_f64();
    let read = bytes_read() - read;
    let map: DiskMap = serde_json::from_slice(&fs::read(&json).unwrap()).unwrap();
    let seen = fs::read_to_string(&peak).unwrap();
    let seen: Vec<f64> = seen
        .split_whitespace()
        .map(|number| number.parse().unwrap())
        .collect();
    let [kib, user, system] = seen[..] else {
        panic!("time(1) says {seen:?}");
    };
    #[allow(clippy::cast_precision_loss)]
    let mib = read as f64 / f64::from(1 << 20);
    // Seconds of the processor say more than those of the clock where others use it too.
    let cpu = user + system;
    println!(
        "| {what} | {mib:.1} | {seconds:.2} | {cpu:.2} | {:.0} | {:.0} | {} | {} |",
        mib / cpu.max(0.01),
        kib / 1024.0,
        map.extents.len(),
        map.used_bytes
    );
    assert!(kib > 1024.0, "{kib} KiB cannot be all that it needed");
    assert!(kib < MOST_KIB, "{what}: {kib} KiB of memory");
    let region = &map.regions[0];
    assert_eq!(region.policy, Policy::UsedBlocks, "{}", region.reason);
    Measured { map }
}

/// What this process and the children that ended have read in all.
fn bytes_read() -> u64 {
    let io = fs::read_to_string("/proc/self/io").unwrap();
    let line = io.lines().find_map(|line| line.strip_prefix("rchar:"));
    line.unwrap().trim().parse().unwrap()
}
