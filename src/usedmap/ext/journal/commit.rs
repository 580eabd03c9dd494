//! A commit block (`struct commit_header` in `include/linux/jbd2.h`): a transaction counts only if
//! it is there, and right.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use super::superblock::{Checksums, JournalSuperblock};
use crate::bytes::{read_u8, read_u32be, read_u64be};
use crate::usedmap::crc::{crc32c, matches_checksum};
use crc::{Algorithm, Crc, Digest, Table};

/// `crc32_be` of Linux, which the checksums of version 1 are made with.
const CRC32_BE: Crc<u32, Table<16>> = Crc::<u32, Table<16>>::new(&Algorithm {
    width: 32,
    poly: 0x04C1_1DB7,
    init: 0xFFFF_FFFF,
    refin: false,
    refout: false,
    xorout: 0,
    check: 0,
    residue: 0,
});
static CRC32_BE_TABLE: &Crc<u32, Table<16>> = &CRC32_BE;

/// The checksum over the descriptor and data blocks of a transaction (version 1).
pub(super) struct TransactionSum(Digest<'static, u32, Table<16>>);

impl TransactionSum {
    pub(super) fn new() -> Self {
        Self(CRC32_BE_TABLE.digest())
    }

    pub(super) fn add(&mut self, block: &[u8]) {
        self.0.update(block);
    }
}

/// What a commit block says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Commit {
    /// `h_commit_sec`: seconds since 1970.
    pub time: u64,
    /// Whether it matches its checksum, if it has one.
    pub intact: bool,
}

impl Commit {
    /// `sum` is that of the transaction's blocks.
    pub(super) fn parse(sb: &JournalSuperblock, block: &[u8], sum: TransactionSum) -> Self {
        /// `JBD2_CRC32_CHKSUM` and its size.
        const CRC32: (u8, u8) = (1, 4);
        const CHECKSUM: usize = 0x10;
        let h_chksum_type = read_u8(block, 0xC);
        let h_chksum_size = read_u8(block, 0xD);
        let h_chksum = read_u32be(block, CHECKSUM);
        let kind = (h_chksum_type, h_chksum_size);
        let intact = match sb.checksums {
            Checksums::None => true,
            // A kernel that knew no checksums left all three fields 0.
            Checksums::Transaction => {
                (kind == CRC32 && matches_checksum(sum.0.finalize(), h_chksum))
                    || (kind == (0, 0) && h_chksum == 0)
            }
            Checksums::V2 | Checksums::V3 => {
                let before = block.get(..CHECKSUM).unwrap_or_default();
                let behind = block.get(0x14..).unwrap_or_default();
                let sum = crc32c(sb.checksum_seed, [before, &[0; 4], behind]);
                matches_checksum(sum, h_chksum)
            }
        };
        Self {
            time: read_u64be(block, 0x30),
            intact,
        }
    }
}
