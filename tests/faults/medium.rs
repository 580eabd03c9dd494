//! A stick on this host: an ext4 filesystem in a file, as the sticks' data partition has it,
//! mounted with a loop device.

use crate::capture_support::words;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// Runs a tool that must succeed; mounting is for root, so an ordinary user is asked by sudo.
pub(crate) fn root(tool: &str, args: &[&str]) -> String {
    let is_root = rustix::process::geteuid().is_root();
    let mut command = if is_root {
        Command::new(tool)
    } else {
        let mut command = Command::new("sudo");
        command.arg(tool);
        command
    };
    let path = std::env::var("PATH").unwrap_or_default();
    let output = command
        .args(args)
        .env("PATH", format!("{path}:/usr/sbin:/sbin"))
        .env("LC_ALL", "C")
        .output()
        .unwrap_or_else(|e| panic!("{tool} is needed for this test: {e}"));
    assert!(
        output.status.success(),
        "{tool} {args:?}: {}",
        words(&output)
    );
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// Makes the filesystem of a stick of `size` bytes in a new file.
pub(crate) fn format(image: &Path, size: u64) {
    File::create(image).unwrap().set_len(size).unwrap();
    let image = image.to_str().unwrap();
    // As `haulier` formats a stick: with a journal, nothing kept for root.
    root("mke2fs", &["-q", "-F", "-t", "ext4", "-m", "0", image]);
}

/// The same filesystem on a larger stick.
pub(crate) fn enlarge(image: &Path, size: u64) {
    let file = File::options().write(true).open(image).unwrap();
    file.set_len(size).unwrap();
    let image = image.to_str().unwrap();
    root("e2fsck", &["-f", "-p", image]);
    root("resize2fs", &[image]);
}

/// A block device of a file (or of another device); gone when dropped.
pub(crate) struct Loop {
    pub(crate) device: String,
}

impl Loop {
    pub(crate) fn new(file: &Path, options: &[&str]) -> Self {
        let file = file.to_str().unwrap();
        let device = root(
            "losetup",
            &[&["--find", "--show"], options, &[file]].concat(),
        );
        Self { device }
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        // Still mounted lazily, or gone already: nothing to say.
        let _ = Command::new("losetup").args(["-d", &self.device]).output();
    }
}

/// A mounted stick; unmounted when dropped.
pub(crate) struct Medium {
    pub(crate) store: PathBuf,
    device: Loop,
}

impl Medium {
    /// Mounts the filesystem in `image` at `store`, which is made if it is not there.
    pub(crate) fn mount(image: &Path, store: &Path, options: &[&str]) -> Self {
        let device = Loop::new(image, options);
        fs::create_dir_all(store).unwrap();
        root("mount", &[&device.device, store.to_str().unwrap()]);
        Self {
            store: store.to_owned(),
            device,
        }
    }

    pub(crate) fn device(&self) -> &str {
        &self.device.device
    }

    /// How many bytes are free, as a program sees it.
    pub(crate) fn free(&self) -> u64 {
        let stat = rustix::fs::statvfs(&self.store).unwrap();
        stat.f_bavail * stat.f_frsize
    }

    /// Takes all room but `leave` bytes away, with a file of somebody else's.
    pub(crate) fn fill(&self, leave: u64) -> PathBuf {
        let path = self.store.join("somebody-elses.iso");
        let file = File::create(&path).unwrap();
        let length = self.free().saturating_sub(leave);
        rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, length).unwrap();
        // The extents of the file took some blocks too.
        while self.free() < leave {
            let length = file.metadata().unwrap().len() - (leave - self.free());
            file.set_len(length).unwrap();
        }
        path
    }

    /// Unmounts it, and fails if that fails.
    pub(crate) fn unmount(self) {
        let start = Instant::now();
        let at = self.store.to_str().unwrap().to_owned();
        // Between fork and exec, a program that another test starts holds our open files too.
        loop {
            let output = Command::new("umount").arg(&at).output().unwrap();
            if output.status.success() {
                break;
            }
            let said = words(&output);
            assert!(said.contains("busy"), "{said}");
            assert!(start.elapsed() < Duration::from_secs(20), "{at} stays busy");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Medium {
    fn drop(&mut self) {
        // Of a test that failed, or unmounted already.
        let _ = Command::new("umount").arg("-l").arg(&self.store).output();
    }
}
