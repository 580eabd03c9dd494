//! Buffers as `O_DIRECT` wants them: at a multiple of the page size.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use memmap2::{Advice, MmapMut};
use std::io;
use std::ops::{Deref, DerefMut};

/// The alignment of buffers, offsets and lengths, in bytes: a multiple of every sector there is.
pub const ALIGNMENT: usize = 4096;

/// Bytes that begin at a page, so at a multiple of [`ALIGNMENT`] or more; no longer than they were
/// made.
#[derive(Debug)]
pub struct AlignedBuf {
    bytes: MmapMut,
    len: usize,
}

impl AlignedBuf {
    /// Room for `capacity` bytes; none of them is in use yet.
    ///
    /// # Errors
    /// When there is no memory for them.
    pub fn new(capacity: usize) -> io::Result<Self> {
        let bytes = MmapMut::map_anon(capacity)?;
        // Large pages spare the kernel from pinning each small one for every request; without them,
        // all goes as well, but slower.
        let _ = bytes.advise(Advice::HugePage);
        Ok(Self { bytes, len: 0 })
    }

    /// How many bytes fit.
    pub fn capacity(&self) -> usize {
        self.bytes.len()
    }

    /// Uses the first `len` bytes, at most the capacity; what they are is left as it was.
    pub fn set_len(&mut self, len: usize) {
        self.len = len.min(self.capacity());
    }

    /// Uses as many more bytes as `bytes` has, and makes them these.
    ///
    /// # Panics
    /// When they do not fit.
    pub fn extend_from_slice(&mut self, bytes: &[u8]) {
        let start = self.len;
        self.set_len(start.saturating_add(bytes.len()));
        self.get_mut(start..)
            .unwrap_or_default()
            .copy_from_slice(bytes);
    }
}

impl Deref for AlignedBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

impl DerefMut for AlignedBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.bytes.get_mut(..self.len).unwrap_or_default()
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
            let mut buffer = AlignedBuf::new(capacity).unwrap();
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
