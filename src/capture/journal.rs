//! The journal of an image: what was appended to it, up to each checkpoint, so that an interrupted
//! capture goes on from the last one. Lines of JSON behind their CRC-32, in
//! `<capture>.journal/disk-0.journal` beside `<capture>.partial/`; a line that was cut short, and
//! all behind it, counts for nothing.
//!
//! The first line says whose image it is, each other one what came until a checkpoint.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use crate::device::DiskIdentity;
use crate::error::{Error, Kind, Result};
use crate::extent::ExtentList;
use crate::qcow2::Compression;
use crate::store::{Digest, Since};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

/// The only version there is.
const VERSION: u32 = 1;

/// The longest line that is read, in bytes: a checkpoint of clusters that are all 9 bytes long.
const LONGEST: u64 = 256 << 20;

/// Whose image it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    version: u32,
    /// The disk.
    pub source: DiskIdentity,
    /// BLAKE3 of its used map.
    used: Digest,
    /// How clusters are compressed.
    pub compression: Compression,
    /// When the capture began.
    started: String,
    /// The image below, of an earlier capture.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Since>,
}

/// What came until a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// The number, among the chunks that are read, of the next one.
    pub next: u64,
    /// Where the image ends.
    pub end: u64,
    /// How many bytes of the disk are dealt with.
    pub read: u64,
    /// The chunks, in the order in which they were appended.
    pub chunks: Vec<ChunkNote>,
}

/// A chunk of the disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunkNote {
    /// Its number on the disk.
    pub index: u64,
    /// What became of it.
    #[serde(flatten)]
    pub what: What,
}

/// What became of a chunk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "kebab-case")]
pub enum What {
    /// It was stored.
    Stored(Stored),
    /// Part of it could not be read: it is tried again at the end.
    Deferred,
    /// It was tried again, and stored.
    Late(Stored),
}

/// How a chunk was stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stored {
    /// Its digest; nothing if it is all zeros.
    pub blake3: Option<Digest>,
    /// The length of each of its clusters in the image, in bytes: 0 for zeros and for what
    /// the image below holds, 1 for zeros over it, 65,536 for plain.
    pub clusters: Vec<u32>,
    /// What of it could not be read, and is zero: first byte on the disk and length.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bad: Vec<(u64, u64)>,
}

impl Head {
    /// Of the image of a disk, of which `used` is read, in a capture that began at `started`.
    pub fn new(
        source: &DiskIdentity,
        used: &ExtentList,
        compression: Compression,
        started: jiff::Timestamp,
    ) -> Self {
        Self {
            version: VERSION,
            source: source.clone(),
            used: digest_of(used),
            compression,
            started: started.to_string(),
            since: None,
        }
    }

    /// The file below the image.
    pub fn backing(&self) -> Option<String> {
        self.since.as_ref().map(Since::backing)
    }

    /// The same, of an image over that of an earlier capture.
    #[must_use]
    pub fn since(mut self, since: Option<Since>) -> Self {
        self.since = since;
        self
    }

    /// When the capture began.
    ///
    /// # Errors
    /// When that is not a time.
    pub fn started(&self) -> Result<jiff::Timestamp> {
        self.started
            .parse()
            .map_err(|e| Error::corrupt("reading the time of a journal").because(e))
    }

    /// Refuses another disk than the one whose image was begun, or one that was written to since, or
    /// another earlier capture below it.
    ///
    /// # Errors
    /// [`Kind::Refused`], with what differs.
    pub fn refuse_other(
        &self,
        source: &DiskIdentity,
        used: &ExtentList,
        since: Option<&Since>,
    ) -> Result<()> {
        let begun = &self.source;
        // The path may be another after a restart.
        let facts = |d: &DiskIdentity| {
            (
                d.model.clone(),
                d.serial.clone(),
                d.wwn.clone(),
                d.size_bytes,
                d.logical_sector_bytes,
            )
        };
        if facts(begun) != facts(source) {
            return Err(Error::refused(format!(
                "the interrupted capture is of {}, not of {}",
                begun.describe(),
                source.describe()
            ))
            .advise(
                "Name the disks in the same order as before, or capture anew without --resume",
            ));
        }
        if self.since.as_ref() != since {
            let of = |since: Option<&Since>| {
                since.map_or("no earlier capture".into(), |since| since.backing())
            };
            return Err(Error::refused(format!(
                "the image of {} was begun over {}, not over {}",
                source.describe(),
                of(self.since.as_ref()),
                of(since)
            ))
            .advise("Capture anew, without --resume"));
        }
        if self.used != digest_of(used) {
            return Err(Error::refused(format!(
                "{} was written to since its capture was interrupted: what is in use of it changed",
                source.describe()
            ))
            .advise("Capture anew, without --resume"));
        }
        Ok(())
    }
}

/// BLAKE3 of the extents.
pub(super) fn digest_of(used: &ExtentList) -> Digest {
    let mut hasher = blake3::Hasher::new();
    for extent in used.iter() {
        hasher.update(&extent.start().0.to_le_bytes());
        hasher.update(&extent.len().0.to_le_bytes());
    }
    Digest(*hasher.finalize().as_bytes())
}

/// A line of the journal.
///
/// # Errors
/// When the path of a disk is not UTF-8.
pub fn line(content: &impl Serialize) -> Result<Vec<u8>> {
    let json = serde_json::to_vec(content)
        .map_err(|e| Error::new(Kind::Unsupported, "writing a journal").because(e))?;
    let mut line = format!("{:08x} ", crc32fast::hash(&json)).into_bytes();
    line.extend(json);
    line.push(b'\n');
    Ok(line)
}

/// Reads a journal: its head, and each note in turn. Returns how many of its bytes were whole lines;
/// `None` if not even the head is.
///
/// # Errors
/// When it cannot be read, is of another version, or `each` fails.
pub fn read(
    path: &Path,
    mut each: impl FnMut(&Head, Note) -> Result<()>,
) -> Result<Option<(Head, u64)>> {
    let reading = |e| Error::io(format!("reading {}", path.display()), e);
    let mut lines = BufReader::new(File::open(path).map_err(reading)?);
    let mut head: Option<Head> = None;
    let mut whole = 0_u64;
    loop {
        let mut text = Vec::new();
        let length = std::io::Read::take(&mut lines, LONGEST)
            .read_until(b'\n', &mut text)
            .map_err(reading)?;
        let Some(json) = checked(&text) else {
            return Ok(head.map(|head| (head, whole)));
        };
        let corrupt = |e| Error::corrupt(format!("reading {}", path.display())).because(e);
        match &head {
            None => {
                let first: Head = serde_json::from_slice(json).map_err(corrupt)?;
                if first.version != VERSION {
                    return Err(Error::refused(format!(
                        "the journal of the interrupted capture has version {}, this program \
                         reads version {VERSION}",
                        first.version
                    ))
                    .advise("Go on with the program that began, or capture anew"));
                }
                head = Some(first);
            }
            Some(head) => each(head, serde_json::from_slice(json).map_err(corrupt)?)?,
        }
        whole = whole.saturating_add(u64::try_from(length).unwrap_or(0));
    }
}

/// The JSON of a line that is whole.
fn checked(line: &[u8]) -> Option<&[u8]> {
    let line = line.strip_suffix(b"\n")?;
    let (crc, json) = line.split_at_checked(9)?;
    let crc = std::str::from_utf8(crc.strip_suffix(b" ")?).ok()?;
    (u32::from_str_radix(crc, 16).ok()? == crc32fast::hash(json)).then_some(json)
}

#[cfg(test)]
#[allow(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]
mod tests {
    use super::*;
    use crate::extent::Extent;
    use crate::units::SectorSize;
    use std::path::PathBuf;

    fn identity(serial: &str) -> DiskIdentity {
        DiskIdentity {
            path: PathBuf::from("/dev/sda"),
            model: Some("M".into()),
            serial: Some(serial.into()),
            wwn: None,
            size_bytes: 1 << 30,
            logical_sector_bytes: SectorSize::B512,
            physical_sector_bytes: SectorSize::B512,
        }
    }

    fn used(end: u64) -> ExtentList {
        ExtentList::from_iter(Extent::between(0, end))
    }

    fn note(next: u64) -> Note {
        let stored = Stored {
            blake3: Some(Digest([7; 32])),
            clusters: vec![0, 65_536, 1234],
            bad: vec![(512, 512)],
        };
        Note {
            next,
            end: 1 << 20,
            read: 99,
            chunks: vec![
                ChunkNote {
                    index: 3,
                    what: What::Stored(stored.clone()),
                },
                ChunkNote {
                    index: 4,
                    what: What::Deferred,
                },
                ChunkNote {
                    index: 4,
                    what: What::Late(stored),
                },
            ],
        }
    }

    #[test]
    fn a_journal_that_was_cut_anywhere_gives_back_its_whole_lines() {
        let head = Head::new(
            &identity("A"),
            &used(4096),
            Compression::Zstd,
            jiff::Timestamp::UNIX_EPOCH,
        );
        let lines = [
            line(&head).unwrap(),
            line(&note(1)).unwrap(),
            line(&note(2)).unwrap(),
        ];
        let all = lines.concat();
        let file = tempfile::NamedTempFile::new().unwrap();
        for cut in 0..=all.len() {
            std::fs::write(file.path(), &all[..cut]).unwrap();
            let mut notes = Vec::new();
            let found = read(file.path(), |_, note| {
                notes.push(note);
                Ok(())
            })
            .unwrap();
            let ends: Vec<usize> = (1..=3).map(|n| lines[..n].concat().len()).collect();
            let whole = ends.iter().filter(|end| **end <= cut).count();
            assert_eq!(notes.len(), whole.saturating_sub(1), "{cut}");
            assert_eq!(
                found,
                (whole > 0).then(|| (head.clone(), ends[whole - 1] as u64))
            );
            for (number, found) in notes.iter().enumerate() {
                assert_eq!(*found, note(number as u64 + 1));
            }
        }
    }

    #[test]
    fn a_flipped_bit_ends_the_journal_before_its_line() {
        let head = Head::new(
            &identity("A"),
            &used(4096),
            Compression::Zstd,
            jiff::Timestamp::UNIX_EPOCH,
        );
        let (first, second) = (line(&head).unwrap(), line(&note(1)).unwrap());
        let file = tempfile::NamedTempFile::new().unwrap();
        for bit in (0..second.len() * 8).step_by(5) {
            let mut damaged = [first.clone(), second.clone()].concat();
            damaged[first.len() + bit / 8] ^= 1 << (bit % 8);
            std::fs::write(file.path(), &damaged).unwrap();
            let mut notes = 0;
            let found = read(file.path(), |_, _| {
                notes += 1;
                Ok(())
            });
            assert!(found.unwrap().is_some());
            assert_eq!(notes, 0, "bit {bit}");
        }
    }

    #[test]
    fn another_disk_or_another_map_is_refused_and_another_path_is_not() {
        let head = Head::new(
            &identity("A"),
            &used(4096),
            Compression::Zstd,
            jiff::Timestamp::UNIX_EPOCH,
        );
        let mut moved = identity("A");
        moved.path = "/dev/sdb".into();
        head.refuse_other(&moved, &used(4096), None).unwrap();
        for (disk, end) in [("B", 4096), ("A", 8192)] {
            let error = head
                .refuse_other(&identity(disk), &used(end), None)
                .unwrap_err();
            assert_eq!(error.kind(), Kind::Refused);
        }
        let since = |capture: &str| Since {
            capture: capture.into(),
            manifest_sha256: Digest([1; 32]),
            file: "disk-0.qcow2".into(),
        };
        let over = head.clone().since(Some(since("1")));
        let same = |head: &Head, since| head.refuse_other(&identity("A"), &used(4096), since);
        let (first, second) = (since("1"), since("2"));
        same(&over, Some(&first)).unwrap();
        for (head, since) in [(&over, None), (&over, Some(&second)), (&head, Some(&first))] {
            assert_eq!(same(head, since).unwrap_err().kind(), Kind::Refused);
        }
    }
}
