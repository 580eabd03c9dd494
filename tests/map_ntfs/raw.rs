//! Changing an NTFS image by hand: its file records without their fixups, and where things are.

use super::map_support::{arg, run};
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// The type of an attribute with data.
pub(crate) const DATA: u32 = 0x80;

/// A small sound volume, with three files.
pub(crate) struct Sound {
    pub(crate) dir: TempDir,
    pub(crate) image: PathBuf,
}

/// The cluster in the first line of a list of runs by ntfscluster.
pub(crate) fn first_cluster(listing: &str) -> u64 {
    listing
        .lines()
        .skip_while(|line| !line.contains("0x80 - non-resident"))
        .filter_map(|line| {
            let mut numbers = line.split_whitespace().map(str::parse::<u64>);
            match (numbers.next(), numbers.next(), numbers.next()) {
                (Some(Ok(_)), Some(Ok(lcn)), Some(Ok(_))) => Some(lcn),
                _ => None,
            }
        })
        .next()
        .unwrap_or_else(|| panic!("ntfscluster shows no run: {listing}"))
}

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> usize {
    usize::from(u16::from_le_bytes([bytes[at], bytes[at + 1]]))
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

/// Protects a block of several sectors: the last two bytes of each 512 go into the array.
pub(crate) fn protect(block: &mut [u8]) {
    let (array, count) = (u16_at(block, 4), u16_at(block, 6));
    let number = [block[array], block[array + 1]];
    for nth in 1..count {
        let end = nth * 512 - 2;
        let kept = [block[end], block[end + 1]];
        block[array + nth * 2..array + nth * 2 + 2].copy_from_slice(&kept);
        block[end..end + 2].copy_from_slice(&number);
    }
}

fn unprotect(block: &mut [u8]) {
    let (array, count) = (u16_at(block, 4), u16_at(block, 6));
    for nth in 1..count {
        let end = nth * 512 - 2;
        let kept = [block[array + nth * 2], block[array + nth * 2 + 1]];
        block[end..end + 2].copy_from_slice(&kept);
    }
}

/// Where an attribute is in a record.
pub(crate) fn attribute(record: &[u8], kind: u32) -> usize {
    let mut at = u16_at(record, 0x14);
    while u32_at(record, at) != kind {
        assert_ne!(u32_at(record, at), u32::MAX, "the record has no {kind:#x}");
        at += usize::try_from(u32_at(record, at + 4)).unwrap();
    }
    at
}

/// Where the value of a resident attribute is in a record.
pub(crate) fn value(record: &[u8], kind: u32) -> usize {
    let at = attribute(record, kind);
    at + u16_at(record, at + 0x14)
}

impl Sound {
    pub(crate) fn new() -> Self {
        Self::make(&[])
    }

    pub(crate) fn make(options: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("disk.img");
        fs::File::create(&image).unwrap().set_len(16 << 20).unwrap();
        let all = [&["-F", "-Q", "-q", "-L", "sound"], options, &[arg(&image)]].concat();
        run("mkntfs", &all);
        let sound = Self { dir, image };
        sound.write_files(&[
            ("first", vec![0x11; 100_000]),
            ("second", vec![0x22; 200_000]),
            ("third", vec![0x33; 300_000]),
        ]);
        sound
    }

    /// Writes files with ntfs-3g; a `/` in a name makes a directory.
    pub(crate) fn write_files(&self, files: &[(&str, Vec<u8>)]) {
        let mounted = super::mount(&self.image, self.dir.path(), "");
        for (name, bytes) in files {
            let path = mounted.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
        mounted.unmount();
    }

    pub(crate) fn file(&self) -> fs::File {
        fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open(&self.image)
            .unwrap()
    }

    pub(crate) fn read(&self, at: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.file().read_exact_at(&mut bytes, at).unwrap();
        bytes
    }

    pub(crate) fn write(&self, at: u64, bytes: &[u8]) {
        self.file().write_all_at(bytes, at).unwrap();
    }

    pub(crate) fn cluster_size(&self) -> u64 {
        let boot = self.read(0, 512);
        u64::from(boot[0x0D]) * u64::try_from(u16_at(&boot, 0x0B)).unwrap()
    }

    /// Where a record of the table is (the first ones lie side by side), or of its copy.
    pub(crate) fn record_at(&self, number: u64, copy: bool) -> u64 {
        let field = self.read(if copy { 0x38 } else { 0x30 }, 8);
        let lcn = u64::from_le_bytes(field.try_into().unwrap());
        lcn * self.cluster_size() + number * 1024
    }

    /// A record without its fixups.
    pub(crate) fn record(&self, number: u64) -> Vec<u8> {
        let mut record = self.read(self.record_at(number, false), 1024);
        unprotect(&mut record);
        record
    }

    /// Writes a record, and its copy if it has one.
    pub(crate) fn write_record(&self, number: u64, mut record: Vec<u8>) {
        protect(&mut record);
        self.write(self.record_at(number, false), &record);
        if number < 4 {
            self.write(self.record_at(number, true), &record);
        }
    }

    /// Changes a record and its copy.
    pub(crate) fn change_record(&self, number: u64, change: impl FnOnce(&mut Vec<u8>)) {
        let mut record = self.record(number);
        change(&mut record);
        self.write_record(number, record);
    }

    /// The byte at which the data of a file starts.
    pub(crate) fn data_of(&self, path: &str) -> u64 {
        let listing = run("ntfscluster", &["-f", "-F", path, arg(&self.image)]);
        first_cluster(&listing) * self.cluster_size()
    }
}

/// The whole disk is taken, and the reason says these words.
#[track_caller]
pub(crate) fn assert_all_taken(image: &Path, state: haulier::usedmap::State, words: &str) {
    let map = crate::map_support::map_of(image);
    let region = &map.regions[0];
    assert_eq!(
        region.policy,
        haulier::usedmap::Policy::CopyNonzero,
        "{}",
        region.reason
    );
    assert_eq!(region.state, Some(state), "{}", region.reason);
    assert!(region.reason.contains(words), "{}", region.reason);
    assert_eq!(map.used_bytes, map.disk.size_bytes);
}

/// Only what is in use is taken.
#[track_caller]
pub(crate) fn assert_clean(image: &Path) {
    let map = crate::map_support::map_of(image);
    let region = &map.regions[0];
    assert_eq!(
        region.policy,
        haulier::usedmap::Policy::UsedBlocks,
        "{}",
        region.reason
    );
    assert_eq!(
        region.state,
        Some(haulier::usedmap::State::Clean),
        "{}",
        region.reason
    );
}
