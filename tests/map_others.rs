//! The proofs for filesystems that a server rarely has: each made by its own tools on soiled
//! ground, filled, half deleted and filled again by a real Linux driver (in User-Mode Linux, as
//! this machine's kernel has none of them); then every byte outside the map is overwritten, and
//! the filesystem's own checker and the digest of every file must not notice.

mod map_support;

#[path = "map_others/apfs.rs"]
mod apfs;
#[path = "map_others/common.rs"]
mod common;
#[path = "map_others/f2fs.rs"]
mod f2fs;
#[path = "map_others/hfsplus.rs"]
mod hfsplus;
#[path = "map_others/jfs.rs"]
mod jfs;
#[path = "map_others/reiserfs.rs"]
mod reiserfs;
