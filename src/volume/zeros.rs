//! Zeros: what lies nowhere.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use super::{Places, Volume};
use crate::device::ReadAt;
use crate::device::read::check_range;
use crate::error::Result;
use crate::extent::Extent;
use crate::units::{ByteLen, ByteOffset};

/// So many of them.
pub(crate) struct Zeros(pub(crate) ByteLen);

impl ReadAt for Zeros {
    fn size(&self) -> ByteLen {
        self.0
    }

    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> Result<()> {
        check_range("zeros", self.0, offset, buf.len())?;
        buf.fill(0);
        Ok(())
    }

    fn name(&self) -> String {
        "zeros".into()
    }
}

impl Volume for Zeros {
    fn trace(&self, _extent: Extent, _places: &mut Places) {}
}
