//! Arrays of Linux's md ("software RAID"). In: members that carry an md superblock. Out: the array
//! as a volume.
//!
//! `v0` and `v1` read the two families of superblocks, `assemble` puts the members in their places
//! as the kernel would.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

mod assemble;
#[cfg(test)]
mod tests;
mod v0;
mod v1;

pub(crate) use assemble::assemble;

use crate::bytes::{read_u32be, read_u32le};
use crate::device::ReadAt;
use crate::extent::{Extent, ExtentList};
use crate::refusal::Refusal;
use crate::units::{ByteLen, ByteOffset};

/// `MD_SB_MAGIC`, of every version.
const MAGIC: u32 = 0xA92B_4EFC;
/// md counts in sectors of 512 bytes, whatever the disk's are.
const SECTOR: u64 = 512;

/// Which superblock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    V0_90,
    V1(u8),
}

/// How the array is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Level {
    Linear,
    Raid0,
    Raid1,
    Raid4,
    Raid5,
    Raid6,
    Raid10,
}

impl Level {
    fn of(number: i32) -> Result<Self, Refusal> {
        Ok(match number {
            -1 => Self::Linear,
            0 => Self::Raid0,
            1 => Self::Raid1,
            4 => Self::Raid4,
            5 => Self::Raid5,
            6 => Self::Raid6,
            10 => Self::Raid10,
            _ => {
                return Err(Refusal::Unsupported(format!(
                    "an md array of the unknown level {number}"
                )));
            }
        })
    }

    /// For people.
    fn name(self) -> &'static str {
        match self {
            Self::Linear => "linear",
            Self::Raid0 => "RAID 0",
            Self::Raid1 => "RAID 1",
            Self::Raid4 => "RAID 4",
            Self::Raid5 => "RAID 5",
            Self::Raid6 => "RAID 6",
            Self::Raid10 => "RAID 10",
        }
    }
}

/// What a device is to the array.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Slot(usize),
    Spare,
    Faulty,
    Journal,
}

/// What a member says of its own data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Health {
    Good,
    /// Up to date only as far as the rebuilding has come.
    Recovering,
    /// On the way to take the place of another.
    Replacing,
    /// Some sectors could not be written.
    BadBlocks,
}

/// What one member's superblock says. All lengths in bytes.
#[derive(Debug, Clone)]
pub(crate) struct Member {
    version: Version,
    set: [u8; 16],
    device: [u8; 16],
    name: String,
    events: u64,
    /// Its place in `roles`.
    number: usize,
    roles: Vec<Role>,
    /// `raid_disks`.
    slots: usize,
    level: Level,
    /// `None` where it says nothing.
    layout: Option<u32>,
    chunk: u64,
    /// What the array uses of each member (not RAID 0 and linear).
    slot_size: u64,
    data_offset: u64,
    data_size: u64,
    /// Shut down properly, and synchronised.
    clean: bool,
    health: Health,
    /// A feature that keeps us away.
    unsupported: Option<String>,
    /// What is always taken of the member.
    metadata: ExtentList,
    /// The member's size.
    size: u64,
}

impl Member {
    /// The UUID of the array: members with the same are assembled together.
    pub(crate) fn set(&self) -> String {
        self.uuid()
    }

    /// For people: `array web1:0`.
    pub(crate) fn set_name(&self) -> String {
        format!("array {}", self.array_name())
    }

    /// The UUID of the array, as blkid writes it.
    pub(crate) fn uuid(&self) -> String {
        uuid::Uuid::from_bytes(self.set).to_string()
    }

    /// Whether it starts like what the array holds (data at its very start, as versions 0.90 and 1.0
    /// have it) and nothing in the array could contradict it: without copies or parity, members of
    /// an array that was given up cannot be told from those of one in use.
    pub(crate) fn may_be_stale(&self) -> bool {
        self.data_offset == 0 && matches!(self.level, Level::Linear | Level::Raid0)
    }

    fn array_name(&self) -> String {
        if self.name.is_empty() {
            self.uuid()
        } else {
            self.name.clone()
        }
    }

    fn device_uuid(&self) -> String {
        match self.version {
            Version::V0_90 => format!("number {}", self.number),
            Version::V1(_) => uuid::Uuid::from_bytes(self.device).to_string(),
        }
    }
}

/// What a member's superblock says.
///
/// # Errors
/// When there is none, when it is damaged or unknown, and when there are several: which of them is
/// the one that counts is not ours to guess.
pub(crate) fn member(volume: &dyn ReadAt) -> Result<Member, Refusal> {
    let mut found = Vec::new();
    for minor in 0..=2 {
        found.extend(v1::read(volume, minor)?);
    }
    found.extend(v0::read(volume)?);
    let mut found = found.into_iter();
    match (found.next(), found.next()) {
        (Some(member), None) => Ok(member),
        (None, _) => Err(Refusal::Damaged(
            "it has the mark of an md member, but no superblock that makes sense".into(),
        )),
        (Some(_), Some(_)) => Err(Refusal::Damaged(
            "it has md superblocks of two versions: one of them is stale".into(),
        )),
    }
}

/// Whether an md superblock that seems to be that of a whole disk is that of one of its partitions,
/// which ends where the disk does: the places at the end are counted from it (versions 0.90, 1.0).
pub(crate) fn is_of_a_partition(
    disk: &dyn ReadAt,
    partitions: impl Iterator<Item = Extent> + Clone,
) -> bool {
    let size = disk.size().0;
    let found = |at: Option<u64>| {
        let at = at.filter(|at| {
            let mut magic = [0; 4];
            disk.read_at(ByteOffset(*at), &mut magic).is_ok()
                && (read_u32le(&magic, 0) == MAGIC || read_u32be(&magic, 0) == MAGIC)
        });
        at.and_then(|at| Extent::new(ByteOffset(at), ByteLen(4096)))
    };
    if found(Some(0)).is_some() || found(Some(4096)).is_some() {
        return false;
    }
    let at_the_end = [found(v0::place(size)), found(v1::place(0, size))];
    at_the_end.iter().flatten().count() > 0
        && at_the_end.iter().flatten().all(|superblock| {
            partitions
                .clone()
                .any(|partition| partition.intersect(*superblock) == Some(*superblock))
        })
}
