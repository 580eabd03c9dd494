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

use super::varstore;
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

/// Leaves the list of forbidden loaders (`dbx`) out where the VM's firmware does not take one of its size, and says so. Without
/// the other keys nothing would start; without this one Secure Boot is enforced all the same.
pub(super) fn without_long_dbx(variables: &mut Vec<EfiVariable>) -> Option<String> {
    let is_too_long = |v: &EfiVariable| v.name == "dbx" && !varstore::takes(v);
    let place = variables.iter().position(is_too_long)?;
    let bytes = variables.remove(place).data.len();
    Some(format!(
        "the machine's list of forbidden loaders (dbx) has {bytes} bytes, more than the VM's firmware \
         takes, and is left out: Secure Boot is enforced without it until the system updates it (fwupdmgr, \
         Windows Update)"
    ))
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

#[cfg(test)]
mod tests {
    use super::*;

    fn sized(dbx: usize) -> Vec<EfiVariable> {
        let sizes = [("PK", 1000), ("KEK", 1000), ("db", 5000), ("dbx", dbx)];
        let firmware = Firmware {
            secure_boot: Some(true),
            variables: sizes
                .map(|(name, bytes)| EfiVariable {
                    name: name.into(),
                    guid: GLOBAL.into(),
                    attributes: AUTHENTICATED,
                    data: vec![0; bytes],
                })
                .into(),
            ..Firmware::default()
        };
        variables(&firmware)
    }

    #[test]
    fn a_dbx_that_the_firmware_does_not_take_is_left_out_alone() {
        for (bytes, kept) in [(33_724, true), (33_725, false), (0x8400, false)] {
            let mut variables = sized(bytes);
            let note = without_long_dbx(&mut variables);
            assert_eq!(note.is_none(), kept, "{bytes}");
            let names: Vec<&str> = variables.iter().map(|v| &*v.name).collect();
            let expected = ["PK", "KEK", "db", "dbx", "SecureBootEnable"];
            let expected = expected.into_iter().filter(|name| kept || *name != "dbx");
            assert_eq!(names, expected.collect::<Vec<_>>());
            assert!(enforces_secure_boot(&variables));
            assert!(varstore::build(&variables).is_ok());
            assert!(note.is_none_or(|note| note.contains(&bytes.to_string())));
        }
    }
}
