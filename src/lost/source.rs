//! A disk of which it is known what cannot be read: that is an error at once, without asking the disk
//! again, which would take seconds for each sector.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use crate::device::ReadAt;
use crate::device::read::check_range;
use crate::error::{Error, Kind, Result};
use crate::extent::{Extent, ExtentList};
use crate::units::{ByteLen, ByteOffset};

/// See the module.
pub(super) struct Damaged<'a> {
    pub disk: &'a dyn ReadAt,
    pub bad: &'a ExtentList,
}

impl ReadAt for Damaged<'_> {
    fn size(&self) -> ByteLen {
        self.disk.size()
    }

    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> Result<()> {
        check_range(&self.name(), self.size(), offset, buf.len())?;
        let len = ByteLen(u64::try_from(buf.len()).unwrap_or(u64::MAX));
        let hit = Extent::new(offset, len).and_then(|read| self.bad.within(read).next());
        match hit {
            Some(hit) => Err(Error::new(Kind::Io, "reading a sector that cannot be read")
                .on(self.name())
                .at(hit.start().0)),
            None => self.disk.read_at(offset, buf),
        }
    }

    fn name(&self) -> String {
        self.disk.name()
    }
}
