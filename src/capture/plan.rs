//! What a capture would read and write. Writes nothing.

use super::copy::chunks_of;
use super::read::ChunkReader;
use super::since::{self, Earlier};
use super::span::within;
use crate::device::{Disk, DiskIdentity, ReadAt};
use crate::error::{Error, Result};
use crate::extent::Extent;
use crate::qcow2::{CLUSTER_BYTES, Compression, Encoded, Encoder};
use crate::units::ByteLen;
use crate::usedmap::{DiskInfo, DiskMap, map_disks};
use crate::volume::crypt::Secrets;
use serde::Serialize;
use std::cmp::Ordering;

/// How many clusters of a disk are compressed to tell how large its image will be.
const SAMPLES: usize = 256;

/// How many chunks of a disk are compared to tell how much of it changed since an earlier capture.
const SAMPLED_CHUNKS: usize = 48;

/// The least that the image of a second pass is taken for: its tables.
const LEAST_BYTES: u64 = 1 << 20;

/// What is needed on the medium besides the images: tables, manifest, log.
const OVERHEAD_BYTES: u64 = 4 << 20;

/// A disk's part of the plan.
#[derive(Debug, Serialize)]
pub struct DiskPlan {
    /// Which disk.
    pub disk: DiskIdentity,
    /// Its used map.
    #[serde(skip)]
    pub map: DiskMap,
    /// How much is read of it.
    pub read_bytes: u64,
    /// How large its image will be, from samples.
    pub estimated_image_bytes: u64,
    /// The earlier capture: only what changed since is stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
}

/// What a capture would read and write.
#[derive(Debug, Serialize)]
pub struct Plan {
    /// Schema version.
    pub version: u32,
    /// Disk by disk.
    pub disks: Vec<DiskPlan>,
    /// How much is read in all.
    pub read_bytes: u64,
    /// How much will be written, from samples.
    pub estimated_bytes: u64,
    /// How much is written if nothing can be compressed and nothing is zero.
    pub worst_case_bytes: u64,
    /// How much is free on the medium.
    pub free_bytes: u64,
}

impl Plan {
    /// Reads the maps of `disks` and samples of their content. `free` is what the medium has left;
    /// what `secrets` open is looked into.
    pub fn new(
        disks: &[Disk],
        free: ByteLen,
        compression: Compression,
        secrets: &Secrets,
    ) -> Result<Self> {
        let sources: Vec<(&dyn ReadAt, DiskInfo)> = disks
            .iter()
            .map(|disk| (disk as &dyn ReadAt, DiskInfo::from(disk.identity())))
            .collect();
        let disks = disks
            .iter()
            .zip(map_disks(&sources, secrets)?)
            .map(|(disk, map)| DiskPlan::new(disk, map, compression))
            .collect::<Result<Vec<_>>>()?;
        let sum = |of: fn(&DiskPlan) -> u64| disks.iter().map(of).fold(0_u64, u64::saturating_add);
        let (read, estimated) = (
            sum(|disk| disk.read_bytes),
            sum(|disk| disk.estimated_image_bytes),
        );
        let mut plan = Self {
            version: 1,
            read_bytes: 0,
            estimated_bytes: 0,
            worst_case_bytes: 0,
            free_bytes: free.0,
            disks,
        };
        plan.sum_up(read, estimated);
        Ok(plan)
    }

    /// Makes it that of a second pass over what `earlier` has of each of `disks`. Some chunks are read
    /// whole to tell how many changed.
    ///
    /// # Errors
    /// When a disk is gone.
    pub fn since(&mut self, disks: &[Disk], earlier: &[Earlier]) -> Result<()> {
        for ((plan, disk), earlier) in self.disks.iter_mut().zip(disks).zip(earlier) {
            let (looked, changed) =
                since::sample(disk, &plan.map.extents, earlier, SAMPLED_CHUNKS)?;
            let all = plan.estimated_image_bytes;
            let part = u128::from(all)
                .saturating_mul(u128::from(changed))
                .checked_div(u128::from(looked))
                .and_then(|part| u64::try_from(part).ok());
            plan.estimated_image_bytes = part.unwrap_or(0).saturating_add(LEAST_BYTES);
            plan.since = Some(earlier.since.capture.clone());
        }
        let sum = |sum: u64, disk: &DiskPlan| sum.saturating_add(disk.estimated_image_bytes);
        self.estimated_bytes = self.disks.iter().fold(OVERHEAD_BYTES, sum);
        Ok(())
    }

    /// Leaves out what the parts before one hold that begins with the byte `byte` of disk `disk`.
    pub fn begin_at(&mut self, disk: usize, byte: u64) {
        let left = |bytes: u64, number: usize, plan: &DiskPlan| {
            let used = &plan.map.extents;
            let rest = match number.cmp(&disk) {
                Ordering::Less => 0,
                Ordering::Equal => within(used, byte, u64::MAX).total().0,
                Ordering::Greater => used.total().0,
            };
            u128::from(bytes)
                .saturating_mul(u128::from(rest))
                .checked_div(u128::from(used.total().0))
                .and_then(|left| u64::try_from(left).ok())
                .unwrap_or(0)
        };
        let (mut read, mut estimated) = (0_u64, 0_u64);
        for (number, plan) in self.disks.iter().enumerate() {
            read = read.saturating_add(left(plan.read_bytes, number, plan));
            estimated = estimated.saturating_add(left(plan.estimated_image_bytes, number, plan));
        }
        self.sum_up(read, estimated);
    }

    fn sum_up(&mut self, read: u64, estimated: u64) {
        self.read_bytes = read;
        self.estimated_bytes = estimated.saturating_add(OVERHEAD_BYTES);
        // L2 entries and refcounts: 10 bytes a cluster.
        self.worst_case_bytes = read
            .saturating_add(read / 4096)
            .saturating_add(OVERHEAD_BYTES);
    }

    /// How much more it needs, in all likelihood, than is free.
    pub fn missing(&self) -> ByteLen {
        ByteLen(self.estimated_bytes.saturating_sub(self.free_bytes))
    }

    /// Refuses a capture that will not fit, with both numbers.
    pub fn refuse_if_too_large(&self, medium: &str) -> Result<()> {
        if self.estimated_bytes <= self.free_bytes {
            return Ok(());
        }
        Err(Error::refused(format!(
            "no room on {medium}: the capture needs about {} ({} bytes) and {} ({} bytes) are free",
            ByteLen(self.estimated_bytes),
            self.estimated_bytes,
            ByteLen(self.free_bytes),
            self.free_bytes
        ))
        .advise("Use a larger stick, choose fewer disks, or move finished captures off the stick (with those that build on them)"))
    }

    /// Whether it might not fit after all, should the samples have been lucky.
    pub fn is_tight(&self) -> bool {
        self.worst_case_bytes > self.free_bytes
    }

    /// A few lines for people.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        for disk in &self.disks {
            text.push_str(&format!(
                "{}\n  read {} of {}, image about {}\n",
                disk.disk.describe(),
                ByteLen(disk.read_bytes),
                ByteLen(disk.disk.size_bytes),
                ByteLen(disk.estimated_image_bytes)
            ));
            if let Some(since) = &disk.since {
                text.push_str(&format!(
                    "  second pass: only what changed since {since} is stored, and needs that capture\n"
                ));
            }
        }
        text.push_str(&format!(
            "In all: about {} to write (at most {}), {} free\n",
            ByteLen(self.estimated_bytes),
            ByteLen(self.worst_case_bytes),
            ByteLen(self.free_bytes)
        ));
        text
    }
}

impl DiskPlan {
    fn new(disk: &Disk, map: DiskMap, compression: Compression) -> Result<Self> {
        let identity = disk.identity();
        let used = &map.extents;
        let read_bytes = used.total().0;
        let clusters: Vec<Extent> = sample_places(disk, &map);
        let mut encoder = Encoder::new(compression)?;
        let reader = ChunkReader::new(disk, used, identity.logical_sector_bytes);
        let mut buf = vec![0; CLUSTER_BYTES];
        let (mut sampled, mut encoded) = (0_u64, 0_u64);
        for place in clusters {
            let len = usize::try_from(place.len().0).unwrap_or(CLUSTER_BYTES);
            let Some(buf) = buf.get_mut(..len) else {
                continue;
            };
            let (read, _) = reader.rescue(place, buf)?;
            sampled = sampled.saturating_add(read.0);
            encoded = encoded.saturating_add(match encoder.encode(buf) {
                Encoded::Zero | Encoded::Zeroed => 0,
                Encoded::Compressed(bytes) | Encoded::Plain(bytes) => {
                    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
                }
            });
        }
        let ratio_of = |bytes: u64| {
            u128::from(bytes)
                .saturating_mul(u128::from(encoded))
                .checked_div(u128::from(sampled))
                .and_then(|estimate| u64::try_from(estimate).ok())
                .unwrap_or(bytes)
        };
        Ok(Self {
            disk: identity.clone(),
            estimated_image_bytes: ratio_of(read_bytes).saturating_add(read_bytes / 4096),
            read_bytes,
            map,
            since: None,
        })
    }
}

/// Clusters spread evenly over what is read, one in the middle of each n-th used chunk's first run.
fn sample_places(disk: &Disk, map: &DiskMap) -> Vec<Extent> {
    let used = &map.extents;
    // Gone through twice instead of kept: a disk of 64 TiB has 16 million.
    let chunks = || chunks_of(used, disk.size());
    let step = chunks().count().div_ceil(SAMPLES).max(1);
    let cluster = u64::try_from(CLUSTER_BYTES).unwrap_or(u64::MAX);
    chunks()
        .step_by(step)
        .enumerate()
        .filter_map(|(turn, chunk)| {
            let runs: Vec<Extent> = used.within(chunk).collect();
            let run = runs.get(turn.checked_rem(runs.len())?)?;
            let start = run.start().0 / cluster * cluster;
            Extent::between(start, start.saturating_add(cluster).min(disk.size().0))
        })
        .collect()
}
