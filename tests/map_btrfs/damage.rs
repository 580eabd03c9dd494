//! One thing broken in a good filesystem at a time: the answer has to be the one that is right for
//! it, and no input may do worse than that.

use crate::fixture::{Fixture, MIB, Variant, map, spanning, variant};
use crate::map_support::{Noise, arg, run};
use crate::own::physical;
use haulier::device::{MemDisk, ReadAt};
use haulier::error::Result;
use haulier::units::{ByteLen, ByteOffset};
use haulier::usedmap::State;
use haulier::usedmap::btrfs::{DeviceMap, map_devices};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, OnceLock};

const SUPERBLOCK: u64 = 64 << 10;
const COPY: u64 = 64 << 20;
const NODESIZE: usize = 16_384;

const SMALL: Variant = Variant {
    size: 130 * MIB,
    ..variant("small", &[])
};

/// A filled filesystem with DUP metadata, in memory, and where its trees begin.
struct Good {
    disk: Arc<MemDisk>,
    /// Both places of each tree's root.
    roots: BTreeMap<&'static str, Vec<u64>>,
}

fn good() -> &'static Good {
    static GOOD: OnceLock<Good> = OnceLock::new();
    GOOD.get_or_init(|| {
        let fixture = Fixture::make(SMALL);
        let image = fixture.images[0].as_path();
        let trees = ["extent", "dev", "chunk", "root"];
        Good {
            roots: trees.map(|tree| (tree, root_of(image, tree))).into(),
            disk: Arc::new(MemDisk(std::fs::read(image).unwrap())),
        }
    })
}

pub fn root_of(image: &Path, tree: &str) -> Vec<u64> {
    let words = ["inspect-internal", "dump-tree", "-t", tree, arg(image)];
    let dump = run("btrfs", &words);
    let root = dump
        .lines()
        .find_map(|line| line.strip_prefix("leaf ").or(line.strip_prefix("node ")));
    physical(arg(image), root.unwrap().split(' ').next().unwrap())
}

/// A disk with some bytes replaced.
pub struct Patched {
    disk: Arc<MemDisk>,
    patches: BTreeMap<u64, Vec<u8>>,
}

impl ReadAt for Patched {
    fn size(&self) -> ByteLen {
        self.disk.size()
    }

    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> Result<()> {
        self.disk.read_at(offset, buf)?;
        let end = offset.0 + buf.len() as u64;
        for (&at, bytes) in &self.patches {
            for (byte, at) in bytes.iter().zip(at..) {
                if (offset.0..end).contains(&at) {
                    buf[(at - offset.0) as usize] = *byte;
                }
            }
        }
        Ok(())
    }

    fn name(&self) -> String {
        "patched".into()
    }
}

impl Patched {
    /// The good one, still unpatched.
    fn new() -> Self {
        Self::of(&good().disk)
    }

    pub fn of(disk: &Arc<MemDisk>) -> Self {
        Self {
            disk: Arc::clone(disk),
            patches: BTreeMap::new(),
        }
    }

    fn block(&self, at: u64, len: usize) -> Vec<u8> {
        let mut block = vec![0; len];
        self.read_at(ByteOffset(at), &mut block).unwrap();
        block
    }

    /// Changes a block and gives it its right checksum again.
    pub fn with(mut self, at: u64, len: usize, change: impl Fn(&mut [u8])) -> Self {
        let mut block = self.block(at, len);
        change(&mut block);
        let sum = crc::Crc::<u32>::new(&crc::CRC_32_ISCSI).checksum(&block[32..]);
        block[..4].copy_from_slice(&sum.to_le_bytes());
        self.patches.insert(at, block);
        self
    }

    fn with_superblock(self, change: impl Fn(&mut [u8])) -> Self {
        self.with(SUPERBLOCK, 4096, change)
    }

    /// Destroys some copies of a tree's root.
    fn without(mut self, tree: &str, copies: usize) -> Self {
        for &at in good().roots[tree].iter().take(copies) {
            self.patches.insert(at + 0x80, vec![0xFF; 64]);
        }
        self
    }

    pub fn map(&self) -> DeviceMap {
        map_devices(&[self]).remove(0)
    }

    /// Nothing is mapped, for this reason.
    pub fn is_refused(&self, state: State, why: &str) {
        let map = self.map();
        assert!(map.used.is_none(), "mapped: {}", map.reason);
        assert_eq!(map.state, state, "{}", map.reason);
        assert!(map.reason.contains(why), "{}", map.reason);
    }

    /// All that is allocated is mapped, for this reason.
    fn is_coarse(&self, state: State, why: &str) {
        let map = self.map();
        assert_eq!(map.state, state, "{}", map.reason);
        assert!(map.reason.contains(why), "{}", map.reason);
        assert!(
            map.reason.contains("all that is allocated"),
            "{}",
            map.reason
        );
        let exact = Self::new().map().used.unwrap();
        let coarse = map.used.expect("the chunks are mapped");
        assert!(exact.subtract(&coarse).is_empty(), "something is lost");
        assert!(coarse.total() > exact.total());
    }
}

pub fn set(block: &mut [u8], at: usize, value: u64) {
    block[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

fn get(block: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(block[at..at + 8].try_into().unwrap())
}

#[test]
fn the_unpatched_one_is_clean() {
    let map = Patched::new().map();
    assert_eq!(map.state, State::Clean, "{}", map.reason);
    // Nothing is wrong with the way in which the tests patch, either.
    let same = Patched::new().with_superblock(|_| {}).map();
    assert_eq!(same.used, map.used);
}

#[test]
fn features_that_are_unknown_are_refused() {
    for bit in [13, 14, 15, 17, 40] {
        let disk = Patched::new().with_superblock(|sb| {
            let features = get(sb, 0xBC) | 1 << bit;
            set(sb, 0xBC, features);
        });
        disk.is_refused(State::Unsupported, "features unknown here (incompat");
    }
    let zoned = Patched::new().with_superblock(|sb| sb[0xBD] |= 0x10);
    zoned.is_refused(State::Unsupported, "zoned");
    let compat_ro = Patched::new().with_superblock(|sb| sb[0xB4] |= 0x10);
    compat_ro.is_refused(State::Unsupported, "compat_ro 0x10");
    let checksum = Patched::new().with_superblock(|sb| sb[0xC4] = 9);
    checksum.is_refused(State::Unsupported, "type 9");
}

#[test]
fn a_filesystem_in_the_middle_of_a_conversion_is_refused() {
    for (bit, state, why) in [
        (33, State::Unsupported, "dump of metadata"),
        (34, State::Unsupported, "dump of metadata"),
        (35, State::Dirty, "UUID was being changed"),
        (36, State::Dirty, "UUID was being changed"),
        (38, State::Unsupported, "flags unknown here"),
        (40, State::Unsupported, "flags unknown here"),
    ] {
        let disk = Patched::new().with_superblock(|sb| {
            let flags = get(sb, 0x38) | 1 << bit;
            set(sb, 0x38, flags);
        });
        disk.is_refused(state, why);
    }
}

#[test]
fn recorded_errors_make_the_map_coarse() {
    let disk = Patched::new().with_superblock(|sb| sb[0x38] |= 4);
    disk.is_coarse(State::Damaged, "errors were met");
}

/// The kernel mounts by the first superblock only, so without it nothing would be mounted, and who
/// repairs it may choose another copy than we would.
#[test]
fn a_destroyed_superblock_is_refused_and_its_copy_told() {
    let mut disk = Patched::new();
    disk.patches.insert(SUPERBLOCK + 0x300, vec![0xFF; 8]);
    disk.is_refused(State::Damaged, "rescue super-recover");
    let map = disk.map();
    assert_eq!(map.label.as_deref(), Some("small"));
    assert!(map.uuid.is_some());
    disk.patches.insert(COPY + 0x300, vec![0xFF; 8]);
    disk.is_refused(State::Damaged, "does not match its checksum");
}

#[test]
fn a_copy_of_the_superblock_that_is_newer_is_refused() {
    let newer = |sb: &mut [u8]| {
        let generation = get(sb, 0x48) + 1;
        set(sb, 0x48, generation);
    };
    let disk = Patched::new().with(COPY, 4096, newer);
    disk.is_refused(State::Damaged, "is newer than the superblock");
    // One of another filesystem is left over from before.
    let stale = |sb: &mut [u8]| {
        newer(sb);
        sb[0x20] ^= 0xFF;
    };
    let map = Patched::new().with(COPY, 4096, stale).map();
    assert_eq!(map.state, State::Clean, "{}", map.reason);
}

#[test]
fn one_bad_copy_of_a_tree_is_told_and_the_other_one_read() {
    let exact = Patched::new().map().used;
    for tree in ["extent", "dev", "chunk", "root"] {
        let map = Patched::new().without(tree, 1).map();
        assert_eq!(map.state, State::Damaged, "{tree}: {}", map.reason);
        assert!(map.reason.contains("1 copies"), "{}", map.reason);
        assert!(map.reason.contains("btrfs scrub"), "{}", map.reason);
        assert_eq!(map.used, exact, "{tree}");
    }
}

#[test]
fn without_a_tree_the_map_is_coarse_and_without_chunks_there_is_none() {
    for tree in ["extent", "dev", "root"] {
        let disk = Patched::new().without(tree, 2);
        disk.is_coarse(State::Damaged, "does not match its checksum");
    }
    let disk = Patched::new().without("chunk", 2);
    disk.is_refused(State::Damaged, "of tree 3 does not match its checksum");
}

#[test]
fn counts_that_disagree_make_the_map_coarse() {
    let disk = Patched::new().with_superblock(|sb| {
        let bytes_used = get(sb, 0x78) + 4096;
        set(sb, 0x78, bytes_used);
    });
    disk.is_coarse(State::Damaged, "its superblock says");
}

#[test]
fn a_device_shorter_than_its_filesystem_is_refused() {
    let disk = &good().disk.0;
    let short = MemDisk(disk[..disk.len() - 4096].to_vec());
    let map = map_devices(&[&short]).remove(0);
    assert!(
        map.used.is_none() && map.state == State::Damaged,
        "{}",
        map.reason
    );
}

#[test]
fn a_device_alone_is_refused_with_what_is_missing() {
    let raid = &["-d", "raid1", "-m", "raid1"];
    let fixture = Fixture::empty(spanning("several", 3, 0, raid));
    for number in 0..3 {
        let map = &map(&fixture.images[number..=number])[0];
        assert!(map.used.is_none());
        assert_eq!(map.state, State::Unsupported);
        let why = "it spans 3 devices, of which 2 are not at hand";
        assert!(map.reason.contains(why), "{}", map.reason);
        assert!(
            map.reason.contains(&format!("device {}", number + 1)),
            "{}",
            map.reason
        );
        assert_eq!(map.label.as_deref(), Some("several"));
    }
    let two = map(&fixture.images[..2]);
    assert!(
        two.iter()
            .all(|map| map.reason.contains("1 is not at hand"))
    );
    let mut twice = fixture.images.clone();
    twice.push(twice[0].clone());
    let twice = map(&twice);
    assert!(
        twice
            .iter()
            .all(|map| map.used.is_none() && map.state == State::Damaged)
    );
    let all = map(&fixture.images);
    assert!(all.iter().all(|map| map.state == State::Clean), "{all:?}");
    // In any order, each device has its own.
    let mut turned = fixture.images.clone();
    turned.reverse();
    let turned = map(&turned);
    for (map, other) in all.iter().zip(turned.iter().rev()) {
        assert_eq!((map.devid, &map.used), (other.devid, &other.used));
    }
}

/// Every block of metadata on the disk, and the superblock.
fn blocks() -> &'static [(u64, usize)] {
    static BLOCKS: OnceLock<Vec<(u64, usize)>> = OnceLock::new();
    BLOCKS.get_or_init(|| {
        let disk = &good().disk.0;
        let superblock = SUPERBLOCK as usize;
        let fsid = &disk[superblock + 0x20..superblock + 0x30];
        let trees = (0..disk.len() - NODESIZE)
            .step_by(4096)
            .filter(|at| &disk[at + 0x20..at + 0x30] == fsid)
            .filter(|&at| at != superblock && at as u64 != COPY)
            .map(|at| (at as u64, NODESIZE));
        // The roots and the superblock more often than one of many leaves.
        let roots = good().roots.values().flatten().map(|&at| (at, NODESIZE));
        let mut all: Vec<_> = trees.collect();
        for _ in 0..all.len() / 10 {
            all.push((SUPERBLOCK, 4096));
            all.extend(roots.clone());
        }
        all
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    /// Whatever metadata says, with right checksums: an answer, soon, and inside the disk.
    #[test]
    fn hostile_metadata_gets_an_answer(seed in 1_u64..u64::MAX, changes in 1_u64..6) {
        let mut noise = Noise(seed);
        let mut disk = Patched::new();
        for _ in 0..changes {
            let all = blocks();
            let (at, len) = all[noise.below(all.len() as u64) as usize];
            // Most of what matters is in the first few hundred bytes.
            let within = if noise.below(2) == 0 { 0x400 } else { len as u64 };
            let place = 32 + noise.below(within - 40) as usize;
            let value = match noise.below(4) {
                0 => noise.next(),
                1 => noise.below(256),
                2 => u64::MAX - noise.below(4096),
                _ => noise.below(1 << 28) & !0xFFF,
            };
            let wide = noise.below(2) == 0;
            disk = disk.with(at, len, |block| {
                if wide {
                    set(block, place, value);
                } else {
                    block[place] ^= 1 << (value % 8);
                }
            });
        }
        let started = std::time::Instant::now();
        let map = disk.map();
        prop_assert!(started.elapsed().as_secs() < 20);
        let size = disk.size().0;
        if let Some(used) = map.used {
            prop_assert!(used.iter().all(|extent| extent.end() <= size));
        }
    }
}
