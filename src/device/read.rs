//! Reading at byte offsets: the seam between parsers and devices.

use crate::error::{Error, Kind, Result};
use crate::units::{ByteLen, ByteOffset};

/// Something whose bytes can be read at any offset: a block device, an image file, a partition, a
/// buffer in a test.
pub trait ReadAt: Send + Sync {
    /// How many bytes there are.
    fn size(&self) -> ByteLen;

    /// Fills `buf` from `offset` on. A short count is an error.
    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> Result<()>;

    /// How people know it (path, model, serial), for messages.
    fn name(&self) -> String;

    /// Opens it anew after a read error, where that helps: Linux asks a device that failed once for
    /// ever smaller pieces through the same open file.
    ///
    /// # Errors
    /// When it is not there any more.
    fn reopen(&self) -> Result<()> {
        Ok(())
    }
}

impl<T: ReadAt + ?Sized> ReadAt for &T {
    fn size(&self) -> ByteLen {
        (**self).size()
    }
    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> Result<()> {
        (**self).read_at(offset, buf)
    }
    fn name(&self) -> String {
        (**self).name()
    }
    fn reopen(&self) -> Result<()> {
        (**self).reopen()
    }
}

impl<T: ReadAt + ?Sized> ReadAt for Box<T> {
    fn size(&self) -> ByteLen {
        (**self).size()
    }
    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> Result<()> {
        (**self).read_at(offset, buf)
    }
    fn name(&self) -> String {
        (**self).name()
    }
    fn reopen(&self) -> Result<()> {
        (**self).reopen()
    }
}

impl<T: ReadAt + ?Sized> ReadAt for std::sync::Arc<T> {
    fn size(&self) -> ByteLen {
        (**self).size()
    }
    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> Result<()> {
        (**self).read_at(offset, buf)
    }
    fn name(&self) -> String {
        (**self).name()
    }
    fn reopen(&self) -> Result<()> {
        (**self).reopen()
    }
}

/// Fails unless `len` bytes from `offset` on lie inside a device of `size` bytes.
pub fn check_range(name: &str, size: ByteLen, offset: ByteOffset, len: usize) -> Result<()> {
    let end = u64::try_from(len)
        .ok()
        .and_then(|len| offset.0.checked_add(len));
    if end.is_some_and(|end| end <= size.0) {
        return Ok(());
    }
    Err(Error::new(
        Kind::Corrupt,
        format!("reading {len} bytes beyond the end ({} bytes)", size.0),
    )
    .on(name)
    .at(offset.0))
}

/// A part of a device, offset 0 being its first byte: a partition, a logical volume.
#[derive(Debug)]
pub struct Window<D> {
    device: D,
    start: ByteOffset,
    size: ByteLen,
}

impl<D: ReadAt> Window<D> {
    /// Fails if the window is not wholly inside the device.
    pub fn new(device: D, start: ByteOffset, size: ByteLen) -> Result<Self> {
        if start
            .0
            .checked_add(size.0)
            .is_none_or(|end| end > device.size().0)
        {
            return Err(Error::corrupt(format!(
                "a partition of {} bytes ends behind the disk ({} bytes)",
                size.0,
                device.size().0
            ))
            .on(device.name())
            .at(start.0));
        }
        Ok(Self {
            device,
            start,
            size,
        })
    }
}

impl<D: ReadAt> ReadAt for Window<D> {
    fn size(&self) -> ByteLen {
        self.size
    }

    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> Result<()> {
        check_range(&self.name(), self.size, offset, buf.len())?;
        let at = self
            .start
            .checked_add(ByteLen(offset.0))
            .ok_or_else(|| Error::corrupt("an offset beyond 64 bits").on(self.name()))?;
        self.device.read_at(at, buf)
    }

    fn name(&self) -> String {
        self.device.name()
    }
}

/// Bytes in memory, for tests and for pieces already read.
#[derive(Debug, Clone)]
pub struct MemDisk(pub Vec<u8>);

impl ReadAt for MemDisk {
    fn size(&self) -> ByteLen {
        ByteLen(u64::try_from(self.0.len()).unwrap_or(u64::MAX))
    }

    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> Result<()> {
        check_range("memory", self.size(), offset, buf.len())?;
        let from = usize::try_from(offset.0).unwrap_or(usize::MAX);
        if let Some(bytes) = self.0.get(from..).and_then(|rest| rest.get(..buf.len())) {
            buf.copy_from_slice(bytes);
        }
        Ok(())
    }

    fn name(&self) -> String {
        "memory".into()
    }
}
