//! Reading fields of on-disk structures by the offset that the specification gives them.
//!
//! A field that lies wholly or partly behind the end of the bytes reads as 0: structures grew over
//! the years (ext4's group descriptor from 32 to 64 bytes), and the old ones mean 0 there. Whoever
//! must tell "absent" from 0 checks the length first.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

/// `N` bytes at `at`, or zeros.
pub(crate) fn read_array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes
        .get(at..)
        .and_then(|rest| rest.first_chunk::<N>())
        .copied()
        .unwrap_or([0; N])
}

/// One byte.
pub(crate) fn read_u8(bytes: &[u8], at: usize) -> u8 {
    bytes.get(at).copied().unwrap_or(0)
}

/// A little-endian 16-bit field.
pub(crate) fn read_u16le(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(read_array(bytes, at))
}

/// A little-endian 32-bit field.
pub(crate) fn read_u32le(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(read_array(bytes, at))
}

/// A little-endian 64-bit field.
pub(crate) fn read_u64le(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(read_array(bytes, at))
}

/// A big-endian 16-bit field.
pub(crate) fn read_u16be(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes(read_array(bytes, at))
}

/// A big-endian 32-bit field.
pub(crate) fn read_u32be(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(read_array(bytes, at))
}

/// A big-endian 64-bit field.
pub(crate) fn read_u64be(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(read_array(bytes, at))
}

/// Whether `magic` stands at `at`.
pub(crate) fn has_magic(bytes: &[u8], at: usize, magic: &[u8]) -> bool {
    bytes.get(at..).is_some_and(|rest| rest.starts_with(magic))
}

/// A text of at most `len` bytes at `at`, ended by NUL; `None` if it is empty.
pub(crate) fn read_text(bytes: &[u8], at: usize, len: usize) -> Option<String> {
    let field: Vec<u8> = bytes
        .iter()
        .skip(at)
        .take(len)
        .copied()
        .take_while(|&byte| byte != 0)
        .collect();
    (!field.is_empty()).then(|| String::from_utf8_lossy(&field).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_behind_the_end_reads_as_zero() {
        let bytes = [1, 2, 3, 4, 5];
        assert_eq!(read_u32le(&bytes, 1), 0x0504_0302);
        assert_eq!(read_u32be(&bytes, 1), 0x0203_0405);
        assert_eq!(read_u32le(&bytes, 2), 0);
        assert_eq!(read_u64le(&bytes, usize::MAX), 0);
    }

    #[test]
    fn a_text_ends_at_nul_or_at_its_field() {
        assert_eq!(read_text(b"root\0junk", 0, 9).as_deref(), Some("root"));
        assert_eq!(read_text(b"abcdef", 2, 3).as_deref(), Some("cde"));
        assert_eq!(read_text(b"\0\0", 0, 2), None);
    }
}
