//! Captures that are interrupted and gone on with, through the real program: killed at random
//! moments, on a medium that fills up, with a source that changed meanwhile. In the end the image
//! is that of an undisturbed capture, or there is a sentence that says why not.
//!
//! `HAULIER_KILLS` says how many kills there are (8 if not set).

mod capture_support;

use capture_support::{MIB, Numbers, Tally, entry, mixed_disk, number, whole, words};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Stdio;
use std::time::Instant;

const DISK: u64 = 448 * MIB;

fn scene() -> capture_support::Scene {
    capture_support::Scene::new(|path: &Path| mixed_disk(path, DISK))
}

#[test]
fn a_capture_that_is_killed_again_and_again_becomes_the_undisturbed_one() {
    let scene = scene();
    let undisturbed = scene.store("undisturbed");
    let start = Instant::now();
    let output = scene.capture(&undisturbed, &[]);
    assert!(output.status.success(), "{}", words(&output));
    let took = start.elapsed();
    let expected = whole(&scene, &undisturbed);

    let kills = number("HAULIER_KILLS", 8);
    let store = scene.store("killed");
    let mut numbers = Numbers(u64::from(kills));
    let (mut killed, mut resumed, mut finished) = (0, 0, 0);
    while killed < kills {
        let going_on = entry(&store, ".partial").is_some();
        let more: &[&str] = if going_on { &["--resume"] } else { &[] };
        let mut child = scene.begin(&store, more, Stdio::null());
        std::thread::sleep(took.mul_f64((numbers.next() % 1000) as f64 / 1000.0));
        let done = child.try_wait().unwrap().is_some();
        child.kill().unwrap();
        let status = child.wait().unwrap();
        killed += 1;
        resumed += u32::from(going_on);
        if done || entry(&store, "Z").is_some() {
            assert!(status.success() || !done, "{status}");
            assert_eq!(whole(&scene, &store), expected);
            fs::remove_dir_all(store.join("m")).unwrap();
            finished += 1;
        }
    }
    if entry(&store, ".partial").is_some() {
        let output = scene.capture(&store, &["--resume"]);
        assert!(output.status.success(), "{}", words(&output));
        assert_eq!(whole(&scene, &store), expected);
        finished += 1;
    }
    println!("{killed} kills, {resumed} of captures that went on; {finished} whole captures");
    // Every kill lies in the history of one of the captures that became the undisturbed one.
    let tally = Tally {
        identical: killed,
        ..Tally::default()
    };
    tally.row("kill -9", kills);
}

#[test]
fn a_resume_reads_no_more_than_what_came_after_the_last_checkpoint() {
    let scene = scene();
    let store = scene.store("store");
    scene.interrupted(&store, 4);
    let output = scene.capture(&store, &["--resume"]);
    assert!(output.status.success(), "{}", words(&output));
    let said = words(&output);
    let line = said.lines().find(|line| line.contains("going on after"));
    // Four checkpoints of 64 MiB and more.
    let megabytes: f64 = line
        .and_then(|line| line.split("going on after ").nth(1)?.split(' ').next())
        .and_then(|number| number.parse().ok())
        .unwrap_or_else(|| panic!("{said}"));
    assert!(megabytes > 256.0, "{said}");
    whole(&scene, &store);
}

#[test]
fn a_source_that_was_written_to_meanwhile_is_refused() {
    let scene = scene();
    let store = scene.store("store");
    scene.interrupted(&store, 3);
    let image = entry(&store, ".partial").unwrap().join("disk-0.qcow2");
    let before = fs::read(&image).unwrap();
    let file = File::options().write(true).open(&scene.disk).unwrap();
    let mut first = vec![0; 4096];
    File::open(&scene.disk)
        .unwrap()
        .read_exact_at(&mut first, 0)
        .unwrap();
    let changed: Vec<u8> = first.iter().map(|byte| !byte).collect();
    file.write_all_at(&changed, 0).unwrap();
    let output = scene.capture(&store, &["--resume"]);
    assert_eq!(output.status.code(), Some(4), "{}", words(&output));
    assert!(
        words(&output).contains("written to since"),
        "{}",
        words(&output)
    );
    // And nothing was lost: with the source as it was, it goes on.
    let checkpointed = fs::read(&image).unwrap();
    assert!(before.starts_with(&checkpointed));
    file.write_all_at(&first, 0).unwrap();
    let output = scene.capture(&store, &["--resume"]);
    assert!(output.status.success(), "{}", words(&output));
    whole(&scene, &store);
}

#[test]
fn what_cannot_be_gone_on_with_is_refused_with_the_reason() {
    let scene = scene();
    let store = scene.store("store");
    let output = scene.capture(&store, &["--resume"]);
    assert_eq!(output.status.code(), Some(4), "{}", words(&output));
    assert!(words(&output).contains("no interrupted capture"));

    scene.interrupted(&store, 3);
    let image = entry(&store, ".partial").unwrap().join("disk-0.qcow2");
    File::options()
        .write(true)
        .open(&image)
        .unwrap()
        .set_len(100 * MIB)
        .unwrap();
    let output = scene.capture(&store, &["--resume"]);
    assert_eq!(output.status.code(), Some(4), "{}", words(&output));
    assert!(
        words(&output).contains("did not keep"),
        "{}",
        words(&output)
    );
}

#[test]
fn a_journal_that_was_cut_goes_on_from_an_earlier_checkpoint() {
    let scene = scene();
    let store = scene.store("store");
    scene.interrupted(&store, 4);
    let journal = entry(&store, ".journal").unwrap().join("disk-0.journal");
    let text = fs::read(&journal).unwrap();
    fs::write(&journal, &text[..text.len() - 7]).unwrap();
    let output = scene.capture(&store, &["--resume"]);
    assert!(output.status.success(), "{}", words(&output));
    whole(&scene, &store);
    assert!(entry(&store, ".journal").is_none());
}

#[test]
fn an_interrupted_capture_is_told_of_and_left_alone() {
    let scene = scene();
    let store = scene.store("store");
    scene.interrupted(&store, 2);
    let before = entry(&store, ".partial").unwrap();
    let output = scene.capture(&store, &[]);
    assert!(output.status.success(), "{}", words(&output));
    assert!(words(&output).contains("--resume"), "{}", words(&output));
    assert_eq!(entry(&store, ".partial"), Some(before));
}
