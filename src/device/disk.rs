//! A source disk, block device or image file, opened so that it cannot be written.

use super::aligned::{ALIGNMENT, is_aligned};
use super::ioctl;
use super::read::{ReadAt, check_range};
use crate::error::{Error, Kind, Result};
use crate::units::{ByteLen, ByteOffset, SectorSize};
use rustix::fs::{FileType, Mode, OFlags};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

/// What a disk is, as people and later steps need it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskIdentity {
    /// The path that it was opened by.
    pub path: PathBuf,
    /// Vendor and model as the device says them; `None` for a file.
    pub model: Option<String>,
    /// Serial number as the device says it.
    pub serial: Option<String>,
    /// World-wide name (`naa.…`, `eui.…`, `nvme.…`).
    pub wwn: Option<String>,
    /// Exact size in bytes.
    pub size_bytes: u64,
    /// Logical sector in bytes.
    pub logical_sector_bytes: SectorSize,
    /// Physical sector in bytes.
    pub physical_sector_bytes: SectorSize,
}

impl DiskIdentity {
    /// `/dev/sda (SAMSUNG MZ7LH480, serial S45NNA0M123456, 480.1 GB)`
    pub fn describe(&self) -> String {
        let mut facts = Vec::new();
        facts.extend(self.model.clone());
        facts.extend(
            self.serial
                .as_ref()
                .map(|serial| format!("serial {serial}")),
        );
        facts.push(ByteLen(self.size_bytes).to_string());
        format!("{} ({})", self.path.display(), facts.join(", "))
    }
}

/// An open source disk. There is no way to write through it.
#[derive(Debug)]
pub struct Disk {
    /// For asking what the device is.
    file: File,
    /// For its bytes.
    reading: RwLock<Arc<Reading>>,
    identity: DiskIdentity,
    block_device: bool,
    /// `/sys/block/…` of a block device: its disappearance tells a pulled disk from a bad sector.
    sysfs: Option<PathBuf>,
}

/// What is read through; opened anew after a read error.
#[derive(Debug)]
struct Reading {
    cached: File,
    /// Bypasses the kernel's cache, where the filesystem lets it.
    direct: Option<File>,
    /// What requests past the cache have to be multiples of: a block device's logical sector, so
    /// that around a bad one no more is asked for than it; of files a page, which all take.
    alignment: usize,
}

impl Reading {
    fn open(path: &Path, alignment: usize) -> rustix::io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
        let cached = rustix::fs::open(path, flags, Mode::empty())?;
        // tmpfs and others refuse.
        let direct = rustix::fs::open(path, flags | OFlags::DIRECT, Mode::empty()).ok();
        Ok(Self {
            cached: cached.into(),
            direct: direct.map(Into::into),
            alignment,
        })
    }

    /// Reads past the cache where that is possible: a capture reads each byte once, at the
    /// device's speed, and the cache would only cost memory and copying.
    fn read(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        if let Some(direct) = &self.direct
            && is_aligned(buf, offset, self.alignment)
        {
            match direct.read_exact_at(buf, offset) {
                // Some filesystems take the flag and refuse the request.
                Err(error)
                    if error.raw_os_error() == Some(rustix::io::Errno::INVAL.raw_os_error()) => {}
                done => return done,
            }
        }
        self.cached.read_exact_at(buf, offset)
    }
}

impl Disk {
    /// Opens a block device or an image file for reading.
    ///
    /// # Errors
    /// When it cannot be opened, is neither of the two, or its size is not whole sectors.
    pub fn open(path: &Path) -> Result<Self> {
        let opening = || format!("opening {} for reading", path.display());
        let fd = rustix::fs::open(
            path,
            OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK,
            Mode::empty(),
        )
        .map_err(|e| Error::io(opening(), e))?;
        let stat = rustix::fs::fstat(&fd).map_err(|e| Error::io(opening(), e))?;
        let file = File::from(fd);
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::BlockDevice => Self::block_device(path, file, stat.st_rdev),
            FileType::RegularFile => Self::image_file(path, file),
            _ => Err(Error::refused(format!(
                "{} is neither a block device nor an image file",
                path.display()
            ))),
        }
    }

    fn image_file(path: &Path, file: File) -> Result<Self> {
        let size = file
            .metadata()
            .map_err(|e| Error::io(format!("asking the size of {}", path.display()), e))?
            .len();
        if size == 0 || size % SectorSize::B512.bytes() != 0 {
            return Err(Error::refused(format!(
                "{} has {size} bytes: not a whole number of 512-byte sectors, so not a raw disk \
                 image",
                path.display()
            )));
        }
        let reading = Reading::open(path, ALIGNMENT)
            .map_err(|e| Error::io(format!("opening {} for reading", path.display()), e))?;
        Ok(Self {
            file,
            reading: RwLock::new(Arc::new(reading)),
            identity: DiskIdentity {
                path: path.to_owned(),
                model: None,
                serial: None,
                wwn: None,
                size_bytes: size,
                logical_sector_bytes: SectorSize::B512,
                physical_sector_bytes: SectorSize::B512,
            },
            block_device: false,
            sysfs: None,
        })
    }

    fn block_device(path: &Path, file: File, device: u64) -> Result<Self> {
        let asking = |what: &str| format!("asking {what} of {}", path.display());
        let size_bytes = ioctl::size_bytes(&file).map_err(|e| Error::io(asking("the size"), e))?;
        if size_bytes == 0 {
            return Err(Error::refused(format!(
                "{} has no medium in it (size 0)",
                path.display()
            )));
        }
        let sector = |bytes: rustix::io::Result<u32>, what: &str| {
            let bytes = bytes.map_err(|e| Error::io(asking(what), e))?;
            SectorSize::new(bytes).ok_or_else(|| {
                Error::new(Kind::Unsupported, format!("{what} of {bytes} bytes"))
                    .on(path.display().to_string())
            })
        };
        let logical = sector(rustix::fs::ioctl_blksszget(&file), "a logical sector")?;
        let physical = sector(rustix::fs::ioctl_blkpbszget(&file), "a physical sector")?;
        let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
        let sysfs = std::fs::canonicalize(format!("/sys/dev/block/{major}:{minor}")).ok();
        let names = sysfs
            .as_deref()
            .map(super::sysfs::names)
            .unwrap_or_default();
        let alignment = usize::try_from(logical.bytes()).unwrap_or(ALIGNMENT);
        let reading = Reading::open(path, alignment)
            .map_err(|e| Error::io(format!("opening {} for reading", path.display()), e))?;
        Ok(Self {
            file,
            reading: RwLock::new(Arc::new(reading)),
            identity: DiskIdentity {
                path: path.to_owned(),
                model: names.model,
                serial: names.serial,
                wwn: names.wwn,
                size_bytes,
                logical_sector_bytes: logical,
                physical_sector_bytes: physical,
            },
            block_device: true,
            sysfs,
        })
    }

    /// Treats an image file as a disk with sectors of this size (a block device knows its own).
    #[must_use]
    pub fn with_sector_size(mut self, sector: SectorSize) -> Self {
        if !self.block_device {
            self.identity.logical_sector_bytes = sector;
            self.identity.physical_sector_bytes = sector;
        }
        self
    }

    /// What it is.
    pub fn identity(&self) -> &DiskIdentity {
        &self.identity
    }

    /// Whether it is a block device rather than an image file.
    pub fn is_block_device(&self) -> bool {
        self.block_device
    }

    /// Refuses a disk that something on this machine uses: a mount, swap, a volume manager, md.
    /// The kernel knows best: an exclusive open of the whole disk fails while any part is claimed.
    pub fn refuse_if_in_use(&self) -> Result<()> {
        if !self.block_device {
            return Ok(());
        }
        match rustix::fs::open(
            &self.identity.path,
            OFlags::RDONLY | OFlags::EXCL | OFlags::CLOEXEC,
            Mode::empty(),
        ) {
            Ok(_) => Ok(()),
            Err(rustix::io::Errno::BUSY) => {
                let users = self
                    .sysfs
                    .as_deref()
                    .map(super::sysfs::users)
                    .unwrap_or_default();
                let by = if users.is_empty() {
                    String::new()
                } else {
                    format!(": {}", users.join(", "))
                };
                Err(
                    Error::refused(format!("{} is in use{by}", self.identity.describe())).advise(
                        "Unmount it, swapoff, stop the volume group or array, then try again",
                    ),
                )
            }
            Err(error) => Err(Error::io(
                format!("checking whether {} is in use", self.identity.describe()),
                error,
            )),
        }
    }

    /// Has the kernel refuse all writes to a block device, by anyone, for as long as the result
    /// lives. Without permission (not root) the read-only open is the guard. Never for a disk in
    /// use: see [`refuse_if_in_use`](Self::refuse_if_in_use).
    pub fn protect(&self) -> Result<Protection<'_>> {
        let setting = |e| Error::io(format!("setting {} read-only", self.name()), e);
        let mut protection = Protection {
            disk: self,
            lift: false,
        };
        if self.block_device && !ioctl::is_read_only(&self.file).map_err(setting)? {
            match ioctl::set_read_only(&self.file, true) {
                Ok(()) => protection.lift = true,
                Err(rustix::io::Errno::ACCESS | rustix::io::Errno::PERM) => {}
                Err(error) => return Err(setting(error)),
            }
        }
        Ok(protection)
    }

    /// Whether a block device that was there is gone.
    pub fn has_vanished(&self) -> bool {
        match &self.sysfs {
            Some(sysfs) => {
                !sysfs.exists() || ioctl::size_bytes(&self.file).is_ok_and(|size| size == 0)
            }
            None => false,
        }
    }

    /// Tells the kernel that these bytes need not stay in its cache.
    pub fn forget(&self, offset: ByteOffset, len: ByteLen) {
        let len = std::num::NonZeroU64::new(len.0);
        // Only advice: nothing depends on it.
        let _ = rustix::fs::fadvise(&self.file, offset.0, len, rustix::fs::Advice::DontNeed);
    }
}

/// Writes to the disk are refused; what was there before comes back when this is dropped. On the
/// appliance every disk is read-only from the beginning, and stays so.
#[derive(Debug)]
#[must_use = "the protection ends when this is dropped"]
pub struct Protection<'a> {
    disk: &'a Disk,
    lift: bool,
}

impl Drop for Protection<'_> {
    fn drop(&mut self) {
        if self.lift {
            // A disk that is gone needs no lifting.
            let _ = ioctl::set_read_only(&self.disk.file, false);
        }
    }
}

impl ReadAt for Disk {
    fn size(&self) -> ByteLen {
        ByteLen(self.identity.size_bytes)
    }

    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> Result<()> {
        check_range(&self.name(), self.size(), offset, buf.len())?;
        let reading = Arc::clone(&self.reading.read().unwrap_or_else(PoisonError::into_inner));
        reading.read(buf, offset.0).map_err(|error| {
            let reading = format!("reading {} bytes", buf.len());
            // A disk that was pulled reads as an error or as one of no size, by its driver.
            let error = if self.has_vanished() {
                Error::new(Kind::Vanished, format!("{reading}: the disk is gone"))
                    .advise("Check its cable or bay, then start again")
            } else if error.kind() == io::ErrorKind::UnexpectedEof {
                Error::new(Kind::Io, format!("{reading}: it became shorter"))
            } else {
                Error::io(reading, error)
            };
            error.on(self.name()).at(offset.0)
        })
    }

    fn name(&self) -> String {
        self.identity.describe()
    }

    fn reopen(&self) -> Result<()> {
        let path = &self.identity.path;
        let opening = |e| Error::io(format!("opening {} again", path.display()), e).on(self.name());
        let alignment = self
            .reading
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .alignment;
        let reading = Reading::open(path, alignment).map_err(opening)?;
        // The path may belong to another disk by now.
        let same = |a: &File, b: &File| {
            let (a, b) = (rustix::fs::fstat(a)?, rustix::fs::fstat(b)?);
            Ok((a.st_rdev, a.st_dev, a.st_ino) == (b.st_rdev, b.st_dev, b.st_ino))
        };
        if !same(&self.file, &reading.cached).map_err(opening)? || self.has_vanished() {
            return Err(Error::new(Kind::Vanished, "the disk is gone")
                .on(self.name())
                .advise("Check its cable or bay, then start again"));
        }
        *self.reading.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(reading);
        Ok(())
    }
}
