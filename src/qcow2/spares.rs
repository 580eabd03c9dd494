//! Memory for encoded clusters that goes round between those who compress and the one who writes, so
//! that it is not given back to the kernel and fetched again, zeroed, page by page.

#![forbid(unsafe_code)]

use std::sync::{Arc, Mutex, PoisonError};

/// Buffers that are kept at the most: as many as the clusters of all chunks that are on their way at once.
const MOST: usize = 2048;

/// Empty buffers, the last one that came back first: it may still be in a processor's cache. Each has room for
/// the largest stream of a cluster.
#[derive(Debug, Clone, Default)]
pub struct Spares(Arc<Mutex<Vec<Vec<u8>>>>);

impl Spares {
    /// An empty buffer with room for at least `capacity` bytes.
    pub(super) fn take(&self, capacity: usize) -> Vec<u8> {
        let spare = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut buffer = spare.unwrap_or_default();
        buffer.clear();
        buffer.reserve(capacity);
        buffer
    }

    /// For whoever comes next.
    pub(super) fn give(&self, buffer: Vec<u8>) {
        let mut spares = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if spares.len() < MOST {
            spares.push(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_takes_does_not_gather() {
        let spares = Spares::default();
        for _ in 0..3 * MOST {
            spares.give(Vec::new());
        }
        assert_eq!(spares.0.lock().unwrap().len(), MOST);
    }

    #[test]
    fn a_buffer_that_was_given_is_taken_again_empty_and_with_its_room() {
        let spares = Spares::default();
        let mut buffer = spares.clone().take(1000);
        buffer.extend_from_slice(&[7; 1000]);
        let memory = buffer.as_ptr();
        spares.give(buffer);
        let again = spares.take(1000);
        assert!(again.is_empty() && again.as_ptr() == memory);
        assert!(spares.take(10).capacity() >= 10);
    }
}
