//! A disk, changed between captures by the system's own tools; captures of it by the program.

#![allow(unreachable_pub, reason = "a module of a test program")]

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

pub const MIB: u64 = 1 << 20;
/// The whole disk; partitions of 160 and 64 MiB begin at these places.
const DISK: u64 = 240 * MIB;
pub const FIRST: u64 = MIB;
const SECOND: u64 = 170 * MIB;

/// Runs a tool that has to succeed, and returns its output.
pub fn run(tool: &str, args: &[&str]) -> String {
    let output = Command::new(tool)
        .args(args)
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .output()
        .unwrap();
    assert!(output.status.success(), "{tool} {args:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Unmounts. A process that another test is just starting may still hold files of this one.
pub fn unmount(root: &Path) {
    for _ in 0..100 {
        if Command::new("/bin/umount")
            .arg(root)
            .status()
            .unwrap()
            .success()
        {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    panic!("{} stays busy", root.display());
}

pub fn haulier(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_haulier"))
        .args(args)
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .output()
        .unwrap()
}

pub fn words(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Noise that does not compress (splitmix64).
pub fn noise(seed: u64, len: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    (0..len / 8)
        .flat_map(|_| {
            state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mut z = state;
            z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            (z ^ (z >> 31)).to_le_bytes()
        })
        .collect()
}

pub struct Scene {
    pub folder: tempfile::TempDir,
    pub disk: PathBuf,
}

impl Scene {
    /// A GPT disk with two ext4 filesystems, the first with files in it.
    pub fn new() -> Self {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let disk = folder.path().join("disk.img");
        File::create(&disk).unwrap().set_len(DISK).unwrap();
        let table = "label: gpt\nstart=2048, size=327680\nstart=348160, size=131072\n";
        let script = folder.path().join("table");
        fs::write(&script, table).unwrap();
        let shell = format!("sfdisk -q {} < {}", text(&disk), text(&script));
        run("sh", &["-c", &shell]);
        for (at, size) in [(FIRST, "160M"), (SECOND, "64M")] {
            let offset = format!("offset={at}");
            run("mkfs.ext4", &["-q", "-F", "-E", &offset, text(&disk), size]);
        }
        let scene = Self { folder, disk };
        scene.in_first(|root| {
            for number in 0..6 {
                fs::write(root.join(format!("noise-{number}")), noise(number, 8 * MIB)).unwrap();
            }
            let text = "a line of a log\n".repeat(1 << 19);
            fs::write(root.join("log"), text).unwrap();
        });
        scene.in_second(|root| fs::write(root.join("second"), noise(99, 16 * MIB)).unwrap());
        scene
    }

    pub fn in_first(&self, change: impl FnOnce(&Path)) {
        self.mounted(FIRST, 160 * MIB, change);
    }

    fn in_second(&self, change: impl FnOnce(&Path)) {
        self.mounted(SECOND, 64 * MIB, change);
    }

    fn mounted(&self, at: u64, size: u64, change: impl FnOnce(&Path)) {
        let root = self.folder.path().join("mnt");
        fs::create_dir_all(&root).unwrap();
        let options = format!("loop,offset={at},sizelimit={size}");
        run("mount", &["-o", &options, text(&self.disk), text(&root)]);
        change(&root);
        unmount(&root);
    }

    /// Gives what no file needs back to the disk. By e2fsck, as not every loop device takes discards.
    fn trim(&self) {
        let filesystem = format!("{}?offset={FIRST}", text(&self.disk));
        run("e2fsck", &["-f", "-y", "-E", "discard", &filesystem]);
    }

    /// Files come, go, grow, get holes; what they had is given back to the disk; the second partition
    /// goes.
    pub fn change(&self) {
        self.in_first(|root| {
            fs::remove_file(root.join("noise-1")).unwrap();
            fs::write(root.join("new"), noise(50, 3 * MIB)).unwrap();
            let log = File::options().append(true).open(root.join("log")).unwrap();
            std::io::Write::write_all(&mut &log, &b"one more line\n".repeat(1000)).unwrap();
            // In the middle of a chunk, so that parts of it stay.
            let hole = root.join("noise-2");
            run("fallocate", &["-p", "-o", "1M", "-l", "200K", text(&hole)]);
            let file = File::options()
                .write(true)
                .open(root.join("noise-3"))
                .unwrap();
            file.write_all_at(&vec![0; 300 << 10], 5 * MIB).unwrap();
            file.write_all_at(&noise(51, 4096), 7 * MIB).unwrap();
        });
        self.trim();
        run("sfdisk", &["-q", "--delete", text(&self.disk), "2"]);
    }

    pub fn store(&self, name: &str) -> PathBuf {
        let store = self.folder.path().join(name);
        fs::create_dir_all(&store).unwrap();
        store
    }

    pub fn try_capture(&self, store: &Path, more: &[&str]) -> Output {
        let mut words = vec!["capture", "--disk", text(&self.disk), "--to", text(store)];
        if !more.contains(&"--name") {
            words.extend(["--name", "m"]);
        }
        words.extend(more);
        haulier(&words)
    }

    /// Captures; returns where the capture is, and what was said.
    pub fn capture(&self, store: &Path, more: &[&str]) -> (PathBuf, String) {
        let output = self.try_capture(store, more);
        assert!(output.status.success(), "{}", words(&output));
        let path = String::from_utf8(output.stdout.clone()).unwrap();
        (PathBuf::from(path.trim()), words(&output))
    }
}

pub fn image(capture: &Path) -> PathBuf {
    capture.join("disk-0.qcow2")
}

pub fn size(path: &Path) -> u64 {
    fs::metadata(path).unwrap().len()
}

/// QEMU finds no fault in both and that they hold the same disk.
pub fn same_for_qemu(a: &Path, b: &Path) {
    for path in [a, b] {
        run("qemu-img", &["check", "-q", text(path)]);
    }
    run("qemu-img", &["compare", "-q", text(a), text(b)]);
}

/// Verifies; fails or succeeds, and what it said.
pub fn verify(path: &Path) -> (bool, String) {
    let output = haulier(&["verify", text(path)]);
    (output.status.success(), words(&output))
}

pub fn manifest(capture: &Path) -> serde_json::Value {
    serde_json::from_slice(&fs::read(capture.join("manifest.json")).unwrap()).unwrap()
}

pub fn flip(path: &Path, byte: u64) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut one = [0];
    file.read_exact_at(&mut one, byte).unwrap();
    file.write_all_at(&[one[0] ^ 16], byte).unwrap();
}

/// Imports to a folder beside the disk; returns the image.
pub fn import(scene: &Scene, capture: &Path, name: &str) -> Result<PathBuf, String> {
    Ok(image(&import_to(scene, capture, "qemu", name)?))
}

/// Imports for a target to a folder beside the disk; returns the folder.
pub fn import_to(
    scene: &Scene,
    capture: &Path,
    target: &str,
    name: &str,
) -> Result<PathBuf, String> {
    let out = scene.folder.path().join(name);
    let output = haulier(&["import", text(capture), "--to", target, "--out", text(&out)]);
    match output.status.success() {
        true => Ok(out),
        false => Err(words(&output)),
    }
}
