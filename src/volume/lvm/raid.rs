//! Logical volumes of dm-raid: images with md's layouts, each with a small volume of metadata
//! (`raid.c` of LVM2, `dm-raid.c` of Linux).
//!
//! The metadata's superblock (`struct dm_raid_superblock`, little-endian): 0x00 `magic` `DmRd`,
//! 0x04 `compat_features`, 0x08 `num_devices`, 0x0C `array_position`, 0x10 `events`, 0x18
//! `failed_devices`, 0x20 `disk_recovery_offset`, 0x28 `array_resync_offset`, 0x30 `level`, 0x34
//! `layout`, 0x38 `stripe_sectors`, 0x3C `flags` (bit 0: reshape), 0xA0 `extended_failed_devices`.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use super::build::Why;
use super::metadata::Segment;
use crate::bytes::{has_magic, read_u32le, read_u64le};
use crate::device::ReadAt;
use crate::units::ByteOffset;
use crate::volume::SharedVolume;
use crate::volume::raid::{
    Geometry, Leg, Mirror, Parity, Raid, Raid10, Raid10Layout, Rotation, Stripes,
};
use std::sync::Arc;

const MAGIC: &[u8] = b"DmRd";
/// `compat_features`: version 1.9.0, which knows of reshapes.
const KNOWN_FEATURES: u32 = 1;

/// The names of each image and of its metadata.
pub(super) fn images(segment: &Segment) -> Result<Vec<(&str, Option<&str>)>, Why> {
    let senseless = || "the list of its images is senseless".to_owned();
    let (field, count) = if segment.kind.starts_with("raid0") {
        ("raid0_lvs", "stripe_count")
    } else {
        ("raids", "device_count")
    };
    // `raid0_meta` has the field of the others.
    let names = segment
        .names(field)
        .or_else(|| segment.names("raids"))
        .ok_or_else(senseless)?;
    let count = segment
        .fields
        .number(count)
        .and_then(|count| usize::try_from(count).ok())
        .ok_or_else(senseless)?;
    if names.len() == count {
        return Ok(names.into_iter().map(|name| (name, None)).collect());
    }
    if count.checked_mul(2) != Some(names.len()) {
        return Err(senseless());
    }
    names
        .chunks(2)
        .map(|pair| match pair {
            [meta, data] => Ok((*data, Some(*meta))),
            _ => Err(senseless()),
        })
        .collect()
}

/// What an image's metadata says.
struct Superblock {
    events: u64,
    failed: u64,
    recovered: bool,
    clean: bool,
}

/// `None` where none was ever written.
fn superblock(meta: &dyn ReadAt, position: usize) -> Result<Option<Superblock>, Why> {
    let mut bytes = vec![0; 512];
    meta.read_at(ByteOffset(0), &mut bytes)
        .map_err(|error| format!("its metadata is not readable: {error}"))?;
    if bytes.iter().all(|byte| *byte == 0) {
        return Ok(None);
    }
    if !has_magic(&bytes, 0, MAGIC) {
        return Err("its metadata has no superblock".into());
    }
    if read_u32le(&bytes, 4) & !KNOWN_FEATURES != 0 {
        return Err("its metadata has unknown features".into());
    }
    if read_u32le(&bytes, 4) & 1 != 0 && read_u32le(&bytes, 0x3C) & 1 != 0 {
        return Err("its reshape has not finished".into());
    }
    if u32::try_from(position).ok() != Some(read_u32le(&bytes, 0x0C)) {
        return Err("its images are not in their order".into());
    }
    Ok(Some(Superblock {
        events: read_u64le(&bytes, 0x10),
        failed: read_u64le(&bytes, 0x18),
        recovered: read_u64le(&bytes, 0x20) == u64::MAX,
        clean: read_u64le(&bytes, 0x28) == u64::MAX,
    }))
}

/// Makes the volume of `size` bytes of its images, each with its metadata.
pub(super) fn build<'a>(
    name: String,
    segment: &Segment,
    size: u64,
    images: Vec<(SharedVolume<'a>, Option<SharedVolume<'a>>)>,
) -> Result<SharedVolume<'a>, Why> {
    if segment.fields.get("data_offset").is_some() || segment.fields.get("reshape_count").is_some()
    {
        return Err("its reshape has not finished".into());
    }
    let slots = images.len();
    let chunk = segment.bytes("stripe_size").unwrap_or(0);
    let geometry = geometry(segment, size, slots, chunk)?;
    if geometry.size() != size {
        return Err(format!("its {} images do not make its size", images.len()));
    }
    let (readable, clean) = readable(segment, &images)?;
    let legs = images
        .into_iter()
        .zip(&readable)
        .map(|((volume, _), readable)| {
            vec![Leg {
                volume,
                start: 0,
                readable: *readable,
            }]
        })
        .collect();
    // Parity of an array that was not shut down properly rebuilds nothing.
    if !clean && segment.kind != "raid1" && readable.contains(&false) {
        return Err("an image is out of date, and it was not shut down properly".into());
    }
    let raid = Raid::new(name, geometry, legs)?;
    if !raid.is_complete(slots.saturating_mul(slots)) {
        return Err("too many of its images are out of date".into());
    }
    Ok(Arc::new(raid))
}

/// Which images are up to date, and whether all were shut down properly.
fn readable(
    segment: &Segment,
    images: &[(SharedVolume<'_>, Option<SharedVolume<'_>>)],
) -> Result<(Vec<bool>, bool), Why> {
    if segment.kind.starts_with("raid0") {
        return Ok((vec![true; images.len()], true));
    }
    let mut superblocks = Vec::new();
    for (position, (_, meta)) in images.iter().enumerate() {
        let meta = meta.as_ref().ok_or("an image has no metadata")?;
        superblocks.push(superblock(&**meta, position)?);
    }
    let Some(fresh) = superblocks.iter().flatten().max_by_key(|sb| sb.events) else {
        // Made, but never used.
        return Ok((vec![true; images.len()], true));
    };
    let readable = superblocks
        .iter()
        .enumerate()
        .map(|(position, superblock)| {
            let failed = u32::try_from(position)
                .ok()
                .and_then(|position| fresh.failed.checked_shr(position))
                .is_none_or(|bits| bits & 1 != 0);
            superblock.as_ref().is_some_and(|sb| {
                !failed && sb.recovered && sb.events.checked_add(1) >= Some(fresh.events)
            })
        })
        .collect();
    Ok((readable, fresh.clean))
}

/// The layout of a volume of `size` bytes on `slots` images.
pub(super) fn geometry(
    segment: &Segment,
    size: u64,
    slots: usize,
    chunk: u64,
) -> Result<Box<dyn Geometry>, Why> {
    let senseless = || "the sizes of its images make no volume".to_owned();
    let count = u64::try_from(slots).map_err(|_| senseless())?;
    let over = |data: u64| size.checked_div(data).ok_or_else(senseless);
    let parity = |rotation, q_apart, parities: u64| -> Result<Box<dyn Geometry>, Why> {
        let each = over(count.checked_sub(parities).ok_or_else(senseless)?)?;
        Parity::new((rotation, q_apart), chunk, slots, parities, each)
            .map(|parity| -> Box<dyn Geometry> { Box::new(parity) })
            .ok_or_else(senseless)
    };
    use Rotation::{
        LeftAsymmetric, LeftSymmetric, NContinue, NRestart, ParityFirst, ParityLast,
        RightAsymmetric, RightSymmetric, ZeroRestart,
    };
    // `raid_types` of dm-raid.c.
    match segment.kind.as_str() {
        "raid0" | "raid0_meta" => {
            let sizes = vec![over(count)?; slots];
            let stripes = Stripes::new(chunk, &sizes, None).ok_or_else(senseless)?;
            Ok(Box::new(stripes))
        }
        "raid1" => Ok(Box::new(Mirror { slots, size })),
        "raid4" => parity(ParityFirst, false, 1),
        "raid5" | "raid5_ls" => parity(LeftSymmetric, false, 1),
        "raid5_la" => parity(LeftAsymmetric, false, 1),
        "raid5_ra" => parity(RightAsymmetric, false, 1),
        "raid5_rs" => parity(RightSymmetric, false, 1),
        "raid5_n" => parity(ParityLast, false, 1),
        "raid6" | "raid6_zr" => parity(ZeroRestart, false, 2),
        "raid6_nr" => parity(NRestart, false, 2),
        "raid6_nc" => parity(NContinue, false, 2),
        "raid6_n_6" => parity(ParityLast, false, 2),
        "raid6_ls_6" => parity(LeftSymmetric, true, 2),
        "raid6_rs_6" => parity(RightSymmetric, true, 2),
        "raid6_la_6" => parity(LeftAsymmetric, true, 2),
        "raid6_ra_6" => parity(RightAsymmetric, true, 2),
        "raid10" | "raid10_near" => {
            let copies = segment.fields.number("data_copies").unwrap_or(2);
            let each = size
                .checked_mul(copies)
                .and_then(|bytes| bytes.checked_div(count))
                .ok_or_else(senseless)?;
            let raid10 = Raid10::new(Raid10Layout::Near(copies), chunk, slots, each);
            Ok(Box::new(raid10.ok_or_else(senseless)?))
        }
        other => Err(format!("its type is {other}")),
    }
}
