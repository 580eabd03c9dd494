//! `cargo xtask demo`: the whole journey before your eyes.

use crate::steps::Steps;
use crate::{image, say};
use anyhow::{Context, Result, ensure};
use haulier_testbed::digest::sha256_file;
use haulier_testbed::guest::{Base, Guest, Recipe};
use haulier_testbed::journey::{self, UNATTENDED};
use haulier_testbed::product::{Product, target};
use haulier_testbed::qemu::{Bus, Machine, Screen};
use haulier_testbed::setup::{self, Purpose};
use haulier_testbed::stick::{STICK_BYTES, Stick};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

const PURPOSES: [Purpose; 4] = [
    Purpose::Build,
    Purpose::Image,
    Purpose::Machines,
    Purpose::Guests,
];

/// Where the demonstration's disks are; left there to be looked at.
struct Places {
    server: PathBuf,
    stick: PathBuf,
    vm: PathBuf,
}

/// Runs the demonstration.
pub(crate) fn run(interactive: bool) -> Result<()> {
    let start = Instant::now();
    let mut steps = Steps::default();
    setup::ensure(&PURPOSES, &say)?;
    let folder = target().join("demo");
    let places = Places {
        server: folder.join("server.img"),
        stick: folder.join("stick.img"),
        vm: folder.join("vm"),
    };
    if folder.exists() {
        fs::remove_dir_all(&folder).with_context(|| format!("emptying {}", folder.display()))?;
    }
    fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;

    // The server's disk is made while cargo builds.
    let server = places.server.clone();
    let making = thread::spawn(move || {
        let guest = Guest::make(&Base::get(&say)?, Recipe::UEFI, &server)?;
        let digest = sha256_file(&guest.path)?;
        Ok::<_, anyhow::Error>((guest, digest))
    });
    let (product, guest, before) = steps.run("build the image; make a Debian server", || {
        let product = image::build(None)?;
        let made = making.join();
        let (guest, digest) =
            made.unwrap_or_else(|_| anyhow::bail!("making the server panicked"))?;
        Ok((product, guest, digest))
    })?;
    let stick = Stick::make(&product.image, &product.lock, &places.stick, STICK_BYTES)?;

    let machine = journey::server(&guest, Bus::Sata);
    let writes = if interactive {
        steps.run("boot the stick beside the server's disk", || {
            by_hand(machine, &stick)
        })?;
        None
    } else {
        stick.answer(UNATTENDED)?;
        let ended = steps.run("boot the stick beside the server's disk, capture", || {
            journey::capture(machine, &stick)
        })?;
        ensure!(
            ended.exit_code == 0,
            "the capture ended with exit code {}:\n{}",
            ended.exit_code,
            ended.screen
        );
        Some(ended.source.writes)
    };
    let after = steps.run("read the source disk again", || sha256_file(&guest.path))?;
    ensure!(
        before == after,
        "the source disk was changed: {before} before, {after} after"
    );
    ensure!(
        writes.unwrap_or(0) == 0,
        "the source disk received {} write requests",
        writes.unwrap_or(0)
    );

    let script = steps.run("import the capture on this machine", || {
        journey::import_to_qemu(&product, &places.stick, &places.vm)
    })?;
    let script_shown = script.display().to_string();
    steps.run("boot the new virtual machine to its login prompt", || {
        journey::boot_script(&script, &guest.payload)
    })?;

    steps.print();
    summary(
        &product,
        &guest,
        &places,
        &before,
        writes.is_some(),
        start.elapsed(),
    )?;
    println!("Run the machine again:  {script_shown}");
    Ok(())
}

/// Leaves screen and keyboard to the person until the machine is off.
fn by_hand(machine: Machine, stick: &Stick) -> Result<()> {
    let window = Screen::window_is_possible();
    println!();
    println!("A server with one disk starts from the stick. When the Haulier screen shows what it");
    println!("found, press Enter to capture. Then press p and Enter to switch it off; the");
    println!("demonstration goes on with the import.");
    if !window {
        println!("(This terminal is its serial line; Ctrl-A, then X, pulls the plug.)");
    }
    println!();
    let screen = if window {
        Screen::Window
    } else {
        Screen::Terminal
    };
    let mut running = machine
        .powers_off()
        .screen(screen)
        .stick(stick.path(), journey::STICK_SERIAL)
        .start()?;
    running.wait_for_person()
}

/// What happened, how long it took, how large it is.
fn summary(
    product: &Product,
    guest: &Guest,
    places: &Places,
    digest: &str,
    counted: bool,
    took: Duration,
) -> Result<()> {
    let disk = fs::metadata(&guest.path).context("looking at the server's disk")?;
    println!();
    println!(
        "A Debian server ({} MiB disk, {} MiB of it ever written) was captured on a USB stick,",
        disk.len() >> 20,
        mib(disk.blocks() * 512)
    );
    println!("imported, and booted as a virtual machine to its login prompt.");
    println!(
        "- its {} data files ({} MiB) are the same: SHA-256 {}…",
        guest.payload.files,
        mib(guest.payload.bytes),
        &guest.payload.sha256[..16]
    );
    println!(
        "- the source disk is unchanged: SHA-256 {}… before and after{}",
        &digest[..16],
        if counted {
            "; QEMU counted 0 writes to it"
        } else {
            ""
        }
    );
    println!(
        "- the stick image is {} MiB; the capture on it is {} MiB",
        mib(fs::metadata(&product.image)?.len()),
        mib(images(&places.vm)?)
    );
    println!(
        "- it took {} s in all; the disks are in {}",
        took.as_secs(),
        places.vm.parent().unwrap_or(Path::new(".")).display()
    );
    Ok(())
}

/// The bytes of the disk images in an imported machine's folder.
fn images(folder: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(folder).with_context(|| format!("listing {}", folder.display()))? {
        let entry = entry?;
        if entry.path().extension().is_some_and(|kind| kind == "qcow2") {
            bytes += entry.metadata()?.len();
        }
    }
    Ok(bytes)
}

fn mib(bytes: u64) -> u64 {
    bytes.div_ceil(1 << 20)
}
