//! A filesystem worth encrypting: ext4 on soiled ground, filled, half deleted, filled again in the
//! holes. Made once for all tests.

use super::{arg, disk_of, run, try_run};
use crate::extent::ExtentList;
use crate::usedmap::{DiskInfo, DiskMap, Policy};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use tempfile::TempDir;

/// Bytes of the filesystem.
pub(super) const SIZE: u64 = 24 << 20;

/// The filesystem.
pub(super) struct Plain {
    dir: TempDir,
    /// The digest of every file.
    pub files: BTreeMap<PathBuf, String>,
    /// What dumpe2fs calls used, in bytes.
    pub used: u64,
}

impl Plain {
    pub(super) fn path(&self) -> PathBuf {
        self.dir.path().join("plain.img")
    }
}

/// Numbers that look random and are the same in every run (xorshift64).
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn file(&mut self, longest: u64) -> Vec<u8> {
        let len = self.next() % longest;
        (0..len.div_ceil(8))
            .flat_map(|_| self.next().to_le_bytes())
            .collect()
    }
}

pub(super) fn plain() -> &'static Plain {
    static PLAIN: OnceLock<Plain> = OnceLock::new();
    PLAIN.get_or_init(make)
}

fn make() -> Plain {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("plain.img");
    fs::write(&image, vec![0xC3; usize::try_from(SIZE).unwrap()]).unwrap();
    let tree = dir.path().join("tree");
    fs::create_dir(&tree).unwrap();
    let mut noise = Noise(0x9E37_79B9_7F4A_7C15);
    for number in 0..120 {
        let file = noise.file(1 << 17);
        fs::write(tree.join(format!("f{number}")), file).unwrap();
    }
    run(
        "mke2fs",
        &[
            "-q",
            "-F",
            "-t",
            "ext4",
            "-b",
            "4096",
            "-d",
            arg(&tree),
            arg(&image),
        ],
    );
    let script = dir.path().join("commands");
    let mut commands: Vec<String> = (0..120).step_by(2).map(|n| format!("rm f{n}")).collect();
    for number in 0..20 {
        let file = tree.join(format!("w{number}"));
        fs::write(&file, noise.file(1 << 16)).unwrap();
        commands.push(format!("write {} w{number}", arg(&file)));
    }
    fs::write(&script, commands.join("\n") + "\n").unwrap();
    run("debugfs", &["-w", "-f", arg(&script), arg(&image)]);
    check(&image);
    let files = read_files(&image);
    assert_eq!(files.len(), 80);
    let header = run("dumpe2fs", &["-h", arg(&image)]);
    let field = |name: &str| -> u64 {
        let line = header.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap().trim().parse().unwrap()
    };
    let used = (field("Block count:") - field("Free blocks:")) * field("Block size:");
    Plain { dir, files, used }
}

/// The filesystem's own checker finds nothing.
pub(super) fn check(image: &Path) {
    let output = try_run("e2fsck", &["-f", "-n", arg(image)]);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && !said.contains("WARNING"),
        "e2fsck: {said}"
    );
}

/// The digest of every file.
pub(super) fn read_files(image: &Path) -> BTreeMap<PathBuf, String> {
    let out = tempfile::tempdir().unwrap();
    let dump = format!("rdump / {}", arg(out.path()));
    assert!(
        try_run("debugfs", &["-R", &dump, arg(image)])
            .status
            .success()
    );
    fs::read_dir(out.path())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_file())
        .map(|path| {
            let digest = Sha256::digest(fs::read(&path).unwrap());
            let digest = digest.iter().map(|byte| format!("{byte:02x}")).collect();
            (path.file_name().unwrap().into(), digest)
        })
        .collect()
}

/// What the map of a volume takes because it is in use.
pub(super) fn used_of(volume: &dyn crate::device::ReadAt, name: &str) -> ExtentList {
    let any = disk_of(&plain().path());
    let info = DiskInfo {
        size_bytes: volume.size().0,
        ..DiskInfo::from(any.identity())
    };
    let map = DiskMap::of(volume, info).unwrap();
    let filesystem = map
        .regions
        .iter()
        .find(|region| region.policy == Policy::UsedBlocks)
        .unwrap_or_else(|| panic!("the filesystem was not understood: {:#?}", map.regions));
    assert_eq!(filesystem.filesystem.as_deref(), Some(name));
    map.extents.subtract(map.nonzero_only())
}
