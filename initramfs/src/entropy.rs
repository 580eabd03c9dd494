//! Getting the kernel's random numbers going.
//!
//! A server without RDRAND (or an emulated one) has no entropy at boot, and Linux makes some of its
//! own only when a program blocks in getrandom(2). One that waits with poll(2) on `/dev/random`
//! instead, as static programs do, waits for ever; seen with the making of GUIDs for the stick.

use anyhow::{Context, Result};
use rustix::rand::{GetRandomFlags, getrandom};

/// Asks for random bytes in the background; with them, everyone else's waiting ends.
pub(crate) fn start() -> Result<()> {
    std::thread::Builder::new()
        .name("entropy".into())
        .spawn(|| {
            let mut seed = [0_u8; 32];
            // Only that it was asked for matters.
            let _ = getrandom(&mut seed, GetRandomFlags::empty());
        })
        .map(drop)
        .context("starting the thread that waits for entropy")
}
