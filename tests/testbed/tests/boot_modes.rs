//! The stick reaches the Haulier screen in each firmware mode, and leaves the firmware's
//! variables alone.

use haulier_testbed::journey::{BOOT, STICK_SERIAL};
use haulier_testbed::nvram::{changed, variables};
use haulier_testbed::product::{Product, scratch};
use haulier_testbed::qemu::{Firmware, Machine, Running};
use haulier_testbed::stick::{STICK_BYTES, Stick};
use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

/// What shim writes: the list of revoked boot loaders (`SbatLevel`, shim's GUID). The guide warns
/// of it.
const OF_SHIM: &str = "SbatLevel-50ab5d6046e00043abb63dd810dd8b23";

/// The list that revokes nothing: all that shim writes with Secure Boot off.
const REVOKES_NOTHING: &[u8] = b"sbat,1,2021030218\n";

/// What the firmware counts at each start (edk2's `MTC`, the monotonic counter's high part).
const START_COUNTER: &str = "MTC-";

/// What OVMF says when it finds nothing to boot: with and without a built-in shell.
const NOTHING_TO_BOOT: [&str; 2] = ["Shell>", "No bootable option or device was found"];

/// A machine with nothing but a stick.
fn machine(firmware: Firmware, store: &Path, stick: &Path) -> Running {
    Machine::new(firmware)
        .memory_mib(512)
        .variables(store)
        .stick(stick, STICK_SERIAL)
        .start()
        .unwrap()
}

/// Boots the stick until its screen is there; returns the UEFI variables that it changed. The firmware has met a stick of the same serial number before, a blank one, so that
/// its own first-boot variables and its boot entry for the port are not counted.
fn boot(firmware: Firmware) -> BTreeMap<String, Vec<u8>> {
    let product = Product::find().unwrap();
    let folder = scratch().unwrap();
    let at = |name: &str| folder.path().join(name);
    let stick = Stick::make(&product.image, &product.lock, &at("stick.img"), STICK_BYTES).unwrap();
    let store = at("variables.fd");
    let before = (firmware != Firmware::Bios).then(|| {
        firmware.new_variables(&store).unwrap();
        File::create(at("blank.img"))
            .unwrap()
            .set_len(STICK_BYTES)
            .unwrap();
        let mut machine = machine(firmware, &store, &at("blank.img"));
        machine
            .serial()
            .wait_for_any(&NOTHING_TO_BOOT, BOOT)
            .unwrap();
        machine.kill().unwrap();
        variables(&store).unwrap()
    });
    let mut machine = machine(firmware, &store, stick.path());
    machine.serial().wait_for_line("Haulier 0.", BOOT).unwrap();
    machine.serial().wait_for("Machine:", BOOT).unwrap();
    machine.kill().unwrap();
    let Some(before) = before else {
        return BTreeMap::new();
    };
    let after = variables(&store).unwrap();
    changed(&before, &after)
        .into_iter()
        .filter(|name| !name.starts_with(START_COUNTER))
        .map(|name| (name.clone(), after.get(&name).cloned().unwrap_or_default()))
        .collect()
}

#[test]
fn boots_on_legacy_bios() {
    assert!(boot(Firmware::Bios).is_empty());
}

#[test]
fn boots_on_uefi_and_changes_no_variable_but_an_empty_sbat_level() {
    let changed = boot(Firmware::Uefi);
    assert_eq!(
        changed,
        BTreeMap::from([(OF_SHIM.to_owned(), REVOKES_NOTHING.to_vec())])
    );
}

#[test]
fn boots_with_secure_boot_enforced_and_changes_only_the_sbat_level() {
    let changed = boot(Firmware::SecureBoot);
    assert_eq!(changed.keys().collect::<Vec<_>>(), [OF_SHIM]);
}
