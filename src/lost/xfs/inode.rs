//! An inode (`struct xfs_dinode` in `fs/xfs/libxfs/xfs_format.h`, big-endian), and its two forks: what
//! is behind its fields, up to `di_forkoff` the map of its content, and then that of its attributes.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use super::Filesystem;
use super::fork::Fork;
use crate::bytes::{has_magic, read_u8, read_u16be, read_u32be, read_u32le, read_u64be};
use crate::usedmap::xfs::superblock::has_crc;

const CRC_AT: usize = 0x64;
/// Bytes of the fields, before version 3 and since.
const CORE: usize = 0x64;
const CORE_V3: usize = 0xB0;
const FLAG_REALTIME: u16 = 0x1;
const FLAG2_NREXT64: u64 = 0x10;

/// What kind of file an inode is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Directory,
    Link,
    Other,
}

/// An inode in use that matches its checksum.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Inode<'a> {
    pub number: u64,
    pub kind: Kind,
    /// `di_size`, in bytes.
    pub size: u64,
    raw: &'a [u8],
    core: usize,
    is_realtime: bool,
}

/// The bytes of an inode by its group and its number there.
pub(crate) fn read_raw(fs: Filesystem<'_>, group: u64, in_group: u64) -> Option<Vec<u8>> {
    let place = fs.shape.place_of(fs.sb, group, in_group, 1)?;
    let mut raw = vec![0; usize::try_from(place.len().0).ok()?];
    fs.volume.read_at(place.start(), &mut raw).ok()?;
    Some(raw)
}

/// Calls `each` with the inode of a number, if it can be read.
pub(crate) fn read(fs: Filesystem<'_>, number: u64, each: &mut dyn FnMut(Inode<'_>)) {
    let (group, in_group) = fs.shape.split(number);
    if group >= fs.sb.ag_count {
        return;
    }
    let raw = read_raw(fs, group, in_group).unwrap_or_default();
    if let Some(inode) = Inode::parse(fs, number, &raw) {
        each(inode);
    }
}

impl<'a> Inode<'a> {
    /// `raw` is exactly one inode.
    pub(crate) fn parse(fs: Filesystem<'_>, number: u64, raw: &'a [u8]) -> Option<Self> {
        let di_mode = read_u16be(raw, 0x02);
        let di_version = read_u8(raw, 0x04);
        let di_size = read_u64be(raw, 0x38);
        let di_flags = read_u16be(raw, 0x5A);
        let v5 = fs.sb.features.is_v5();
        let sound = if v5 {
            di_version == 3
                && read_u64be(raw, 0x98) == number
                && has_crc(raw, CRC_AT, read_u32le(raw, CRC_AT))
        } else {
            matches!(di_version, 1 | 2)
        };
        if !has_magic(raw, 0, b"IN") || !sound || di_mode == 0 {
            return None;
        }
        Some(Self {
            number,
            kind: match di_mode & 0xF000 {
                0x4000 => Kind::Directory,
                0xA000 => Kind::Link,
                _ => Kind::Other,
            },
            size: di_size,
            raw,
            core: if v5 { CORE_V3 } else { CORE },
            is_realtime: di_flags & FLAG_REALTIME != 0,
        })
    }

    /// Whether it is a regular file.
    pub(crate) fn is_regular(&self) -> bool {
        read_u16be(self.raw, 0x02) & 0xF000 == 0x8000
    }

    fn has_wide_counts(&self) -> bool {
        self.core == CORE_V3 && read_u64be(self.raw, 0x78) & FLAG2_NREXT64 != 0
    }

    /// `di_forkoff`, from the start of the forks.
    fn border(&self) -> usize {
        usize::from(read_u8(self.raw, 0x52)).saturating_mul(8)
    }

    /// The map of its content.
    pub(crate) fn data_fork(&self, fs: Filesystem<'a>) -> Fork<'a> {
        let forks = self.raw.get(self.core..).unwrap_or_default();
        let bytes = match self.border() {
            0 => forks,
            border => forks.get(..border).unwrap_or(forks),
        };
        let extents = if self.has_wide_counts() {
            read_u64be(self.raw, 0x18)
        } else {
            u64::from(read_u32be(self.raw, 0x4C))
        };
        // What is in the realtime section is counted in its blocks, on another disk.
        let format = match self.is_realtime {
            true => 0,
            false => read_u8(self.raw, 0x05),
        };
        fs.fork(format, bytes, extents)
    }

    /// The map of its attributes.
    pub(crate) fn attribute_fork(&self, fs: Filesystem<'a>) -> Fork<'a> {
        let forks = self.raw.get(self.core..).unwrap_or_default();
        let border = self.border();
        let extents = if self.has_wide_counts() {
            u64::from(read_u32be(self.raw, 0x4C))
        } else {
            u64::from(read_u16be(self.raw, 0x50))
        };
        match border {
            0 => fs.fork(0, &[], 0),
            _ => fs.fork(
                read_u8(self.raw, 0x53),
                forks.get(border..).unwrap_or_default(),
                extents,
            ),
        }
    }
}
