//! The B-trees of device-mapper's persistent data (`dm-btree-internal.h` of Linux). Little-endian,
//! a node a block of 4 KiB: 0x00 `csum` (CRC-32C of the rest), 0x04 `flags` (1 inner node, 2 leaf),
//! 0x08 `blocknr`, 0x10 `nr_entries`, 0x14 `max_entries`, 0x18 `value_size`, 0x20 keys (64-bit),
//! behind room for `max_entries` of them the values; those of inner nodes are block numbers.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use crate::bytes::{read_u32le, read_u64le};
use crate::checksum::matches;
use crate::device::ReadAt;
use crate::units::ByteOffset;
use crc::{CRC_32_ISCSI, Crc, Table};

/// Metadata blocks are of one size.
pub(super) const BLOCK: u64 = 4096;
const BLOCK_BYTES: usize = 4096;
const HEADER: usize = 32;
/// `BTREE_CSUM_XOR`.
const CSUM_XOR: u32 = 121_107;
const INNER: u32 = 1;
const LEAF: u32 = 2;
/// A tree of 126 children a node that fills 16 GiB has 4 levels.
const MAX_DEPTH: usize = 12;

static CRC: Crc<u32, Table<16>> = Crc::<u32, Table<16>>::new(&CRC_32_ISCSI);

/// `dm_bm_checksum`: CRC-32C without its final inversion, and a number for the sort of block.
pub(super) fn checksum(bytes: &[u8], xor: u32) -> u32 {
    !CRC.checksum(bytes) ^ xor
}

/// A metadata block whose checksum and number are right. An error is a clause.
pub(super) fn read_block(
    metadata: &dyn ReadAt,
    block: u64,
    csum_xor: u32,
) -> Result<Vec<u8>, String> {
    let at = block
        .checked_mul(BLOCK)
        .filter(|at| {
            at.checked_add(BLOCK)
                .is_some_and(|end| end <= metadata.size().0)
        })
        .ok_or_else(|| format!("its metadata points to block {block}, outside of itself"))?;
    let mut bytes = vec![0; BLOCK_BYTES];
    metadata
        .read_at(ByteOffset(at), &mut bytes)
        .map_err(|error| format!("its metadata is not readable: {error}"))?;
    let sound = bytes
        .get(4..)
        .is_some_and(|rest| matches(checksum(rest, csum_xor), read_u32le(&bytes, 0)));
    if !sound || read_u64le(&bytes, 8) != block {
        return Err(format!(
            "the checksum of its metadata block {block} is wrong"
        ));
    }
    Ok(bytes)
}

/// What is called with each key and value.
type Leaf<'a> = &'a mut dyn FnMut(u64, &[u8]) -> Result<(), String>;

/// How many blocks may still be read for all trees together.
pub(super) struct Budget(pub u64);

impl Budget {
    /// Snapshots share most of their trees, which are read for each of them. A pool that takes longer
    /// than this (64 GiB of blocks, minutes) is not worth it.
    pub(super) fn new() -> Self {
        Self(16 << 20)
    }
}

/// Calls `leaf(key, value)` for all entries of a tree, in ascending order of their keys.
pub(super) fn walk(
    metadata: &dyn ReadAt,
    root: u64,
    value_size: usize,
    all: &mut Budget,
    leaf: Leaf<'_>,
) -> Result<(), String> {
    let mut walker = Walker {
        metadata,
        value_size,
        leaf,
        last: None,
        all,
        // No tree has a block twice.
        budget: metadata.size().0.checked_div(BLOCK).unwrap_or(0),
    };
    walker.node(root, 0)
}

struct Walker<'a> {
    metadata: &'a dyn ReadAt,
    value_size: usize,
    leaf: Leaf<'a>,
    last: Option<u64>,
    all: &'a mut Budget,
    budget: u64,
}

impl Walker<'_> {
    fn node(&mut self, block: u64, depth: usize) -> Result<(), String> {
        let broken = |what: &str| format!("in its metadata block {block}, {what}");
        self.budget = self
            .budget
            .checked_sub(1)
            .filter(|_| depth <= MAX_DEPTH)
            .ok_or_else(|| broken("a tree bites its tail"))?;
        self.all.0 = self.all.0.checked_sub(1).ok_or_else(|| {
            String::from(
                "its metadata has more blocks than are read (too many snapshots share them)",
            )
        })?;
        let bytes = read_block(self.metadata, block, CSUM_XOR)?;
        let count = |field| usize::try_from(read_u32le(&bytes, field)).unwrap_or(usize::MAX);
        let (entries, room, size) = (count(0x10), count(0x14), count(0x18));
        let inner = match read_u32le(&bytes, 4) {
            INNER => true,
            LEAF => false,
            _ => return Err(broken("a node is neither inner nor leaf")),
        };
        let expected = if inner { 8 } else { self.value_size };
        let fits = room
            .checked_mul(size.saturating_add(8))
            .and_then(|len| len.checked_add(HEADER))
            .is_some_and(|len| len <= BLOCK_BYTES);
        if size != expected || entries > room || !fits {
            return Err(broken("the sizes of a node do not fit"));
        }
        // Only then every block has a key of its own, and none can come twice.
        if entries == 0 && (inner || depth > 0) {
            return Err(broken("a node below the root is empty"));
        }
        let values_at = room.saturating_mul(8).saturating_add(HEADER);
        for entry in 0..entries {
            let key = read_u64le(&bytes, entry.saturating_mul(8).saturating_add(HEADER));
            let value_at = values_at.saturating_add(entry.saturating_mul(size));
            let value = bytes
                .get(value_at..)
                .and_then(|rest| rest.get(..size))
                .ok_or_else(|| broken("a value lies outside"))?;
            if inner {
                self.node(read_u64le(value, 0), depth.saturating_add(1))?;
                continue;
            }
            if self.last.is_some_and(|last| last >= key) {
                return Err(broken("the keys are not in their order"));
            }
            self.last = Some(key);
            (self.leaf)(key, value)?;
        }
        Ok(())
    }
}
