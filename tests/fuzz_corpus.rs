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

/// Names that begin with this are sound files with one field changed by the recipe.
const DAMAGED: &str = "damaged_";
/// Names that begin with this are what a fuzzer has found; no recipe makes them.
const FOUND: &str = "found_";

fn name(file: &Path) -> String {
    file.file_name().unwrap().to_string_lossy().into_owned()
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
            check::check(&content);
            let took = start.elapsed();
            println!("{}: {} ms", file.display(), took.as_millis());
            // Generous: the machine may be busy.
            assert!(took < Duration::from_secs(20), "{}", file.display());
            seen += 1;
        }
    }
    println!("{seen} files, {bytes} bytes");
    assert!(seen > 150, "the corpus is not there");
    assert!(
        bytes < 9 << 19,
        "the corpus has {bytes} bytes: keep it small"
    );
}

/// What the map has a reader or an assembler for is fuzzed: each has a folder with sound files in it,
/// a place in the recipe, and a dictionary.
#[test]
fn every_target_has_a_corpus_a_recipe_and_a_dictionary() {
    const TARGETS: &[&str] = &[
        "apfs",
        "bitlocker",
        "btrfs",
        "disk",
        "exfat",
        "ext",
        "ext_journal",
        "f2fs",
        "fat",
        "hfsplus",
        "jfs",
        "luks",
        "lvm",
        "md",
        "ntfs",
        "reiserfs",
        "swap",
        "xfs",
    ];
    let folders: Vec<String> = files(&corpus()).iter().map(|file| name(file)).collect();
    assert_eq!(folders, TARGETS);
    let fuzz = corpus().join("..");
    let recipe = fs::read_to_string(fuzz.join("recipes/make.sh")).unwrap();
    for target in TARGETS {
        let names: Vec<String> = files(&corpus().join(target))
            .iter()
            .map(|file| name(file))
            .collect();
        let sound = |name: &&String| !name.starts_with(DAMAGED) && !name.starts_with(FOUND);
        assert!(names.iter().any(|name| sound(&name)), "{target}: no seed");
        assert!(
            *target == "ext_journal" || names.iter().any(|name| name.starts_with(DAMAGED)),
            "{target}: nothing damaged"
        );
        assert!(
            recipe.contains(&format!("if wanted {target}; then")),
            "{target}: no recipe"
        );
        let dictionary = fs::read_to_string(fuzz.join("dict").join(target)).unwrap();
        let mut words = dictionary.lines().filter(|line| !line.starts_with('#'));
        assert!(
            words.all(|word| word.len() > 2 && word.starts_with('"') && word.ends_with('"')),
            "{target}: a dictionary that libFuzzer does not read"
        );
    }
}

/// The volumes that are expected in each seed: on the disks themselves, or made of them.
#[test]
fn the_seeds_are_understood() {
    for target in files(&corpus()) {
        let folder = name(&target);
        for file in files(&target) {
            let seed = name(&file);
            let what = format!("{folder}/{seed}");
            if seed.starts_with(DAMAGED) || seed.starts_with(FOUND) || NOT_MAPPED.contains(&&*what)
            {
                continue;
            }
            let maps = check::check(&fs::read(&file).unwrap()).unwrap();
            if folder == "disk" {
                assert!(maps[0].regions.len() > 2, "{what}");
                continue;
            }
            for map in &maps {
                let region = &map.regions[0];
                assert_eq!(
                    region.policy,
                    Policy::UsedBlocks,
                    "{what}: {}",
                    region.reason
                );
                assert_eq!(
                    region.reason.contains("replayed in memory"),
                    folder == "ext_journal" && seed != "indirect" || seed.starts_with("dirty"),
                    "{what}: {}",
                    region.reason
                );
            }
        }
    }
}

/// Seeds that are refused: what debugfs writes wrongly, arrays in a state that is not understood, what
/// the passphrase of the corpus does not open.
const NOT_MAPPED: &[&str] = &[
    "bitlocker/aes-xts-128-4k",
    "bitlocker/aes-xts-128-eow",
    "bitlocker/clearkey-aes-cbc-128",
    "bitlocker/togo-aes-xts-128",
    "ext_journal/v1",
    "ext_journal/writes_to_itself",
    "luks/argon2_without_its_area",
    "md/raid5_ppl",
    "md/raid5_reshape",
];

/// Damage that was once looked through for ever: a chain of clusters that bites its tail, a table of
/// files of 2^45 clusters that are nowhere, logical volumes that each contain the one before 40 times.
#[test]
fn what_has_no_end_is_refused() {
    for (file, why) in [
        ("exfat/damaged_letters_without_end", "more than it can have"),
        ("ntfs/damaged_table_with_holes", "has holes"),
        ("lvm/damaged_tower", "is in it more than once"),
    ] {
        let maps = check::check(&fs::read(corpus().join(file)).unwrap()).unwrap();
        let map = &maps[0];
        let said: String = map.regions.iter().map(|region| &*region.reason).collect();
        let of_volumes = maps.iter().flat_map(|map| &map.volumes);
        let said = of_volumes.fold(said, |said, volume| said + &volume.reason);
        assert!(said.contains(why), "{file}: {said}");
    }
}

/// A replay that reads the journal from where it has just been written to would be no replay.
#[test]
fn a_journal_that_writes_to_itself_is_refused() {
    let content = fs::read(corpus().join("ext_journal/writes_to_itself")).unwrap();
    let maps = check::check(&content).unwrap();
    let region = &maps[0].regions[0];
    assert_eq!(region.policy, Policy::CopyNonzero);
    assert!(region.reason.contains("block 9000, which it must not"));
}

#[test]
fn squeezing_and_reading_give_the_images_back() {
    use haulier::device::ReadAt;
    let mut disks = vec![vec![0; 300 << 10]; 3];
    disks[0][1000..90_000].fill(7);
    disks[0][200_000] = 1;
    disks[2][4096..4100].fill(9);
    let squeezed = image::SparseDisk::squeeze(&disks, SectorSize::B4096);
    let again = image::SparseDisk::parse(&squeezed).unwrap();
    assert_eq!(again.len(), 3);
    for (disk, again) in disks.iter().zip(&again) {
        assert_eq!(again.sector(), SectorSize::B4096);
        let mut bytes = vec![0; disk.len()];
        again
            .read_at(haulier::units::ByteOffset(0), &mut bytes)
            .unwrap();
        assert_eq!(bytes, *disk);
    }
    assert!(squeezed.len() < 93_000);
}
