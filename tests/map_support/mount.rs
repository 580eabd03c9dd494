//! Mounting a test image with this machine's kernel, where it has the driver (ext4, XFS, btrfs).

use super::{arg, run};
use std::path::{Path, PathBuf};

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

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.at
    }

    /// Unmounts it, and fails if that fails.
    pub fn unmount(self) {
        // A program that another test is just starting holds every open file until it runs.
        for _ in 0..50 {
            let mut umount = std::process::Command::new("umount");
            if umount
                .arg(&self.at)
                .output()
                .is_ok_and(|o| o.status.success())
            {
                return std::mem::forget(self);
            }
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        privileged("umount", &[arg(&self.at)]);
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

/// Runs a tool that only root may use.
pub fn privileged(tool: &str, args: &[&str]) -> String {
    if run("id", &["-u"]).trim() == "0" {
        return run(tool, args);
    }
    let mut with_sudo = vec![tool];
    with_sudo.extend_from_slice(args);
    run("sudo", &with_sudo)
}
