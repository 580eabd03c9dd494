//! Several disks at once: two that are slow are copied together, two that share what makes them
//! slow are not, and whatever happens on the way the images are the disks. The disks are files that
//! qemu-storage-daemon exports through its throttle filter.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const MB: u64 = 1_000_000;

/// Files of noise, as disks that are read at a bounded rate.
struct Disks {
    daemon: Child,
    files: Vec<PathBuf>,
    exported: Vec<PathBuf>,
}

impl Disks {
    /// Two disks of `bytes` bytes each. With `shared` both together give `rate` bytes a second, else
    /// each.
    fn new(folder: &Path, bytes: u64, rate: u64, shared: bool) -> Self {
        let bytes = bytes.next_multiple_of(1 << 20);
        let mut daemon = Command::new("qemu-storage-daemon");
        let groups = if shared { 1 } else { 2 };
        for group in 0..groups {
            daemon.args([
                "--object",
                &format!("throttle-group,id=rate{group},x-bps-read={rate}"),
            ]);
        }
        let (mut files, mut exported) = (Vec::new(), Vec::new());
        for number in 0..2 {
            let file = folder.join(format!("disk{number}.raw"));
            let mut noise = File::open("/dev/urandom").unwrap().take(bytes);
            std::io::copy(&mut noise, &mut File::create(&file).unwrap()).unwrap();
            let point = folder.join(format!("disk{number}.slow"));
            File::create(&point).unwrap();
            let group = number % groups;
            daemon.arg("--blockdev").arg(format!(
                "driver=file,node-name=file{number},filename={}",
                file.display()
            ));
            daemon.arg("--blockdev").arg(format!(
                "driver=throttle,node-name=disk{number},throttle-group=rate{group},file=file{number}"
            ));
            daemon.arg("--export").arg(format!(
                "type=fuse,id=export{number},node-name=disk{number},mountpoint={},writable=off",
                point.display()
            ));
            files.push(file);
            exported.push(point);
        }
        let mut daemon = daemon
            .spawn()
            .expect("qemu-storage-daemon is needed for this test");
        let start = Instant::now();
        while exported
            .iter()
            .any(|point| fs::metadata(point).unwrap().len() != bytes)
        {
            assert_eq!(daemon.try_wait().unwrap(), None, "the daemon ended");
            assert!(start.elapsed() < Duration::from_secs(60));
            std::thread::sleep(Duration::from_millis(20));
        }
        Self {
            daemon,
            files,
            exported,
        }
    }

    fn capture(&self, store: &Path, extra: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_haulier"));
        command.args(["capture", "--name", "server", "--to"]);
        command.arg(store);
        for disk in &self.exported {
            command.arg("--disk").arg(disk);
        }
        command.args(extra);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Captures, and returns the capture and what was said.
    fn captured(&self, store: &Path, extra: &[&str]) -> (PathBuf, String) {
        let output = self.capture(store, extra).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{said}");
        let out = String::from_utf8(output.stdout).unwrap();
        (out.lines().last().unwrap().into(), said)
    }

    /// Each image is its disk.
    fn check(&self, capture: &Path) {
        for (number, file) in self.files.iter().enumerate() {
            let image = capture.join(format!("disk-{number}.qcow2"));
            for args in [
                vec!["check", "-f", "qcow2"],
                vec!["compare", "-f", "raw", "-F", "qcow2"],
            ] {
                let mut command = Command::new("qemu-img");
                command.args(&args);
                if args[0] == "compare" {
                    command.arg(file);
                }
                let output = command.arg(&image).output().unwrap();
                assert!(output.status.success(), "{args:?}: {output:?}");
            }
        }
    }
}

impl Drop for Disks {
    fn drop(&mut self) {
        // A termination has it unmount what it exports.
        let _ = Command::new("kill")
            .arg(self.daemon.id().to_string())
            .status();
        let _ = self.daemon.wait();
    }
}

fn folders() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    fs::create_dir(&store).unwrap();
    (folder, store)
}

/// Captures until `expected` is said: what is decided depends on what else the machine does, the
/// images never do.
fn captured_until(disks: &Disks, folder: &Path, expected: &str) -> String {
    let mut said = String::new();
    for attempt in 0..4 {
        let store = folder.join(format!("store{attempt}"));
        fs::create_dir(&store).unwrap();
        let (capture, now) = disks.captured(&store, &["--no-verify"]);
        disks.check(&capture);
        said = now;
        if said.contains(expected) {
            break;
        }
    }
    assert!(said.contains(expected), "{said}");
    said
}

#[test]
fn two_slow_disks_are_copied_together() {
    let (folder, _) = folders();
    let disks = Disks::new(folder.path(), 120 * MB, 12 * MB, false);
    captured_until(&disks, folder.path(), "disk-1.qcow2 at the same time");
}

#[test]
fn of_two_disks_that_share_what_makes_them_slow_one_waits() {
    let (folder, _) = folders();
    let disks = Disks::new(folder.path(), 60 * MB, 6 * MB, true);
    let said = captured_until(&disks, folder.path(), "Together the disks are no faster");
    assert!(said.contains("disk-1.qcow2 at the same time"), "{said}");
}

#[test]
fn two_disks_that_were_copied_together_when_all_was_killed_are_gone_on_with() {
    let (folder, store) = folders();
    let disks = Disks::new(folder.path(), 240 * MB, 20 * MB, false);
    let mut child = disks.capture(&store, &[]).spawn().unwrap();
    let partial_image = |number: usize| {
        let machine = fs::read_dir(store.join("server")).ok()?;
        let partial = machine
            .map(|entry| entry.unwrap().path())
            .find(|path| path.extension().is_some_and(|e| e == "partial"))?;
        let image = partial.join(format!("disk-{number}.qcow2"));
        Some(fs::metadata(image).ok()?.blocks() * 512)
    };
    let start = Instant::now();
    // Beyond a checkpoint of the second, with the first one not done.
    while partial_image(1).unwrap_or(0) < 80 * MB {
        assert_eq!(child.try_wait().unwrap(), None, "it ended too early");
        assert!(start.elapsed() < Duration::from_secs(120));
        std::thread::sleep(Duration::from_millis(50));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let (capture, said) = disks.captured(&store, &["--resume"]);
    assert_eq!(said.matches("going on after").count(), 2, "{said}");
    disks.check(&capture);
    let verified = Command::new(env!("CARGO_BIN_EXE_haulier"))
        .arg("verify")
        .arg(&capture)
        .output()
        .unwrap();
    assert!(verified.status.success(), "{verified:?}");
}
