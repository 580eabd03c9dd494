//! Newtypes for the address spaces of a disk, so that a block number is never taken for a byte.
//! All arithmetic is checked and 64-bit; conversions are named methods.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use serde::{Deserialize, Serialize};
use std::fmt;

/// A byte position on a disk (or on a window of it, where the doc comment says so).
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct ByteOffset(pub u64);

/// A number of bytes.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct ByteLen(pub u64);

/// A logical block address: counts logical sectors of a disk, whatever their size.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Lba(pub u64);

/// The size of a sector in bytes: a power of two from 512 to 65,536.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct SectorSize(u32);

impl SectorSize {
    /// The sector of most disks.
    pub const B512: Self = Self(512);
    /// The sector of 4Kn disks.
    pub const B4096: Self = Self(4096);

    /// `None` unless `bytes` is a power of two from 512 to 65,536.
    pub fn new(bytes: u32) -> Option<Self> {
        (bytes.is_power_of_two() && (512..=65_536).contains(&bytes)).then_some(Self(bytes))
    }

    /// In bytes.
    pub fn bytes(self) -> u64 {
        u64::from(self.0)
    }
}

impl TryFrom<u32> for SectorSize {
    type Error = String;
    fn try_from(bytes: u32) -> Result<Self, Self::Error> {
        Self::new(bytes).ok_or_else(|| format!("a sector of {bytes} bytes"))
    }
}

impl From<SectorSize> for u32 {
    fn from(size: SectorSize) -> Self {
        size.0
    }
}

impl Lba {
    /// The byte at which this sector starts, if it fits 64 bits.
    pub fn to_bytes(self, sector: SectorSize) -> Option<ByteOffset> {
        self.0.checked_mul(sector.bytes()).map(ByteOffset)
    }

    /// The sector `count` further on.
    pub fn checked_add(self, count: u64) -> Option<Self> {
        self.0.checked_add(count).map(Self)
    }
}

impl ByteOffset {
    /// The offset `len` further on.
    pub fn checked_add(self, len: ByteLen) -> Option<Self> {
        self.0.checked_add(len.0).map(Self)
    }

    /// How far `self` lies behind `earlier`; `None` if it lies before it.
    pub fn checked_sub(self, earlier: Self) -> Option<ByteLen> {
        self.0.checked_sub(earlier.0).map(ByteLen)
    }
}

impl ByteLen {
    /// Nothing at all.
    pub const ZERO: Self = Self(0);

    /// The sum, if it fits.
    pub fn checked_add(self, other: Self) -> Option<Self> {
        self.0.checked_add(other.0).map(Self)
    }
}

impl fmt::Display for ByteOffset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Lba {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for SectorSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// For people: `37.2 GB`, decimal units as printed on the disk's label.
impl fmt::Display for ByteLen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(u64, &str); 4] = [
            (1_000_000_000_000, "TB"),
            (1_000_000_000, "GB"),
            (1_000_000, "MB"),
            (1_000, "kB"),
        ];
        for (unit, name) in UNITS {
            if self.0 >= unit {
                // Tenths, rounded down: never claim more than there is.
                let whole = self.0.checked_div(unit).unwrap_or(0);
                let rest = self.0.checked_rem(unit).unwrap_or(0);
                let tenth = unit
                    .checked_div(10)
                    .and_then(|t| rest.checked_div(t))
                    .unwrap_or(0);
                return write!(f, "{whole}.{tenth} {name}");
            }
        }
        write!(f, "{} bytes", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_shown_in_decimal_units_rounded_down() {
        assert_eq!(ByteLen(999).to_string(), "999 bytes");
        assert_eq!(ByteLen(1_999).to_string(), "1.9 kB");
        assert_eq!(ByteLen(480_103_981_056).to_string(), "480.1 GB");
        assert_eq!(ByteLen(u64::MAX).to_string(), "18446744.0 TB");
    }

    #[test]
    fn an_lba_that_does_not_fit_in_bytes_is_none() {
        assert_eq!(Lba(1 << 55).to_bytes(SectorSize::B512), None);
        assert_eq!(
            Lba(34).to_bytes(SectorSize::B4096),
            Some(ByteOffset(139_264))
        );
    }

    #[test]
    fn odd_sector_sizes_are_refused() {
        for bytes in [0, 1, 256, 520, 131_072] {
            assert_eq!(SectorSize::new(bytes), None, "{bytes}");
        }
    }
}
