//! The names that an installed Linux may know a network card by. Which one it took depends on its
//! naming scheme and its own files, so all that the machine gives away are candidates.
//!
//! The rules are those of `net_id` in systemd (systemd.net-naming-scheme(7), v255).

use super::sysroot::{SysRoot, link_name, number};
use crate::device::sysfs::attribute;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Candidates, each `None` where the machine does not give it away.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NameCandidates {
    /// By the firmware's index of the port on the board: `eno1`.
    pub onboard: Option<String>,
    /// By the hotplug slot: `ens1f0`.
    pub slot: Option<String>,
    /// By the place on the bus: `enp24s0f0`.
    pub path: Option<String>,
    /// By the address: `enxb02628aabb01`.
    pub mac: Option<String>,
    /// The firmware's label of the port: `NIC1`. systemd takes it only where it is told to.
    pub label: Option<String>,
}

/// Indices beyond are a firmware's mistake (`ONBOARD_14BIT_INDEX_MAX`).
const LARGEST_INDEX: u32 = (1 << 14) - 1;
/// A PCI address as it is, `0000:18:00.0`.
struct Address {
    domain: u32,
    bus: u32,
    slot: u32,
    function: u32,
}

impl Address {
    fn parse(text: &str) -> Option<Self> {
        let (domain, rest) = text.split_once(':')?;
        let (bus, rest) = rest.split_once(':')?;
        let (slot, function) = rest.split_once('.')?;
        let hex = |digits| u32::from_str_radix(digits, 16).ok();
        Some(Self {
            domain: hex(domain)?,
            bus: hex(bus)?,
            slot: hex(slot)?,
            function: hex(function)?,
        })
    }
}

/// `net` is the card's folder in `/sys/class/net`, `device` its parent, `pci` its PCI function.
pub(super) fn candidates(
    root: &SysRoot,
    net: &Path,
    device: &Path,
    pci: Option<&Path>,
    mac: Option<&str>,
) -> NameCandidates {
    let prefix = prefix(net);
    // The card of a USB adapter is not the PCI function that the USB controller is.
    let pci = pci.filter(|_| !behind_usb(device));
    let port = port(net);
    NameCandidates {
        onboard: pci.and_then(|pci| {
            let index = number::<u32>(&pci.join("acpi_index"))
                .or_else(|| number(&pci.join("index")).filter(|index| *index > 0))?;
            (index <= LARGEST_INDEX).then(|| format!("{prefix}o{index}{port}"))
        }),
        slot: pci.and_then(|pci| {
            let function = function(pci)?;
            Some(format!("{prefix}s{}{function}{port}", slot(root, pci)?))
        }),
        path: pci.and_then(|pci| {
            let address = Address::parse(pci.file_name()?.to_str()?)?;
            let domain = match address.domain {
                0 => String::new(),
                domain => format!("P{domain}"),
            };
            let (bus, slot) = (address.bus, address.slot);
            Some(format!(
                "{prefix}{domain}p{bus}s{slot}{}{port}",
                function(pci)?
            ))
        }),
        mac: mac
            .filter(|mac| mac.len() == 17)
            .map(|mac| format!("{prefix}x{}", mac.replace(':', ""))),
        label: pci.and_then(|pci| attribute(&pci.join("label"))),
    }
}

/// `en`, `ib`, `wl` or `ww`, as by `names_type`.
fn prefix(net: &Path) -> &'static str {
    let uevent = std::fs::read_to_string(net.join("uevent")).unwrap_or_default();
    let kind = uevent
        .lines()
        .find_map(|line| line.strip_prefix("DEVTYPE="));
    match (number::<u32>(&net.join("type")), kind) {
        (Some(32), _) => "ib",
        (_, Some("wlan")) => "wl",
        (_, Some("wwan")) => "ww",
        _ => "en",
    }
}

fn behind_usb(device: &Path) -> bool {
    device
        .ancestors()
        .any(|dir| link_name(&dir.join("subsystem")).as_deref() == Some("usb"))
}

/// `f1` for a further function, `f0` for the first of several.
fn function(pci: &Path) -> Option<String> {
    let function = Address::parse(pci.file_name()?.to_str()?)?.function;
    // PCI Local Bus 3.0, 6.2.1: bit 7 of the header type at 0Eh.
    let several = std::fs::read(pci.join("config"))
        .ok()
        .and_then(|config| config.get(0x0e).copied())
        .is_some_and(|header| header & 0x80 != 0);
    Some(if function > 0 || several {
        format!("f{function}")
    } else {
        String::new()
    })
}

/// What tells the ports of one function apart.
fn port(net: &Path) -> String {
    if let Some(name) = attribute(&net.join("phys_port_name")) {
        return format!("n{name}");
    }
    match number::<u32>(&net.join("dev_port")) {
        Some(port) if port > 0 => format!("d{port}"),
        _ => String::new(),
    }
}

/// The number of the hotplug slot that the function or a bridge above it sits in.
fn slot(root: &SysRoot, pci: &Path) -> Option<u32> {
    let slots: Vec<(u32, String)> = root
        .entries("/sys/bus/pci/slots")
        .into_iter()
        .filter_map(|(name, dir)| Some((name.parse().ok()?, attribute(&dir.join("address"))?)))
        .filter(|(number, _)| *number > 0)
        .collect();
    for dir in pci.ancestors() {
        if link_name(&dir.join("subsystem")).as_deref() != Some("pci") {
            return None;
        }
        let name = dir.file_name()?.to_str()?;
        // A slot's address has no function.
        let found = slots.iter().find(|(_, address)| {
            name.strip_prefix(address.as_str())
                .is_some_and(|rest| rest.starts_with('.'))
        });
        if let Some((number, _)) = found {
            // Behind a bridge several cards would share the slot (`NAMING_BRIDGE_NO_SLOT`).
            let bridge = attribute(&dir.join("class")).is_some_and(|c| c.starts_with("0x0604"));
            return (!bridge).then_some(*number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    /// A card at `address` with the attributes `files` of its PCI function and `net` of itself.
    fn card(address: &str, files: &[(&str, &[u8])], net: &[(&str, &str)]) -> NameCandidates {
        let root = tempfile::tempdir().unwrap();
        let pci = root.path().join("sys/devices/pci0000:00").join(address);
        let dir = pci.join("net/eth0");
        fs::create_dir_all(&dir).unwrap();
        fs::create_dir_all(root.path().join("sys/bus/pci/slots/3")).unwrap();
        fs::write(
            root.path().join("sys/bus/pci/slots/3/address"),
            "0000:3b:00\n",
        )
        .unwrap();
        symlink("../../../bus/pci", pci.join("subsystem")).unwrap();
        for (name, text) in files {
            fs::write(pci.join(name), text).unwrap();
        }
        for (name, text) in net {
            fs::write(dir.join(name), text).unwrap();
        }
        let mac = Some("b0:26:28:aa:bb:01");
        candidates(&SysRoot::new(root.path()), &dir, &pci, Some(&pci), mac)
    }

    /// A configuration space with this header type.
    fn config(header: u8) -> Vec<u8> {
        let mut config = vec![0; 64];
        config[0x0e] = header;
        config
    }

    #[test]
    fn a_plain_card_is_named_by_its_place_and_address() {
        let names = card("0000:18:00.0", &[("config", &config(0))], &[]);
        assert_eq!(names.path.as_deref(), Some("enp24s0"));
        assert_eq!(names.mac.as_deref(), Some("enxb02628aabb01"));
        assert_eq!((names.onboard, names.slot), (None, None));
    }

    #[test]
    fn the_first_function_of_several_has_its_number_too() {
        let names = card("0000:3b:00.0", &[("config", &config(0x80))], &[]);
        assert_eq!(names.path.as_deref(), Some("enp59s0f0"));
        assert_eq!(names.slot.as_deref(), Some("ens3f0"));
    }

    #[test]
    fn domain_ports_and_the_firmwares_index_are_in_the_names() {
        let names = card(
            "10000:01:00.1",
            &[("acpi_index", b"2"), ("label", b"NIC 2")],
            &[("dev_port", "1")],
        );
        assert_eq!(names.path.as_deref(), Some("enP65536p1s0f1d1"));
        assert_eq!(names.onboard.as_deref(), Some("eno2d1"));
        assert_eq!(names.label.as_deref(), Some("NIC 2"));
        let names = card("0000:01:00.0", &[], &[("phys_port_name", "p0")]);
        assert_eq!(names.path.as_deref(), Some("enp1s0np0"));
    }

    #[test]
    fn an_index_that_cannot_be_meant_is_no_name() {
        for index in [&b"16384"[..], b"4294967296", b"-1", b"x"] {
            assert_eq!(
                card("0000:01:00.0", &[("acpi_index", index)], &[]).onboard,
                None
            );
        }
        assert_eq!(card("0000:01:00.0", &[("index", b"0")], &[]).onboard, None);
    }
}
