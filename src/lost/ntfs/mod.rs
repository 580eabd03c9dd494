//! NTFS: whose clusters were lost.
//!
//! In: a volume, and which of its bytes were lost. Out: what lay there. The master file table is gone
//! through for the runs that were hit (from its copy on, if its first record is lost); names are in
//! the records themselves, and for records that are lost in the indexes of directories.
//!
//! `names` is from a record's number to its path, `index` the entries of a directory.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

pub(crate) mod index;
mod names;

use super::claims::{Claims, Owner};
use super::loss::What;
use crate::device::ReadAt;
use crate::extent::{Extent, ExtentList};
use crate::refusal::Refusal;
use crate::usedmap::bitmap;
use crate::usedmap::ntfs::boot::Boot;
use crate::usedmap::ntfs::mft::Mft;
use crate::usedmap::ntfs::record::{
    ATTRIBUTE_LIST, Attribute, BITMAP, DATA, INDEX_ALLOCATION, Record,
};

const MFT: u64 = 0;
const ROOT: u64 = 5;
const BITMAP_FILE: u64 = 6;
const BAD_CLUSTERS: u64 = 8;
/// Records below are files of the filesystem itself.
const FIRST_USER: u64 = 16;
const SYSTEM: [&str; 12] = [
    "$MFT, the master file table",
    "$MFTMirr, the copy of its first records",
    "$LogFile, the journal",
    "$Volume",
    "$AttrDef",
    "root directory",
    "$Bitmap, the bitmap of clusters",
    "$Boot",
    "$BadClus",
    "$Secure",
    "$UpCase",
    "$Extend",
];
/// Bytes of the table, or of the bitmap of clusters, that are read at once.
const AT_ONCE: u64 = 1 << 20;
/// Gaps that are told.
const MAX_GAPS: usize = 8;

/// What lay in `lost`.
pub(super) fn name(volume: &dyn ReadAt, lost: &ExtentList) -> Vec<(Extent, What)> {
    let boot = match Boot::read(volume) {
        Ok(boot) => boot,
        Err(refusal) => return unusable(lost, "the boot sector", &refusal),
    };
    let first = Mft::open(volume, &boot);
    let from_copy = Boot {
        mft_lcn: boot.mftmirr_lcn,
        ..boot
    };
    match first.or_else(|_| Mft::open(volume, &from_copy)) {
        Ok(mft) => Walk::new(&mft, lost).run(),
        Err(refusal) => unusable(lost, "the master file table", &refusal),
    }
}

fn unusable(lost: &ExtentList, what: &str, refusal: &Refusal) -> Vec<(Extent, What)> {
    let why = What::unknown(format!("{what} cannot be used: {refusal}"));
    super::all(lost, &why)
}

/// Calls `each` for every record in use that can be read; how many cannot.
fn each_record(mft: &Mft<'_>, each: &mut dyn FnMut(&Record<'_>)) -> u64 {
    let size = mft.boot.record_size;
    let record_bytes = u64::try_from(size).unwrap_or(u64::MAX);
    let at_once = AT_ONCE.checked_div(record_bytes).unwrap_or(1).max(1);
    let mut damaged = 0_u64;
    let mut first = 0;
    while first < mft.records() {
        let count = at_once.min(mft.records().saturating_sub(first));
        let len = usize::try_from(count).unwrap_or(0).saturating_mul(size);
        let mut bytes = vec![0; len];
        let together = mft.read(first, &mut bytes).is_ok();
        for (number, block) in (first..).zip(bytes.chunks_exact_mut(size)) {
            if !together && mft.read(number, block).is_err() {
                damaged = damaged.saturating_add(1);
                continue;
            }
            // What was never used need not be a record; one that was torn says so.
            let torn = block.starts_with(b"BAAD") || block.starts_with(b"FILE");
            match Record::parse(number, block) {
                Some(record) if record.is_in_use() => each(&record),
                None if torn => damaged = damaged.saturating_add(1),
                Some(_) | None => {}
            }
        }
        first = first.saturating_add(count);
    }
    damaged
}

struct Walk<'a> {
    mft: &'a Mft<'a>,
    claims: Claims<'a>,
    /// What could not be looked at, for people.
    gaps: Vec<String>,
}

/// What a whole stream says, of which a piece was hit.
#[derive(Debug, Clone, Copy)]
struct Stream {
    size: u64,
    initialized: u64,
    /// Bytes that are compressed together.
    unit: Option<u64>,
}

impl<'a> Walk<'a> {
    fn new(mft: &'a Mft<'a>, lost: &'a ExtentList) -> Self {
        Self {
            mft,
            claims: Claims::new(lost),
            gaps: Vec::new(),
        }
    }

    fn run(mut self) -> Vec<(Extent, What)> {
        let mft = self.mft;
        let damaged = each_record(mft, &mut |record| self.record(record));
        if damaged > 0 {
            self.gap(format!("{damaged} records of the master file table"));
        }
        self.rest();
        let names = names::find(mft, &self.claims.wanted());
        self.claims.into_words(&names)
    }

    fn gap(&mut self, why: String) {
        if self.gaps.len() < MAX_GAPS {
            self.gaps.push(why);
        }
    }

    fn record(&mut self, record: &Record<'_>) {
        for attribute in record.attributes() {
            let Ok(attribute) = attribute else {
                return self.gap(format!("attributes of file record {}", record.number()));
            };
            if !attribute.is_non_resident() {
                continue;
            }
            let Ok(runs) = attribute.runs(self.mft.boot.clusters) else {
                self.gap(format!("runs of file record {}", record.number()));
                continue;
            };
            let mut stream = None;
            for run in runs {
                let extent = run.lcn.and_then(|lcn| {
                    self.mft
                        .boot
                        .bytes_of(lcn, lcn.saturating_add(run.clusters))
                });
                if let Some(extent) = extent
                    && self.claims.touches(extent)
                {
                    let whole = *stream.get_or_insert_with(|| self.whole(record, &attribute));
                    let at = run.vcn.saturating_mul(self.mft.boot.cluster_size);
                    self.hit(record.base(), &attribute, whole, extent, at);
                }
            }
        }
    }

    /// What is said of a stream in its first piece only.
    fn whole(&self, record: &Record<'_>, piece: &Attribute<'_>) -> Stream {
        let cluster_size = self.mft.boot.cluster_size;
        let of_first = |first: &Attribute<'_>| Stream {
            size: first.data_size(),
            initialized: first.initialized_size(),
            unit: first
                .compressed_clusters()
                .map(|clusters| clusters.saturating_mul(cluster_size)),
        };
        if piece.lowest_vcn() == 0 {
            return of_first(piece);
        }
        // Not to be found, it is as long as its runs.
        let unknown = Stream {
            size: u64::MAX,
            initialized: u64::MAX,
            unit: None,
        };
        let first = || -> Option<Stream> {
            let mut block = self.mft.block(record.base()).ok()?;
            let base = block.record().ok()?;
            let (kind, name) = (piece.kind(), piece.name());
            if let Ok(Some(first)) = base.attribute(kind, name, 0) {
                return Some(of_first(&first));
            }
            for entry in self.mft.entries(&base, kind, name).ok()?? {
                let mut block = self.mft.block(entry.record).ok()?;
                let record = block.record().ok()?;
                if let Ok(Some(first)) = record.attribute(kind, name, 0) {
                    return Some(of_first(&first));
                }
            }
            None
        };
        first().unwrap_or(unknown)
    }

    /// Lost bytes lie in a run of a file's attribute that starts at byte `at` of it.
    fn hit(
        &mut self,
        base: u64,
        attribute: &Attribute<'_>,
        stream: Stream,
        extent: Extent,
        at: u64,
    ) {
        let kind = attribute.kind();
        let place = |part: Extent| {
            let skip = part.start().0.saturating_sub(extent.start().0);
            at.saturating_add(skip)
        };
        if base == MFT && kind == DATA {
            let record_size = u64::try_from(self.mft.boot.record_size).unwrap_or(u64::MAX);
            let records = self.mft.records();
            return self.claims.claim(Some(extent), |part| {
                let from = place(part);
                let to = from.saturating_add(part.len().0);
                let first = from.checked_div(record_size).unwrap_or(0);
                let last = to.div_ceil(record_size.max(1));
                Owner::Inodes {
                    which: "$MFT, the master file table".into(),
                    inodes: first.min(records)..last.min(records),
                }
            });
        }
        if base == BAD_CLUSTERS {
            let what = What::outside("a cluster that the filesystem itself lists as bad");
            return self.claims.nobody(Some(extent), &what);
        }
        if base < FIRST_USER && base != ROOT {
            let name = usize::try_from(base).ok().and_then(|n| SYSTEM.get(n));
            let what = What::metadata(*name.unwrap_or(&"a file of the filesystem itself"));
            return self.claims.nobody(Some(extent), &what);
        }
        let what = match kind {
            DATA => {
                let name = attribute.name();
                let stream_name = (!name.is_empty()).then(|| names::text(name));
                return self.claims.claim(Some(extent), |part| {
                    content(base, stream, stream_name.clone(), place(part), part.len().0)
                });
            }
            INDEX_ALLOCATION => {
                return self.claims.claim(Some(extent), |_| Owner::Directory(base));
            }
            BITMAP => "bitmap of the index",
            ATTRIBUTE_LIST => "list of the attributes",
            _ => "attributes",
        };
        self.claims
            .claim(Some(extent), |_| Owner::About { inode: base, what });
    }

    /// What no file has.
    fn rest(&mut self) {
        let boot = self.mft.boot;
        for place in boot.fixed_places(self.mft.volume.size().0) {
            let unclaimed = self.claims.unclaimed();
            for part in unclaimed.within(place) {
                self.claims
                    .nobody(Some(part), &What::metadata("boot sector or its copy"));
            }
        }
        let owner = if self.claims.overflowed() {
            What::too_much()
        } else if self.gaps.is_empty() {
            What::outside("in use by what $Bitmap says, but by no file")
        } else {
            What::unknown(format!(
                "no file that could be looked at has it; what could not: {}",
                self.gaps.join("; ")
            ))
        };
        let unclaimed = self.claims.unclaimed();
        let end = boot.clusters.saturating_mul(boot.cluster_size);
        for extent in unclaimed.iter() {
            if let Some(behind) = Extent::between(extent.start().0.max(end), extent.end()) {
                let what = What::outside("behind the end of the filesystem");
                self.claims.nobody(Some(behind), &what);
            }
            let mut start = extent.start().0;
            let until = extent.end().min(end);
            // As much as one piece of the bitmap says.
            let step = boot.cluster_size.saturating_mul(AT_ONCE).saturating_mul(8);
            while let Some(part) = Extent::between(start, until.min(start.saturating_add(step))) {
                let here: ExtentList = [part].into_iter().collect();
                match self.used_in(part) {
                    Some(used) => {
                        for free in here.subtract(&used).iter() {
                            self.claims.nobody(Some(free), &What::FreeSpace);
                        }
                        for used in here.intersect(&used).iter() {
                            self.claims.nobody(Some(used), &owner);
                        }
                    }
                    None if self.gaps.is_empty() && !self.claims.overflowed() => {
                        self.claims.nobody(Some(part), &What::outside("of no file"));
                    }
                    None => self.claims.nobody(Some(part), &owner),
                }
                start = part.end();
            }
        }
    }

    /// What $Bitmap calls used of an extent, in whole clusters.
    fn used_in(&self, extent: Extent) -> Option<ExtentList> {
        let boot = self.mft.boot;
        let mut block = self.mft.block(BITMAP_FILE).ok()?;
        let record = block.record().ok()?;
        let stream = self.mft.attribute(&record, DATA, &[]).ok()??;
        let first = extent.start().0.checked_div(boot.cluster_size)? & !7;
        let last = extent.end().div_ceil(boot.cluster_size).min(boot.clusters);
        let len = last.checked_sub(first)?.div_ceil(8);
        let mut bits = vec![0; usize::try_from(len).ok()?];
        stream
            .read(self.mft.volume, boot, first >> 3, &mut bits, "the bitmap")
            .ok()?;
        let runs = bitmap::runs(&bits, last.checked_sub(first)?);
        let extents = runs.filter_map(|(from, to)| {
            boot.bytes_of(first.saturating_add(from), first.saturating_add(to))
        });
        Some(extents.collect())
    }
}

/// `len` lost bytes from byte `at` of a stream on.
fn content(base: u64, stream: Stream, name: Option<String>, at: u64, len: u64) -> Owner {
    let mut offset = at;
    let mut end = at.saturating_add(len);
    if let Some(unit) = stream.unit {
        offset = at.checked_div(unit).unwrap_or(0).saturating_mul(unit);
        end = end.div_ceil(unit.max(1)).saturating_mul(unit);
    }
    let bytes = end.min(stream.size).saturating_sub(offset);
    if bytes == 0 {
        return Owner::Nobody(What::outside("behind the end of a file"));
    }
    if offset >= stream.initialized {
        return Owner::Nobody(What::outside("set aside for a file, but never written"));
    }
    Owner::Content {
        inode: base,
        offset,
        bytes,
        stream: name,
    }
}
