//! Stores that are too small for the disks, and what is asked of the parts in them.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

pub(crate) const MIB: u64 = 1 << 20;

pub(crate) fn run(tool: &str, args: &[&str]) -> String {
    let output = Command::new(tool)
        .args(args)
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .output()
        .unwrap();
    assert!(output.status.success(), "{tool} {args:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

pub(crate) fn haulier(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_haulier"))
        .args(args)
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .output()
        .unwrap()
}

pub(crate) fn words(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

pub(crate) fn noise(seed: u64, len: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    (0..len / 8)
        .flat_map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()
        })
        .collect()
}

/// A disk of noise, words and nothing, in turns of 1 MiB.
pub(crate) fn disk(path: &Path, bytes: u64, seed: u64) {
    let file = File::create(path).unwrap();
    file.set_len(bytes).unwrap();
    for at in (0..bytes).step_by(MIB as usize) {
        match at / MIB % 8 {
            3 => {}
            5 => file.write_all_at(&b"haulier ".repeat(1 << 17), at).unwrap(),
            _ => file.write_all_at(&noise(seed + at, MIB), at).unwrap(),
        }
    }
}

/// Stores on media of their own, unmounted in the end.
pub(crate) struct Scene {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) stores: Vec<PathBuf>,
}

impl Scene {
    pub(crate) fn new(megabytes: &[u64]) -> Self {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let mut stores = Vec::new();
        for (number, size) in megabytes.iter().enumerate() {
            let medium = folder.path().join(format!("stick-{number}.img"));
            File::create(&medium).unwrap().set_len(size * MIB).unwrap();
            run("mkfs.ext4", &["-q", "-F", "-m", "0", text(&medium)]);
            let store = folder.path().join(format!("stick-{number}"));
            fs::create_dir(&store).unwrap();
            run("mount", &["-o", "loop", text(&medium), text(&store)]);
            stores.push(store);
        }
        Self { folder, stores }
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn words<'a>(&'a self, disks: &'a [PathBuf], more: &[&'a str]) -> Vec<&'a str> {
        let mut words = vec!["capture", "--name", "m"];
        words.extend(disks.iter().flat_map(|disk| ["--disk", text(disk)]));
        words.extend(self.stores.iter().flat_map(|store| ["--to", text(store)]));
        words.extend(more);
        words
    }

    pub(crate) fn capture(&self, disks: &[PathBuf], more: &[&str]) -> String {
        let output = haulier(&self.words(disks, more));
        assert!(output.status.success(), "{}", words(&output));
        words(&output)
    }

    /// The part in a store.
    pub(crate) fn part(&self, number: usize) -> PathBuf {
        let entries = fs::read_dir(self.stores[number].join("m")).unwrap();
        let mut entries = entries.map(|entry| entry.unwrap().path());
        let part = entries.next().expect("a part");
        assert!(entries.next().is_none());
        assert!(text(&part).ends_with('Z'), "{}", part.display());
        part
    }

    pub(crate) fn verify(&self, stores: &[usize]) -> (Option<i32>, String) {
        let mut words_ = vec!["verify"];
        words_.extend(stores.iter().map(|number| text(&self.stores[*number])));
        let output = haulier(&words_);
        (output.status.code(), words(&output))
    }

    pub(crate) fn import(&self, stores: &[usize], name: &str) -> (Option<i32>, String, PathBuf) {
        let out = self.file(name);
        let mut words_ = vec!["import", "--to", "qemu", "--out", text(&out)];
        words_.extend(stores.iter().map(|number| text(&self.stores[*number])));
        let output = haulier(&words_);
        (output.status.code(), words(&output), out.clone())
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        for store in &self.stores {
            let _ = Command::new("umount").arg(store).status();
        }
    }
}

pub(crate) fn manifest(capture: &Path) -> serde_json::Value {
    serde_json::from_slice(&fs::read(capture.join("manifest.json")).unwrap()).unwrap()
}

pub(crate) fn flip(path: &Path, byte: u64) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut one = [0];
    file.read_exact_at(&mut one, byte).unwrap();
    file.write_all_at(&[one[0] ^ 2], byte).unwrap();
}

/// QEMU finds no fault in the image and that it holds the disk, and that it needs no other file.
pub(crate) fn is_the_disk(image: &Path, disk: &Path) {
    run("qemu-img", &["check", "-q", text(image)]);
    let same = ["compare", "-q", "-f", "qcow2", "-F", "raw"];
    run(
        "qemu-img",
        &[&same[..], &[text(image), text(disk)]].concat(),
    );
    let info = run("qemu-img", &["info", "--output=json", text(image)]);
    assert!(!info.contains("backing"), "{info}");
}

/// Three parts, as they have to be.
pub(crate) fn three_parts(scene: &Scene, disk: &Path) {
    let mut at = 0;
    for number in 0..3 {
        let part = scene.part(number);
        run(
            "qemu-img",
            &["check", "-q", text(&part.join("disk-0.qcow2"))],
        );
        let manifest = manifest(&part);
        assert_eq!(manifest["part"]["number"], number + 1);
        assert_eq!(manifest["part"]["last"], number == 2);
        assert_eq!(
            manifest["part"]["earlier"].as_array().unwrap().len(),
            number
        );
        let page = fs::read_to_string(part.join("report.html")).unwrap();
        let last = if number == 2 { ", the last one," } else { "" };
        let said = format!("Part {}{last} of a capture on several media", number + 1);
        assert!(
            page.contains(&said) && !page.contains("Complete."),
            "{page}"
        );
        let range = &manifest["disks"][0]["range"];
        assert_eq!(range[0], at);
        at = range[1].as_u64().unwrap();
        assert!(at.is_multiple_of(4 * MIB));
    }
    assert_eq!(at, fs::metadata(disk).unwrap().len());
    let (code, said) = scene.verify(&[0, 1, 2]);
    assert_eq!(code, Some(0), "{said}");
}
