//! Used maps: which bytes of a disk are worth reading. In: a disk and its partition table. Out: a
//! [`DiskMap`], region by region with the reason for each decision, and the extents that a capture
//! reads.
//!
//! One rule stands above all: a map never loses a block. Only a filesystem that is clean, whole and
//! fully understood is reduced to its used blocks; unknown, damaged, dirty or unsupported content
//! is copied except where it is zero, and the region says why.
//!
//! `identify` names what is in a volume, one folder or file a filesystem answers which of its bytes
//! are in use (`ext`, `swap`, `xfs`; `finding` lists them all), `disk` puts the answers together.
//!
//! A reader is a function `look(volume) -> Filesystem`. It reports used bytes only when it
//! understands the filesystem and its counts agree; every other answer is a `Refusal` in words.

mod apfs;
pub(crate) mod bitmap;
pub mod btrfs;
mod compose;
pub(crate) mod crc;
mod disk;
mod divide;
mod encrypted;
mod exfat;
pub mod ext;
mod f2fs;
pub(crate) mod fat;
mod finding;
mod firmware_raid;
mod hfsplus;
pub mod identify;
mod jfs;
mod made;
mod node;
pub(crate) mod ntfs;
pub(crate) mod overlay;
mod patched;
mod region;
mod reiserfs;
mod sets;
pub(crate) mod survey;
mod swap;
mod text;
pub(crate) mod xfs;

use crate::extent::collect;
pub use disk::{DiskInfo, DiskMap, map_disks};
pub use made::MadeVolume;
pub use region::{Policy, Region, RegionKind, State};
