//! A damaged volume, read as its image will be: zeros in place of what cannot be read.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use crate::device::ReadAt;
use crate::error::{Kind, Result};
use crate::units::{ByteLen, ByteOffset};

/// No disk has smaller sectors.
const SECTOR: usize = 512;

/// See the module.
pub(super) struct Patched<'a>(pub &'a dyn ReadAt);

impl ReadAt for Patched<'_> {
    fn size(&self) -> ByteLen {
        self.0.size()
    }

    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> Result<()> {
        match self.0.read_at(offset, buf) {
            Err(error) if error.kind() == Kind::Io => {}
            done => return done,
        }
        let mut at = offset.0;
        let mut rest = buf;
        while !rest.is_empty() {
            // Up to the next border of a sector.
            let over = usize::try_from(at & 511).unwrap_or(0);
            let len = SECTOR.saturating_sub(over).min(rest.len());
            let (piece, behind) = rest.split_at_mut(len);
            match self.0.read_at(ByteOffset(at), piece) {
                Err(error) if error.kind() == Kind::Io => piece.fill(0),
                done => done?,
            }
            at = at.saturating_add(u64::try_from(len).unwrap_or(u64::MAX));
            rest = behind;
        }
        Ok(())
    }

    fn name(&self) -> String {
        self.0.name()
    }
}
