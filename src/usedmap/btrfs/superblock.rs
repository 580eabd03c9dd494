//! The superblock (`struct btrfs_super_block` in `include/uapi/linux/btrfs_tree.h`, 4 KiB): at 64 KiB
//! of every device, with copies at 64 MiB and 256 GiB where the device reaches that far.
//!
//! The kernel mounts by the first one only, so the map is drawn from it. A copy that is newer than it
//! means that somebody may bring back another state than the one that is mapped: refused.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use super::checksum::Checksum;
use super::features::INCOMPAT_METADATA_UUID;
use crate::bytes::{has_magic, read_array, read_text, read_u8, read_u16le, read_u32le, read_u64le};
use crate::device::ReadAt;
use crate::extent::Extent;
use crate::units::ByteOffset;
use crate::usedmap::finding::Refusal;
use uuid::Uuid;

/// What a superblock takes.
const SIZE: usize = 4096;
/// Where it and its copies are.
const COPIES_AT: [u64; 3] = [64 << 10, 64 << 20, 256 << 30];
/// Left alone by btrfs at the start of every device, for boot loaders.
const RESERVED: u64 = 1 << 20;
/// How deep a tree may be (`BTRFS_MAX_LEVEL`).
pub(crate) const MAX_LEVEL: u8 = 8;

/// A device as a superblock or the chunk tree describes it (`struct btrfs_dev_item`, 98 bytes).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DevItem {
    pub devid: u64,
    /// How many of its bytes the filesystem may use, from its start on.
    pub total_bytes: u64,
    /// How many of them are allocated to chunks.
    pub bytes_used: u64,
    pub uuid: Uuid,
    /// Of the filesystem that it was made for; a seed device keeps its own.
    pub fsid: Uuid,
}

impl DevItem {
    pub(crate) const SIZE: usize = 0x62;

    pub(crate) fn parse(bytes: &[u8]) -> Self {
        Self {
            devid: read_u64le(bytes, 0x00),
            total_bytes: read_u64le(bytes, 0x08),
            bytes_used: read_u64le(bytes, 0x10),
            uuid: Uuid::from_bytes(read_array(bytes, 0x42)),
            fsid: Uuid::from_bytes(read_array(bytes, 0x52)),
        }
    }
}

/// A superblock that matches its checksum.
#[derive(Debug, Clone)]
pub(crate) struct Superblock {
    pub fsid: Uuid,
    /// What tree blocks and devices carry as their filesystem.
    pub metadata_uuid: Uuid,
    pub label: Option<String>,
    pub flags: u64,
    pub generation: u64,
    /// Logical address of the root tree.
    pub root: u64,
    pub root_level: u8,
    /// Logical address of the chunk tree.
    pub chunk_root: u64,
    pub chunk_root_level: u8,
    pub chunk_root_generation: u64,
    /// Logical address of the tree of log trees; 0: there is none.
    pub log_root: u64,
    pub log_root_level: u8,
    /// Bytes in use, each counted once however many copies it has.
    pub bytes_used: u64,
    pub num_devices: u64,
    pub sectorsize: u64,
    /// What a tree block takes.
    pub nodesize: usize,
    pub compat_ro: u64,
    pub incompat: u64,
    pub checksum: Checksum,
    /// The chunks that hold the chunk tree.
    pub sys_chunk_array: Vec<u8>,
    /// The device that it stands on.
    pub dev_item: DevItem,
}

/// Why a superblock is no good, and what it says all the same.
pub(crate) struct Unusable {
    pub refusal: Refusal,
    /// A copy of it, for its names.
    pub copy: Option<Box<Superblock>>,
}

impl From<Refusal> for Unusable {
    fn from(refusal: Refusal) -> Self {
        Self {
            refusal,
            copy: None,
        }
    }
}

impl Superblock {
    /// The superblock that a mount would read.
    pub(crate) fn read(volume: &dyn ReadAt) -> Result<Self, Unusable> {
        let [first_at, copies_at @ ..] = COPIES_AT;
        let mut bytes = vec![0; SIZE];
        volume
            .read_at(ByteOffset(first_at), &mut bytes)
            .map_err(Refusal::from)?;
        let first = Self::parse(&bytes, first_at);
        for at in copies_at {
            // Copies that cannot be read or are not whole are no reason to doubt the first.
            let copy = volume
                .read_at(ByteOffset(at), &mut bytes)
                .map_err(Refusal::from)
                .and_then(|()| Self::parse(&bytes, at));
            match (&first, copy) {
                (Ok(first), Ok(copy)) if copy.is_newer_than(first) => {
                    return Err(Unusable {
                        refusal: Refusal::Damaged(format!(
                            "the copy of its superblock at byte {at} is newer than the superblock \
                             (mount it once and unmount it for a smaller copy)"
                        )),
                        copy: Some(Box::new(copy)),
                    });
                }
                (Err(Refusal::Damaged(_)), Ok(copy)) => {
                    return Err(Unusable {
                        refusal: Refusal::Damaged(format!(
                            "its superblock is destroyed, the copy at byte {at} is whole (run \
                             'btrfs rescue super-recover' for a smaller copy)"
                        )),
                        copy: Some(Box::new(copy)),
                    });
                }
                _ => {}
            }
        }
        Ok(first?)
    }

    /// Of the same filesystem, not of one that was there before.
    fn is_newer_than(&self, other: &Self) -> bool {
        self.fsid == other.fsid
            && self.dev_item.uuid == other.dev_item.uuid
            && self.generation > other.generation
    }

    fn parse(bytes: &[u8], at: u64) -> Result<Self, Refusal> {
        let damaged = |what: &str| Err(Refusal::Damaged(format!("its superblock {what}")));
        if !has_magic(bytes, 0x40, b"_BHRfS_M") {
            return damaged("is not one");
        }
        let csum_type = read_u16le(bytes, 0xC4);
        let Some(checksum) = Checksum::of(csum_type) else {
            return Err(Refusal::Unsupported(format!(
                "it uses a checksum unknown here (type {csum_type})"
            )));
        };
        if !checksum.accepts(bytes) {
            return damaged("does not match its checksum");
        }
        if read_u64le(bytes, 0x30) != at {
            return damaged("belongs elsewhere");
        }
        let fsid = Uuid::from_bytes(read_array(bytes, 0x20));
        let incompat = read_u64le(bytes, 0xBC);
        let sectorsize = read_u32le(bytes, 0x90);
        let nodesize = read_u32le(bytes, 0x94);
        let sizes = 4096..=65_536;
        if !sectorsize.is_power_of_two() || !sizes.contains(&sectorsize) {
            return damaged(&format!("has sectors of {sectorsize} bytes"));
        }
        if !nodesize.is_power_of_two() || !(sectorsize..=65_536).contains(&nodesize) {
            return damaged(&format!("has tree blocks of {nodesize} bytes"));
        }
        let array_size = usize::try_from(read_u32le(bytes, 0xA0)).unwrap_or(usize::MAX);
        let Some(sys_chunk_array) = bytes
            .get(0x32B..0xB2B)
            .and_then(|array| array.get(..array_size))
        else {
            return damaged(&format!("has {array_size} bytes of system chunks"));
        };
        let levels = [0xC6, 0xC7, 0xC8].map(|at| read_u8(bytes, at));
        if levels.iter().any(|&level| level >= MAX_LEVEL) {
            return damaged("has a tree that is too deep");
        }
        let [root_level, chunk_root_level, log_root_level] = levels;
        Ok(Self {
            fsid,
            metadata_uuid: if incompat & INCOMPAT_METADATA_UUID == 0 {
                fsid
            } else {
                Uuid::from_bytes(read_array(bytes, 0x23B))
            },
            label: read_text(bytes, 0x12B, 256),
            flags: read_u64le(bytes, 0x38),
            generation: read_u64le(bytes, 0x48),
            root: read_u64le(bytes, 0x50),
            root_level,
            chunk_root: read_u64le(bytes, 0x58),
            chunk_root_level,
            chunk_root_generation: read_u64le(bytes, 0xA4),
            log_root: read_u64le(bytes, 0x60),
            log_root_level,
            bytes_used: read_u64le(bytes, 0x78),
            num_devices: read_u64le(bytes, 0x88),
            sectorsize: sectorsize.into(),
            nodesize: usize::try_from(nodesize).unwrap_or(usize::MAX),
            compat_ro: read_u64le(bytes, 0xB4),
            incompat,
            checksum,
            sys_chunk_array: sys_chunk_array.to_vec(),
            dev_item: DevItem::parse(bytes.get(0xC9..0xC9 + DevItem::SIZE).unwrap_or_default()),
        })
    }
}

/// What every device of `total_bytes` keeps at fixed places: the first MiB, where boot loaders may
/// be too, and the copies of the superblock.
pub(crate) fn fixed_places(total_bytes: u64) -> impl Iterator<Item = Extent> {
    let copies = COPIES_AT
        .into_iter()
        .map(|at| (at, at.saturating_add(4096)))
        .filter(move |&(_, end)| end <= total_bytes);
    std::iter::once((0, RESERVED.min(total_bytes)))
        .chain(copies)
        .filter_map(|(start, end)| Extent::between(start, end))
}
