//! The appliance in a machine whose power goes, or whose stick is pulled, at random moments of a
//! capture: after the next boot it goes on by itself, until the image is the disk's.
//!
//! A moment is a number of bytes that the stick was given since the boot, as QEMU counts them:
//! time says nothing on a busy machine. The server's disk holds no system, so that a boot is all
//! that a cut costs. `HAULIER_MACHINE_CUTS` says how many cuts (1 if not set),
//! `HAULIER_MACHINE_PULLS` how many pulls (1 if not set). Cuts that lose what was not flushed are
//! in `tests/faults/cuts.rs`, by the hundred.

use fastrand::Rng;
use haulier_testbed::bare::BareServer;
use haulier_testbed::journey::{self, BOOT, CAPTURE, Ended, STICK_SERIAL, UNATTENDED};
use haulier_testbed::qemu::{Machine, Running};
use haulier_testbed::stick::Stick;
use std::fs::File;
use std::io::Write;
use std::time::{Duration, Instant};

const MIB: usize = 1 << 20;
/// Three checkpoints and some.
const DISK_MIB: usize = 256;
/// The image and what is on a stick besides.
const STICK_BYTES: u64 = 2 << 30;

fn number(name: &str, quick: u32) -> u32 {
    std::env::var(name).map_or(quick, |text| {
        text.parse()
            .unwrap_or_else(|_| panic!("{name} is {text:?}, not a number"))
    })
}

/// A line of the table of `cargo xtask faults`.
fn row(fault: &str, moments: u32) {
    let line = format!("| {fault} | {moments} | {moments} | 0 | 0 |");
    println!("{line}");
    if let Some(path) = std::env::var_os("HAULIER_FAULTS_TABLE") {
        let table = File::options().create(true).append(true).open(path);
        writeln!(table.unwrap(), "{line}").unwrap();
    }
}

struct Scene {
    bare: BareServer,
    rng: Rng,
}

impl Scene {
    fn new() -> Self {
        Self {
            bare: BareServer::new(DISK_MIB, 4).unwrap(),
            rng: Rng::with_seed(4),
        }
    }

    fn stick(&self) -> Stick {
        let stick = self.bare.stick("stick.img", STICK_BYTES).unwrap();
        stick.answer(UNATTENDED).unwrap();
        stick
    }

    fn server(&self) -> Machine {
        self.bare.machine()
    }

    /// Somewhere in the boot's log, the data, the tables or the manifest.
    fn moment(&mut self) -> u64 {
        self.rng.u64(0..(DISK_MIB * MIB) as u64 * 7 / 8)
    }

    /// Boots until the stick was given `moment` bytes, or the appliance has ended.
    fn until(&self, stick: &Stick, moment: u64) -> Running {
        let start = Instant::now();
        let mut machine = self
            .server()
            .stick(stick.path(), STICK_SERIAL)
            .start()
            .unwrap();
        machine.serial().wait_for("Haulier ", BOOT).unwrap();
        while machine.qmp().block_stats("stick0").unwrap().written_bytes < moment
            && !machine.serial().text().contains("haulier: exit code")
        {
            assert!(start.elapsed() < CAPTURE, "{}", machine.serial().tail());
            std::thread::sleep(Duration::from_millis(50));
        }
        machine
    }

    /// The stick's only capture is whole and the disk's.
    fn prove(&self, stick: &Stick, ended: &Ended) {
        assert_eq!(ended.exit_code, 0, "{}", ended.screen);
        assert_eq!(ended.source.writes, 0);
        self.bare.prove(&[stick.path()], &[]).unwrap();
    }

    /// No finished capture is on the stick, by the program's word.
    fn nothing_is_whole(&self, stick: &Stick) {
        let listed = self
            .bare
            .product
            .command()
            .args(["list", "--json"])
            .arg(stick.path())
            .output()
            .unwrap();
        // Before its first boot has made the data partition, there is nothing to list.
        let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
        assert!(!listed.contains("\"whole\""), "{listed}");
    }
}

#[test]
fn a_capture_whose_power_is_cut_again_and_again_becomes_the_disk() {
    let cuts = number("HAULIER_MACHINE_CUTS", 1);
    let mut scene = Scene::new();
    let (mut cut, mut captures, mut went_on) = (0, 0, 0);
    while cut < cuts {
        let stick = scene.stick();
        let ended = loop {
            // The last one is in the middle of the data, so that at least one is gone on with.
            let moment = match cut + 1 {
                last if last == cuts => (DISK_MIB * MIB) as u64 / 2,
                _ => scene.moment(),
            };
            if cut == cuts {
                break journey::capture(scene.server(), &stick).unwrap();
            }
            let mut machine = scene.until(&stick, moment);
            if machine.serial().text().contains("haulier: exit code") {
                break journey::ended(&mut machine, Instant::now()).unwrap();
            }
            let screen = machine.serial().text();
            machine.kill().unwrap();
            cut += 1;
            went_on += u32::from(screen.contains("going on after"));
            println!("cut {cut} after {moment} bytes");
            scene.nothing_is_whole(&stick);
        };
        went_on += u32::from(ended.screen.contains("going on after"));
        scene.prove(&stick, &ended);
        captures += 1;
    }
    println!("{cut} cuts of {captures} captures, {went_on} boots went on after a checkpoint");
    assert!(went_on > 0, "no cut was behind a checkpoint");
    row("power cut of the appliance (QEMU killed)", cuts);
}

#[test]
fn a_stick_that_is_pulled_from_the_appliance_and_put_back_goes_on_at_the_next_boot() {
    let pulls = number("HAULIER_MACHINE_PULLS", 1);
    let mut scene = Scene::new();
    for pull in 0..pulls {
        let stick = scene.stick();
        // In the data: later there may be nothing left to pull it from.
        let moment = 80 * MIB as u64 + scene.moment() / 2;
        let mut machine = scene.until(&stick, moment);
        let screen = machine.serial().text();
        assert!(
            !screen.contains("haulier: exit code"),
            "too early:\n{screen}"
        );
        println!("pull {pull} after {moment} bytes");
        machine.qmp().unplug("stick0").unwrap();
        machine.serial().wait_for("Put it back now", BOOT).unwrap();
        machine.qmp().plug_stick("stick0", STICK_SERIAL).unwrap();
        let ended = journey::ended(&mut machine, Instant::now()).unwrap();
        drop(machine);
        assert_eq!(ended.exit_code, 1, "{}", ended.screen);
        for words in [
            "was pulled during the capture",
            STICK_SERIAL,
            "The log is on the stick",
        ] {
            assert!(
                ended.screen.contains(words),
                "\"{words}\" in:\n{}",
                ended.screen
            );
        }
        assert_eq!(ended.source.writes, 0);
        scene.nothing_is_whole(&stick);

        let ended = journey::capture(scene.server(), &stick).unwrap();
        assert!(ended.screen.contains("going on after"), "{}", ended.screen);
        scene.prove(&stick, &ended);
    }
    row("stick pulled from the appliance (device_del)", pulls);
}
