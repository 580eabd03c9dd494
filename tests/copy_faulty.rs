//! Disks with places that cannot be read: what is well comes first, the bad places are gone back
//! to, and each costs no more than its sector. The images are read by `qemu-img`.

use haulier::capture::copy::{Source, copy_disk};
use haulier::capture::image::{Done, Image};
use haulier::capture::pool::Pool;
use haulier::device::{MemDisk, ReadAt};
use haulier::error::{Error, Kind, Result};
use haulier::extent::{Extent, ExtentList};
use haulier::qcow2::{Compression, Writer};
use haulier::report::Recorder;
use haulier::store::{CHUNK_BYTES, chunk_digest};
use haulier::units::{ByteLen, ByteOffset, SectorSize};
use std::fs::File;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A disk some of whose bytes cannot be read.
struct Faulty {
    bytes: MemDisk,
    bad: ExtentList,
    /// Where reads began, in their order.
    asked: Mutex<Vec<Extent>>,
    reopened: AtomicUsize,
    /// The number of the read at which the disk is pulled.
    pulled_at: usize,
}

impl ReadAt for Faulty {
    fn size(&self) -> ByteLen {
        self.bytes.size()
    }

    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> Result<()> {
        let extent = Extent::new(offset, ByteLen(buf.len() as u64)).unwrap();
        let mut asked = self.asked.lock().unwrap();
        asked.push(extent);
        if asked.len() >= self.pulled_at {
            return Err(Error::new(Kind::Vanished, "pulled"));
        }
        drop(asked);
        if self.bad.within(extent).next().is_some() {
            return Err(Error::new(Kind::Io, "a bad sector"));
        }
        self.bytes.read_at(offset, buf)
    }

    fn name(&self) -> String {
        "faulty".into()
    }

    fn reopen(&self) -> Result<()> {
        self.reopened.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

fn list(spans: &[(u64, u64)]) -> ExtentList {
    spans
        .iter()
        .filter_map(|&(start, end)| Extent::between(start, end))
        .collect()
}

fn faulty(mib: usize, bad: &[(u64, u64)]) -> Faulty {
    // Not two sectors are the same, and none is zero.
    let bytes = (0..mib << 17)
        .flat_map(|word: usize| {
            (word as u64)
                .wrapping_mul(0x9E37_79B9_7F4A_7C15)
                .wrapping_add(1)
                .to_le_bytes()
        })
        .collect();
    Faulty {
        bytes: MemDisk(bytes),
        bad: list(bad),
        asked: Mutex::default(),
        reopened: AtomicUsize::new(0),
        pulled_at: usize::MAX,
    }
}

fn copy(disk: &Faulty, used: &ExtentList, to: &Path) -> Result<Done> {
    let file = File::create(to).unwrap();
    let writer = Writer::create(file, disk.size(), Compression::Zstd).unwrap();
    let source = Source {
        disk,
        used,
        sector: SectorSize::B512,
        earlier: None,
        limit: None,
    };
    let report = Recorder::default();
    Pool::run(2, 1, |pool| {
        copy_disk(
            &source,
            Image::new(writer),
            Compression::Zstd,
            pool,
            None,
            &|| ByteLen(u64::MAX),
            &report,
        )
    })
}

/// What the image holds, according to QEMU.
fn content(image: &Path) -> Vec<u8> {
    let raw = image.with_extension("raw");
    for args in [
        vec!["check", "-q", image.to_str().unwrap()],
        vec![
            "convert",
            "-O",
            "raw",
            image.to_str().unwrap(),
            raw.to_str().unwrap(),
        ],
    ] {
        let output = Command::new("qemu-img").args(&args).output().unwrap();
        assert!(output.status.success(), "{args:?}: {output:?}");
    }
    std::fs::read(raw).unwrap()
}

/// The disk's bytes, zeros where they are not used or are lost.
fn expected(disk: &Faulty, used: &ExtentList, lost: &ExtentList) -> Vec<u8> {
    let mut bytes = vec![0; disk.bytes.0.len()];
    for extent in used.subtract(lost).iter() {
        let span = extent.start().0 as usize..extent.end() as usize;
        bytes[span.clone()].copy_from_slice(&disk.bytes.0[span]);
    }
    bytes
}

fn check(disk: &Faulty, used: &ExtentList, lost: &ExtentList) {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("image.qcow2");
    let done = copy(disk, used, &image).unwrap();
    assert_eq!(done.bad, *lost);
    let expected = expected(disk, used, lost);
    assert!(content(&image) == expected);
    let chunks = expected.chunks(CHUNK_BYTES as usize).map(chunk_digest);
    for (index, digest) in (0..).zip(chunks) {
        assert_eq!(done.chunks.get(index), digest, "chunk {index}");
    }
}

#[test]
fn each_bad_sector_costs_itself_wherever_it_lies() {
    let disk = faulty(
        64,
        &[
            (0, 1),
            (5_000_000, 5_000_001),
            (5_100_000, 5_130_000),
            // Across the border of two chunks.
            (2 * CHUNK_BYTES - 512, 2 * CHUNK_BYTES + 512),
            (67_108_863, 67_108_864),
        ],
    );
    let lost = list(&[
        (0, 512),
        (4_999_680, 5_000_192),
        (5_099_520, 5_130_240),
        (2 * CHUNK_BYTES - 512, 2 * CHUNK_BYTES + 512),
        (67_108_352, 67_108_864),
    ]);
    check(&disk, &list(&[(0, 64 << 20)]), &lost);
    assert!(disk.reopened.load(Ordering::Relaxed) > 0);
}

#[test]
fn bad_sectors_that_are_not_used_are_not_asked_for_twice() {
    let disk = faulty(16, &[(40_000, 60_000)]);
    // They lie between two extents that would be read as one.
    let used = list(&[(32_768, 40_000), (60_000, 70_000)]);
    check(&disk, &used, &ExtentList::new());
}

#[test]
fn what_is_well_is_read_before_the_bad_places_are_gone_back_to() {
    let disk = faulty(64, &[(9 << 20, (9 << 20) + 512)]);
    let used = list(&[(0, 64 << 20)]);
    check(&disk, &used, &list(&[(9 << 20, (9 << 20) + 512)]));
    let asked = disk.asked.lock().unwrap();
    let last_new = asked.iter().position(|e| e.start().0 == 60 << 20).unwrap();
    let small = asked.iter().position(|e| e.len().0 < CHUNK_BYTES).unwrap();
    assert!(small > last_new, "{small} {last_new}");
}

#[test]
fn a_disk_that_is_bad_all_over_ends_and_says_so() {
    let disk = faulty(8, &[(0, 8 << 20)]);
    let used = list(&[(0, 8 << 20)]);
    check(&disk, &used, &used);
}

#[test]
fn a_disk_that_is_pulled_ends_the_copy_in_the_middle_and_while_going_back() {
    for pulled_at in [5, 20, 30] {
        let mut disk = faulty(64, &[(9 << 20, (9 << 20) + 512)]);
        disk.pulled_at = pulled_at;
        let folder = tempfile::tempdir().unwrap();
        let error = copy(
            &disk,
            &list(&[(0, 64 << 20)]),
            &folder.path().join("image.qcow2"),
        )
        .unwrap_err();
        assert_eq!(error.kind(), Kind::Vanished, "{pulled_at}");
    }
}
