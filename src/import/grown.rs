//! Disks for targets that round sizes up: each is copied out of its images with every chunk proven, and
//! where it has a GPT it grows to the size that the target would give it, with the backup GPT at the new
//! end. The capture stays as it is.

use super::changes::Keep;
use super::{Capture, Options, OutDir, changes, copy_disk, flat};
use crate::error::{Error, Result};
use crate::ptable::{Larger, PartitionTable, Scheme, larger};
use crate::report::Report;
use crate::store::{DiskRecord, Merged, chain};
use crate::units::ByteLen;
use crate::vm::VmPlan;
use crate::{say, warn};
use std::ops::Deref;

/// What OpenStack and most clouds count disks in.
pub(super) const GIB: u64 = 1 << 30;
/// What Proxmox VE, Ceph and Azure count disks in.
pub(super) const MIB: u64 = 1 << 20;

/// A disk as all of its images hold it together, with the digests of its chunks.
pub(super) enum Whole<'a> {
    /// It lies in one image.
    One(Box<Merged>),
    /// It lies in several, which were put together already.
    Several(&'a Merged),
}

impl Deref for Whole<'_> {
    type Target = Merged;
    fn deref(&self) -> &Merged {
        match self {
            Self::One(disk) => disk,
            Self::Several(disk) => disk,
        }
    }
}

impl<'a> Whole<'a> {
    /// The disk with this number in the capture.
    pub(super) fn of(capture: &'a Capture<'_>, index: usize) -> Result<Self> {
        if let Some(Some(pieces)) = capture.merged.get(index) {
            return Ok(Self::Several(&pieces.disk));
        }
        let record = record(capture, index)?;
        let layers = vec![chain::layer(capture.files, record)?];
        let disk = Merged::new(layers, record.chunks.clone(), record.chunk_bytes)?;
        Ok(Self::One(Box::new(disk)))
    }
}

fn record<'a>(capture: &'a Capture<'_>, index: usize) -> Result<&'a DiskRecord> {
    capture
        .manifest
        .disks
        .get(index)
        .ok_or_else(|| Error::corrupt(format!("there is no disk {index}")).on(capture.files.name()))
}

/// Disks that grow, by their numbers.
pub(super) struct Growth(Vec<Option<Larger>>);

impl Growth {
    /// Those with a GPT whose size is no multiple of `unit` bytes (none where there is no unit); the plan gets their new sizes.
    pub(super) fn plan(
        capture: &Capture<'_>,
        plan: &mut VmPlan,
        unit: Option<u64>,
        report: &dyn Report,
    ) -> Result<Self> {
        let mut growth = Self(capture.manifest.disks.iter().map(|_| None).collect());
        let Some(unit) = unit else {
            return Ok(growth);
        };
        for (index, (grown, planned)) in growth.0.iter_mut().zip(&mut plan.disks).enumerate() {
            let record = record(capture, index)?;
            let disk = Whole::of(capture, index)?;
            let sector = record.source.logical_sector_bytes;
            let size = record.virtual_size_bytes.checked_next_multiple_of(unit);
            let size = size.filter(|size| *size != record.virtual_size_bytes);
            let (Some(size), Ok(table)) = (size, PartitionTable::read(&*disk, sector)) else {
                continue;
            };
            if table.scheme != Scheme::Gpt {
                continue;
            }
            match larger(&*disk, sector, ByteLen(size)) {
                Ok(larger) => {
                    say!(
                        report,
                        "{} grows from {} to {size} bytes with its backup partition table (--no-pad \
                         leaves it)",
                        record.file,
                        record.virtual_size_bytes
                    );
                    planned.size_bytes = size;
                    *grown = Some(larger);
                }
                Err(flaw) => warn!(
                    report,
                    "{} keeps its size, and its backup partition table may not be at the end of the \
                     VM's disk: {flaw}",
                    record.file
                ),
            }
        }
        Ok(growth)
    }

    /// What is different on the disk with this number.
    pub(super) fn of(&self, index: usize) -> Option<&Larger> {
        self.0.get(index).and_then(Option::as_ref)
    }
}

/// Copies all disks, and makes in the copies the changes that the machine on them needs to be the VM `there`.
pub(super) fn copy_changed(
    capture: &Capture<'_>,
    growth: &Growth,
    mut there: VmPlan,
    out: &OutDir,
    options: &Options,
    report: &dyn Report,
) -> Result<()> {
    copy_disks(capture, growth, out, report)?;
    let keep = Keep::Into("qcow2");
    changes::apply(capture, &mut there, out, keep, options, report)
}

/// Copies all disks as qcow2 images, each compared with its digests on the way.
fn copy_disks(
    capture: &Capture<'_>,
    growth: &Growth,
    out: &OutDir,
    report: &dyn Report,
) -> Result<()> {
    for (index, record) in capture.manifest.disks.iter().enumerate() {
        let larger = growth.of(index);
        let one = capture.merged.get(index).is_none_or(Option::is_none);
        if larger.is_none() && one {
            report.begin(
                &format!("copying {}", record.file),
                ByteLen(record.file_bytes),
            );
            let result = copy_disk(capture.files, record, out, report);
            report.end();
            result?;
        } else {
            let disk = Whole::of(capture, index)?;
            report.begin(&format!("copying {}", record.file), record.extents.total());
            let path = out.partial.join(&record.file);
            let result = flat::write(&disk, larger, record.compression, &path, report);
            report.end();
            result?;
        }
        say!(report, "{} is copied and is what was read", record.file);
    }
    Ok(())
}
