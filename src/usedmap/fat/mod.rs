//! FAT12, FAT16 and FAT32: the clusters in use, from the file allocation table.
//!
//! In: a volume. Out: its used bytes, or the reason why they are not to be trusted. All that lies
//! before the first cluster is taken, so are the clusters that any copy of the table calls used. The
//! marks of a proper shutdown must be there; a FAT without them may have directory entries that lead
//! to clusters which the table calls free.
//!
//! The count of free clusters in the FSInfo sector is a hint that is often wrong: it is not asked.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

pub(crate) mod boot;
mod table;

use super::bitmap;
use super::collect::RunCollector;
use super::finding::{Filesystem, Mapped, Refusal, UsedBytes};
use super::region::State;
use crate::bytes::{read_text, read_u8};
use crate::device::ReadAt;
use crate::extent::Extent;
use crate::units::{ByteLen, ByteOffset};
use boot::{Boot, Kind};
use table::Table;

/// An entry of a directory.
pub(crate) const ENTRY: usize = 32;
/// Bytes of a root directory that are searched for the label.
const LABEL_SEARCH: u64 = 1 << 20;

/// The serial number as blkid writes it.
pub(crate) fn volume_id(boot: &Boot) -> Option<String> {
    let serial = boot.serial?;
    Some(format!("{:04X}-{:04X}", serial >> 16, serial & 0xFFFF))
}

/// Reads what a volume with the signature of FAT holds.
pub(super) fn look(volume: &dyn ReadAt) -> Filesystem {
    let boot = match Boot::read(volume) {
        Ok(boot) => boot,
        Err(refusal) => return Filesystem::refused(refusal),
    };
    let uuid = volume_id(&boot);
    let mut filesystem = Filesystem {
        name: Some(boot.kind.name().into()),
        label: label(volume, &boot),
        uuid,
        used_if_clean: None,
        verdict: Err(Refusal::Unsupported(String::new())),
    };
    filesystem.verdict = examine(volume, &boot, &mut filesystem.used_if_clean);
    filesystem
}

fn examine(
    volume: &dyn ReadAt,
    boot: &Boot,
    used_if_clean: &mut Option<ByteLen>,
) -> Result<Mapped, Refusal> {
    let table = Table::read(volume, boot, boot.active_fat)?;
    let mut runs = RunCollector::new();
    let clusters_end = boot.cluster_at(boot.clusters.saturating_add(2));
    // The metadata, and what is too short for a cluster behind the last one.
    let fixed = [
        Extent::between(0, boot.data_at),
        Extent::between(clusters_end, boot.size),
    ];
    for extent in fixed.into_iter().flatten() {
        runs.push(extent);
    }
    for (from, to) in bitmap::runs(&table.used, boot.clusters) {
        let start = boot.cluster_at(from.saturating_add(2));
        let end = boot.cluster_at(to.saturating_add(2));
        if let Some(extent) = Extent::between(start, end) {
            runs.push(extent);
        }
    }
    let extents = runs.finish();
    *used_if_clean = Some(extents.total());

    refuse_unless_clean(boot, &table)?;
    let root_is_lost = boot.kind == Kind::Fat32
        && !(boot.has_cluster(boot.root_cluster) && table.is_used(boot.root_cluster));
    if root_is_lost || table.leads_nowhere() {
        return Err(Refusal::Damaged(
            "the file allocation table leads to clusters that it calls free (let chkdsk or \
             fsck.fat repair it for a smaller copy)"
                .into(),
        ));
    }
    let (state, reason) = if table.differ && boot.mirrored {
        (
            State::Damaged,
            "damaged: the two copies of its file allocation table differ; what either calls used \
             is taken (let chkdsk or fsck.fat repair it)",
        )
    } else {
        (
            State::Clean,
            "clean: the clusters that its file allocation table calls used are taken",
        )
    };
    Ok(Mapped {
        state,
        reason: reason.into(),
        used: UsedBytes {
            covers: ByteLen(boot.size),
            extents,
        },
    })
}

/// The state is kept twice: by Windows in entry 1 of the table (a bit is set when all is well), by
/// Linux in the boot sector (a bit is set when something is not). FAT12 has only the second.
fn refuse_unless_clean(boot: &Boot, table: &Table) -> Result<(), Refusal> {
    let (shut_down, no_errors) = match boot.kind {
        Kind::Fat12 => (0, 0),
        Kind::Fat16 => (0x8000, 0x4000),
        Kind::Fat32 => (0x0800_0000, 0x0400_0000),
    };
    let missing = |bit: u32| table.state & bit != bit;
    if missing(shut_down) || boot.state & 0x01 != 0 {
        return Err(Refusal::Dirty(
            "it was not unmounted (boot the server once and power it off properly, or let chkdsk \
             or fsck.fat repair it, for a smaller copy)"
                .into(),
        ));
    }
    if missing(no_errors) || boot.state & 0x02 != 0 {
        return Err(Refusal::Dirty(
            "it has recorded read or write errors (let chkdsk or fsck.fat check it for a smaller \
             copy)"
                .into(),
        ));
    }
    Ok(())
}

/// The label in the root directory, or else that in the boot sector, which few systems keep up to
/// date. Only a name: what cannot be read is no label.
pub(crate) fn label(volume: &dyn ReadAt, boot: &Boot) -> Option<String> {
    let (at, len) = match boot.kind {
        Kind::Fat32 if boot.has_cluster(boot.root_cluster) => {
            (boot.cluster_at(boot.root_cluster), boot.cluster_size)
        }
        Kind::Fat32 => (0, 0),
        _ => (boot.data_at.saturating_sub(boot.root_size), boot.root_size),
    };
    let mut root = vec![0; usize::try_from(len.min(LABEL_SEARCH)).unwrap_or(0)];
    let readable = volume.read_at(ByteOffset(at), &mut root).is_ok();
    let in_root = root
        .chunks_exact(ENTRY)
        .filter(|_| readable)
        .take_while(|entry| read_u8(entry, 0x00) != 0)
        // The attribute of a label, without those that make a part of a long name.
        .find(|entry| read_u8(entry, 0x00) != 0xE5 && read_u8(entry, 0x0B) & 0x3F & !0x20 == 0x08)
        .and_then(trimmed);
    let in_boot = boot.label.and_then(|label| trimmed(&label));
    in_root.or(in_boot).filter(|label| label != "NO NAME")
}

/// A name of 11 bytes without the spaces that fill it up.
fn trimmed(name: &[u8]) -> Option<String> {
    let text = read_text(name, 0, 11)?;
    let text = text.trim_end();
    (!text.is_empty()).then(|| text.to_owned())
}
