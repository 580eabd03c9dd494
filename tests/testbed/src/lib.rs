//! Real machines for tests and for the demonstration.
//!
//! ```text
//! setup (packages of this machine) ─▶ guest (Debian server disks) ─┐
//!                                     stick (the image on a stick) ─┴▶ qemu (boots them) ─▶ digest, nvram (proofs)
//! ```
//!
//! In come a Debian mirror and the stick image; out come running machines with their serial lines,
//! QEMU's own block statistics, and digests of whole disks. Nothing here needs root, mounts or
//! loop devices, apart from installing missing packages.

#![forbid(unsafe_code)]

pub mod command;
pub mod digest;
pub mod guest;
pub mod qemu;
pub mod setup;
pub mod stick;
