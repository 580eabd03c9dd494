//! RAID 1: every slot holds everything.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use super::{Geometry, Piece};

/// So many slots of so many bytes.
#[derive(Debug)]
pub(crate) struct Mirror {
    /// Copies.
    pub slots: usize,
    /// Bytes.
    pub size: u64,
}

impl Geometry for Mirror {
    fn size(&self) -> u64 {
        self.size
    }

    fn slots(&self) -> usize {
        self.slots
    }

    fn piece(&self, at: u64) -> Piece {
        Piece {
            len: self.size.saturating_sub(at),
            copies: (0..self.slots).map(|slot| (slot, at)).collect(),
            rebuild: Vec::new(),
        }
    }

    fn each(&self, start: u64, end: u64, put: &mut dyn FnMut(usize, u64, u64)) {
        for slot in 0..self.slots {
            put(slot, start, end);
        }
    }

    fn used(&self, _slot: usize) -> u64 {
        self.size
    }
}
