//! What people call a PCI function: names from the PCI ID Repository, which the crate `pci-ids` carries as a
//! table inside the program (docs/decisions/0026-pci-names.md).

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use pci_ids::{Device, FromId, Vendor};

/// Names of a vendor and of its device. What the repository does not list has none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Names {
    /// `Intel Corporation`
    pub(super) vendor: Option<String>,
    /// `82574L Gigabit Network Connection`
    pub(super) device: Option<String>,
}

/// The names of `8086:10d3`.
pub(super) fn of(id: &str) -> Names {
    let Some((vendor, device)) = numbers(id) else {
        return Names::default();
    };
    Names {
        vendor: Vendor::from_id(vendor).map(|vendor| vendor.name().to_owned()),
        device: Device::from_vid_pid(vendor, device).map(|device| device.name().to_owned()),
    }
}

/// The name of the card or board that the function `id` is on, `1028:1f44`. The same pair stands for other
/// cards with other functions.
pub(super) fn subsystem(id: &str, subsystem_id: &str) -> Option<String> {
    let (vendor, device) = numbers(id)?;
    let card = numbers(subsystem_id)?;
    Device::from_vid_pid(vendor, device)?
        .subsystems()
        .find(|known| (known.subvendor(), known.subdevice()) == card)
        .map(|known| known.name().to_owned())
}

/// What is shown of a function: both names, or the id where one is missing.
pub(super) fn shown(vendor: Option<&str>, device: Option<&str>, id: &str) -> String {
    match (vendor, device) {
        (Some(vendor), Some(device)) => format!("{vendor} {device}"),
        (Some(vendor), None) => format!("{vendor} {id}"),
        (None, _) => id.to_owned(),
    }
}

fn numbers(id: &str) -> Option<(u16, u16)> {
    let (vendor, device) = id.split_once(':')?;
    let number = |text| u16::from_str_radix(text, 16).ok();
    number(vendor).zip(number(device))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fmt::Write as _;
    use std::process::Command;

    /// Function and card: ids whose names are older than any database that a test may meet.
    const KNOWN: [(&str, &str); 6] = [
        ("8086:10d3", "8086:a01f"),
        ("8086:1521", "8086:5001"),
        ("1000:005d", "1028:1f47"),
        ("10de:1eb8", "10de:12a2"),
        ("102b:0536", "1028:0639"),
        ("1af4:1000", "1af4:0001"),
    ];

    /// What lspci says of functions with these ids, from a dump of their configuration spaces.
    fn lspci() -> String {
        let mut dump = String::new();
        for (slot, (id, card)) in KNOWN.iter().enumerate() {
            let mut space = [0; 64];
            for (at, pair) in [(0x00, id), (0x2c, card)] {
                let (vendor, device) = numbers(pair).unwrap();
                let bytes = [vendor.to_le_bytes(), device.to_le_bytes()].concat();
                space[at..][..4].copy_from_slice(&bytes);
            }
            writeln!(dump, "00:{slot:02x}.0 any").unwrap();
            for (line, bytes) in space.chunks(16).enumerate() {
                let hex: Vec<String> = bytes.iter().map(|b| format!("{b:02x}")).collect();
                writeln!(dump, "{line:x}0: {}", hex.join(" ")).unwrap();
            }
            dump.push('\n');
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, dump).unwrap();
        let lspci = Command::new("lspci")
            .arg("-F")
            .arg(file.path())
            .args(["-v", "-mm"])
            .output()
            .expect("lspci: install the package pciutils");
        String::from_utf8(lspci.stdout).unwrap()
    }

    #[test]
    fn names_are_those_that_lspci_gives() {
        let said = lspci();
        let functions: Vec<&str> = said.trim_end().split("\n\n").collect();
        assert_eq!(functions.len(), KNOWN.len(), "{said}");
        for (function, (id, card)) in functions.iter().zip(KNOWN) {
            let field = |key: &str| {
                let mut lines = function.lines();
                let value = lines.find_map(|line| line.strip_prefix(key));
                value.map(|value| value.trim().to_owned())
            };
            let names = of(id);
            assert!(names.vendor.is_some() && names.device.is_some(), "{id}");
            assert_eq!(names.vendor, field("Vendor:"), "{id}");
            assert_eq!(names.device, field("Device:"), "{id}");
            // lspci makes a name of its own where there is none.
            if let Some(name) = subsystem(id, card) {
                assert_eq!(Some(name), field("SDevice:"), "{id} on {card}");
            }
        }
        assert!(subsystem("1000:005d", "1028:1f47").is_some());
    }

    #[test]
    fn names_looked_up_by_hand() {
        let both = |id| {
            let names = of(id);
            names.vendor.zip(names.device).unwrap()
        };
        let (vendor, device) = both("8086:10d3");
        assert_eq!(vendor, "Intel Corporation");
        assert_eq!(device, "82574L Gigabit Network Connection");
        assert_eq!(both("1000:005d").1, "MegaRAID SAS-3 3108 [Invader]");
    }

    #[test]
    fn what_is_not_listed_has_no_name() {
        let names = of("8086:ffff");
        assert_eq!(names.vendor.as_deref(), Some("Intel Corporation"));
        assert_eq!(names.device, None);
        assert_eq!(subsystem("8086:10d3", "ffff:ffff"), None);
        for id in ["0ffe:10d3", "8086", "8086:", ":", "8086:110d3", "intel:nic"] {
            assert_eq!(of(id), Names::default(), "{id}");
        }
    }
}
