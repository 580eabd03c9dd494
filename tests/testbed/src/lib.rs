//! Real machines for tests and for the demonstration.
//!
//! ```text
//! setup ─▶ guest (Debian server disks) ───────┐
//!          bare (a server without a system) ──┤
//!          product (the image, the program) ──┴▶ stick ─▶ qemu ─▶ journey ─▶ libvirt
//!                                                proofs: digest, nvram, QEMU's block statistics
//! ```
//!
//! In come a Debian mirror and the stick image; out come running machines with their serial lines,
//! QEMU's own block statistics, and digests of whole disks. Nothing here needs root, mounts or
//! loop devices, apart from installing missing packages.

#![forbid(unsafe_code)]

pub mod bare;
pub mod command;
pub mod digest;
pub mod guest;
pub mod guestfs;
pub mod journey;
pub mod lab;
pub mod libvirt;
pub mod nvram;
pub mod product;
pub mod qemu;
pub mod setup;
pub mod stick;
