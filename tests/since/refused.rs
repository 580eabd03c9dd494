//! What cannot be built on is refused before anything is written, and a chain that was taken apart
//! is not called right.

use crate::scene::{MIB, Scene, flip, haulier, image, import, manifest, run, text, verify, words};
use std::fs::{self, File};
use std::path::Path;

/// All names in a folder, and below it.
fn names(folder: &Path) -> String {
    run("find", &[text(folder)])
}

/// The capture is refused with these words, and nothing is written.
fn refused(scene: &Scene, store: &Path, more: &[&str], expected: &str) {
    let before = names(store);
    let output = scene.try_capture(store, more);
    let said = words(&output);
    assert_eq!(output.status.code(), Some(4), "{more:?}: {said}");
    assert!(said.contains(expected), "{more:?}: {said}");
    assert_eq!(names(store), before);
}

#[test]
fn what_cannot_be_built_on_is_refused_before_anything_is_written() {
    let scene = Scene::new();
    let store = scene.store("store");
    refused(
        &scene,
        &store,
        &["--since", "last"],
        "no whole capture of m",
    );
    refused(&scene, &store, &["--since", "2020"], "no such capture");
    let (first, _) = scene.capture(&store, &[]);
    let name = first.file_name().unwrap().to_str().unwrap();

    let other = scene.store("other");
    refused(&scene, &other, &["--since", text(&first)], "on one medium");
    let as_x = ["--name", "x", "--since", text(&first)];
    refused(
        &scene,
        &store,
        &as_x,
        "a capture of m, and this machine is called x",
    );

    let unfinished = store.join("m/2020-01-01T000000Z.partial");
    fs::create_dir(&unfinished).unwrap();
    let since = ["--since", "m/2020-01-01T000000Z.partial"];
    refused(&scene, &store, &since, "not a finished capture");
    fs::remove_dir(&unfinished).unwrap();

    // Another size, and another name.
    let file = File::options().write(true).open(&scene.disk).unwrap();
    let size = file.metadata().unwrap().len();
    file.set_len(size + MIB).unwrap();
    refused(
        &scene,
        &store,
        &["--since", name],
        "bytes in sectors of 512 now",
    );
    file.set_len(size).unwrap();

    let machine = first.join("machine.json");
    let text = fs::read_to_string(&machine).unwrap();
    fs::write(&machine, format!("{text} ")).unwrap();
    refused(
        &scene,
        &store,
        &["--since", name],
        "machine.json is not what",
    );
    fs::write(&machine, text).unwrap();

    let sums = first.join("SHA256SUMS");
    flip(&sums, 3);
    refused(&scene, &store, &["--since", name], "contradict each other");
    flip(&sums, 3);

    // All three ways to name it.
    for word in [name.to_owned(), format!("m/{name}")] {
        let plan = ["plan", "--disk", scene.disk.to_str().unwrap(), "--to"];
        let more = [store.to_str().unwrap(), "--name", "m", "--since", &word];
        let output = haulier(&[&plan[..], &more[..]].concat());
        assert!(output.status.success(), "{}", words(&output));
        let said = String::from_utf8(output.stdout).unwrap();
        assert!(said.contains("second pass"), "{said}");
    }
}

#[test]
fn a_chain_that_is_too_long_is_refused() {
    let scene = Scene::new();
    let store = scene.store("store");
    scene.capture(&store, &[]);
    for _ in 0..15 {
        scene.capture(&store, &["--since", "last", "--no-verify"]);
    }
    refused(&scene, &store, &["--since", "last"], "16 is the most");
    assert!(verify(&store).0);
}

#[test]
fn an_earlier_capture_that_is_gone_or_another_is_named_and_nothing_is_imported() {
    let scene = Scene::new();
    let store = scene.store("store");
    let (first, _) = scene.capture(&store, &[]);
    scene.change();
    let (second, _) = scene.capture(&store, &["--since", "last"]);
    let name = first.file_name().unwrap().to_str().unwrap();
    let aside = scene.folder.path().join("aside");

    let expect = |expected: &str| {
        let (right, said) = verify(&second);
        assert!(!right);
        assert!(said.contains(name) && said.contains(expected), "{said}");
        let error = import(&scene, &second, "vm").unwrap_err();
        assert!(error.contains(name) && error.contains(expected), "{error}");
        assert!(!scene.folder.path().join("vm").exists());
        assert!(!scene.folder.path().join("vm.partial").exists());
    };
    fs::rename(&first, &aside).unwrap();
    expect("is missing");
    // Another capture of the same disk under its name.
    let other = scene.store("other");
    let (another, _) = scene.capture(&other, &[]);
    fs::rename(&another, &first).unwrap();
    expect("digest of its manifest is another");
    fs::remove_dir_all(&first).unwrap();
    fs::rename(&aside, &first).unwrap();
    assert!(verify(&second).0);

    // The right record with another image.
    let (image_of, kept) = (image(&first), scene.folder.path().join("image"));
    fs::rename(&image_of, &kept).unwrap();
    let error = import(&scene, &second, "vm").unwrap_err();
    assert!(error.contains(name), "{error}");
    assert!(!verify(&second).0);
    let blank = "-q -f qcow2 -o compression_type=zstd".split(' ');
    let blank: Vec<&str> = blank.collect();
    let mut create = vec!["create"];
    create.extend(blank);
    create.extend([text(&image_of), "240M"]);
    run("qemu-img", &create);
    assert!(!verify(&second).0);
    assert!(import(&scene, &second, "vm").is_err());
    fs::remove_file(&image_of).unwrap();
    fs::rename(&kept, &image_of).unwrap();
    assert!(verify(&second).0);
}

#[test]
fn a_backing_file_other_than_the_recorded_one_is_refused() {
    let scene = Scene::new();
    let store = scene.store("store");
    let (first, _) = scene.capture(&store, &[]);
    let (second, _) = scene.capture(&store, &["--since", "last"]);
    let secret = scene.folder.path().join("secret.qcow2");
    run(
        "qemu-img",
        &["create", "-q", "-f", "qcow2", text(&secret), "240M"],
    );
    let image_of = image(&second);
    let kept = fs::read(&image_of).unwrap();
    let rebase = ["rebase", "-q", "-u", "-F", "qcow2", "-b", text(&secret)];
    run("qemu-img", &[&rebase[..], &[text(&image_of)]].concat());
    let error = import(&scene, &second, "vm").unwrap_err();
    assert!(error.contains("backing file"), "{error}");
    let (right, said) = verify(&second);
    assert!(!right && said.contains("backing file"), "{said}");
    // As raw, QEMU would show the earlier image's own bytes to the guest.
    fs::write(&image_of, &kept).unwrap();
    let name = first.file_name().unwrap().to_str().unwrap();
    let same = format!("../{name}/disk-0.qcow2");
    let rebase = ["rebase", "-q", "-u", "-F", "raw", "-b", &same];
    run("qemu-img", &[&rebase[..], &[text(&image_of)]].concat());
    let error = import(&scene, &second, "vm").unwrap_err();
    assert!(error.contains("backing file"), "{error}");
    fs::write(&image_of, &kept).unwrap();
    import(&scene, &second, "vm").unwrap();
    assert!(manifest(&second)["disks"][0]["since"].is_object());
}
