//! md superblocks of version 0.90 (`mdp_super_t` in `md_p.h`, `super_90_load` in `md.c` of Linux):
//! 1024 words of 32 bits in the byte order of the machine that made it, 64 KiB before the member's
//! end, rounded down to 64 KiB. What lies behind it (the bitmap at 4 KiB) is reserved for md.
//!
//! | word | field |
//! | --- | --- |
//! | 0 | `md_magic` 0xA92B4EFC, `major_version` 0, `minor_version` 90 (91: reshape) |
//! | 5 | `set_uuid0`, 13 `set_uuid1` to `3` |
//! | 7 | `level`, 8 `size` in KiB, 10 `raid_disks`, 11 `md_minor` |
//! | 33 | `state`: bit 0 clean; 38 `sb_csum` |
//! | 39 | `events`: low word first on little-endian machines |
//! | 64 | `layout`, 65 `chunk_size` in bytes |
//! | 128 | 27 descriptors of 32 words: `number`, `major`, `minor`, `raid_disk`, `state` |
//! | 992 | `this_disk`, such a descriptor |

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use super::{Health, Level, MAGIC, Member, Role, Version};
use crate::bytes::{read_u32be, read_u32le};
use crate::checksum;
use crate::device::ReadAt;
use crate::extent::{Extent, ExtentList};
use crate::refusal::Refusal;
use crate::units::ByteOffset;

const BYTES: usize = 4096;
const RESERVED: u64 = 64 << 10;
/// Devices that it has room for.
const DISKS: usize = 27;

/// The words, in their byte order.
struct Words<'a> {
    bytes: &'a [u8],
    big: bool,
}

impl Words<'_> {
    fn get(&self, word: usize) -> u32 {
        let at = word.saturating_mul(4);
        if self.big {
            read_u32be(self.bytes, at)
        } else {
            read_u32le(self.bytes, at)
        }
    }

    /// Two words, whose order is that of the machine's bytes.
    fn get_wide(&self, word: usize) -> u64 {
        let (first, second) = (self.get(word), self.get(word.saturating_add(1)));
        let (low, high) = if self.big {
            (second, first)
        } else {
            (first, second)
        };
        u64::from(high) << 32 | u64::from(low)
    }

    /// `calc_sb_csum`, compared as `super_90_load` does: folded to 16 bits.
    fn is_sound(&self) -> bool {
        let sum = (0..BYTES / 4)
            .filter(|word| *word != 38)
            .fold(0_u64, |sum, word| {
                sum.saturating_add(u64::from(self.get(word)))
            });
        let sum = (sum & 0xFFFF_FFFF).saturating_add(sum >> 32) & 0xFFFF_FFFF;
        checksum::matches(fold(sum), fold(u64::from(self.get(38))))
    }
}

fn fold(sum: u64) -> u64 {
    let sum = (sum & 0xFFFF).saturating_add(sum >> 16);
    (sum & 0xFFFF).saturating_add(sum >> 16) & 0xFFFF
}

/// Where it lies on a member of `size` bytes.
pub(super) fn place(size: u64) -> Option<u64> {
    (size & !RESERVED.saturating_sub(1)).checked_sub(RESERVED)
}

/// The superblock; `None` if there is none, an error if it is broken.
pub(super) fn read(volume: &dyn ReadAt) -> Result<Option<Member>, Refusal> {
    let size = volume.size().0;
    let Some(at) = place(size) else {
        return Ok(None);
    };
    let mut bytes = vec![0; BYTES];
    volume.read_at(ByteOffset(at), &mut bytes)?;
    let big = match (read_u32le(&bytes, 0), read_u32be(&bytes, 0)) {
        (MAGIC, _) => false,
        (_, MAGIC) => true,
        _ => return Ok(None),
    };
    let words = Words { bytes: &bytes, big };
    if words.get(1) != 0 {
        return Ok(None);
    }
    if !words.is_sound() {
        return Err(Refusal::Damaged(
            "the checksum of its md superblock is wrong".into(),
        ));
    }
    let mut set = [0; 16];
    for (bytes, word) in set.chunks_exact_mut(4).zip([5, 13, 14, 15]) {
        bytes.copy_from_slice(&words.get(word).to_be_bytes());
    }
    let level = Level::of(i32::from_le_bytes(words.get(7).to_le_bytes()))?;
    let number = words.get(992);
    let mut device = set;
    for (byte, own) in device.iter_mut().zip(number.to_be_bytes()) {
        *byte ^= own;
    }
    let metadata: ExtentList = Extent::between(at, size).into_iter().collect();
    Ok(Some(Member {
        version: Version::V0_90,
        set,
        device,
        name: format!("md{}", words.get(11)),
        events: words.get_wide(39),
        number: usize::try_from(number).unwrap_or(usize::MAX),
        roles: (0..DISKS).map(|disk| role(&words, disk)).collect(),
        slots: usize::try_from(words.get(10)).unwrap_or(usize::MAX),
        layout: (level != Level::Raid0).then_some(words.get(64)),
        level,
        chunk: u64::from(words.get(65)),
        slot_size: u64::from(words.get(8)).saturating_mul(1024),
        data_offset: 0,
        data_size: at,
        clean: words.get(33) & 1 != 0,
        health: Health::Good,
        unsupported: (words.get(2) != 90).then(|| "a reshape that has not finished".into()),
        metadata,
        size,
    }))
}

/// What a device is to the array: `MD_DISK_FAULTY` 0, `ACTIVE` 1, `SYNC` 2, `REMOVED` 3.
fn role(words: &Words<'_>, disk: usize) -> Role {
    let at = disk.saturating_mul(32).saturating_add(128);
    let state = words.get(at.saturating_add(4));
    if state & 0b1001 != 0 {
        return Role::Faulty;
    }
    if state & 0b100 != 0 {
        return Role::Slot(usize::try_from(words.get(at.saturating_add(3))).unwrap_or(usize::MAX));
    }
    Role::Spare
}
