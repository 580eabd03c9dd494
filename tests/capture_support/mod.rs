//! What the tests of interrupted and damaged captures share. In: a disk and a store; out: captures
//! by the real program, their judgement, and a row of the fault matrix.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "shared by test binaries that use parts of it"
)]

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

pub const MIB: u64 = 1 << 20;

/// Runs the program.
pub fn haulier(args: &[&str]) -> Output {
    command(args).output().unwrap()
}

pub fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_haulier"));
    command
        .args(args)
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    command
}

/// What it said to the person.
pub fn words(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// What `cargo xtask faults` wants to have instead of the `quick` count.
pub fn number(name: &str, quick: u32) -> u32 {
    std::env::var(name).map_or(quick, |text| {
        text.parse()
            .unwrap_or_else(|_| panic!("{name} is {text:?}, not a number"))
    })
}

/// Pseudo-random numbers (splitmix64).
pub struct Numbers(pub u64);

impl Numbers {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub fn noise(&mut self, len: u64) -> Vec<u8> {
        (0..len / 8)
            .flat_map(|_| self.next().to_le_bytes())
            .collect()
    }
}

/// One line of the fault matrix: what came of each of its moments.
#[derive(Debug, Default)]
pub struct Tally {
    /// Gone on with, or captured at once, to the image of the undisturbed capture.
    pub identical: u32,
    /// Refused with a sentence.
    pub refused: u32,
    /// Found, and its place named.
    pub located: u32,
}

impl Tally {
    /// Prints the line, and keeps it for `cargo xtask faults`; fails unless each moment counts.
    pub fn row(&self, fault: &str, moments: u32) {
        let Self {
            identical,
            refused,
            located,
        } = self;
        let line = format!("| {fault} | {moments} | {identical} | {refused} | {located} |");
        println!("{line}");
        if let Some(path) = std::env::var_os("HAULIER_FAULTS_TABLE") {
            let mut table = File::options()
                .create(true)
                .append(true)
                .open(path)
                .unwrap();
            writeln!(table, "{line}").unwrap();
        }
        assert_eq!(identical + refused + located, moments, "{line}");
    }
}

/// A disk without a filesystem: noise, text and zeros in turns of 1 MiB.
pub fn mixed_disk(path: &Path, size: u64) {
    let file = File::create(path).unwrap();
    file.set_len(size).unwrap();
    let mut numbers = Numbers(1);
    for at in (0..size).step_by(MIB as usize) {
        let piece = match numbers.next() % 8 {
            0 => continue,
            1 => b"haulier ".repeat(MIB as usize / 8),
            _ => numbers.noise(MIB),
        };
        file.write_all_at(&piece, at).unwrap();
    }
}

pub struct Scene {
    pub folder: tempfile::TempDir,
    pub disk: PathBuf,
}

impl Scene {
    /// With a disk that `make` makes.
    pub fn new(make: impl FnOnce(&Path)) -> Self {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let disk = folder.path().join("disk.img");
        make(&disk);
        Self { folder, disk }
    }

    /// A path in the folder of this scene.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// An empty directory for captures.
    pub fn store(&self, name: &str) -> PathBuf {
        let store = self.path(name);
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

    pub fn capture(&self, store: &Path, more: &[&str]) -> Output {
        haulier(&self.words(store, more))
    }

    /// A capture that is left running; what it says goes to `words`.
    pub fn begin(&self, store: &Path, more: &[&str], words: Stdio) -> Child {
        command(&self.words(store, more))
            .stderr(words)
            .stdout(Stdio::null())
            .spawn()
            .unwrap()
    }

    /// A capture that is interrupted as soon as its journal has `checkpoints`.
    pub fn interrupted(&self, store: &Path, checkpoints: usize) {
        let mut child = self.begin(store, &[], Stdio::null());
        let start = Instant::now();
        while lines(store) <= checkpoints {
            assert!(child.try_wait().unwrap().is_none(), "it ended by itself");
            assert!(start.elapsed() < Duration::from_secs(300));
            std::thread::sleep(Duration::from_millis(1));
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

/// The only entry of the machine's folder with this end.
pub fn entry(store: &Path, end: &str) -> Option<PathBuf> {
    let entries = fs::read_dir(store.join("m")).ok()?;
    let mut found = entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.to_str().unwrap().ends_with(end));
    let first = found.next();
    assert!(found.next().is_none());
    first
}

/// How many lines the journal has.
pub fn lines(store: &Path) -> usize {
    entry(store, ".journal")
        .and_then(|folder| fs::read(folder.join("disk-0.journal")).ok())
        .map_or(0, |text| text.iter().filter(|byte| **byte == b'\n').count())
}

/// The manifest of a capture.
pub fn manifest(capture: &Path) -> serde_json::Value {
    let manifest = fs::read(capture.join("manifest.json")).unwrap();
    serde_json::from_slice(&manifest).unwrap()
}

/// The one whole capture, proven by itself and by QEMU: the digests of its chunks.
pub fn whole(scene: &Scene, store: &Path) -> serde_json::Value {
    let capture = entry(store, "Z").expect("a whole capture");
    // A journal may be left by one that was killed behind the commit; the next capture removes it.
    assert!(entry(store, ".partial").is_none());
    let verified = haulier(&["verify", capture.to_str().unwrap()]);
    assert!(verified.status.success(), "{}", words(&verified));
    clean(&capture.join("disk-0.qcow2"), Some(&scene.disk));
    let mut manifest = manifest(&capture);
    // It began when it was begun, however often it was gone on with.
    let started = manifest["started"].as_str().unwrap().replace(':', "");
    let name = capture.file_name().unwrap().to_str().unwrap();
    assert_eq!(started[..17], name[..17], "{started} {name}");
    manifest["disks"][0]["chunks"].take()
}

/// QEMU calls the image clean, and the same as `disk`.
pub fn clean(image: &Path, disk: Option<&Path>) {
    let image = image.to_str().unwrap();
    let compare = disk.map(|disk| vec!["compare", "-q", image, disk.to_str().unwrap()]);
    for args in [Some(vec!["check", "-q", image]), compare]
        .into_iter()
        .flatten()
    {
        let output = Command::new("qemu-img").args(&args).output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", words(&output));
    }
}

/// Nothing in the store is called whole, by its name or by the program; `haulier verify` says so.
pub fn nothing_is_whole(store: &Path) {
    assert!(entry(store, "Z").is_none());
    let verified = haulier(&["verify", store.to_str().unwrap()]);
    assert_eq!(verified.status.code(), Some(4), "{}", words(&verified));
    let listed = haulier(&["list", "--json", store.to_str().unwrap()]);
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    assert!(!listed.contains("\"whole\""), "{listed}");
}
