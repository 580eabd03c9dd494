//! L2 entries: where one guest cluster lies in the file (spec: "L2 table entry").

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use super::HostOffset;

/// Bit 63 of L1 and L2 entries: the refcount is exactly one.
pub const COPIED: u64 = 1 << 63;
/// Bit 62 of an L2 entry: a compressed cluster descriptor.
const COMPRESSED: u64 = 1 << 62;
/// Bit 0 of a standard cluster descriptor (version 3): reads as zeros, whatever else it says.
const ZERO: u64 = 1;
/// Bits 9 to 55: the host offset in L1 entries and standard cluster descriptors.
pub const OFFSET_MASK: u64 = 0x00ff_ffff_ffff_fe00;
/// The unit in which a compressed cluster's length is stored.
const SECTOR: u64 = 512;

/// Where one guest cluster lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mapping {
    /// Nowhere: reads as zeros, or as what the backing file holds.
    Unallocated,
    /// Said to read as zeros.
    Zero,
    /// One whole cluster at this offset.
    Plain(HostOffset),
    /// A compressed stream from this byte on.
    Compressed {
        /// The first byte of the stream.
        host: HostOffset,
        /// Up to the end of the stream's last 512-byte sector, so up to 511 bytes too many.
        bytes: u64,
    },
}

/// The bit at which the sector count of a compressed cluster descriptor starts.
fn count_shift(cluster_bits: u32) -> u32 {
    // Spec: x = 62 - (cluster_bits - 8)
    70_u32.saturating_sub(cluster_bits)
}

impl Mapping {
    /// Reads an L2 entry of an image with clusters of `1 << cluster_bits` bytes.
    pub fn from_entry(entry: u64, cluster_bits: u32) -> Self {
        if entry & COMPRESSED != 0 {
            let shift = count_shift(cluster_bits);
            let below = |bits: u32| {
                1_u64
                    .checked_shl(bits)
                    .map_or(u64::MAX, |b| b.wrapping_sub(1))
            };
            let host = entry & below(shift);
            let more_sectors =
                entry.checked_shr(shift).unwrap_or(0) & below(62_u32.saturating_sub(shift));
            let bytes = more_sectors
                .saturating_add(1)
                .saturating_mul(SECTOR)
                .saturating_sub(host & (SECTOR.wrapping_sub(1)));
            return Self::Compressed {
                host: HostOffset(host),
                bytes,
            };
        }
        if entry & ZERO != 0 {
            return Self::Zero;
        }
        match entry & OFFSET_MASK {
            0 => Self::Unallocated,
            host => Self::Plain(HostOffset(host)),
        }
    }

    /// The entry of a compressed stream of `length` bytes (at least 1) at `host`; `None` if the
    /// descriptor cannot hold it.
    pub fn compressed_entry(host: HostOffset, length: u64, cluster_bits: u32) -> Option<u64> {
        let shift = count_shift(cluster_bits);
        let last = host.0.checked_add(length)?.checked_sub(1)?;
        let more_sectors = (last >> 9).checked_sub(host.0 >> 9)?;
        let fits = host.0.checked_shr(shift)? == 0
            && more_sectors.checked_shr(62_u32.checked_sub(shift)?)? == 0;
        fits.then_some(COMPRESSED | more_sectors.checked_shl(shift)? | host.0)
    }

    /// The entry of a cluster that reads as zeros, whatever a backing file holds.
    pub fn zero_entry() -> u64 {
        ZERO
    }

    /// The entry of a whole cluster at `host`.
    pub fn plain_entry(host: HostOffset) -> u64 {
        COPIED | host.0
    }
}

#[cfg(test)]
#[allow(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]
mod tests {
    use super::*;

    #[test]
    fn a_compressed_entry_says_where_and_how_many_sectors_it_touches() {
        for (host, length, bytes) in [
            (65_536, 1, 512),
            (65_536, 512, 512),
            (65_536, 513, 1024),
            (66_047, 2, 513),
            (131_071, 61_440, 61_441),
        ] {
            let entry = Mapping::compressed_entry(HostOffset(host), length, 16).unwrap();
            assert_eq!(
                Mapping::from_entry(entry, 16),
                Mapping::Compressed {
                    host: HostOffset(host),
                    bytes
                },
                "{length} bytes at {host}"
            );
        }
    }

    #[test]
    fn an_offset_that_the_descriptor_cannot_hold_is_refused() {
        assert_eq!(
            Mapping::compressed_entry(HostOffset(1 << 54), 100, 16),
            None
        );
        assert_eq!(Mapping::compressed_entry(HostOffset(0), 0, 16), None);
    }

    #[test]
    fn every_bit_pattern_is_read_without_panic_for_every_cluster_size() {
        for bits in 0..=64 {
            for entry in [
                u64::MAX,
                COMPRESSED,
                COMPRESSED | u64::MAX >> 2,
                0,
                ZERO,
                COPIED,
            ] {
                let _ = Mapping::from_entry(entry, bits);
            }
        }
    }
}
