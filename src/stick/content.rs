//! What a partition of the stick holds, by its first bytes: our filesystem, nothing, or something
//! that is not ours to touch.
//!
//! ext4 superblock: Documentation/filesystems/ext4/super.rst.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use crate::error::{Error, Result};
use crate::units::{ByteLen, ByteOffset};
use std::io::{Read, Seek, SeekFrom};

/// The label of our filesystem.
pub(super) const LABEL: &str = "HAULIER";

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Content {
    /// An ext4 filesystem with our label.
    Ours {
        /// Unmounted properly: nothing to replay or repair.
        clean: bool,
        /// How much of the partition it takes.
        size: ByteLen,
    },
    /// The first 72 KiB, in which any filesystem or volume manager would show, are zero.
    Nothing,
    /// Anything else, in words.
    Other(&'static str),
}

const SUPERBLOCK: usize = 0x400;
/// Through btrfs' superblock at 64 KiB.
const LOOKED_AT: usize = 72 << 10;

/// Looks at what begins at `start`.
pub(super) fn read(device: &mut (impl Read + Seek), start: ByteOffset) -> Result<Content> {
    let mut bytes = vec![0_u8; LOOKED_AT];
    device
        .seek(SeekFrom::Start(start.0))
        .and_then(|_| device.read_exact(&mut bytes))
        .map_err(|e| Error::io("reading the start of the data partition", e).at(start.0))?;
    Ok(recognise(&bytes))
}

fn recognise(bytes: &[u8]) -> Content {
    if bytes.iter().all(|byte| *byte == 0) {
        return Content::Nothing;
    }
    superblock(bytes.get(SUPERBLOCK..).unwrap_or_default())
        .unwrap_or(Content::Other("data that is no filesystem of Haulier's"))
}

fn superblock(sb: &[u8]) -> Option<Content> {
    const EXT4_MAGIC: u16 = 0xEF53;
    const EXT4_VALID_FS: u16 = 0x1;
    const EXT4_ERROR_FS: u16 = 0x2;
    const INCOMPAT_RECOVER: u32 = 0x4;
    const INCOMPAT_64BIT: u32 = 0x80;

    let s_blocks_count_lo = u32le(sb, 0x4)?;
    let s_log_block_size = u32le(sb, 0x18)?;
    let s_magic = u16le(sb, 0x38)?;
    let s_state = u16le(sb, 0x3A)?;
    let s_feature_incompat = u32le(sb, 0x60)?;
    let s_volume_name = sb.get(0x78..0x88)?;
    let s_blocks_count_hi = u32le(sb, 0x150)?;

    if s_magic != EXT4_MAGIC {
        return None;
    }
    let label = s_volume_name.split(|byte| *byte == 0).next()?;
    if label != LABEL.as_bytes() {
        return Some(Content::Other(
            "an ext2, ext3 or ext4 filesystem of somebody else's",
        ));
    }
    let high = if s_feature_incompat & INCOMPAT_64BIT == 0 {
        0
    } else {
        u64::from(s_blocks_count_hi)
    };
    let blocks = high
        .checked_shl(32)?
        .checked_add(u64::from(s_blocks_count_lo))?;
    let block_size = 1024_u64
        .checked_shl(s_log_block_size)
        .filter(|_| s_log_block_size <= 6)?;
    Some(Content::Ours {
        clean: s_state & (EXT4_VALID_FS | EXT4_ERROR_FS) == EXT4_VALID_FS
            && s_feature_incompat & INCOMPAT_RECOVER == 0,
        size: ByteLen(blocks.checked_mul(block_size)?),
    })
}

fn u16le(bytes: &[u8], offset: usize) -> Option<u16> {
    let field = bytes.get(offset..)?.first_chunk::<2>()?;
    Some(u16::from_le_bytes(*field))
}

fn u32le(bytes: &[u8], offset: usize) -> Option<u32> {
    let field = bytes.get(offset..)?.first_chunk::<4>()?;
    Some(u32::from_le_bytes(*field))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{MIB, run};
    use super::*;
    use std::fs::{File, OpenOptions};
    use std::path::Path;

    fn made_by(program: &str, arguments: &[&str]) -> (tempfile::TempDir, Content) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("part.img");
        File::create(&path).unwrap().set_len(64 * MIB).unwrap();
        let mut all = arguments.to_vec();
        all.push(path.to_str().unwrap());
        run(program, &all);
        let content = look(&path);
        (dir, content)
    }

    fn look(path: &Path) -> Content {
        read(&mut File::open(path).unwrap(), ByteOffset(0)).unwrap()
    }

    #[test]
    fn our_filesystem_is_known_with_its_size() {
        let (_dir, content) = made_by("mke2fs", &["-q", "-t", "ext4", "-L", LABEL]);
        let size = ByteLen(64 * MIB);
        assert_eq!(content, Content::Ours { clean: true, size });
    }

    #[test]
    fn one_that_was_not_unmounted_is_not_clean() {
        let (dir, _) = made_by("mke2fs", &["-q", "-t", "ext4", "-L", LABEL]);
        let path = dir.path().join("part.img");
        run(
            "debugfs",
            &["-w", "-R", "feature needs_recovery", path.to_str().unwrap()],
        );
        assert!(matches!(look(&path), Content::Ours { clean: false, .. }));
    }

    #[test]
    fn other_filesystems_are_not_ours() {
        for (program, arguments) in [
            ("mke2fs", &["-q", "-t", "ext4", "-L", "photos"][..]),
            ("mke2fs", &["-q", "-t", "ext4"]),
            ("mkfs.vfat", &["-n", LABEL]),
        ] {
            let (_dir, content) = made_by(program, arguments);
            assert!(
                matches!(content, Content::Other(_)),
                "{program}: {content:?}"
            );
        }
    }

    #[test]
    fn only_zeros_are_nothing() {
        let mut bytes = vec![0; LOOKED_AT];
        assert_eq!(recognise(&bytes), Content::Nothing);
        // btrfs' magic, alone.
        bytes[0x10040..0x10048].copy_from_slice(b"_BHRfS_M");
        assert!(matches!(recognise(&bytes), Content::Other(_)));
    }

    #[test]
    fn a_superblock_with_absurd_sizes_is_not_ours() {
        let (dir, _) = made_by("mke2fs", &["-q", "-t", "ext4", "-L", LABEL]);
        let path = dir.path().join("part.img");
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, &[0xFF; 4], 0x400 + 0x18).unwrap();
        assert!(matches!(look(&path), Content::Other(_)));
    }

    #[test]
    fn a_partition_cut_short_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("short");
        File::create(&path).unwrap().set_len(4096).unwrap();
        read(&mut File::open(&path).unwrap(), ByteOffset(0)).unwrap_err();
    }
}
