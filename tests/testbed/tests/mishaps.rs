//! Bad luck, and what it gets: a plain sentence, the right exit code, and never a capture that
//! looks whole.

use haulier_testbed::command::run;
use haulier_testbed::guest::{Base, Guest, Recipe};
use haulier_testbed::journey::{self, BOOT, CAPTURE, DISK_SERIAL, Ended, STICK_SERIAL, UNATTENDED};
use haulier_testbed::product::{Product, scratch};
use haulier_testbed::qemu::{Bus, Drive, Firmware, Machine, Running};
use haulier_testbed::stick::{STICK_BYTES, Stick};
use std::path::PathBuf;
use std::time::Instant;
use tempfile::TempDir;

struct Scene {
    folder: TempDir,
    product: Product,
    guest: Guest,
}

impl Scene {
    fn new() -> Self {
        let folder = scratch().unwrap();
        let base = Base::get(&|line| println!("{line}")).unwrap();
        let disk = folder.path().join("server.img");
        Self {
            guest: Guest::make(&base, Recipe::BIOS_MBR, &disk).unwrap(),
            product: Product::find().unwrap(),
            folder,
        }
    }

    fn stick(&self, name: &str, bytes: u64) -> Stick {
        let path: PathBuf = self.folder.path().join(name);
        let stick = Stick::make(&self.product.image, &self.product.lock, &path, bytes).unwrap();
        stick.answer(UNATTENDED).unwrap();
        stick
    }

    /// Boots the stick beside the server and waits until a capture is under way: more was read than
    /// the boot and the used maps read.
    fn in_the_middle(&self, stick: &Stick, bus: Bus) -> Running {
        let start = Instant::now();
        let mut machine = journey::server(&self.guest, bus)
            .stick(stick.path(), STICK_SERIAL)
            .start()
            .unwrap();
        machine.serial().wait_for("Haulier ", BOOT).unwrap();
        machine.serial().wait_for("capturing", CAPTURE).unwrap();
        while machine.qmp().block_stats("disk0").unwrap().read_bytes <= 64 << 20 {
            assert!(start.elapsed() < CAPTURE, "{}", machine.serial().tail());
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        machine
    }

    /// No finished capture is on the stick, according to the program itself and to the names.
    fn assert_nothing_whole(&self, stick: &Stick) {
        let listed = run(self
            .product
            .command()
            .args(["list", "--json"])
            .arg(stick.path()))
        .unwrap();
        assert!(!listed.contains("\"whole\""), "{listed}");
        let imported = self
            .product
            .command()
            .arg("import")
            .arg(stick.path())
            .args(["--to", "qemu", "--out"])
            .arg(self.folder.path().join("vm"))
            .output()
            .unwrap();
        assert!(
            !imported.status.success(),
            "an unfinished capture was imported"
        );
    }
}

fn assert_refused(ended: &Ended, words: &[&str]) {
    assert_eq!(ended.exit_code, 4, "{}", ended.screen);
    for word in words {
        assert!(
            ended.screen.contains(word),
            "\"{word}\" in:\n{}",
            ended.screen
        );
    }
}

#[test]
fn a_stick_that_is_too_small_is_refused_with_both_numbers() {
    let scene = Scene::new();
    let stick = scene.stick("stick.img", 256 << 20);
    let ended = journey::capture(journey::server(&scene.guest, Bus::Sata), &stick).unwrap();
    assert_refused(&ended, &["needs about", "are free", STICK_SERIAL]);
    assert_eq!(ended.source.writes, 0);
    scene.assert_nothing_whole(&stick);
}

#[test]
fn two_sticks_with_the_same_identity_are_refused() {
    let scene = Scene::new();
    let stick = scene.stick("stick.img", STICK_BYTES);
    let twin = scene.stick("twin.img", STICK_BYTES);
    let mut machine = journey::server(&scene.guest, Bus::Sata)
        .stick(stick.path(), STICK_SERIAL)
        .stick(twin.path(), "4C530001170816")
        .start()
        .unwrap();
    assert_eq!(journey::exit_code(&mut machine).unwrap(), 4);
    let screen = machine.serial().text();
    for word in [STICK_SERIAL, "4C530001170816", "one"] {
        assert!(screen.contains(word), "\"{word}\" in:\n{screen}");
    }
    // Whose answer file holds is not known either: it waits for a person.
    machine.serial().wait_for("p: power off", BOOT).unwrap();
    machine.serial().send("p\n").unwrap();
    machine.wait_shutdown(BOOT).unwrap();
    for drive in ["disk0", "stick0", "stick1"] {
        assert_eq!(
            machine.qmp().block_stats(drive).unwrap().writes,
            0,
            "{drive}"
        );
    }
}

#[test]
fn files_on_bad_sectors_are_named_and_all_else_is_captured() {
    let scene = Scene::new();
    let stick = scene.stick("stick.img", STICK_BYTES);
    // The third block of the shell, by the word of debugfs; and a sector of the gap.
    let root = format!("{}?offset={}", scene.guest.path.display(), 1 << 20);
    let said = run(haulier_testbed::command::tool("debugfs")
        .args(["-R", "bmap /usr/bin/bash 2"])
        .arg(&root))
    .unwrap();
    let block: u64 = said.trim().parse().unwrap();
    let sector = (1 << 20) / 512 + block * 8;
    let disk = Drive::raw(&scene.guest.path, Bus::Sata, DISK_SERIAL).bad_sectors(&[sector, 100]);
    let server = Machine::new(Firmware::Bios)
        .disk(disk)
        .stays_after_shutdown();
    let ended = journey::capture(server, &stick).unwrap();
    assert_eq!(ended.exit_code, 3, "{}", ended.screen);
    assert_eq!(ended.source.writes, 0);
    for words in [
        "could not be read",
        "the file /usr/bin/bash, 512 bytes from its byte 8192 on",
        "1.0 kB could not be read",
    ] {
        assert!(
            ended.screen.contains(words),
            "\"{words}\" in:\n{}",
            ended.screen
        );
    }
    run(scene.product.command().arg("verify").arg(stick.path())).unwrap();
    // All else is there: the image differs from the disk in nothing but those sectors.
    let out = scene.folder.path().join("vm");
    journey::import_to_qemu(&scene.product, stick.path(), &out).unwrap();
    let raw = scene.folder.path().join("copy.img");
    run(std::process::Command::new("qemu-img")
        .args(["convert", "-O", "raw"])
        .arg(out.join("disk-0.qcow2"))
        .arg(&raw))
    .unwrap();
    let copy = format!("{}?offset={}", raw.display(), 1 << 20);
    run(haulier_testbed::command::tool("e2fsck")
        .arg("-fn")
        .arg(copy))
    .unwrap();
}

#[test]
fn a_source_that_vanishes_in_the_middle_is_named() {
    let scene = Scene::new();
    let stick = scene.stick("stick.img", STICK_BYTES);
    let mut machine = scene.in_the_middle(&stick, Bus::Scsi);
    machine.qmp().unplug("disk0").unwrap();
    assert_eq!(journey::exit_code(&mut machine).unwrap(), 1);
    machine.wait_shutdown(BOOT).unwrap();
    let screen = machine.serial().text();
    assert!(screen.contains(DISK_SERIAL), "{screen}");
    drop(machine);
    scene.assert_nothing_whole(&stick);
}

#[test]
fn a_source_in_use_is_refused() {
    let scene = Scene::new();
    let stick = scene.stick("stick.img", STICK_BYTES);
    stick.kernel_words("haulier.init=shell").unwrap();
    let mut machine = journey::server(&scene.guest, Bus::Sata)
        .stick(stick.path(), STICK_SERIAL)
        .start()
        .unwrap();
    let serial = machine.serial();
    serial.wait_for("type exit to start haulier", BOOT).unwrap();
    serial
        .send(
            "mount -o ro -t ext4 /dev/sda1 /mnt; \
             haulier capture --disk /dev/sda --to /tmp; echo it ended with $?\n",
        )
        .unwrap();
    serial.wait_for("it ended with 4", BOOT).unwrap();
    let screen = serial.text();
    for words in [DISK_SERIAL, "is in use: sda1 is mounted on /mnt"] {
        assert!(screen.contains(words), "{screen}");
    }
}

#[test]
fn a_boot_without_its_stick_is_refused_with_the_disks_that_are_there() {
    let scene = Scene::new();
    let stick = scene.stick("stick.img", STICK_BYTES);
    // As if the stick had been pulled right after the kernel was loaded.
    stick
        .kernel_words("haulier.boot=5c1e0c5e-0000-4000-8000-000000000000 haulier.unattended=1")
        .unwrap();
    let start = Instant::now();
    let mut machine = journey::server(&scene.guest, Bus::Sata)
        .stick(stick.path(), STICK_SERIAL)
        .start()
        .unwrap();
    let ended = journey::ended(&mut machine, start).unwrap();
    assert_refused(&ended, &[DISK_SERIAL]);
    assert_eq!(ended.source.writes, 0);
}
