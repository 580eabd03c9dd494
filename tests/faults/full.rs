//! Sticks that are too small by much, by little and by one block: the capture is refused before
//! its first byte, or ends with the sentence; nothing is called whole. With more room it goes on
//! to the undisturbed image.
//!
//! `HAULIER_SIZES` says how many sizes (4 if not set).

use crate::capture_support::{
    MIB, Numbers, Scene, Tally, entry, nothing_is_whole, number, whole, words,
};
use crate::medium::{Medium, enlarge, format};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

const DISK: u64 = 176 * MIB;
const STICK: u64 = 320 * MIB;
const BLOCK: u64 = 4096;

/// Noise, but for the clusters that the plan takes its samples from: it expects a small image, and
/// so lets the capture begin on any stick.
fn lucky_disk(path: &Path) {
    let file = File::create(path).unwrap();
    file.set_len(DISK).unwrap();
    let mut numbers = Numbers(3);
    for at in (0..DISK).step_by(4 * MIB as usize) {
        let mut piece = b"haulier ".repeat(64 << 10 >> 3);
        piece.extend(numbers.noise(4 * MIB - (64 << 10)));
        file.write_all_at(&piece, at).unwrap();
    }
}

/// How much room a capture is given, when `needed` is just enough: each kind of end in turn.
fn room(turn: u32, needed: u64, numbers: &mut Numbers) -> u64 {
    let ends = [
        // In the data, wherever.
        5 * MIB + numbers.below(needed - 6 * MIB),
        // In the tables, the record, the manifest, the checksums, the log.
        needed - BLOCK * (1 + numbers.below(8)),
        // Before anything.
        numbers.below(4 * MIB),
        // Behind the data, before the tables.
        needed - 64 * 1024 * (1 + numbers.below(16)),
    ];
    ends[turn as usize % ends.len()] / BLOCK * BLOCK
}

#[test]
fn a_stick_that_is_full_ends_the_capture_clearly_and_more_room_ends_it_well() {
    let sizes = number("HAULIER_SIZES", 4);
    let scene = Scene::new(lucky_disk);
    let image = scene.path("stick.img");
    format(&image, STICK);
    let stick = Medium::mount(&image, &scene.path("stick"), &[]);
    let before = stick.free();
    let output = scene.capture(&stick.store, &[]);
    assert!(output.status.success(), "{}", words(&output));
    let expected = whole(&scene, &stick.store);
    let needed = before - stick.free();
    println!("{needed} bytes are needed");
    stick.unmount();

    let mut numbers = Numbers(u64::from(sizes));
    let mut tally = Tally::default();
    for turn in 0..sizes {
        let leave = room(turn, needed, &mut numbers);
        format(&image, STICK);
        let mut stick = Medium::mount(&image, &scene.path("stick"), &[]);
        let others = stick.fill(leave);
        let output = scene.capture(&stick.store, &[]);
        let said = words(&output);
        println!("{leave} bytes free: {:?}", output.status.code());
        match output.status.code() {
            Some(4) => {
                assert!(said.contains("no room on"), "{said}");
                assert_eq!(fs::read_dir(&stick.store).unwrap().count(), 2, "{said}");
                tally.refused += 1;
            }
            Some(1) => {
                assert!(said.contains("No space left on device"), "{said}");
                nothing_is_whole(&stick.store);
                // Either somebody else's file goes, or the stick is copied onto a larger one.
                if turn % 8 < 4 {
                    fs::remove_file(&others).unwrap();
                } else {
                    stick.unmount();
                    enlarge(&image, 2 * STICK);
                    stick = Medium::mount(&image, &scene.path("stick"), &[]);
                }
                let output = scene.capture(&stick.store, &["--resume"]);
                assert!(output.status.success(), "{leave}: {}", words(&output));
                assert_eq!(whole(&scene, &stick.store), expected);
                assert!(entry(&stick.store, ".journal").is_none());
                tally.identical += 1;
            }
            other => panic!("{leave} of {needed} bytes: {other:?}: {said}"),
        }
        stick.unmount();
    }
    tally.row("stick full", sizes);
}
