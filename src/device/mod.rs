//! Disks as the rest sees them. In: a path. Out: something that can be read at byte offsets and
//! says how large it is, what its sectors are and how people know it; never anything writable.
//!
//! `ioctl` is the only file of the project with `unsafe` code.

pub mod aligned;
pub mod disk;
pub mod ioctl;
pub mod read;
pub mod sysfs;

pub use aligned::AlignedBuf;
pub use disk::{Disk, DiskIdentity};
pub use read::{MemDisk, ReadAt, Window};
