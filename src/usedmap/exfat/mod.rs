//! exFAT: the clusters in use, from the allocation bitmap.
//!
//! In: a volume. Out: its used bytes, or the reason why they are not to be trusted. All that lies
//! before the first cluster is taken. The bitmap is found through the root directory, and must call
//! the clusters used in which it lies itself, and those of the root directory and the up-case table
//! (Microsoft, "exFAT file system specification", 1.00, sections 6 and 7).

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

mod boot;
mod chain;

use super::bitmap;
use super::collect::RunCollector;
use super::finding::{Filesystem, Mapped, Refusal, UsedBytes};
use super::region::State;
use crate::bytes::{read_u8, read_u16le, read_u32le, read_u64le};
use crate::device::ReadAt;
use crate::extent::{Extent, ExtentList};
use crate::units::ByteLen;
use boot::Boot;
use chain::{Run, follow, read_chain};

/// An entry of a directory.
const ENTRY: usize = 32;
/// The most that a directory may have.
const MAX_DIRECTORY: u64 = 256 << 20;
/// The most that the up-case table has, and eight times that: two bytes for each of 65,536 letters.
const MAX_UP_CASE: u64 = 1 << 20;
/// Bytes of a directory or a bitmap that are read at once: whole entries.
const PIECE: u64 = 1 << 20;
const ALLOCATION_BITMAP: u8 = 0x81;
const UP_CASE_TABLE: u8 = 0x82;
const VOLUME_LABEL: u8 = 0x83;

/// Reads what a volume with the signature of exFAT holds.
pub(super) fn look(volume: &dyn ReadAt) -> Filesystem {
    let boot = match Boot::read(volume) {
        Ok(boot) => boot,
        Err(refusal) => return Filesystem::refused(refusal),
    };
    let serial = boot.serial;
    let mut filesystem = Filesystem {
        name: None,
        label: None,
        uuid: Some(format!("{:04X}-{:04X}", serial >> 16, serial & 0xFFFF)),
        used_if_clean: None,
        verdict: Err(Refusal::Unsupported(String::new())),
    };
    filesystem.verdict = examine(volume, &boot, &mut filesystem);
    filesystem
}

fn examine(
    volume: &dyn ReadAt,
    boot: &Boot,
    filesystem: &mut Filesystem,
) -> Result<Mapped, Refusal> {
    let most = MAX_DIRECTORY.div_ceil(boot.cluster_size);
    let root = follow(volume, boot, boot.root_cluster, most, "the root directory")?;
    let entries = RootEntries::read(volume, boot, &root)?;
    filesystem.label.clone_from(&entries.label);
    let bitmap = entries.bitmap.ok_or_else(|| {
        Refusal::Damaged("the root directory has no entry for the allocation bitmap".into())
    })?;
    let bitmap_most = boot
        .clusters
        .div_ceil(8)
        .saturating_add(boot.cluster_size.saturating_mul(2));
    let bitmap_runs = bitmap.follow(volume, boot, bitmap_most, "the allocation bitmap")?;
    let used = read_bitmap(volume, boot, &bitmap, &bitmap_runs)?;
    let heap_end = boot.cluster_at(boot.clusters.saturating_add(2));
    let fixed: ExtentList = [
        Extent::between(0, boot.heap_at),
        Extent::between(heap_end, boot.size),
    ]
    .into_iter()
    .flatten()
    .collect();
    let extents = used.union(&fixed);
    filesystem.used_if_clean = Some(extents.total());

    boot.refuse_unless_clean()?;
    let up_case = entries.up_case.ok_or_else(|| {
        Refusal::Damaged("the root directory has no entry for the up-case table".into())
    })?;
    let up_case_runs = up_case.follow(volume, boot, MAX_UP_CASE, "the up-case table")?;
    for (what, runs) in [
        ("the root directory", &root),
        ("the allocation bitmap", &bitmap_runs),
        ("the up-case table", &up_case_runs),
    ] {
        let own: ExtentList = runs
            .iter()
            .filter_map(|run| {
                let end = run.first.saturating_add(run.clusters);
                Extent::between(boot.cluster_at(run.first), boot.cluster_at(end))
            })
            .collect();
        if !own.subtract(&used).is_empty() {
            return Err(Refusal::Damaged(format!(
                "the allocation bitmap calls clusters of {what} free (let chkdsk or fsck.exfat \
                 repair it for a smaller copy)"
            )));
        }
    }
    Ok(Mapped {
        state: State::Clean,
        reason: "clean: the clusters that its allocation bitmap calls used are taken".into(),
        used: UsedBytes {
            covers: ByteLen(boot.size),
            extents,
        },
    })
}

/// Where a system file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    first_cluster: u64,
    /// Bytes.
    length: u64,
}

impl Place {
    fn of(entry: &[u8]) -> Self {
        Self {
            first_cluster: u64::from(read_u32le(entry, 0x14)),
            length: read_u64le(entry, 0x18),
        }
    }

    /// Its clusters, which must be as many as its length needs. More than `most` bytes are damage: a
    /// chain that bites its tail shall end soon.
    fn follow(
        &self,
        volume: &dyn ReadAt,
        boot: &Boot,
        most: u64,
        what: &str,
    ) -> Result<Vec<Run>, Refusal> {
        let needed = self.length.div_ceil(boot.cluster_size);
        if self.length > most {
            return Err(Refusal::Damaged(format!(
                "{what} has {} bytes, more than it can have (let chkdsk or fsck.exfat repair it for \
                 a smaller copy)",
                self.length
            )));
        }
        let runs = follow(volume, boot, self.first_cluster, needed, what)?;
        let clusters = runs
            .iter()
            .fold(0_u64, |sum, run| sum.saturating_add(run.clusters));
        if clusters != needed {
            return Err(Refusal::Damaged(format!(
                "{what} has {clusters} clusters and should have {needed} (let chkdsk or fsck.exfat \
                 repair it for a smaller copy)"
            )));
        }
        Ok(runs)
    }
}

/// The entries of the root directory that stand for no file.
#[derive(Debug, Default)]
struct RootEntries {
    bitmap: Option<Place>,
    up_case: Option<Place>,
    label: Option<String>,
}

impl RootEntries {
    fn read(volume: &dyn ReadAt, boot: &Boot, root: &[Run]) -> Result<Self, Refusal> {
        let mut found = Self::default();
        let mut at = 0_u64;
        loop {
            let bytes = read_chain(volume, boot, root, at, PIECE, "the root directory")?;
            if bytes.is_empty() {
                return Ok(found);
            }
            for entry in bytes.chunks_exact(ENTRY) {
                match read_u8(entry, 0x00) {
                    0 => return Ok(found),
                    // Bit 0 of its flags is for the second bitmap, which only TexFAT has.
                    ALLOCATION_BITMAP if read_u8(entry, 0x01) & 1 == 0 => {
                        let other = found.bitmap.replace(Place::of(entry));
                        if other.is_some() {
                            return Err(Refusal::Damaged(
                                "the root directory has two entries for the allocation bitmap"
                                    .into(),
                            ));
                        }
                    }
                    UP_CASE_TABLE => found.up_case = Some(Place::of(entry)),
                    VOLUME_LABEL => found.label = label(entry),
                    _ => {}
                }
            }
            at = at.saturating_add(PIECE);
        }
    }
}

/// Up to 11 characters in UTF-16.
fn label(entry: &[u8]) -> Option<String> {
    let count = usize::from(read_u8(entry, 0x01)).min(11);
    let units: Vec<u16> = entry
        .get(0x02..)
        .unwrap_or_default()
        .chunks_exact(2)
        .take(count)
        .map(|unit| read_u16le(unit, 0))
        .collect();
    (!units.is_empty()).then(|| String::from_utf16_lossy(&units))
}

/// The bytes in use of the cluster heap.
fn read_bitmap(
    volume: &dyn ReadAt,
    boot: &Boot,
    place: &Place,
    clusters: &[Run],
) -> Result<ExtentList, Refusal> {
    let needed = boot.clusters.div_ceil(8);
    if place.length < needed {
        return Err(Refusal::Damaged(format!(
            "the allocation bitmap has {} bytes for {} clusters",
            place.length, boot.clusters
        )));
    }
    let mut runs = RunCollector::new();
    let mut at = 0_u64;
    while at < needed {
        let piece = PIECE.min(needed.saturating_sub(at));
        let what = "the allocation bitmap";
        let bits = read_chain(volume, boot, clusters, at, piece, what)?;
        if u64::try_from(bits.len()) != Ok(piece) {
            return Err(Refusal::Damaged("the allocation bitmap ends early".into()));
        }
        let first = at.saturating_mul(8);
        let count = piece
            .saturating_mul(8)
            .min(boot.clusters.saturating_sub(first));
        for (from, to) in bitmap::runs(&bits, count) {
            let number = |nth: u64| first.saturating_add(nth).saturating_add(2);
            let start = boot.cluster_at(number(from));
            if let Some(run) = Extent::between(start, boot.cluster_at(number(to))) {
                runs.push(run);
            }
        }
        at = at.saturating_add(piece);
    }
    Ok(runs.finish())
}
