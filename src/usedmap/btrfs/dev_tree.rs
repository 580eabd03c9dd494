//! The device tree: chunks seen from the devices (`struct btrfs_dev_extent` in
//! `include/uapi/linux/btrfs_tree.h`: `chunk_offset` 0x10, `length` 0x18; its key: devid, type, first
//! byte), and whether a device was being replaced (`struct btrfs_dev_replace_item`:
//! `replace_state` 0x20).

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use super::chunk::{Chunk, ChunkMap, Device, Stripe};
use super::key::{DEV_EXTENT, DEV_REPLACE, Key};
use super::tree::Visit;
use crate::bytes::read_u64le;
use crate::usedmap::finding::Refusal;

/// `BTRFS_DEV_REPLACE_ITEM_STATE_STARTED` and `_SUSPENDED`.
const REPLACING: [u64; 2] = [1, 2];

/// Holds every device extent against the chunks.
pub(super) struct DevExtents<'a> {
    chunks: &'a ChunkMap,
    devices: &'a [Device<'a>],
    /// Device, first byte, the chunk's place: sorted.
    stripes: Vec<(u32, u64, u32)>,
    matched: usize,
    /// Whether a device was being replaced.
    pub replacing: bool,
}

impl<'a> DevExtents<'a> {
    pub(super) fn new(chunks: &'a ChunkMap, devices: &'a [Device<'a>]) -> Self {
        let stripes_of = |(place, chunk): (u32, &'a Chunk)| {
            chunks
                .stripes_of(chunk)
                .iter()
                .map(move |&Stripe { device, physical }| (device, physical, place))
        };
        let mut stripes: Vec<_> = (0..).zip(chunks.iter()).flat_map(stripes_of).collect();
        stripes.sort_unstable();
        Self {
            chunks,
            devices,
            stripes,
            matched: 0,
            replacing: false,
        }
    }

    fn extent(&mut self, key: Key, data: &[u8]) -> Result<(), Refusal> {
        let (devid, physical) = (key.objectid, key.offset);
        let (chunk_offset, length) = (read_u64le(data, 0x10), read_u64le(data, 0x18));
        let device = self
            .devices
            .iter()
            .position(|device| device.devid == devid)
            .and_then(|place| u32::try_from(place).ok());
        let chunk = device.and_then(|device| {
            let at = self
                .stripes
                .partition_point(|&(other, at, _)| (other, at) < (device, physical));
            let &(other, at, place) = self.stripes.get(at)?;
            let chunk = self.chunks.get(usize::try_from(place).ok()?)?;
            ((other, at) == (device, physical)).then_some(chunk)
        });
        if chunk.is_none_or(|chunk| (chunk.logical, chunk.stripe_length) != (chunk_offset, length))
        {
            return Err(Refusal::Damaged(format!(
                "device {devid} has an extent at byte {physical} that no chunk has"
            )));
        }
        self.matched = self.matched.saturating_add(1);
        Ok(())
    }

    /// Once all of the tree has been seen: every stripe of every chunk was there.
    pub(super) fn finish(&self) -> Result<(), Refusal> {
        if self.matched != self.stripes.len() {
            return Err(Refusal::Damaged(format!(
                "its chunks have {} pieces on its devices, its device tree {}",
                self.stripes.len(),
                self.matched
            )));
        }
        Ok(())
    }
}

impl Visit for DevExtents<'_> {
    fn item(&mut self, key: Key, data: &[u8]) -> Result<(), Refusal> {
        match key.kind {
            DEV_EXTENT => self.extent(key, data),
            DEV_REPLACE => {
                self.replacing |= REPLACING.contains(&read_u64le(data, 0x20));
                Ok(())
            }
            // Statistics of errors.
            _ => Ok(()),
        }
    }
}
