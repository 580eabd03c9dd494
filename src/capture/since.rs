//! A second pass: only what changed since an earlier capture is stored, in images over those of that
//! capture. In: which capture is meant, the store, the disks. Out: for each disk what the earlier
//! capture has of it, proven as far as its manifest goes, or a refusal before anything is written.

use super::copy::chunks_of;
use crate::device::{Disk, DiskIdentity, ReadAt};
use crate::error::{Error, Kind, Result};
use crate::extent::{Extent, ExtentList};
use crate::inventory::Machine;
use crate::qcow2::{CLUSTER_BYTES, Encoded, Encoder, is_zero};
use crate::store::chain::{self, LONGEST};
use crate::store::layout::{self, PARTIAL};
use crate::store::manifest::{MANIFEST, SUMS};
use crate::store::{
    CHUNK_BYTES, CaptureFiles, Digest, DirFiles, DiskRecord, Manifest, Merged, Since,
};
use crate::units::ByteLen;
use sha2::Digest as _;
use std::fs;
use std::path::{Path, PathBuf};

/// The word for the newest whole capture of the machine.
pub const LAST: &str = "last";

/// The largest `machine.json` and [`SUMS`] that are read.
const SMALL: ByteLen = ByteLen(64 << 20);

/// What an earlier capture has of a disk.
pub struct Earlier {
    /// How the later image refers to it.
    pub since: Since,
    disk: Merged,
}

impl std::fmt::Debug for Earlier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.since.fmt(f)
    }
}

impl Earlier {
    /// What has to be looked at: what is in use now, and what was not zero then.
    pub fn wanted(&self, used: &ExtentList) -> ExtentList {
        let then = self.disk.chunks().iter();
        let then: ExtentList = then
            .filter_map(|(index, _)| self.disk.range(index))
            .collect();
        used.union(&then)
    }

    /// Whether a chunk is what it was.
    pub fn is_same(&self, place: Extent, digest: Option<Digest>) -> bool {
        self.disk.chunks().get(index(place)) == digest
    }

    /// What has to be stored of a chunk so that it reads as `bytes`, whose digest is `digest`: only
    /// the clusters that changed. Where the earlier capture cannot be read or is damaged, all of
    /// them, and `damaged` is told why.
    pub fn changes(
        &self,
        place: Extent,
        digest: Option<Digest>,
        bytes: &[u8],
        encoder: &mut Encoder,
        damaged: impl FnOnce(Error),
    ) -> Vec<Encoded> {
        if self.is_same(place, digest) {
            return Vec::new();
        }
        let mut then = vec![0; bytes.len()];
        let proven = match self.disk.chunks().get(index(place)) {
            // Of chunks of zeros the earlier images have nothing, as their proof said.
            None => Ok(()),
            Some(_) => self.disk.read_chunk(index(place), &mut then),
        };
        let proven = match proven {
            Ok(()) => true,
            Err(error) => {
                damaged(error);
                false
            }
        };
        let then = then.chunks(CLUSTER_BYTES);
        bytes
            .chunks(CLUSTER_BYTES)
            .zip(then)
            .map(|(now, then)| match encoder_input(now, then, proven) {
                Change::Same => Encoded::Zero,
                Change::Zeroed => Encoded::Zeroed,
                Change::New => encoder.encode(now),
            })
            .collect()
    }
}

/// What became of a cluster.
enum Change {
    Same,
    Zeroed,
    New,
}

fn encoder_input(now: &[u8], then: &[u8], proven: bool) -> Change {
    match (proven && now == then, is_zero(now)) {
        (true, _) => Change::Same,
        (false, true) => Change::Zeroed,
        (false, false) => Change::New,
    }
}

fn index(place: Extent) -> u64 {
    place.start().0 / CHUNK_BYTES
}

/// Where the capture that is gone on with was begun: over which capture.
pub type Begun = Option<Option<Since>>;

/// What is meant by `--since WORD`, or by an interrupted capture that was begun so; nothing without.
/// `name` is the machine's in the store, `begun` what the journal of an interrupted capture says.
///
/// # Errors
/// [`Kind::Refused`], with the reason.
pub fn find(
    store: &Path,
    machine: &Machine,
    name: &str,
    disks: &[Disk],
    word: Option<&str>,
    begun: &Begun,
) -> Result<Vec<Earlier>> {
    let folder = match (begun, word) {
        (None, None) | (Some(None), None) => return Ok(Vec::new()),
        (None, Some(word)) => folder_of(store, name, word)?,
        (Some(None), Some(_)) => {
            return Err(Error::refused(
                "the interrupted capture was begun without --since, and stores everything",
            )
            .advise("Go on with it without --since, or capture anew without --resume"));
        }
        (Some(Some(since)), word) => {
            let folder = folder_of(store, name, &since.capture)?;
            let other = word.filter(|word| *word != LAST);
            if other.is_some_and(|word| folder_of(store, name, word).ok().as_ref() != Some(&folder))
            {
                return Err(Error::refused(format!(
                    "the interrupted capture was begun with --since {}",
                    since.capture
                ))
                .advise("Go on with it without --since, or capture anew without --resume"));
            }
            folder
        }
    };
    let earlier = Whole::read(folder)?;
    earlier.refuse_other_machine(machine)?;
    if let Some(Some(since)) = begun
        && since.manifest_sha256 != earlier.manifest_sha256
    {
        return Err(Error::refused(format!(
            "the capture {} is not what it was when the interrupted one was begun over it",
            since.capture
        ))
        .advise("Capture anew, without --resume"));
    }
    disks.iter().map(|disk| earlier.of(disk)).collect()
}

/// The directory of the capture that is meant.
fn folder_of(store: &Path, name: &str, word: &str) -> Result<PathBuf> {
    let opening = |path: &Path, e| Error::io(format!("finding {}", path.display()), e);
    let store = fs::canonicalize(store).map_err(|e| opening(store, e).into_kind(Kind::Refused))?;
    let machine = layout::sanitise(name)
        .ok_or_else(|| Error::refused(format!("{name:?} cannot name a machine")))?;
    let own = store.join(&machine);
    if word == LAST {
        return newest(&own)?.ok_or_else(|| {
            Error::refused(format!(
                "--since {LAST}: there is no whole capture of {machine} in {}",
                store.display()
            ))
            .advise("Capture it without --since first")
        });
    }
    let places = [own.join(word), store.join(word), PathBuf::from(word)];
    let found = places.iter().find(|path| path.is_dir()).ok_or_else(|| {
        Error::refused(format!(
            "--since {word}: there is no such capture, neither of {machine} in {} nor at that \
                 path",
            store.display()
        ))
        .advise("haulier list shows the captures of a store")
    })?;
    let found = fs::canonicalize(found).map_err(|e| opening(found, e))?;
    if found.parent() == Some(&own) {
        return Ok(found);
    }
    if found.parent().and_then(Path::parent) == Some(&store) {
        let of = found.parent().and_then(Path::file_name).unwrap_or_default();
        return Err(Error::refused(format!(
            "--since {word}: that is a capture of {}, and this machine is called {machine}",
            of.to_string_lossy()
        ))
        .advise("If it is the same machine, give it that name with --name"));
    }
    Err(Error::refused(format!(
        "--since {word}: {} is not in the store {}, and a capture and what it builds on have to lie \
         on one medium",
        found.display(),
        store.display()
    ))
    .advise("Capture to the store of the earlier one, or copy that one here first"))
}

/// The newest whole capture in the directory of a machine.
fn newest(own: &Path) -> Result<Option<PathBuf>> {
    if !own.is_dir() {
        return Ok(None);
    }
    let mut names: Vec<String> = DirFiles::new(own)
        .list()?
        .into_iter()
        .filter(|entry| entry.is_dir && !entry.name.ends_with(PARTIAL))
        .map(|entry| entry.name)
        .filter(|name| own.join(name).join(MANIFEST).is_file())
        .collect();
    names.sort();
    Ok(names.pop().map(|name| own.join(name)))
}

/// A whole capture, as far as its small files go.
struct Whole {
    files: DirFiles,
    name: String,
    manifest: Manifest,
    manifest_sha256: Digest,
    machine: Machine,
}

impl Whole {
    /// Reads its small files and holds them against their digests.
    fn read(folder: PathBuf) -> Result<Self> {
        let name = folder
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default();
        let files = DirFiles::new(folder);
        if name.ends_with(PARTIAL) || !files.path().join(MANIFEST).is_file() {
            return Err(Error::refused(format!(
                "--since: {} is not a finished capture",
                files.path().display()
            ))
            .advise("Only a finished one can be built on"));
        }
        let damaged = |what: &str| {
            Error::refused(format!("--since: the capture {name} is damaged: {what}"))
                .advise("Run haulier verify on it, and capture without --since")
        };
        let (manifest, json) =
            Manifest::read(&files).map_err(|e| damaged("its manifest").because(e))?;
        let sums = files
            .read_small(SUMS, SMALL)
            .map_err(|e| damaged(SUMS).because(e))?;
        if sums != manifest.sums(&json).as_bytes() {
            return Err(damaged(&format!(
                "{MANIFEST} and {SUMS} contradict each other"
            )));
        }
        if manifest.part.is_some() {
            return Err(Error::refused(format!(
                "--since: the capture {name} is a part of one on several media, and cannot be built \
                 on"
            ))
            .advise("Capture without --since"));
        }
        let recorded = manifest
            .files
            .iter()
            .find(|file| file.name == layout::MACHINE);
        let text = files
            .read_small(layout::MACHINE, SMALL)
            .map_err(|e| damaged(layout::MACHINE).because(e))?;
        if recorded.map(|file| file.sha256) != Some(Digest(sha2::Sha256::digest(&text).into())) {
            return Err(damaged(&format!(
                "{} is not what its manifest says",
                layout::MACHINE
            )));
        }
        let machine = Machine::from_json(&text).map_err(|e| damaged(layout::MACHINE).because(e))?;
        Ok(Self {
            files,
            name,
            manifest_sha256: Digest(sha2::Sha256::digest(&json).into()),
            manifest,
            machine,
        })
    }

    fn refuse_other_machine(&self, machine: &Machine) -> Result<()> {
        let (then, now) = (&self.machine.smbios.uuid, &machine.smbios.uuid);
        if let (Some(then), Some(now)) = (then, now)
            && then != now
        {
            return Err(Error::refused(format!(
                "--since: the capture {} is of another machine: its UUID is {then}, that of this one \
                 is {now}",
                self.name
            ))
            .advise("Capture without --since"));
        }
        Ok(())
    }

    /// What it has of a disk.
    fn of(&self, disk: &Disk) -> Result<Earlier> {
        let record = self.record_of(disk.identity())?;
        if record.chunk_bytes != CHUNK_BYTES {
            return Err(Error::refused(format!(
                "--since: the capture {} has digests of {} bytes each, and this program compares \
                 {CHUNK_BYTES}",
                self.name, record.chunk_bytes
            ))
            .advise("Capture without --since"));
        }
        let refuse = |e: Error| {
            Error::refused(format!(
                "--since: what the capture {} has of {} cannot be built on",
                self.name,
                disk.identity().describe()
            ))
            .because(e)
        };
        let below = chain::below(&self.files, record).map_err(refuse)?;
        // With this one and the one that is to come.
        if below.len().saturating_add(2) > LONGEST {
            return Err(Error::refused(format!(
                "--since: the capture {} and those that it builds on are {} already, and {LONGEST} is \
                 the most",
                self.name,
                below.len().saturating_add(1)
            ))
            .advise("Capture without --since, or since an earlier one"));
        }
        Ok(Earlier {
            since: Since {
                capture: self.name.clone(),
                manifest_sha256: self.manifest_sha256,
                file: record.file.clone(),
            },
            disk: chain::whole(&self.files, record).map_err(refuse)?,
        })
    }

    /// Its record of a disk, which may have another path by now.
    fn record_of(&self, now: &DiskIdentity) -> Result<&DiskRecord> {
        let names = |d: &DiskIdentity| (d.model.clone(), d.serial.clone(), d.wwn.clone());
        let size = |d: &DiskIdentity| (d.size_bytes, d.logical_sector_bytes);
        let named: Vec<&DiskRecord> = self
            .manifest
            .disks
            .iter()
            .filter(|record| names(&record.source) == names(now))
            .collect();
        let mut same: Vec<&DiskRecord> = named
            .iter()
            .copied()
            .filter(|record| size(&record.source) == size(now))
            .collect();
        if same.len() > 1 {
            same.retain(|record| record.source.path == now.path);
        }
        if let [record] = same[..] {
            return Ok(record);
        }
        let what = match named[..] {
            [] => format!("does not have {}", now.describe()),
            [other] => format!(
                "has {}, which has {} bytes in sectors of {} now",
                other.source.describe(),
                now.size_bytes,
                now.logical_sector_bytes.bytes()
            ),
            _ => format!(
                "has several disks, and none can be told to be {}",
                now.describe()
            ),
        };
        Err(
            Error::refused(format!("--since: the capture {} {what}", self.name))
                .advise("Capture that disk without --since"),
        )
    }
}

/// Of how many of the chunks that would be looked at, and of how many of them what was not the same:
/// some, spread evenly.
///
/// # Errors
/// When the disk is gone.
pub(super) fn sample(
    disk: &Disk,
    used: &ExtentList,
    earlier: &Earlier,
    most: usize,
) -> Result<(u64, u64)> {
    let wanted = earlier.wanted(used);
    let chunks: Vec<Extent> = chunks_of(&wanted, disk.size()).collect();
    let step = chunks.len().div_ceil(most).max(1);
    let reader = super::read::ChunkReader::new(disk, used, disk.identity().logical_sector_bytes);
    let (mut looked, mut changed) = (0_u64, 0_u64);
    let mut bytes = vec![0; usize::try_from(CHUNK_BYTES).unwrap_or(0)];
    for place in chunks.into_iter().step_by(step) {
        let len = usize::try_from(place.len().0).unwrap_or(0);
        let Some(bytes) = bytes.get_mut(..len) else {
            continue;
        };
        looked = looked.saturating_add(1);
        let same = match reader.fill(place, bytes) {
            Ok(_) => earlier.is_same(place, crate::store::chunk_digest(bytes)),
            Err(error) if error.kind() == Kind::Io => false,
            Err(error) => return Err(error),
        };
        changed = changed.saturating_add(u64::from(!same));
    }
    Ok((looked, changed))
}
