//! MBR partitions: the four primary ones, and the chain of extended boot records (EBR) with the
//! logical ones, walked exactly as `block/partitions/msdos.c` of Linux walks it, because its order
//! is what gives them their numbers.
//!
//! In an EBR the data entries count from that EBR, the link to the next one counts from the start
//! of the extended partition; links may go backwards.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use super::mbr::{Mbr, MbrEntry};
use super::{
    DiskId, MAX_PARTITIONS, Partition, PartitionTable, PartitionType, Scheme, read_sectors,
};
use crate::device::ReadAt;
use crate::units::{ByteLen, ByteOffset, Lba};
use std::collections::BTreeSet;

/// Number of the first logical partition.
const FIRST_LOGICAL: u32 = 5;
/// Links that the kernel follows without finding a partition before it gives up.
const MAX_EMPTY_LINKS: u32 = 100;
/// GPT's "legacy BIOS bootable" attribute, which is what the active flag means.
const ATTRIBUTE_BOOTABLE: u64 = 1 << 2;

/// An extended partition, in sectors.
#[derive(Clone, Copy)]
struct Container {
    start: Lba,
    sectors: u64,
}

/// Reads the primary entries and every extended chain into `table`.
pub(super) fn read(disk: &dyn ReadAt, mbr: &Mbr, table: &mut PartitionTable) {
    table.scheme = Scheme::Mbr;
    table.id = Some(DiskId::Mbr(mbr.signature));
    let mut next = FIRST_LOGICAL;
    for (entry, number) in mbr.entries.iter().zip(1_u32..) {
        if !entry.is_used() {
            continue;
        }
        let start = Lba(u64::from(entry.start));
        if entry.is_extended() {
            let container = Container {
                start,
                sectors: u64::from(entry.sectors),
            };
            follow_chain(disk, container, &mut next, table);
        } else {
            add(disk, number, start, *entry, table);
        }
    }
    table.partitions.sort_by_key(|partition| partition.number);
}

fn follow_chain(
    disk: &dyn ReadAt,
    container: Container,
    next: &mut u32,
    table: &mut PartitionTable,
) {
    let mut here = container;
    let mut empty_links = 0_u32;
    let mut seen = BTreeSet::new();
    loop {
        if !seen.insert(here.start) {
            table.notes.push(format!(
                "the chain of logical partitions comes back to sector {}: followed no further",
                here.start
            ));
            return;
        }
        empty_links = empty_links.saturating_add(1);
        if empty_links > MAX_EMPTY_LINKS || *next > MAX_PARTITIONS {
            table.notes.push(format!(
                "the chain of logical partitions is too long at sector {}: followed no further",
                here.start
            ));
            return;
        }
        let ebr = match read_sectors(disk, table.sector, here.start, 512) {
            Ok(bytes) => {
                table.add_sectors(here.start, 1, disk.size());
                Mbr::parse(&bytes)
            }
            Err(flaw) => {
                table.notes.push(format!(
                    "the chain of logical partitions ends in an unreadable link: {flaw}"
                ));
                return;
            }
        };
        let Some(ebr) = ebr else {
            table.notes.push(format!(
                "the chain of logical partitions ends at sector {}, which has no boot signature",
                here.start
            ));
            return;
        };
        for (entry, slot) in ebr.entries.iter().zip(0_u32..) {
            if !entry.is_used() || entry.is_extended() {
                continue;
            }
            let Some(start) = here.start.checked_add(u64::from(entry.start)) else {
                continue;
            };
            // The third and fourth are often garbage; the kernel believes them only inside.
            if slot >= 2 && !lies_inside(*entry, start, here, container) {
                continue;
            }
            if *next > MAX_PARTITIONS {
                return;
            }
            add(disk, *next, start, *entry, table);
            *next = next.saturating_add(1);
            empty_links = 0;
        }
        let link = ebr
            .entries
            .iter()
            .find(|entry| entry.is_used() && entry.is_extended());
        let Some(link) = link else {
            return;
        };
        here = Container {
            start: Lba(container.start.0.saturating_add(u64::from(link.start))),
            sectors: u64::from(link.sectors),
        };
    }
}

fn lies_inside(entry: MbrEntry, start: Lba, here: Container, container: Container) -> bool {
    let sectors = u64::from(entry.sectors);
    let end = start.0.saturating_add(sectors);
    u64::from(entry.start).saturating_add(sectors) <= here.sectors
        && start >= container.start
        && end <= container.start.0.saturating_add(container.sectors)
}

/// Adds a partition, cut at the disk's end as the kernel cuts it.
fn add(disk: &dyn ReadAt, number: u32, start: Lba, entry: MbrEntry, table: &mut PartitionTable) {
    let size = disk.size().0;
    let from = start.to_bytes(table.sector).filter(|from| from.0 < size);
    let Some(from) = from else {
        table.notes.push(format!(
            "partition {number} is ignored: it starts at sector {start}, behind the disk's end"
        ));
        return;
    };
    let wanted = u64::from(entry.sectors).saturating_mul(table.sector.bytes());
    let room = size.saturating_sub(from.0);
    if wanted > room {
        table.notes.push(format!(
            "partition {number} is cut at the disk's end: it claims {} sectors from {start} on",
            entry.sectors
        ));
    }
    table.partitions.push(Partition {
        number,
        start: ByteOffset(from.0),
        len: ByteLen(wanted.min(room)),
        kind: PartitionType::Mbr(entry.os_type),
        guid: None,
        name: None,
        attributes: if entry.boot_indicator == 0x80 {
            ATTRIBUTE_BOOTABLE
        } else {
            0
        },
    });
}
