//! The stick reaches the Haulier screen in each firmware mode, and leaves the firmware's
//! variables alone.

use haulier_testbed::journey::{BOOT, STICK_SERIAL};
use haulier_testbed::nvram::{changed, variables};
use haulier_testbed::product::{Product, scratch};
use haulier_testbed::qemu::{Firmware, Machine};
use haulier_testbed::stick::{STICK_BYTES, Stick};
use std::path::Path;

/// What the firmware itself writes when it starts something from a disk, whatever that is: its
/// boot menu, its last choices, its memory map. A stick can neither cause nor prevent it.
const OF_THE_FIRMWARE: [&str; 14] = [
    "Boot0",
    "BootOrder",
    "ConIn",
    "ConOut",
    "ErrOut",
    "Key0",
    "Lang",
    "MTC",
    "MemoryTypeInformation",
    "PlatformLang",
    "PlatformRecovery",
    "Timeout",
    "VarErrorFlag",
    "certdb",
];

/// What shim writes with Secure Boot on; the guide warns of it.
const OF_SHIM: &str = "SbatLevel";

/// Boots the stick with no disks beside it until the screen is there; returns the names of the
/// variables that are not the same afterwards.
fn boot(firmware: Firmware) -> Vec<String> {
    let product = Product::find().unwrap();
    let folder = scratch().unwrap();
    let stick = Stick::make(
        &product.image,
        &product.lock,
        &folder.path().join("stick.img"),
        STICK_BYTES,
    )
    .unwrap();
    let store = folder.path().join("variables.fd");
    firmware.new_variables(&store).unwrap();
    let before = read(firmware, &store);
    let mut machine = Machine::new(firmware)
        .memory_mib(512)
        .variables(&store)
        .stick(stick.path(), STICK_SERIAL)
        .start()
        .unwrap();
    machine.serial().wait_for_line("Haulier 0.", BOOT).unwrap();
    machine.serial().wait_for("Machine:", BOOT).unwrap();
    machine.kill().unwrap();
    changed(&before, &read(firmware, &store))
}

fn read(firmware: Firmware, store: &Path) -> std::collections::BTreeMap<String, Vec<u8>> {
    match firmware {
        Firmware::Bios => Default::default(),
        Firmware::Uefi | Firmware::SecureBoot => variables(store).unwrap(),
    }
}

fn not_of_the_firmware(changed: Vec<String>) -> Vec<String> {
    changed
        .into_iter()
        .filter(|name| !OF_THE_FIRMWARE.iter().any(|known| name.starts_with(known)))
        .collect()
}

#[test]
fn boots_on_legacy_bios() {
    boot(Firmware::Bios);
}

#[test]
fn boots_on_uefi_and_leaves_its_variables_alone() {
    let changed = not_of_the_firmware(boot(Firmware::Uefi));
    assert!(changed.is_empty(), "changed variables: {changed:?}");
}

#[test]
fn boots_with_secure_boot_enforced_and_changes_only_the_sbat_level() {
    let changed = not_of_the_firmware(boot(Firmware::SecureBoot));
    assert!(
        changed.iter().all(|name| name.starts_with(OF_SHIM)),
        "changed variables: {changed:?}"
    );
}
