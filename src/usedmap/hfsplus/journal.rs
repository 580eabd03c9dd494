//! The journal of HFS+ (`struct JournalInfoBlock` of TN1150; `struct journal_header` in
//! `bsd/vfs/vfs_journal.h` of XNU): there is nothing to replay if its start is its end.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use super::volume_header::VolumeHeader;
use crate::bytes::{read_array, read_u32be};
use crate::device::ReadAt;
use crate::usedmap::finding::Refusal;

/// `kJIJournalInFSMask`, `kJIJournalOnOtherDeviceMask`, `kJIJournalNeedInitMask`.
const IN_FS: u32 = 1;
const ON_OTHER_DEVICE: u32 = 2;
const NEED_INIT: u32 = 4;
/// `JOURNAL_HEADER_MAGIC` and `ENDIAN_MAGIC`; the header is in the byte order of its writer.
const MAGIC: u32 = 0x4A4E_4C78;
const ENDIAN: u32 = 0x1234_5678;

/// Refuses a filesystem whose journal holds anything.
pub(super) fn refuse_unless_empty(
    volume: &dyn ReadAt,
    header: &VolumeHeader,
) -> Result<(), Refusal> {
    let damaged = || Refusal::Damaged("its journal is not where the volume header says".into());
    if header.journal_info_block == 0 || header.journal_info_block >= header.total_blocks {
        return Err(damaged());
    }
    let at = header.journal_info_block.saturating_mul(header.block_size);
    let info: [u8; 52] = super::read(volume, at)?;
    let flags = read_u32be(&info, 0);
    let offset = u64::from_be_bytes(read_array(&info, 36));
    if flags & ON_OTHER_DEVICE != 0 {
        return Err(Refusal::Unsupported(
            "its journal is on another disk".into(),
        ));
    }
    if flags & NEED_INIT != 0 {
        return Ok(());
    }
    let end = header.total_blocks.saturating_mul(header.block_size);
    if flags & IN_FS == 0 || offset.saturating_add(512) > end {
        return Err(damaged());
    }
    let journal: [u8; 512] = super::read(volume, offset)?;
    let big = (read_u32be(&journal, 0), read_u32be(&journal, 4));
    let positions = if big == (MAGIC, ENDIAN) {
        [8, 16].map(|at| u64::from_be_bytes(read_array(&journal, at)))
    } else if big == (MAGIC.swap_bytes(), ENDIAN.swap_bytes()) {
        [8, 16].map(|at| u64::from_le_bytes(read_array(&journal, at)))
    } else {
        return Err(Refusal::Damaged("its journal has no header".into()));
    };
    let [start, end] = positions;
    if start != end {
        return Err(Refusal::Dirty(
            "its journal holds writes that have not reached their places, because the server was \
             not shut down (boot it once and power it off properly for a smaller copy)"
                .into(),
        ));
    }
    Ok(())
}
