//! The stick that we booted from, and the further ones that a capture goes on on: the only disks that
//! Haulier ever writes.
//!
//! In: the kernel command line (`haulier.boot=`) and the disks of this machine. Out: a [`Stick`],
//! which exists only once proven, and its data partition, mounted ([`MountedStore`]). Whatever
//! partitions, formats or mounts takes the `Stick`, never a path, and proves it again on the open
//! device before the first write, because a stick may be pulled and another put in its place.
//!
//! | file | what it knows |
//! | --- | --- |
//! | `cmdline` | the kernel command line |
//! | `disks` | the whole disks in `/sys/block` |
//! | `table` | the two copies of a GPT: reading either, writing both so that one is always whole |
//! | `identify` | which disk is the stick |
//! | `renamed` | the stick's new names, from their invention until the next boot |
//! | `layout` | where the data partition goes, and what is there already |
//! | `partition` | bringing the stick's table to that layout |
//! | `content` | what a partition holds: our filesystem, zeros, something else |
//! | `format` | mke2fs and e2fsck |
//! | `mount` | the data partition in the file tree; the answer file on the ESP |
//! | `further` | other Haulier sticks, on which a capture can go on |
//! | `sources` | every disk that is no stick |

mod content;
mod disks;
mod format;
mod further;
mod identify;
mod layout;
mod mount;
mod partition;
mod renamed;
mod sources;
mod table;
#[cfg(test)]
mod testing;

pub mod cmdline;

pub use further::{Further, Seen, further, seen};
pub use identify::{Stick, boot_partuuid, identify, is_present};
pub use mount::{MountedStore, STORE_PATH, Space, answers, open_store, secrets};
pub use sources::source_disks;
