//! Changing metadata by hand, with or without a checksum that fits.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// CRC-32C, bit by bit.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0_u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (0x82F6_3B78 & (crc & 1).wrapping_neg())
        })
    })
}

/// A piece of metadata with a checksum in it.
#[derive(Clone, Copy)]
pub struct Sealed {
    /// Where it begins in the image.
    pub at: u64,
    pub len: usize,
    pub crc_at: usize,
}

impl Sealed {
    pub fn superblock(at: u64) -> Self {
        Self {
            at,
            len: 512,
            crc_at: 0xE0,
        }
    }

    pub fn agf(group_at: u64) -> Self {
        Self {
            at: group_at + 512,
            len: 512,
            crc_at: 0xD8,
        }
    }

    pub fn tree_block(at: u64, len: usize) -> Self {
        Self {
            at,
            len,
            crc_at: 0x34,
        }
    }

    /// Changes it and makes its checksum fit.
    pub fn edit(self, image: &Path, change: impl FnOnce(&mut [u8])) {
        let file = open(image);
        let mut bytes = vec![0; self.len];
        file.read_exact_at(&mut bytes, self.at).unwrap();
        change(&mut bytes);
        bytes[self.crc_at..self.crc_at + 4].fill(0);
        let crc = crc32c(&bytes);
        bytes[self.crc_at..self.crc_at + 4].copy_from_slice(&crc.to_le_bytes());
        file.write_all_at(&bytes, self.at).unwrap();
    }
}

fn open(image: &Path) -> File {
    OpenOptions::new()
        .read(true)
        .write(true)
        .open(image)
        .unwrap()
}

pub fn read(image: &Path, at: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    open(image).read_exact_at(&mut bytes, at).unwrap();
    bytes
}

pub fn write(image: &Path, at: u64, bytes: &[u8]) {
    open(image).write_all_at(bytes, at).unwrap();
}

/// A big-endian field.
pub fn put32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_be_bytes());
}

pub fn get32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap())
}

/// Sets bits of `sb_features_incompat` in the first superblock.
pub fn set_incompat(image: &Path, bits: u32) {
    Sealed::superblock(0).edit(image, |sb| {
        let old = get32(sb, 0xD8);
        put32(sb, 0xD8, old | bits);
    });
}
