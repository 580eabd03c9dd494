//! Machines in QEMU: in come disks, a stick and a firmware mode; out come a serial line, the
//! machine protocol (QMP) and an exit.
//!
//! * [`machine`]: what the machine is made of, as QEMU's command line.
//! * [`firmware`]: SeaBIOS, OVMF, OVMF with Secure Boot enforced.
//! * [`run`]: a running machine, killed when dropped.
//! * [`serial`]: its first serial line: wait for a text, type a line.
//! * [`qmp`]: the machine protocol: block statistics, unplugging, screenshots.

pub mod firmware;
pub mod machine;
pub mod qmp;
pub mod run;
pub mod serial;

pub use firmware::Firmware;
pub use machine::{Bus, Drive, Machine, Screen};
pub use run::Running;
