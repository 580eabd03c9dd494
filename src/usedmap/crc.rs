//! The checksums that filesystems use: CRC-32C as `crc32c` and CRC-16 as `crc16` of Linux; both
//! without the final inversion that the catalogues list, and chained through their seed.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

pub(crate) use crate::checksum::matches as matches_checksum;
use crc::{Algorithm, Crc, Table};

/// CRC-32C without initial value and final inversion.
const CRC32C: Crc<u32, Table<16>> = Crc::<u32, Table<16>>::new(&Algorithm {
    width: 32,
    poly: 0x1EDC_6F41,
    init: 0,
    refin: true,
    refout: true,
    xorout: 0,
    check: 0,
    residue: 0,
});
static CRC32C_TABLE: &Crc<u32, Table<16>> = &CRC32C;

static CRC16: Crc<u16> = Crc::<u16>::new(&crc::CRC_16_ARC);

/// CRC-32C over `pieces`, from `seed` on.
pub(crate) fn crc32c<'a>(seed: u32, pieces: impl IntoIterator<Item = &'a [u8]>) -> u32 {
    // The crate takes initial values in the unreflected order.
    let mut digest = CRC32C_TABLE.digest_with_initial(seed.reverse_bits());
    for piece in pieces {
        digest.update(piece);
    }
    digest.finalize()
}

/// CRC-16 over `pieces`, from `seed` on.
pub(crate) fn crc16<'a>(seed: u16, pieces: impl IntoIterator<Item = &'a [u8]>) -> u16 {
    let mut digest = CRC16.digest_with_initial(seed.reverse_bits());
    for piece in pieces {
        digest.update(piece);
    }
    digest.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_check_values_of_the_catalogue() {
        let check: &[u8] = b"123456789";
        // CRC-32/ISCSI is 0xE3069283 after the final inversion.
        assert_eq!(!crc32c(!0, [check]), 0xE306_9283);
        // CRC-16/ARC starts from 0, CRC-16/MODBUS from !0.
        assert_eq!(crc16(0, [check]), 0xBB3D);
        assert_eq!(crc16(!0, [check]), 0x4B37);
    }

    #[test]
    fn a_checksum_goes_on_from_its_seed() {
        let whole = crc32c(!0, [&b"123456789"[..]]);
        let first = crc32c(!0, [&b"1234"[..]]);
        assert_eq!(crc32c(first, [&b"56789"[..]]), whole);
        assert_eq!(crc32c(!0, [&b"1234"[..], &b"56789"[..]]), whole);
        let first = crc16(!0, [&b"1234"[..]]);
        assert_eq!(
            crc16(first, [&b"56789"[..]]),
            crc16(!0, [&b"123456789"[..]])
        );
    }
}
