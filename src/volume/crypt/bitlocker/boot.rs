//! The boot sector of a BitLocker volume (Windows 7 and later; Kumar and Kumar, "Bitlocker and
//! Windows Vista", and libbde's "BitLocker Drive Encryption (BDE) format", section 3):
//!
//! | at | field |
//! | --- | --- |
//! | 0x000 | boot code `EB 58 90`; Vista has `EB 52 90` |
//! | 0x003 | signature `-FVE-FS-`; `MSWIN4.1` of To Go, which shows a FAT for older systems |
//! | 0x00B | bytes per sector |
//! | 0x0A0 | GUID that says what follows; To Go: 0x1A8 |
//! | 0x0B0 | byte offsets of the three FVE metadata blocks; To Go: 0x1B8 |

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use crate::bytes::{has_magic, read_u16le, read_u64le};
use crate::refusal::Refusal;

/// The signature of volumes and of metadata blocks.
pub(super) const SIGNATURE: &[u8] = b"-FVE-FS-";
/// 4967d63b-2e29-4ad8-8399-f6a339e3d001: everything is encrypted.
const INFORMATION: [u8; 16] = [
    0x3B, 0xD6, 0x67, 0x49, 0x29, 0x2E, 0xD8, 0x4A, 0x83, 0x99, 0xF6, 0xA3, 0x39, 0xE3, 0xD0, 0x01,
];
/// 92a84d3b-dd80-4d0e-9e4e-b1e3284eaed8: what was written since is encrypted.
const ENCRYPT_ON_WRITE: [u8; 16] = [
    0x3B, 0x4D, 0xA8, 0x92, 0x80, 0xDD, 0x0E, 0x4D, 0x9E, 0x4E, 0xB1, 0xE3, 0x28, 0x4E, 0xAE, 0xD8,
];
/// Where the GUID is.
const GUID: usize = 0x0A0;
/// Where it is in To Go.
const GUID_TO_GO: usize = 0x1A8;

/// What the boot sector says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Boot {
    /// In bytes.
    pub sector_size: u64,
    /// Where the metadata blocks are, in bytes.
    pub blocks: [u64; 3],
}

/// Where the GUID is, if it is one of BitLocker's.
fn guid_at(sector: &[u8]) -> Option<usize> {
    if has_magic(sector, 3, SIGNATURE) {
        return Some(GUID);
    }
    let to_go = [INFORMATION, ENCRYPT_ON_WRITE]
        .iter()
        .any(|guid| has_magic(sector, GUID_TO_GO, guid));
    (has_magic(sector, 3, b"MSWIN4.1") && to_go).then_some(GUID_TO_GO)
}

/// Whether it is the first sector of a BitLocker volume.
pub(crate) fn is_bitlocker(sector: &[u8]) -> bool {
    guid_at(sector).is_some()
}

impl Boot {
    /// Of the first 512 bytes.
    pub(super) fn parse(sector: &[u8]) -> Result<Self, Refusal> {
        let at = guid_at(sector)
            .ok_or_else(|| Refusal::Damaged("its BitLocker signature is gone".into()))?;
        if has_magic(sector, 0, &[0xEB, 0x52, 0x90]) {
            return Err(Refusal::Unsupported(
                "BitLocker as Windows Vista wrote it, which is not known here".into(),
            ));
        }
        if has_magic(sector, at, &ENCRYPT_ON_WRITE) {
            return Err(Refusal::Unsupported(
                "BitLocker encrypts it only as it is written, so that parts of it are still plain \
                 (let the encryption finish for a smaller copy: manage-bde -status shows it)"
                    .into(),
            ));
        }
        if !has_magic(sector, at, &INFORMATION) {
            return Err(Refusal::Unsupported(
                "a kind of BitLocker that is not known here".into(),
            ));
        }
        let sector_size = match read_u16le(sector, 0x00B) {
            0 => 512,
            size @ (512 | 1024 | 2048 | 4096) => u64::from(size),
            size => return Err(Refusal::Damaged(format!("sectors of {size} bytes"))),
        };
        let block = |index: usize| {
            let skip = index.saturating_mul(8).saturating_add(16);
            read_u64le(sector, at.saturating_add(skip))
        };
        Ok(Self {
            sector_size,
            blocks: [block(0), block(1), block(2)],
        })
    }
}
