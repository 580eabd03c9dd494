//! The four checksums that btrfs knows (`btrfs_csum_type` in `include/uapi/linux/btrfs_tree.h`):
//! one kind a filesystem, for superblocks, tree blocks and data alike. Each stands in a field of 32
//! bytes, little-endian where it is a number, zeros behind it.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use crate::bytes::read_array;
use crate::usedmap::crc::{crc32c, matches_checksum};
use blake2::digest::consts::U32;
use blake2::{Blake2b, Digest as _};
use sha2::Sha256;
use xxhash_rust::xxh64::xxh64;

/// The width of the field, whatever the kind.
pub(crate) const FIELD: usize = 0x20;

/// How a filesystem's checksums are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Checksum {
    Crc32c,
    Xxhash64,
    Sha256,
    Blake2b,
}

impl Checksum {
    /// By the superblock's `csum_type`.
    pub(crate) fn of(csum_type: u16) -> Option<Self> {
        match csum_type {
            0 => Some(Self::Crc32c),
            1 => Some(Self::Xxhash64),
            2 => Some(Self::Sha256),
            3 => Some(Self::Blake2b),
            _ => None,
        }
    }

    /// Whether a block, which starts with the field, has the checksum of all that is behind it.
    pub(crate) fn accepts(self, block: &[u8]) -> bool {
        let body = block.get(FIELD..).unwrap_or_default();
        match self {
            Self::Crc32c => {
                matches_checksum((!crc32c(!0, [body])).to_le_bytes(), read_array(block, 0))
            }
            Self::Xxhash64 => matches_checksum(xxh64(body, 0).to_le_bytes(), read_array(block, 0)),
            Self::Sha256 => {
                let sum: [u8; FIELD] = Sha256::digest(body).into();
                matches_checksum(sum, read_array(block, 0))
            }
            Self::Blake2b => {
                let sum: [u8; FIELD] = Blake2b::<U32>::digest(body).into();
                matches_checksum(sum, read_array(block, 0))
            }
        }
    }
}
