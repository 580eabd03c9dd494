//! What is installed on disks. In: disks that can be read, and the keys of encrypted volumes. Out: each
//! installed system as its own files describe it ([`System`]), and why something of it is not known.
//!
//! Nothing is mounted or activated, and nothing is written: the volumes are those that the used map
//! composes, the files are read by `crate::files`. What a system's files say is a stranger's: texts are
//! cut, names that could do harm are none.
//!
//! `volumes` finds a volume by what a system calls it; `linux` and its parts (`tables`,
//! `discoverable`, `loader`, `specification`, `unified`, `kernels`, `initramfs`, `lvm`, `network`) read a Linux, `windows` and `hive` a Windows.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

mod cpio;
mod discoverable;
mod drivers;
mod hive;
mod initramfs;
mod kernels;
mod linux;
mod loader;
mod lvm;
mod network;
mod notes;
mod order;
mod reading;
mod specification;
mod system;
mod tables;
mod unified;
mod volumes;
mod windows;

pub(super) use order::by_firmware;
pub use system::{
    CommandLine, CrypttabEntry, FstabEntry, GivenName, Interface, Kernel, LvmDevice, LvmDevices,
    Network, RootPlace, System, SystemKind, WindowsDriver,
};
pub(crate) use unified::Started;
#[cfg(test)]
pub(crate) use {cpio::tests::newc, unified::tests::image as unified_image};

use crate::device::ReadAt;
use crate::error::Result;
use crate::files::{Cached, Node, Tree};
use crate::usedmap::DiskInfo;
use crate::usedmap::survey::survey;
use crate::volume::crypt::Secrets;
use notes::Notes;
use std::path::Path;
use volumes::Volumes;

/// Systems that are told: a server has one, a laboratory's a few.
const MOST: usize = 16;

/// What was found on some disks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// The systems, in the order of the disks.
    pub systems: Vec<System>,
    /// What could not be read, each a sentence.
    pub notes: Vec<String>,
}

/// Looks for systems on the disks of one machine. What `secrets` open is looked into, in memory.
///
/// # Errors
/// Only when a disk is gone.
pub fn look(sources: &[(&dyn ReadAt, DiskInfo)], secrets: &Secrets) -> Result<Found> {
    let kept: Vec<Cached<'_>> = sources.iter().map(|(disk, _)| Cached::new(*disk)).collect();
    let cached: Vec<(&dyn ReadAt, DiskInfo)> = kept
        .iter()
        .zip(sources)
        .map(|(disk, (_, info))| {
            let disk: &dyn ReadAt = disk;
            (disk, info.clone())
        })
        .collect();
    let surveyed = survey(&cached, secrets)?;
    let disks = sources.iter().map(|(_, info)| disk_name(&info.path));
    let notes = Notes::default();
    let mut systems = Vec::new();
    {
        let volumes = Volumes::open(&surveyed, disks.collect(), &notes);
        for (place, tree) in volumes.trees() {
            if windows::is_root(tree, tree.root()) && systems.len() < MOST {
                systems.push(windows::read(&volumes, place, tree, tree.root(), &notes));
                continue;
            }
            for root in roots(tree) {
                if systems.len() < MOST {
                    systems.push(linux::read(&volumes, place, tree, root, &notes));
                }
            }
        }
        // Where a system may be that nobody can see.
        if systems.is_empty() {
            for (place, what) in volumes.closed().take(MOST) {
                notes.add(format!(
                    "{} is {what}, and no key that was given opens it",
                    volumes.name(place)
                ));
                systems.push(System {
                    root: volumes.describe(place),
                    ..System::default()
                });
            }
        }
    }
    Ok(Found {
        systems,
        notes: notes.into_all(),
    })
}

/// The directories of a filesystem that are roots of a system: of several subvolumes those that a
/// system mounts as its root by its own word, where there are such; the others are snapshots of it.
fn roots(tree: &dyn Tree) -> Vec<(Node, Option<String>)> {
    let mut roots: Vec<(Node, Option<String>)> = tree
        .roots()
        .into_iter()
        .filter(|(node, _)| linux::is_root(tree, *node))
        .collect();
    if roots.len() > 1 {
        let own: Vec<(Node, Option<String>)> = roots
            .iter()
            .filter(|(node, _)| {
                let options = linux::root_options(tree, *node);
                tree.subvolume(&options) == Some(*node)
            })
            .cloned()
            .collect();
        if !own.is_empty() {
            roots = own;
        }
    }
    roots
}

/// `sda` for `/dev/sda`; the path of an image.
fn disk_name(path: &Path) -> String {
    let name = path.strip_prefix("/dev").unwrap_or(path);
    name.display().to_string()
}
