//! What was lost, in the words of the report (`docs/bad-sectors.md`).

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use crate::extent::Extent;
use serde::{Deserialize, Serialize};
use std::fmt;

/// A run of bytes of a disk that could not be read, and what lay there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loss {
    /// Which of the disks, counted from 0 in the order in which they were given.
    pub disk: usize,
    /// Where on the disk.
    pub range: Extent,
    /// In which volume, as the map names it (`/dev/sda partition 2`, `vg0/root`); none for what lies
    /// directly on the disk.
    pub volume: Option<String>,
    /// What lay there.
    pub what: What,
}

/// For people: one line.
impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} bytes from byte {} of disk {}",
            self.range.len().0,
            self.range.start(),
            self.disk
        )?;
        if let Some(volume) = &self.volume {
            write!(f, " ({volume})")?;
        }
        match &self.what {
            What::File {
                path,
                offset_in_file,
                bytes,
                ..
            } => write!(
                f,
                ": the file {path}, {bytes} bytes from its byte {offset_in_file} on"
            ),
            What::Directory { path, .. } => write!(f, ": names in the directory {path}"),
            What::Metadata { which, files } if files.is_empty() => write!(f, ": {which}"),
            What::Metadata { which, files } => {
                write!(f, ": {which}, and with it {}", files.join(", "))
            }
            What::FreeSpace => write!(f, ": free space, nothing is missing"),
            What::OutsideFiles { which } => write!(f, ": no part of any file ({which})"),
            What::Unknown { reason } => write!(f, ": what lay there is not known ({reason})"),
        }
    }
}

/// What lay in bytes that were lost.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum What {
    /// Content of a file.
    File {
        /// From the filesystem's root, with `/` between the names; on NTFS `file:stream` for a
        /// stream beside the file's content. What is not printable is escaped: see
        /// [`printable`](super::names::printable).
        path: String,
        /// Its inode, or on NTFS the number of its file record.
        inode: u64,
        /// The first byte of the file that was lost.
        offset_in_file: u64,
        /// How many bytes of the file were lost from there on.
        bytes: u64,
    },
    /// Names of files: those that were in it are still there, but nothing leads to them.
    Directory {
        /// As of a file.
        path: String,
        /// As of a file.
        inode: u64,
    },
    /// What a filesystem or a volume manager keeps for itself.
    Metadata {
        /// Which, for people: `inode table of group 5`.
        which: String,
        /// Files that cannot be found, or not in whole, without it, as far as they are known.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        files: Vec<String>,
    },
    /// Free by what the filesystem says: nothing is missing.
    FreeSpace,
    /// In use or not, but no part of any file: nothing of a file is missing.
    OutsideFiles {
        /// Which, for people: `between the partitions`.
        which: String,
    },
    /// It could not be found out.
    Unknown {
        /// Why, for people.
        reason: String,
    },
}

impl What {
    pub(super) fn metadata(which: impl Into<String>) -> Self {
        Self::Metadata {
            which: which.into(),
            files: Vec::new(),
        }
    }

    pub(super) fn outside(which: impl Into<String>) -> Self {
        Self::OutsideFiles {
            which: which.into(),
        }
    }

    /// Of what is beyond the bounds of what is kept.
    pub(super) fn too_much() -> Self {
        Self::unknown("so much was lost that it is not told apart any more")
    }

    /// About how many bytes of text it has.
    pub(super) fn text_bytes(&self) -> usize {
        match self {
            Self::File { path, .. } | Self::Directory { path, .. } => path.len(),
            Self::Metadata { which, files } => {
                let files = files.iter().map(String::len);
                files.fold(which.len(), usize::saturating_add)
            }
            Self::OutsideFiles { which } => which.len(),
            Self::Unknown { reason } => reason.len(),
            Self::FreeSpace => 0,
        }
    }

    pub(super) fn unknown(reason: impl Into<String>) -> Self {
        Self::Unknown {
            reason: reason.into(),
        }
    }

    /// What is said of `len` bytes, `skip` bytes into the `whole` that it is said of.
    pub(super) fn part(&self, skip: u64, len: u64, whole: u64) -> Self {
        match self {
            // Where more is lost than lay there (what is compressed), all of it hangs on each part.
            Self::File {
                path,
                inode,
                offset_in_file,
                bytes,
            } if *bytes <= whole && *bytes > skip => Self::File {
                path: path.clone(),
                inode: *inode,
                offset_in_file: offset_in_file.saturating_add(skip),
                bytes: bytes.saturating_sub(skip).min(len),
            },
            Self::File { bytes, .. } if *bytes <= whole => {
                Self::outside("behind the end of a file")
            }
            other => other.clone(),
        }
    }
}
