//! Plain logical volumes of their segments: linear, striped, mirrored; and what they are made of in
//! turn (`striped.c` and `mirrored.c` of LVM2).

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use super::metadata::{Group, Physical, Segment};
use super::raid;
use crate::extent::Extent;
use crate::units::{ByteLen, ByteOffset};
use crate::volume::raid::{Geometry, Leg, Mirror, Raid, Stripes};
use crate::volume::{Concat, Part, SharedVolume, Zeros};
use std::collections::HashMap;
use std::sync::Arc;

/// An image of an image of a mirror that is being moved: 4.
const MAX_DEPTH: usize = 10;

/// Why a logical volume cannot be read: a clause.
pub(super) type Why = String;

/// A volume group and its physical volumes.
pub(super) struct Builder<'a, 'g> {
    pub group: &'g Group,
    physical: HashMap<&'g str, (&'g Physical, SharedVolume<'a>)>,
    built: HashMap<&'g str, Result<SharedVolume<'a>, Why>>,
    /// How many extents of each volume are a part of others.
    claimed: HashMap<String, u64>,
}

impl<'a, 'g> Builder<'a, 'g> {
    pub(super) fn new(
        group: &'g Group,
        physical: HashMap<&'g str, (&'g Physical, SharedVolume<'a>)>,
    ) -> Self {
        Self {
            group,
            physical,
            built: HashMap::new(),
            claimed: HashMap::new(),
        }
    }

    /// Takes extents of a volume that has `all`. None is in two places: else few volumes that each
    /// contain the one before many times would make one that nobody can look through.
    fn claim(&mut self, name: &str, extents: u64, all: u64) -> Result<(), Why> {
        let claimed = self.claimed.entry(name.into()).or_default();
        *claimed = claimed.saturating_add(extents);
        if *claimed > all {
            return Err(format!("{name} is in it more than once"));
        }
        Ok(())
    }

    /// A logical volume that is a part of another one as a whole.
    fn whole_part(&mut self, name: &str, depth: usize) -> Result<SharedVolume<'a>, Why> {
        self.claim(name, 1, 1)?;
        self.at_depth(name, depth)
    }

    /// Whether it is the name of a physical volume.
    pub(super) fn is_physical(&self, name: &str) -> bool {
        self.physical.contains_key(name)
    }

    /// A logical volume, by its name.
    pub(super) fn logical(&mut self, name: &str) -> Result<SharedVolume<'a>, Why> {
        self.at_depth(name, 0)
    }

    fn at_depth(&mut self, name: &str, depth: usize) -> Result<SharedVolume<'a>, Why> {
        if depth > MAX_DEPTH {
            return Err("it is made of itself".into());
        }
        let group = self.group;
        let logical = group
            .logical
            .iter()
            .find(|logical| logical.name == name)
            .ok_or_else(|| format!("there is no {name}"))?;
        if let Some(built) = self.built.get(name) {
            return built.clone();
        }
        let parts = logical
            .segments
            .iter()
            .map(|segment| self.segment(segment, name, depth.saturating_add(1)))
            .collect::<Result<Vec<_>, _>>();
        let built = parts.and_then(|parts| {
            if let (Some(only), 1) = (parts.first(), parts.len()) {
                return Ok(only.clone());
            }
            let whole = Concat::new(self.title(name), parts).ok_or("it is too long")?;
            let whole: SharedVolume<'a> = Arc::new(whole);
            Ok(whole)
        });
        self.built.insert(&logical.name, built.clone());
        built
    }

    /// For messages: `vg0/root`.
    pub(super) fn title(&self, name: &str) -> String {
        format!("{}/{name}", self.group.name)
    }

    /// So many extents in bytes.
    pub(super) fn bytes(&self, extents: u64) -> Result<u64, Why> {
        extents
            .checked_mul(self.group.extent_size)
            .ok_or_else(|| "it is too long".into())
    }

    fn segment(
        &mut self,
        segment: &Segment,
        name: &str,
        depth: usize,
    ) -> Result<SharedVolume<'a>, Why> {
        if let Some(flag) = segment.flags.first() {
            return Err(format!("its type is {} with {flag}", segment.kind));
        }
        match segment.kind.as_str() {
            "striped" | "linear" => self.striped(segment, name, depth),
            "mirror" => self.mirror(segment, name, depth),
            "zero" => Ok(Arc::new(Zeros(ByteLen(self.bytes(segment.extents)?)))),
            kind if kind.starts_with("raid") => {
                let images = raid::images(segment)?;
                let mut legs = Vec::new();
                for (data, meta) in images {
                    let data = self.whole_part(data, depth)?;
                    let meta = match meta {
                        Some(meta) => Some(self.whole_part(meta, depth)?),
                        None => None,
                    };
                    legs.push((data, meta));
                }
                let size = self.bytes(segment.extents)?;
                raid::build(self.title(name), segment, size, legs)
            }
            other => Err(format!("its type is {other}")),
        }
    }

    /// `extents` from `first` on of a physical or logical volume.
    fn area(
        &mut self,
        name: &str,
        first: u64,
        extents: u64,
        depth: usize,
    ) -> Result<SharedVolume<'a>, Why> {
        let (start, len) = (self.bytes(first)?, self.bytes(extents)?);
        let all = match self.physical.get(name) {
            Some((physical, _)) => physical.extents,
            None => {
                let logical = self.group.logical.iter();
                let mut named = logical.filter(|logical| logical.name == name);
                named.next().map_or(0, |logical| logical.extents)
            }
        };
        self.claim(name, extents, all)?;
        let (base, volume) = match self.physical.get(name) {
            Some((physical, volume)) => {
                let end = first.checked_add(extents);
                if end.is_none_or(|end| end > physical.extents) {
                    return Err(format!("it goes beyond the end of {name}"));
                }
                (physical.start, volume.clone())
            }
            None => (0, self.at_depth(name, depth)?),
        };
        let extent = base
            .checked_add(start)
            .and_then(|start| Extent::new(ByteOffset(start), ByteLen(len)));
        extent
            .and_then(|extent| Part::new(volume, extent))
            .map(|part| -> SharedVolume<'a> { Arc::new(part) })
            .ok_or_else(|| format!("it goes beyond the end of {name}"))
    }

    fn striped(
        &mut self,
        segment: &Segment,
        name: &str,
        depth: usize,
    ) -> Result<SharedVolume<'a>, Why> {
        let areas = segment.areas("stripes").ok_or("it has no stripes")?;
        let count = u64::try_from(areas.len()).unwrap_or(u64::MAX);
        if count == 0 || segment.fields.number("stripe_count").unwrap_or(1) != count {
            return Err("it lacks stripes".into());
        }
        let each = segment
            .extents
            .checked_div(count)
            .filter(|each| each.checked_mul(count) == Some(segment.extents))
            .ok_or("its stripes are not of one length")?;
        let mut legs = Vec::new();
        for (area, first) in areas {
            legs.push(self.area(area, first, each, depth)?);
        }
        if let (Some(only), 1) = (legs.first(), legs.len()) {
            return Ok(only.clone());
        }
        let chunk = segment
            .bytes("stripe_size")
            .ok_or("it has no stripe size")?;
        let sizes = vec![self.bytes(each)?; legs.len()];
        let stripes = Stripes::new(chunk, &sizes, None).ok_or("its stripes make no volume")?;
        if stripes.size() != self.bytes(segment.extents)? {
            return Err("its stripes are not whole".into());
        }
        let legs = legs.into_iter().map(whole_leg).collect();
        let raid = Raid::new(self.title(name), Box::new(stripes), legs)?;
        Ok(Arc::new(raid))
    }

    /// Where the copies of a mirror differ, the first is the one that counts: it is the one that
    /// the others are synchronised from, in a `pvmove` too.
    fn mirror(
        &mut self,
        segment: &Segment,
        name: &str,
        depth: usize,
    ) -> Result<SharedVolume<'a>, Why> {
        let areas = segment.areas("mirrors").ok_or("it has no mirrors")?;
        let mut legs = Vec::new();
        for (area, first) in areas {
            let mut leg = whole_leg(self.area(area, first, segment.extents, depth)?);
            for leg in &mut leg {
                leg.readable = legs.is_empty();
            }
            legs.push(leg);
        }
        let mirror = Mirror {
            slots: legs.len(),
            size: self.bytes(segment.extents)?,
        };
        let raid = Raid::new(self.title(name), Box::new(mirror), legs)?;
        Ok(Arc::new(raid))
    }
}

/// A slot that is all of a volume.
pub(super) fn whole_leg(volume: SharedVolume<'_>) -> Vec<Leg<'_>> {
    vec![Leg {
        volume,
        start: 0,
        readable: true,
    }]
}
