//! The map of what was read, in the hands of GNU ddrescue's own tool.

mod map_support;

use haulier::capture::rescue_map;
use haulier::extent::{Extent, ExtentList};
use haulier::units::ByteLen;
use map_support::{Noise, arg, run};
use std::fs;

const SECTOR: u64 = 512;
const SIZE: u64 = 9000 * SECTOR;

/// Sectors by chance.
fn some(noise: &mut Noise, count: u64, longest: u64) -> ExtentList {
    let mut all: Vec<Extent> = (0..count)
        .map(|_| {
            let from = noise.below(9000);
            let to = (from + 1 + noise.below(longest)).min(9000);
            Extent::between(from * SECTOR, to * SECTOR).unwrap()
        })
        .collect();
    all.sort_unstable();
    all.into_iter().collect()
}

/// The sectors of a status, as ddrescuelog lists them.
fn listed(map: &std::path::Path, status: char) -> ExtentList {
    let option = format!("--list-blocks={status}");
    run("ddrescuelog", &["--block-size=512", &option, arg(map)])
        .lines()
        .map(|line| {
            let block: u64 = line.trim().parse().unwrap();
            Extent::between(block * SECTOR, (block + 1) * SECTOR).unwrap()
        })
        .collect()
}

#[test]
fn ddrescuelog_reads_what_was_meant() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("map");
    let mut noise = Noise(0xDD);
    let whole: ExtentList = Extent::between(0, SIZE).into_iter().collect();
    for round in 0..12 {
        let used = some(&mut noise, 30, 200);
        // With no bad sectors at all in the first.
        let bad = some(&mut noise, round, 9).intersect(&used);
        fs::write(&path, rescue_map(ByteLen(SIZE), &used, &bad)).unwrap();
        assert_eq!(listed(&path, '-'), bad);
        assert_eq!(listed(&path, '+'), used.subtract(&bad));
        assert_eq!(listed(&path, '?'), whole.subtract(&used));
        let status = run("ddrescuelog", &["--show-status", arg(&path)]);
        let words = status.split_whitespace().collect::<Vec<_>>().join(" ");
        let areas = format!("in {} area(s)", bad.len());
        let bad_line = words.split("bad-sector: ").nth(1).unwrap();
        assert!(bad_line.contains(&areas), "{areas}: {status}");
    }
}

/// `ddrescuelog --done-status` is content only when nothing is left: a disk that was read as a whole.
#[test]
fn a_whole_disk_is_done() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("map");
    let whole: ExtentList = Extent::between(0, SIZE).into_iter().collect();
    fs::write(&path, rescue_map(ByteLen(SIZE), &whole, &ExtentList::new())).unwrap();
    run("ddrescuelog", &["--done-status", arg(&path)]);
    let bad: ExtentList = Extent::between(SECTOR, 2 * SECTOR).into_iter().collect();
    fs::write(&path, rescue_map(ByteLen(SIZE), &whole, &bad)).unwrap();
    let output = map_support::try_run("ddrescuelog", &["--done-status", arg(&path)]);
    assert!(!output.status.success());
}
