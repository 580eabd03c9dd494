//! btrfs in files: made by mkfs.btrfs on soiled ground, mounted by this machine's kernel through
//! loop devices, filled the way people fill it.

use crate::map_support::mount::privileged;
use crate::map_support::{Noise, arg, digests, make_tree, run, soiled_file};
use haulier::device::{Disk, ReadAt};
use haulier::usedmap::btrfs::{DeviceMap, map_devices};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

pub const MIB: u64 = 1 << 20;

pub type Digests = BTreeMap<PathBuf, String>;

/// Loop devices for files; detached when dropped.
pub struct Attached {
    pub loops: Vec<String>,
}

impl Attached {
    pub fn new(images: &[PathBuf]) -> Self {
        let attach = |image: &PathBuf| {
            let shown = privileged("losetup", &["--find", "--show", arg(image)]);
            shown.trim().to_owned()
        };
        Self {
            loops: images.iter().map(attach).collect(),
        }
    }

    /// btrfs's own checker, which finds the other devices by itself.
    pub fn check(&self, when: &str) {
        let output = crate::map_support::try_run(
            "btrfs",
            &["check", "--readonly", "--check-data-csum", &self.loops[0]],
        );
        let said = String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success() && said.contains("no error found"),
            "btrfs check {when}: {said}"
        );
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        for device in &self.loops {
            // The kernel remembers devices that it has seen; a copy with the same UUID may follow.
            let forget = ["device", "scan", "--forget", device.as_str()];
            let _ = crate::map_support::try_run("btrfs", &forget);
            let _ = crate::map_support::try_run("losetup", &["-d", device]);
        }
    }
}

/// A mounted filesystem with all the devices that it may need.
pub struct Mounted {
    pub at: PathBuf,
    pub attached: Attached,
}

impl Mounted {
    /// The first `devices` of the images belong to it, the others are spare.
    pub fn new(images: &[PathBuf], devices: usize, at: &Path, options: &str) -> Self {
        let attached = Attached::new(images);
        fs::create_dir_all(at).unwrap();
        let mut all: Vec<String> = attached
            .loops
            .iter()
            .take(devices)
            .map(|device| format!("device={device}"))
            .collect();
        all.push("nodiscard".into());
        if !options.is_empty() {
            all.push(options.into());
        }
        let options = all.join(",");
        let device = attached.loops[0].clone();
        let mounted = Self {
            at: at.to_owned(),
            attached,
        };
        privileged("mount", &["-t", "btrfs", "-o", &options, &device, arg(at)]);
        mounted
    }

    pub fn btrfs(&self, words: &[&str]) -> String {
        let mut words = words.to_vec();
        words.push(arg(&self.at));
        privileged("btrfs", &words)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.at.join(name)
    }

    /// Reads everything, all copies and parities, and finds nothing wrong.
    pub fn scrub(&self) {
        let said = self.btrfs(&["scrub", "start", "-B"]);
        assert!(said.contains("no errors found"), "btrfs scrub: {said}");
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let done = crate::map_support::try_run("umount", &[arg(&self.at)])
            .status
            .success();
        if !std::thread::panicking() {
            assert!(done, "umount {}", self.at.display());
        }
    }
}

/// How a filesystem is made.
#[derive(Clone, Copy)]
pub struct Variant {
    pub name: &'static str,
    /// How many devices mkfs gets.
    pub devices: usize,
    /// How many more there are.
    pub spare: usize,
    /// What each of them has.
    pub size: u64,
    pub mkfs: &'static [&'static str],
    pub mount: &'static str,
    /// What is done to it once it is filled.
    pub after: fn(&Mounted),
    /// What is done to its first image once it is unmounted.
    pub offline: fn(&Path),
    /// How many devices may be lost.
    pub can_lose: usize,
}

pub const fn variant(name: &'static str, mkfs: &'static [&'static str]) -> Variant {
    Variant {
        name,
        devices: 1,
        spare: 0,
        size: 176 * MIB,
        mkfs,
        mount: "",
        after: |_| {},
        offline: |_| {},
        can_lose: 0,
    }
}

pub const fn spanning(
    name: &'static str,
    devices: usize,
    can_lose: usize,
    mkfs: &'static [&'static str],
) -> Variant {
    Variant {
        devices,
        can_lose,
        ..variant(name, mkfs)
    }
}

/// A filesystem that was filled and unmounted.
pub struct Fixture {
    pub variant: Variant,
    pub dir: TempDir,
    /// Of the devices that belong to it.
    pub images: Vec<PathBuf>,
    pub files: Digests,
}

impl Fixture {
    pub fn make(variant: Variant) -> Self {
        let mut fixture = Self::empty(variant);
        let mounted = fixture.mount(variant.mount);
        fill(&mounted);
        (variant.after)(&mounted);
        drop(mounted);
        (variant.offline)(&fixture.images[0]);
        fixture.images.retain(|image| is_btrfs(image));
        let mounted = fixture.mount("ro");
        fixture.files = digests(&mounted.at);
        drop(mounted);
        assert!(fixture.files.len() > 30, "too few files to prove anything");
        fixture
    }

    /// Freshly made.
    pub fn empty(variant: Variant) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let images: Vec<PathBuf> = (0..variant.devices + variant.spare)
            .map(|number| dir.path().join(format!("disk{number}.img")))
            .collect();
        for image in &images {
            soiled_file(image, variant.size, 0xEE);
        }
        let mut args = vec!["-q", "-f", "-K", "-L", variant.name];
        args.extend(variant.mkfs);
        args.extend(images.iter().take(variant.devices).map(|image| arg(image)));
        run("mkfs.btrfs", &args);
        Self {
            variant,
            dir,
            images,
            files: Digests::new(),
        }
    }

    pub fn mount(&self, options: &str) -> Mounted {
        let devices = self.images.len().min(self.variant.devices);
        let at = self.dir.path().join("mnt");
        Mounted::new(&self.images, devices, &at, options)
    }

    pub fn check(&self, when: &str) {
        Attached::new(&self.images).check(when);
    }

    pub fn map(&self) -> Vec<DeviceMap> {
        map(&self.images)
    }

    /// Mounts it without its first devices, which must not be missed.
    pub fn lose_devices(&self) {
        let lost = self.variant.can_lose;
        let left = &self.images[lost..];
        let at = self.dir.path().join("mnt");
        let mounted = Mounted::new(left, left.len(), &at, "ro,degraded");
        assert!(
            digests(&mounted.at) == self.files,
            "without {lost} devices the files are others"
        );
    }
}

/// The maps of the devices in files.
pub fn map(images: &[PathBuf]) -> Vec<DeviceMap> {
    let disks: Vec<Disk> = images
        .iter()
        .map(|image| Disk::open(image).unwrap())
        .collect();
    let volumes: Vec<&dyn ReadAt> = disks.iter().map(|disk| disk as &dyn ReadAt).collect();
    map_devices(&volumes)
}

/// A device that was taken out has no superblock any more.
fn is_btrfs(image: &Path) -> bool {
    let mut magic = [0; 8];
    let file = fs::File::open(image).unwrap();
    file.read_exact_at(&mut magic, 0x1_0040).unwrap();
    &magic == b"_BHRfS_M"
}

/// Files, subvolumes, snapshots, shared and preallocated extents; about half of it deleted, the
/// holes filled again.
pub fn fill(mounted: &Mounted) {
    let mut noise = Noise(0x9E37_79B9_7F4A_7C15);
    let sync = || mounted.btrfs(&["filesystem", "sync"]);
    privileged("btrfs", &["subvolume", "create", arg(&mounted.path("sub"))]);
    make_tree(&mounted.path("tree"), &mut noise, 12 * MIB);
    make_tree(&mounted.path("sub/tree"), &mut noise, 6 * MIB);
    sync();
    for snapshot in ["kept", "dropped"] {
        let (from, to) = (mounted.path("sub"), mounted.path(snapshot));
        privileged("btrfs", &["subvolume", "snapshot", arg(&from), arg(&to)]);
    }
    for folder in ["tree", "sub/tree"] {
        let folder = mounted.path(folder);
        for name in digests(&folder).into_keys().step_by(2) {
            fs::remove_file(folder.join(name)).unwrap();
        }
    }
    sync();
    for number in 0..24 {
        let len = 1 + noise.below(MIB);
        fs::write(mounted.path(&format!("w{number}")), noise.bytes(len)).unwrap();
    }
    // Pieces of shared and of own extents written anew.
    let shared = mounted.path("shared");
    run(
        "cp",
        &["--reflink=always", arg(&mounted.path("w1")), arg(&shared)],
    );
    for name in ["shared", "w3", "w5"] {
        let file = fs::OpenOptions::new()
            .write(true)
            .open(mounted.path(name))
            .unwrap();
        for _ in 0..24 {
            let at = noise.below(200_000);
            file.write_all_at(&noise.bytes(5000), at).unwrap();
        }
        file.sync_all().unwrap();
    }
    run(
        "fallocate",
        &["-l", "2M", arg(&mounted.path("preallocated"))],
    );
    // Small ones, of which some lie in the tree itself.
    for number in 0..400 {
        let len = noise.below(5000);
        fs::write(mounted.path(&format!("sub/s{number}")), noise.bytes(len)).unwrap();
    }
    sync();
    for number in (0..24).step_by(2) {
        fs::remove_file(mounted.path(&format!("w{number}"))).unwrap();
    }
    let dropped = mounted.path("dropped");
    privileged("btrfs", &["subvolume", "delete", "-C", arg(&dropped)]);
    mounted.btrfs(&["subvolume", "sync"]);
}
