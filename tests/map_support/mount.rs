//! Mounting a test image with this machine's kernel, where it has the driver (ext4, XFS, btrfs).

use super::{arg, run, try_run};
use std::path::{Path, PathBuf};
use std::process::Output;

/// A mounted image; unmounted when dropped.
pub struct Mounted {
    at: PathBuf,
}

impl Mounted {
    /// Mounts `image` at `at` (made if it is not there) with `-o loop` and these options.
    /// Mounting is for root: an ordinary user is asked by sudo.
    pub fn new(image: &Path, at: &Path, options: &str) -> Self {
        std::fs::create_dir_all(at).unwrap();
        let options = format!("loop,{options}");
        privileged(
            "mount",
            &["-o", options.trim_end_matches(','), arg(image), arg(at)],
        );
        Self { at: at.to_owned() }
    }

    /// The same for a type that `mount` does not find out by itself.
    pub fn of_type(kind: &str, image: &Path, at: &Path, options: &str) -> Self {
        std::fs::create_dir_all(at).unwrap();
        let options = format!("loop,{options}");
        let options = options.trim_end_matches(',');
        privileged("mount", &["-t", kind, "-o", options, arg(image), arg(at)]);
        Self { at: at.to_owned() }
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.at
    }

    /// Unmounts it, and fails if that fails.
    pub fn unmount(self) {
        // Between fork and exec, a program that another test starts holds our open files too.
        let is_busy = || {
            let output = as_root("umount", &[arg(&self.at)]);
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(
                output.status.success() || said.contains("busy"),
                "umount: {said}"
            );
            !output.status.success()
        };
        let patience = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while is_busy() {
            assert!(
                std::time::Instant::now() < patience,
                "{} stays busy",
                self.at.display()
            );
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        std::mem::forget(self);
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // A test that failed: leave nothing mounted.
        let _ = std::process::Command::new("umount")
            .arg("-l")
            .arg(&self.at)
            .status();
    }
}

/// Runs a tool that only root may use, and that must succeed.
pub fn privileged(tool: &str, args: &[&str]) -> String {
    let output = as_root(tool, args);
    assert!(
        output.status.success(),
        "{tool} {args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs a tool as root, by sudo if need be.
fn as_root(tool: &str, args: &[&str]) -> Output {
    if run("id", &["-u"]).trim() == "0" {
        return try_run(tool, args);
    }
    try_run("sudo", &[&[tool], args].concat())
}
