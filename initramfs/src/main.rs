//! PID 1 of the appliance.
//!
//! In: the kernel's events and the module files of the initramfs. Out: drivers loaded, every disk
//! set read-only the moment it appears, and `haulier appliance` running on the consoles until it
//! asks for power-off or restart.
//!
//! ```text
//! mounts -> console -> guard (disks read-only) -> devices + coldplug -> modules -> settle -> supervise -> power
//! ```
//!
//! It never assembles anything: the initramfs has no mdadm, no LVM and no udev rules, and the
//! modules that could (see [`modules::NEVER`]) are not loaded for a device or for the kernel.
//!
//! Called as `modprobe`, it serves the kernel's own requests for modules (a filesystem at mount).

#![forbid(unsafe_code)]

mod coldplug;
mod console;
mod devices;
mod entropy;
mod guard;
mod modules;
mod mounts;
mod power;
mod settle;
mod supervise;
mod uevent;

use anyhow::{Context, Result};
use console::Console;
use haulier::stick::cmdline::Cmdline;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// The last file in the initramfs' archive: where it is missing, so may be any other.
const COMPLETE: &str = "/etc/haulier-complete";

fn main() -> std::process::ExitCode {
    let mut arguments = std::env::args();
    let called_as = arguments.next().unwrap_or_default();
    if Path::new(&called_as).ends_with("modprobe") {
        return modules::modprobe::main(arguments);
    }
    if std::process::id() != 1 {
        eprintln!("haulier-init is PID 1 of the Haulier stick; there is nothing to do for it here");
        return haulier::exit::Exit::Usage.into();
    }
    // The kernel panics when PID 1 ends, and the screen with the reason is gone. The hook runs
    // before any unwinding or abort.
    std::panic::set_hook(Box::new(|panic| {
        Console::last_words(&format!("The system on the stick failed: {panic}"));
        forever();
    }));
    let Err(error) = boot();
    Console::last_words(&format!("The system on the stick cannot start: {error:#}"));
    forever()
}

/// PID 1 must not end.
fn forever() -> ! {
    loop {
        std::thread::sleep(Duration::from_secs(3600));
    }
}

fn boot() -> Result<std::convert::Infallible> {
    mounts::basic()?;
    let cmdline = Cmdline::of_this_kernel()?;
    let console = Arc::new(Console::open(&cmdline));
    console.say("Looking for disks and for the stick");
    anyhow::ensure!(
        Path::new(COMPLETE).exists(),
        "the stick is damaged: its system was not read to the end ({COMPLETE} is missing). Write \
         the image to the stick again, or use another stick"
    );

    entropy::start()?;
    let guard = Arc::new(guard::Guard::new(console.clone()));
    // Drivers built into the kernel have their disks already.
    guard.protect_all();
    let events = uevent::Socket::open().context("listening for the kernel's device events")?;
    let index = modules::Index::of_this_kernel()?;
    let options = modules::Options::new(&cmdline);
    let loader = Arc::new(modules::Loader::start(index, options, console.clone())?);
    let news = Arc::new(settle::News::default());
    devices::watch(events, guard.clone(), loader.clone(), news.clone())?;
    coldplug::request_all(Path::new("/sys/devices"), &loader);

    settle::wait(&cmdline, &loader, &news, &console);
    guard.protect_all();
    console.say(&guard.summary());
    mounts::efivars(&console);
    supervise::run(&cmdline, &console)
}
