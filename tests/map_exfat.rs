//! The proof for exFAT: a real mkfs.exfat makes each variant on soiled ground, exfat-fuse fills it,
//! deletes half and fills again in the holes; then every byte outside the map is overwritten, and
//! neither fsck.exfat nor the digest of any file may notice.
//!
//! Mounting is done by FUSE on a loop device, by root or with sudo.

mod map_support;

use haulier::device::{Disk, MemDisk};
use haulier::extent::{Extent, ExtentList};
use haulier::usedmap::{DiskInfo, DiskMap, Policy, State};
use map_support::mount::Mounted;
use map_support::proof::{
    Peer, Rows, assert_all_taken, clean_map, filesystem, fill_and_thin_out, hole_punch, read_bytes,
    sound_map, write_bytes,
};
use map_support::ratios::Row;
use map_support::{Noise, arg, digests, punch, run, soiled_file};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use tempfile::TempDir;

const MIB: u64 = 1 << 20;

/// One way to make the filesystem.
#[derive(Clone, Copy)]
struct Variant {
    name: &'static str,
    mib: u64,
    mkfs: &'static [&'static str],
}

const fn variant(name: &'static str, mkfs: &'static [&'static str]) -> Variant {
    Variant {
        name,
        mib: 64,
        mkfs,
    }
}

const VARIANTS: &[Variant] = &[
    variant("default", &[]),
    variant("sectors", &["-c", "512"]),
    variant("c_4_kib", &["-c", "4K"]),
    variant("c_32_kib", &["-c", "32K"]),
    Variant {
        mib: 320,
        ..variant("c_1_mib", &["-c", "1M"])
    },
    variant("packed", &["--pack-bitmap"]),
    variant("aligned", &["-b", "64K"]),
];

/// A filled filesystem in a file.
struct Fixture {
    dir: TempDir,
    image: PathBuf,
    files: BTreeMap<PathBuf, String>,
}

fn mount(image: &Path, dir: &Path, options: &str) -> Mounted {
    Mounted::of_type(
        "exfat-fuse",
        image,
        &dir.join("mnt"),
        &format!("umask=0,{options}"),
    )
}

impl Fixture {
    fn make(variant: Variant) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("disk.img");
        soiled_file(&image, variant.mib * MIB, 0xEE);
        let args = [&["-L", variant.name], variant.mkfs, &[arg(&image)]].concat();
        run("mkfs.exfat", &args);
        let mounted = mount(&image, dir.path(), "");
        let mut noise = Noise(0x9E37_79B9_7F4A_7C15);
        fill_and_thin_out(mounted.path(), &mut noise, 10 * MIB, 20, MIB / 2);
        mounted.unmount();
        let fixture = Self {
            files: BTreeMap::new(),
            image,
            dir,
        };
        fixture.check();
        let files = fixture.read_files();
        assert!(files.len() > 15, "only {} files prove little", files.len());
        Self { files, ..fixture }
    }

    /// fsck.exfat finds nothing.
    fn check(&self) {
        let said = run("fsck.exfat", &["-n", arg(&self.image)]);
        assert!(said.contains(": clean."), "{said}");
    }

    fn read_files(&self) -> BTreeMap<PathBuf, String> {
        let mounted = mount(&self.image, self.dir.path(), "ro");
        let files = digests(mounted.path());
        mounted.unmount();
        files
    }
}

fn survives_with_only_its_used_clusters(variant: Variant) {
    let fixture = Fixture::make(variant);
    let map = sound_map(&fixture.image, "exfat", Some(variant.name));
    is_tight(variant, &fixture, &map);
    punch(&fixture.image, &map.extents);
    fixture.check();
    assert_eq!(fixture.read_files(), fixture.files);
}

hole_punch! { survives_with_only_its_used_clusters: default sectors c_4_kib c_32_kib c_1_mib packed aligned }

/// The rows of every variant, printed once all are there.
static ROWS: Rows = Rows::new();

/// Copying everything is no way out: not more than dump.exfat calls used, and not less than
/// partclone would copy.
fn is_tight(variant: Variant, fixture: &Fixture, map: &DiskMap) {
    let dump = run("dump.exfat", &[arg(&fixture.image)]);
    let field = |name: &str| -> u64 {
        let line = dump.lines().find_map(|line| line.strip_prefix(name));
        line.expect(name).trim().parse().unwrap()
    };
    let cluster = field("Cluster size:");
    let clusters = field("Total Clusters:");
    let region = filesystem(map);
    let peer = Peer::asked("partclone.exfat", &fixture.image, fixture.dir.path(), map);
    let row = Row {
        variant: variant.name.into(),
        haulier: region.used_bytes,
        own: (clusters - field("Free Clusters:")) * cluster,
        // The boot regions and the table, and what is too short for a cluster.
        uncounted: region.length_bytes - clusters * cluster,
        partclone: peer.bytes,
    };
    assert!(peer.bytes.is_some(), "partclone refuses what we map");
    ROWS.add(row, VARIANTS.len(), "exfat", "dump.exfat");
}

/// A small sound filesystem with a file of 100 kB in it.
struct Sound {
    dir: TempDir,
    image: PathBuf,
}

impl Sound {
    fn make(options: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("disk.img");
        fs::File::create(&image).unwrap().set_len(16 * MIB).unwrap();
        run("mkfs.exfat", &[options, &[arg(&image)]].concat());
        let mounted = mount(&image, dir.path(), "");
        fs::write(mounted.path().join("file"), vec![0x33; 100_000]).unwrap();
        mounted.unmount();
        let sound = Self { dir, image };
        clean_map(&sound.image);
        sound
    }

    fn new() -> Self {
        Self::make(&["-c", "4K"])
    }

    fn read(&self, at: u64, len: usize) -> Vec<u8> {
        read_bytes(&self.image, at, len)
    }

    fn write(&self, at: u64, bytes: &[u8]) {
        write_bytes(&self.image, at, bytes);
    }

    fn field(&self, at: u64) -> u64 {
        u64::from(u32::from_le_bytes(self.read(at, 4).try_into().unwrap()))
    }

    fn cluster_size(&self) -> u64 {
        512 << self.read(0x6D, 1)[0]
    }

    fn cluster_at(&self, number: u64) -> u64 {
        self.field(0x58) * 512 + (number - 2) * self.cluster_size()
    }

    fn entry_at(&self, number: u64) -> u64 {
        self.field(0x50) * 512 + number * 4
    }

    /// Where the entry of that type is in the root directory.
    fn root_entry(&self, kind: u8) -> u64 {
        let root = self.cluster_at(self.field(0x60));
        (root..)
            .step_by(32)
            .take(20)
            .find(|&at| self.read(at, 1)[0] == kind)
            .expect("the root directory has that entry")
    }

    /// The first cluster of the allocation bitmap.
    fn bitmap(&self) -> u64 {
        self.field(self.root_entry(0x81) + 20)
    }

    /// Brings the checksum of the boot region up to date.
    fn sum_up(&self) {
        let region = self.read(0, 11 * 512);
        let sum = (0..).zip(&region).fold(0_u32, |sum, (at, &byte)| match at {
            0x6A | 0x6B | 0x70 => sum,
            _ => sum.rotate_right(1).wrapping_add(u32::from(byte)),
        });
        self.write(11 * 512, &sum.to_le_bytes().repeat(128));
    }
}

#[test]
fn a_filesystem_that_was_not_unmounted() {
    let sound = Sound::new();
    sound.write(0x6A, &[2]);
    assert_all_taken(
        &sound.image,
        State::Dirty,
        "it was not unmounted (boot the server once",
    );
    assert_all_taken(&sound.image, State::Dirty, "up to 16.7 MB instead of about");
    sound.write(0x6A, &[4]);
    assert_all_taken(
        &sound.image,
        State::Dirty,
        "it has recorded read or write errors",
    );
    sound.write(0x6A, &[0]);
    clean_map(&sound.image);
}

#[test]
fn a_boot_region_that_does_not_match_its_checksum() {
    let sound = Sound::new();
    sound.write(512 + 7, &[9]);
    assert_all_taken(&sound.image, State::Damaged, "does not match its checksum");
    sound.sum_up();
    clean_map(&sound.image);
    // The last copy of the sum counts too.
    sound.write(12 * 512 - 1, &[0x55]);
    assert_all_taken(&sound.image, State::Damaged, "does not match its checksum");
}

#[test]
fn what_we_do_not_know() {
    for (at, byte, words) in [
        (0x69, 2, "exFAT of revision 0x0200"),
        (0x6E, 2, "exFAT with 2 file allocation tables"),
    ] {
        let sound = Sound::new();
        sound.write(at, &[byte]);
        sound.sum_up();
        assert_all_taken(&sound.image, State::Unsupported, words);
    }
}

#[test]
fn sizes_that_contradict_each_other() {
    for (at, byte) in [(0x4A, 0x77), (0x5E, 0x11), (0x60, 1), (0x6C, 13)] {
        let sound = Sound::new();
        sound.write(at, &[byte]);
        sound.sum_up();
        assert_all_taken(&sound.image, State::Damaged, "the boot sector claims");
    }
}

#[test]
fn a_root_directory_without_its_bitmap() {
    let sound = Sound::new();
    sound.write(sound.root_entry(0x81), &[0x01]);
    assert_all_taken(
        &sound.image,
        State::Damaged,
        "no entry for the allocation bitmap",
    );
    let sound = Sound::new();
    sound.write(sound.root_entry(0x82), &[0x02]);
    assert_all_taken(
        &sound.image,
        State::Damaged,
        "no entry for the up-case table",
    );
}

#[test]
fn a_bitmap_that_calls_itself_free() {
    for kind in [0x81, 0x82] {
        let sound = Sound::new();
        let number = sound.field(sound.root_entry(kind) + 20) - 2;
        let at = sound.cluster_at(sound.bitmap()) + number / 8;
        let byte = sound.read(at, 1)[0];
        sound.write(at, &[byte & !(1 << (number % 8))]);
        let what = if kind == 0x81 {
            "the allocation bitmap"
        } else {
            "the up-case table"
        };
        let words = format!("the allocation bitmap calls clusters of {what} free");
        assert_all_taken(&sound.image, State::Damaged, &words);
    }
}

#[test]
fn chains_that_loop_end_or_lead_outside() {
    for (next, words) in [
        (0_u32, "leads outside"),
        (0xFFFF_FFF7, "leads outside"),
        (2, "is longer than it can be"),
    ] {
        let sound = Sound::new();
        // The first cluster of the bitmap leads there, or to itself.
        let next = if next == 2 {
            u32::try_from(sound.bitmap()).unwrap()
        } else {
            next
        };
        sound.write(sound.entry_at(sound.bitmap()), &next.to_le_bytes());
        assert_all_taken(&sound.image, State::Damaged, words);
    }
    let sound = Sound::new();
    let root = sound.field(0x60);
    let next = u32::try_from(root).unwrap().to_le_bytes();
    sound.write(sound.entry_at(root), &next);
    assert_all_taken(
        &sound.image,
        State::Damaged,
        "the cluster chain of the root directory",
    );
}

/// The bitmap in clusters that do not lie side by side: the second one is moved behind everything.
#[test]
fn a_bitmap_in_pieces() {
    let sound = Sound::make(&["-c", "512"]);
    let before = clean_map(&sound.image);
    let bitmap = sound.bitmap();
    let moved = 20_000;
    assert_eq!(
        sound.field(sound.entry_at(bitmap)),
        bitmap + 1,
        "it has a second cluster"
    );
    let after = sound.field(sound.entry_at(bitmap + 1));
    let moved_bytes = u32::try_from(moved).unwrap().to_le_bytes();
    sound.write(sound.entry_at(bitmap), &moved_bytes);
    let after = u32::try_from(after).unwrap().to_le_bytes();
    sound.write(sound.entry_at(moved), &after);
    let second = sound.read(sound.cluster_at(bitmap + 1), 512);
    sound.write(sound.cluster_at(moved), &second);
    // What was there misleads now.
    sound.write(sound.cluster_at(bitmap + 1), &[0xFF; 512]);
    // Used, as it is now; its bit is in the fifth cluster of the bitmap.
    let bit = moved - 2;
    let byte_at = bit / 8;
    assert_eq!(byte_at / 512, 4);
    let at = sound.cluster_at(bitmap + 4) + byte_at % 512;
    let byte = sound.read(at, 1)[0];
    sound.write(at, &[byte | 1 << (bit % 8)]);
    let start = sound.cluster_at(moved);
    let piece: ExtentList = Extent::between(start, start + 512).into_iter().collect();
    assert_eq!(
        clean_map(&sound.image).extents,
        before.extents.union(&piece)
    );
}

#[test]
fn a_filesystem_smaller_than_its_partition() {
    let sound = Sound::new();
    let file = fs::OpenOptions::new().write(true).open(&sound.image);
    file.unwrap().set_len(18 * MIB).unwrap();
    let map = clean_map(&sound.image);
    assert_eq!(map.regions[0].length_bytes, 16 * MIB);
    assert_eq!(map.regions[1].policy, Policy::CopyNonzero);
    assert_eq!(map.regions[1].length_bytes, 2 * MIB);
    assert!(sound.dir.path().exists());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    /// Whatever a few bytes of the metadata say: an answer, soon, and inside the volume.
    #[test]
    fn hostile_metadata_is_survived(
        wounds in prop::collection::vec((0_usize..4, 0_usize..128, any::<u8>()), 1..6),
        summed in prop::bool::weighted(0.9),
    ) {
        static SOUND: OnceLock<(Sound, DiskInfo, [u64; 4])> = OnceLock::new();
        let (sound, info, places) = SOUND.get_or_init(|| {
            let sound = Sound::new();
            let info = DiskInfo::from(Disk::open(&sound.image).unwrap().identity());
            let bitmap = sound.cluster_at(sound.bitmap());
            let places = [0x40, sound.entry_at(0), sound.root_entry(0x81), bitmap];
            (sound, info, places)
        });
        let copy = tempfile::tempdir().unwrap();
        let image = copy.path().join("disk.img");
        fs::copy(&sound.image, &image).unwrap();
        let hurt = Sound { dir: copy, image };
        for (place, at, value) in wounds {
            // The fields of the boot sector are from 0x40 to 0x71.
            let at = if place == 0 { at % 0x31 } else { at };
            hurt.write(places[place] + u64::try_from(at).unwrap(), &[value]);
        }
        if summed {
            hurt.sum_up();
        }
        let bytes = fs::read(&hurt.image).unwrap();
        let size = u64::try_from(bytes.len()).unwrap();
        let map = DiskMap::of(&MemDisk(bytes), info.clone()).unwrap();
        prop_assert!(map.extents.iter().all(|extent| extent.end() <= size));
    }
}
