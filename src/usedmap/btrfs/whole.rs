//! The answer for a filesystem with all its devices: the trees read one after the other, each the
//! reason to trust the next; where one is in doubt, as much as the ones before it say.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use super::chunk::Device;
use super::chunk_tree::ChunkTree;
use super::dev_tree::DevExtents;
use super::extents::Extents;
use super::is_gone;
use super::log_tree;
use super::roots::Roots;
use super::superblock::{DevItem, Superblock, fixed_places};
use super::tree::Reader;
use crate::device::ReadAt;
use crate::extent::{Extent, ExtentList};
use crate::units::ByteLen;
use crate::usedmap::collect::MAX_RUNS;
use crate::usedmap::finding::{Mapped, Refusal, UsedBytes};
use crate::usedmap::region::State;

/// For all devices at once.
pub(super) enum Answer {
    /// One for each device, in their order.
    Mapped(Vec<Mapped>),
    /// The same for each.
    Refused {
        refusal: Refusal,
        used_if_clean: Option<ByteLen>,
    },
}

impl Answer {
    pub(super) fn refused(refusal: Refusal) -> Self {
        Self::Refused {
            refusal,
            used_if_clean: None,
        }
    }
}

/// What is in use, in logical addresses, and how sure that is.
struct Used {
    state: State,
    reason: String,
    logical: ExtentList,
}

/// `superblocks` are those of `volumes`.
pub(super) fn read(volumes: &[&dyn ReadAt], superblocks: &[Superblock]) -> Answer {
    let Some(newest) = superblocks.iter().max_by_key(|sb| sb.generation) else {
        return Answer::refused(Refusal::Damaged("there is no device".into()));
    };
    let volumes_and_superblocks = volumes.iter().zip(superblocks);
    let devices: Vec<Device> = volumes_and_superblocks
        .map(|(volume, sb)| Device {
            volume: *volume,
            devid: sb.dev_item.devid,
            uuid: sb.dev_item.uuid,
        })
        .collect();
    if let Err(refusal) = check_members(newest, superblocks) {
        return Answer::Refused {
            refusal,
            // What is allocated on one device is known to itself, and not much more than is used.
            used_if_clean: match superblocks {
                [only] => Some(ByteLen(only.dev_item.bytes_used)),
                _ => None,
            },
        };
    }
    let tree = match ChunkTree::read(newest, &devices) {
        Ok(tree) => tree,
        Err(refusal) => return Answer::refused(refusal),
    };
    match used(newest, superblocks, &devices, &tree) {
        Ok(used) => Answer::Mapped(project(&used, &devices, superblocks, &tree)),
        Err(refusal) => Answer::refused(refusal),
    }
}

/// Whether these are all devices of one filesystem that is understood.
pub(crate) fn check_members(
    newest: &Superblock,
    superblocks: &[Superblock],
) -> Result<(), Refusal> {
    for sb in superblocks {
        if sb.fsid != newest.fsid || sb.num_devices != newest.num_devices {
            return Err(Refusal::Damaged(
                "its devices do not agree which filesystem they are of".into(),
            ));
        }
        sb.refuse_unknown()?;
        let devid = sb.dev_item.devid;
        if devid == 0 {
            return Err(Refusal::Dirty(
                "one of its devices was about to replace another one (let 'btrfs replace' finish \
                 for a smaller copy)"
                    .into(),
            ));
        }
        let same = superblocks
            .iter()
            .filter(|other| other.dev_item.devid == devid)
            .count();
        if same > 1 {
            return Err(Refusal::Damaged(format!(
                "its device {devid} is here {same} times (take the copies out for a smaller copy)"
            )));
        }
        if newest.generation.saturating_sub(sb.generation) > 1 {
            return Err(Refusal::Damaged(format!(
                "its device {devid} lags behind the others, as after it was missing for a while \
                 (boot the server and run 'btrfs scrub' for a smaller copy)"
            )));
        }
    }
    let here = u64::try_from(superblocks.len()).unwrap_or(u64::MAX);
    let missing = newest.num_devices.saturating_sub(here);
    if missing > 0 {
        let devids: Vec<String> = superblocks
            .iter()
            .map(|sb| sb.dev_item.devid.to_string())
            .collect();
        return Err(Refusal::Unsupported(format!(
            "it spans {} devices, of which {missing} {} not at hand (this is device {}; take all of \
             them for a smaller copy)",
            newest.num_devices,
            if missing == 1 { "is" } else { "are" },
            devids.join(", ")
        )));
    }
    if here > newest.num_devices {
        return Err(Refusal::Damaged(format!(
            "it has {} devices, but {here} say that they belong to it",
            newest.num_devices
        )));
    }
    Ok(())
}

/// What is in use, by the extent tree or, where that is in doubt, by the chunk tree.
fn used(
    newest: &Superblock,
    superblocks: &[Superblock],
    devices: &[Device],
    tree: &ChunkTree,
) -> Result<Used, Refusal> {
    let chunks = &tree.chunks;
    let doubt = if superblocks
        .iter()
        .any(|sb| (sb.generation, sb.log_root) != (newest.generation, newest.log_root))
    {
        Some(Refusal::Dirty(
            "its devices differ in their last commit: it was not shut down (boot the server once \
             and power it off properly for a smaller copy)"
                .into(),
        ))
    } else if newest.has_errors() {
        Some(Refusal::Damaged(
            "errors were met while it was mounted (boot the server and let btrfs check repair it \
             for a smaller copy)"
                .into(),
        ))
    } else {
        None
    };
    let exact = match doubt {
        Some(refusal) => Err(Not::Exact(refusal)),
        None => exactly(newest, devices, tree),
    };
    let refusal = match exact {
        Ok(used) => return Ok(used),
        Err(Not::AtAll(refusal)) => return Err(refusal),
        Err(Not::Exact(refusal)) => refusal,
    };
    let allocated = || {
        chunks
            .iter()
            .filter_map(|chunk| Extent::between(chunk.logical, chunk.end()))
            .collect()
    };
    let (state, why) = match refusal {
        refusal if is_gone(&refusal) => return Err(refusal),
        Refusal::Dirty(why) => (State::Dirty, why),
        Refusal::Damaged(why) => (State::Damaged, format!("damaged: {why}")),
        Refusal::Unsupported(why) => (State::Unsupported, why),
        Refusal::Unreadable(error) => (
            State::Unreadable,
            format!("its extent tree is not readable: {error}"),
        ),
    };
    Ok(Used {
        state,
        reason: format!("{why}; so all that is allocated is taken, used or not"),
        logical: allocated(),
    })
}

/// Why there is no exact map.
enum Not {
    /// The chunk tree can still be trusted.
    Exact(Refusal),
    /// Nor any other.
    AtAll(Refusal),
}

impl From<Refusal> for Not {
    fn from(refusal: Refusal) -> Self {
        Self::Exact(refusal)
    }
}

/// By the extent tree, and the log if there is one.
fn exactly(sb: &Superblock, devices: &[Device], tree: &ChunkTree) -> Result<Used, Not> {
    let chunks = &tree.chunks;
    let mut reader = Reader::new(sb, devices, chunks);
    let roots = Roots::read(&mut reader)?;
    let mut dev_extents = DevExtents::new(chunks, devices);
    reader.walk(roots.dev_tree, &mut dev_extents)?;
    if dev_extents.replacing {
        return Err(Not::AtAll(Refusal::Dirty(
            "one of its devices was being replaced (let 'btrfs replace' finish for a smaller copy)"
                .into(),
        )));
    }
    dev_extents.finish()?;
    let mut extents = Extents::new(sb, chunks);
    reader.walk(roots.extent_tree, &mut extents)?;
    if let Some(root) = roots.block_group_tree {
        reader.walk(root, extents.block_group_tree())?;
    }
    let mut logical = extents.finish()?;
    let (mut state, mut reason) = (
        State::Clean,
        "clean: the extents that its extent tree names are taken, in every copy".to_owned(),
    );
    if sb.log_root != 0 {
        logical = logical.union(&log_tree::used(&mut reader)?);
        state = State::Dirty;
        reason =
            "it was not shut down: what its extent tree names is taken, and what its log adds \
                  to that, which was followed"
                .into();
    }
    let bad_copies = reader.bad_copies.saturating_add(tree.bad_copies);
    if bad_copies > 0 {
        state = State::Damaged;
        reason = format!(
            "{reason}; damaged: {bad_copies} copies of its tree blocks are bad, but the others of \
             the same blocks are good (boot the server and run 'btrfs scrub')"
        );
    }
    Ok(Used {
        state,
        reason,
        logical,
    })
}

/// From logical addresses to the devices.
fn project(
    used: &Used,
    devices: &[Device],
    superblocks: &[Superblock],
    tree: &ChunkTree,
) -> Vec<Mapped> {
    let max_runs = MAX_RUNS.checked_div(devices.len()).unwrap_or(0).max(4096);
    let numbered = (0_u32..).zip(devices.iter().zip(superblocks));
    numbered
        .map(|(number, (device, sb))| {
            let covers = covers(device, sb, tree, number);
            let fixed = fixed_places(covers);
            let extents = tree.chunks.project(&used.logical, number, fixed, max_runs);
            Mapped {
                state: used.state,
                reason: used.reason.clone(),
                used: UsedBytes {
                    covers: ByteLen(covers),
                    extents,
                },
            }
        })
        .collect()
}

/// How far the filesystem goes on a device: as far as any of its words for it, all of them checked
/// against the size of the device, or cut to it.
fn covers(device: &Device, sb: &Superblock, tree: &ChunkTree, number: u32) -> u64 {
    let in_tree = |item: &&DevItem| item.devid == device.devid;
    let item = tree.dev_items.iter().find(in_tree);
    item.map_or(0, |item| item.total_bytes)
        .max(sb.dev_item.total_bytes)
        .max(tree.chunks.end_on(number))
        .min(device.volume.size().0)
}
