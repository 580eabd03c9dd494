//! What is to be taken of each logical volume of a group.
//!
//! Whatever is not understood is taken whole, down to the plain volumes that it is made of; and at
//! the end each extent that the group calls allocated must be in one of the volumes that come out.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use super::build::Builder;
use super::metadata::{Group, Logical, Physical, Segment};
use super::{Member, hyphens};
use crate::extent::{Extent, ExtentList};
use crate::refusal::Refusal;
use crate::units::ByteLen;
use crate::volume::snapshot::Snapshot;
use crate::volume::thin::{Device, Pool};
use crate::volume::{Assembly, Content, Made, SharedVolume};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

/// Makes the logical volumes of a group, of its physical volumes in any order.
///
/// # Errors
/// When a physical volume is missing, when they contradict each other, when the group says of an
/// extent what we do not understand.
pub(crate) fn assemble<'a>(
    members: Vec<(Member, SharedVolume<'a>)>,
) -> Result<Assembly<'a>, Refusal> {
    let group = members
        .iter()
        .map(|(member, _)| member.group.clone())
        .max_by_key(|group| group.seqno)
        .ok_or_else(|| Refusal::Damaged("a volume group without members".into()))?;
    let physical = find_physical(&group, &members)?;
    let mut metadata = vec![ExtentList::new(); members.len()];
    let mut total = 0_u64;
    for (index, physical) in physical.iter().zip(&group.physical) {
        let Some(((member, _), list)) = members.get(*index).zip(metadata.get_mut(*index)) else {
            continue;
        };
        let data = data_area(&group, physical, member)?;
        total = total.saturating_add(data.len().0);
        *list = member.label.metadata.clone();
        for around in [
            Extent::between(0, data.start().0),
            Extent::between(data.end(), member.size),
        ] {
            around.into_iter().for_each(|around| list.insert(around));
        }
    }
    let volumes: HashMap<&str, (&Physical, SharedVolume<'a>)> = physical
        .iter()
        .zip(&group.physical)
        .filter_map(|(index, physical)| {
            let (_, volume) = members.get(*index)?;
            Some((physical.name.as_str(), (physical, volume.clone())))
        })
        .collect();
    let mut taking = Taking {
        builder: Builder::new(&group, volumes),
        whole: BTreeMap::new(),
        made: Vec::new(),
        taken: HashSet::new(),
        roots: Vec::new(),
    };
    taking
        .all()
        .map_err(|why| Refusal::Unsupported(format!("of volume group {}, {why}", group.name)))?;
    let allocated = allocated(&group, &taking.builder)?;
    let Taking { made, .. } = taking;
    Ok(Assembly {
        name: format!("volume group {}", group.name),
        reason: format!(
            "a physical volume of {}: of its volumes what is in use is taken, its free extents \
             ({} of {} in the group) are not",
            group.name,
            ByteLen(total.saturating_sub(allocated)),
            ByteLen(total)
        ),
        metadata,
        volumes: made,
    })
}

/// For each physical volume of the group the index of its member.
fn find_physical(
    group: &Group,
    members: &[(Member, SharedVolume<'_>)],
) -> Result<Vec<usize>, Refusal> {
    if let Some(why) = &group.unsupported {
        return Err(Refusal::Unsupported(format!(
            "volume group {} {why}",
            group.name
        )));
    }
    let mut missing = Vec::new();
    let mut found = Vec::new();
    for physical in &group.physical {
        let mut hits = members
            .iter()
            .enumerate()
            .filter(|(_, (member, _))| member.label.uuid == physical.id)
            .map(|(index, _)| index);
        match (hits.next(), hits.next()) {
            (Some(index), None) if !physical.missing => found.push(index),
            (Some(_), Some(_)) => {
                return Err(Refusal::Damaged(format!(
                    "two disks are the same physical volume {} of {} (two paths to one disk, or \
                     a copy of it)",
                    hyphens(&physical.id),
                    group.name
                )));
            }
            _ => missing.push(hyphens(&physical.id)),
        }
    }
    if !missing.is_empty() {
        return Err(Refusal::Damaged(format!(
            "of the {} physical volumes of {}, {} {} missing (give all disks of the server \
             together)",
            group.physical.len(),
            group.name,
            missing.join(", "),
            if missing.len() == 1 { "is" } else { "are" }
        )));
    }
    if let Some((member, _)) = members
        .iter()
        .enumerate()
        .find(|(index, _)| !found.contains(index))
        .map(|(_, member)| member)
    {
        return Err(Refusal::Damaged(format!(
            "{} does not know of the physical volume {}",
            group.name,
            member.uuid()
        )));
    }
    Ok(found)
}

/// Where the extents of a physical volume lie.
fn data_area(group: &Group, physical: &Physical, member: &Member) -> Result<Extent, Refusal> {
    let area = physical
        .extents
        .checked_mul(group.extent_size)
        .and_then(|len| physical.start.checked_add(len))
        .and_then(|end| Extent::between(physical.start, end));
    area.filter(|area| area.end() <= member.size)
        .ok_or_else(|| {
            Refusal::Damaged(format!(
                "the physical volume {} of {} is shorter than its extents",
                hyphens(&physical.id),
                group.name
            ))
        })
}

/// Bytes that are allocated on physical volumes.
fn allocated(group: &Group, builder: &Builder<'_, '_>) -> Result<u64, Refusal> {
    let mut sum = 0_u64;
    for segment in group.logical.iter().flat_map(|logical| &logical.segments) {
        for (field, each) in [("stripes", true), ("mirrors", false)] {
            let areas = segment.areas(field).unwrap_or_default();
            let count = u64::try_from(areas.len()).unwrap_or(u64::MAX);
            let extents = if each {
                segment.extents.checked_div(count).unwrap_or(0)
            } else {
                segment.extents
            };
            for (name, _) in areas {
                if builder.is_physical(name) {
                    sum = sum.saturating_add(extents.saturating_mul(group.extent_size));
                }
            }
        }
    }
    Ok(sum)
}

/// A status that we do not know, of a logical volume or of one that it is made of.
fn odd<'g>(names: &HashMap<&'g str, &'g Logical>, name: &'g str) -> Option<&'g str> {
    let mut queue = vec![name];
    let mut seen = HashSet::new();
    while let Some(name) = queue.pop() {
        let Some(logical) = names.get(name).filter(|_| seen.insert(name)) else {
            continue;
        };
        if let Some(status) = &logical.unknown_status {
            return Some(status);
        }
        queue.extend(logical.segments.iter().flat_map(shown));
    }
    None
}

/// What has been decided so far.
struct Taking<'a, 'g> {
    builder: Builder<'a, 'g>,
    /// Logical volumes that are taken whole, and why.
    whole: BTreeMap<&'g str, String>,
    made: Vec<Made<'a>>,
    /// Logical volumes of which something else has been decided.
    taken: HashSet<&'g str>,
    /// The logical volumes that `made` shows.
    roots: Vec<&'g str>,
}

impl<'a, 'g> Taking<'a, 'g> {
    fn all(&mut self) -> Result<(), String> {
        let group = self.builder.group;
        let names: HashMap<&str, &Logical> = group
            .logical
            .iter()
            .map(|logical| (logical.name.as_str(), logical))
            .collect();
        if names.len() != group.logical.len() {
            return Err("two logical volumes have the same name".into());
        }
        // First what is made of others in ways of its own.
        for logical in &group.logical {
            let Some(segment) = logical.segments.first() else {
                continue;
            };
            match segment.kind.as_str() {
                "thin-pool" => self.pool(logical, segment),
                "snapshot" => self.snapshot(logical, segment),
                _ => {}
            }
        }
        // Then the plain ones that are nobody's part.
        let parts: HashSet<&str> = group
            .logical
            .iter()
            .flat_map(|logical| &logical.segments)
            .flat_map(shown)
            .collect();
        for logical in &group.logical {
            let name = logical.name.as_str();
            if self.taken.contains(name) || parts.contains(name) {
                continue;
            }
            if let Err(why) = self.builder.logical(name) {
                self.refuse(name, &format!("{why}, which is not looked into"));
            }
        }
        self.spread(&names)?;
        for logical in &group.logical {
            let name = logical.name.as_str();
            let whole = self.whole.remove(name);
            let Ok(volume) = self.builder.logical(name) else {
                continue;
            };
            let content = match (whole, odd(&names, name)) {
                (Some(why), _) => Content::Whole(why),
                (None, _) if self.taken.contains(name) || parts.contains(name) => continue,
                (None, Some(status)) => Content::Whole(format!("it has the status {status}")),
                (None, None) if logical.visible => Content::Look,
                (None, None) => Content::Whole("it serves the volume group itself".into()),
            };
            self.roots.push(name);
            self.made.push(Made {
                name: self.builder.title(name),
                layout: layout(logical),
                volume,
                content,
            });
        }
        self.check(&names)
    }

    /// Whether every logical volume that lies on physical ones is in a volume that is taken.
    fn check(&self, names: &HashMap<&'g str, &'g Logical>) -> Result<(), String> {
        let mut queue = self.roots.clone();
        let mut seen: HashSet<&str> = HashSet::new();
        while let Some(name) = queue.pop() {
            if seen.insert(name)
                && let Some(logical) = names.get(name)
            {
                queue.extend(logical.segments.iter().flat_map(shown));
            }
        }
        for (name, logical) in names {
            let physical = logical
                .segments
                .iter()
                .flat_map(shown)
                .any(|part| self.builder.is_physical(part));
            if physical && !seen.contains(name) {
                return Err(format!("nothing tells what {name} is for"));
            }
        }
        Ok(())
    }

    /// Has a logical volume taken whole, with all that it is made of.
    fn refuse(&mut self, name: &'g str, why: &str) {
        self.whole
            .entry(name)
            .or_insert_with(|| format!("{name}: {why}"));
    }

    /// Has everything that a logical volume in `whole` is made of taken whole too, and what no
    /// volume shows: the metadata of arrays and the logs of mirrors.
    fn spread(&mut self, names: &HashMap<&'g str, &'g Logical>) -> Result<(), String> {
        let mut queue: Vec<(&'g str, String)> =
            std::mem::take(&mut self.whole).into_iter().collect();
        for name in names
            .values()
            .flat_map(|logical| &logical.segments)
            .flat_map(hidden)
        {
            queue.push((name, "it is the metadata of a mirror or array".into()));
        }
        while let Some((name, why)) = queue.pop() {
            let Some(logical) = names.get(name) else {
                continue;
            };
            if self.whole.insert(&logical.name, why.clone()).is_some()
                || self.builder.logical(name).is_ok()
            {
                continue;
            }
            for segment in &logical.segments {
                for mentioned in segment.fields.strings() {
                    if self.builder.is_physical(mentioned) {
                        return Err(format!(
                            "{name} lies on physical volumes in a way that is not understood ({})",
                            segment.kind
                        ));
                    }
                    if names.contains_key(mentioned) && !self.taken.contains(mentioned) {
                        queue.push((mentioned, why.clone()));
                    }
                }
            }
        }
        Ok(())
    }

    /// A thin pool and its volumes.
    fn pool(&mut self, logical: &'g Logical, segment: &'g Segment) {
        let group = self.builder.group;
        let thins: Vec<(&'g Logical, &'g Segment)> = group
            .logical
            .iter()
            .filter_map(|thin| Some((thin, thin.segments.first()?)))
            .filter(|(_, segment)| {
                segment.kind == "thin" && segment.fields.text("thin_pool") == Some(&logical.name)
            })
            .collect();
        if let Err(why) = self.try_pool(logical, segment, &thins) {
            self.refuse(&logical.name, &why);
            // Their bytes lie in the pool, which is taken whole.
            for (thin, _) in thins {
                self.taken.insert(&thin.name);
            }
        }
    }

    fn try_pool(
        &mut self,
        logical: &'g Logical,
        segment: &'g Segment,
        thins: &[(&'g Logical, &'g Segment)],
    ) -> Result<(), String> {
        if logical.segments.len() != 1
            || logical.unknown_status.is_some()
            || segment
                .flags
                .iter()
                .any(|flag| flag != "ERROR_WHEN_FULL" && flag != "CROP_METADATA")
        {
            return Err("a thin pool with an unknown feature".into());
        }
        let field = |name| {
            segment
                .fields
                .text(name)
                .ok_or("a thin pool without its parts")
        };
        let (metadata_name, data_name) = (field("metadata")?, field("pool")?);
        let metadata = self.builder.logical(metadata_name)?;
        let data = self.builder.logical(data_name)?;
        let chunk = segment
            .bytes("chunk_size")
            .ok_or("a thin pool without a chunk size")?;
        let mut devices = Vec::new();
        for (thin, segment) in thins {
            if thin.segments.len() != 1
                || thin.unknown_status.is_some()
                || !segment.flags.is_empty()
                || segment.fields.get("merge").is_some()
            {
                return Err(format!("its volume {} has an unknown feature", thin.name));
            }
            let external = match segment.fields.text("external_origin") {
                Some(origin) => Some(self.builder.logical(origin)?),
                None => None,
            };
            devices.push(Device {
                id: segment
                    .fields
                    .number("device_id")
                    .ok_or("a thin volume without a number")?,
                name: self.builder.title(&thin.name),
                size: self.builder.bytes(thin.extents)?,
                external,
            });
        }
        let pool = Pool::read(&*metadata, data.clone(), chunk)?;
        let title = self.builder.title(&logical.name);
        let volumes = pool.volumes(&devices);
        self.made.push(Made {
            name: self.builder.title(metadata_name),
            layout: "linear".into(),
            volume: metadata,
            content: Content::Whole(format!("it is the metadata of the thin pool {title}")),
        });
        self.made.push(Made {
            name: self.builder.title(data_name),
            layout: format!("the data of the thin pool {title}"),
            volume: data,
            content: match &volumes {
                Some(_) => Content::Exactly(
                    pool.orphans(&devices),
                    "of the pool itself, what belongs to none of its volumes is taken".into(),
                ),
                None => Content::Exactly(
                    pool.mapped(),
                    "its volumes are in too many pieces to look into: all that they map is taken"
                        .into(),
                ),
            },
        });
        for (device, volume) in devices.iter().zip(volumes.into_iter().flatten()) {
            self.made.push(Made {
                name: device.name.clone(),
                layout: format!("thin, in {title}"),
                volume,
                content: Content::Look,
            });
        }
        self.taken.insert(&logical.name);
        for name in [metadata_name, data_name] {
            self.taken.insert(name);
            self.roots.push(name);
        }
        for (thin, _) in thins {
            self.taken.insert(&thin.name);
        }
        Ok(())
    }

    /// `snapshotN`, which says that one logical volume holds what has changed in another.
    fn snapshot(&mut self, logical: &'g Logical, segment: &'g Segment) {
        self.taken.insert(&logical.name);
        let store = segment
            .fields
            .text("cow_store")
            .or_else(|| segment.fields.text("merging_store"));
        let Some(store) = store else {
            // Nothing is lost: both are there as volumes of their own.
            return;
        };
        match self.try_snapshot(segment, store) {
            Ok(()) => {
                self.taken.insert(store);
                self.roots.push(store);
            }
            Err(why) => self.refuse(store, &format!("a snapshot, {why}")),
        }
    }

    fn try_snapshot(&mut self, segment: &'g Segment, store: &'g str) -> Result<(), String> {
        if segment.fields.text("merging_store").is_some() {
            return Err("which is being merged back".into());
        }
        let origin_name = segment.fields.text("origin").ok_or("without an origin")?;
        let origin = self.builder.logical(origin_name)?;
        let cow = self.builder.logical(store)?;
        let chunk = segment.bytes("chunk_size").ok_or("without a chunk size")?;
        let title = self.builder.title(store);
        let (snapshot, used) = Snapshot::new(title.clone(), origin, cow.clone(), chunk)?;
        self.made.push(Made {
            name: title.clone(),
            layout: format!("a snapshot of {}", self.builder.title(origin_name)),
            volume: Arc::new(snapshot),
            content: Content::Look,
        });
        self.made.push(Made {
            name: format!("{title} (its changes)"),
            layout: "linear".into(),
            volume: cow,
            content: Content::Exactly(used, "the changes that the snapshot holds are taken".into()),
        });
        Ok(())
    }
}

/// The logical volumes that are read where `segment` is read.
fn shown(segment: &Segment) -> Vec<&str> {
    let mut names: Vec<&str> = ["stripes", "mirrors"]
        .into_iter()
        .flat_map(|field| segment.areas(field).unwrap_or_default())
        .map(|(name, _)| name)
        .collect();
    if segment.kind.starts_with("raid") {
        let images = super::raid::images(segment).unwrap_or_default();
        names.extend(images.into_iter().map(|(data, _)| data));
    }
    names
}

/// The logical volumes that serve `segment` without being seen through it.
fn hidden(segment: &Segment) -> Vec<&str> {
    let mut names: Vec<&str> = segment.fields.text("mirror_log").into_iter().collect();
    if segment.kind.starts_with("raid") {
        let images = super::raid::images(segment).unwrap_or_default();
        names.extend(images.into_iter().filter_map(|(_, meta)| meta));
    }
    names
}

/// How it lies on its members, for people.
fn layout(logical: &Logical) -> String {
    let Some(segment) = logical.segments.first() else {
        return "empty".into();
    };
    let stripes = segment.areas("stripes").map_or(0, |areas| areas.len());
    match segment.kind.as_str() {
        "striped" if stripes > 1 => format!("striped over {stripes}"),
        "striped" => "linear".into(),
        "mirror" => format!(
            "mirrored on {}",
            segment.areas("mirrors").map_or(0, |areas| areas.len())
        ),
        kind => kind.into(),
    }
}
