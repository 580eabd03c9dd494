//! Which of several systems starts first: the one whose loader the firmware tries first, if its boot
//! entries tell.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use super::system::{System, SystemKind};
use crate::inventory::Firmware;

/// Folders of loaders on an EFI system partition, and the `ID` of their distributions where it is
/// another.
const FOLDERS: [(&str, &str); 4] = [
    ("redhat", "rhel"),
    ("redhat", "ol"),
    ("opensuse", "opensuse-leap"),
    ("opensuse", "opensuse-tumbleweed"),
];

/// Brings the systems into the order in which the firmware would start them. Those that it does not
/// name stay in the order of the disks, behind.
pub(in crate::inventory) fn by_firmware(systems: &mut [System], firmware: &Firmware) {
    let rank = |system: &System| {
        let mut order = firmware.boot_order.iter();
        order.position(|number| {
            let mut entries = firmware.boot_entries.iter();
            entries.any(|entry| {
                entry.number == *number
                    && entry.active
                    && entry
                        .file
                        .as_deref()
                        .is_some_and(|file| loads(file, system))
            })
        })
    };
    systems.sort_by_cached_key(|system| rank(system).unwrap_or(usize::MAX));
}

/// Whether a loader is that of a system, by its folder: `\EFI\debian\shimx64.efi`.
fn loads(file: &str, system: &System) -> bool {
    let mut parts = file.split(['\\', '/']).filter(|part| !part.is_empty());
    let folder = parts.nth(1).unwrap_or_default().to_ascii_lowercase();
    match system.kind {
        Some(SystemKind::Windows) => folder == "microsoft",
        Some(SystemKind::Linux) => system.id.as_deref().is_some_and(|id| {
            id == folder || FOLDERS.iter().any(|(f, of)| *f == folder && *of == id)
        }),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inventory::BootEntry;

    #[test]
    fn the_first_boot_entry_that_names_a_system_decides() {
        let entry = |number, file: &str| BootEntry {
            number,
            active: true,
            file: Some(file.into()),
            ..BootEntry::default()
        };
        let firmware = Firmware {
            boot_order: vec![7, 3, 1],
            boot_entries: vec![
                entry(1, r"\EFI\debian\shimx64.efi"),
                entry(3, r"\EFI\Microsoft\Boot\bootmgfw.efi"),
                entry(7, r"\EFI\BOOT\BOOTX64.EFI"),
            ],
            ..Firmware::default()
        };
        let system = |kind, id: &str| System {
            kind: Some(kind),
            id: Some(id.into()),
            ..System::default()
        };
        let mut systems = vec![
            system(SystemKind::Linux, "arch"),
            system(SystemKind::Linux, "debian"),
            system(SystemKind::Windows, ""),
        ];
        by_firmware(&mut systems, &firmware);
        let ids: Vec<_> = systems.iter().map(|s| s.id.as_deref().unwrap()).collect();
        assert_eq!(ids, ["", "debian", "arch"]);
    }
}
