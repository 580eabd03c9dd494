//! XFS: the blocks in use, from the trees of free space.
//!
//! In: a volume. Out: its used bytes, or the reason why its trees are not to be trusted. Group by
//! group all blocks count as used, less those that the tree of free space names; trees, headers and
//! superblock must agree on how many there are.
//!
//! Each file is one structure: `superblock`, `features`, `group` (an allocation group's header and
//! what its trees agree on), `btree` (one tree of free space), `log`.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

pub(crate) mod btree;
mod features;
pub(crate) mod group;
mod log;
mod overlay;
pub(crate) mod superblock;

use super::finding::{Filesystem, Mapped, UsedBytes};
use super::region::State;
use crate::device::ReadAt;
use crate::extent::{Extent, ExtentList, RunCollector};
use crate::refusal::Refusal;
use crate::units::ByteLen;
use group::{BlockRun, Counts};
use log::{Log, LogState};
use superblock::{Names, Superblock};

/// Reads what a volume with the signature of XFS holds.
pub(super) fn look(volume: &dyn ReadAt) -> Filesystem {
    let sector = match superblock::read_sector(volume) {
        Ok(sector) => sector,
        Err(refusal) => return Filesystem::refused(refusal),
    };
    let names = Names::parse(&sector);
    let filesystem = |used_if_clean, verdict| Filesystem {
        name: None,
        label: names.label.clone(),
        uuid: names.uuid.map(|uuid| uuid.hyphenated().to_string()),
        used_if_clean,
        verdict,
    };
    let sb = match Superblock::parse(&sector, volume.size().0) {
        Ok(sb) => sb,
        Err(refusal) => return filesystem(None, Err(refusal)),
    };
    let verdict = map(volume, &sb);
    let used_if_clean = if verdict.is_err() {
        used_by_headers(volume, &sb)
    } else {
        None
    };
    filesystem(used_if_clean, verdict)
}

fn map(volume: &dyn ReadAt, sb: &Superblock) -> Result<Mapped, Refusal> {
    sb.refuse_unless_whole()?;
    let Some(place) = sb.log else {
        return Err(Refusal::Unsupported(
            "its log is on another disk, so nothing here says whether it was shut down properly"
                .into(),
        ));
    };
    let log = Log::new(volume, sb, place);
    match log.state()? {
        LogState::Clean => {
            let (extents, counts) = used_extents(volume, sb)?;
            counts_agree(sb, counts)?;
            let elsewhere = if sb.has_realtime {
                " (the data of its realtime section is on another disk)"
            } else {
                ""
            };
            Ok(mapped(
                sb,
                State::Clean,
                format!("clean: what its trees of free space do not name is taken{elsewhere}"),
                extents,
            ))
        }
        LogState::Dirty { tail, head } => {
            refuse_to_replay(sb)?;
            let replayed = log.replay(tail, head)?;
            let sector = superblock::read_sector(&replayed.volume)?;
            let after = Superblock::parse(&sector, volume.size().0)?;
            if !after.has_shape_of(sb) {
                return Err(Refusal::Dirty(format!(
                    "it was being changed in size when it was not shut down {SHUT_DOWN}"
                )));
            }
            let (extents, _) = used_extents(&replayed.volume, &after).map_err(contradicts)?;
            let extents = extents.union(&replayed.touched);
            drop(replayed);
            let extents = extents.union(&used_before(volume, sb)?);
            Ok(mapped(
                sb,
                State::Dirty,
                "not shut down properly: its log was replayed in memory, and what its trees of \
                 free space then do not name is taken"
                    .into(),
                extents,
            ))
        }
    }
}

fn mapped(sb: &Superblock, state: State, reason: String, extents: ExtentList) -> Mapped {
    Mapped {
        state,
        reason,
        used: UsedBytes {
            covers: ByteLen(sb.data_blocks.saturating_mul(sb.block_size)),
            extents,
        },
    }
}

/// What helps a dirty filesystem.
const SHUT_DOWN: &str = "(boot the server once and power it off properly for a smaller copy)";

/// A replay was proven only for what the kernels of today write.
fn refuse_to_replay(sb: &Superblock) -> Result<(), Refusal> {
    let what = if !sb.features.is_v5() {
        "version 4 of the format"
    } else if sb.features.log_incompat != 0 {
        "logged attributes"
    } else if sb.has_realtime {
        "a realtime section"
    } else {
        return Ok(());
    };
    Err(Refusal::Dirty(format!(
        "its log holds writes that have not reached their places, because the server was not shut \
         down, and is not replayed in memory with {what} {SHUT_DOWN}"
    )))
}

/// What contradicts itself only after the replay is not damage, but a replay that is not understood.
fn contradicts(refusal: Refusal) -> Refusal {
    match refusal {
        Refusal::Damaged(why) => Refusal::Dirty(format!(
            "its log holds writes that have not reached their places {SHUT_DOWN}, and after they \
             were replayed in memory {why}"
        )),
        other => other,
    }
}

/// What was in use before the replay. Where trees contradict each other, because only some of their
/// blocks had been written, the one that is ordered by start is asked alone; if that is torn itself,
/// the group is taken whole.
fn used_before(volume: &dyn ReadAt, sb: &Superblock) -> Result<ExtentList, Refusal> {
    let mut runs = RunCollector::new();
    for group in 0..sb.ag_count {
        let mut here = RunCollector::new();
        let walked = group::walk_by_start(volume, sb, group, |run| {
            if let Some(extent) = sb.bytes_of(group, run) {
                here.push(extent);
            }
        });
        match walked {
            Err(Refusal::Unreadable(error)) => return Err(error.into()),
            Err(_) => {
                let whole = BlockRun {
                    start: 0,
                    end: sb.blocks_in(group),
                };
                if let Some(extent) = sb.bytes_of(group, whole) {
                    runs.push(extent);
                }
            }
            Ok(()) => here.finish().iter().for_each(|extent| runs.push(extent)),
        }
    }
    Ok(runs.finish())
}

/// The bytes in use by the trees of all groups, and the sums of their counts.
fn used_extents(source: &dyn ReadAt, sb: &Superblock) -> Result<(ExtentList, Counts), Refusal> {
    let mut runs = RunCollector::new();
    let mut all = Counts::default();
    for group in 0..sb.ag_count {
        let counts = group::walk(source, sb, group, |run| {
            if let Some(extent) = sb.bytes_of(group, run) {
                runs.push(extent);
            }
        })?;
        all.free = all.free.saturating_add(counts.free);
        all.reserved = all.reserved.saturating_add(counts.reserved);
    }
    Ok((runs.finish(), all))
}

/// After a proper shutdown the superblock has the sums of the groups.
fn counts_agree(sb: &Superblock, counts: Counts) -> Result<(), Refusal> {
    let free = counts.free.saturating_add(counts.reserved);
    if free == sb.free_blocks {
        return Ok(());
    }
    Err(Refusal::Damaged(format!(
        "its groups have {free} free blocks, the superblock says {} (boot the server from a rescue \
         system and run xfs_repair for a smaller copy)",
        sb.free_blocks
    )))
}

/// About what is in use, by the headers of the groups alone; `None` if one is not to be read.
fn used_by_headers(volume: &dyn ReadAt, sb: &Superblock) -> Option<ByteLen> {
    let mut free: u64 = 0;
    for group in 0..sb.ag_count {
        let here = group::free_by_header(volume, sb, group).ok()?;
        free = free.saturating_add(here);
    }
    let used = sb.data_blocks.saturating_sub(free);
    Some(ByteLen(used.saturating_mul(sb.block_size)))
}

impl Superblock {
    /// The bytes of a run of a group's blocks.
    pub(crate) fn bytes_of(&self, group: u64, run: BlockRun) -> Option<Extent> {
        Extent::between(
            self.block_at(group, run.start),
            self.block_at(group, run.end),
        )
    }
}
