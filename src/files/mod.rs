//! Files of filesystems that nobody mounted. In: volumes (partitions, logical volumes, arrays,
//! decrypted containers). Out: directories, files and symbolic links by their paths, across several
//! filesystems where one is to be mounted in another.
//!
//! Nothing is written, and all of it is a stranger's: what contradicts itself is refused, and no walk
//! goes on for ever. One file a filesystem (`ext`, `xfs`, `btrfs`, `ntfs`, `fat`), each a [`Tree`];
//! `mapped` is the content of a file whose bytes lie on the volume as they are; `namespace` goes along a path, `below`
//! through all folders.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

mod below;
mod btrfs;
mod cache;
mod ext;
mod fat;
mod mapped;
mod namespace;
mod ntfs;
mod stream;
mod xfs;

pub(crate) use below::below;
pub(crate) use cache::Cached;
pub(crate) use namespace::{Files, Listed};
pub(crate) use stream::Stream;

use crate::device::ReadAt;
use crate::refusal::Refusal;

/// What kind of file it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Link,
    /// A device, a pipe, a socket.
    Other,
}

/// A file by what its filesystem calls it by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Node {
    /// The tree that it is in: a btrfs subvolume; 0 elsewhere.
    pub tree: u64,
    /// The inode, or the file record.
    pub number: u64,
}

/// The content of a file.
pub(crate) trait Content {
    /// In bytes.
    fn size(&self) -> u64;

    /// Fills `buf` from `at` on, which must lie inside the file.
    fn read(&self, at: u64, buf: &mut [u8]) -> Result<(), Refusal>;
}

/// The files of one filesystem.
pub(crate) trait Tree {
    /// Its name: `ext4`, `xfs`.
    fn filesystem(&self) -> &str;

    /// Its UUID or serial number, as blkid writes it.
    fn uuid(&self) -> Option<String>;

    /// Its label.
    fn label(&self) -> Option<String>;

    /// The root directory.
    fn root(&self) -> Node;

    /// What kind of file it is.
    fn kind(&self, node: Node) -> Result<Kind, Refusal>;

    /// Calls `each` for every entry of a directory that can be read, `.` and `..` among them or not.
    fn entries(&self, directory: Node, each: &mut dyn FnMut(&[u8], Node)) -> Result<(), Refusal>;

    /// A regular file.
    fn open(&self, file: Node) -> Result<Box<dyn Content + '_>, Refusal>;

    /// Where a symbolic link points.
    fn target(&self, link: Node) -> Result<Vec<u8>, Refusal>;

    /// The directories that may be the root of a system, each with its name: the subvolumes of btrfs.
    fn roots(&self) -> Vec<(Node, Option<String>)> {
        vec![(self.root(), None)]
    }

    /// The directory that these mount options stand for; `None` if it is not there.
    fn subvolume(&self, options: &[String]) -> Option<Node> {
        let _ = options;
        Some(self.root())
    }

    /// Whether names that differ only in the case of ASCII letters are the same.
    fn folds_case(&self) -> bool {
        false
    }
}

/// Opens the filesystem of a volume by the name that `identify` gives it; `None` if its files are not
/// read. `all` are the volumes with this sort of filesystem: one may lie on several.
pub(crate) fn open<'a>(
    name: &str,
    volume: &'a dyn ReadAt,
    all: &[&'a dyn ReadAt],
) -> Option<Result<Box<dyn Tree + 'a>, Refusal>> {
    Some(match name {
        "ext" => ext::Ext::open(volume).map(boxed),
        "xfs" => xfs::Xfs::open(volume).map(boxed),
        "btrfs" => btrfs::Btrfs::open(volume, all).map(boxed),
        "ntfs" => ntfs::Ntfs::open(volume).map(boxed),
        "fat" => fat::Fat::open(volume).map(boxed),
        _ => return None,
    })
}

fn boxed<'a>(tree: impl Tree + 'a) -> Box<dyn Tree + 'a> {
    Box::new(tree)
}

/// Symbolic links with longer targets are none that a kernel follows (`PATH_MAX`).
const LONGEST_TARGET: u64 = 4096;

/// The target of a link that is kept as a file is.
fn target_of(content: &dyn Content) -> Result<Vec<u8>, Refusal> {
    let size = content.size();
    if size > LONGEST_TARGET {
        return Err(Refusal::Damaged(format!(
            "a symbolic link has a target of {size} bytes"
        )));
    }
    let mut target = vec![0; usize::try_from(size).unwrap_or(0)];
    content.read(0, &mut target)?;
    Ok(target)
}
