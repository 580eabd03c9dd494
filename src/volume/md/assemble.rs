//! Putting the members of an array in their places, as `analyze_sbs` and the personalities of
//! Linux's md do: the superblock that was written last says who is what.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use super::{Health, Level, Member, Role};
use crate::extent::Extent;
use crate::refusal::Refusal;
use crate::volume::raid::{
    Geometry, Leg, Mirror, Parity, Raid, Raid10, Raid10Layout, Rotation, Stripes, ZoneOrder,
};
use crate::volume::{Assembly, Concat, Content, Made, Part, SharedVolume};
use std::sync::Arc;

/// As many as a superblock of 4 KiB has room for.
const MAX_SLOTS: usize = 1920;

/// How a member is treated.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// It holds a slot's data; whether that may be read.
    Data { slot: usize, readable: bool },
    /// Nothing but its superblock is kept.
    Spare,
    /// Out of the array, with data that nobody else vouches for: all of it is kept.
    Out,
}

/// Makes the array of its members, in any order.
///
/// # Errors
/// When too many are missing, when it is in the middle of a change of shape, when members
/// contradict each other.
pub(crate) fn assemble<'a>(
    members: Vec<(Member, SharedVolume<'a>)>,
) -> Result<Assembly<'a>, Refusal> {
    // Only members of the array tell of it: a spare may carry an old count.
    let fresh = members
        .iter()
        .map(|(member, _)| member)
        .max_by_key(|member| {
            let own = member.roles.get(member.number);
            (matches!(own, Some(Role::Slot(_))), member.events)
        })
        .cloned()
        .ok_or_else(|| Refusal::Damaged("an array without members".into()))?;
    check(&fresh, &members)?;
    let places: Vec<Place> = members
        .iter()
        .map(|(member, _)| place(member, &fresh))
        .collect();
    let mut legs: Vec<Vec<Leg<'a>>> = vec![Vec::new(); fresh.slots];
    let mut sizes = vec![0; fresh.slots];
    for ((member, volume), place) in members.iter().zip(&places) {
        let Place::Data { slot, readable } = *place else {
            continue;
        };
        let (Some(legs), Some(size)) = (legs.get_mut(slot), sizes.get_mut(slot)) else {
            continue;
        };
        if readable && legs.iter().any(|leg| leg.readable) {
            return Err(Refusal::Damaged(format!(
                "two members of {} hold the same place (two paths to one disk, or a copy of it)",
                fresh.set_name()
            )));
        }
        legs.push(Leg {
            volume: volume.clone(),
            start: member.data_offset,
            readable,
        });
        if readable {
            *size = member.data_size;
        }
    }
    let missing: Vec<usize> = legs
        .iter()
        .enumerate()
        .filter(|(_, legs)| !legs.iter().any(|leg| leg.readable))
        .map(|(slot, _)| slot)
        .collect();
    let volume = build(&fresh, legs, &sizes, &missing)?;
    let metadata = members
        .iter()
        .zip(&places)
        .map(|((member, _), place)| match place {
            Place::Out => Extent::between(0, member.size).into_iter().collect(),
            _ => member.metadata.clone(),
        })
        .collect();
    let layout = format!("{} of {}", fresh.level.name(), fresh.slots);
    Ok(Assembly {
        name: format!("{} {}", fresh.level.name(), fresh.set_name()),
        reason: reason(&fresh, &places, &missing),
        metadata,
        volumes: vec![Made {
            name: fresh.array_name(),
            layout,
            volume,
            content: Content::Look,
        }],
    })
}

/// What keeps the array as a whole from being read.
fn check(fresh: &Member, members: &[(Member, SharedVolume<'_>)]) -> Result<(), Refusal> {
    let name = fresh.set_name();
    if let Some((member, _)) = members.iter().find(|(m, _)| m.unsupported.is_some()) {
        return Err(Refusal::Unsupported(format!(
            "{name} has {}",
            member.unsupported.as_deref().unwrap_or_default()
        )));
    }
    if fresh.slots == 0 || fresh.slots > MAX_SLOTS {
        return Err(Refusal::Damaged(format!(
            "{name} says that it has {} members",
            fresh.slots
        )));
    }
    for (index, (member, _)) in members.iter().enumerate() {
        if member.version != fresh.version || member.set != fresh.set {
            return Err(Refusal::Damaged(format!(
                "the members of {name} have superblocks of different versions"
            )));
        }
        let twin = members
            .iter()
            .take(index)
            .any(|(other, _)| other.device == member.device);
        if twin {
            return Err(Refusal::Damaged(format!(
                "two disks are the same member of {name}, {} (two paths to one disk, or a copy \
                 of it)",
                member.device_uuid()
            )));
        }
    }
    Ok(())
}

fn place(member: &Member, fresh: &Member) -> Place {
    let slot = match fresh.roles.get(member.number) {
        Some(Role::Slot(slot)) if *slot < fresh.slots => *slot,
        Some(Role::Spare) => {
            // A spare that thinks of itself as one; anything else was thrown out.
            return match member.roles.get(member.number) {
                Some(Role::Spare) => Place::Spare,
                _ => Place::Out,
            };
        }
        _ => return Place::Out,
    };
    // `super_1_validate`: it may be behind by one, which was a change of state without data.
    let stale = member
        .events
        .checked_add(1)
        .is_none_or(|next| next < fresh.events);
    let same = (
        member.level,
        member.layout,
        member.chunk,
        member.slots,
        member.slot_size,
    ) == (
        fresh.level,
        fresh.layout,
        fresh.chunk,
        fresh.slots,
        fresh.slot_size,
    ) && member.roles.get(member.number) == Some(&Role::Slot(slot));
    if stale || !same {
        return Place::Out;
    }
    Place::Data {
        slot,
        readable: member.health == Health::Good,
    }
}

/// The array as a volume.
fn build<'a>(
    fresh: &Member,
    legs: Vec<Vec<Leg<'a>>>,
    sizes: &[u64],
    missing: &[usize],
) -> Result<SharedVolume<'a>, Refusal> {
    let name = fresh.set_name();
    let incomplete = || {
        let numbers: Vec<_> = missing.iter().map(ToString::to_string).collect();
        Refusal::Damaged(format!(
            "of the {} members of {name}, number {} {} missing, out of date or being rebuilt (give \
             all disks of the server together)",
            fresh.slots,
            numbers.join(", "),
            if missing.len() == 1 { "is" } else { "are" },
        ))
    };
    let senseless = || Refusal::Damaged(format!("the sizes in {name} make no array"));
    let unknown = || {
        Refusal::Unsupported(format!(
            "{name} has the unknown layout {} of {}",
            fresh
                .layout
                .map_or("(none)".into(), |layout| format!("{layout:#x}")),
            fresh.level.name()
        ))
    };
    let layout = fresh.layout.unwrap_or(0);
    let geometry: Box<dyn Geometry> = match fresh.level {
        Level::Linear | Level::Raid0 if !missing.is_empty() => return Err(incomplete()),
        Level::Linear => return linear(fresh, &legs, sizes).ok_or_else(senseless),
        Level::Raid0 => {
            let order = match fresh.layout {
                Some(1) => Some(ZoneOrder::Original),
                Some(2) => Some(ZoneOrder::Alternate),
                _ => None,
            };
            Box::new(Stripes::new(fresh.chunk, sizes, order).ok_or_else(|| {
                if fresh.chunk == 0 {
                    return senseless();
                }
                Refusal::Unsupported(format!(
                    "the members of {name} differ in size, and it does not say in which of two \
                     ways they are laid out"
                ))
            })?)
        }
        Level::Raid1 => Box::new(Mirror {
            slots: fresh.slots,
            size: fresh.slot_size,
        }),
        Level::Raid4 | Level::Raid5 | Level::Raid6 => {
            // The parity of a dirty array is not to be trusted.
            if missing.len() > 1 || missing.len() == 1 && !fresh.clean {
                return Err(incomplete());
            }
            let rotation = if fresh.level == Level::Raid4 {
                (Rotation::ParityLast, false)
            } else {
                Rotation::of(layout).ok_or_else(unknown)?
            };
            let parities = if fresh.level == Level::Raid6 { 2 } else { 1 };
            let parity = Parity::new(
                rotation,
                fresh.chunk,
                fresh.slots,
                parities,
                fresh.slot_size,
            );
            Box::new(parity.ok_or_else(senseless)?)
        }
        Level::Raid10 => {
            let copies = (u64::from(layout & 0xFF), u64::from(layout >> 8 & 0xFF));
            let layout = match (layout >> 16, copies) {
                (0, (near, 1)) => Raid10Layout::Near(near),
                (0, (1, far)) => Raid10Layout::Far(far),
                (1, (1, far)) => Raid10Layout::Offset(far),
                _ => return Err(unknown()),
            };
            let raid10 = Raid10::new(layout, fresh.chunk, fresh.slots, fresh.slot_size);
            Box::new(raid10.ok_or_else(senseless)?)
        }
    };
    let raid = Raid::new(name.clone(), geometry, legs)
        .map_err(|why| Refusal::Damaged(format!("in {name}, {why}")))?;
    // Each of as many chunks as there are slots begins on another slot.
    if !raid.is_complete(fresh.slots.saturating_mul(fresh.slots)) {
        return Err(incomplete());
    }
    Ok(Arc::new(raid))
}

/// Members one behind another, each rounded down to chunks if there are any (`linear_conf`).
fn linear<'a>(fresh: &Member, legs: &[Vec<Leg<'a>>], sizes: &[u64]) -> Option<SharedVolume<'a>> {
    let mut parts: Vec<SharedVolume<'a>> = Vec::new();
    for (legs, size) in legs.iter().zip(sizes) {
        let leg = legs.iter().find(|leg| leg.readable)?;
        let rest = size.checked_rem(fresh.chunk).unwrap_or(0);
        let end = leg.start.checked_add(size.checked_sub(rest)?)?;
        let part = Part::new(leg.volume.clone(), Extent::between(leg.start, end)?)?;
        parts.push(Arc::new(part));
    }
    Some(Arc::new(Concat::new(fresh.set_name(), parts)?))
}

/// The clause for the members' regions.
fn reason(fresh: &Member, places: &[Place], missing: &[usize]) -> String {
    let mut reason = format!(
        "a member of the {} {}: what is in use in it is taken, of every copy and parity",
        fresh.level.name(),
        fresh.set_name()
    );
    let redundant = !matches!(fresh.level, Level::Linear | Level::Raid0);
    if redundant && !fresh.clean {
        reason.push_str("; it was not stopped properly, and is taken as it is");
    }
    if !missing.is_empty() {
        reason.push_str(&format!(
            "; it runs without {} of its {} members",
            missing.len(),
            fresh.slots
        ));
    }
    let count = places.iter().filter(|place| **place == Place::Out).count();
    if count > 0 {
        reason.push_str(&format!(
            "; {count} that fell out of it {} taken whole",
            if count == 1 { "is" } else { "are" }
        ));
    }
    let spares = places
        .iter()
        .filter(|place| **place == Place::Spare)
        .count();
    if spares > 0 {
        reason.push_str(&format!("; of {spares} spare only the superblock"));
    }
    reason
}
