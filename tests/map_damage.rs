//! Dirty, damaged, unknown: each is copied in full and says why. Every case starts from a sound
//! filesystem and changes one thing.

mod map_support;

use haulier::device::{Disk, MemDisk, ReadAt};
use haulier::error::{Error, Kind, Result};
use haulier::units::{ByteLen, ByteOffset, SectorSize};
use haulier::usedmap::{DiskInfo, DiskMap, Policy, State};
use map_support::{arg, debugfs, map_of, run};
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

const MIB: u64 = 1 << 20;

struct Sound {
    dir: TempDir,
    image: PathBuf,
}

impl Sound {
    fn ext4() -> Self {
        Self::make(&["-t", "ext4", "-b", "4096", "-g", "1024"])
    }

    fn without_checksums() -> Self {
        Self::make(&[
            "-t",
            "ext4",
            "-b",
            "4096",
            "-g",
            "1024",
            "-O",
            "^metadata_csum,^uninit_bg",
        ])
    }

    fn make(options: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("disk.img");
        fs::File::create(&image).unwrap().set_len(32 * MIB).unwrap();
        run(
            "mke2fs",
            &[&["-q", "-F", "-F"], options, &[arg(&image)]].concat(),
        );
        let sound = Self { dir, image };
        let map = map_of(&sound.image);
        assert_eq!(
            map.regions[0].policy,
            Policy::UsedBlocks,
            "{}",
            map.regions[0].reason
        );
        sound
    }

    fn debugfs(&self, command: &str) {
        debugfs(&self.image, self.dir.path(), &[command.into()]);
    }

    fn file(&self) -> fs::File {
        fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open(&self.image)
            .unwrap()
    }

    /// Changes one byte by `change`.
    fn wound(&self, at: u64, change: u8) {
        let mut byte = [0];
        self.file().read_exact_at(&mut byte, at).unwrap();
        self.file().write_all_at(&[byte[0] ^ change], at).unwrap();
    }

    /// The block of a group's block bitmap, by dumpe2fs.
    fn bitmap_block(&self, group: usize) -> u64 {
        run("dumpe2fs", &[arg(&self.image)])
            .lines()
            .filter_map(|line| line.trim().strip_prefix("Block bitmap at "))
            .nth(group)
            .and_then(|rest| rest.split([' ', ',']).next())
            .expect("dumpe2fs shows the bitmaps")
            .parse()
            .unwrap()
    }
}

/// The whole disk is taken, and the reason says these words.
#[track_caller]
fn assert_all_taken(image: &Path, state: State, words: &str) {
    let map = map_of(image);
    let region = &map.regions[0];
    assert_eq!(region.policy, Policy::CopyNonzero, "{}", region.reason);
    assert_eq!(region.state, Some(state), "{}", region.reason);
    assert!(region.reason.contains(words), "{}", region.reason);
    assert_eq!(map.used_bytes, map.disk.size_bytes);
}

/// What is in the journal counts, not the flag alone; `map_ext_dirty` has the journals with content.
#[test]
fn a_journal_that_was_not_replayed_but_is_empty() {
    let sound = Sound::ext4();
    sound.debugfs("feature needs_recovery");
    let map = map_of(&sound.image);
    assert_eq!(map.regions[0].policy, Policy::UsedBlocks);
    assert_eq!(map.regions[0].state, Some(State::Dirty));
    assert!(map.regions[0].reason.contains("nothing to replay"));
}

#[test]
fn a_filesystem_that_was_not_unmounted() {
    let sound = Sound::make(&["-t", "ext2", "-b", "4096"]);
    sound.debugfs("set_super_value state 0");
    assert_all_taken(&sound.image, State::Dirty, "it was not unmounted");
}

#[test]
fn recorded_errors() {
    let sound = Sound::ext4();
    sound.debugfs("set_super_value state 3");
    assert_all_taken(&sound.image, State::Dirty, "has recorded errors");
}

#[test]
fn multi_mount_protection_in_use() {
    let sound = Sound::make(&["-t", "ext4", "-b", "4096", "-O", "mmp"]);
    let block: u64 = run("dumpe2fs", &["-h", arg(&sound.image)])
        .lines()
        .find_map(|line| line.strip_prefix("MMP block number:"))
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    sound
        .file()
        .write_all_at(&7_u32.to_le_bytes(), block * 4096 + 4)
        .unwrap();
    assert_all_taken(&sound.image, State::Dirty, "a node has it mounted");
}

#[test]
fn an_unknown_incompatible_feature() {
    let sound = Sound::without_checksums();
    sound.wound(1024 + 0x63, 0x80);
    assert_all_taken(
        &sound.image,
        State::Unsupported,
        "does not know (incompat 0x80000000)",
    );
}

#[test]
fn an_unknown_read_only_compatible_feature() {
    let sound = Sound::without_checksums();
    sound.wound(1024 + 0x67, 0x40);
    assert_all_taken(
        &sound.image,
        State::Unsupported,
        "does not know (ro_compat 0x40000000)",
    );
}

#[test]
fn the_journal_device_of_another_filesystem() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("journal.img");
    fs::File::create(&image).unwrap().set_len(8 * MIB).unwrap();
    run(
        "mke2fs",
        &["-q", "-F", "-O", "journal_dev", "-b", "4096", arg(&image)],
    );
    assert_all_taken(
        &image,
        State::Unsupported,
        "of a filesystem that is on another disk",
    );
    let uuid = map_of(&image).regions[0].uuid.clone().unwrap();
    assert!(map_of(&image).regions[0].reason.contains(&uuid));
}

#[test]
fn a_superblock_with_a_flipped_bit() {
    let sound = Sound::ext4();
    sound.wound(1024 + 0x0C, 1);
    assert_all_taken(
        &sound.image,
        State::Damaged,
        "the superblock does not match its checksum",
    );
}

#[test]
fn a_group_descriptor_with_a_flipped_bit() {
    for options in [
        "^metadata_csum,uninit_bg",
        "^metadata_csum,uninit_bg,^64bit",
        "metadata_csum",
    ] {
        let sound = Sound::make(&["-t", "ext4", "-b", "4096", "-g", "1024", "-O", options]);
        let size = if options.contains("^64bit") { 32 } else { 64 };
        sound.wound(4096 + 2 * size + 0x1C, 1);
        assert_all_taken(
            &sound.image,
            State::Damaged,
            "the descriptor of group 2 does not match",
        );
    }
}

#[test]
fn a_bitmap_with_a_flipped_bit_and_checksums() {
    let sound = Sound::ext4();
    sound.wound(sound.bitmap_block(0) * 4096 + 20, 1);
    assert_all_taken(
        &sound.image,
        State::Damaged,
        "the block bitmap of group 0 does not match",
    );
}

#[test]
fn a_bitmap_with_a_flipped_bit_and_no_checksums() {
    let sound = Sound::without_checksums();
    sound.wound(sound.bitmap_block(1) * 4096 + 100, 1);
    assert_all_taken(&sound.image, State::Damaged, "in group 1 the bitmap has");
}

#[test]
fn a_superblock_that_counts_otherwise() {
    let sound = Sound::ext4();
    sound.debugfs("set_super_value free_blocks_count 5");
    assert_all_taken(&sound.image, State::Damaged, "the superblock says 5");
}

#[test]
fn a_partition_that_was_cut_off() {
    let sound = Sound::ext4();
    sound.file().set_len(31 * MIB).unwrap();
    assert_all_taken(
        &sound.image,
        State::Damaged,
        "but its partition has 32505856 bytes",
    );
}

/// A bitmap where a bitmap cannot be.
#[test]
fn a_descriptor_that_points_outside() {
    let sound = Sound::without_checksums();
    sound
        .file()
        .write_all_at(&u32::MAX.to_le_bytes(), 4096 + 0x04)
        .unwrap();
    assert_all_taken(
        &sound.image,
        State::Damaged,
        "group 0 has its inode bitmap at block",
    );
}

/// A disk that cannot read some of its bytes.
struct Failing {
    disk: Disk,
    from: u64,
    kind: Kind,
}

impl ReadAt for Failing {
    fn size(&self) -> ByteLen {
        self.disk.size()
    }
    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> Result<()> {
        if (offset.0..offset.0 + buf.len() as u64).contains(&self.from) {
            return Err(Error::new(self.kind, "reading a bad sector").at(self.from));
        }
        self.disk.read_at(offset, buf)
    }
    fn name(&self) -> String {
        "a failing disk".into()
    }
}

fn map_failing_at(sound: &Sound, from: u64, kind: Kind) -> Result<DiskMap> {
    let disk = Disk::open(&sound.image).unwrap();
    let info = DiskInfo::from(disk.identity());
    DiskMap::of(&Failing { disk, from, kind }, info)
}

#[test]
fn an_unreadable_bitmap() {
    let sound = Sound::ext4();
    let at = sound.bitmap_block(0) * 4096;
    let map = map_failing_at(&sound, at, Kind::Io).unwrap();
    assert_eq!(map.regions[0].state, Some(State::Unreadable));
    assert_eq!(map.regions[0].policy, Policy::CopyNonzero);
    assert!(
        map.regions[0]
            .reason
            .contains("reading the block bitmaps of group")
    );
    assert_eq!(map.used_bytes, map.disk.size_bytes);
}

#[test]
fn an_unreadable_start_of_the_volume() {
    let map = map_failing_at(&Sound::ext4(), 0x1_0040, Kind::Io).unwrap();
    assert_eq!(map.regions[0].state, Some(State::Unreadable));
    assert_eq!(map.used_bytes, map.disk.size_bytes);
}

#[test]
fn a_disk_that_vanishes_ends_the_map() {
    let sound = Sound::ext4();
    let at = sound.bitmap_block(0) * 4096;
    for at in [0, 0x1_0040, at] {
        let error = map_failing_at(&sound, at, Kind::Vanished).unwrap_err();
        assert_eq!(error.kind(), Kind::Vanished);
    }
}

mod hostile {
    use super::*;
    use haulier::extent::ExtentList;
    use haulier::usedmap::Region;
    use proptest::prelude::*;
    use std::sync::LazyLock;

    /// Without checksums, so that every damage gets as far as it can.
    static SOUND: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
        let none = "^metadata_csum,^uninit_bg,^has_journal,^resize_inode";
        [
            vec!["-b", "1024", "-g", "256", "-O", none],
            vec![
                "-b",
                "1024",
                "-g",
                "256",
                "-O",
                "^metadata_csum,^uninit_bg,^has_journal,^resize_inode,meta_bg",
            ],
            vec![
                "-b",
                "1024",
                "-C",
                "8192",
                "-g",
                "2048",
                "-O",
                "^metadata_csum,^uninit_bg,^has_journal,^resize_inode,bigalloc",
            ],
            vec![
                "-b",
                "4096",
                "-O",
                "^metadata_csum,^uninit_bg,^has_journal,^resize_inode,sparse_super2,^64bit",
            ],
        ]
        .into_iter()
        .map(|options| {
            let dir = tempfile::tempdir().unwrap();
            let image = dir.path().join("disk.img");
            fs::File::create(&image).unwrap().set_len(2 * MIB).unwrap();
            run(
                "mke2fs",
                &[
                    &["-q", "-F", "-F", "-t", "ext4", "-N", "64"],
                    &options[..],
                    &[arg(&image)],
                ]
                .concat(),
            );
            fs::read(image).unwrap()
        })
        .collect()
    });

    fn value() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            any::<u8>().prop_map(|byte| vec![byte]),
            any::<u16>().prop_map(|word| word.to_le_bytes().to_vec()),
            any::<u32>().prop_map(|word| word.to_le_bytes().to_vec()),
            prop_oneof![
                Just(vec![0xFF; 4]),
                Just(vec![0; 4]),
                Just(vec![0xFF; 2]),
                Just(vec![0; 2])
            ],
            (0_u32..3000).prop_map(|word| word.to_le_bytes().to_vec()),
            (0_u32..32).prop_map(|bit| (1_u32 << bit).to_le_bytes().to_vec()),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            cases: 2048,
            failure_persistence: None,
            ..ProptestConfig::default()
        })]
        #[test]
        fn no_damage_makes_a_map_insane(
            which in 0_usize..4,
            // Fields of the superblock; bytes of the descriptors and bitmaps behind it.
            fields in prop::collection::vec((0_usize..0x100, value()), 0..4),
            others in prop::collection::vec((2048_usize..20_480, value()), 0..4),
            cut in prop_oneof![4 => Just(None), 1 => (0_usize..2_097_152).prop_map(Some)],
        ) {
            let mut disk = SOUND[which].clone();
            let fields = fields.into_iter().map(|(field, value)| (1024 + field * 4, value));
            for (at, value) in fields.chain(others) {
                disk[at..at + value.len()].copy_from_slice(&value);
            }
            if let Some(cut) = cut {
                disk.truncate(cut);
            }
            let disk = MemDisk(disk);
            let info = DiskInfo {
                path: "hostile".into(),
                size_bytes: disk.size().0,
                logical_sector_bytes: SectorSize::B512,
                physical_sector_bytes: SectorSize::B512,
            };
            let map = DiskMap::of(&disk, info).unwrap();
            let windows: ExtentList = map.regions.iter().filter_map(Region::extent).collect();
            prop_assert_eq!(windows.total(), disk.size(), "a byte has no region");
            prop_assert!(map.extents.subtract(&windows).is_empty());
            prop_assert_eq!(map.extents.total().0, map.used_bytes);
            for line in map.render_text().lines() {
                prop_assert!(line.chars().count() <= 80, "{}", line);
            }
            map.to_json().unwrap();
        }
    }
}
