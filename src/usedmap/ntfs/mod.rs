//! NTFS: the clusters in use, from $Bitmap and from the runs of every file record.
//!
//! In: a volume. Out: its used bytes, or the reason why they are not to be trusted. It must be shut
//! down (no dirty flag, journal at rest, nothing hibernated), the first file records must equal
//! their copies, and every file record in use must make sense. What file records use is taken even
//! where $Bitmap calls it free. Nothing is kept but runs: $Bitmap and the master file table are read
//! in pieces.
//!
//! Each file is one structure: `boot`, `record`, `runlist`, `stream` (the bytes of an attribute),
//! `mft`, `volume` (its state, and the copy of the first records), `logfile`, `shadow`, `clusters`.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

pub(crate) mod boot;
mod clusters;
mod logfile;
pub(crate) mod mft;
pub(crate) mod record;
pub(crate) mod runlist;
mod shadow;
pub(crate) mod stream;
mod volume;

use super::collect::RunCollector;
use super::finding::{Filesystem, Mapped, Refusal, UsedBytes};
use super::region::State;
use crate::device::ReadAt;
use crate::units::ByteLen;
use boot::Boot;
use mft::Mft;
use volume::VolumeInformation;

/// Reads what a volume with the signature of NTFS holds.
pub(super) fn look(volume: &dyn ReadAt) -> Filesystem {
    let boot = match Boot::read(volume) {
        Ok(boot) => boot,
        Err(refusal) => return Filesystem::refused(refusal),
    };
    let mut filesystem = Filesystem {
        name: None,
        label: None,
        uuid: Some(format!("{:016X}", boot.serial)),
        used_if_clean: None,
        verdict: Err(Refusal::Unsupported(String::new())),
    };
    filesystem.verdict = examine(volume, &boot, &mut filesystem);
    filesystem
}

/// The verdict; label and size are filled in on the way, so that a refusal has them too.
fn examine(
    volume: &dyn ReadAt,
    boot: &Boot,
    filesystem: &mut Filesystem,
) -> Result<Mapped, Refusal> {
    let mft = Mft::open(volume, boot)?;
    let information = VolumeInformation::read(&mft)?;
    filesystem.label.clone_from(&information.label);
    information.refuse_unknown_version()?;
    let used = clusters::read_bitmap(&mft)?;
    filesystem.used_if_clean = Some(ByteLen(used.clusters.saturating_mul(boot.cluster_size)));

    volume::refuse_unless_mirrored(&mft)?;
    information.refuse_unless_at_rest()?;
    logfile::refuse_unless_clean(&mft)?;
    shadow::refuse_shadow_copies(volume)?;
    let check = clusters::cross_check(&mft, &used.extents)?;
    clusters::refuse_hibernated(&mft, &check)?;

    let mut runs = RunCollector::new();
    let middle = boot.middle_copies(volume)?;
    let fixed = boot.fixed_places(volume.size().0).into_iter().chain(middle);
    for extent in used.extents.iter().chain(check.missing.iter()).chain(fixed) {
        runs.push(extent);
    }
    let (state, reason) = if check.missing.is_empty() {
        let reason = "clean: the clusters that $Bitmap or a file record call used are taken";
        (State::Clean, reason.into())
    } else {
        let reason = format!(
            "damaged: its files use {} that $Bitmap calls free; they are taken as well (run chkdsk \
             /f in Windows)",
            check.missing.total()
        );
        (State::Damaged, reason)
    };
    Ok(Mapped {
        state,
        reason,
        used: UsedBytes {
            covers: ByteLen(boot.covers(volume.size().0)),
            extents: runs.finish(),
        },
    })
}
