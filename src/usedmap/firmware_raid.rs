//! RAID of the firmware ("fakeraid") keeps its metadata at the very end of each disk. What the
//! members make together is described nowhere that we could hold ourselves against, so a member is
//! only named. Places and magics as in `libblkid/src/superblocks` of util-linux.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use super::identify::read_clipped;
use crate::bytes::has_magic;
use crate::device::ReadAt;
use crate::error::Result;

/// All names that [`find`] gives.
pub(super) const NAMES: [&str; 8] = [
    INTEL, DDF, ADAPTEC, HIGHPOINT, LSI, NVIDIA, PROMISE, JMICRON,
];

const INTEL: &str = "Intel RST RAID";
const DDF: &str = "DDF RAID";
const ADAPTEC: &str = "Adaptec RAID";
const HIGHPOINT: &str = "HighPoint RAID";
const LSI: &str = "LSI MegaRAID";
const NVIDIA: &str = "NVIDIA RAID";
const PROMISE: &str = "Promise RAID";
const JMICRON: &str = "JMicron RAID";

const INTEL_MAGIC: &[u8] = b"Intel Raid ISM Cfg Sig. ";
const DDF_MAGIC: &[u8] = &[0xDE, 0x11, 0xDE, 0x11];
const PROMISE_MAGIC: &[u8] = b"Promise Technology, Inc.";

/// A magic so many bytes before the end, at that offset.
const AT_END: &[(u64, usize, &[u8], &str)] = &[
    (2 * 512, 0, INTEL_MAGIC, INTEL),
    // With sectors of 4 KiB.
    (2 * 4096, 0, INTEL_MAGIC, INTEL),
    (512, 0, DDF_MAGIC, DDF),
    (257 * 512, 0, DDF_MAGIC, DDF),
    (512, 0, b"DPTM", ADAPTEC),
    (11 * 512, 0, &[0xF3, 0x16, 0x78, 0x5A], HIGHPOINT),
    (11 * 512, 0, &[0xFD, 0x16, 0x78, 0x5A], HIGHPOINT),
    (512, 0, b"$XIDE$", LSI),
    (2 * 512, 0, b"NVIDIA", NVIDIA),
    (512, 0, b"JM\0\0", JMICRON),
];

/// Promise has had many places, in sectors before the end.
const PROMISE_SECTORS: [u64; 13] = [
    63, 255, 256, 16, 399, 591, 675, 735, 911, 974, 991, 951, 3087,
];

/// The firmware's RAID that a volume is a member of.
///
/// # Errors
/// When a place that has to be looked at cannot be read.
pub(super) fn find(volume: &dyn ReadAt) -> Result<Option<&'static str>> {
    let size = volume.size().0;
    for (before_end, offset, magic, name) in AT_END {
        let Some(at) = size.checked_sub(*before_end) else {
            continue;
        };
        if has_magic(&read_clipped(volume, at, 64)?, *offset, magic) {
            return Ok(Some(name));
        }
    }
    for sectors in PROMISE_SECTORS {
        let Some(at) = sectors.checked_mul(512).and_then(|b| size.checked_sub(b)) else {
            continue;
        };
        if has_magic(&read_clipped(volume, at, 64)?, 0, PROMISE_MAGIC) {
            return Ok(Some(PROMISE));
        }
    }
    // HighPoint's newer ones, in the tenth sector.
    let tenth = read_clipped(volume, 9 * 512, 64)?;
    let highpoint = [[0xF0, 0x16, 0x78, 0x5A], [0xFD, 0x16, 0x78, 0x5A]];
    if highpoint.iter().any(|magic| has_magic(&tenth, 32, magic)) {
        return Ok(Some(HIGHPOINT));
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::MemDisk;

    #[test]
    fn each_magic_is_found_at_its_place_and_nowhere_else() {
        let size = 4 << 20;
        for (before_end, offset, magic, name) in AT_END {
            let at = size - usize::try_from(*before_end).unwrap() + offset;
            let mut disk = vec![0; size];
            disk[at..at + magic.len()].copy_from_slice(magic);
            assert_eq!(find(&MemDisk(disk.clone())).unwrap(), Some(*name));
            disk.rotate_left(512 * 100);
            assert_eq!(find(&MemDisk(disk)).unwrap(), None, "{name}");
        }
        let mut disk = vec![0; size];
        let at = size - 255 * 512;
        disk[at..at + PROMISE_MAGIC.len()].copy_from_slice(PROMISE_MAGIC);
        assert_eq!(find(&MemDisk(disk)).unwrap(), Some(PROMISE));
        assert_eq!(find(&MemDisk(vec![0; 512])).unwrap(), None);
    }
}
