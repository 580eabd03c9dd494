//! A second pass that is killed and gone on with becomes the undisturbed one.

use crate::scene::{MIB, Scene, image, manifest, noise, same_for_qemu, text, verify, words};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const DISK: u64 = 400 * MIB;

/// A disk of noise without a filesystem.
fn noisy() -> Scene {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let disk = folder.path().join("disk.img");
    let file = File::create(&disk).unwrap();
    file.set_len(DISK).unwrap();
    for at in (0..DISK).step_by(MIB as usize) {
        file.write_all_at(&noise(at, MIB), at).unwrap();
    }
    Scene { folder, disk }
}

fn journal(store: &Path) -> Option<PathBuf> {
    let entries = fs::read_dir(store.join("m")).ok()?;
    entries
        .map(|entry| entry.unwrap().path())
        .find(|path| text(path).ends_with(".journal"))
        .map(|folder| folder.join("disk-0.journal"))
}

#[test]
fn a_second_pass_that_was_killed_goes_on_over_the_same_capture() {
    let scene = noisy();
    let store = scene.store("store");
    let (first, _) = scene.capture(&store, &[]);
    // A cluster in each MiB is another, one is zero, and one is half zero.
    let file = File::options().write(true).open(&scene.disk).unwrap();
    for at in (0..DISK).step_by(MIB as usize) {
        file.write_all_at(&noise(at + 1, 512 << 10), at).unwrap();
        file.write_all_at(&vec![0; 96 << 10], at + (640 << 10))
            .unwrap();
    }
    let mut child = Command::new(env!("CARGO_BIN_EXE_haulier"))
        .args(["capture", "--disk", text(&scene.disk), "--to", text(&store)])
        .args(["--name", "m", "--since", "last"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let start = Instant::now();
    let lines = || {
        let text = journal(&store).and_then(|journal| fs::read(journal).ok());
        text.map_or(0, |text| text.iter().filter(|byte| **byte == b'\n').count())
    };
    while lines() < 2 {
        assert!(child.try_wait().unwrap().is_none(), "it ended by itself");
        assert!(start.elapsed() < Duration::from_secs(120));
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    child.wait().unwrap();

    // Over another one it is not gone on with; over the same it is, by its name or without a word.
    let other = store.join("m/2020-01-01T000000Z");
    fs::create_dir(&other).unwrap();
    let output = scene.try_capture(&store, &["--resume", "--since", text(&other)]);
    assert_eq!(output.status.code(), Some(4), "{}", words(&output));
    assert!(words(&output).contains("was begun with --since"));
    fs::remove_dir(&other).unwrap();
    let (second, said) = scene.capture(&store, &["--resume"]);
    assert!(said.contains("going on after"), "{said}");

    let (undisturbed, _) = scene.capture(&store, &["--since", text(&first)]);
    // Not bit for bit: how hard is compressed follows from what was waited for.
    same_for_qemu(&image(&second), &image(&undisturbed));
    let of = |capture: &Path, member: &str| manifest(capture)["disks"][0][member].clone();
    for member in ["chunks", "extents", "since", "source", "bad_ranges"] {
        assert_eq!(of(&second, member), of(&undisturbed, member), "{member}");
    }
    let (right, said) = verify(&second);
    assert!(right, "{said}");
    let (full, _) = scene.capture(&scene.store("other"), &[]);
    same_for_qemu(&image(&second), &image(&full));
}

#[test]
fn a_full_pass_that_was_interrupted_is_not_gone_on_with_as_a_second_one() {
    let scene = noisy();
    let store = scene.store("store");
    let (first, _) = scene.capture(&store, &[]);
    let mut child = Command::new(env!("CARGO_BIN_EXE_haulier"))
        .args(["capture", "--disk", text(&scene.disk), "--to", text(&store)])
        .args(["--name", "m"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    while journal(&store)
        .and_then(|journal| fs::metadata(journal).ok())
        .is_none_or(|m| m.len() < 99)
    {
        assert!(child.try_wait().unwrap().is_none(), "it ended by itself");
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let output = scene.try_capture(&store, &["--resume", "--since", text(&first)]);
    assert_eq!(output.status.code(), Some(4), "{}", words(&output));
    assert!(words(&output).contains("begun without --since"));
    scene.capture(&store, &["--resume"]);
}
