//! btrfs: the bytes in use on each of its devices.
//!
//! In: all devices of one filesystem. Out: the used bytes of each, from the extent tree, or the
//! reason why it is not trusted. A filesystem is only mapped with all its devices at hand.
//!
//! The superblock leads to the chunk tree, which says where logical bytes are on the devices; the
//! root tree to the extent tree, which says which logical bytes are in use. Everything is held
//! against something else: each tree block against its parent and its checksum, the extents against
//! what their block groups and the superblock count, the chunks against the device tree. Where the
//! extent tree is in doubt, all bytes that are allocated to chunks are taken; where the chunk tree is,
//! there is no map.
//!
//! `superblock`, `features`, `checksum`; `key`, `block`, `tree` (reading any tree); `layout`, `chunk`,
//! `chunk_tree`, `dev_tree` (what is where); `roots`, `extents`, `log_tree` (what is in use); `whole`
//! puts the answer together.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

pub(crate) mod block;
mod checksum;
pub(crate) mod chunk;
pub(crate) mod chunk_tree;
mod dev_tree;
mod extents;
mod features;
pub(crate) mod key;
mod layout;
mod log_tree;
pub(crate) mod roots;
pub(crate) mod superblock;
pub(crate) mod tree;
pub(crate) mod whole;

use super::finding::{Filesystem, Refusal};
use super::region::State;
use crate::device::ReadAt;
use crate::error::{Error, Kind};
use crate::extent::ExtentList;
use crate::units::ByteLen;
use superblock::{Superblock, Unusable};
use uuid::Uuid;
use whole::Answer;

/// What a device's superblock says of it and of the filesystem that it belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Member {
    /// The filesystem.
    pub fsid: Uuid,
    /// The device's number in it; 0: it was about to replace another one.
    pub devid: u64,
    /// The device.
    pub device_uuid: Uuid,
    /// How many devices the filesystem has.
    pub num_devices: u64,
    /// How many times it was committed.
    pub generation: u64,
    /// The filesystem's label.
    pub label: Option<String>,
    /// How much of the device the filesystem may use.
    pub total_bytes: ByteLen,
}

impl From<&Superblock> for Member {
    fn from(sb: &Superblock) -> Self {
        Self {
            fsid: sb.fsid,
            devid: sb.dev_item.devid,
            device_uuid: sb.dev_item.uuid,
            num_devices: sb.num_devices,
            generation: sb.generation,
            label: sb.label.clone(),
            total_bytes: ByteLen(sb.dev_item.total_bytes),
        }
    }
}

/// What a device is a member of.
///
/// # Errors
/// Where its superblock is not to be trusted.
pub(super) fn member(volume: &dyn ReadAt) -> Result<Member, Refusal> {
    match Superblock::read(volume) {
        Ok(sb) => Ok(Member::from(&sb)),
        Err(unusable) => Err(unusable.refusal),
    }
}

/// Reads a filesystem of which only this device is at hand.
pub(super) fn look(volume: &dyn ReadAt) -> Filesystem {
    look_all(&[volume])
        .pop()
        .unwrap_or_else(|| Filesystem::refused(Refusal::Damaged("there is no device".into())))
}

/// Reads a filesystem from all its devices: an answer for each, in their order. They agree, but for
/// the bytes.
pub(super) fn look_all(devices: &[&dyn ReadAt]) -> Vec<Filesystem> {
    let mut superblocks = Vec::new();
    for volume in devices {
        match Superblock::read(*volume) {
            Ok(sb) => superblocks.push(sb),
            Err(Unusable { refusal, copy }) => {
                let names = copy.as_deref().or(superblocks.first());
                return answer_all(devices.len(), names, Answer::refused(refusal));
            }
        }
    }
    let answer = whole::read(devices, &superblocks);
    let newest = superblocks.iter().max_by_key(|sb| sb.generation);
    answer_all(devices.len(), newest, answer)
}

/// The answer for each device.
fn answer_all(devices: usize, names: Option<&Superblock>, answer: Answer) -> Vec<Filesystem> {
    let filesystem = |verdict, used_if_clean| Filesystem {
        name: None,
        label: names.and_then(|sb| sb.label.clone()),
        uuid: names.map(|sb| sb.fsid.hyphenated().to_string()),
        used_if_clean,
        verdict,
    };
    match answer {
        Answer::Mapped(mapped) => mapped
            .into_iter()
            .map(|mapped| filesystem(Ok(mapped), None))
            .collect(),
        Answer::Refused {
            refusal,
            used_if_clean,
        } => (0..devices)
            .map(|_| filesystem(Err(again(&refusal)), used_if_clean))
            .collect(),
    }
}

/// The same refusal for another device.
fn again(refusal: &Refusal) -> Refusal {
    match refusal {
        Refusal::Dirty(why) => Refusal::Dirty(why.clone()),
        Refusal::Damaged(why) => Refusal::Damaged(why.clone()),
        Refusal::Unsupported(why) => Refusal::Unsupported(why.clone()),
        Refusal::Unreadable(error) => {
            Refusal::Unreadable(Error::new(error.kind(), error.to_string()))
        }
    }
}

/// What [`map_devices`] says of one device.
#[doc(hidden)]
#[derive(Debug, Clone)]
pub struct DeviceMap {
    /// `None` where the superblock is no good.
    pub devid: Option<u64>,
    /// The filesystem's label.
    pub label: Option<String>,
    /// The filesystem's UUID.
    pub uuid: Option<String>,
    /// In which state it was found.
    pub state: State,
    /// Why.
    pub reason: String,
    /// `None`: everything has to be taken.
    pub used: Option<ExtentList>,
}

/// Maps devices that may belong to several filesystems, each with its fellows, in their order. For
/// tests: `haulier map` is of one disk.
#[doc(hidden)]
pub fn map_devices(devices: &[&dyn ReadAt]) -> Vec<DeviceMap> {
    let members: Vec<Option<Member>> = devices.iter().map(|volume| member(*volume).ok()).collect();
    let mut maps = Vec::new();
    for (volume, own) in devices.iter().zip(&members) {
        let Some(own) = own else {
            maps.push(DeviceMap::of(None, look(*volume)));
            continue;
        };
        let fellows: Vec<&dyn ReadAt> = devices
            .iter()
            .zip(&members)
            .filter(|(_, other)| other.as_ref().is_some_and(|other| other.fsid == own.fsid))
            .map(|(volume, _)| *volume)
            .collect();
        let place = devices
            .iter()
            .zip(&members)
            .filter(|(_, other)| other.as_ref().is_some_and(|other| other.fsid == own.fsid))
            .position(|(_, other)| {
                other.as_ref().map(|other| other.device_uuid) == Some(own.device_uuid)
            });
        let answer = place.and_then(|place| look_all(&fellows).into_iter().nth(place));
        maps.extend(answer.map(|answer| DeviceMap::of(Some(own.devid), answer)));
    }
    maps
}

impl DeviceMap {
    fn of(devid: Option<u64>, filesystem: Filesystem) -> Self {
        let (state, reason, used) = match filesystem.verdict {
            Ok(mapped) => (mapped.state, mapped.reason, Some(mapped.used.extents)),
            Err(Refusal::Dirty(why)) => (State::Dirty, why, None),
            Err(Refusal::Damaged(why)) => (State::Damaged, why, None),
            Err(Refusal::Unsupported(why)) => (State::Unsupported, why, None),
            Err(Refusal::Unreadable(error)) => (State::Unreadable, error.to_string(), None),
        };
        Self {
            devid,
            label: filesystem.label,
            uuid: filesystem.uuid,
            state,
            reason,
            used,
        }
    }
}

/// Whether reading can go on with another copy, or with less knowledge.
fn is_gone(refusal: &Refusal) -> bool {
    matches!(refusal, Refusal::Unreadable(error) if error.kind() == Kind::Vanished)
}
