//! Where captures go: a folder of this machine, or a filesystem on a block device that takes no
//! more than so many bytes a second, as a stick does.
//!
//! The device is a loop device on a file that qemu-storage-daemon exports through its throttle
//! filter: what is written waits in the kernel as it does for a stick.

use anyhow::{Context, Result};
use haulier_testbed::command::{run, tool};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

/// The throttled device's size in bytes.
const BYTES: u64 = 10 << 30;

/// A place for captures.
#[derive(Debug)]
pub(super) struct Store {
    path: PathBuf,
    stick: Option<Stick>,
}

#[derive(Debug)]
struct Stick {
    daemon: Child,
    device: String,
    file: PathBuf,
}

impl Store {
    /// An empty folder.
    pub(super) fn folder(path: &Path) -> Result<Self> {
        if path.exists() {
            fs::remove_dir_all(path)?;
        }
        fs::create_dir_all(path)?;
        Ok(Self {
            path: path.to_owned(),
            stick: None,
        })
    }

    /// A filesystem that takes `rate` bytes a second.
    pub(super) fn throttled(folder: &Path, rate: u64) -> Result<Self> {
        let path = folder.join("stick");
        fs::create_dir_all(&path)?;
        let file = folder.join("stick.img");
        File::create(&file)?.set_len(BYTES)?;
        run(tool("mkfs.ext4")
            .args([
                "-q",
                "-F",
                "-E",
                "lazy_itable_init=0,lazy_journal_init=0,nodiscard",
            ])
            .arg(&file))?;
        let exported = folder.join("stick.raw");
        File::create(&exported)?;
        let mut daemon = Command::new("qemu-storage-daemon")
            .args([
                "--object",
                &format!("throttle-group,id=rate,x-bps-write={rate}"),
            ])
            .arg("--blockdev")
            // With cache.direct=on, requests that are not aligned get lost on the way (QEMU 10.0.2).
            .arg(format!(
                "driver=file,node-name=file,filename={},cache.direct=off",
                file.display()
            ))
            .args([
                "--blockdev",
                "driver=throttle,node-name=stick,throttle-group=rate,file=file",
            ])
            .arg("--export")
            .arg(format!(
                "type=fuse,id=export,node-name=stick,mountpoint={},writable=on,growable=off",
                exported.display()
            ))
            .spawn()
            .context("starting qemu-storage-daemon")?;
        let start = Instant::now();
        while exported.metadata()?.len() != BYTES {
            if start.elapsed() > Duration::from_secs(10) || daemon.try_wait()?.is_some() {
                let _ = daemon.kill();
                let _ = daemon.wait();
                anyhow::bail!("qemu-storage-daemon does not export {}", file.display());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let device = run(tool("losetup")
            .args(["--find", "--show", "--direct-io=on"])
            .arg(&exported))?;
        let device = device.trim().to_owned();
        run(tool("mount").arg(&device).arg(&path))?;
        Ok(Self {
            path,
            stick: Some(Stick {
                daemon,
                device,
                file,
            }),
        })
    }

    /// The folder.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        // Whatever fails here has nothing to do with what was measured.
        if let Some(stick) = &mut self.stick {
            let _ = run(tool("umount").arg(&self.path));
            let _ = run(tool("losetup").args(["--detach", &stick.device]));
            let _ = run(tool("kill").arg(stick.daemon.id().to_string()));
            let _ = stick.daemon.wait();
            let _ = fs::remove_file(&stick.file);
        } else {
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}
