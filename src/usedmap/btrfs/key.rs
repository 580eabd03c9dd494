//! Keys (`struct btrfs_disk_key` in `include/uapi/linux/btrfs_tree.h`, 17 bytes): `objectid` 0x00,
//! `type` 0x08, `offset` 0x09. Every tree is sorted by them, in this order of fields.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use crate::bytes::{read_u8, read_u64le};

/// What a key takes on the disk.
pub(crate) const KEY_SIZE: usize = 17;

/// `BTRFS_ROOT_TREE_OBJECTID`: the tree of all trees' roots.
pub(crate) const ROOT_TREE: u64 = 1;
/// `BTRFS_EXTENT_TREE_OBJECTID`: which logical bytes are in use.
pub(crate) const EXTENT_TREE: u64 = 2;
/// `BTRFS_CHUNK_TREE_OBJECTID`: where logical bytes are.
pub(crate) const CHUNK_TREE: u64 = 3;
/// `BTRFS_DEV_TREE_OBJECTID`: the same, seen from the devices.
pub(crate) const DEV_TREE: u64 = 4;
/// `BTRFS_BLOCK_GROUP_TREE_OBJECTID`.
pub(crate) const BLOCK_GROUP_TREE: u64 = 11;
/// `BTRFS_TREE_LOG_OBJECTID`, which is -6: the owner of all log trees.
pub(crate) const TREE_LOG: u64 = 0u64.wrapping_sub(6);

/// No tree has this number: a snapshot's tree shares blocks with the one that it was taken of, which keep
/// the number of that one.
pub(crate) const ANY_TREE: u64 = 0;
/// `BTRFS_FS_TREE_OBJECTID`: the subvolume that all others lie in.
pub(crate) const FS_TREE: u64 = 5;

/// `BTRFS_INODE_ITEM_KEY`.
pub(crate) const INODE_ITEM: u8 = 1;
/// `BTRFS_INODE_REF_KEY`: the name of an inode in the directory `offset`.
pub(crate) const INODE_REF: u8 = 12;
/// `BTRFS_DIR_ITEM_KEY`: an entry of a directory, by the hash of its name.
pub(crate) const DIR_ITEM: u8 = 84;
/// `BTRFS_DIR_INDEX_KEY`: the same, in the order of making.
pub(crate) const DIR_INDEX: u8 = 96;
/// `BTRFS_EXTENT_DATA_KEY`: a piece of a file.
pub(crate) const EXTENT_DATA: u8 = 108;
/// `BTRFS_ROOT_ITEM_KEY`.
pub(crate) const ROOT_ITEM: u8 = 132;
/// `BTRFS_ROOT_BACKREF_KEY`: the name of a subvolume in the subvolume `offset`.
pub(crate) const ROOT_BACKREF: u8 = 144;
/// `BTRFS_EXTENT_ITEM_KEY`: from `objectid`, `offset` bytes are in use.
pub(crate) const EXTENT_ITEM: u8 = 168;
/// `BTRFS_METADATA_ITEM_KEY`: at `objectid` is a tree block; `offset` is its level.
pub(crate) const METADATA_ITEM: u8 = 169;
/// `BTRFS_EXTENT_REF_V0_KEY`: references of before Linux 2.6.31.
pub(crate) const EXTENT_REF_V0: u8 = 180;
/// The keys of references, which say nothing of what is in use: EXTENT_OWNER_REF, TREE_BLOCK_REF,
/// EXTENT_DATA_REF, SHARED_BLOCK_REF, SHARED_DATA_REF.
pub(crate) const REFERENCES: [u8; 5] = [172, 176, 178, 182, 184];
/// `BTRFS_BLOCK_GROUP_ITEM_KEY`.
pub(crate) const BLOCK_GROUP_ITEM: u8 = 192;
/// `BTRFS_DEV_EXTENT_KEY`.
pub(crate) const DEV_EXTENT: u8 = 204;
/// `BTRFS_DEV_ITEM_KEY`.
pub(crate) const DEV_ITEM: u8 = 216;
/// `BTRFS_CHUNK_ITEM_KEY`: `offset` is the chunk's first logical byte.
pub(crate) const CHUNK_ITEM: u8 = 228;
/// `BTRFS_DEV_REPLACE_KEY`.
pub(crate) const DEV_REPLACE: u8 = 250;

/// A key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    pub objectid: u64,
    pub kind: u8,
    pub offset: u64,
}

impl Key {
    /// Below all others.
    pub(crate) const MIN: Self = Self {
        objectid: 0,
        kind: 0,
        offset: 0,
    };
    /// Above all others.
    pub(crate) const MAX: Self = Self {
        objectid: u64::MAX,
        kind: u8::MAX,
        offset: u64::MAX,
    };

    /// The key at `at`.
    pub(crate) fn read(bytes: &[u8], at: usize) -> Self {
        Self {
            objectid: read_u64le(bytes, at),
            kind: read_u8(bytes, at.saturating_add(0x08)),
            offset: read_u64le(bytes, at.saturating_add(0x09)),
        }
    }
}
