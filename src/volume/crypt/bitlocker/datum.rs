//! The entries of BitLocker's metadata (libbde, "BitLocker Drive Encryption (BDE) format", section
//! 5.3), little-endian:
//!
//! | at | field |
//! | --- | --- |
//! | 0 | size of the entry, this header included |
//! | 2 | entry type: what it is for |
//! | 4 | value type: how it is written |
//! | 6 | version |
//! | 8 | data; of some values further entries behind a header of their own |

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use crate::bytes::{read_array, read_u16le};
use crate::refusal::Refusal;

/// Entry types.
pub(super) const VMK: u16 = 0x0002;
pub(super) const FVEK: u16 = 0x0003;
pub(super) const STARTUP_KEY: u16 = 0x0006;
pub(super) const DESCRIPTION: u16 = 0x0007;
pub(super) const VOLUME_HEADER: u16 = 0x000F;

/// Value types.
pub(super) const KEY: u16 = 0x0001;
pub(super) const STRETCH_KEY: u16 = 0x0003;
pub(super) const AES_CCM_KEY: u16 = 0x0005;
pub(super) const PROTECTED_VMK: u16 = 0x0008;
pub(super) const EXTERNAL_KEY: u16 = 0x0009;
pub(super) const OFFSET_AND_SIZE: u16 = 0x000F;

/// One entry.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Datum<'a> {
    pub kind: u16,
    pub value: u16,
    pub data: &'a [u8],
}

/// The entries that lie one behind the other, up to an empty one or the end.
pub(super) fn datums(mut bytes: &[u8]) -> Result<Vec<Datum<'_>>, Refusal> {
    let mut found = Vec::new();
    while bytes.len() >= 8 {
        let size = usize::from(read_u16le(bytes, 0));
        if size == 0 {
            break;
        }
        let (Some((entry, rest)), true) = (bytes.split_at_checked(size), size >= 8) else {
            return Err(Refusal::Damaged(
                "an entry of its BitLocker metadata has a wrong size".into(),
            ));
        };
        found.push(Datum {
            kind: read_u16le(entry, 2),
            value: read_u16le(entry, 4),
            data: entry.get(8..).unwrap_or_default(),
        });
        bytes = rest;
    }
    Ok(found)
}

/// The first entry of that value.
pub(super) fn by_value<'a>(datums: &[Datum<'a>], value: u16) -> Option<&'a [u8]> {
    datums
        .iter()
        .find(|datum| datum.value == value)
        .map(|datum| datum.data)
}

/// How a volume master key is protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protection {
    /// By a key that lies beside it: protection is suspended.
    Clear,
    /// By the TPM, alone or with a PIN or a startup key.
    Tpm,
    /// By a key file on a stick.
    StartupKey,
    /// By the 48 digits.
    Recovery,
    Passphrase,
    SmartCard,
    Unknown,
}

/// A volume master key, wrapped.
pub(super) struct Vmk<'a> {
    pub protection: Protection,
    pub datums: Vec<Datum<'a>>,
}

/// `data` of an entry of value [`PROTECTED_VMK`]: GUID, time, two unknown bytes, protection at 26,
/// entries from 28 on.
pub(super) fn vmk(data: &[u8]) -> Result<Vmk<'_>, Refusal> {
    let protection = match read_u16le(data, 26) {
        0x0000 => Protection::Clear,
        // With nothing, a startup key, a PIN, both.
        0x0100 | 0x0300 | 0x0400 | 0x0500 | 0x0600 | 0x0700 => Protection::Tpm,
        0x0200 => Protection::StartupKey,
        0x0800 => Protection::Recovery,
        0x1000 => Protection::SmartCard,
        0x2000 => Protection::Passphrase,
        _ => Protection::Unknown,
    };
    Ok(Vmk {
        protection,
        datums: datums(data.get(28..).unwrap_or_default())?,
    })
}

/// `data` of an entry of value [`KEY`]: the method, then the key.
pub(super) fn key(data: &[u8]) -> (u16, &[u8]) {
    (read_u16le(data, 0), data.get(4..).unwrap_or_default())
}

/// The salt in `data` of an entry of value [`STRETCH_KEY`]: behind the method.
pub(super) fn salt(data: &[u8]) -> [u8; 16] {
    read_array(data, 4)
}

/// A text in UTF-16, ended by NUL.
pub(super) fn text(data: &[u8]) -> Option<String> {
    let units: Vec<u16> = data
        .as_chunks::<2>()
        .0
        .iter()
        .map(|&unit| u16::from_le_bytes(unit))
        .take_while(|&unit| unit != 0)
        .collect();
    (!units.is_empty()).then(|| String::from_utf16_lossy(&units))
}
