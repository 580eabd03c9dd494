//! A node of a file's extent tree (`fs/ext4/ext4_extents.h`): `struct ext4_extent_header` and behind
//! it entries of 12 bytes, which are leaves (`struct ext4_extent`) at depth 0 and pointers to nodes
//! (`struct ext4_extent_idx`) above.
//!
//! | 0x0 | 0x2 | 0x4 | 0x6 | 0x8 |
//! | --- | --- | --- | --- | --- |
//! | eh_magic | eh_entries | eh_max | eh_depth | eh_generation |

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use super::features::RO_COMPAT_METADATA_CSUM;
use super::superblock::Superblock;
use crate::bytes::{read_u16le, read_u32le};
use crate::usedmap::crc::{crc32c, matches_checksum};

/// `EXT4_EXT_MAGIC` and `EXT4_MAX_EXTENT_DEPTH`.
const MAGIC: u16 = 0xF30A;
const MAX_DEPTH: u16 = 5;
/// `EXT_INIT_MAX_LEN`: a longer `ee_len` is an extent whose blocks have not been written.
const MAX_WRITTEN: u16 = 0x8000;
const ENTRY: usize = 12;

/// A node that matches its checksum.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ExtentNode<'a> {
    bytes: &'a [u8],
    entries: usize,
    /// How many levels are below it.
    pub depth: u16,
}

/// An entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ExtentEntry {
    /// The file's block that it starts with.
    pub file_block: u64,
    /// What it stands for.
    pub target: Target,
}

/// What an entry stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target {
    /// A node in this block.
    Node(u64),
    /// Blocks of the file.
    Run {
        /// The first of them.
        start: u64,
        /// How many; 0 makes no sense.
        len: u64,
        /// Whether they were ever written: those that were not read as zeros.
        written: bool,
    },
}

impl<'a> ExtentNode<'a> {
    /// `depth` is what its parent promises; none for the root in the inode, which has no checksum of
    /// its own. `seed` is that of the inode.
    pub(crate) fn parse(
        bytes: &'a [u8],
        depth: Option<u16>,
        sb: &Superblock,
        seed: u32,
    ) -> Result<Self, &'static str> {
        let eh_entries = read_u16le(bytes, 0x2);
        let eh_max = read_u16le(bytes, 0x4);
        let eh_depth = read_u16le(bytes, 0x6);
        if read_u16le(bytes, 0x0) != MAGIC
            || eh_entries > eh_max
            || eh_depth > MAX_DEPTH
            || depth.is_some_and(|depth| depth != eh_depth)
        {
            return Err("has a broken extent tree");
        }
        let tail = ENTRY.saturating_mul(usize::from(eh_max).saturating_add(1));
        if depth.is_some() && sb.features.has_ro_compat(RO_COMPAT_METADATA_CSUM) {
            let covered = bytes.get(..tail).unwrap_or(bytes);
            if !matches_checksum(crc32c(seed, [covered]), read_u32le(bytes, tail)) {
                return Err("has an extent tree that does not match its checksum");
            }
        }
        Ok(Self {
            bytes,
            entries: usize::from(eh_entries),
            depth: eh_depth,
        })
    }

    /// Its entries, in the order of the file.
    pub(crate) fn entries(self) -> impl Iterator<Item = ExtentEntry> + 'a {
        let entries = self.bytes.chunks_exact(ENTRY).skip(1);
        entries.take(self.entries).map(move |entry| {
            let target = if self.depth > 0 {
                let ei_leaf_lo = u64::from(read_u32le(entry, 0x4));
                let ei_leaf_hi = u64::from(read_u16le(entry, 0x8));
                Target::Node(ei_leaf_hi << 32 | ei_leaf_lo)
            } else {
                let ee_len = read_u16le(entry, 0x4);
                let ee_start_hi = u64::from(read_u16le(entry, 0x6));
                let ee_start_lo = u64::from(read_u32le(entry, 0x8));
                let written = ee_len <= MAX_WRITTEN;
                let len = if written {
                    ee_len
                } else {
                    ee_len.saturating_sub(MAX_WRITTEN)
                };
                Target::Run {
                    start: ee_start_hi << 32 | ee_start_lo,
                    len: u64::from(len),
                    written,
                }
            };
            ExtentEntry {
                file_block: u64::from(read_u32le(entry, 0x0)),
                target,
            }
        })
    }
}
