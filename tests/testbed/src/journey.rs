//! The journey in three steps, for tests and for the demonstration: capture on the stick, import
//! on this machine, boot as a VM.

use crate::command::run;
use crate::guest::{Boot, Guest, Payload, Recipe};
use crate::guestfs;
use crate::product::Product;
use crate::qemu::qmp::BlockStats;
use crate::qemu::{Bus, Drive, Firmware, Machine, Running, Screen};
use crate::stick::Stick;
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// From power-on to the appliance's screen; 30 s on a quiet machine, under emulation.
pub const BOOT: Duration = Duration::from_secs(300);
/// From the appliance's screen to the end of a capture; 60 s on a quiet machine.
pub const CAPTURE: Duration = Duration::from_secs(900);
/// From power-on to a server's login prompt; 40 s on a quiet machine.
pub const LOGIN: Duration = Duration::from_secs(600);

/// The answer file of an unattended capture of every disk.
pub const UNATTENDED: &str =
    "unattended = true\ndisks = [\"all\"]\nname = \"ledger\"\nafter = \"poweroff\"\n";

/// The address of the server's network card, which the VM must have too.
pub const MAC: &str = "52:54:00:7a:3c:01";
/// The serial number of the server's disk.
pub const DISK_SERIAL: &str = "BTYF83930A2X960C";
/// The serial number of the stick.
pub const STICK_SERIAL: &str = "4C530001170815";

/// How the appliance's run ended.
#[derive(Debug, Clone)]
pub struct Ended {
    /// The number in `haulier: exit code N`.
    pub exit_code: u8,
    /// Everything on the serial line.
    pub screen: String,
    /// What QEMU counted on the source disk when the machine was off.
    pub source: BlockStats,
    /// From power-on to power-off.
    pub took: Duration,
}

/// The firmware that boots a guest of this kind.
pub fn firmware_of(recipe: &Recipe) -> Firmware {
    match recipe.boot {
        Boot::Uefi if recipe.own_keys => Firmware::SecureBoot,
        Boot::Uefi => Firmware::Uefi,
        Boot::BiosMbr | Boot::BiosGpt => Firmware::Bios,
    }
}

/// The server: the guest's disk on `bus`, a network card, a name plate; no stick yet.
pub fn server(guest: &Guest, bus: Bus) -> Machine {
    Machine::new(firmware_of(&guest.recipe))
        .product("Dell Inc.", "PowerEdge R640", "7XK3P52")
        .disk(Drive::raw(&guest.path, bus, DISK_SERIAL).model("INTEL SSDSC2KB960G8"))
        .network_card("e1000e", MAC)
        .stays_after_shutdown()
}

/// Boots `server` from `stick`, whose answer file says what happens, and waits until it is off.
///
/// # Errors
/// When the appliance does not come up, or does not end in time.
pub fn capture(server: Machine, stick: &Stick) -> Result<Ended> {
    let start = Instant::now();
    let mut machine = server.stick(stick.path(), STICK_SERIAL).start()?;
    machine.serial().wait_for("Haulier ", BOOT)?;
    ended(&mut machine, start)
}

/// Waits for the appliance's last word, the number in `haulier: exit code N`.
///
/// # Errors
/// When it does not come in time.
pub fn exit_code(machine: &mut Running) -> Result<u8> {
    let line = machine
        .serial()
        .wait_for_line("haulier: exit code ", CAPTURE)?;
    line.rsplit(' ')
        .next()
        .and_then(|code| code.parse().ok())
        .with_context(|| format!("reading the exit code in {line:?}"))
}

/// Waits for the end of the appliance's run in `machine`, which was switched on at `start`.
///
/// # Errors
/// When it does not end in time.
pub fn ended(machine: &mut Running, start: Instant) -> Result<Ended> {
    let exit_code = exit_code(machine)?;
    machine.wait_shutdown(BOOT)?;
    Ok(Ended {
        exit_code,
        screen: machine.serial().text(),
        source: machine.qmp().block_stats("disk0")?,
        took: start.elapsed(),
    })
}

/// `haulier import STICK --to qemu --out OUT`; returns the script that runs the machine.
///
/// # Errors
/// When the import fails; with what it said.
pub fn import_to_qemu(product: &Product, stick: &Path, out: &Path) -> Result<PathBuf> {
    let folder = out.parent().context("a folder that lies in none")?;
    let mut import = product.command();
    import
        .arg("import")
        .arg(stick)
        .args(["--to", "qemu", "--out"])
        .arg(out);
    run(guestfs::emulated(&mut import, folder)?)?;
    Ok(out.join("run.sh"))
}

/// Boots an imported machine by its script up to the login prompt, comparing what it says about
/// its data files with `payload`.
///
/// # Errors
/// When it does not boot, or says something else.
pub fn boot_script(script: &Path, payload: &Payload) -> Result<Running> {
    let mut machine = Running::script(script, Screen::Hidden)?;
    check_boot(&mut machine, payload)?;
    Ok(machine)
}

/// Waits for a server's payload line, compares it, and waits for the login prompt.
///
/// # Errors
/// When it does not boot, or says something else.
pub fn check_boot(machine: &mut Running, payload: &Payload) -> Result<()> {
    let line = machine.serial().wait_for_line("payload: ", LOGIN)?;
    check_payload(&line, payload)?;
    machine.serial().wait_for("login: ", LOGIN)
}

/// Compares the line of a booted server with what was put into it.
///
/// # Errors
/// When they differ.
pub fn check_payload(line: &str, payload: &Payload) -> Result<()> {
    if !line.ends_with(&payload.line()) {
        bail!(
            "the imported machine's files differ: it says\n  {line}\nwhere the server had\n  {}",
            payload.line()
        );
    }
    Ok(())
}
