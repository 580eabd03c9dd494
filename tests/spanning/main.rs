//! Captures over several media, through the real program: the stores are ext4 filesystems that are too
//! small for the disk. Each part is an image that QEMU calls clean; all parts, in any order, are the
//! disk; what is missing or damaged is named.

mod scene;

use scene::*;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

#[test]
fn three_parts_in_any_order_are_the_disk_and_a_missing_one_is_named() {
    let scene = Scene::new(&[100, 90, 200]);
    let disk_ = scene.file("disk.img");
    disk(&disk_, 220 * MIB, 1);
    let disks = [disk_.clone()];
    let said = scene.capture(&disks, &[]);
    assert!(said.contains("part 1 is whole"), "{said}");
    three_parts(&scene, &disk_);

    for order in [[2, 0, 1], [1, 2, 0]] {
        let (code, said) = scene.verify(&order);
        assert_eq!(code, Some(0), "{said}");
        let (code, said, out) = scene.import(&order, "vm");
        assert_eq!(code, Some(0), "{said}");
        is_the_disk(&out.join("disk-0.qcow2"), &disk_);
        fs::remove_dir_all(&out).unwrap();
    }
    let range = |number| {
        let range = manifest(&scene.part(number))["disks"][0]["range"].clone();
        format!("bytes {} to {} of {}", range[0], range[1], disk_.display())
    };
    let medium = |number: usize| format!("written to {}", scene.stores[number].display());
    // What is at hand is proven; what is missing is named.
    for (at_hand, missing) in [
        (
            vec![0, 2],
            vec![format!("part 2 of 3 (holds {}", range(1)), medium(1)],
        ),
        (
            vec![2, 1],
            vec![format!("part 1 of 3 (holds {}", range(0)), medium(0)],
        ),
        (vec![2], vec!["part 1 of 3".into(), "part 2 of 3".into()]),
        (
            vec![1, 0],
            vec!["what follows part 2 is missing".into(), range(2)],
        ),
        (vec![0], vec!["what follows part 1 is missing".into()]),
    ] {
        let (code, said) = scene.verify(&at_hand);
        assert_eq!(code, Some(1), "{said}");
        assert_eq!(said.matches(": right,").count(), at_hand.len(), "{said}");
        let (code, error, out) = scene.import(&at_hand, "vm");
        assert_eq!(code, Some(4), "{error}");
        assert!(!out.exists());
        for words in missing {
            assert!(said.contains(&words), "{words}: {said}");
            assert!(error.contains(&words), "{words}: {error}");
        }
    }
    let listed = haulier(&["list", text(&scene.stores[1])]);
    let listed = String::from_utf8(listed.stdout).unwrap();
    assert!(
        listed.contains("part 2, needs the parts that follow"),
        "{listed}"
    );
}

#[test]
fn one_flipped_bit_in_one_part_is_found_and_not_imported() {
    let scene = Scene::new(&[100, 90, 200]);
    let disk_ = scene.file("disk.img");
    disk(&disk_, 220 * MIB, 2);
    scene.capture(std::slice::from_ref(&disk_), &[]);
    for number in 0..3 {
        let image = scene.part(number).join("disk-0.qcow2");
        let end = fs::metadata(&image).unwrap().len();
        for byte in [5, end / 3, end / 2, end - 1] {
            flip(&image, byte);
            let (code, said) = scene.verify(&[2, 1, 0]);
            assert_eq!(code, Some(1), "byte {byte} of part {number}: {said}");
            let damaged = format!("{}: DAMAGED", scene.part(number).display());
            assert!(said.contains(&damaged), "byte {byte}: {said}");
            if byte == end / 2 {
                let (code, said, out) = scene.import(&[0, 1, 2], "vm");
                assert_eq!(code, Some(1), "{said}");
                assert!(!out.exists());
            }
            flip(&image, byte);
        }
    }
    let (code, said) = scene.verify(&[0, 1, 2]);
    assert_eq!(code, Some(0), "{said}");
}

#[test]
fn a_part_of_another_capture_and_a_changed_one_do_not_pass() {
    let scene = Scene::new(&[100, 300]);
    let disk_ = scene.file("disk.img");
    disk(&disk_, 160 * MIB, 3);
    scene.capture(std::slice::from_ref(&disk_), &[]);
    let first = scene.file("first");
    run("cp", &["-a", text(&scene.part(0)), text(&first)]);
    fs::remove_dir_all(scene.part(0)).unwrap();
    let second = scene.part(1);
    let aside = scene.file("second");
    run("mv", &[text(&second), text(&aside)]);
    // The same disk once more: the parts are of another set.
    scene.capture(std::slice::from_ref(&disk_), &[]);
    let output = haulier(&["verify", text(&first), text(&scene.part(1))]);
    assert_eq!(output.status.code(), Some(1));
    let said = words(&output);
    assert!(
        said.contains("what follows part 1") && said.contains("part 1 of 2"),
        "{said}"
    );
    let vm = scene.file("vm");
    let import = ["import", "--to", "qemu", "--out", text(&vm)];
    let output = haulier(&[&import[..], &[text(&first), text(&scene.part(1))]].concat());
    assert_eq!(output.status.code(), Some(4), "{}", words(&output));

    // The first part, with a manifest that was made anew.
    let manifest = fs::read_to_string(first.join("manifest.json")).unwrap();
    let other = manifest.replacen("\"version\":1,", "\"version\":1, ", 1);
    assert_ne!(manifest, other);
    fs::write(first.join("manifest.json"), other).unwrap();
    let output = haulier(&[&import[..], &[text(&first), text(&aside)]].concat());
    assert_eq!(output.status.code(), Some(4));
    assert!(
        words(&output).contains("digest of its manifest is another"),
        "{}",
        words(&output)
    );
    fs::write(first.join("manifest.json"), manifest).unwrap();
    let output = haulier(&[&import[..], &[text(&aside), text(&first)]].concat());
    assert!(output.status.success(), "{}", words(&output));
    is_the_disk(&vm.join("disk-0.qcow2"), &disk_);
}

#[test]
fn two_disks_are_cut_where_the_media_end() {
    let scene = Scene::new(&[100, 300]);
    let disks = [scene.file("a.img"), scene.file("b.img")];
    disk(&disks[0], 48 * MIB, 4);
    disk(&disks[1], 120 * MIB + 512, 5);
    scene.capture(&disks, &[]);
    let files = |number| {
        let manifest = manifest(&scene.part(number));
        let disks = manifest["disks"].as_array().unwrap().clone();
        disks
            .iter()
            .map(|disk| disk["file"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(files(0), ["disk-0.qcow2", "disk-1.qcow2"]);
    assert_eq!(files(1), ["disk-1.qcow2"]);
    let (code, said) = scene.verify(&[1, 0]);
    assert_eq!(code, Some(0), "{said}");
    let (code, said, out) = scene.import(&[1, 0], "vm");
    assert_eq!(code, Some(0), "{said}");
    is_the_disk(&out.join("disk-0.qcow2"), &disks[0]);
    is_the_disk(&out.join("disk-1.qcow2"), &disks[1]);
}

#[test]
fn what_fits_on_the_first_medium_is_no_part_and_what_fits_on_none_is_refused() {
    let scene = Scene::new(&[120, 60]);
    let small = scene.file("small.img");
    disk(&small, 40 * MIB, 6);
    scene.capture(std::slice::from_ref(&small), &[]);
    assert!(manifest(&scene.part(0)).get("part").is_none());
    assert!(!scene.stores[1].join("m").exists());
    fs::remove_dir_all(scene.stores[0].join("m")).unwrap();

    let large = scene.file("large.img");
    disk(&large, 400 * MIB, 7);
    let output = haulier(&scene.words(&[large], &[]));
    assert_eq!(output.status.code(), Some(4), "{}", words(&output));
    assert!(words(&output).contains("no room on"), "{}", words(&output));
    assert!(scene.stores.iter().all(|store| !store.join("m").exists()));
}

#[test]
fn a_plan_counts_the_room_of_all_media_that_are_named() {
    let scene = Scene::new(&[100, 160]);
    let image = scene.file("disk.img");
    disk(&image, 200 * MIB, 8);
    let [first, second] = [0, 1].map(|number| text(&scene.stores[number]));
    let plan = |more: &[&str]| {
        let words = ["plan", "--name", "m", "--disk", text(&image), "--to", first];
        haulier(&[&words, more].concat())
    };
    let alone = plan(&[]);
    assert_eq!(alone.status.code(), Some(4), "{}", words(&alone));
    assert!(words(&alone).contains("no room on"), "{}", words(&alone));
    let both = plan(&["--to", second]);
    assert_eq!(both.status.code(), Some(0), "{}", words(&both));
    // The capture says the same.
    scene.capture(std::slice::from_ref(&image), &[]);
    assert_eq!(manifest(&scene.part(1))["part"]["number"], 2);

    let since = plan(&["--to", second, "--since", "last"]);
    assert_eq!(since.status.code(), Some(4), "{}", words(&since));
    assert!(
        words(&since).contains("several are named"),
        "{}",
        words(&since)
    );
}

/// How many lines the journal of the capture in a store has.
fn lines(store: &Path) -> usize {
    let entries = fs::read_dir(store.join("m"));
    let mut entries = entries
        .into_iter()
        .flatten()
        .map(|entry| entry.unwrap().path());
    let journal = entries.find(|path| text(path).ends_with(".journal"));
    let text = journal.and_then(|journal| fs::read(journal.join("disk-0.journal")).ok());
    text.map_or(0, |text| text.iter().filter(|byte| **byte == b'\n').count())
}

/// Captures, and kills that as soon as what it wrote to `store` has a checkpoint.
fn kill_behind_a_checkpoint(arguments: &[impl AsRef<std::ffi::OsStr>], store: &Path) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_haulier"))
        .args(arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let start = Instant::now();
    while lines(store) < 2 {
        assert!(child.try_wait().unwrap().is_none(), "it ended by itself");
        assert!(start.elapsed() < Duration::from_secs(120));
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_capture_that_was_killed_in_its_second_part_goes_on_there() {
    let scene = Scene::new(&[100, 160, 200]);
    let disk_ = scene.file("disk.img");
    disk(&disk_, 300 * MIB, 8);
    let disks = [disk_.clone()];
    kill_behind_a_checkpoint(&scene.words(&disks, &[]), &scene.stores[1]);
    let first = fs::read(scene.part(0).join("manifest.json")).unwrap();
    let said = scene.capture(&disks, &["--resume"]);
    assert!(said.contains("going on after"), "{said}");
    assert_eq!(
        fs::read(scene.part(0).join("manifest.json")).unwrap(),
        first
    );
    three_parts(&scene, &disk_);
    let (code, said, out) = scene.import(&[0, 1, 2], "vm");
    assert_eq!(code, Some(0), "{said}");
    is_the_disk(&out.join("disk-0.qcow2"), &disk_);
}

#[test]
fn a_full_medium_goes_on_on_one_that_is_named_later() {
    let scene = Scene::new(&[100, 200]);
    let disk_ = scene.file("disk.img");
    disk(&disk_, 160 * MIB, 9);
    let (first, second) = (text(&scene.stores[0]), text(&scene.stores[1]));
    let base = [
        "capture",
        "--name",
        "m",
        "--disk",
        text(&disk_),
        "--to",
        first,
    ];
    // As if the samples had promised too much: the medium is filled meanwhile.
    let both = [&base[..], &["--to", second]].concat();
    kill_behind_a_checkpoint(&both, &scene.stores[0]);
    // Alone it is too small even for the rest.
    let alone = haulier(&[&base[..], &["--resume"]].concat());
    assert_eq!(alone.status.code(), Some(4), "{}", words(&alone));
    let output = haulier(&[&base[..], &["--to", second, "--resume"]].concat());
    assert!(output.status.success(), "{}", words(&output));
    assert!(
        words(&output).contains("going on after"),
        "{}",
        words(&output)
    );
    let (code, said, out) = scene.import(&[1, 0], "vm");
    assert_eq!(code, Some(0), "{said}");
    is_the_disk(&out.join("disk-0.qcow2"), &disk_);

    // All of it is there: nothing to go on with.
    let output = haulier(&[&base[..], &["--to", second, "--resume"]].concat());
    assert_eq!(output.status.code(), Some(4), "{}", words(&output));
    assert!(
        words(&output).contains("no interrupted capture"),
        "{}",
        words(&output)
    );

    // Between two parts: the second one is gone before anything of it was durable.
    fs::remove_dir_all(scene.stores[1].join("m")).unwrap();
    let output = haulier(&[&base[..], &["--resume"]].concat());
    assert_eq!(output.status.code(), Some(4), "{}", words(&output));
    assert!(
        words(&output).contains("no other store is named"),
        "{}",
        words(&output)
    );
    let output = haulier(&[&base[..], &["--to", second, "--resume"]].concat());
    assert!(output.status.success(), "{}", words(&output));
    let (code, said) = scene.verify(&[1, 0]);
    assert_eq!(code, Some(0), "{said}");

    // And on a disk that was written to meanwhile it does not.
    fs::remove_dir_all(scene.stores[1].join("m")).unwrap();
    let file = File::options().write(true).open(&disk_).unwrap();
    file.write_all_at(&noise(77, 4096), 0).unwrap();
    let output = haulier(&[&base[..], &["--to", second, "--resume"]].concat());
    assert_eq!(output.status.code(), Some(4), "{}", words(&output));
    assert!(
        words(&output).contains("written to since"),
        "{}",
        words(&output)
    );
}

#[test]
fn a_person_at_a_terminal_is_asked_for_the_next_medium() {
    let scene = Scene::new(&[100, 200]);
    let disk_ = scene.file("disk.img");
    disk(&disk_, 160 * MIB, 10);
    let (first, second) = (text(&scene.stores[0]), text(&scene.stores[1]));
    let haulier_ = env!("CARGO_BIN_EXE_haulier");
    let command = format!(
        "{haulier_} capture --name m --disk {} --to {first}",
        text(&disk_)
    );
    // Without a yes nothing is written.
    let typed = |answers: &str| {
        let script = format!("printf '{answers}' | script -qec '{command}' /dev/null");
        Command::new("sh").args(["-c", &script]).output().unwrap()
    };
    let output = typed("no\\n");
    assert_eq!(output.status.code(), Some(4), "{output:?}");
    assert!(!scene.stores[0].join("m").exists());
    let output = typed(&format!("yes\\nno-such-directory\\n{second}\\n"));
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
    assert!(
        said.contains("Type yes to begin") && said.contains("is not a directory"),
        "{said}"
    );
    let (code, said) = scene.verify(&[1, 0]);
    assert_eq!(code, Some(0), "{said}");
    let (code, said, out) = scene.import(&[1, 0], "vm");
    assert_eq!(code, Some(0), "{said}");
    is_the_disk(&out.join("disk-0.qcow2"), &disk_);
}

#[test]
fn a_fresh_capture_beside_the_first_part_of_another_is_not_held_up() {
    let scene = Scene::new(&[120, 200]);
    let disk_ = scene.file("disk.img");
    disk(&disk_, 160 * MIB, 11);
    scene.capture(std::slice::from_ref(&disk_), &[]);
    fs::remove_dir_all(scene.stores[1].join("m")).unwrap();
    let small = scene.file("small.img");
    disk(&small, 8 * MIB, 12);
    let first = text(&scene.stores[0]);
    let part = scene.part(0);
    fs::remove_file(part.join("disk-0.qcow2")).unwrap();
    let output = haulier(&[
        "capture",
        "--name",
        "m",
        "--disk",
        text(&small),
        "--to",
        first,
    ]);
    assert!(output.status.success(), "{}", words(&output));
}

#[test]
fn a_medium_that_others_fill_meanwhile_ends_its_part_earlier() {
    let scene = Scene::new(&[260, 300]);
    let disk_ = scene.file("disk.img");
    disk(&disk_, 400 * MIB, 13);
    let mut child = Command::new(env!("CARGO_BIN_EXE_haulier"))
        .args(scene.words(std::slice::from_ref(&disk_), &[]))
        .stdout(Stdio::null())
        .stderr(File::create(scene.file("said")).unwrap())
        .spawn()
        .unwrap();
    let start = Instant::now();
    while lines(&scene.stores[0]) < 2 {
        assert!(child.try_wait().unwrap().is_none(), "it ended by itself");
        assert!(start.elapsed() < Duration::from_secs(120));
        std::thread::sleep(Duration::from_millis(1));
    }
    // All that is left at once, as nearly as can be.
    let first = text(&scene.stores[0]);
    let filler = scene.stores[0].join("filler");
    let taken = (0..200).any(|_| {
        let free = run("df", &["--output=avail", "-BM", first]);
        let free = free
            .lines()
            .nth(1)
            .and_then(|line| line.trim().strip_suffix('M'));
        let free: u64 = free.and_then(|free| free.parse().ok()).unwrap();
        let size = format!("{}M", free.saturating_sub(6).max(1));
        let tool = Command::new("fallocate")
            .args(["-l", &size, text(&filler)])
            .output();
        tool.unwrap().status.success()
    });
    assert!(taken);
    let status = child.wait().unwrap();
    let said = fs::read_to_string(scene.file("said")).unwrap();
    assert!(status.success(), "{said}");
    assert!(said.contains("No space left on device"), "{said}");
    assert!(said.contains("part 1 is whole"), "{said}");
    let (code, said) = scene.verify(&[1, 0]);
    assert_eq!(code, Some(0), "{said}");
    let (code, said, out) = scene.import(&[1, 0], "vm");
    assert_eq!(code, Some(0), "{said}");
    is_the_disk(&out.join("disk-0.qcow2"), &disk_);
}
