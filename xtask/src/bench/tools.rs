//! What is measured: a capture, and what else could be used in its place.

use anyhow::{Context, Result};
use haulier_testbed::command::{run, tool};
use std::fmt;
use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

/// A way to get a disk onto a medium.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tool {
    /// `haulier capture --no-verify`.
    Haulier,
    /// `haulier capture`, which reads back what it wrote.
    HaulierVerified,
    /// `qemu-img convert -c` with zstd.
    QemuCompressed,
    /// `partclone.ext4` of the partition into `zstd -1` on all processors.
    Partclone,
    /// `qemu-img convert`.
    QemuPlain,
}

/// What one run came to.
#[derive(Debug, Clone)]
pub(super) struct Measured {
    pub(super) tool: Tool,
    pub(super) seconds: f64,
    /// Bytes on the medium.
    pub(super) written: u64,
    /// The largest resident set of a process, in KiB.
    pub(super) peak_kib: u64,
    /// Seconds of processor time.
    pub(super) processor: f64,
}

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:<38} {:7.1} s {:7.1} CPU s {:8} MB {:5} MiB",
            self.tool.name(),
            self.seconds,
            self.processor,
            self.written / 1_000_000,
            self.peak_kib >> 10
        )
    }
}

impl Tool {
    pub(super) const ALL: [Self; 5] = [
        Self::Haulier,
        Self::HaulierVerified,
        Self::QemuCompressed,
        Self::Partclone,
        Self::QemuPlain,
    ];

    /// For the table.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Haulier => "haulier capture --no-verify",
            Self::HaulierVerified => "haulier capture",
            Self::QemuCompressed => "qemu-img convert -c, zstd, -W -m 16",
            Self::Partclone => "partclone.ext4 -c | zstd -T0 -1",
            Self::QemuPlain => "qemu-img convert",
        }
    }

    /// Runs it from `disk` into `store` until all is on the medium, and removes the result.
    pub(super) fn run(self, haulier: &Path, disk: &Path, store: &Path) -> Result<Measured> {
        forget(disk)?;
        let out = store.join("out");
        fs::create_dir(&out)?;
        let (haulier, disk, file) = (haulier.display(), disk.display(), out.join("image"));
        let file = file.display();
        let mut device = None;
        let words = match self {
            Self::Haulier => {
                format!(
                    "{haulier} capture --disk {disk} --to {} --name bench --no-verify",
                    out.display()
                )
            }
            Self::HaulierVerified => {
                format!(
                    "{haulier} capture --disk {disk} --to {} --name bench",
                    out.display()
                )
            }
            Self::QemuCompressed => format!(
                "qemu-img convert -c -f raw -O qcow2 -o compression_type=zstd -W -m 16 {disk} {file}"
            ),
            Self::QemuPlain => format!("qemu-img convert -f raw -O qcow2 {disk} {file}"),
            Self::Partclone => {
                let found = run(tool("losetup")
                    .args(["--find", "--show", "--read-only", "--offset", "1048576"])
                    .arg(disk.to_string()))?;
                let found = found.trim().to_owned();
                let words = format!(
                    "partclone.ext4 -c -s {found} -o - -L /dev/null 2>/dev/null | zstd -q -T0 -1 -o {file}"
                );
                device = Some(found);
                words
            }
        };
        let figures = store.join("figures");
        let ended = run(Command::new("/usr/bin/time")
            .args(["-f", "%e %M %U %S", "-o"])
            .arg(&figures)
            .args(["sh", "-c"])
            // All of them until it is on the medium.
            .arg(format!("({words}) && sync -f {}", out.display())));
        if let Some(device) = device {
            run(tool("losetup").args(["--detach", &device]))?;
        }
        ended?;
        let text = fs::read_to_string(&figures)?;
        let numbers: Vec<f64> = text
            .split_whitespace()
            .map(str::parse)
            .collect::<Result<_, _>>()
            .with_context(|| format!("reading the figures {text:?}"))?;
        let [seconds, peak, user, system] = numbers[..] else {
            anyhow::bail!("the figures are {text:?}");
        };
        let written = bytes_below(&out)?;
        fs::remove_dir_all(&out)?;
        run(tool("sync").arg("-f").arg(store))?;
        Ok(Measured {
            tool: self,
            seconds,
            written,
            peak_kib: peak as u64,
            processor: user + system,
        })
    }
}

/// What an image of the live data alone takes, in bytes: ours, and one that qemu-img makes of it.
/// Ours is checked, and theirs compared with it.
pub(super) fn live(haulier: &Path, disk: &Path, store: &Path) -> Result<(u64, u64)> {
    let out = store.join("out");
    fs::create_dir(&out)?;
    run(Command::new(haulier)
        .args(["capture", "--no-verify", "--name", "bench", "--disk"])
        .arg(disk)
        .arg("--to")
        .arg(&out))?;
    let machine = fs::read_dir(out.join("bench"))?
        .next()
        .context("no capture")??;
    let ours = machine.path().join("disk-0.qcow2");
    let theirs = out.join("theirs.qcow2");
    run(tool("qemu-img").arg("check").arg(&ours))?;
    run(tool("qemu-img")
        .args([
            "convert",
            "-c",
            "-O",
            "qcow2",
            "-o",
            "compression_type=zstd",
            "-W",
            "-m",
            "16",
        ])
        .args([&ours, &theirs]))?;
    run(tool("qemu-img").arg("compare").args([&ours, &theirs]))?;
    let sizes = (ours.metadata()?.len(), theirs.metadata()?.len());
    fs::remove_dir_all(&out)?;
    Ok(sizes)
}

/// Has the kernel drop what it holds of the disk, so that each reads it from the medium.
pub(super) fn forget(disk: &Path) -> Result<()> {
    let file = File::open(disk)?;
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
    Ok(())
}

fn bytes_below(folder: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        bytes += if metadata.is_dir() {
            bytes_below(&entry.path())?
        } else {
            std::os::unix::fs::MetadataExt::blocks(&metadata) * 512
        };
    }
    Ok(bytes)
}
