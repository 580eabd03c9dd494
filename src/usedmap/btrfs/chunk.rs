//! Chunks (`struct btrfs_chunk` in `include/uapi/linux/btrfs_tree.h`): the logical address space is
//! cut into chunks, each with its stripes on the devices. `length` 0x00, `owner` 0x08, `stripe_len`
//! 0x10, `type` 0x18, `io_align` 0x20, `io_width` 0x24, `sector_size` 0x28, `num_stripes` 0x2C,
//! `sub_stripes` 0x2E; then for each stripe `devid` 0x00, `offset` 0x08, `dev_uuid` 0x10.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use super::key::{CHUNK_ITEM, KEY_SIZE, Key};
use super::layout::{ELEMENT, Layout, PROFILE_MASK};
use crate::bytes::{read_array, read_u16le, read_u64le};
use crate::device::ReadAt;
use crate::extent::{Extent, ExtentList};
use crate::usedmap::collect::RunCollector;
use crate::usedmap::finding::Refusal;
use uuid::Uuid;

/// `BTRFS_BLOCK_GROUP_DATA`.
pub(crate) const DATA: u64 = 1;
/// `BTRFS_BLOCK_GROUP_SYSTEM`: holds the chunk tree.
pub(crate) const SYSTEM: u64 = 2;
/// `BTRFS_BLOCK_GROUP_METADATA`.
pub(crate) const METADATA: u64 = 4;

/// More chunks than 64 TiB have at 64 MiB each.
const MAX_CHUNKS: usize = 1 << 20;
const MAX_STRIPES: usize = 2 << 20;
const HEADER: usize = 0x30;
const STRIPE: usize = 0x20;

/// A device of the filesystem.
pub(crate) struct Device<'a> {
    pub volume: &'a dyn ReadAt,
    pub devid: u64,
    pub uuid: Uuid,
}

/// A part of a chunk on a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stripe {
    /// Which of the devices, by its place among them.
    pub device: u32,
    /// Its first byte there.
    pub physical: u64,
}

/// A chunk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Chunk {
    /// Its first logical byte.
    pub logical: u64,
    /// How many logical bytes.
    pub length: u64,
    /// What is in it, and its profile.
    pub kind: u64,
    pub layout: Layout,
    /// How many bytes each stripe has.
    pub stripe_length: u64,
    /// Where its stripes begin in the map's list.
    first_stripe: usize,
    stripes: usize,
}

impl Chunk {
    /// The first logical byte behind it; checked when it was read.
    pub(crate) fn end(&self) -> u64 {
        self.logical.saturating_add(self.length)
    }
}

/// All chunks, by logical address.
#[derive(Debug, Default)]
pub(crate) struct ChunkMap {
    chunks: Vec<Chunk>,
    stripes: Vec<Stripe>,
}

fn damaged<T>(what: String) -> Result<T, Refusal> {
    Err(Refusal::Damaged(what))
}

impl ChunkMap {
    /// The chunks that the superblock carries, to read the chunk tree by.
    pub(crate) fn bootstrap(array: &[u8], devices: &[Device]) -> Result<Self, Refusal> {
        let mut map = Self::default();
        let mut rest = array;
        while !rest.is_empty() {
            let key = Key::read(rest, 0);
            let item = rest.get(KEY_SIZE..).unwrap_or_default();
            let stripes = usize::from(read_u16le(item, 0x2C));
            let len = stripes.saturating_mul(STRIPE).saturating_add(HEADER);
            let Some((item, behind)) = item.split_at_checked(len) else {
                return damaged("the superblock's system chunks end in the middle".into());
            };
            if key.kind != CHUNK_ITEM {
                return damaged("the superblock's system chunks are none".into());
            }
            map.add(key.offset, item, devices)?;
            rest = behind;
        }
        map.sort()?;
        Ok(map)
    }

    /// Adds a chunk item.
    pub(crate) fn add(
        &mut self,
        logical: u64,
        item: &[u8],
        devices: &[Device],
    ) -> Result<(), Refusal> {
        let length = read_u64le(item, 0x00);
        let stripe_len = read_u64le(item, 0x10);
        let kind = read_u64le(item, 0x18);
        let num_stripes = read_u16le(item, 0x2C);
        let sub_stripes = read_u16le(item, 0x2E);
        let stripes = usize::from(num_stripes);
        if item.len() != stripes.saturating_mul(STRIPE).saturating_add(HEADER) {
            return damaged(format!("chunk {logical} has not the length of its stripes"));
        }
        let unknown = kind & !(PROFILE_MASK | DATA | SYSTEM | METADATA);
        if unknown != 0 {
            return Err(Refusal::Unsupported(format!(
                "chunk {logical} has a type unknown here ({unknown:#x})"
            )));
        }
        let layout = Layout::of(kind, num_stripes.into(), sub_stripes.into());
        let stripe_length = layout.and_then(|layout| layout.stripe_length(length));
        let (Some(layout), Some(stripe_length)) = (layout, stripe_length) else {
            return damaged(format!(
                "chunk {logical} of {length} bytes has {num_stripes} stripes, type {kind:#x}"
            ));
        };
        if stripe_len != ELEMENT || length == 0 || logical.checked_add(length).is_none() {
            return damaged(format!("chunk {logical} contradicts itself"));
        }
        if self.chunks.len() >= MAX_CHUNKS
            || self.stripes.len().saturating_add(stripes) > MAX_STRIPES
        {
            return Err(Refusal::Unsupported(
                "it has more than a million chunks".into(),
            ));
        }
        let first_stripe = self.stripes.len();
        for bytes in item.get(HEADER..).unwrap_or_default().chunks_exact(STRIPE) {
            let devid = read_u64le(bytes, 0x00);
            let physical = read_u64le(bytes, 0x08);
            let uuid = Uuid::from_bytes(read_array(bytes, 0x10));
            let found = devices
                .iter()
                .position(|device| device.devid == devid && device.uuid == uuid);
            let Some((device, place)) = found.and_then(|place| Some((devices.get(place)?, place)))
            else {
                return damaged(format!(
                    "chunk {logical} is on device {devid}, which is not one of the filesystem's"
                ));
            };
            if physical
                .checked_add(stripe_length)
                .is_none_or(|end| end > device.volume.size().0)
            {
                return damaged(format!(
                    "chunk {logical} ends behind the end of device {devid}"
                ));
            }
            self.stripes.push(Stripe {
                device: u32::try_from(place).unwrap_or(u32::MAX),
                physical,
            });
        }
        self.chunks.push(Chunk {
            logical,
            length,
            kind,
            layout,
            stripe_length,
            first_stripe,
            stripes,
        });
        Ok(())
    }

    /// Once all are there: brings them into order.
    pub(crate) fn sort(&mut self) -> Result<(), Refusal> {
        self.chunks.sort_unstable_by_key(|chunk| chunk.logical);
        let mut end = 0;
        for chunk in &self.chunks {
            if chunk.logical < end {
                return damaged(format!("chunk {} overlaps another", chunk.logical));
            }
            end = chunk.end();
        }
        Ok(())
    }

    /// Whether every chunk of `other` is here too, the same in everything.
    pub(crate) fn agrees_with(&self, other: &Self) -> bool {
        other.chunks.iter().all(|theirs| {
            self.find(theirs.logical)
                .and_then(|place| self.get(place))
                .is_some_and(|ours| {
                    (ours.logical, ours.length, ours.kind, ours.layout)
                        == (theirs.logical, theirs.length, theirs.kind, theirs.layout)
                        && self.stripes_of(ours) == other.stripes_of(theirs)
                })
        })
    }

    /// The place of the chunk that holds a logical byte.
    pub(crate) fn find(&self, logical: u64) -> Option<usize> {
        let behind = self
            .chunks
            .partition_point(|chunk| chunk.logical <= logical);
        let place = behind.checked_sub(1)?;
        (logical < self.get(place)?.end()).then_some(place)
    }

    /// By its place.
    pub(crate) fn get(&self, place: usize) -> Option<&Chunk> {
        self.chunks.get(place)
    }

    /// By ascending logical address.
    pub(crate) fn iter(&self) -> impl ExactSizeIterator<Item = &Chunk> {
        self.chunks.iter()
    }

    /// Its stripes, in the order of the profile.
    pub(crate) fn stripes_of(&self, chunk: &Chunk) -> &[Stripe] {
        self.stripes
            .get(chunk.first_stripe..)
            .and_then(|rest| rest.get(..chunk.stripes))
            .unwrap_or_default()
    }

    /// Where a copy of `len` logical bytes is: pieces of a device, in their order. `None`: there
    /// is no such copy, or the bytes are not all in one chunk.
    pub(crate) fn locate(&self, logical: u64, len: u64, copy: u64) -> Option<Vec<(Stripe, u64)>> {
        let chunk = self.get(self.find(logical)?)?;
        let end = logical.checked_add(len)?;
        if end > chunk.end() || copy >= chunk.layout.copies() {
            return None;
        }
        let mut pieces = Vec::new();
        let mut at = logical;
        while at < end {
            let within = at.checked_sub(chunk.logical)?;
            let (number, offset, contiguous) = chunk.layout.locate(within, copy)?;
            let stripe = self.stripes_of(chunk).get(usize::try_from(number).ok()?)?;
            let piece = contiguous.min(end.checked_sub(at)?);
            let physical = stripe.physical.checked_add(offset)?;
            pieces.push((
                Stripe {
                    physical,
                    ..*stripe
                },
                piece,
            ));
            at = at.checked_add(piece)?;
        }
        Some(pieces)
    }

    /// The first byte on a device behind all its stripes.
    pub(crate) fn end_on(&self, device: u32) -> u64 {
        let ends = self.chunks.iter().flat_map(|chunk| {
            let own = self.stripes_of(chunk).iter();
            own.filter(|stripe| stripe.device == device)
                .map(|stripe| stripe.physical.saturating_add(chunk.stripe_length))
        });
        ends.max().unwrap_or(0)
    }

    /// What a device has of these logical bytes, in every copy, and what is at `fixed` places of it.
    /// Logical bytes outside all chunks are nowhere.
    pub(crate) fn project(
        &self,
        logical: &ExtentList,
        device: u32,
        fixed: impl Iterator<Item = Extent>,
        max_runs: usize,
    ) -> ExtentList {
        let mut runs = RunCollector::with_max_runs(max_runs);
        for extent in fixed {
            runs.push(extent);
        }
        for chunk in &self.chunks {
            let Some(window) = Extent::between(chunk.logical, chunk.end()) else {
                continue;
            };
            for (number, stripe) in (0_u64..).zip(self.stripes_of(chunk)) {
                if stripe.device != device {
                    continue;
                }
                for run in logical.within(window) {
                    let start = run.start().0.saturating_sub(chunk.logical);
                    let end = run.end().saturating_sub(chunk.logical);
                    chunk.layout.project((start, end), number, |(from, to)| {
                        let place = |at: u64| stripe.physical.saturating_add(at);
                        if let Some(extent) = Extent::between(place(from), place(to)) {
                            runs.push(extent);
                        }
                    });
                }
            }
        }
        runs.finish()
    }
}
