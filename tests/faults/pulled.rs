//! A stick that is gone from one moment to the next: the capture ends with a sentence and without
//! waiting for ever; with the stick back it goes on to the undisturbed image.
//!
//! The stick is a file that QEMU's storage daemon shows, and the daemon is killed. That the
//! appliance sees a USB stick go, and says so, is for `tests/testbed/tests/capture_faults.rs`.
//! `HAULIER_PULLS` says how many moments (3 if not set).

use crate::capture_support::{
    MIB, Numbers, Scene, Tally, entry, mixed_disk, nothing_is_whole, number, whole, words,
};
use crate::medium::{Medium, format};
use crate::qsd::{Shown, file_node};
use std::fs::{self, File};
use std::path::Path;
use std::process::Child;
use std::time::{Duration, Instant};

const DISK: u64 = 224 * MIB;
const STICK: u64 = 512 * MIB;
/// No capture of such a disk takes so long, on any machine.
const PATIENCE: Duration = Duration::from_secs(300);

/// Plugs the stick in.
fn plug(scene: &Scene, image: &Path) -> (Medium, Shown) {
    let shown = Shown::new(&[file_node("top", image)], true, &scene.path("shown.img"));
    let stick = Medium::mount(&shown.file, &scene.path("stick"), &[]);
    (stick, shown)
}

/// How many bytes the stick was given.
fn written(stick: &Medium) -> u64 {
    let name = stick.device().rsplit('/').next().unwrap();
    let stat = fs::read_to_string(format!("/sys/block/{name}/stat")).unwrap();
    let sectors = stat.split_whitespace().nth(6).unwrap();
    sectors.parse::<u64>().unwrap() * 512
}

/// Waits until the stick was given `bytes` more than `before`, or the capture has ended.
fn wait(stick: &Medium, child: &mut Child, bytes: u64) {
    let start = Instant::now();
    while written(stick) < bytes && child.try_wait().unwrap().is_none() {
        assert!(start.elapsed() < PATIENCE, "the capture does not go on");
        std::thread::sleep(Duration::from_micros(500));
    }
}

#[test]
fn a_capture_whose_stick_is_pulled_ends_clearly_and_goes_on_when_it_is_back() {
    let pulls = number("HAULIER_PULLS", 3);
    let scene = Scene::new(|path| mixed_disk(path, DISK));
    let image = scene.path("stick.img");
    format(&image, STICK);
    let (stick, shown) = plug(&scene, &image);
    let before = written(&stick);
    let output = scene.capture(&stick.store, &[]);
    assert!(output.status.success(), "{}", words(&output));
    let expected = whole(&scene, &stick.store);
    let all = written(&stick) - before;
    stick.unmount();
    drop(shown);
    println!("a capture writes {all} bytes");

    let mut numbers = Numbers(u64::from(pulls));
    let mut tally = Tally::default();
    for _ in 0..pulls {
        format(&image, STICK);
        let (stick, mut shown) = plug(&scene, &image);
        let after = numbers.below(all);
        let moment = written(&stick) + after;
        let said = scene.path("said");
        let mut child = scene.begin(&stick.store, &[], File::create(&said).unwrap().into());
        wait(&stick, &mut child, moment);
        shown.kill();
        let start = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            assert!(
                start.elapsed() < PATIENCE,
                "it hangs on a stick that is gone"
            );
            std::thread::sleep(Duration::from_millis(5));
        };
        drop(stick);
        drop(shown);
        let said = fs::read_to_string(&said).unwrap();
        println!("pulled after {after} bytes: {status}");

        let (stick, shown) = plug(&scene, &image);
        if !status.success() {
            assert_eq!(status.code(), Some(1), "{said}");
            assert!(said.contains("Input/output error"), "{said}");
            assert!(said.contains("--resume"), "{said}");
        }
        // The rename may have reached the stick though its sync did not return.
        if entry(&stick.store, "Z").is_none() {
            assert!(!status.success(), "{said}");
            nothing_is_whole(&stick.store);
            let going_on = entry(&stick.store, ".partial").is_some();
            let more: &[&str] = if going_on { &["--resume"] } else { &[] };
            let output = scene.capture(&stick.store, more);
            assert!(output.status.success(), "{}", words(&output));
        }
        assert_eq!(whole(&scene, &stick.store), expected);
        tally.identical += 1;
        stick.unmount();
        drop(shown);
    }
    tally.row("stick pulled (the host's block device gone)", pulls);
}
