//! Every file of the fuzzer's corpus, good and damaged, has a sane map: what fuzzing has found once
//! stays found. (`cargo xtask fuzz` looks for more.)

#[path = "fuzz/src/check.rs"]
mod check;
#[path = "fuzz/src/image.rs"]
#[allow(dead_code, unreachable_pub, clippy::indexing_slicing)]
mod image;

use haulier::units::SectorSize;
use haulier::usedmap::Policy;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus")
}

fn files(of: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(of)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    files
}

#[test]
fn every_file_has_a_sane_map_and_soon() {
    let mut seen = 0;
    let mut bytes = 0;
    for target in files(&corpus()) {
        for file in files(&target) {
            let content = fs::read(&file).unwrap();
            bytes += content.len();
            let start = Instant::now();
            println!("{}", file.display());
            check::check(&content);
            // Generous: the machine may be busy.
            assert!(
                start.elapsed() < Duration::from_secs(20),
                "{}",
                file.display()
            );
            seen += 1;
        }
    }
    println!("{seen} files, {bytes} bytes");
    assert!(seen > 15, "the corpus is not there");
    assert!(
        bytes < 2 << 20,
        "the corpus has {bytes} bytes: keep it small"
    );
}

/// The seeds are what they are called: a map of used blocks, so that a fuzzer starts from where
/// everything was understood.
#[test]
fn the_seeds_are_understood() {
    for (target, names) in [
        (
            "ext",
            &[
                "ext4",
                "ext2",
                "bigalloc",
                "meta_bg",
                "no_checksums",
                "uninit_bg",
                "mmp",
            ][..],
        ),
        ("ext_journal", &["v3", "v2", "none", "indirect"]),
        ("swap", &["swap"]),
    ] {
        for name in names {
            let content = fs::read(corpus().join(target).join(name)).unwrap();
            let map = check::check(&content).unwrap();
            let region = &map.regions[0];
            assert_eq!(
                region.policy,
                Policy::UsedBlocks,
                "{name}: {}",
                region.reason
            );
            assert_eq!(
                region.reason.contains("replayed in memory"),
                target == "ext_journal" && *name != "indirect",
                "{name}: {}",
                region.reason
            );
        }
    }
}

/// A replay that reads the journal from where it has just been written to would be no replay.
#[test]
fn a_journal_that_writes_to_itself_is_refused() {
    let content = fs::read(corpus().join("ext_journal/writes_to_itself")).unwrap();
    let map = check::check(&content).unwrap();
    let region = &map.regions[0];
    assert_eq!(region.policy, Policy::CopyNonzero);
    assert!(region.reason.contains("block 9000, which it must not"));
}

#[test]
fn squeezing_and_reading_give_the_image_back() {
    use haulier::device::ReadAt;
    let mut disk = vec![0; 300 << 10];
    disk[1000..90_000].fill(7);
    disk[200_000] = 1;
    let squeezed = image::SparseDisk::squeeze(&disk, SectorSize::B4096);
    let again = image::SparseDisk::parse(&squeezed).unwrap();
    assert_eq!(again.sector(), SectorSize::B4096);
    let mut bytes = vec![0; disk.len()];
    again
        .read_at(haulier::units::ByteOffset(0), &mut bytes)
        .unwrap();
    assert_eq!(bytes, disk);
    assert!(squeezed.len() < 92_000);
}
