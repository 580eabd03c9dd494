//! Thin pools of device-mapper (`dm-thin-metadata.c` of Linux). In: the pool's metadata and data
//! volumes. Out: for each thin volume which of its blocks lie where, and the volume itself.
//!
//! The superblock is metadata block 0, little-endian: 0x00 `csum`, 0x04 `flags` (1: needs a check),
//! 0x08 `blocknr`, 0x20 `magic` 27022010, 0x28 `version`, 0x38 `held_root` (a kept older
//! superblock), 0x40 the data's space map (`nr_blocks`, `nr_allocated`), 0x140 `data_mapping_root`,
//! 0x148 `device_details_root`, 0x150 `data_block_size`, 0x154 `metadata_block_size` (sectors),
//! 0x160 `compat_flags`, `compat_ro_flags`, `incompat_flags`.
//!
//! The tree of mappings has two levels: device number, then block of the device; its values are the
//! data block in the upper 40 bits and a time in the lower 24. The tree of details says of each
//! device how many blocks it maps.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

mod btree;
#[cfg(test)]
mod tests;
mod volume;

use super::SharedVolume;
use crate::bytes::{read_u32le, read_u64le};
use crate::device::ReadAt;
use crate::extent::{Extent, ExtentList, RunCollector};
use crate::units::{ByteLen, ByteOffset};
use btree::{Budget, read_block, walk};
use std::collections::BTreeMap;
use std::sync::Arc;
use volume::ThinVolume;

const SECTOR: u64 = 512;
const MAGIC: u64 = 27_022_010;
/// `SUPERBLOCK_CSUM_XOR`.
const CSUM_XOR: u32 = 160_774;
const NEEDS_CHECK: u32 = 1;
/// Runs of all volumes together that are kept in memory: 24 bytes each.
const MAX_RUNS: usize = 2 << 20;

/// Blocks of a volume that lie one behind another in the pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Run {
    /// First block of the volume.
    block: u64,
    /// First block of the pool's data.
    data: u64,
    len: u64,
}

impl Run {
    fn end(&self) -> u64 {
        self.block.saturating_add(self.len)
    }
}

/// A thin volume as its volume group knows it.
pub(crate) struct Device<'a> {
    /// Its number in the pool.
    pub id: u64,
    /// For messages.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// What is read where nothing is mapped, instead of zeros.
    pub external: Option<SharedVolume<'a>>,
}

/// A pool's mappings.
pub(crate) struct Pool<'a> {
    data: SharedVolume<'a>,
    /// Bytes of a block.
    chunk: u64,
    /// By the device's number; empty when there were too many.
    devices: BTreeMap<u64, Arc<Vec<Run>>>,
    too_many: bool,
    /// What only a kept older state of the pool maps, or shares with it.
    held: ExtentList,
    /// Everything that is mapped.
    mapped: ExtentList,
}

/// The fields of a superblock.
struct Superblock {
    held: u64,
    mappings: u64,
    details: u64,
    allocated: u64,
}

impl<'a> Pool<'a> {
    /// Reads the metadata of a pool whose blocks are of `chunk` bytes. An error is a clause.
    pub(crate) fn read(
        metadata: &dyn ReadAt,
        data: SharedVolume<'a>,
        chunk: u64,
    ) -> Result<Self, String> {
        let superblock = superblock(metadata, 0, chunk)?;
        let blocks = data.size().0.checked_div(chunk).unwrap_or(0);
        let mut reader = Reader {
            metadata,
            blocks,
            chunk,
            mapped: RunCollector::new(),
            runs: 0,
            budget: Budget::new(),
        };
        let mut devices = BTreeMap::new();
        for (id, runs) in reader.devices(&superblock)? {
            devices.insert(id, Arc::new(runs));
        }
        let mut held = ExtentList::new();
        if superblock.held != 0 {
            let older = self::superblock(metadata, superblock.held, chunk)?;
            let mut collector = RunCollector::new();
            for (_, runs) in reader.devices(&older)? {
                for run in runs {
                    extent(&run, chunk)
                        .into_iter()
                        .for_each(|run| collector.push(run));
                }
            }
            held = collector.finish();
        }
        let too_many = reader.runs > MAX_RUNS;
        if too_many {
            devices.clear();
        }
        let mapped = reader.mapped.finish();
        // Beyond that, the smallest gaps were taken along.
        let exact = mapped.len() < MAX_RUNS / 2 && !too_many;
        let counted = mapped.total().0.checked_div(chunk).unwrap_or(0);
        if exact && counted != superblock.allocated {
            return Err(format!(
                "its metadata maps {counted} blocks, but counts {} as used",
                superblock.allocated
            ));
        }
        Ok(Self {
            data,
            chunk,
            devices,
            too_many,
            held,
            mapped,
        })
    }

    /// The volumes of `devices`, in their order; `None` if there are too many pieces.
    pub(crate) fn volumes(&self, devices: &[Device<'a>]) -> Option<Vec<SharedVolume<'a>>> {
        if self.too_many {
            return None;
        }
        let volumes = devices
            .iter()
            .map(|device| -> SharedVolume<'a> {
                Arc::new(ThinVolume {
                    name: device.name.clone(),
                    data: self.data.clone(),
                    chunk: self.chunk,
                    size: ByteLen(device.size),
                    // A device that was never used is not in the pool yet.
                    runs: self.devices.get(&device.id).cloned().unwrap_or_default(),
                    external: device.external.clone(),
                })
            })
            .collect();
        Some(volumes)
    }

    /// Bytes of the pool's data that are mapped at all.
    pub(crate) fn mapped(&self) -> ExtentList {
        self.mapped.clone()
    }

    /// Bytes of the pool's data that are mapped, but by none of `devices` inside its size.
    pub(crate) fn orphans(&self, devices: &[Device<'_>]) -> ExtentList {
        let mut orphans = RunCollector::new();
        for extent in self.held.iter() {
            orphans.push(extent);
        }
        for (id, runs) in &self.devices {
            let blocks = devices
                .iter()
                .find(|device| device.id == *id)
                .map_or(0, |device| device.size.div_ceil(self.chunk));
            for run in runs.iter() {
                let inside = blocks.saturating_sub(run.block).min(run.len);
                let outside = Run {
                    block: run.block.saturating_add(inside),
                    data: run.data.saturating_add(inside),
                    len: run.len.saturating_sub(inside),
                };
                extent(&outside, self.chunk)
                    .into_iter()
                    .for_each(|extent| orphans.push(extent));
            }
        }
        orphans.finish()
    }
}

/// Where a run lies in the pool's data, in bytes.
fn extent(run: &Run, chunk: u64) -> Option<Extent> {
    Extent::new(
        ByteOffset(run.data.checked_mul(chunk)?),
        ByteLen(run.len.checked_mul(chunk)?),
    )
}

fn superblock(metadata: &dyn ReadAt, block: u64, chunk: u64) -> Result<Superblock, String> {
    let bytes = read_block(metadata, block, CSUM_XOR)?;
    if read_u64le(&bytes, 0x20) != MAGIC || !(1..=2).contains(&read_u32le(&bytes, 0x28)) {
        return Err("its metadata is of an unknown version".into());
    }
    let features = [0x160, 0x164, 0x168].map(|at| read_u32le(&bytes, at));
    let flags = read_u32le(&bytes, 4);
    if features != [0; 3] || flags & !NEEDS_CHECK != 0 {
        return Err("its metadata has unknown features".into());
    }
    if flags & NEEDS_CHECK != 0 {
        return Err("its metadata is marked as in need of a check (`thin_check`)".into());
    }
    if u64::from(read_u32le(&bytes, 0x150)).saturating_mul(SECTOR) != chunk
        || chunk == 0
        || read_u32le(&bytes, 0x154) != 8
    {
        return Err("its block size is not what its volume group says".into());
    }
    Ok(Superblock {
        held: read_u64le(&bytes, 0x38),
        allocated: read_u64le(&bytes, 0x48),
        mappings: read_u64le(&bytes, 0x140),
        details: read_u64le(&bytes, 0x148),
    })
}

/// Reads the trees.
struct Reader<'m> {
    metadata: &'m dyn ReadAt,
    /// Of the pool's data.
    blocks: u64,
    chunk: u64,
    mapped: RunCollector,
    runs: usize,
    budget: Budget,
}

impl Reader<'_> {
    /// Each device's number and the runs of its blocks; no runs once there are too many.
    fn devices(&mut self, superblock: &Superblock) -> Result<Vec<(u64, Vec<Run>)>, String> {
        let mut counts = BTreeMap::new();
        let budget = &mut self.budget;
        walk(
            self.metadata,
            superblock.details,
            24,
            budget,
            &mut |id, details| {
                counts.insert(id, read_u64le(details, 0));
                Ok(())
            },
        )?;
        let mut roots = Vec::new();
        walk(
            self.metadata,
            superblock.mappings,
            8,
            budget,
            &mut |id, root| {
                roots.push((id, read_u64le(root, 0)));
                Ok(())
            },
        )?;
        let mut devices = Vec::new();
        for (id, root) in roots {
            let count = counts
                .remove(&id)
                .ok_or_else(|| format!("its metadata says nothing of device {id}"))?;
            let (runs, mapped) = self.device(root)?;
            if count != mapped {
                return Err(format!(
                    "its metadata maps {mapped} blocks of device {id}, but counts {count}"
                ));
            }
            devices.push((id, runs));
        }
        match counts.keys().next() {
            Some(id) => Err(format!("its metadata has no mappings of device {id}")),
            None => Ok(devices),
        }
    }

    /// The runs of one device, and how many blocks they are.
    fn device(&mut self, root: u64) -> Result<(Vec<Run>, u64), String> {
        let mut runs: Vec<Run> = Vec::new();
        let mut mapped = 0_u64;
        let (blocks, chunk) = (self.blocks, self.chunk);
        let (collector, kept) = (&mut self.mapped, &mut self.runs);
        walk(
            self.metadata,
            root,
            8,
            &mut self.budget,
            &mut |block, value| {
                let data = read_u64le(value, 0) >> 24;
                if data >= blocks {
                    return Err(format!("its metadata maps to block {data} of {blocks}"));
                }
                mapped = mapped.saturating_add(1);
                let one = Run {
                    block,
                    data,
                    len: 1,
                };
                extent(&one, chunk)
                    .into_iter()
                    .for_each(|extent| collector.push(extent));
                match runs.last_mut() {
                    Some(last)
                        if last.end() == block && last.data.saturating_add(last.len) == data =>
                    {
                        last.len = last.len.saturating_add(1);
                    }
                    _ if *kept >= MAX_RUNS => *kept = MAX_RUNS.saturating_add(1),
                    _ => {
                        *kept = kept.saturating_add(1);
                        runs.push(one);
                    }
                }
                Ok(())
            },
        )?;
        Ok((runs, mapped))
    }
}
