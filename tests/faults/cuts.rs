//! Power cuts, hundreds out of one capture: QEMU's `blklogwrites` keeps what a stick is given,
//! write by write and flush by flush, while a capture, the kill of it and its resume run. The stick
//! is then made again as a power cut at a moment leaves it: what was flushed is there, what
//! followed is kept, lost or torn by chance. From each such stick the capture has to go on to the
//! undisturbed image.
//!
//! `HAULIER_STICK_CUTS` says how many cuts (4 if not set: one of each sort).

use crate::capture_support::{
    MIB, Scene, Tally, entry, lines, mixed_disk, nothing_is_whole, number, whole, words,
};
use crate::log::{Cut, Log};
use crate::medium::{Medium, format, root};
use crate::qsd::{Shown, file_node};
use fastrand::Rng;
use serde_json::json;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

const DISK: u64 = 288 * MIB;
const STICK: u64 = 448 * MIB;

/// Captures onto a stick, with a kill behind the second checkpoint; returns the log of all writes.
fn record(scene: &Scene, image: &Path) -> Log {
    let log = scene.path("log");
    File::create(&log).unwrap();
    let nodes = [
        file_node("stick", image),
        file_node("log", &log),
        json!({"driver": "blklogwrites", "node-name": "top", "file": "stick", "log": "log",
               "log-sector-size": 512}),
    ];
    let shown = Shown::new(&nodes, true, &scene.path("shown.img"));
    let stick = Medium::mount(&shown.file, &scene.path("stick"), &[]);
    let mut child = scene.begin(&stick.store, &[], Stdio::null());
    let start = Instant::now();
    while lines(&stick.store) < 3 {
        assert!(child.try_wait().unwrap().is_none(), "it ended by itself");
        assert!(start.elapsed() < Duration::from_secs(300));
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let output = scene.capture(&stick.store, &["--resume"]);
    assert!(output.status.success(), "{}", words(&output));
    stick.unmount();
    shown.settle();
    Log::open(&log).unwrap()
}

fn copy(from: &Path, to: &Path) {
    root(
        "cp",
        &[
            "--sparse=always",
            from.to_str().unwrap(),
            to.to_str().unwrap(),
        ],
    );
}

#[test]
fn a_capture_goes_on_from_every_stick_that_a_power_cut_leaves() {
    let cuts = number("HAULIER_STICK_CUTS", 4) as usize;
    let scene = Scene::new(|path| mixed_disk(path, DISK));
    let store = scene.store("undisturbed");
    let output = scene.capture(&store, &[]);
    assert!(output.status.success(), "{}", words(&output));
    let expected = whole(&scene, &store);

    let image = scene.path("stick.img");
    format(&image, STICK);
    // What everything is durable of, up to a cut, and moves on with them.
    let base = scene.path("base.img");
    copy(&image, &base);
    let log = record(&scene, &image);
    println!("{} requests, {} flushes", log.len(), log.flushes());
    let mut rng = Rng::with_seed(cuts as u64);
    let mut moments: Vec<usize> = (0..cuts).map(|_| rng.usize(1..=log.len())).collect();
    moments.sort_unstable();
    let on_base = File::options().write(true).open(&base).unwrap();
    let mut durable = 0;
    let mut tally = Tally::default();
    let (mut went_on, mut from_the_start, mut was_whole) = (0, 0, 0);
    for (turn, moment) in moments.into_iter().enumerate() {
        let from = log.durable(moment);
        log.apply(&on_base, durable, from).unwrap();
        durable = from;
        let cut_stick: PathBuf = scene.path("cut.img");
        copy(&base, &cut_stick);
        let on_cut = File::options().write(true).open(&cut_stick).unwrap();
        let cut = Cut::ALL[turn % Cut::ALL.len()];
        log.cut(&on_cut, from, moment, cut, &mut rng).unwrap();
        drop(on_cut);

        let what = format!("cut after request {moment} (flushed: {from}), {cut:?}");
        let stick = Medium::mount(&cut_stick, &scene.path("stick"), &[]);
        if entry(&stick.store, "Z").is_some() {
            was_whole += 1;
        } else {
            nothing_is_whole(&stick.store);
            let going_on = entry(&stick.store, ".journal").is_some();
            let more: &[&str] = if going_on { &["--resume"] } else { &[] };
            let output = scene.capture(&stick.store, more);
            let said = words(&output);
            assert!(output.status.success(), "{what}: {said}");
            let went = said.contains("going on after") || said.contains("captured already");
            went_on += u32::from(went);
            from_the_start += u32::from(!went);
        }
        assert_eq!(whole(&scene, &stick.store), expected, "{what}");
        stick.unmount();
        root("e2fsck", &["-fn", cut_stick.to_str().unwrap()]);
        tally.identical += 1;
    }
    println!("{was_whole} were whole, {went_on} went on, {from_the_start} began anew");
    tally.row("power cut (a stick's writes replayed)", cuts as u32);
}
