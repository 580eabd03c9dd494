//! QEMU's block layer without a machine: `qemu-storage-daemon` shows a file through its filters as
//! another file (FUSE), which a loop device makes a disk of.

use crate::medium::root;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A running daemon; what it shows ends with it.
pub(crate) struct Shown {
    child: Child,
    /// The file that it shows.
    pub(crate) file: PathBuf,
}

impl Shown {
    /// Shows the node `top` of `nodes`, one JSON object each, as the file `at`.
    pub(crate) fn new(nodes: &[serde_json::Value], writable: bool, at: &Path) -> Self {
        File::create(at).unwrap();
        let mut command = Command::new("qemu-storage-daemon");
        for node in nodes {
            command.arg("--blockdev").arg(node.to_string());
        }
        let words = at.with_extension("words");
        let child = command
            .arg("--export")
            .arg(format!(
                "fuse,id=shown,node-name=top,writable={},mountpoint={}",
                if writable { "on" } else { "off" },
                at.display()
            ))
            .stderr(File::create(&words).unwrap())
            .stdout(Stdio::null())
            .spawn()
            .expect("qemu-storage-daemon (package qemu-utils) is needed for this test");
        let mut shown = Self {
            child,
            file: at.to_owned(),
        };
        let start = Instant::now();
        while fs::metadata(at).map_or(0, |about| about.len()) == 0 {
            let said = || fs::read_to_string(&words).unwrap();
            assert!(shown.child.try_wait().unwrap().is_none(), "{}", said());
            assert!(start.elapsed() < Duration::from_secs(60), "{}", said());
            std::thread::sleep(Duration::from_millis(5));
        }
        shown
    }

    /// It is gone from one moment to the next, as a device that is pulled.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Asks it to end, and waits until all is written.
    pub(crate) fn settle(mut self) {
        root("kill", &["-TERM", &self.child.id().to_string()]);
        self.child.wait().unwrap();
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = Command::new("umount").arg("-l").arg(&self.file).output();
    }
}

/// A node of a raw file.
pub(crate) fn file_node(name: &str, path: &Path) -> serde_json::Value {
    serde_json::json!({"driver": "file", "node-name": name, "filename": path, "cache": {"no-flush": true}})
}
