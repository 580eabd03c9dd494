//! Haulier carries a physical server into a cloud on a USB stick.
//!
//! The modules are the stations of the data, in the order in which it travels:
//!
//! ```text
//! device -> ptable -> volume -> usedmap -> capture -> qcow2 -> store -> import
//!     files (of what volumes hold) -> inventory -----> vm ------^
//!     stick (the medium we booted from) -> store
//! ```
//!
//! Each knows only the stations before it; nothing but `cli` and `tui` talks to people, and the
//! engine shows what it does through one injected [`report::Report`].

#![deny(unsafe_code)]

pub(crate) mod bytes;
pub mod capture;
pub(crate) mod checksum;
pub mod cli;
pub mod device;
pub mod error;
pub mod exit;
pub mod extent;
pub(crate) mod files;
pub mod import;
pub mod inventory;
pub mod lost;
pub mod ptable;
pub mod qcow2;
pub(crate) mod refusal;
pub mod report;
pub mod stick;
pub mod store;
pub mod tui;
pub mod units;
pub mod usedmap;
pub mod vm;
pub mod volume;

pub use error::{Error, Kind, Result};
