//! A technician at the appliance's serial console: a server that does not fit on one stick, and one
//! that was captured before. The servers' disks hold no system, so that a boot of the stick is all
//! that a test costs.

use haulier_testbed::bare::BareServer;
use haulier_testbed::command::run;
use haulier_testbed::journey::{self, BOOT, CAPTURE, STICK_SERIAL};
use haulier_testbed::qemu::{Machine, Running};
use haulier_testbed::stick::Stick;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

const MIB: u64 = 1 << 20;
/// Seven of eight are noise, so that the image has as much.
const DISK_MIB: usize = 272;
/// The image of the stick leaves some 150 MiB.
const SMALL_STICK: u64 = 256 * MIB;
const SECOND_SERIAL: &str = "4C530001170816";
const FOREIGN_SERIAL: &str = "AA00000000000489";

/// A disk that is not plugged in yet, for `plug_stick(NAME)`.
fn drive(name: &str, path: &Path) -> String {
    format!(
        "driver=raw,node-name={name}-node,file.driver=file,file.filename={}",
        path.display()
    )
}

/// Waits for `words` and answers.
fn say(machine: &mut Running, words: &str, answer: &str) {
    let serial = machine.serial();
    serial.wait_for(words, CAPTURE).unwrap();
    serial.send(answer).unwrap();
}

fn power_off(machine: &mut Running) {
    say(machine, "p: power off", "p\n");
    machine.wait_shutdown(BOOT).unwrap();
    let source = machine.qmp().block_stats("disk0").unwrap();
    assert_eq!(source.writes, 0, "the source was written to");
}

#[test]
fn a_server_larger_than_its_stick_goes_on_on_the_next_one_and_on_no_other_disk() {
    let scene = BareServer::new(DISK_MIB, 5).unwrap();
    let first = scene.stick("first.img", SMALL_STICK).unwrap();
    let second = scene.stick("second.img", SMALL_STICK).unwrap();
    let foreign = scene.folder.path().join("foreign.img");
    File::create(&foreign)
        .unwrap()
        .set_len(2 * SMALL_STICK)
        .unwrap();
    run(haulier_testbed::command::tool("mke2fs")
        .args(["-q", "-t", "ext4"])
        .arg(&foreign))
    .unwrap();
    let before = haulier_testbed::digest::sha256_file(&foreign).unwrap();

    let mut machine = scene
        .machine()
        .stick(first.path(), STICK_SERIAL)
        .extra(&["-blockdev", &drive("stick1", second.path())])
        .extra(&["-blockdev", &drive("foreign", &foreign)])
        .start()
        .unwrap();
    machine.serial().wait_for("Haulier ", BOOT).unwrap();
    say(&mut machine, "Enter: capture this disk", "\n");
    say(&mut machine, "Type yes to begin", "yes\n");
    let put_in = "Put in the next Haulier stick";
    // The first one is still in; then so is a disk that is no stick of ours.
    say(&mut machine, put_in, "\n");
    let used = "holds a part of this capture already";
    let line = machine.serial().wait_for_line(used, BOOT).unwrap();
    assert!(line.contains(STICK_SERIAL), "{line}");
    machine.serial().wait_for(put_in, BOOT).unwrap();
    machine.qmp().plug_stick("foreign", FOREIGN_SERIAL).unwrap();
    machine.serial().send("\n").unwrap();
    let none = "is no Haulier stick";
    let line = machine.serial().wait_for_line(none, BOOT).unwrap();
    assert!(line.contains(FOREIGN_SERIAL), "{line}");
    machine.serial().wait_for(put_in, BOOT).unwrap();
    machine.qmp().unplug("stick0").unwrap();
    machine.qmp().plug_stick("stick1", SECOND_SERIAL).unwrap();
    machine.serial().send("\n").unwrap();
    let line = machine
        .serial()
        .wait_for_line("Next stick: ", BOOT)
        .unwrap();
    assert!(line.contains(SECOND_SERIAL), "{line}");
    assert_eq!(journey::exit_code(&mut machine).unwrap(), 0);
    power_off(&mut machine);
    drop(machine);

    let now = haulier_testbed::digest::sha256_file(&foreign).unwrap();
    assert_eq!(before, now, "a disk that is no stick was written to");
    // In any order; and one alone is not enough.
    scene.prove(&[second.path(), first.path()], &[]).unwrap();
    let alone = scene
        .product
        .command()
        .arg("import")
        .arg(second.path())
        .args(["--to", "qemu", "--out"])
        .arg(scene.folder.path().join("alone"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&alone.stderr).into_owned();
    assert_eq!(alone.status.code(), Some(4), "{said}");
    assert!(said.contains("part 1"), "{said}");
}

#[test]
fn of_three_fresh_sticks_one_at_a_time_takes_its_part() {
    // Three sticks hold it, two do not.
    let scene = BareServer::new(400, 7).unwrap();
    let sticks: Vec<(String, Stick, String)> = (0..3)
        .map(|number| {
            let stick = scene.stick(&format!("stick-{number}.img"), SMALL_STICK);
            let serial = format!("4C53000117081{number}");
            (format!("stick{number}"), stick.unwrap(), serial)
        })
        .collect();
    let [first, second, third] = &sticks[..] else {
        unreachable!("three were made")
    };
    let mut machine = scene
        .machine()
        .stick(first.1.path(), &first.2)
        .stick(second.1.path(), &second.2)
        .extra(&["-blockdev", &drive(&third.0, third.1.path())])
        .start()
        .unwrap();
    machine.serial().wait_for("Haulier ", BOOT).unwrap();
    // Both carry the names of the image: which one was booted from cannot be told.
    let twins = "more than one disk carries the identity of the stick";
    let line = machine.serial().wait_for_line(twins, BOOT).unwrap();
    assert!(
        line.contains(&first.2) && line.contains(&second.2),
        "{line}"
    );
    assert_eq!(journey::exit_code(&mut machine).unwrap(), 4);
    machine.qmp().unplug(&second.0).unwrap();
    say(&mut machine, "Enter: back to the start", "\n");
    say(&mut machine, "Enter: capture this disk", "\n");
    say(&mut machine, "Type yes to begin", "yes\n");
    for (before, next) in [(first, second), (second, third)] {
        let put_in = "Put in the next Haulier stick";
        machine.serial().wait_for(put_in, CAPTURE).unwrap();
        machine.qmp().unplug(&before.0).unwrap();
        machine.qmp().plug_stick(&next.0, &next.2).unwrap();
        machine.serial().send("\n").unwrap();
        let line = machine
            .serial()
            .wait_for_line("Next stick: ", BOOT)
            .unwrap();
        assert!(line.contains(&next.2), "{line}");
    }
    assert_eq!(journey::exit_code(&mut machine).unwrap(), 0);
    power_off(&mut machine);
    drop(machine);
    scene
        .prove(&[third.1.path(), first.1.path(), second.1.path()], &[])
        .unwrap();
}

#[test]
fn a_power_cut_on_the_second_stick_costs_neither_the_first_part_nor_a_checkpoint() {
    // Nobody is there then, and both sticks are.
    cut_on_the_second_stick(|server, first, second| {
        let server = server.stick(first.path(), STICK_SERIAL);
        (first, server.stick(second.path(), SECOND_SERIAL))
    });
}

#[test]
fn after_a_power_cut_on_the_second_stick_that_one_alone_goes_on() {
    cut_on_the_second_stick(|server, _, second| {
        (second, server.stick(second.path(), SECOND_SERIAL))
    });
}

/// Cuts the power on the second stick, and boots again as `again` says: from which stick, and with
/// which ones.
fn cut_on_the_second_stick(
    again: impl for<'a> Fn(Machine, &'a Stick, &'a Stick) -> (&'a Stick, Machine),
) {
    let scene = BareServer::new(DISK_MIB, 5).unwrap();
    let first = scene.stick("first.img", SMALL_STICK).unwrap();
    let second = scene.stick("second.img", SMALL_STICK).unwrap();
    let mut machine = scene
        .machine()
        .stick(first.path(), STICK_SERIAL)
        .extra(&["-blockdev", &drive("stick1", second.path())])
        .start()
        .unwrap();
    machine.serial().wait_for("Haulier ", BOOT).unwrap();
    say(&mut machine, "Enter: capture this disk", "\n");
    say(&mut machine, "Type yes to begin", "yes\n");
    let put_in = "Put in the next Haulier stick";
    machine.serial().wait_for(put_in, CAPTURE).unwrap();
    machine.qmp().plug_stick("stick1", SECOND_SERIAL).unwrap();
    machine.serial().send("\n").unwrap();
    machine.serial().wait_for("Next stick: ", BOOT).unwrap();
    let start = Instant::now();
    // Behind its first checkpoint.
    while machine.qmp().block_stats("stick1").unwrap().written_bytes < 80 * MIB {
        assert!(start.elapsed() < BOOT, "{}", machine.serial().tail());
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(!machine.serial().text().contains("haulier: exit code"));
    machine.kill().unwrap();

    let (booted, machine) = again(scene.machine(), &first, &second);
    booted
        .answer("unattended = true\nspan = true\nafter = \"poweroff\"\n")
        .unwrap();
    let start = Instant::now();
    let mut machine = machine.start().unwrap();
    let ended = journey::ended(&mut machine, start).unwrap();
    drop(machine);
    assert_eq!(ended.exit_code, 0, "{}", ended.screen);
    assert_eq!(ended.source.writes, 0);
    assert!(ended.screen.contains("going on after"), "{}", ended.screen);
    scene.prove(&[first.path(), second.path()], &[]).unwrap();
}

#[test]
fn a_second_pass_from_the_keyboard_stores_what_changed_since_the_first() {
    let scene = BareServer::new(64, 5).unwrap();
    let stick = scene.stick("stick.img", 2 * SMALL_STICK).unwrap();
    let mut machine = scene
        .machine()
        .stick(stick.path(), STICK_SERIAL)
        .start()
        .unwrap();
    machine.serial().wait_for("Haulier ", BOOT).unwrap();
    say(&mut machine, "Enter: capture this disk", "\n");
    assert_eq!(journey::exit_code(&mut machine).unwrap(), 0);
    let first = machine.qmp().block_stats("stick0").unwrap().written_bytes;

    // The server ran on meanwhile.
    let file = File::options().write(true).open(&scene.disk).unwrap();
    file.write_all_at(&[0x5A; 4096], 20 * MIB + 512).unwrap();
    file.write_all_at(&[0; 65536], 40 * MIB).unwrap();
    drop(file);
    say(&mut machine, "Enter: back to the start", "\n");
    say(&mut machine, "This machine was captured already", "s\n");
    say(&mut machine, "Second pass: only what changed since", "\n");
    assert_eq!(journey::exit_code(&mut machine).unwrap(), 0);
    let both = machine.qmp().block_stats("stick0").unwrap().written_bytes;
    assert!(
        both - first < 8 * MIB,
        "{} bytes were written for two clusters",
        both - first
    );
    let screen = machine.serial().text();
    let (_, store) = screen.rsplit_once("/run/haulier/store/").unwrap();
    let second = store.split_whitespace().next().unwrap();
    power_off(&mut machine);
    drop(machine);
    scene.prove(&[stick.path()], &["--pick", second]).unwrap();
}
