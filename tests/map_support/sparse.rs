//! Images of many terabytes: files that have few bytes of their own.

use super::mount::Mounted;
use super::{arg, run};
use haulier::extent::{Extent, ExtentList};
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

pub const TIB: u64 = 1 << 40;

/// An XFS of its own: ext4, on which the tests' scratch space may lie, has no files of 64 TiB, and
/// this one copies such a file in no time.
pub struct Room {
    // In this order: unmounted before it is removed.
    mounted: Mounted,
    dir: TempDir,
}

impl Room {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("room.img");
        fs::File::create(&image).unwrap().set_len(2 * TIB).unwrap();
        run("mkfs.xfs", &["-q", "-K", arg(&image)]);
        let mounted = Mounted::new(&image, &dir.path().join("room"), "");
        Self { mounted, dir }
    }

    /// A new file of that size.
    pub fn file(&self, name: &str, size: u64) -> PathBuf {
        let path = self.mounted.path().join(name);
        fs::File::create(&path).unwrap().set_len(size).unwrap();
        path
    }

    /// A copy of a file, even while it is written to.
    pub fn copy(&self, from: &Path, name: &str) -> PathBuf {
        let path = self.mounted.path().join(name);
        run("cp", &["--reflink=always", arg(from), arg(&path)]);
        path
    }

    /// Where something may be mounted.
    pub fn mount_point(&self) -> PathBuf {
        self.dir.path().join("inner")
    }

    pub fn unmount(self) {
        self.mounted.unmount();
    }
}

/// Overwrites what is not in the map where the file has bytes of its own: elsewhere it reads as
/// zeros, and a sector every 64 GiB is written there too. How many bytes that were.
pub fn punch_where_it_has_bytes(image: &Path, kept: &ExtentList) -> u64 {
    let file = fs::OpenOptions::new().write(true).open(image).unwrap();
    let size = file.metadata().unwrap().len();
    let whole: ExtentList = Extent::between(0, size).into_iter().collect();
    let free = whole.subtract(kept);
    let mut punched = 0;
    let mut at = 0;
    while let Ok(start) = rustix::fs::seek(&file, rustix::fs::SeekFrom::Data(at)) {
        let end = rustix::fs::seek(&file, rustix::fs::SeekFrom::Hole(start)).unwrap();
        for hole in free.within(Extent::between(start, end).unwrap()) {
            super::fill(&file, hole.start().0, hole.end(), 0xA5);
            punched += hole.len().0;
        }
        at = end;
    }
    for hole in free.iter() {
        for at in (hole.start().0..hole.end() - 511).step_by(1 << 36) {
            file.write_all_at(&[0xA5; 512], at).unwrap();
            punched += 512;
        }
    }
    punched
}
