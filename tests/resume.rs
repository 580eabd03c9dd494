//! Captures that are interrupted and gone on with, through the real program: killed at random
//! moments, on a medium that fills up, with a source that changed meanwhile. In the end the image
//! is that of an undisturbed capture, or there is a sentence that says why not.
//!
//! `HAULIER_KILLS` says how many kills there are (8 if not set).

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

const MIB: u64 = 1 << 20;
const DISK: u64 = 448 * MIB;

fn haulier(args: &[&str]) -> Output {
    command(args).output().unwrap()
}

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_haulier"));
    command
        .args(args)
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    command
}

fn words(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Pseudo-random numbers (splitmix64).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn noise(&mut self, len: u64) -> Vec<u8> {
        (0..len / 8)
            .flat_map(|_| self.next().to_le_bytes())
            .collect()
    }
}

/// A disk without a filesystem: noise, text and zeros in turns of 1 MiB.
fn disk(folder: &Path) -> PathBuf {
    let path = folder.join("disk.img");
    let file = File::create(&path).unwrap();
    file.set_len(DISK).unwrap();
    let mut numbers = Numbers(1);
    for at in (0..DISK).step_by(MIB as usize) {
        let piece = match numbers.next() % 8 {
            0 => continue,
            1 => b"haulier ".repeat(MIB as usize / 8),
            _ => numbers.noise(MIB),
        };
        file.write_all_at(&piece, at).unwrap();
    }
    path
}

struct Scene {
    folder: tempfile::TempDir,
    disk: PathBuf,
}

impl Scene {
    fn new() -> Self {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let disk = disk(folder.path());
        Self { folder, disk }
    }

    fn store(&self, name: &str) -> PathBuf {
        let store = self.folder.path().join(name);
        fs::create_dir(&store).unwrap();
        store
    }

    fn words<'a>(&'a self, store: &'a Path, more: &[&'a str]) -> Vec<&'a str> {
        let mut words = vec![
            "capture",
            "--disk",
            self.disk.to_str().unwrap(),
            "--to",
            store.to_str().unwrap(),
            "--name",
            "m",
        ];
        words.extend(more);
        words
    }

    fn capture(&self, store: &Path, more: &[&str]) -> Output {
        haulier(&self.words(store, more))
    }

    fn begin(&self, store: &Path, more: &[&str]) -> Child {
        command(&self.words(store, more))
            .stderr(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap()
    }

    /// A capture that is interrupted as soon as its journal has `checkpoints`.
    fn interrupted(&self, store: &Path, checkpoints: usize) {
        let mut child = self.begin(store, &[]);
        let start = Instant::now();
        while lines(store) <= checkpoints {
            assert!(child.try_wait().unwrap().is_none(), "it ended by itself");
            assert!(start.elapsed() < Duration::from_secs(120));
            std::thread::sleep(Duration::from_millis(1));
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

/// The only entry of the machine's folder with this end.
fn entry(store: &Path, end: &str) -> Option<PathBuf> {
    let entries = fs::read_dir(store.join("m")).ok()?;
    let mut found = entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.to_str().unwrap().ends_with(end));
    let first = found.next();
    assert!(found.next().is_none());
    first
}

/// How many lines the journal has.
fn lines(store: &Path) -> usize {
    entry(store, ".journal")
        .and_then(|folder| fs::read(folder.join("disk-0.journal")).ok())
        .map_or(0, |text| text.iter().filter(|byte| **byte == b'\n').count())
}

/// The one whole capture, proven by itself and by QEMU.
fn whole(scene: &Scene, store: &Path) -> serde_json::Value {
    let capture = entry(store, "Z").expect("a whole capture");
    // A journal may be left by one that was killed behind the commit; the next capture removes it.
    assert!(entry(store, ".partial").is_none());
    let verified = haulier(&["verify", capture.to_str().unwrap()]);
    assert!(verified.status.success(), "{}", words(&verified));
    let image = capture.join("disk-0.qcow2");
    for args in [
        vec!["check", "-q", image.to_str().unwrap()],
        vec![
            "compare",
            "-q",
            image.to_str().unwrap(),
            scene.disk.to_str().unwrap(),
        ],
    ] {
        let output = Command::new("qemu-img").args(&args).output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", words(&output));
    }
    let manifest = fs::read(capture.join("manifest.json")).unwrap();
    let mut manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
    // It began when it was begun, however often it was gone on with.
    let started = manifest["started"].as_str().unwrap().replace(':', "");
    let name = capture.file_name().unwrap().to_str().unwrap();
    assert_eq!(started[..17], name[..17], "{started} {name}");
    manifest["disks"][0]["chunks"].take()
}

#[test]
fn a_capture_that_is_killed_again_and_again_becomes_the_undisturbed_one() {
    let scene = Scene::new();
    let undisturbed = scene.store("undisturbed");
    let start = Instant::now();
    let output = scene.capture(&undisturbed, &[]);
    assert!(output.status.success(), "{}", words(&output));
    let took = start.elapsed();
    let expected = whole(&scene, &undisturbed);

    let kills: u32 = std::env::var("HAULIER_KILLS").map_or(8, |text| text.parse().unwrap());
    let store = scene.store("killed");
    let mut numbers = Numbers(u64::from(kills));
    let (mut killed, mut resumed, mut finished) = (0, 0, 0);
    while killed < kills {
        let going_on = entry(&store, ".partial").is_some();
        let more: &[&str] = if going_on { &["--resume"] } else { &[] };
        let mut child = scene.begin(&store, more);
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
}

#[test]
fn a_resume_reads_no_more_than_what_came_after_the_last_checkpoint() {
    let scene = Scene::new();
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
    let scene = Scene::new();
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
    let scene = Scene::new();
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
    let scene = Scene::new();
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
    let scene = Scene::new();
    let store = scene.store("store");
    scene.interrupted(&store, 2);
    let before = entry(&store, ".partial").unwrap();
    let output = scene.capture(&store, &[]);
    assert!(output.status.success(), "{}", words(&output));
    assert!(words(&output).contains("--resume"), "{}", words(&output));
    assert_eq!(entry(&store, ".partial"), Some(before));
}
