//! Real Debian servers as disk images, made in seconds without root or mounts.
//!
//! In come packages from the machine's Debian mirror; out comes a disk that boots to a login
//! prompt and says the digest of its data files on the way.
//!
//! * `base`: the installed system, as a tar archive that is made once and kept in the cache.
//! * `files`: what makes it this server: configuration, a service, the data files.
//! * `disk`: partition table, filesystems, swap.
//! * `grub`: the ESP with shim and GRUB, or GRUB in the gap behind an MBR.
//! * `junk`: what deleted files leave behind in free blocks, so that a capture that copies
//!   them shows.

mod base;
mod disk;
mod files;
mod grub;
mod junk;

pub use base::Base;
pub use disk::{Guest, Kind};
pub use files::Payload;
