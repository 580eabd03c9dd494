//! Disks that lie in several images: over those of an earlier capture, or in the parts of one on several
//! media. In: the captures that are at hand. Out: one manifest of the whole, and each such disk as its
//! images hold it together.

use crate::device::ReadAt;
use crate::error::{Error, Kind, Result};
use crate::extent::ExtentList;
use crate::store::manifest::DiskRecord;
use crate::store::parts::{self, Member};
use crate::store::{CaptureFiles, ChunkList, Manifest, Merged, chain};

/// A disk that lies in several images.
pub(super) struct Pieces {
    pub(super) disk: Merged,
    /// What the images take.
    pub(super) bytes: u64,
}

/// What is imported: the files of the first part, the manifest of the whole, and for each disk its
/// images, if there are several.
pub(super) type Read<'a> = (&'a dyn CaptureFiles, Manifest, Vec<Option<Pieces>>);

/// Reads all parts of one capture.
///
/// # Errors
/// [`Kind::Refused`] when parts are missing, with their names; [`Kind::Mismatch`] when an earlier
/// capture is missing or another.
pub(super) fn read(captures: &[Box<dyn CaptureFiles>]) -> Result<Read<'_>> {
    let mut members = Vec::new();
    for files in captures {
        let files = files.as_ref();
        let (manifest, json) = Manifest::read(files)?;
        match Member::new(files.name(), &manifest, &json) {
            Some(member) => members.push(member),
            None => {
                let disks = manifest.disks.iter().map(|record| over(files, record));
                let disks = disks.collect::<Result<Vec<_>>>()?;
                return Ok((files, manifest, disks));
            }
        }
    }
    let members = parts::in_order(members);
    let problems = parts::problems(&members);
    if !problems.is_empty() {
        return Err(Error::refused(format!(
            "the capture lies in several parts, and they are not complete: {}",
            problems.join("; ")
        ))
        .advise("Name the stores of all parts, in any order"));
    }
    whole(captures, &members)
}

/// The disk of a record that lies over an earlier capture; `None` if it lies in one image.
fn over(files: &dyn CaptureFiles, record: &DiskRecord) -> Result<Option<Pieces>> {
    if record.since.is_none() {
        return Ok(None);
    }
    Pieces::new(chain::whole(files, record)?).map(Some)
}

impl Pieces {
    fn new(disk: Merged) -> Result<Self> {
        let bytes = disk.layers().iter().map(|layer| layer.file().size().0);
        let bytes = bytes.fold(0, u64::saturating_add);
        Ok(Self { disk, bytes })
    }
}

/// All parts, which are complete, as one capture.
fn whole<'a>(captures: &'a [Box<dyn CaptureFiles>], members: &[Member]) -> Result<Read<'a>> {
    let named = |name: &str| {
        let mut captures = captures.iter().map(AsRef::as_ref);
        captures.find(|files| files.name() == name)
    };
    let first = members
        .first()
        .and_then(|first| Some((first, named(&first.name)?)));
    let Some((first, files)) = first else {
        return Err(Error::corrupt("a capture of no parts"));
    };
    let mut manifest = first.manifest.clone();
    manifest.disks.clear();
    let mut disks = Vec::new();
    for disk in &first.part().disks {
        let mut layers = Vec::new();
        let mut all: Option<DiskRecord> = None;
        let mut chunks = ChunkList::default();
        let mut extents = ExtentList::new();
        for member in members {
            let mut records = member.manifest.disks.iter();
            let Some(record) = records.find(|record| record.file == disk.file) else {
                continue;
            };
            let Some(files) = named(&member.name) else {
                continue;
            };
            if record.since.is_some() {
                return Err(Error::new(
                    Kind::Unsupported,
                    "a part of a capture that lies over an earlier one",
                )
                .on(member.name.clone()));
            }
            layers.push(chain::layer(files, record)?);
            for (index, digest) in record.chunks.iter() {
                chunks.push(index, digest)?;
            }
            extents = extents.union(&record.extents);
            all.get_or_insert_with(|| record.clone());
        }
        let Some(mut record) = all else {
            return Err(Error::corrupt(format!("no part has {}", disk.file)));
        };
        let merged = Merged::new(layers, chunks.clone(), record.chunk_bytes)?;
        (record.chunks, record.extents, record.range) = (chunks, extents, None);
        manifest.disks.push(record);
        disks.push(Some(Pieces::new(merged)?));
    }
    Ok((files, manifest, disks))
}
