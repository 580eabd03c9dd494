//! The chunk tree: which devices there are, and where each chunk is on them.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use super::chunk::{ChunkMap, Device};
use super::key::{CHUNK_ITEM, CHUNK_TREE, DEV_ITEM, Key};
use super::superblock::{DevItem, Superblock};
use super::tree::{Reader, Root, Visit};
use crate::usedmap::finding::Refusal;

/// More devices than anybody has.
const MAX_DEVICES: usize = 4096;

/// What the chunk tree says.
pub(crate) struct ChunkTree {
    pub chunks: ChunkMap,
    pub dev_items: Vec<DevItem>,
    /// How many copies of its blocks were bad where another one was good.
    pub bad_copies: u64,
}

struct Visitor<'a> {
    devices: &'a [Device<'a>],
    chunks: ChunkMap,
    dev_items: Vec<DevItem>,
}

impl Visit for Visitor<'_> {
    fn item(&mut self, key: Key, data: &[u8]) -> Result<(), Refusal> {
        match key.kind {
            CHUNK_ITEM => self.chunks.add(key.offset, data, self.devices),
            DEV_ITEM => {
                let item = DevItem::parse(data);
                if data.len() != DevItem::SIZE || item.devid != key.offset {
                    return Err(Refusal::Damaged(format!(
                        "the item of device {} contradicts itself",
                        key.offset
                    )));
                }
                if self.dev_items.len() >= MAX_DEVICES {
                    return Err(Refusal::Unsupported("it has thousands of devices".into()));
                }
                self.dev_items.push(item);
                Ok(())
            }
            other => Err(Refusal::Unsupported(format!(
                "its chunk tree has items unknown here (type {other})"
            ))),
        }
    }
}

impl ChunkTree {
    /// Reads all of it and holds it against the devices that are there.
    pub(crate) fn read(sb: &Superblock, devices: &[Device]) -> Result<Self, Refusal> {
        let bootstrap = ChunkMap::bootstrap(&sb.sys_chunk_array, devices)?;
        let root = Root {
            owner: CHUNK_TREE,
            bytenr: sb.chunk_root,
            generation: sb.chunk_root_generation,
            level: sb.chunk_root_level,
        };
        let mut visitor = Visitor {
            devices,
            chunks: ChunkMap::default(),
            dev_items: Vec::new(),
        };
        let mut reader = Reader::new(sb, devices, &bootstrap);
        reader.walk(root, &mut visitor)?;
        let bad_copies = reader.bad_copies;
        let Visitor {
            mut chunks,
            dev_items,
            ..
        } = visitor;
        chunks.sort()?;
        if !chunks.agrees_with(&bootstrap) {
            return Err(Refusal::Damaged(
                "its superblock and its chunk tree differ about the system chunks".into(),
            ));
        }
        let tree = Self {
            chunks,
            dev_items,
            bad_copies,
        };
        tree.check_devices(sb, devices)?;
        Ok(tree)
    }

    fn check_devices(&self, sb: &Superblock, devices: &[Device]) -> Result<(), Refusal> {
        for item in &self.dev_items {
            let devid = item.devid;
            if item.fsid != sb.metadata_uuid {
                return Err(Refusal::Unsupported(format!(
                    "it grew out of a read-only seed, device {devid} (take the seed out with \
                     'btrfs device delete' for a smaller copy)"
                )));
            }
            let Some(device) = devices
                .iter()
                .find(|device| device.devid == devid && device.uuid == item.uuid)
            else {
                return Err(Refusal::Damaged(format!(
                    "its device {devid} is another one than the one that is here"
                )));
            };
            if item.total_bytes > device.volume.size().0 {
                return Err(Refusal::Damaged(format!(
                    "device {devid} has {} bytes, the filesystem says {}",
                    device.volume.size().0,
                    item.total_bytes
                )));
            }
        }
        if self.dev_items.len() != devices.len() {
            return Err(Refusal::Damaged(format!(
                "its superblock says {} devices, its chunk tree {}",
                devices.len(),
                self.dev_items.len()
            )));
        }
        Ok(())
    }
}
