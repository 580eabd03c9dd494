//! Buffers as `O_DIRECT` wants them: at a multiple of the page size.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use std::ops::{Deref, DerefMut};

/// The alignment of buffers, offsets and lengths, in bytes: a multiple of every sector there is.
pub const ALIGNMENT: usize = 4096;

/// Bytes that begin at a multiple of [`ALIGNMENT`]; never moved, so no longer than they were made.
#[derive(Debug)]
pub struct AlignedBuf {
    bytes: Vec<u8>,
    skip: usize,
    len: usize,
}

impl AlignedBuf {
    /// Room for `capacity` bytes; none of them is in use yet.
    pub fn new(capacity: usize) -> Self {
        let bytes = vec![0; capacity.saturating_add(ALIGNMENT)];
        // What this returns lies below the alignment for bytes.
        let skip = bytes.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT);
        Self {
            bytes,
            skip,
            len: 0,
        }
    }

    /// How many bytes fit.
    pub fn capacity(&self) -> usize {
        self.bytes.len().saturating_sub(ALIGNMENT)
    }

    /// Uses the first `len` bytes, at most the capacity; what they are is left as it was.
    pub fn set_len(&mut self, len: usize) {
        self.len = len.min(self.capacity());
    }
}

impl Deref for AlignedBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        let rest = self.bytes.get(self.skip..).unwrap_or_default();
        rest.get(..self.len).unwrap_or_default()
    }
}

impl DerefMut for AlignedBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        let rest = self.bytes.get_mut(self.skip..).unwrap_or_default();
        rest.get_mut(..self.len).unwrap_or_default()
    }
}

/// Whether `O_DIRECT` takes a request of these bytes at this offset from what wants `alignment`, a
/// power of two.
pub fn is_aligned(bytes: &[u8], offset: u64, alignment: usize) -> bool {
    bytes.as_ptr().align_offset(alignment) == 0
        && bytes.len().is_multiple_of(alignment)
        && offset.is_multiple_of(u64::try_from(alignment).unwrap_or(u64::MAX))
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
    fn a_buffer_is_aligned_and_keeps_its_capacity() {
        for capacity in [0, 1, 4096, 65_536] {
            let mut buffer = AlignedBuf::new(capacity);
            assert!(buffer.is_empty());
            buffer.set_len(usize::MAX);
            assert_eq!(buffer.len(), capacity);
            buffer.fill(7);
            assert_eq!(is_aligned(&buffer, 8192, ALIGNMENT), capacity % 4096 == 0);
            assert!(!is_aligned(&buffer, 512, ALIGNMENT));
            assert_eq!(is_aligned(&buffer, 512, 512), capacity % 512 == 0);
        }
    }
}
