//! Captures that were made over earlier ones. In: a capture, and its record of a disk. Out: the
//! captures below it, each proven to be the one that the later one was made over, and the disk as all
//! of them together hold it.

use super::digest::Digest;
use super::files::CaptureFiles;
use super::layout::PARTIAL;
use super::manifest::{DiskRecord, Manifest, Since};
use super::merge::{Layer, Merged};
use crate::error::{Error, Kind, Result};
use crate::qcow2::Reader;
use crate::units::ByteLen;
use sha2::Digest as _;

/// How many images a disk may lie in. Each costs every later read of a cluster a look at its tables.
pub const LONGEST: usize = 16;

/// An earlier capture.
pub struct Below {
    /// Its files.
    pub files: Box<dyn CaptureFiles>,
    /// Its record of the disk.
    pub record: DiskRecord,
}

/// The captures that the image of `record` in `capture` was made over, the latest first.
///
/// # Errors
/// [`Kind::Mismatch`] when one is missing or is not the one that it was, with its name.
pub fn below(capture: &dyn CaptureFiles, record: &DiskRecord) -> Result<Vec<Below>> {
    let mut found: Vec<Below> = Vec::new();
    let mut next = record.since.clone();
    while let Some(since) = next {
        if found.len() >= LONGEST {
            return Err(Error::corrupt(format!(
                "{} builds on more than {LONGEST} earlier captures",
                record.file
            )));
        }
        let later: &dyn CaptureFiles = found.last().map_or(capture, |below| below.files.as_ref());
        let below = open(later, &since, record)?;
        next = below.record.since.clone();
        found.push(below);
    }
    Ok(found)
}

fn open(later: &dyn CaptureFiles, since: &Since, record: &DiskRecord) -> Result<Below> {
    let name = &since.capture;
    let wrong = |what: String| {
        Error::new(
            Kind::Mismatch,
            format!("the earlier capture {name} that it builds on {what}"),
        )
        .advise("It has to lie beside the later one, as it was: put it back")
    };
    if name.ends_with(PARTIAL) {
        return Err(wrong("was never finished".into()));
    }
    let files = later.sibling(name).map_err(|e| match e.kind() {
        Kind::Io => wrong("is missing".into()).because(e),
        _ => e,
    })?;
    let (manifest, json) = Manifest::read(files.as_ref())
        .map_err(|e| wrong("has no manifest that can be read".into()).because(e))?;
    if Digest(sha2::Sha256::digest(&json).into()) != since.manifest_sha256 {
        return Err(wrong(
            "is not the one of then: the digest of its manifest is another".into(),
        ));
    }
    let record = manifest
        .disks
        .into_iter()
        .find(|disk| {
            disk.file == since.file
                && disk.virtual_size_bytes == record.virtual_size_bytes
                && disk.chunk_bytes == record.chunk_bytes
        })
        .ok_or_else(|| wrong(format!("has no {} of such a disk", since.file)))?;
    Ok(Below { files, record })
}

/// The disk as the captures of `below`, the latest first, hold it.
///
/// # Errors
/// When an image is missing, or its header is not what the records say.
pub fn merged(below: &[Below]) -> Result<Merged> {
    let layers = below
        .iter()
        .map(|below| layer(below.files.as_ref(), &below.record))
        .collect::<Result<Vec<_>>>()?;
    let (chunks, chunk_bytes) = below.first().map_or_else(Default::default, |first| {
        (first.record.chunks.clone(), first.record.chunk_bytes)
    });
    Merged::new(layers, chunks, chunk_bytes)
}

/// The disk of `record` as `capture` and those below it hold it.
///
/// # Errors
/// As [`below`] and [`merged`].
pub fn whole(capture: &dyn CaptureFiles, record: &DiskRecord) -> Result<Merged> {
    let mut layers = vec![layer(capture, record)?];
    for below in below(capture, record)? {
        layers.push(layer(below.files.as_ref(), &below.record)?);
    }
    Merged::new(layers, record.chunks.clone(), record.chunk_bytes)
}

/// The image of a record; it may name no other file below it than the record does.
///
/// # Errors
/// When it is not what the record says.
pub fn layer(capture: &dyn CaptureFiles, record: &DiskRecord) -> Result<Layer> {
    let file = capture.open(&record.file)?;
    let mismatch = |what: &str, found: u64, expected: u64| {
        Error::new(
            Kind::Mismatch,
            format!(
                "{} {what} {found} bytes, the manifest says {expected}",
                record.file
            ),
        )
        .on(capture.name())
    };
    if file.size() != ByteLen(record.file_bytes) {
        return Err(mismatch("has", file.size().0, record.file_bytes));
    }
    let backing = record.since.as_ref().map(Since::backing);
    let reader = Reader::open_over(file, backing.as_deref())?;
    let size = reader.header().virtual_size;
    if size != ByteLen(record.virtual_size_bytes) {
        return Err(mismatch(
            "is of a disk of",
            size.0,
            record.virtual_size_bytes,
        ));
    }
    Ok(reader)
}
