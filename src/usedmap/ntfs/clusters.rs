//! Which clusters are in use: $Bitmap (record 6), a bit a cluster, and as a cross-check every run of
//! every file record in use.
//!
//! $Bitmap alone is not enough: it was seen without clusters that files use (ntfs-3g, pull request
//! 40). The other way round, clusters that no file uses but $Bitmap has (seen with Windows 11), is
//! harmless: they are taken.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use super::mft::Mft;
use super::record::{BITMAP, DATA, FILE_NAME, Record, record_number};
use super::stream::Stream;
use crate::bytes::{has_magic, read_u8, read_u16le, read_u64le};
use crate::extent::{Extent, ExtentList};
use crate::usedmap::bitmap;
use crate::usedmap::collect::RunCollector;
use crate::usedmap::finding::Refusal;

const MFT: u64 = 0;
const ROOT: u64 = 5;
const BITMAP_FILE: u64 = 6;
/// Records 12 to 23 are reserved: marked as used or not, with content or not.
const RESERVED: std::ops::Range<u64> = 12..24;
/// Bytes of a bitmap or of file records that are read at once.
const PIECE: u64 = 2 << 20;
/// Whatever is hibernated is in one file; more of that name (by letter case) are asked too.
const MAX_HIBERNATED: usize = 16;

/// What $Bitmap calls used.
pub(super) struct Used {
    /// Runs, in bytes of the volume. Where there are very many, small gaps are taken too.
    pub extents: ExtentList,
    /// How many clusters exactly.
    pub clusters: u64,
}

/// Reads $Bitmap, piece by piece. Bits behind the last cluster mean nothing.
pub(super) fn read_bitmap(mft: &Mft<'_>) -> Result<Used, Refusal> {
    let mut block = mft.block(BITMAP_FILE)?;
    let record = block.record()?;
    let what = "the cluster bitmap";
    let stream = mft
        .attribute(&record, DATA, &[])?
        .ok_or_else(|| Refusal::Damaged("the cluster bitmap is gone".into()))?;
    let boot = mft.boot;
    let bytes = boot.clusters.div_ceil(8);
    if stream.initialized() < bytes {
        return Err(Refusal::Damaged(format!(
            "the cluster bitmap has {} bytes for {} clusters (run chkdsk /f in Windows for a \
             smaller copy)",
            stream.initialized(),
            boot.clusters
        )));
    }
    let mut runs = RunCollector::new();
    let mut used = 0_u64;
    let mut at = 0_u64;
    while at < bytes {
        let piece = PIECE.min(bytes.saturating_sub(at));
        let mut bits = vec![0; usize::try_from(piece).unwrap_or(0)];
        stream.read(mft.volume, boot, at, &mut bits, what)?;
        let first = at.saturating_mul(8);
        let count = piece
            .saturating_mul(8)
            .min(boot.clusters.saturating_sub(first));
        for (from, to) in bitmap::runs(&bits, count) {
            used = used.saturating_add(to.saturating_sub(from));
            let run = boot.bytes_of(first.saturating_add(from), first.saturating_add(to));
            if let Some(run) = run {
                runs.push(run);
            }
        }
        at = at.saturating_add(piece);
    }
    Ok(Used {
        extents: runs.finish(),
        clusters: used,
    })
}

/// What the file records say beside $Bitmap.
pub(super) struct CrossCheck {
    /// Bytes of clusters that files use and $Bitmap calls free.
    pub missing: ExtentList,
    /// Base records of files with the name of the hibernation file, in the root directory.
    pub hibernation_files: Vec<u64>,
}

/// Walks over all file records in use.
pub(super) fn cross_check(mft: &Mft<'_>, used: &ExtentList) -> Result<CrossCheck, Refusal> {
    let mut block = mft.block(MFT)?;
    let record = block.record()?;
    let bits = mft
        .attribute(&record, BITMAP, &[])?
        .ok_or_else(|| Refusal::Damaged("the bitmap of its file records is gone".into()))?;
    let mut walk = Walk {
        mft,
        used,
        missing: RunCollector::new(),
        hibernation_files: Vec::new(),
        clusters: 0,
    };
    // A piece of whole records, a multiple of 8 of them, so that it begins with a byte of the bitmap.
    let record_size = u64::try_from(mft.boot.record_size).unwrap_or(u64::MAX);
    let at_once = (PIECE / 8)
        .checked_div(record_size)
        .unwrap_or(1)
        .max(1)
        .saturating_mul(8);
    let mut first = 0_u64;
    while first < mft.records() {
        let count = at_once.min(mft.records().saturating_sub(first));
        walk.piece(first, count, &bits)?;
        first = first.saturating_add(count);
    }
    Ok(CrossCheck {
        missing: walk.missing.finish(),
        hibernation_files: walk.hibernation_files,
    })
}

struct Walk<'a> {
    mft: &'a Mft<'a>,
    used: &'a ExtentList,
    missing: RunCollector,
    hibernation_files: Vec<u64>,
    /// Of all runs so far.
    clusters: u64,
}

impl Walk<'_> {
    fn piece(&mut self, first: u64, count: u64, bits: &Stream) -> Result<(), Refusal> {
        let count = usize::try_from(count).unwrap_or(0);
        let mft = self.mft;
        let mut blocks = vec![0; count.saturating_mul(mft.boot.record_size)];
        mft.read(first, &mut blocks)?;
        let bits_at = first >> 3;
        let bits_len = u64::try_from(count.div_ceil(8)).unwrap_or(0);
        // Records that the bitmap does not reach are not in use.
        let bits_len = bits_len.min(bits.size().saturating_sub(bits_at));
        let mut in_use = vec![0; usize::try_from(bits_len).unwrap_or(0)];
        let what = "the bitmap of file records";
        bits.read(mft.volume, mft.boot, bits_at, &mut in_use, what)?;
        let marked = |nth: usize| {
            let bit = u32::try_from(nth & 7).unwrap_or(0);
            in_use
                .get(nth >> 3)
                .is_some_and(|byte| byte.wrapping_shr(bit) & 1 == 1)
        };
        let blocks = blocks.chunks_exact_mut(mft.boot.record_size);
        for ((number, nth), block) in (first..).zip(0_usize..).zip(blocks) {
            let baad = has_magic(block, 0, b"BAAD");
            match Record::parse(number, block) {
                Some(record) if record.is_in_use() => self.record(&record)?,
                Some(_) => {}
                None if marked(nth) && (baad || !RESERVED.contains(&number)) => {
                    return Err(Refusal::Damaged(format!(
                        "file record {number} is in use, but it is not one or was written in part \
                         (run chkdsk /f in Windows for a smaller copy)"
                    )));
                }
                None => {}
            }
        }
        Ok(())
    }

    /// A record in use: all its runs, and whether it is the hibernation file.
    fn record(&mut self, record: &Record<'_>) -> Result<(), Refusal> {
        let boot = self.mft.boot;
        for attribute in record.attributes() {
            let attribute = attribute?;
            if attribute.kind() == FILE_NAME && !attribute.is_non_resident() {
                if is_hibernation_file(attribute.value()?)
                    && self.hibernation_files.len() < MAX_HIBERNATED
                    && !self.hibernation_files.contains(&record.base())
                {
                    self.hibernation_files.push(record.base());
                }
            } else if attribute.is_non_resident() {
                for run in attribute.runs(boot.clusters)? {
                    let extent = run
                        .lcn
                        .and_then(|lcn| boot.bytes_of(lcn, lcn.saturating_add(run.clusters)));
                    let Some(extent) = extent else { continue };
                    // Clusters belong to one file; where many have several owners, looking at all
                    // of them would take for ever.
                    self.clusters = self.clusters.saturating_add(run.clusters);
                    if self.clusters > boot.clusters.saturating_mul(2) {
                        return Err(Refusal::Damaged(
                            "its files have more clusters than there are (run chkdsk /f in Windows \
                             for a smaller copy)"
                                .into(),
                        ));
                    }
                    self.check(extent);
                }
            }
        }
        Ok(())
    }

    /// Keeps what of a run is not in $Bitmap.
    fn check(&mut self, run: Extent) {
        let mut at = run.start().0;
        for known in self.used.within(run) {
            if let Some(gap) = Extent::between(at, known.start().0) {
                self.missing.push(gap);
            }
            at = known.end();
        }
        if let Some(gap) = Extent::between(at, run.end()) {
            self.missing.push(gap);
        }
    }
}

/// Whether a $FILE_NAME is that of \hiberfil.sys.
fn is_hibernation_file(file_name: &[u8]) -> bool {
    const NAME: &[u8] = b"hiberfil.sys";
    let parent = record_number(read_u64le(file_name, 0x00));
    let len = usize::from(read_u8(file_name, 0x40));
    parent == ROOT
        && len == NAME.len()
        && file_name.get(0x42..).is_some_and(|name| {
            name.chunks_exact(2)
                .map(|unit| read_u16le(unit, 0))
                .zip(NAME)
                .all(|(unit, &byte)| {
                    u8::try_from(unit).is_ok_and(|unit| unit.eq_ignore_ascii_case(&byte))
                })
        })
}

/// Refuses a volume on which Windows is hibernated.
pub(super) fn refuse_hibernated(mft: &Mft<'_>, check: &CrossCheck) -> Result<(), Refusal> {
    for &number in &check.hibernation_files {
        let mut block = mft.block(number)?;
        let record = block.record()?;
        let Some(stream) = mft.attribute(&record, DATA, &[])? else {
            continue;
        };
        let len = usize::try_from(stream.size().min(4096)).unwrap_or(0);
        let mut head = vec![0; len];
        // A file that was only reserved reads as zeros, whatever is in its clusters.
        let written = usize::try_from(stream.initialized()).unwrap_or(usize::MAX);
        if let Some(head) = head.get_mut(..written.min(len)) {
            stream.read(mft.volume, mft.boot, 0, head, "the hibernation file")?;
        }
        // "wake": it has been resumed from. All zero: there is nothing in it.
        let resumed = head
            .first_chunk::<4>()
            .is_some_and(|magic| magic.eq_ignore_ascii_case(b"wake"));
        if len == 0 || resumed || head.iter().all(|&byte| byte == 0) {
            continue;
        }
        return Err(Refusal::Dirty(
            "Windows is hibernated or Fast Startup is on (boot Windows once and run shutdown /s \
             /t 0 for a smaller copy)"
                .into(),
        ));
    }
    Ok(())
}
