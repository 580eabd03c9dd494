//! Real Debian servers as disk images, made in seconds without root or mounts.
//!
//! In come packages from the machine's Debian mirror; out comes a disk that boots to a login
//! prompt and says the digest of its data files on the way.
//!
//! * `base`: the installed system, as a tar archive that is made once and kept in the cache.
//! * `files`: what makes it this server: configuration, a service, the data files.
//! * `recipe`: what sort of server it is, and where what lies.
//! * `disk`: partition tables, the system's image, swap.
//! * `volumes`: XFS, btrfs, LVM, LUKS and md, made in a laboratory.
//! * `grub`: the ESP with shim and GRUB or with systemd-boot, or GRUB in the gap behind an MBR or in a BIOS boot partition.
//! * `keys`: keys of the owner's own for Secure Boot.
//! * `junk`: what deleted files leave behind in free blocks, so that a capture that copies
//!   them shows.

mod base;
mod disk;
mod entry;
mod files;
mod grub;
mod junk;
mod keys;
mod recipe;
mod volumes;

pub use base::{Base, Flavor};
pub use disk::Guest;
pub use files::Payload;
pub use keys::OwnKeys;
pub use recipe::{Boot, DISK_WWN, Drivers, PASSPHRASE, Recipe, Root};
