//! Debian packages, fixed by a lock file.
//!
//! In: the names of packages, and a mirror. Out: a lock file (`archive` asks the archive what is
//! current), the packages named by a lock file as verified files (`fetch`), and a folder with
//! their contents whose programs run on any host (`sysroot`).
//!
//! Nothing here needs root, and nothing touches the host's own package database: `archive` gives
//! apt a private root. Only the suite [`SUITE`] is used, components [`COMPONENTS`].

mod archive;
mod fetch;
mod lock;
mod mirror;
mod sysroot;

pub use archive::{Archive, relock};
pub use fetch::{deb_path, fetch};
pub use lock::{Lock, Package};
pub use mirror::{keyring, mirror};
pub use sysroot::{Sysroot, unpack};

/// The Debian release that everything is taken from.
pub const SUITE: &str = "trixie";

/// The components of it: firmware for storage controllers is in the second.
pub const COMPONENTS: &str = "main non-free-firmware";

/// The only architecture; a server that Haulier carries is one of these.
pub const ARCHITECTURE: &str = "amd64";
