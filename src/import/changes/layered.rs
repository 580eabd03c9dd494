//! An overlay as this program's own readers see it: what the overlay does not hold is read from the image
//! below it. Both were made here; QEMU wrote into the overlay.

use crate::device::ReadAt;
use crate::error::Result;
use crate::qcow2::{Mapping, Reader};
use crate::store::FileReader;
use crate::units::{ByteLen, ByteOffset, SectorSize};
use crate::usedmap::DiskInfo;
use std::path::{Path, PathBuf};

/// See the module.
pub(super) struct Layered {
    path: PathBuf,
    over: Reader<FileReader>,
    below: Box<dyn ReadAt>,
}

impl Layered {
    /// `image` is raw if its name ends so, else qcow2.
    ///
    /// # Errors
    /// When one of them cannot be read as what it is.
    pub(super) fn open(overlay: &Path, image: &Path) -> Result<Self> {
        let below = FileReader::open(image)?;
        let below: Box<dyn ReadAt> = if image.extension().is_some_and(|end| end == "raw") {
            Box::new(below)
        } else {
            Box::new(Reader::open(below)?)
        };
        Ok(Self {
            path: image.to_owned(),
            over: Reader::open_top(FileReader::open(overlay)?)?,
            below,
        })
    }

    pub(super) fn as_read(&self) -> &dyn ReadAt {
        self
    }

    pub(super) fn info(&self, sector: SectorSize) -> DiskInfo {
        DiskInfo {
            path: self.path.clone(),
            size_bytes: self.size().0,
            logical_sector_bytes: sector,
            physical_sector_bytes: sector,
        }
    }
}

impl ReadAt for Layered {
    fn size(&self) -> ByteLen {
        self.over.size()
    }

    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> Result<()> {
        crate::device::read::check_range(&self.name(), self.size(), offset, buf.len())?;
        let length = self.over.cluster_bytes().max(1);
        let mut at = offset.0;
        let mut rest = buf;
        while !rest.is_empty() {
            let cluster = at / length;
            let within = at % length;
            let room = usize::try_from(length - within).unwrap_or(usize::MAX);
            let (now, later) = rest.split_at_mut(room.min(rest.len()));
            match self.over.find(cluster)? {
                Mapping::Unallocated => self.below.read_at(ByteOffset(at), now)?,
                mapping => {
                    let within = usize::try_from(within).unwrap_or(usize::MAX);
                    self.over.read_mapped(cluster, mapping, within, now)?;
                }
            }
            at = at.saturating_add(u64::try_from(now.len()).unwrap_or(0));
            rest = later;
        }
        Ok(())
    }

    fn name(&self) -> String {
        self.over.name()
    }
}
