//! $LogFile (record 2): whether the volume was shut down. After `ntfs_check_logfile` and
//! `ntfs_is_logfile_clean` in `libntfs-3g/logfile.c` of ntfs-3g, and `RESTART_PAGE_HEADER` and
//! `RESTART_AREA` in `include/ntfs-3g/logfile.h`.
//!
//! It begins with two restart pages, written in turn; the one with the higher sequence number
//! counts. Linux leaves a journal behind that it filled with 0xFF.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use super::mft::Mft;
use super::record::{DATA, apply_fixups};
use super::stream::Stream;
use crate::bytes::{has_magic, read_u16le, read_u32le, read_u64le};
use crate::usedmap::finding::Refusal;

const LOG_FILE: u64 = 2;
/// `LOGFILE_NO_CLIENT`.
const NO_CLIENT: u16 = 0xFFFF;
/// `RESTART_VOLUME_IS_CLEAN`.
const VOLUME_IS_CLEAN: u16 = 0x0002;
/// Pages of restart areas: 4 KiB, more on other processors.
const MAX_PAGE_BYTES: u32 = 64 << 10;
/// Bytes of a header, and of the smallest page.
const BLOCK: u64 = 512;

/// What a sound restart page says.
struct Restart {
    lsn: u64,
    version: (u16, u16),
    client_in_use_list: u16,
    flags: u16,
}

/// Refuses a volume whose journal has something that did not reach its place.
pub(super) fn refuse_unless_clean(mft: &Mft<'_>) -> Result<(), Refusal> {
    let mut block = mft.block(LOG_FILE)?;
    let record = block.record()?;
    let stream = mft
        .attribute(&record, DATA, &[])?
        .ok_or_else(|| Refusal::Damaged("its journal is gone".into()))?;
    let mut newest: Option<Restart> = None;
    let mut empty = true;
    for at in places(stream.size()) {
        let mut head = [0; 512];
        read(mft, &stream, at, &mut head)?;
        if read_u32le(&head, 0) == u32::MAX {
            if empty {
                continue;
            }
            break;
        }
        empty = false;
        if has_magic(&head, 0, b"RCRD") {
            break;
        }
        let restart = restart(mft, &stream, at, &head)?;
        if let Some(restart) = restart
            && newest.as_ref().is_none_or(|known| restart.lsn > known.lsn)
        {
            newest = Some(restart);
        }
    }
    match newest {
        None if empty => Ok(()),
        None => Err(not_shut_down("its journal has no restart page")),
        // Windows writes 2.0 while it runs and goes back to 1.1 when it shuts down; Fast Startup and
        // a surprise removal leave 2.0 behind.
        Some(Restart {
            version: (2, _), ..
        }) => Err(not_shut_down(
            "Windows still held parts of it in memory: Fast Startup is on, or it was not shut down",
        )),
        Some(Restart {
            version: (1, 1),
            client_in_use_list,
            flags,
            ..
        }) if client_in_use_list == NO_CLIENT || flags & VOLUME_IS_CLEAN != 0 => Ok(()),
        Some(Restart {
            version: (1, 1), ..
        }) => Err(not_shut_down(
            "its journal holds changes that have not reached their places",
        )),
        Some(Restart {
            version: (major, minor),
            ..
        }) => Err(Refusal::Unsupported(format!(
            "a journal of version {major}.{minor}"
        ))),
    }
}

fn not_shut_down(what: &str) -> Refusal {
    Refusal::Dirty(format!(
        "{what} (boot Windows once and run shutdown /s /t 0 for a smaller copy)"
    ))
}

/// Where a restart page can begin: at 0 and at each size that a page can have.
fn places(size: u64) -> impl Iterator<Item = u64> {
    let sizes = std::iter::successors(Some(BLOCK), |at| at.checked_mul(2));
    std::iter::once(0)
        .chain(sizes)
        .take_while(move |at| at.checked_add(BLOCK).is_some_and(|end| end <= size))
}

fn read(mft: &Mft<'_>, stream: &Stream, at: u64, buf: &mut [u8]) -> Result<(), Refusal> {
    stream.read(mft.volume, mft.boot, at, buf, "the journal")
}

/// The restart page that begins with `head`; `None` if it is none, or not to be trusted.
fn restart(
    mft: &Mft<'_>,
    stream: &Stream,
    at: u64,
    head: &[u8; 512],
) -> Result<Option<Restart>, Refusal> {
    let checked = has_magic(head, 0, b"CHKD");
    let page_size = read_u32le(head, 0x10);
    let fits = page_size.is_power_of_two()
        && (512..=MAX_PAGE_BYTES).contains(&page_size)
        && (at == 0 || at == u64::from(page_size))
        && at
            .checked_add(u64::from(page_size))
            .is_some_and(|end| end <= stream.size());
    if !(checked || has_magic(head, 0, b"RSTR")) || !fits {
        return Ok(None);
    }
    let mut page = vec![0; usize::try_from(page_size).unwrap_or(0)];
    read(mft, stream, at, &mut page)?;
    // What chkdsk writes need not be protected.
    let unprotected = checked && read_u16le(&page, 0x06) == 0;
    if !unprotected && !apply_fixups(&mut page) {
        return Ok(None);
    }
    let area_at = usize::from(read_u16le(&page, 0x18));
    let Some(area) = page
        .get(area_at..)
        .filter(|area| area_at >= 0x1E && area_at & 7 == 0 && area.len() >= 0x30)
    else {
        return Ok(None);
    };
    let lsn = if checked {
        read_u64le(&page, 0x08)
    } else {
        read_u64le(area, 0x00)
    };
    Ok(Some(Restart {
        lsn,
        version: (read_u16le(&page, 0x1C), read_u16le(&page, 0x1A)),
        client_in_use_list: read_u16le(area, 0x0C),
        flags: read_u16le(area, 0x0E),
    }))
}
