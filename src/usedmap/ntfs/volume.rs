//! $Volume (record 3): label, version and state (`VOLUME_INFORMATION` in
//! `include/ntfs-3g/layout.h` of ntfs-3g; the flags of Windows 10 after "NTFS today", dfir.ru, 2019),
//! and $MFTMirr (record 1), the copy of the first four records.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use super::boot::Boot;
use super::mft::Mft;
use super::record::{Record, VOLUME_INFORMATION, VOLUME_NAME};
use super::stream::Stream;
use crate::bytes::{read_u8, read_u16le};
use crate::device::ReadAt;
use crate::error::Error;
use crate::units::ByteOffset;
use crate::usedmap::finding::Refusal;

const VOLUME: u64 = 3;
/// Records that $MFTMirr repeats.
const MIRRORED: u64 = 4;

/// Flags after which Windows itself would look into the volume before it trusts it: dirty, resize
/// $LogFile, upgrade on mount, corrupt (it stopped Windows), run the full chkdsk, run the proactive
/// scan. The others switch features off, or tell that chkdsk was here once (0x4000, 0x8000).
const NOT_AT_REST: [(u16, &str); 6] = [
    (0x0001, "it is marked dirty"),
    (0x0002, "its journal is about to be resized"),
    (0x0004, "it is about to be upgraded"),
    (0x0040, "it is marked corrupt"),
    (0x0100, "it is marked for a full chkdsk"),
    (0x0200, "it is marked for a scan"),
];

/// What $Volume says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct VolumeInformation {
    pub label: Option<String>,
    version: (u8, u8),
    flags: u16,
}

impl VolumeInformation {
    pub(super) fn read(mft: &Mft<'_>) -> Result<Self, Refusal> {
        let mut block = mft.block(VOLUME)?;
        let record = block.record()?;
        let Some(Stream::Resident(information)) = mft
            .attribute(&record, VOLUME_INFORMATION, &[])?
            .filter(|stream| stream.size() >= 12)
        else {
            return Err(Refusal::Damaged("$Volume does not tell its state".into()));
        };
        let label = match mft.attribute(&record, VOLUME_NAME, &[])? {
            Some(Stream::Resident(name)) => text_of(&name),
            _ => None,
        };
        Ok(Self {
            label,
            version: (read_u8(&information, 0x08), read_u8(&information, 0x09)),
            flags: read_u16le(&information, 0x0A),
        })
    }

    /// Refuses a version that we do not know.
    pub(super) fn refuse_unknown_version(&self) -> Result<(), Refusal> {
        match self.version {
            (1, 2) | (3, 0 | 1) => Ok(()),
            (major, minor) => Err(Refusal::Unsupported(format!(
                "NTFS of version {major}.{minor}"
            ))),
        }
    }

    /// Refuses a volume that has something to be repaired.
    pub(super) fn refuse_unless_at_rest(&self) -> Result<(), Refusal> {
        for (flag, what) in NOT_AT_REST {
            if self.flags & flag != 0 {
                return Err(Refusal::Dirty(format!(
                    "{what} (let Windows run chkdsk /f and shut it down with shutdown /s /t 0 for \
                     a smaller copy)"
                )));
            }
        }
        Ok(())
    }
}

/// A text in UTF-16LE; `None` if it is empty.
fn text_of(bytes: &[u8]) -> Option<String> {
    let units: Vec<u16> = bytes
        .chunks_exact(2)
        .map(|unit| read_u16le(unit, 0))
        .take_while(|&unit| unit != 0)
        .collect();
    (!units.is_empty()).then(|| String::from_utf16_lossy(&units))
}

/// Refuses a volume whose first four file records differ from their copies.
pub(super) fn refuse_unless_mirrored(mft: &Mft<'_>) -> Result<(), Refusal> {
    let Mft { volume, boot, .. } = mft;
    let mut copies = read_copies(*volume, boot)?;
    for (number, copy) in (0..MIRRORED).zip(copies.chunks_exact_mut(boot.record_size)) {
        let mut block = mft.block(number)?;
        let original = block.record()?.content();
        let copy = Record::parse(number, copy).map(|record| record.content());
        if copy.as_ref() != Some(&original) {
            return Err(Refusal::Damaged(format!(
                "file record {number} differs from its copy (run chkdsk /f in Windows for a \
                 smaller copy)"
            )));
        }
    }
    Ok(())
}

fn read_copies(volume: &dyn ReadAt, boot: &Boot) -> Result<Vec<u8>, Refusal> {
    let at = boot.mftmirr_lcn.saturating_mul(boot.cluster_size);
    let count = usize::try_from(MIRRORED).unwrap_or(0);
    let mut copies = vec![0; boot.record_size.saturating_mul(count)];
    volume
        .read_at(ByteOffset(at), &mut copies)
        .map_err(|error| {
            Error::new(error.kind(), "reading the copies of the first file records")
                .because(error)
                .at(at)
        })?;
    Ok(copies)
}
