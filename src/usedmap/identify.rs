//! What is in a volume: every signature that is found, by the tables that `libblkid` uses too.
//!
//! All of them are looked for, not the first: a volume with two signatures holds one that is stale
//! (ZFS leaves an old ext4 superblock in place, md 1.0 shows its member's filesystem), and a map
//! drawn from the stale one would lose data.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use super::firmware_raid;
use super::region::RegionKind;
use crate::bytes::{has_magic, read_u8, read_u16le, read_u32be, read_u32le};
use crate::device::ReadAt;
use crate::error::{Kind, Result};
use crate::units::{ByteLen, ByteOffset};
use crate::volume::crypt::is_bitlocker;

/// The name for ext2, ext3 and ext4 before their features have been read.
pub const EXT: &str = "ext";
/// The name of btrfs.
pub const BTRFS: &str = "btrfs";
/// The name of Linux software RAID.
pub const MD: &str = "md RAID";
/// The name of LVM's physical volumes.
pub const LVM2: &str = "LVM2";
/// The name of XFS.
pub const XFS: &str = "xfs";
/// The name of swap space that is only swap space.
pub const SWAP: &str = "swap";
/// Page sizes that swap space has been made for.
pub(super) const SWAP_PAGE_SIZES: [u64; 5] = [4096, 8192, 16_384, 32_768, 65_536];

/// One signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signature {
    /// How people know it: `xfs`, `LVM2`, `LUKS`.
    pub name: &'static str,
    /// What sort of content it stands for.
    pub kind: RegionKind,
}

impl Signature {
    /// Whether it means that a volume manager owns the whole disk, so that a partition table at its
    /// start describes what several disks make together: RAID of the firmware, md at the disk's end.
    pub fn owns_whole_disk(&self) -> bool {
        self.name == MD || firmware_raid::NAMES.contains(&self.name)
    }
}

/// Bytes that stand at a fixed place.
struct Magic(u64, &'static [u8], &'static str, RegionKind);

use RegionKind::{Encrypted, Filesystem, VolumeManager};

/// Signatures at a fixed distance from the start.
const MAGICS: &[Magic] = &[
    Magic(0x438, &[0x53, 0xEF], EXT, Filesystem),
    Magic(0x1_0040, b"_BHRfS_M", BTRFS, Filesystem),
    Magic(0, b"XFSB", XFS, Filesystem),
    Magic(0x03, b"NTFS    ", "ntfs", Filesystem),
    Magic(0x03, b"EXFAT   ", "exfat", Filesystem),
    Magic(0x03, b"ReFS\0\0\0\0", "ReFS", Filesystem),
    Magic(0x400, &[0x10, 0x20, 0xF5, 0xF2], "f2fs", Filesystem),
    Magic(0x400, b"H+\0\x04", "hfs+", Filesystem),
    Magic(0x400, b"HX\0\x05", "hfs+", Filesystem),
    Magic(0x20, b"NXSB", "apfs", Filesystem),
    Magic(0x1_0034, b"ReIsErFs", "reiserfs", Filesystem),
    Magic(0x1_0034, b"ReIsEr2Fs", "reiserfs", Filesystem),
    Magic(0x1_0034, b"ReIsEr3Fs", "reiserfs", Filesystem),
    Magic(0x2034, b"ReIsErFs", "reiserfs", Filesystem),
    Magic(0x1_0000, b"ReIsEr4", "reiser4", Filesystem),
    Magic(0x8000, b"JFS1", "jfs", Filesystem),
    Magic(0x255C, &[0x54, 0x19, 0x01, 0x00], "ufs", Filesystem),
    Magic(0x1_055C, &[0x19, 0x01, 0x54, 0x19], "ufs", Filesystem),
    Magic(0x8001, b"CD001", "iso9660", Filesystem),
    Magic(0x8001, b"BEA01", "udf", Filesystem),
    Magic(0, b"hsqs", "squashfs", Filesystem),
    Magic(0x400, &[0xE2, 0xE1, 0xF5, 0xE0], "erofs", Filesystem),
    Magic(0x1_0000, &[0x01, 0x16, 0x19, 0x70], "gfs2", Filesystem),
    Magic(0x2000, b"OCFSV2", "ocfs2", Filesystem),
    Magic(0x20_0000, &[0x5E, 0xF1, 0xAB, 0x2F], "VMFS", Filesystem),
    Magic(0x10_0000, &[0x0D, 0xD0, 0x01, 0xC0], "VMFS", VolumeManager),
    Magic(0x1018, BCACHE, "bcache", VolumeManager),
    Magic(0x1018, BCACHEFS, "bcachefs", Filesystem),
    Magic(0, &[0xFC, 0x4E, 0x2B, 0xA9], MD, VolumeManager),
    Magic(0x1000, &[0xFC, 0x4E, 0x2B, 0xA9], MD, VolumeManager),
    Magic(0x1000, b"SPACEDB ", "Storage Spaces", VolumeManager),
    Magic(0x20, b"ORCLDISK", "Oracle ASM", VolumeManager),
    Magic(0, b"dmvdo001", "VDO", VolumeManager),
    Magic(0, b"SnAp", "device-mapper snapshot", VolumeManager),
    Magic(0x200, b"!Stra0tis", "Stratis", VolumeManager),
    Magic(0x204, b"!Stra0tis", "Stratis", VolumeManager),
    Magic(
        0,
        b"bluestore block device",
        "Ceph BlueStore",
        VolumeManager,
    ),
    Magic(0xC00, b"PRIVHEAD", "Dynamic Disk", VolumeManager),
    Magic(0, b"LUKS\xBA\xBE", "LUKS", Encrypted),
];

const BCACHE: &[u8] = &[
    0xC6, 0x85, 0x73, 0xF6, 0x4E, 0x1A, 0x45, 0xCA, 0x82, 0x65, 0xF5, 0x7F, 0x48, 0xBA, 0x6D, 0x81,
];
const BCACHEFS: &[u8] = &[
    0xC6, 0x85, 0x73, 0xF6, 0x66, 0xCE, 0x90, 0xA9, 0xD9, 0x6A, 0x60, 0xCF, 0x80, 0x3D, 0xF7, 0xEF,
];

/// What a suspended system writes where swap space has its signature: the kernel, uswsusp.
const SUSPENDED: [&[u8]; 4] = [b"S1SUSPEND", b"S2SUSPEND", b"ULSUSPEND", b"LINHIB0001"];
/// What TuxOnIce writes at the very start.
const TUX_ON_ICE: &[u8] = &[0xED, 0xC3, 0x02, 0xE9, 0x98, 0x56, 0xE5, 0x0C];

/// Where swap space of that page size has its signature.
pub(super) fn swap_magic_at(page_size: u64) -> Option<ByteOffset> {
    page_size.checked_sub(10).map(ByteOffset)
}

/// Every signature in the volume, each name once, in the order of this file.
///
/// # Errors
/// When a place that has to be looked at cannot be read.
pub fn identify(volume: &dyn ReadAt) -> Result<Vec<Signature>> {
    let mut found: Vec<Signature> = Vec::new();
    let mut add = |name, kind| {
        if !found.iter().any(|signature| signature.name == name) {
            found.push(Signature { name, kind });
        }
    };
    // All but three of the places are in the first 68 KiB.
    let head = read_head(volume)?;
    for Magic(at, bytes, name, kind) in MAGICS {
        let hit = match usize::try_from(*at) {
            Ok(at) if at < 0x1_0FF0 => has_magic(&head, at, bytes),
            _ => read_clipped(volume, *at, bytes.len())?.starts_with(bytes),
        };
        if hit {
            add(*name, *kind);
        }
    }
    if is_bitlocker(&head) {
        // BitLocker To Go dresses up as FAT.
        add("BitLocker", Encrypted);
    } else if is_fat(&head) {
        add("fat", Filesystem);
    }
    if is_lvm2(&head) {
        add(LVM2, VolumeManager);
    }
    for page_size in SWAP_PAGE_SIZES {
        let at = swap_magic_at(page_size).and_then(|at| usize::try_from(at.0).ok());
        let Some(field) = at.and_then(|at| head.get(at..)) else {
            continue;
        };
        if field.starts_with(b"SWAPSPACE2") || field.starts_with(b"SWAP-SPACE") {
            add(SWAP, RegionKind::Swap);
        }
        if SUSPENDED.iter().any(|magic| field.starts_with(magic)) {
            add("suspended system", RegionKind::Swap);
        }
    }
    if head.starts_with(TUX_ON_ICE) {
        add("suspended system", RegionKind::Swap);
    }
    if is_md_at_end(volume)? {
        add(MD, VolumeManager);
    }
    if let Some(name) = firmware_raid::find(volume)? {
        add(name, VolumeManager);
    }
    if is_zfs(volume)? {
        add("ZFS", VolumeManager);
    }
    Ok(found)
}

/// The first 68 KiB, with zeros for sectors that cannot be read and that no signature could be in:
/// a bad sector of the boot code shall not hide all that is on the disk.
fn read_head(volume: &dyn ReadAt) -> Result<Vec<u8>> {
    const HEAD: usize = 0x1_1000;
    const PIECE: usize = 512;
    let error = match read_clipped(volume, 0, HEAD) {
        Err(error) if error.kind() == Kind::Io => error,
        done => return done,
    };
    // What FAT, BitLocker, LVM and TuxOnIce are known by is in the first four sectors.
    let magics = MAGICS.iter().map(|magic| (magic.0, magic.1.len()));
    let swap = SWAP_PAGE_SIZES
        .into_iter()
        .filter_map(swap_magic_at)
        .map(|at| (at.0, 10));
    let places: Vec<(u64, u64)> = magics
        .chain(swap)
        .chain([(0, 4 * PIECE)])
        .map(|(at, len)| {
            (
                at,
                at.saturating_add(u64::try_from(len).unwrap_or(u64::MAX)),
            )
        })
        .collect();
    let mut head = Vec::new();
    for at in (0_u64..).step_by(PIECE).take(HEAD / PIECE) {
        match read_clipped(volume, at, PIECE) {
            Ok(bytes) => head.extend(bytes),
            Err(_) => {
                let end = at.saturating_add(u64::try_from(PIECE).unwrap_or(u64::MAX));
                if places.iter().any(|(from, to)| *from < end && at < *to) {
                    return Err(error);
                }
                head.resize(head.len().saturating_add(PIECE), 0);
            }
        }
    }
    Ok(head)
}

/// Up to `len` bytes from `at` on: fewer, or none, at the volume's end.
pub(super) fn read_clipped(volume: &dyn ReadAt, at: u64, len: usize) -> Result<Vec<u8>> {
    let room = usize::try_from(volume.size().0.saturating_sub(at)).unwrap_or(usize::MAX);
    let mut bytes = vec![0; len.min(room)];
    if !bytes.is_empty() {
        volume.read_at(ByteOffset(at), &mut bytes)?;
    }
    Ok(bytes)
}

/// FAT has no magic of its own: its BIOS parameter block must make sense (Microsoft, "FAT: General
/// Overview of On-Disk Format", section 3).
fn is_fat(sector: &[u8]) -> bool {
    let bytes_per_sector = read_u16le(sector, 0x0B);
    let sectors_per_cluster = read_u8(sector, 0x0D);
    let reserved = read_u16le(sector, 0x0E);
    let fats = read_u8(sector, 0x10);
    let total = u32::from(read_u16le(sector, 0x13)) | read_u32le(sector, 0x20);
    let media = read_u8(sector, 0x15);
    has_magic(sector, 0x1FE, &[0x55, 0xAA])
        && bytes_per_sector.is_power_of_two()
        && (512..=4096).contains(&bytes_per_sector)
        && sectors_per_cluster.is_power_of_two()
        && reserved != 0
        && matches!(fats, 1 | 2)
        && total != 0
        && (media >= 0xF8 || media == 0xF0)
}

/// The label of a physical volume is in one of the first four sectors.
fn is_lvm2(head: &[u8]) -> bool {
    head.chunks_exact(512)
        .take(4)
        .any(|sector| has_magic(sector, 0, b"LABELONE") && has_magic(sector, 0x18, b"LVM2 001"))
}

/// md keeps versions 0.90 and 1.0 of its superblock at the end (md(4); `super_90_load` and
/// `super_1_load` of Linux), so the filesystem of a mirror shows at its start.
fn is_md_at_end(volume: &dyn ReadAt) -> Result<bool> {
    let size = volume.size().0;
    // 64 KiB aligned down, less 64 KiB.
    let v0_90 = (size & !0xFFFF).checked_sub(0x1_0000);
    // At least 8 KiB from the end, aligned down to 4 KiB.
    let v1_0 = (size & !0x1FF).checked_sub(0x2000).map(|at| at & !0xFFF);
    for at in [v0_90, v1_0].into_iter().flatten() {
        let bytes = read_clipped(volume, at, 4)?;
        // Version 0.90 is in the byte order of the machine that made it.
        if read_u32le(&bytes, 0) == 0xA92B_4EFC || read_u32be(&bytes, 0) == 0xA92B_4EFC {
            return Ok(true);
        }
    }
    Ok(false)
}

/// ZFS has four labels of 256 KiB, two at each end, each with a ring of uberblocks in its second
/// half. As `libblkid` does, four uberblocks are asked for: fewer may be left over.
fn is_zfs(volume: &dyn ReadAt) -> Result<bool> {
    const LABEL: u64 = 256 << 10;
    const RING: usize = 128 << 10;
    const MAGIC: u32 = 0x00BA_B10C;
    let ByteLen(size) = volume.size();
    let end = size & !(LABEL.saturating_sub(1));
    let labels = [
        Some(0),
        Some(LABEL),
        end.checked_sub(LABEL.saturating_mul(2)),
        end.checked_sub(LABEL),
    ];
    let mut uberblocks = 0_u32;
    for label in labels.into_iter().flatten() {
        let ring = read_clipped(volume, label.saturating_add(LABEL / 2), RING)?;
        for slot in ring.chunks_exact(1024) {
            if read_u32le(slot, 0) == MAGIC || read_u32be(slot, 4) == MAGIC {
                uberblocks = uberblocks.saturating_add(1);
            }
        }
    }
    Ok(uberblocks >= 4)
}

#[cfg(test)]
#[allow(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]
mod tests {
    use super::*;
    use crate::device::MemDisk;
    use crate::error::Error;

    /// One sector of it cannot be read.
    struct BadSector(MemDisk, u64);

    impl ReadAt for BadSector {
        fn size(&self) -> ByteLen {
            self.0.size()
        }
        fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> Result<()> {
            let end = offset.0 + buf.len() as u64;
            if offset.0 < (self.1 + 1) * 512 && self.1 * 512 < end {
                return Err(Error::new(Kind::Io, "a bad sector"));
            }
            self.0.read_at(offset, buf)
        }
        fn name(&self) -> String {
            "bad".into()
        }
    }

    #[test]
    fn a_bad_sector_where_no_signature_can_be_hides_nothing_and_others_are_errors() {
        let mut bytes = vec![0xAA; 1 << 20];
        bytes[..4].copy_from_slice(b"XFSB");
        let mut errors = Vec::new();
        for sector in 0..136 {
            match identify(&BadSector(MemDisk(bytes.clone()), sector)) {
                Ok(found) => {
                    let names: Vec<&str> = found.iter().map(|f| f.name).collect();
                    assert_eq!(names, ["xfs"], "sector {sector}");
                }
                Err(_) => errors.push(sector),
            }
        }
        // The first four; then bcache's and others' places, md at 0x1000, swap before the end of
        // each size of page, ReiserFS at 0x2034 and 0x10034, JFS at 0x8000, btrfs at 0x10040.
        assert_eq!(
            errors,
            [
                0, 1, 2, 3, 6, 7, 8, 9, 15, 16, 18, 31, 63, 64, 127, 128, 130
            ]
        );
    }
}
