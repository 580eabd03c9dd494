//! The checksum of F2FS (`f2fs_crc32` in `fs/f2fs/f2fs.h` of Linux): CRC-32 with the filesystem's
//! magic as its initial value, without the final inversion.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use crc::{Algorithm, Crc, Table};

/// `F2FS_SUPER_MAGIC`.
const MAGIC: u32 = 0xF2F5_2010;

static CRC32: Crc<u32, Table<16>> = Crc::<u32, Table<16>>::new(&Algorithm {
    width: 32,
    poly: 0x04C1_1DB7,
    // The crate takes initial values in the unreflected order.
    init: MAGIC.reverse_bits(),
    refin: true,
    refout: true,
    xorout: 0,
    check: 0,
    residue: 0,
});

/// The checksum over `pieces`.
pub(super) fn crc32<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> u32 {
    let mut digest = CRC32.digest();
    for piece in pieces {
        digest.update(piece);
    }
    digest.finalize()
}
