//! Dirty, damaged, unknown: each is copied in full and says why. Every case starts from a sound
//! volume and changes one thing.

use super::map_support::{arg, punch, run};
use super::raw::{DATA, Sound, assert_all_taken, assert_clean, attribute, u16_at, value};
use super::{digests, mount};
use crate::map_support::map_of;
use haulier::device::{Disk, MemDisk, ReadAt};
use haulier::error::{Error, Result};
use haulier::extent::{Extent, ExtentList};
use haulier::units::{ByteLen, ByteOffset};
use haulier::usedmap::{DiskInfo, DiskMap, Policy, State};
use proptest::prelude::*;
use std::fs;
use std::path::Path;
use std::sync::OnceLock;

const VOLUME_INFORMATION: u32 = 0x70;

fn with_flags(flags: u16) -> Sound {
    let sound = Sound::new();
    sound.change_record(3, |record| {
        let at = value(record, VOLUME_INFORMATION) + 0x0A;
        record[at..at + 2].copy_from_slice(&flags.to_le_bytes());
    });
    sound
}

#[test]
fn a_volume_that_windows_would_check_first() {
    for (flag, words) in [
        (0x0001, "it is marked dirty"),
        (0x0002, "its journal is about to be resized"),
        (0x0004, "it is about to be upgraded"),
        (0x0040, "it is marked corrupt"),
        (0x0100, "it is marked for a full chkdsk"),
        (0x0200, "it is marked for a scan"),
    ] {
        let sound = with_flags(flag);
        assert_all_taken(&sound.image, State::Dirty, words);
        assert_all_taken(&sound.image, State::Dirty, "up to 16.7 MB instead of about");
    }
}

#[test]
fn flags_that_only_tell_a_story_are_clean() {
    // Mounted by NT 4, no short names, no TxF, no scrubbing, chkdsk was here.
    for flags in [
        0x0008,
        0x0080,
        0x0400,
        0x0800,
        0x4000,
        0x8000,
        0xFCB8 & !0x0340,
    ] {
        assert_clean(&with_flags(flags).image);
    }
}

#[test]
fn an_unknown_version() {
    let sound = Sound::new();
    sound.change_record(3, |record| {
        let at = value(record, VOLUME_INFORMATION) + 0x09;
        record[at] = 2;
    });
    assert_all_taken(&sound.image, State::Unsupported, "NTFS of version 3.2");
}

#[test]
fn a_table_that_differs_from_its_copy() {
    let sound = Sound::new();
    let copy = sound.record_at(1, true);
    sound.write(copy + 0x12, &[9]);
    let words = "file record 1 differs from its copy";
    assert_all_taken(&sound.image, State::Damaged, words);
}

#[test]
fn the_update_sequence_number_of_a_copy_may_differ() {
    let sound = Sound::new();
    let record = sound.record(2);
    let mut copy = record.clone();
    let array = u16_at(&copy, 4);
    copy[array] = copy[array].wrapping_add(1);
    super::raw::protect(&mut copy);
    sound.write(sound.record_at(2, true), &copy);
    assert_clean(&sound.image);
}

#[test]
fn a_boot_sector_that_does_not_fit_its_partition() {
    let sound = Sound::new();
    sound.write(0x2A, &[9]);
    assert_all_taken(&sound.image, State::Damaged, "the boot sector claims");
}

#[test]
fn a_system_file_that_was_written_in_part() {
    for number in [0, 2, 3, 6] {
        let sound = Sound::new();
        sound.write(sound.record_at(number, false) + 1022, &[0xEE, 0xEE]);
        let words = format!("file record {number} is not one, or was written in part");
        assert_all_taken(&sound.image, State::Damaged, &words);
    }
}

/// The number of a file's record.
fn record_of(sound: &Sound, path: &str) -> u64 {
    let info = run("ntfsinfo", &["-f", "-F", path, arg(&sound.image)]);
    let number = info
        .lines()
        .find_map(|line| line.strip_prefix("Dumping Inode "))
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|number| number.parse().ok());
    number.unwrap_or_else(|| panic!("ntfsinfo shows no number: {info}"))
}

#[test]
fn a_file_whose_record_was_written_in_part() {
    let sound = Sound::new();
    let number = record_of(&sound, "/second");
    sound.write(sound.record_at(number, false) + 510, &[0xEE, 0xEE]);
    let words = format!("file record {number} is in use, but it is not one");
    assert_all_taken(&sound.image, State::Damaged, &words);
    // A record that is free may hold anything.
    let sound = Sound::new();
    let mounted = mount(&sound.image, sound.dir.path(), "");
    fs::remove_file(mounted.path().join("third")).unwrap();
    mounted.unmount();
    assert_clean(&sound.image);
    let free = number + 1;
    assert_eq!(sound.record(free)[0x16] & 1, 0, "it is free");
    sound.write(sound.record_at(free, false) + 510, &[0xEE, 0xEE]);
    assert_clean(&sound.image);
}

#[test]
fn a_run_outside_the_volume() {
    let sound = Sound::new();
    let number = record_of(&sound, "/second");
    sound.change_record(number, |record| {
        let data = attribute(record, DATA);
        let pairs = data + u16_at(record, data + 0x20);
        let length = usize::from(record[pairs] & 0x0F);
        // The highest byte of where it starts that is not negative.
        let offset = usize::from(record[pairs] >> 4);
        record[pairs + length + offset] = 0x7F;
    });
    assert_all_taken(
        &sound.image,
        State::Damaged,
        "a run list that makes no sense",
    );
}

#[test]
fn clusters_that_the_bitmap_lacks_are_taken_and_told() {
    let sound = Sound::new();
    let lost = sound.data_of("/second");
    let bitmap = sound.data_of("/$Bitmap");
    let cluster = lost / sound.cluster_size();
    let byte = sound.read(bitmap + cluster / 8, 1)[0];
    assert_ne!(byte & 1 << (cluster % 8), 0, "the bitmap has it");
    sound.write(bitmap + cluster / 8, &[byte & !(1 << (cluster % 8))]);

    let map = map_of(&sound.image);
    let region = &map.regions[0];
    assert_eq!(region.policy, Policy::UsedBlocks);
    assert_eq!(region.state, Some(State::Damaged));
    let words = "its files use 4.0 kB that $Bitmap calls free; they are taken as well";
    assert!(region.reason.contains(words), "{}", region.reason);
    let lost: ExtentList = Extent::between(lost, lost + 4096).into_iter().collect();
    assert_eq!(map.extents.intersect(&lost), lost);

    let read = || {
        let mounted = mount(&sound.image, sound.dir.path(), "ro");
        let files = digests(mounted.path());
        mounted.unmount();
        files
    };
    let files = read();
    assert_eq!(files.len(), 3);
    punch(&sound.image, &map.extents);
    assert_eq!(read(), files);
}

#[test]
fn clusters_that_no_file_uses_are_taken() {
    let sound = Sound::new();
    let before = map_of(&sound.image).used_bytes;
    let bitmap = sound.data_of("/$Bitmap");
    let byte = sound.read(bitmap + 400, 1)[0];
    assert_eq!(byte, 0, "they are free");
    sound.write(bitmap + 400, &[0xFF]);
    assert_clean(&sound.image);
    assert_eq!(map_of(&sound.image).used_bytes, before + 8 * 4096);
}

/// $Bitmap in so many pieces that other records hold them: its data attribute is cut in two, each
/// half put into an extension record, and a list put into the base record.
#[test]
fn a_bitmap_described_by_extension_records() {
    let sound = Sound::make(&["-c", "512"]);
    let before = map_of(&sound.image);
    let mut base = sound.record(6);
    let data = attribute(&base, DATA);
    let pairs = data + u16_at(&base, data + 0x20);
    let lengths = (base[pairs] & 0x0F, base[pairs] >> 4);
    assert_eq!(lengths.0, 1, "a run whose length fits a byte");
    let clusters = base[pairs + 1];
    let lcn_len = usize::from(lengths.1);
    let mut lcn = [0; 8];
    lcn[..lcn_len].copy_from_slice(&base[pairs + 2..pairs + 2 + lcn_len]);
    let lcn = u64::from_le_bytes(lcn);
    assert_eq!(base[pairs + 2 + lcn_len], 0, "a single run");
    let half = clusters / 2;

    // The pieces.
    for (number, first, count) in [(14_u64, 0_u8, half), (15, half, clusters - half)] {
        let mut record = sound.record(number);
        record[0x16] |= 1;
        record[0x20..0x28].copy_from_slice(&(6_u64 | 6 << 48).to_le_bytes());
        let at = u16_at(&record, 0x14);
        let mut piece = vec![0; 0x50];
        piece[..0x40].copy_from_slice(&base[data..data + 0x40]);
        piece[0x04..0x08].copy_from_slice(&0x50_u32.to_le_bytes());
        piece[0x10] = first;
        piece[0x18] = first + count - 1;
        piece[0x20] = 0x40;
        if first > 0 {
            piece[0x28..0x40].fill(0);
        }
        piece[0x40] = 0x41;
        piece[0x41] = count;
        let start = u32::try_from(lcn).unwrap() + u32::from(first);
        piece[0x42..0x46].copy_from_slice(&start.to_le_bytes());
        record[at..at + 0x50].copy_from_slice(&piece);
        record[at + 0x50..at + 0x54].fill(0xFF);
        let used = u32::try_from(at + 0x58).unwrap();
        record[0x18..0x1C].copy_from_slice(&used.to_le_bytes());
        sound.write_record(number, record);
    }
    // The list, in the order of the attributes' types: behind 0x10.
    let entry = |kind: u32, lowest: u8, number: u64| {
        let mut entry = vec![0; 0x20];
        entry[..4].copy_from_slice(&kind.to_le_bytes());
        entry[0x04] = 0x20;
        entry[0x07] = 0x1A;
        entry[0x08] = lowest;
        let sequence = sound.record(number)[0x10];
        let reference = number | u64::from(sequence) << 48;
        entry[0x10..0x18].copy_from_slice(&reference.to_le_bytes());
        if kind == DATA {
            let record = sound.record(number);
            entry[0x18] = record[attribute(&record, DATA) + 0x0E];
        } else {
            entry[0x18] = base[attribute(&base, kind) + 0x0E];
        }
        entry
    };
    let entries = [
        entry(0x10, 0, 6),
        entry(0x30, 0, 6),
        entry(DATA, 0, 14),
        entry(DATA, half, 15),
    ]
    .concat();
    let mut list = vec![0; 0x18];
    list[0x00] = 0x20;
    list[0x04..0x08].copy_from_slice(&0x98_u32.to_le_bytes());
    list[0x0E] = 0x20;
    list[0x10..0x14].copy_from_slice(&0x80_u32.to_le_bytes());
    list[0x14] = 0x18;
    list.extend(entries);
    let name = attribute(&base, 0x30);
    let mut rest = list;
    rest.extend_from_slice(&base[name..data]);
    rest.extend([0xFF, 0xFF, 0xFF, 0xFF, 0, 0, 0, 0]);
    base[name..name + rest.len()].copy_from_slice(&rest);
    let used = u32::try_from(name + rest.len()).unwrap();
    base[0x18..0x1C].copy_from_slice(&used.to_le_bytes());
    sound.write_record(6, base);

    // ntfs-3g reads it as we do.
    let listing = run("ntfsinfo", &["-m", "-f", arg(&sound.image)]);
    assert!(listing.contains("Free Clusters:"), "{listing}");
    let map = map_of(&sound.image);
    assert_eq!(
        map.regions[0].policy,
        Policy::UsedBlocks,
        "{}",
        map.regions[0].reason
    );
    assert_eq!(map.extents, before.extents);

    // A piece that is gone is damage, not an end.
    sound.change_record(15, |record| record[0x20] = 7);
    let words = "file record 15 should have a piece of attribute 0x80 of file record 6";
    assert_all_taken(&sound.image, State::Damaged, words);
}

#[test]
fn shadow_copies_read_what_the_bitmap_calls_free() {
    const VSS: [u8; 16] = [
        0x6B, 0x87, 0x08, 0x38, 0x76, 0xC1, 0x48, 0x4E, 0xB7, 0xAE, 0x04, 0x04, 0x6E, 0x6C, 0xC7,
        0x52,
    ];
    let with = |entry: u8, catalog: u64| {
        let sound = Sound::new();
        let block = sound.data_of("/third");
        let mut header = VSS.to_vec();
        header.extend([1, 0, 0, 0, 1, 0, 0, 0]);
        header.resize(0x30, 0);
        header.extend((block * catalog).to_le_bytes());
        sound.write(0x1E00, &header);
        let mut bytes = VSS.to_vec();
        bytes.extend([1, 0, 0, 0, 2, 0, 0, 0]);
        bytes.resize(16 << 10, 0);
        bytes[256] = entry;
        sound.write(block, &bytes);
        sound
    };
    let words = "it has shadow copies (previous versions), and they read deleted files from \
                 clusters that are free";
    for entry in [2, 3, 9] {
        assert_all_taken(&with(entry, 1).image, State::Unsupported, words);
    }
    // All were deleted, or there never was one.
    assert_clean(&with(1, 1).image);
    assert_clean(&with(2, 0).image);
    let sound = with(0, 1);
    sound.write(sound.data_of("/third"), &[0]);
    let words = "the catalog of its shadow copies is damaged";
    assert_all_taken(&sound.image, State::Unsupported, words);
}

#[test]
fn the_copy_of_the_boot_sector_is_always_taken() {
    let sound = Sound::new();
    let size = 16 << 20;
    let last: ExtentList = Extent::between(size - 512, size).into_iter().collect();
    assert_eq!(sound.read(size - 512, 512), sound.read(0, 512));
    assert_eq!(map_of(&sound.image).extents.intersect(&last), last);
    // In a partition that is larger, what lies behind is copied except zeros.
    sound.file().set_len(size + (1 << 20)).unwrap();
    let map = map_of(&sound.image);
    assert_eq!(map.extents.intersect(&last), last);
    assert_eq!(map.regions[1].policy, Policy::CopyNonzero);
    assert_eq!(map.regions[1].start_byte, size);
    // In the middle of the partition, where NT 3.51 kept it.
    let sound = Sound::new();
    sound.file().set_len(24 << 20).unwrap();
    let at = 12 << 20;
    let middle: ExtentList = Extent::between(at, at + 512).into_iter().collect();
    assert!(map_of(&sound.image).extents.intersect(&middle).is_empty());
    sound.write(at, &sound.read(0, 512));
    assert_eq!(map_of(&sound.image).extents.intersect(&middle), middle);
}

/// A disk with a bad place.
struct Bad {
    disk: Disk,
    at: u64,
}

impl ReadAt for Bad {
    fn size(&self) -> ByteLen {
        self.disk.size()
    }
    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> Result<()> {
        let end = offset.0 + u64::try_from(buf.len()).unwrap();
        if (offset.0..end).contains(&self.at) {
            return Err(Error::io("reading", std::io::Error::from_raw_os_error(5)));
        }
        self.disk.read_at(offset, buf)
    }
    fn name(&self) -> String {
        "bad".into()
    }
}

#[test]
fn a_table_that_cannot_be_read() {
    let sound = Sound::new();
    let number = record_of(&sound, "/second");
    for at in [
        sound.record_at(0, false),
        sound.record_at(number, false),
        sound.record_at(1, true),
        sound.data_of("/$Bitmap"),
        sound.data_of("/$LogFile"),
    ] {
        let disk = Disk::open(&sound.image).unwrap();
        let info = DiskInfo::from(disk.identity());
        let map = DiskMap::of(&Bad { disk, at }, info).unwrap();
        assert_eq!(map.regions[0].policy, Policy::CopyNonzero);
        assert_eq!(map.regions[0].state, Some(State::Unreadable), "{at:#x}");
    }
}

fn info(image: &Path) -> DiskInfo {
    DiskInfo::from(Disk::open(image).unwrap().identity())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    /// Whatever a few bytes of the metadata say: an answer, soon, and inside the volume.
    #[test]
    fn hostile_metadata_is_survived(
        wounds in prop::collection::vec((0_usize..60, 0_usize..1024, any::<u8>()), 1..6),
        torn in any::<bool>(),
    ) {
        static SOUND: OnceLock<(Vec<u8>, DiskInfo, u64)> = OnceLock::new();
        let (bytes, info, table) = SOUND.get_or_init(|| {
            let sound = Sound::new();
            let bytes = fs::read(&sound.image).unwrap();
            (bytes, info(&sound.image), sound.record_at(0, false))
        });
        let mut bytes = bytes.clone();
        for (record, at, value) in wounds {
            // One in sixty hits the boot sector.
            let start = if record == 0 {
                0
            } else {
                usize::try_from(*table).unwrap() + (record - 1) * 1024
            };
            // Torn records are refused at once: leave the protected bytes alone, most of the time.
            if !torn && (at & 511 >= 510 || (record == 0 && at >= 512)) {
                continue;
            }
            bytes[start + at] = value;
        }
        let size = u64::try_from(bytes.len()).unwrap();
        let map = DiskMap::of(&MemDisk(bytes), info.clone()).unwrap();
        prop_assert!(map.extents.iter().all(|extent| extent.end() <= size));
    }
}
