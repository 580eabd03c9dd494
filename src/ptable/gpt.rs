//! The two copies of a GPT: which one is believed, and what is said of the other.
//!
//! As `block/partitions/efi.c` of Linux has it: the primary at sector 1, its copy where the primary
//! says. Beyond that we do what people do with `gpt=1`: a damaged primary makes us look for the
//! backup, where the damaged header still points and at the disk's end.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use super::gpt_entry::GptEntry;
use super::gpt_header::{self, Found, GptHeader, USUAL_ENTRY_SIZE};
use super::mbr::Mbr;
use super::{
    DiskId, Flaw, MAX_PARTITIONS, Partition, PartitionTable, PartitionType, Scheme, read_sectors,
};
use crate::checksum;
use crate::device::ReadAt;
use crate::units::{ByteLen, Lba, SectorSize};

/// Where the primary header always is.
const PRIMARY: Lba = Lba(1);
/// Bytes of the entry array that every GPT reserves at least (UEFI 2.10, 5.3.1).
const MIN_ARRAY_BYTES: u64 = 16_384;

/// A header with an entry array that matches it.
struct GptCopy {
    header: GptHeader,
    entries: Vec<u8>,
}

/// Reads the GPT behind a protective or hybrid MBR into `table`.
pub(super) fn read(disk: &dyn ReadAt, sector: SectorSize, mbr: &Mbr, table: &mut PartitionTable) {
    if mbr.is_hybrid() {
        table.notes.push(
            "the MBR is a hybrid: it lists partitions of its own beside the GPT; the GPT counts"
                .into(),
        );
    }
    if read_counted_in(disk, sector, table) {
        return;
    }
    // A disk moved between a 512-byte and a 4096-byte world (enclosures, controllers, images).
    for other in [512, 4096, 2048, 1024] {
        let Some(other) = SectorSize::new(other).filter(|&other| other != sector) else {
            continue;
        };
        let kept = table.clone();
        table.sector = other;
        table.notes.clear();
        if read_counted_in(disk, other, table) {
            table.notes.insert(
                0,
                format!(
                    "the GPT counts in sectors of {other} bytes, the disk in sectors of {sector}: \
                     it was written when the disk had another sector size"
                ),
            );
            table.notes.splice(
                0..0,
                kept.notes.into_iter().take(usize::from(mbr.is_hybrid())),
            );
            return;
        }
        *table = kept;
    }
    table.notes.push(
        "the MBR says that there is a GPT, but neither copy of it can be used: the disk is treated \
         as having no partitions"
            .into(),
    );
}

/// Says so when there is a GPT that no protective MBR announces: Linux ignores it, so do we.
pub(super) fn note_unprotected(disk: &dyn ReadAt, table: &mut PartitionTable) {
    if let Found::Header(_) = gpt_header::read(disk, table.sector, PRIMARY) {
        table.add_sectors(PRIMARY, 1, disk.size());
        table.notes.push(
            "there is a GPT, but no protective MBR before it: ignored, as Linux ignores it".into(),
        );
    }
}

/// Whether a usable copy was found, counting in sectors of `sector` bytes.
fn read_counted_in(disk: &dyn ReadAt, sector: SectorSize, table: &mut PartitionTable) -> bool {
    let last = Lba(disk
        .size()
        .0
        .checked_div(sector.bytes())
        .unwrap_or(0)
        .saturating_sub(1));
    let (primary, points_to) = match read_copy(disk, sector, PRIMARY) {
        Ok(copy) => {
            let at = copy.header.alternate_lba;
            (Ok(copy), Some(at))
        }
        Err((flaw, at)) => (Err(flaw), at),
    };
    let mut backup = Err(format!("there is none at sector {last}"));
    for at in points_to.into_iter().chain([last]) {
        if at == PRIMARY {
            continue;
        }
        match read_copy(disk, sector, at) {
            Ok(copy) => {
                backup = Ok(copy);
                break;
            }
            // What is wrong where the primary points tells more than that the end is empty.
            Err((flaw, _)) if at == points_to.unwrap_or(last) => backup = Err(flaw),
            Err(_) => {}
        }
    }
    let chosen = match (&primary, &backup) {
        (Ok(primary), Ok(other)) => {
            if primary.entries != other.entries {
                table.notes.push(
                    "the two copies of the GPT differ in their partitions: the primary is used"
                        .into(),
                );
            }
            if other.header.my_lba != last {
                table.notes.push(format!(
                    "the backup GPT is at sector {}, not at the disk's end ({last}): the disk was \
                     enlarged",
                    other.header.my_lba
                ));
            }
            primary
        }
        (Ok(primary), Err(flaw)) => {
            table
                .notes
                .push(format!("the backup GPT cannot be used: {flaw}"));
            primary
        }
        (Err(flaw), Ok(backup)) => {
            table.notes.push(format!(
                "the primary GPT cannot be used: {flaw}; the backup at sector {} is used instead",
                backup.header.my_lba
            ));
            backup
        }
        (Err(_), Err(_)) => return false,
    };
    table.scheme = Scheme::Gpt;
    table.id = Some(DiskId::Gpt(chosen.header.disk_guid));
    if u32::try_from(chosen.header.entry_size) != Ok(USUAL_ENTRY_SIZE) {
        table.notes.push(format!(
            "the GPT has entries of {} bytes: within the standard, but Linux ignores such a table",
            chosen.header.entry_size
        ));
    }
    add_partitions(chosen, disk.size(), table);

    // The usual places are taken even where the copy in them is damaged: it is still evidence.
    let array_sectors = |bytes: u64| bytes.div_ceil(sector.bytes());
    let usual = array_sectors(MIN_ARRAY_BYTES);
    table.add_sectors(PRIMARY, usual.saturating_add(1), disk.size());
    table.add_sectors(
        Lba(last.0.saturating_sub(usual)),
        usual.saturating_add(1),
        disk.size(),
    );
    for copy in [&primary, &backup].into_iter().flatten() {
        let bytes = u64::try_from(copy.header.array_bytes).unwrap_or(u64::MAX);
        table.add_sectors(copy.header.my_lba, 1, disk.size());
        table.add_sectors(copy.header.entries_lba, array_sectors(bytes), disk.size());
    }
    true
}

/// A header and its entries, or what is wrong and where a damaged header says that its copy is.
fn read_copy(
    disk: &dyn ReadAt,
    sector: SectorSize,
    at: Lba,
) -> Result<GptCopy, (Flaw, Option<Lba>)> {
    let header = match gpt_header::read(disk, sector, at) {
        Found::Header(header) => header,
        Found::Nothing => return Err((format!("there is none at sector {at}"), None)),
        Found::Damaged(flaw, points_to) => {
            return Err((format!("in the header at sector {at}, {flaw}"), points_to));
        }
    };
    let points_to = Some(header.alternate_lba);
    let entries = read_sectors(disk, sector, header.entries_lba, header.array_bytes)
        .map_err(|flaw| (format!("of its entries, {flaw}"), points_to))?;
    if !checksum::matches(crc32fast::hash(&entries), header.entries_crc) {
        return Err((
            format!(
                "the checksum of its entries at sector {} does not match",
                header.entries_lba
            ),
            points_to,
        ));
    }
    Ok(GptCopy { header, entries })
}

fn add_partitions(copy: &GptCopy, disk: ByteLen, table: &mut PartitionTable) {
    for (bytes, number) in copy
        .entries
        .chunks_exact(copy.header.entry_size)
        .zip(1_u32..)
    {
        let Some(entry) = GptEntry::parse(bytes) else {
            continue;
        };
        if number > MAX_PARTITIONS {
            table.notes.push(format!(
                "partitions from number {number} on are ignored, as Linux ignores them"
            ));
            return;
        }
        let bounds = entry.sectors().and_then(|sectors| {
            let start = entry.first.to_bytes(table.sector)?;
            let len = ByteLen(sectors.checked_mul(table.sector.bytes())?);
            (start.checked_add(len)?.0 <= disk.0).then_some((start, len))
        });
        let Some((start, len)) = bounds else {
            table.notes.push(format!(
                "partition {number} is ignored: sectors {} to {} are not all on the disk",
                entry.first, entry.last
            ));
            continue;
        };
        table.partitions.push(Partition {
            number,
            start,
            len,
            kind: PartitionType::Gpt(entry.type_guid),
            guid: Some(entry.unique_guid),
            name: entry.name,
            attributes: entry.attributes,
        });
    }
}
