//! Second passes, through the real program: a real disk is captured, changed by the system's own
//! tools, and captured `--since`. QEMU reads the chain as the full capture of the same state, verify
//! proves it and finds every damage in either image, import makes one image of it.

mod refused;
mod resumed;
mod scene;

use scene::{
    FIRST, MIB, Scene, flip, image, import, import_to, manifest, noise, run, same_for_qemu, size,
    text, unmount, verify,
};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// The first filesystem of an image is clean, and its files have these digests.
fn files_in(scene: &Scene, image: &Path) -> String {
    let raw = scene.folder.path().join("raw");
    run(
        "qemu-img",
        &["convert", "-O", "raw", text(image), text(&raw)],
    );
    let partition = scene.folder.path().join("partition");
    let bytes = fs::read(&raw).unwrap();
    fs::write(
        &partition,
        &bytes[FIRST as usize..(FIRST + 160 * MIB) as usize],
    )
    .unwrap();
    run("e2fsck", &["-f", "-n", text(&partition)]);
    let root = scene.folder.path().join("mnt");
    run("mount", &["-o", "loop,ro", text(&partition), text(&root)]);
    let files = format!(
        "cd {} && find . -type f | sort | xargs sha256sum",
        text(&root)
    );
    let digests = run("sh", &["-c", &files]);
    unmount(&root);
    digests
}

fn backing(image: &Path) -> serde_json::Value {
    let info = run("qemu-img", &["info", "--output=json", text(image)]);
    let info: serde_json::Value = serde_json::from_str(&info).unwrap();
    info["backing-filename"].clone()
}

#[test]
fn a_second_pass_holds_what_changed_and_reads_as_the_disk_is_now() {
    let scene = Scene::new();
    let store = scene.store("store");
    let (first, _) = scene.capture(&store, &[]);
    scene.change();
    let (second, said) = scene.capture(&store, &["--since", "last"]);
    assert!(said.contains("second pass"), "{said}");
    let (full, _) = scene.capture(&scene.store("other"), &[]);

    same_for_qemu(&image(&second), &image(&full));
    let files = files_in(&scene, &image(&second));
    assert_eq!(files, files_in(&scene, &image(&full)));
    assert!(files.contains("./new") && !files.contains("./noise-1"));

    // 3.3 MiB of noise came; what else changed are the tables of the filesystem and of the disk.
    let (stored, all) = (size(&image(&second)), size(&image(&full)));
    assert!(stored < 7 * MIB, "{stored} of {all}");
    assert!(all > 40 * MIB);
    println!("{stored} bytes instead of {all}");

    // The record is that of the whole disk: the same as that of the full capture.
    let (of_second, of_full) = (manifest(&second), manifest(&full));
    for member in ["chunks", "extents", "regions", "virtual_size_bytes"] {
        assert_eq!(of_second["disks"][0][member], of_full["disks"][0][member]);
    }
    let since = &of_second["disks"][0]["since"];
    let name = first.file_name().unwrap().to_str().unwrap();
    assert_eq!(since["capture"], name);
    let digest = run("sha256sum", &[text(&first.join("manifest.json"))]);
    assert!(digest.starts_with(since["manifest_sha256"].as_str().unwrap()));
    assert_eq!(
        backing(&image(&second)),
        format!("../{name}/disk-0.qcow2").as_str()
    );

    let (right, said) = verify(&second);
    assert!(right, "{said}");
    assert!(said.contains(&format!("builds on {name}")), "{said}");
    assert!(said.contains(text(&first)), "{said}");
    assert!(verify(&store).0);

    let listed = scene::haulier(&["list", text(&store)]);
    let listed = String::from_utf8(listed.stdout).unwrap();
    assert!(
        listed.contains(&format!("second pass, needs {name}")),
        "{listed}"
    );
    assert!(listed.contains("needed by"), "{listed}");

    let flat = import(&scene, &second, "vm").unwrap();
    same_for_qemu(&flat, &image(&full));
    assert!(backing(&flat).is_null());
    // Nothing was compressed anew, and nothing of the first capture came along that is gone.
    assert!(size(&flat) < all + MIB, "{} {all}", size(&flat));
    // Other targets make one disk of both images as well.
    let raw = import_to(&scene, &second, "raw", "vm-raw").unwrap();
    let (raw, full_image) = (raw.join("disk-0.raw"), image(&full));
    let formats = ["compare", "-q", "-f", "raw", "-F", "qcow2"];
    run(
        "qemu-img",
        &[&formats[..], &[text(&raw), text(&full_image)]].concat(),
    );
    let proxmox = import_to(&scene, &second, "proxmox", "vm-proxmox").unwrap();
    same_for_qemu(&image(&proxmox), &image(&full));
}

#[test]
fn a_disk_that_did_not_change_costs_nothing() {
    let scene = Scene::new();
    let store = scene.store("store");
    let (first, _) = scene.capture(&store, &[]);
    let (second, _) = scene.capture(&store, &["--since", text(&first)]);
    same_for_qemu(&image(&second), &image(&first));
    assert!(size(&image(&second)) < MIB, "{}", size(&image(&second)));
    let (right, said) = verify(&second);
    assert!(right, "{said}");
    same_for_qemu(&import(&scene, &second, "vm").unwrap(), &image(&first));
}

#[test]
fn a_chain_of_three_and_of_three_compressions_is_one_disk() {
    let scene = Scene::new();
    let store = scene.store("store");
    let (_, _) = scene.capture(&store, &["--compression", "zlib"]);
    scene.change();
    let (second, _) = scene.capture(&store, &["--since", "last", "--compression", "none"]);
    scene.in_first(|root| {
        fs::write(root.join("third"), noise(70, 2 * MIB)).unwrap();
        fs::remove_file(root.join("new")).unwrap();
        fs::write(
            root.join("words"),
            "some words that compress ".repeat(40_000),
        )
        .unwrap();
    });
    let (third, _) = scene.capture(&store, &["--since", "last"]);
    let since = &manifest(&third)["disks"][0]["since"]["capture"];
    assert_eq!(*since, second.file_name().unwrap().to_str().unwrap());
    let (full, _) = scene.capture(&scene.store("other"), &[]);
    same_for_qemu(&image(&third), &image(&full));
    let (right, said) = verify(&third);
    assert!(right, "{said}");
    assert_eq!(said.matches(": right").count(), 3, "{said}");
    let flat = import(&scene, &third, "vm").unwrap();
    same_for_qemu(&flat, &image(&full));
    assert!(backing(&flat).is_null());
    assert_eq!(files_in(&scene, &flat), files_in(&scene, &image(&full)));
}

#[test]
fn one_flipped_bit_in_either_image_is_found_and_named() {
    let scene = Scene::new();
    let store = scene.store("store");
    let (first, _) = scene.capture(&store, &[]);
    scene.change();
    let (second, _) = scene.capture(&store, &["--since", "last"]);
    let mut found = 0;
    for capture in [&first, &second] {
        let image = image(capture);
        let end = size(&image);
        for turn in 0..12 {
            let byte = (end - 1) * turn / 11;
            flip(&image, byte);
            let (right, said) = verify(&second);
            assert!(!right, "byte {byte} of {} is unseen", image.display());
            let damaged = format!("{}: DAMAGED", capture.display());
            assert!(said.contains(&damaged), "byte {byte}: {said}");
            flip(&image, byte);
            found += 1;
        }
    }
    let (right, said) = verify(&second);
    assert!(right, "{said}");
    println!("{found} of {found} found");
}

#[test]
fn a_chunk_that_is_damaged_in_the_earlier_capture_is_stored_whole_with_a_warning() {
    let scene = Scene::new();
    let store = scene.store("store");
    let (first, _) = scene.capture(&store, &["--compression", "none"]);
    // What is changed on the disk, and what is damaged, lie in the same chunk, not the same cluster.
    let file = File::options()
        .read(true)
        .write(true)
        .open(&scene.disk)
        .unwrap();
    let raw = fs::read(&scene.disk).unwrap();
    let needle = &noise(4, 8 * MIB)[3 << 20..(3 << 20) + 512];
    let at = raw
        .windows(512)
        .step_by(512)
        .position(|w| w == needle)
        .unwrap() as u64
        * 512;
    let stored = fs::read(image(&first)).unwrap();
    let host = stored
        .windows(512)
        .step_by(512)
        .position(|w| w == needle)
        .unwrap() as u64
        * 512;
    let other = match (at >> 22) == ((at + (1 << 17)) >> 22) {
        true => at + (1 << 17),
        false => at - (1 << 17),
    };
    file.write_all_at(&noise(80, 512), other).unwrap();
    flip(&image(&first), host);
    let (second, said) = scene.capture(&store, &["--since", "last"]);
    assert!(said.contains("earlier capture is damaged"), "{said}");
    // A whole chunk, and its own proof holds although that of the earlier one does not.
    assert!(size(&image(&second)) > 4 * MIB);
    let (right, said) = verify(&second);
    assert!(!right);
    assert!(
        said.contains(&format!("{}: DAMAGED", first.display())),
        "{said}"
    );
    assert!(
        !said.contains(&format!("{}: DAMAGED", second.display())),
        "{said}"
    );
    let (full, _) = scene.capture(&scene.store("other"), &[]);
    same_for_qemu(&image(&second), &image(&full));
}
