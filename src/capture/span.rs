//! A capture over several media: what does not fit on one goes on on the next, as a part of its own.
//! In: the stores in their order, and what an interrupted run left in them. Out: where the next part
//! begins, and what it says of those before it.

use super::copy::chunks_of;
use super::journal;
use crate::device::DiskIdentity;
use crate::error::{Error, Kind, Result};
use crate::extent::{Extent, ExtentList};
use crate::store::layout;
use crate::store::parts::{EarlierPart, Part, PartDisk, held};
use crate::store::{CaptureDir, Digest, DirFiles, DiskRecord, Manifest};
use crate::units::ByteLen;
use serde::{Deserialize, Serialize};
use sha2::Digest as _;
use std::path::{Path, PathBuf};

/// A directory that captures go to.
#[derive(Debug, Clone)]
pub struct Store {
    /// Where it is.
    pub path: PathBuf,
    /// How people know the medium that it is on.
    pub medium: String,
}

impl Store {
    /// A store whose medium has no other name than its path.
    pub fn at(path: PathBuf) -> Self {
        let medium = path.display().to_string();
        Self { path, medium }
    }
}

/// Who is asked for a further store when all that were named are full.
pub trait More: std::fmt::Debug {
    /// Whether to begin a capture that does not fit, for the reason `why`: about `missing` too much.
    ///
    /// # Errors
    /// When nobody can be asked, or there is nothing to ask for.
    fn begin(&self, why: &str, missing: ByteLen) -> Result<bool>;

    /// The next store, when `parts` are whole, with at least `least` free; none, if there is none. The
    /// stores of those parts are not used any more.
    ///
    /// # Errors
    /// When nobody can be asked.
    fn next(&self, parts: u32, least: ByteLen) -> Result<Option<Store>>;
}

/// Where a part begins, and what came before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    /// The same in all parts.
    set: String,
    /// Of this part, from 1 on.
    pub number: u32,
    /// The number of the disk that it begins with …
    pub disk: usize,
    /// … and the byte of that.
    pub byte: u64,
    /// All disks.
    disks: Vec<PartDisk>,
    /// The parts before.
    earlier: Vec<EarlierPart>,
}

/// What a store has already of a part that is to go there.
#[derive(Debug)]
pub enum There {
    /// Nothing.
    Nothing,
    /// An interrupted run's piece of it.
    Interrupted(CaptureDir),
    /// All of it: its manifest, the bytes of that, and where it is.
    Whole(Box<(Manifest, Vec<u8>, PathBuf)>),
}

/// Where a run begins.
#[derive(Debug)]
pub struct Start {
    /// The number of the store; one more than there are, if somebody has to be asked for it.
    pub store: usize,
    /// The capture that is gone on with.
    pub interrupted: Option<CaptureDir>,
    /// The part.
    pub span: Span,
    /// What the part before holds, if the run was interrupted right behind it.
    pub before: Vec<DiskRecord>,
}

impl Span {
    /// The first part, which may remain the only one.
    fn first() -> Self {
        Self {
            set: uuid::Uuid::new_v4().simple().to_string(),
            number: 1,
            disk: 0,
            byte: 0,
            disks: Vec::new(),
            earlier: Vec::new(),
        }
    }

    /// The first part, in the first store.
    pub fn start() -> Start {
        Start {
            store: 0,
            interrupted: None,
            span: Self::first(),
            before: Vec::new(),
        }
    }

    /// What an interrupted run left of a machine in the stores; nothing if it left nothing. `asked`
    /// if somebody will be asked for a further store.
    ///
    /// # Errors
    /// When they cannot be read, or no store is left to go on in.
    pub fn resume(stores: &[Store], name: &str, asked: bool) -> Result<Option<Start>> {
        for (number, store) in stores.iter().enumerate() {
            if let Some(interrupted) = CaptureDir::interrupted(&store.path, name)? {
                let span = interrupted.part()?.unwrap_or_else(Self::first);
                return Ok(Some(Start {
                    store: number,
                    interrupted: Some(interrupted),
                    span,
                    before: Vec::new(),
                }));
            }
        }
        // Or between two parts.
        let newest = stores
            .iter()
            .map(|store| newest(&store.path, name))
            .collect::<Result<Vec<_>>>()?;
        let parts = || {
            newest
                .iter()
                .flatten()
                .filter_map(|(m, _, _)| m.part.as_ref())
        };
        for (number, store) in stores.iter().enumerate().rev() {
            let Some(Some((manifest, json, folder))) = newest.get(number) else {
                continue;
            };
            let Some(part) = manifest.part.as_ref().filter(|part| !part.last) else {
                continue;
            };
            // Or it was gone on with, and ended.
            if parts().any(|other| other.set == part.set && other.number > part.number) {
                continue;
            }
            let next = number.saturating_add(1);
            if next >= stores.len() && !asked {
                return Err(Error::refused(format!(
                    "the capture of {name} goes on behind part {} on {}, and no other store is named",
                    part.number, store.medium
                ))
                .advise("Name the next one with one more --to"));
            }
            let span = Self {
                set: part.set.clone(),
                number: part.number,
                disk: 0,
                byte: 0,
                disks: part.disks.clone(),
                earlier: part.earlier.clone(),
            };
            return Ok(Some(Start {
                store: next,
                interrupted: None,
                span: span.after(manifest, json, &store.medium, folder),
                before: manifest.disks.clone(),
            }));
        }
        Ok(None)
    }

    /// What a further store has of this part already.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn there(&self, store: &Path, name: &str) -> Result<There> {
        if let Some(interrupted) = CaptureDir::interrupted(store, name)?
            && let Some(other) = interrupted.part::<Self>()?
            && (&other.set, other.number) == (&self.set, self.number)
        {
            return Ok(There::Interrupted(interrupted));
        }
        let whole = newest(store, name)?.filter(|(manifest, _, _)| {
            let part = manifest.part.as_ref();
            part.is_some_and(|part| (&part.set, part.number) == (&self.set, self.number))
        });
        Ok(whole.map_or(There::Nothing, |whole| There::Whole(Box::new(whole))))
    }

    /// Takes over which disks are captured, or refuses others than those of the parts before.
    ///
    /// # Errors
    /// [`Kind::Refused`], with the reason.
    pub fn set_disks<'a>(
        &mut self,
        disks: impl Iterator<Item = (&'a DiskIdentity, &'a ExtentList)>,
    ) -> Result<()> {
        let disks: Vec<PartDisk> = disks
            .enumerate()
            .map(|(number, (source, used))| PartDisk {
                file: layout::disk_file(number),
                source: source.clone(),
                used: journal::digest_of(used),
            })
            .collect();
        if self.number == 1 {
            self.disks = disks;
            return Ok(());
        }
        let facts = |disk: &PartDisk| {
            let d = disk.source.clone();
            (
                d.model,
                d.serial,
                d.wwn,
                d.size_bytes,
                d.logical_sector_bytes,
            )
        };
        for number in 0..disks.len().max(self.disks.len()) {
            let (now, then) = (disks.get(number), self.disks.get(number));
            if now.map(facts) != then.map(facts) {
                let name = |disk: Option<&PartDisk>| {
                    disk.map_or("none".to_owned(), |disk| disk.source.describe())
                };
                return Err(Error::refused(format!(
                    "disk {number} of the parts before is {}, not {}",
                    name(then),
                    name(now)
                ))
                .advise(
                    "Name the same disks in the same order, or capture anew without --resume",
                ));
            }
            if now.map(|disk| disk.used) != then.map(|disk| disk.used) {
                let name = now.map_or_else(String::new, |disk| disk.source.describe());
                return Err(Error::refused(format!(
                    "{name} was written to since the parts before: what is in use of it changed"
                ))
                .advise("Capture anew, without --resume"));
            }
        }
        Ok(())
    }

    /// The byte of a disk with which this part begins.
    pub fn begin(&self, disk: usize) -> u64 {
        if disk == self.disk { self.byte } else { 0 }
    }

    /// What is left of the disk that it begins with, of which `used` is in use; none if all is.
    pub fn rest(&self, used: &ExtentList) -> Option<ExtentList> {
        (self.byte > 0).then(|| within(used, self.byte, u64::MAX))
    }

    /// What the manifest says of this part; nothing of a capture that has only one.
    pub fn part(&self, last: bool) -> Option<Part> {
        (!last || self.number > 1).then(|| Part {
            set: self.set.clone(),
            number: self.number,
            last,
            disks: self.disks.clone(),
            earlier: self.earlier.clone(),
        })
    }

    /// The part behind this one, which has become whole at `folder`.
    pub fn after(&self, manifest: &Manifest, json: &[u8], medium: &str, folder: &Path) -> Self {
        let ranges = held(manifest);
        let name = folder.file_name().unwrap_or_default().to_string_lossy();
        let (mut disk, mut byte) = (self.disk, self.byte);
        if let Some(last) = ranges.last() {
            let same = |disk: &PartDisk| disk.file == last.file;
            disk = self.disks.iter().position(same).unwrap_or(disk);
            byte = last.end;
            let size = self.disks.get(disk).map(|disk| disk.source.size_bytes);
            if size.is_none_or(|size| byte >= size) {
                (disk, byte) = (disk.saturating_add(1), 0);
            }
        }
        let mut earlier = self.earlier.clone();
        earlier.push(EarlierPart {
            number: self.number,
            medium: medium.to_owned(),
            capture: format!("{}/{name}", manifest.machine),
            manifest_sha256: Digest(sha2::Sha256::digest(json).into()),
            ranges,
        });
        Self {
            set: self.set.clone(),
            number: self.number.saturating_add(1),
            disk,
            byte,
            disks: self.disks.clone(),
            earlier,
        }
    }
}

/// The extents between two bytes of a disk.
pub fn within(used: &ExtentList, from: u64, to: u64) -> ExtentList {
    let window = Extent::between(from, to);
    window.map_or_else(ExtentList::new, |window| used.within(window).collect())
}

/// The number of the part with which the newest whole capture of a machine in a store ends, where it
/// goes on elsewhere; nothing if it does not.
///
/// # Errors
/// When the store cannot be read.
pub fn goes_on_elsewhere(store: &Path, name: &str) -> Result<Option<u32>> {
    let part = newest(store, name)?.and_then(|(manifest, _, _)| manifest.part);
    Ok(part.filter(|part| !part.last).map(|part| part.number))
}

/// What is kept free on a medium for the log, and for the regions of the manifest.
const KEPT_BYTES: u64 = 4 << 20;

/// A part that holds less than that is not worth another medium.
const WORTH_BYTES: u64 = 32 << 20;

/// What a chunk takes in the manifest (its digest), and in the journal besides (its clusters).
const MANIFEST_BYTES: u64 = 70;
const JOURNAL_BYTES: u64 = 700;

/// What an extent takes in the manifest, at the most.
const EXTENT_BYTES: u64 = 48;

/// How large an image may become on a medium with `free` bytes. Kept free is what the manifest will
/// say of `disks`, the last of which is that of the image, and what the journal of that will.
pub fn limit<'a>(free: ByteLen, disks: impl Iterator<Item = (&'a ExtentList, ByteLen)>) -> ByteLen {
    let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
    let (mut kept, mut journal) = (KEPT_BYTES, 0);
    for (used, size) in disks {
        let chunks = count(chunks_of(used, size).count());
        journal = chunks.saturating_mul(JOURNAL_BYTES);
        kept = kept
            .saturating_add(chunks.saturating_mul(MANIFEST_BYTES))
            .saturating_add(count(used.len()).saturating_mul(EXTENT_BYTES));
    }
    ByteLen(free.0.saturating_sub(kept).saturating_sub(journal))
}

/// How much a medium must have free to be worth its while for a part of `disk`, of which there is so
/// much in use.
pub fn least(disk: Option<(&ExtentList, ByteLen)>) -> ByteLen {
    let kept = u64::MAX.saturating_sub(limit(ByteLen(u64::MAX), disk.into_iter()).0);
    ByteLen(kept.saturating_add(WORTH_BYTES))
}

/// The newest whole capture of a machine.
fn newest(store: &Path, name: &str) -> Result<Option<(Manifest, Vec<u8>, PathBuf)>> {
    let Some(machine) = layout::sanitise(name) else {
        return Ok(None);
    };
    let Some(folder) = layout::newest_whole(&store.join(machine))? else {
        return Ok(None);
    };
    match Manifest::read(&DirFiles::new(&folder)) {
        Ok((manifest, json)) => Ok(Some((manifest, json, folder))),
        // A damaged one is nothing to go on with.
        Err(error) if error.kind() == Kind::Corrupt => Ok(None),
        Err(error) => Err(error),
    }
}
