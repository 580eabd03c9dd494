//! md superblocks of versions 1.0, 1.1 and 1.2 (`struct mdp_superblock_1` in `md_p.h`,
//! `super_1_load` in `md.c` of Linux). Little-endian; offsets below from its start. The minor
//! version only says where it lies: 1.0 at least 8 KiB before the end of the member on a multiple
//! of 4 KiB, 1.1 at its start, 1.2 at 4 KiB.
//!
//! | at | field | |
//! | --- | --- | --- |
//! | 0x00 | `magic`, `major_version`, `feature_map` | 0xA92B4EFC, 1, see below |
//! | 0x10 | `set_uuid`, 0x20 `set_name` | 16 and 32 bytes |
//! | 0x48 | `level`, 0x4C `layout`, 0x50 `size`, 0x58 `chunksize`, 0x5C `raid_disks` | sectors |
//! | 0x60 | `bitmap_offset` | signed sectors from the superblock |
//! | 0x80 | `data_offset`, `data_size`, `super_offset`, `recovery_offset` | sectors |
//! | 0xA0 | `dev_number`, 0xA8 `device_uuid` | index into `dev_roles` |
//! | 0xB9 | `bblog_shift`, 0xBA `bblog_size`, 0xBC `bblog_offset` | bad block log |
//! | 0xC8 | `events`, 0xD0 `resync_offset`, 0xD8 `sb_csum`, 0xDC `max_dev` | |
//! | 0x100 | `dev_roles` | 2 bytes a device |

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use super::{Health, Level, MAGIC, Member, Role, SECTOR, Version};
use crate::bytes::{read_text, read_u8, read_u16le, read_u32le, read_u64le};
use crate::checksum::matches;
use crate::device::ReadAt;
use crate::extent::{Extent, ExtentList};
use crate::refusal::Refusal;
use crate::units::ByteOffset;

const HEAD: usize = 256;
/// `MD_FEATURE_*`: those that do not change where data lies.
const BITMAP_OFFSET: u32 = 1;
const RECOVERY_OFFSET: u32 = 2;
const BAD_BLOCKS: u32 = 8;
const REPLACEMENT: u32 = 16;
const RECOVERY_BITMAP: u32 = 128;
const RAID0_LAYOUT: u32 = 4096;
/// And those that do, by name.
const REFUSED: [(u32, &str); 6] = [
    (4, "a reshape that has not finished"),
    (32, "a reshape that has not finished"),
    (64, "a reshape that has not finished"),
    (256, "a cluster's bitmap"),
    (512, "a journal device"),
    (1024 | 2048, "a partial parity log"),
];

/// Where the superblock of a minor version lies on a member of `size` bytes.
pub(super) fn place(minor: u8, size: u64) -> Option<u64> {
    let at = match minor {
        0 => {
            let sectors = (size / SECTOR).checked_sub(16)?;
            (sectors & !7).checked_mul(SECTOR)?
        }
        1 => 0,
        _ => 4096,
    };
    (at.checked_add(4096)? <= size).then_some(at)
}

/// The superblock of that minor version; `None` if there is none, an error if it is broken.
pub(super) fn read(volume: &dyn ReadAt, minor: u8) -> Result<Option<Member>, Refusal> {
    let Some(at) = place(minor, volume.size().0) else {
        return Ok(None);
    };
    let mut head = vec![0; HEAD];
    volume.read_at(ByteOffset(at), &mut head)?;
    if read_u32le(&head, 0) != MAGIC || read_u32le(&head, 4) != 1 {
        return Ok(None);
    }
    // The magic of another minor version's superblock that lies here by accident.
    if read_u64le(&head, 0x90).checked_mul(SECTOR) != Some(at) {
        return Ok(None);
    }
    let devices = usize::try_from(read_u32le(&head, 0xDC)).unwrap_or(usize::MAX);
    // The superblock is at most 4 KiB.
    if devices > (4096 - HEAD) / 2 {
        return Err(Refusal::Damaged(format!(
            "its md superblock has room for {devices} devices"
        )));
    }
    let mut bytes = vec![0; HEAD.saturating_add(devices.saturating_mul(2))];
    volume.read_at(ByteOffset(at), &mut bytes)?;
    if !matches(checksum(&bytes), read_u32le(&bytes, 0xD8)) {
        return Err(Refusal::Damaged(
            "the checksum of its md superblock is wrong".into(),
        ));
    }
    parse(volume, minor, at, &bytes).map(Some)
}

/// `calc_sb_1_csum`: the sum of all 32-bit words, without the field itself, folded.
fn checksum(bytes: &[u8]) -> u32 {
    let mut sum = 0_u64;
    for (index, word) in bytes.chunks(4).enumerate() {
        if index != 0xD8 / 4 {
            let word = word
                .iter()
                .rev()
                .fold(0_u32, |word, byte| word << 8 | u32::from(*byte));
            sum = sum.saturating_add(u64::from(word));
        }
    }
    let folded = (sum & 0xFFFF_FFFF).saturating_add(sum >> 32);
    u32::try_from(folded & 0xFFFF_FFFF).unwrap_or(0)
}

fn parse(volume: &dyn ReadAt, minor: u8, at: u64, bytes: &[u8]) -> Result<Member, Refusal> {
    let sectors = |field: usize| {
        read_u64le(bytes, field).checked_mul(SECTOR).ok_or_else(|| {
            Refusal::Damaged(format!("its md superblock counts too far at {field:#x}"))
        })
    };
    let features = read_u32le(bytes, 8);
    let mut unsupported = REFUSED
        .iter()
        .find(|(bits, _)| features & bits != 0)
        .map(|(_, name)| (*name).to_owned());
    let known = REFUSED.iter().fold(
        BITMAP_OFFSET | RECOVERY_OFFSET | BAD_BLOCKS | REPLACEMENT | RECOVERY_BITMAP | RAID0_LAYOUT,
        |known, (bits, _)| known | bits,
    );
    if features & !known != 0 {
        unsupported = Some(format!("the unknown feature {:#x}", features & !known));
    }
    let size = volume.size().0;
    let data_offset = sectors(0x80)?;
    let data_end = data_offset
        .checked_add(sectors(0x88)?)
        .filter(|end| *end <= size)
        .ok_or_else(|| {
            Refusal::Damaged("its md superblock says that it is longer than it is".into())
        })?;
    let mut metadata: ExtentList = [
        Extent::between(0, data_offset),
        Extent::between(data_end, size),
        Extent::between(at, at.saturating_add(4096)),
    ]
    .into_iter()
    .flatten()
    .collect();
    if features & BITMAP_OFFSET != 0 {
        let offset = read_i32le(bytes, 0x60);
        let extent = from_superblock(at, offset).and_then(|start| bitmap(volume, start, at));
        metadata.insert(
            extent.ok_or_else(|| {
                Refusal::Damaged("its md bitmap lies outside of the member".into())
            })?,
        );
    }
    let mut bad_blocks = false;
    if features & BAD_BLOCKS != 0 {
        let log = from_superblock(at, read_i32le(bytes, 0xBC)).and_then(|start| {
            let len = u64::from(read_u16le(bytes, 0xBA)).checked_mul(SECTOR)?;
            Extent::between(start, start.checked_add(len)?).filter(|log| log.end() <= size)
        });
        let log = log.ok_or_else(|| Refusal::Damaged("its bad block log lies outside".into()))?;
        metadata.insert(log);
        let mut first = [0; 8];
        volume.read_at(log.start(), &mut first)?;
        bad_blocks = first != [0xFF; 8];
    }
    let recovering = features & RECOVERY_OFFSET != 0 && read_u64le(bytes, 0x98) != u64::MAX;
    let replacing = features & REPLACEMENT != 0;
    let roles = bytes
        .get(HEAD..)
        .unwrap_or_default()
        .chunks_exact(2)
        .map(|role| match read_u16le(role, 0) {
            0xFFFF => Role::Spare,
            0xFFFE => Role::Faulty,
            0xFFFD => Role::Journal,
            slot => Role::Slot(usize::from(slot)),
        })
        .collect();
    let name = read_text(bytes, 0x20, 32).unwrap_or_default();
    let level = Level::of(read_i32le(bytes, 0x48))?;
    let layout = read_u32le(bytes, 0x4C);
    Ok(Member {
        version: Version::V1(minor),
        set: uuid_bytes(bytes, 0x10),
        device: uuid_bytes(bytes, 0xA8),
        name,
        events: read_u64le(bytes, 0xC8),
        number: usize::try_from(read_u32le(bytes, 0xA0)).unwrap_or(usize::MAX),
        roles,
        slots: usize::try_from(read_u32le(bytes, 0x5C)).unwrap_or(usize::MAX),
        layout: (level != Level::Raid0 || features & RAID0_LAYOUT != 0).then_some(layout),
        level,
        chunk: u64::from(read_u32le(bytes, 0x58)).saturating_mul(SECTOR),
        slot_size: sectors(0x50)?,
        data_offset,
        data_size: data_end.saturating_sub(data_offset),
        clean: read_u64le(bytes, 0xD0) == u64::MAX,
        health: if replacing {
            Health::Replacing
        } else if recovering {
            Health::Recovering
        } else if bad_blocks {
            Health::BadBlocks
        } else {
            Health::Good
        },
        unsupported,
        metadata,
        size,
    })
}

/// The bitmap at `start`: a header of 256 bytes, then a bit a chunk (`bitmap_super_t`:
/// `sync_size` at 0x28 in sectors, `chunksize` at 0x34 in bytes, `sectors_reserved` at 0x40).
fn bitmap(volume: &dyn ReadAt, start: u64, superblock: u64) -> Option<Extent> {
    let size = volume.size().0;
    let mut head = [0; 256];
    if start.checked_add(256)? > size {
        return None;
    }
    volume.read_at(ByteOffset(start), &mut head).ok()?;
    let bits = read_u64le(&head, 0x28)
        .saturating_mul(SECTOR)
        .checked_div(u64::from(read_u32le(&head, 0x34)))
        .unwrap_or(0);
    let reserved = u64::from(read_u32le(&head, 0x40)).saturating_mul(SECTOR);
    let len = (bits / 8)
        .saturating_add(4096)
        .max(reserved)
        // A broken header cannot make it larger than any bitmap is.
        .clamp(64 << 10, 64 << 20);
    let mut end = start.saturating_add(len).min(size);
    if start < superblock {
        end = end.max(superblock);
    }
    Extent::between(start, end)
}

/// A place that is counted in sectors from the superblock.
fn from_superblock(at: u64, sectors: i32) -> Option<u64> {
    let bytes = i64::from(sectors).checked_mul(512)?;
    at.checked_add_signed(bytes)
}

fn read_i32le(bytes: &[u8], at: usize) -> i32 {
    i32::from_le_bytes(read_u32le(bytes, at).to_le_bytes())
}

fn uuid_bytes(bytes: &[u8], at: usize) -> [u8; 16] {
    let mut uuid = [0; 16];
    for (index, byte) in uuid.iter_mut().enumerate() {
        *byte = read_u8(bytes, at.saturating_add(index));
    }
    uuid
}
