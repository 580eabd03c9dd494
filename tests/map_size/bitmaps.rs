//! Free space in more pieces than any map could have: bitmaps are rewritten, with all counts and
//! checksums that go with them.

use super::map_support::{arg, try_run};
use haulier::extent::{Extent, ExtentList};
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;

const BLOCK: u64 = 4096;
/// Blocks of a group, and bits of its bitmap.
const GROUP: u64 = 32_768;

/// Which blocks become used.
#[derive(Clone, Copy)]
pub(crate) enum Pattern {
    /// Every other one: the worst that there is.
    Checkerboard,
    /// One of so many.
    OneOf(u64),
}

impl Pattern {
    fn byte(self, nth: u64) -> u8 {
        match self {
            Self::Checkerboard => 0x55,
            Self::OneOf(blocks) => u8::from((nth * 8).is_multiple_of(blocks)),
        }
    }

    /// The blocks that it uses, counted from a multiple of its period.
    pub(crate) fn blocks(self, range: std::ops::Range<u64>) -> impl Iterator<Item = u64> {
        let step = match self {
            Self::Checkerboard => 2,
            Self::OneOf(blocks) => blocks,
        };
        range.step_by(usize::try_from(step).unwrap())
    }
}

pub(crate) fn crc32c(seed: u32, pieces: &[&[u8]]) -> u32 {
    // The kernel's: neither inverted before nor after.
    const CRC32C: crc::Crc<u32, crc::Table<16>> =
        crc::Crc::<u32, crc::Table<16>>::new(&crc::Algorithm {
            xorout: 0,
            ..crc::CRC_32_ISCSI
        });
    let mut digest = CRC32C.digest_with_initial(seed.reverse_bits());
    for piece in pieces {
        digest.update(piece);
    }
    digest.finalize()
}

fn le32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

/// Uses blocks of the first `groups` groups of an empty ext4 with metadata_csum and 64bit: of those
/// whose bitmaps were never written and that have no copy of the superblock, that is nearly all.
/// Which these are.
pub(crate) fn fragment_ext4(image: &Path, pattern: Pattern, groups: u64) -> Vec<u64> {
    const BLOCK_UNINIT: u16 = 2;
    let file = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(image)
        .unwrap();
    let mut sb = [0; 1024];
    file.read_exact_at(&mut sb, 1024).unwrap();
    let seed = crc32c(!0, &[&sb[0x68..0x78]]);
    let mut descs = vec![0; usize::try_from(groups * 64).unwrap()];
    file.read_exact_at(&mut descs, BLOCK).unwrap();
    let bitmap: Vec<u8> = (0..GROUP / 8).map(|nth| pattern.byte(nth)).collect();
    let table_blocks = u64::from(le32(&sb, 0x28)) * 256 / BLOCK;
    let mut used_up = 0;
    let mut changed = Vec::new();
    // Bitmaps of neighbours lie side by side.
    let mut batch: (u64, Vec<u8>) = (0, Vec::new());
    for (group, desc) in (0_u32..).zip(descs.chunks_exact_mut(64)) {
        let flags = u16::from_le_bytes([desc[0x12], desc[0x13]]);
        if flags & BLOCK_UNINIT == 0 || has_superblock(group) {
            continue;
        }
        let place = |lo, hi| u64::from(le32(desc, lo)) | u64::from(le32(desc, hi)) << 32;
        let at = place(0x00, 0x20) * BLOCK;
        let table = place(0x08, 0x28);
        let metadata = [place(0x00, 0x20), place(0x04, 0x24)];
        let metadata = metadata.into_iter().chain(table..table + table_blocks);
        let mut bitmap = bitmap.clone();
        let start = u64::from(group) * GROUP;
        for bit in metadata.filter_map(|block| block.checked_sub(start)) {
            if bit < GROUP {
                bitmap[usize::try_from(bit / 8).unwrap()] |= 1 << (bit % 8);
            }
        }
        let half = |at: usize| u32::from(u16::from_le_bytes([desc[at], desc[at + 1]]));
        let free_before = half(0x0C) | half(0x2C) << 16;
        let free: u32 = bitmap.iter().map(|byte| byte.count_zeros()).sum();
        used_up += u64::from(free_before - free);
        let checksum = crc32c(seed, &[&bitmap]);
        desc[0x12..0x14].copy_from_slice(&(flags & !BLOCK_UNINIT).to_le_bytes());
        desc[0x0C..0x0E].copy_from_slice(&free.to_le_bytes()[..2]);
        desc[0x2C..0x2E].copy_from_slice(&free.to_le_bytes()[2..]);
        desc[0x18..0x1A].copy_from_slice(&checksum.to_le_bytes()[..2]);
        desc[0x38..0x3A].copy_from_slice(&checksum.to_le_bytes()[2..]);
        desc[0x1E..0x20].fill(0);
        let sum = crc32c(seed, &[&group.to_le_bytes(), desc]);
        desc[0x1E..0x20].copy_from_slice(&sum.to_le_bytes()[..2]);
        if batch.0 + u64::try_from(batch.1.len()).unwrap() != at || batch.1.len() > 1 << 20 {
            file.write_all_at(&batch.1, batch.0).unwrap();
            batch = (at, Vec::new());
        }
        batch.1.extend_from_slice(&bitmap);
        changed.push(u64::from(group));
    }
    file.write_all_at(&batch.1, batch.0).unwrap();
    file.write_all_at(&descs, BLOCK).unwrap();
    let free = u64::from(le32(&sb, 0x0C)) | u64::from(le32(&sb, 0x158)) << 32;
    let free = free - used_up;
    sb[0x0C..0x10].copy_from_slice(&free.to_le_bytes()[..4]);
    sb[0x158..0x15C].copy_from_slice(&free.to_le_bytes()[4..]);
    let sum = crc32c(!0, &[&sb[..0x3FC]]);
    sb[0x3FC..].copy_from_slice(&sum.to_le_bytes());
    file.write_all_at(&sb, 1024).unwrap();
    changed
}

fn has_superblock(group: u32) -> bool {
    let is_power_of = |base: u32| {
        let mut power = 1_u64;
        while power < u64::from(group) {
            power *= u64::from(base);
        }
        power == u64::from(group)
    };
    group < 2 || [3, 5, 7].into_iter().any(is_power_of)
}

/// That every used block of these groups is in the map. (All groups look alike, so one in so many is
/// asked.)
pub(crate) fn none_is_lost(map: &ExtentList, pattern: Pattern, groups: &[u64]) {
    let step = (groups.len() / 256).max(1);
    for group in groups.iter().step_by(step).chain(groups.last()) {
        let blocks = group * GROUP..(group + 1) * GROUP;
        blocks_are_in(map, pattern.blocks(blocks), BLOCK);
    }
}

fn blocks_are_in(map: &ExtentList, blocks: impl Iterator<Item = u64>, size: u64) {
    for block in blocks {
        let bytes = Extent::between(block * size, (block + 1) * size).unwrap();
        let kept: u64 = map.within(bytes).map(|extent| extent.len().0).sum();
        assert_eq!(kept, size, "block {block} was lost");
    }
}

/// Uses some of the first `clusters` clusters of an empty NTFS whose clusters have 4 KiB, as $Bitmap
/// says.
pub(crate) fn fragment_ntfs(image: &Path, pattern: Pattern, clusters: u64) {
    let said = try_run("ntfsinfo", &["-f", "-v", "-i", "6", arg(image)]);
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    let place = said.split("Runlist:").nth(1).expect("a runlist");
    let numbers: Vec<u64> = place
        .split_whitespace()
        .filter_map(|word| u64::from_str_radix(word.strip_prefix("0x")?, 16).ok())
        .take(3)
        .collect();
    let [0, lcn, length] = numbers[..] else {
        panic!("$Bitmap is not in one piece: {said}");
    };
    let bytes = clusters / 8;
    assert!(bytes <= length * BLOCK);
    let file = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(image)
        .unwrap();
    let mut at = 0;
    while at < bytes {
        let len = (bytes - at).min(1 << 20);
        let mut piece = vec![0; usize::try_from(len).unwrap()];
        let place = lcn * BLOCK + at;
        file.read_exact_at(&mut piece, place).unwrap();
        for (nth, byte) in (at..).zip(&mut piece) {
            *byte |= pattern.byte(nth);
        }
        file.write_all_at(&piece, place).unwrap();
        at += len;
    }
}

/// The same for what [`fragment_ntfs`] used, at some places.
pub(crate) fn none_is_lost_of(map: &ExtentList, pattern: Pattern, clusters: u64) {
    let places = (0..clusters).step_by(usize::try_from(clusters / 64).unwrap());
    for from in places.map(|from| from / GROUP * GROUP) {
        let blocks = from..(from + GROUP).min(clusters);
        blocks_are_in(map, pattern.blocks(blocks), BLOCK);
    }
}
