//! The head of every object of APFS (`obj_phys_t`; Apple, "Apple File System Reference"): checksum,
//! identifiers, type.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use crate::bytes::{read_u32le, read_u64le};
use crate::device::ReadAt;
use crate::units::ByteOffset;
use crate::usedmap::crc::matches_checksum;
use crate::usedmap::finding::Refusal;

/// `OBJECT_TYPE_NX_SUPERBLOCK`, `_SPACEMAN`, `_SPACEMAN_CIB`, `_CHECKPOINT_MAP`.
pub(super) const SUPERBLOCK: u32 = 0x01;
pub(super) const SPACEMAN: u32 = 0x05;
pub(super) const SPACEMAN_CIB: u32 = 0x07;
pub(super) const CHECKPOINT_MAP: u32 = 0x0C;

/// Whether its checksum matches and it is of this type.
pub(super) fn is_valid(bytes: &[u8], object_type: u32) -> bool {
    let covered = bytes.get(8..).unwrap_or_default();
    read_u32le(bytes, 24) & 0xFFFF == object_type
        && matches_checksum(fletcher64(covered), read_u64le(bytes, 0))
}

/// `o_xid`: the transaction that wrote it.
pub(super) fn transaction(bytes: &[u8]) -> u64 {
    read_u64le(bytes, 16)
}

/// Reads an object of `len` bytes at a block, which must be valid.
pub(super) fn read(
    volume: &dyn ReadAt,
    at: u64,
    len: u64,
    object_type: u32,
    what: &str,
) -> Result<Vec<u8>, Refusal> {
    let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
    volume.read_at(ByteOffset(at), &mut bytes)?;
    if !is_valid(&bytes, object_type) {
        return Err(Refusal::Damaged(format!(
            "{what} at byte {at} does not match its checksum"
        )));
    }
    Ok(bytes)
}

/// Fletcher's checksum over 32-bit words, with check bytes that make it 0 over all.
fn fletcher64(bytes: &[u8]) -> u64 {
    const MODULUS: u64 = 0xFFFF_FFFF;
    let (mut simple, mut second) = (0_u64, 0_u64);
    for word in bytes.chunks_exact(4) {
        simple = simple.wrapping_add(u64::from(read_u32le(word, 0))) % MODULUS;
        second = second.wrapping_add(simple) % MODULUS;
    }
    let complement = |sum: u64| MODULUS.wrapping_sub(sum % MODULUS);
    let low = complement(simple.wrapping_add(second));
    let high = complement(simple.wrapping_add(low));
    high << 32 | low
}
