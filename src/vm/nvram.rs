//! Which of a machine's UEFI variables a VM gets. Without its boot entry a system whose loader is
//! not at the fallback path `\EFI\BOOT\BOOTX64.EFI` does not start: the firmware ends in its shell.
//!
//! Entries carry over when they name a partition: its GUID is on the captured disk too. What comes
//! before the partition in a path is a place in the old machine and is cut off, which leaves the
//! short form that firmware searches all disks for (UEFI 2.10, 3.1.2).

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use crate::inventory::{EfiVariable, Firmware, GLOBAL, LoadOption, SECURITY_DATABASE, device_path};

/// `gEfiSecureBootEnableDisableGuid` of edk2.
const SECURE_BOOT_ENABLE: &str = "f0a30bc7-af08-4556-99c4-001009c93a44";
/// Non-volatile, visible to boot services.
const NON_VOLATILE_BOOT: u32 = 0x3;
/// The node that ends a whole device path (UEFI 2.10, 10.3.1).
pub(super) const END_OF_PATH: [u8; 4] = [0x7f, 0xff, 4, 0];
/// Non-volatile, visible to boot services and at run time.
pub(super) const NON_VOLATILE_RUNTIME: u32 = 0x7;
/// The same with authenticated writes.
const AUTHENTICATED: u32 = 0x27;
/// Entries beyond this are not carried: a machine has a handful.
const MOST_ENTRIES: usize = 64;

/// The variables for a VM's store: the boot entries that can work there, their order, and the keys
/// when the machine enforced Secure Boot with them.
pub fn variables(firmware: &Firmware) -> Vec<EfiVariable> {
    let mut variables = Vec::new();
    let mut order: Vec<u8> = Vec::new();
    for entry in firmware.entries_in_order().into_iter().take(MOST_ENTRIES) {
        let name = format!("Boot{:04X}", entry.number);
        let Some(data) = firmware.variable(&name).and_then(|v| portable(&v.data)) else {
            continue;
        };
        order.extend(entry.number.to_le_bytes());
        variables.push(EfiVariable {
            name,
            guid: GLOBAL.into(),
            attributes: NON_VOLATILE_RUNTIME,
            data,
        });
    }
    if !order.is_empty() {
        variables.push(EfiVariable {
            name: "BootOrder".into(),
            guid: GLOBAL.into(),
            attributes: NON_VOLATILE_RUNTIME,
            data: order,
        });
    }
    if firmware.secure_boot == Some(true) {
        variables.extend(keys(firmware));
    }
    variables
}

/// Whether a store with these variables makes OVMF enforce Secure Boot.
pub fn enforces_secure_boot(variables: &[EfiVariable]) -> bool {
    variables.iter().any(|v| v.guid == SECURE_BOOT_ENABLE)
}

/// The load option with its path cut down to the partition and the file, if it has both.
fn portable(data: &[u8]) -> Option<Vec<u8>> {
    let option = LoadOption::parse(data)?;
    let nodes: Vec<_> = device_path::nodes(option.path)
        .skip_while(|node| !node.is_hard_drive())
        .collect();
    nodes.iter().find_map(|node| node.file())?;
    let mut path: Vec<u8> = nodes.iter().flat_map(|node| node.raw).copied().collect();
    path.extend(END_OF_PATH);
    let mut data = option.attributes.to_le_bytes().to_vec();
    data.extend(u16::try_from(path.len()).ok()?.to_le_bytes());
    data.extend(option.description);
    data.extend(path);
    data.extend(option.optional_data);
    Some(data)
}

/// Platform key, key exchange keys, allowed and forbidden signers, and the switch. Nothing where
/// one of the first three is missing: half a key set refuses everything.
fn keys(firmware: &Firmware) -> Vec<EfiVariable> {
    let key = |name: &str, guid: &str| {
        Some(EfiVariable {
            name: name.into(),
            guid: guid.into(),
            attributes: AUTHENTICATED,
            data: firmware.variable(name)?.data.clone(),
        })
    };
    let required = [("PK", GLOBAL), ("KEK", GLOBAL), ("db", SECURITY_DATABASE)];
    let Some(mut keys) = required
        .iter()
        .map(|(name, guid)| key(name, guid))
        .collect::<Option<Vec<_>>>()
    else {
        return Vec::new();
    };
    keys.extend(key("dbx", SECURITY_DATABASE));
    keys.push(EfiVariable {
        name: "SecureBootEnable".into(),
        guid: SECURE_BOOT_ENABLE.into(),
        attributes: NON_VOLATILE_BOOT,
        data: vec![1],
    });
    keys
}
