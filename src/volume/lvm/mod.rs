//! LVM2. In: physical volumes. Out: the logical volumes of their group.
//!
//! `label` reads the head of a physical volume, `text` and `metadata` what it says of the group,
//! `build` makes plain logical volumes of their segments, `raid` those of dm-raid, `assemble` decides
//! what is to be taken of each.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

mod assemble;
mod build;
mod label;
mod metadata;
mod raid;
#[cfg(test)]
mod tests;
mod text;

pub(crate) use assemble::assemble;

use crate::device::ReadAt;
use crate::refusal::Refusal;
use metadata::Group;
use std::sync::Arc;

/// What a physical volume says.
#[derive(Debug, Clone)]
pub(crate) struct Member {
    label: label::Label,
    /// As it knows it.
    group: Arc<Group>,
    size: u64,
}

impl Member {
    /// The UUID of the volume group: members with the same are assembled together.
    pub(crate) fn set(&self) -> String {
        self.group.id.clone()
    }

    /// For people: `volume group vg0`.
    pub(crate) fn set_name(&self) -> String {
        format!("volume group {}", self.group.name)
    }

    /// Its own UUID, with hyphens as LVM and blkid write it.
    pub(crate) fn uuid(&self) -> String {
        hyphens(&self.label.uuid)
    }
}

/// `LmAlHy-8Nvx-...`: 6, 4, 4, 4, 4, 4 and 6 letters.
fn hyphens(uuid: &str) -> String {
    let mut out = String::new();
    for (index, letter) in uuid.chars().enumerate() {
        if [6, 10, 14, 18, 22, 26].contains(&index) {
            out.push('-');
        }
        out.push(letter);
    }
    out
}

/// What the head of a physical volume says.
///
/// # Errors
/// When it is damaged, or belongs to no group that it knows of.
pub(crate) fn member(volume: &dyn ReadAt) -> Result<Member, Refusal> {
    let mut label = label::read(volume)?;
    let mut newest: Option<Group> = None;
    for text in std::mem::take(&mut label.texts) {
        match metadata::read(&text) {
            Ok(group) => {
                if newest
                    .as_ref()
                    .is_none_or(|newest| newest.seqno < group.seqno)
                {
                    newest = Some(group);
                }
            }
            Err(why) => label.trouble = Some(format!("its LVM metadata is not readable: {why}")),
        }
    }
    match (newest, &label.trouble) {
        (Some(group), _) => Ok(Member {
            label,
            group: Arc::new(group),
            size: volume.size().0,
        }),
        (None, Some(trouble)) => Err(Refusal::Damaged(trouble.clone())),
        (None, None) => Err(Refusal::Unsupported(
            "an LVM physical volume that does not say to which volume group it belongs".into(),
        )),
    }
}
