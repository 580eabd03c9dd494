//! Where the image of a disk is begun, and where an interrupted one is taken up again.

use super::image::Image;
use super::journal::{self, Head};
use super::read::ChunkReader;
use crate::device::{Disk, ReadAt};
use crate::error::{Error, Kind, Result};
use crate::extent::{Extent, ExtentList};
use crate::qcow2::{Compression, Writer};
use crate::store::append::{AppendFile, Taken};
use crate::store::tree::TreeDigest;
use crate::store::{CHUNK_BYTES, ChunkList, FileReader, Since, chunk_digest};
use crate::units::{ByteLen, ByteOffset};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

/// How many chunks are read again to see that the disk is still what it was.
const SAMPLES: usize = 24;

/// The files of a disk's image while it is written.
#[derive(Debug)]
pub struct Files {
    /// The image.
    pub image: PathBuf,
    /// Its journal.
    pub journal: PathBuf,
    /// How many pieces of the image may wait for the medium.
    pub pieces: usize,
}

/// An image to which chunks can be added.
pub struct Begun {
    /// The image.
    pub image: Image<AppendFile>,
    /// How much of it the medium has.
    pub taken: Taken,
    /// How its clusters are compressed.
    pub compression: Compression,
    /// Its digest, if it is taken while it is written.
    pub digest: Option<TreeDigest>,
}

/// Begins the image of a disk of `size` bytes in new files; `digested` if its digest is to be taken
/// while it is written.
///
/// # Errors
/// When they are there already, or cannot be made.
pub fn begin(files: &Files, head: &Head, size: ByteLen, digested: bool) -> Result<Begun> {
    let making = |path: &Path, e| Error::io(format!("making {}", path.display()), e);
    let new = |path: &Path| {
        let made = File::options().write(true).create_new(true).open(path);
        made.map_err(|e| making(path, e))
    };
    let line = journal::line(head)?;
    let mut journal = new(&files.journal)?;
    journal
        .write_all(&line)
        .and_then(|()| journal.sync_all())
        .map_err(|e| Error::io(format!("writing {}", files.journal.display()), e))?;
    new(&files.image)?;
    let mut storage = AppendFile::open(&files.image, ByteLen(0), Some(journal), files.pieces)?;
    let taken = storage.taken();
    let digest = digested.then(|| storage.digested());
    Ok(Begun {
        image: Image::new(Writer::create(storage, size, head.compression)?.over(head.backing())),
        taken,
        compression: head.compression,
        digest,
    })
}

/// The head of a journal; nothing if it has none yet.
///
/// # Errors
/// When it cannot be read.
pub fn head(journal: &Path) -> Result<Option<Head>> {
    if !journal.exists() {
        return Ok(None);
    }
    let found = journal::read(journal, |_, _| Ok(()))?;
    Ok(found.map(|(head, _)| head))
}

/// Forgets the last checkpoint of an image, if it has any, and cuts it at the one before: so there is
/// room to end it there.
///
/// # Errors
/// When it or its journal cannot be read or cut.
pub fn step_back(files: &Files) -> Result<()> {
    if !files.journal.exists() || !files.image.exists() {
        return Ok(());
    }
    let text = std::fs::read(&files.journal)
        .map_err(|e| Error::io(format!("reading {}", files.journal.display()), e))?;
    let mut notes = Vec::new();
    journal::read(&files.journal, |_, note| {
        notes.push(note.end);
        Ok(())
    })?;
    // The head and all notes but the last.
    let mut ends = text.iter().enumerate().filter(|(_, byte)| **byte == b'\n');
    let Some((line, _)) = notes.len().checked_sub(1).and_then(|kept| ends.nth(kept)) else {
        return Ok(());
    };
    let image_end = notes.len().checked_sub(2).and_then(|last| notes.get(last));
    let journal_end = u64::try_from(line.saturating_add(1)).unwrap_or(0);
    for (path, end) in [
        (&files.journal, journal_end),
        (&files.image, image_end.copied().unwrap_or(0)),
    ] {
        File::options()
            .write(true)
            .open(path)
            .and_then(|file| file.set_len(end).and_then(|()| file.sync_all()))
            .map_err(|e| Error::io(format!("cutting {}", path.display()), e))?;
    }
    Ok(())
}

/// Takes up the image of `disk` after its last checkpoint; `None` if it has none. The disk has to
/// be the one whose image was begun, over that of `since`, and to hold what it held.
///
/// # Errors
/// [`Kind::Refused`], with the reason, when it is not; and when something cannot be read.
pub fn go_on(
    files: &Files,
    disk: &Disk,
    used: &ExtentList,
    since: Option<&Since>,
) -> Result<Option<Begun>> {
    if !files.journal.exists() || !files.image.exists() {
        return Ok(None);
    }
    let identity = disk.identity();
    let mut end = None;
    let found = journal::read(&files.journal, |head, note| {
        // Before anything of the image is touched.
        head.refuse_other(identity, used, since)?;
        end = Some(note.end);
        Ok(())
    })?;
    let (Some((head, whole)), Some(end)) = (found, end) else {
        return Ok(None);
    };
    let lost = |what: String| {
        Error::refused(format!(
            "what was captured of {} cannot be gone on with: {what}",
            identity.describe()
        ))
        .advise("The medium did not keep what it was given. Capture anew, without --resume, and best onto another one")
    };
    let file = FileReader::open(&files.image)?;
    if file.size().0 < end {
        return Err(lost(format!(
            "the image has {} bytes and had {end} at its last checkpoint",
            file.size().0
        )));
    }
    let journal = File::options()
        .append(true)
        .open(&files.journal)
        .and_then(|journal| journal.set_len(whole).map(|()| journal))
        .map_err(|e| Error::io(format!("opening {}", files.journal.display()), e))?;
    let storage = AppendFile::open(&files.image, ByteLen(end), Some(journal), files.pieces)?;
    let taken = storage.taken();
    let size = ByteLen(identity.size_bytes);
    let writer = Writer::replay(storage, size, head.compression)?.over(head.backing());
    let mut image = Image::new(writer);
    journal::read(&files.journal, |_, note| image.again(note)).map_err(|e| {
        if e.kind() == Kind::Corrupt {
            lost(e.to_string())
        } else {
            e
        }
    })?;
    refuse_changed(disk, used, image.chunks())?;

    let tail = image.tail_bytes().0;
    let mut bytes = vec![0; usize::try_from(tail).unwrap_or(0)];
    let from = end.saturating_sub(tail);
    FileReader::open(&files.image)?.read_at(ByteOffset(from), &mut bytes)?;
    image.go_on(&bytes)?;
    Ok(Some(Begun {
        image,
        taken,
        compression: head.compression,
        // What is there already would have to be read.
        digest: None,
    }))
}

/// Reads some of the finished chunks again, the last one among them, and compares their digests.
///
/// # Errors
/// [`Kind::Refused`] when one has another digest.
pub(super) fn refuse_changed(disk: &Disk, used: &ExtentList, chunks: &ChunkList) -> Result<()> {
    let identity = disk.identity();
    let reader = ChunkReader::new(disk, used, identity.logical_sector_bytes);
    let step = chunks.len().div_ceil(SAMPLES).max(1);
    let last = chunks.len().saturating_sub(1);
    let samples = chunks
        .iter()
        .enumerate()
        .filter(|(number, _)| number % step == 0 || *number == last);
    for (_, (index, digest)) in samples {
        let start = index.saturating_mul(CHUNK_BYTES);
        let end = start.saturating_add(CHUNK_BYTES).min(disk.size().0);
        let Some(place) = Extent::between(start, end) else {
            continue;
        };
        let mut bytes = vec![0; usize::try_from(place.len().0).unwrap_or(0)];
        match reader.fill(place, &mut bytes) {
            Ok(_) if chunk_digest(&bytes) == Some(digest) => {}
            Ok(_) => {
                return Err(Error::refused(format!(
                    "{} was written to since its capture was interrupted: what lies from byte \
                     {start} on is not what was read then",
                    identity.describe()
                ))
                .advise("Capture anew, without --resume"));
            }
            // It was read once: that it cannot be read again is no reason to lose that.
            Err(error) if error.kind() == Kind::Io => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
