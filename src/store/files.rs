//! The files of one directory, wherever that directory lies.

use crate::device::{ReadAt, ioctl, read::check_range};
use crate::error::{Error, Kind, Result};
use crate::units::{ByteLen, ByteOffset};
use rustix::fs::{FileType, Mode, OFlags};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// A file in a directory.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct FileEntry {
    /// Its name in the directory.
    pub name: String,
    /// Its size; 0 for what is not a file.
    pub bytes: ByteLen,
    /// Whether it is a directory.
    pub is_dir: bool,
}

/// The files of a directory tree, read-only: on a mounted filesystem or on a stick's own.
pub trait CaptureFiles: Send + Sync {
    /// How people know the directory, for messages.
    fn name(&self) -> String;

    /// What is in it, by name.
    fn list(&self) -> Result<Vec<FileEntry>>;

    /// Opens one of its files.
    fn open(&self, name: &str) -> Result<Box<dyn ReadAt>>;

    /// One of its directories.
    fn dir(&self, name: &str) -> Result<Box<dyn CaptureFiles>>;

    /// The directory `name` beside it.
    fn sibling(&self, name: &str) -> Result<Box<dyn CaptureFiles>>;

    /// Reads a whole file of at most `limit`.
    fn read_small(&self, name: &str, limit: ByteLen) -> Result<Vec<u8>> {
        let file = self.open(name)?;
        let size = file.size();
        if size > limit {
            return Err(Error::corrupt(format!(
                "{name} has {} bytes, and {limit} is the most it may have",
                size.0
            ))
            .on(self.name()));
        }
        let mut bytes = vec![0; usize::try_from(size.0).unwrap_or(0)];
        file.read_at(ByteOffset(0), &mut bytes)?;
        Ok(bytes)
    }
}

/// Refuses names that would leave the directory.
pub(super) fn check_name(name: &str) -> Result<()> {
    if name.is_empty() || name == "." || name == ".." || name.contains(['/', '\0']) {
        return Err(Error::corrupt(format!(
            "{name:?} is not the name of a file"
        )));
    }
    Ok(())
}

/// A directory of a mounted filesystem.
#[derive(Debug, Clone)]
pub struct DirFiles(PathBuf);

impl DirFiles {
    /// The directory at `path`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl CaptureFiles for DirFiles {
    fn name(&self) -> String {
        self.0.display().to_string()
    }

    fn list(&self) -> Result<Vec<FileEntry>> {
        let listing = |e| Error::io(format!("listing {}", self.0.display()), e);
        let mut entries = Vec::new();
        for entry in std::fs::read_dir(&self.0).map_err(listing)? {
            let entry = entry.map_err(listing)?;
            // Not followed: a link in a capture is not the file that it should be.
            let metadata = entry.metadata().map_err(listing)?;
            entries.push(FileEntry {
                name: entry.file_name().to_string_lossy().into_owned(),
                bytes: ByteLen(if metadata.is_file() {
                    metadata.len()
                } else {
                    0
                }),
                is_dir: metadata.is_dir(),
            });
        }
        entries.sort();
        Ok(entries)
    }

    fn open(&self, name: &str) -> Result<Box<dyn ReadAt>> {
        check_name(name)?;
        Ok(Box::new(FileReader::open(&self.0.join(name))?))
    }

    fn dir(&self, name: &str) -> Result<Box<dyn CaptureFiles>> {
        check_name(name)?;
        Ok(Box::new(Self(self.0.join(name))))
    }

    fn sibling(&self, name: &str) -> Result<Box<dyn CaptureFiles>> {
        check_name(name)?;
        let beside = self.0.parent().unwrap_or(Path::new("/")).join(name);
        if !beside.is_dir() {
            let error = std::io::Error::from(std::io::ErrorKind::NotFound);
            return Err(Error::io(format!("opening {}", beside.display()), error));
        }
        Ok(Box::new(Self(beside)))
    }
}

/// A file, or a stick's block device, opened for reading and otherwise left as it is (a
/// [`crate::device::Disk`] would set the device read-only in the kernel).
#[derive(Debug)]
pub struct FileReader {
    file: File,
    size: ByteLen,
    path: PathBuf,
}

impl FileReader {
    /// # Errors
    /// When it cannot be opened or is neither a file nor a block device.
    pub fn open(path: &Path) -> Result<Self> {
        let opening = |e: rustix::io::Errno| Error::io(format!("opening {}", path.display()), e);
        let fd = rustix::fs::open(
            path,
            OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK,
            Mode::empty(),
        )
        .map_err(opening)?;
        let stat = rustix::fs::fstat(&fd).map_err(opening)?;
        let size = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => u64::try_from(stat.st_size).unwrap_or(0),
            FileType::BlockDevice => ioctl::size_bytes(&fd).map_err(opening)?,
            _ => {
                return Err(Error::corrupt(format!(
                    "{} is neither a file nor a block device",
                    path.display()
                )));
            }
        };
        Ok(Self {
            file: File::from(fd),
            size: ByteLen(size),
            path: path.to_owned(),
        })
    }

    /// The open file.
    pub fn file(&self) -> &File {
        &self.file
    }
}

impl ReadAt for FileReader {
    fn size(&self) -> ByteLen {
        self.size
    }

    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> Result<()> {
        check_range(&self.name(), self.size, offset, buf.len())?;
        self.file.read_exact_at(buf, offset.0).map_err(|error| {
            let doing = format!("reading {} bytes", buf.len());
            match error.kind() {
                std::io::ErrorKind::UnexpectedEof => {
                    Error::new(Kind::Io, format!("{doing}: it became shorter"))
                }
                _ => Error::io(doing, error),
            }
            .on(self.name())
            .at(offset.0)
        })
    }

    fn name(&self) -> String {
        self.path.display().to_string()
    }
}
