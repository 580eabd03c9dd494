//! A GPT partition entry (UEFI 2.10, table 5.6).

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use crate::bytes::{read_array, read_u16le, read_u64le};
use crate::units::Lba;
use uuid::Uuid;

/// Units of UTF-16 in `PartitionName`.
const NAME_UNITS: usize = 36;

/// An entry that is in use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct GptEntry {
    /// `PartitionTypeGUID`, not nil.
    pub type_guid: Uuid,
    /// `UniquePartitionGUID`.
    pub unique_guid: Uuid,
    /// `StartingLBA`.
    pub first: Lba,
    /// `EndingLBA`, inclusive.
    pub last: Lba,
    /// `Attributes`.
    pub attributes: u64,
    /// `PartitionName`.
    pub name: Option<String>,
}

impl GptEntry {
    /// `None` for an unused slot (nil type).
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let type_guid = Uuid::from_bytes_le(read_array(bytes, 0x00));
        if type_guid.is_nil() {
            return None;
        }
        let units: Vec<u16> = (0x38..)
            .step_by(2)
            .take(NAME_UNITS)
            .map(|at| read_u16le(bytes, at))
            .take_while(|&unit| unit != 0)
            .collect();
        Some(Self {
            type_guid,
            unique_guid: Uuid::from_bytes_le(read_array(bytes, 0x10)),
            first: Lba(read_u64le(bytes, 0x20)),
            last: Lba(read_u64le(bytes, 0x28)),
            attributes: read_u64le(bytes, 0x30),
            name: (!units.is_empty()).then(|| String::from_utf16_lossy(&units)),
        })
    }

    /// How many sectors; `None` if it ends before it starts or spans all of 64 bits.
    pub(super) fn sectors(&self) -> Option<u64> {
        self.last.0.checked_sub(self.first.0)?.checked_add(1)
    }
}
