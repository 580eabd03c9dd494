//! XFS in image files: the variants, how each is made and filled, and what xfs_db says of it.

#![allow(dead_code, unreachable_pub)]

pub mod offline;
pub mod patch;

use crate::map_support::mount::{Mounted, privileged};
use crate::map_support::proof::fill_and_thin_out;
use crate::map_support::{Noise, arg, digests, fill, run, soiled_file, try_run};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

pub const MIB: u64 = 1 << 20;
pub const SIZE: u64 = 128 * MIB;

/// One way to make the filesystem.
#[derive(Clone, Copy)]
pub struct Variant {
    pub name: &'static str,
    pub mkfs: &'static [&'static str],
    /// What is done beside filling it.
    pub after: After,
}

#[derive(Clone, Copy, PartialEq)]
pub enum After {
    Nothing,
    /// Made on half of the disk, grown while mounted.
    Grow,
    /// Made on half of the disk and left so.
    Smaller,
    /// `xfs_admin -U`.
    OtherUuid,
    /// Every second of thousands of one-block files deleted.
    ManyHoles,
    /// Features that mkfs.xfs 6.1 cannot make, but Linux 6.18 knows, set in the superblock: EXCHRANGE
    /// and PARENT.
    NewFeatures,
    /// Filled by mkfs.xfs and xfs_repair, read by xfs_db.
    Offline,
    /// The same with a realtime section in another file.
    OfflineRealtime,
}

const fn variant(name: &'static str, mkfs: &'static [&'static str], after: After) -> Variant {
    Variant { name, mkfs, after }
}

pub const VARIANTS: &[Variant] = &[
    variant("xfs_default", &["-l", "size=10m"], After::Nothing),
    variant(
        "blocks_of_1_kib",
        &["-b", "size=1024", "-l", "size=10m"],
        After::Nothing,
    ),
    variant(
        "blocks_of_2_kib",
        &["-b", "size=2048", "-l", "size=10m", "-d", "agcount=7"],
        After::Nothing,
    ),
    variant(
        "blocks_of_64_kib",
        &["-b", "size=65536", "-d", "agcount=2", "-l", "size=32m"],
        After::Nothing,
    ),
    variant(
        "sectors_of_4_kib",
        &["-s", "size=4096", "-l", "size=10m"],
        After::Nothing,
    ),
    variant(
        "every_feature",
        &[
            "-m",
            "rmapbt=1,reflink=1,finobt=1,inobtcount=1,bigtime=1",
            "-i",
            "sparse=1,nrext64=1",
            "-d",
            "agcount=5",
            "-l",
            "size=16m",
        ],
        After::Nothing,
    ),
    variant(
        "few_features",
        &[
            "-m",
            "rmapbt=0,reflink=0,finobt=0,inobtcount=0,bigtime=0",
            "-i",
            "sparse=0,nrext64=0",
            "-l",
            "size=10m",
        ],
        After::Nothing,
    ),
    variant(
        "striped",
        &[
            "-d",
            "su=64k,sw=4,agcount=4",
            "-l",
            "size=20m,su=256k,agnum=3",
        ],
        After::Nothing,
    ),
    variant(
        "large_inodes",
        &["-i", "size=2048", "-n", "size=65536", "-l", "size=10m"],
        After::Nothing,
    ),
    variant("other_meta_uuid", &["-l", "size=10m"], After::OtherUuid),
    variant("grown", &["-l", "size=10m"], After::Grow),
    variant("smaller_than_its_disk", &["-l", "size=10m"], After::Smaller),
    variant(
        "deep_trees",
        &["-b", "size=1024", "-l", "size=10m", "-m", "rmapbt=1"],
        After::ManyHoles,
    ),
    variant(
        "exchange_and_parent",
        &["-l", "size=16m"],
        After::NewFeatures,
    ),
    variant("v4", &["-m", "crc=0", "-l", "size=10m"], After::Offline),
    variant(
        "v4_blocks_of_512_bytes",
        &["-m", "crc=0", "-b", "size=512", "-l", "size=10m"],
        After::Offline,
    ),
    variant(
        "v4_no_lazy_counters",
        &[
            "-m",
            "crc=0",
            "-l",
            "size=10m,lazy-count=0",
            "-d",
            "agcount=6",
        ],
        After::Offline,
    ),
    variant(
        "v4_log_of_version_1",
        &["-m", "crc=0", "-l", "size=10m,version=1"],
        After::Offline,
    ),
    variant(
        "case_insensitive",
        &["-n", "version=ci", "-l", "size=10m"],
        After::Offline,
    ),
    variant("realtime", &["-l", "size=10m"], After::OfflineRealtime),
];

/// A filled filesystem in a file.
pub struct Fixture {
    pub dir: TempDir,
    pub image: PathBuf,
    pub files: BTreeMap<PathBuf, String>,
    after: After,
}

impl Fixture {
    pub fn make(variant: Variant) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("disk.img");
        soiled_file(&image, SIZE, 0xEE);
        let fixture = Self {
            files: BTreeMap::new(),
            image,
            dir,
            after: variant.after,
        };
        fixture.make_filesystem(variant);
        fixture.check("before the map is taken");
        let files = fixture.read_files();
        assert!(
            files.len() > 30,
            "too few files to prove anything: {}",
            files.len()
        );
        Self { files, ..fixture }
    }

    fn make_filesystem(&self, variant: Variant) {
        match variant.after {
            After::Offline | After::OfflineRealtime => offline::make(self, variant),
            _ => {
                let half = format!("size={}", SIZE / 2);
                let mut more = vec!["-L", variant.name.get(..12).unwrap_or(variant.name)];
                if matches!(variant.after, After::Grow | After::Smaller) {
                    more.extend(["-d", &half]);
                }
                mkfs(variant.mkfs, &more, &self.image);
                if variant.after == After::NewFeatures {
                    patch::set_incompat(&self.image, 0xC0);
                }
                if variant.after == After::OtherUuid {
                    run("xfs_admin", &["-U", "generate", arg(&self.image)]);
                }
                let mounted = Mounted::new(&self.image, &self.dir.path().join("mnt"), "");
                let mut noise = Noise(0x9E37_79B9_7F4A_7C15);
                if variant.after == After::Grow {
                    privileged("xfs_growfs", &[arg(mounted.path())]);
                }
                if variant.after == After::ManyHoles {
                    make_many_holes(mounted.path());
                }
                fill_and_thin_out(mounted.path(), &mut noise, 18 * MIB, 30, MIB);
                mounted.unmount();
            }
        }
    }

    /// The filesystem's own checker finds nothing, in every file, folder and tree.
    pub fn check(&self, when: &str) {
        // xfs_repair 6.1 does not know the new features.
        if self.after == After::NewFeatures {
            return;
        }
        let realtime = self.realtime();
        let mut args = vec!["-n", "-f"];
        if self.after == After::OfflineRealtime {
            args.extend(["-r", arg(&realtime)]);
        }
        args.push(arg(&self.image));
        let output = try_run("xfs_repair", &args);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "xfs_repair {when}: {said}");
    }

    pub fn realtime(&self) -> PathBuf {
        self.dir.path().join("realtime.img")
    }

    pub fn read_files(&self) -> BTreeMap<PathBuf, String> {
        if matches!(self.after, After::Offline | After::OfflineRealtime) {
            return offline::read_files(self);
        }
        let at = self.dir.path().join("mnt");
        let mounted = Mounted::new(&self.image, &at, "ro,norecovery,nouuid");
        let files = digests(mounted.path());
        mounted.unmount();
        files
    }

    /// What xfs_db prints for a field.
    pub fn field(&self, place: &str, name: &str) -> u64 {
        let printed = run(
            "xfs_db",
            &[
                "-r",
                "-c",
                place,
                "-c",
                &format!("p {name}"),
                arg(&self.image),
            ],
        );
        let value = printed.rsplit('=').next().unwrap().trim();
        value
            .parse()
            .unwrap_or_else(|_| panic!("xfs_db says of {name}: {printed}"))
    }

    pub fn size_by_xfs_db(&self) -> u64 {
        self.field("sb 0", "dblocks") * self.field("sb 0", "blocksize")
    }

    /// What is not free by the groups' headers.
    pub fn used_by_xfs_db(&self) -> u64 {
        let free: u64 = self.of_every_group("freeblks").iter().sum();
        self.size_by_xfs_db() - free * self.field("sb 0", "blocksize")
    }

    /// A field of the free space header of each group.
    fn of_every_group(&self, name: &str) -> Vec<u64> {
        let print = format!("p {name}");
        let groups: Vec<String> = (0..self.field("sb 0", "agcount"))
            .map(|group| format!("agf {group}"))
            .collect();
        let mut args = vec!["-r"];
        for group in &groups {
            args.extend(["-c", group, "-c", &print]);
        }
        args.push(arg(&self.image));
        run("xfs_db", &args)
            .lines()
            .map(|line| line.rsplit('=').next().unwrap().trim().parse().unwrap())
            .collect()
    }

    pub fn group_bytes(&self) -> u64 {
        self.field("sb 0", "agblocks") * self.field("sb 0", "blocksize")
    }

    pub fn log_at(&self) -> u64 {
        offline::log_at(&self.image)
    }

    pub fn deepest_tree(&self) -> u64 {
        self.of_every_group("bnolevel").into_iter().max().unwrap()
    }

    pub fn first_byte_of(&self, path: &str) -> u64 {
        let place = &offline::places_of(&self.image, &[path])[0];
        place.extents[0].0
    }
}

/// Runs mkfs.xfs as its own tests run it: so it makes filesystems of less than 300 MiB too.
pub fn mkfs(args: &[&str], more: &[&str], image: &Path) {
    let path = std::env::var("PATH").unwrap_or_default();
    let output = Command::new("mkfs.xfs")
        .args(["-q", "-f", "-K"])
        .args(args)
        .args(more)
        .arg(image)
        .env("PATH", format!("{path}:/usr/sbin:/sbin"))
        .envs([("TEST_DIR", "/"), ("TEST_DEV", "/"), ("QA_CHECK_FS", "1")])
        .output()
        .expect("this test needs the program mkfs.xfs");
    assert!(
        output.status.success(),
        "mkfs.xfs {args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

fn make_many_holes(root: &Path) {
    let holes = root.join("holes");
    fs::create_dir(&holes).unwrap();
    for number in 0..3000 {
        fs::write(holes.join(format!("h{number}")), [7; 1000]).unwrap();
    }
    run("sync", &["-f", arg(root)]);
    for number in (0..3000).step_by(2) {
        fs::remove_file(holes.join(format!("h{number}"))).unwrap();
    }
}

/// Overwrites all that lies behind the filesystem.
pub fn soil_behind(image: &Path, from: u64) {
    let file = fs::OpenOptions::new().write(true).open(image).unwrap();
    fill(&file, from, SIZE, 0xEE);
}
