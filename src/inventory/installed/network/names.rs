//! The names of network cards: rules of udev (`70-persistent-net.rules`, which `biosdevname` and old
//! Debian wrote), systemd.link(5), and whether systemd's own names are switched off.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use crate::inventory::installed::reading::{Reading, interface_name, mac, sections};
use crate::inventory::installed::system::{CommandLine, GivenName};

const RULES: &str = "/etc/udev/rules.d";
const LINKS: &str = "/etc/systemd/network";

pub(super) fn given(reading: &Reading<'_>) -> Vec<GivenName> {
    let rules = reading
        .texts(RULES, ".rules")
        .into_iter()
        .flat_map(|(path, text)| rules(&path, &text));
    let links = reading
        .texts(LINKS, ".link")
        .into_iter()
        .flat_map(|(path, text)| link(&path, &text));
    rules.chain(links).collect()
}

/// `ATTR{address}=="…", NAME="eth0"`
fn rules(path: &str, text: &str) -> Vec<GivenName> {
    text.lines()
        .filter(|line| !line.trim_start().starts_with('#') && line.contains("net"))
        .filter_map(|line| {
            let value = |key: &str, operator: &str| {
                let (_, rest) = line.split_once(&format!("{key}{operator}\""))?;
                Some(rest.split_once('"')?.0)
            };
            let name = value("NAME", "=").or_else(|| value("NAME", ":="))?;
            let address = value("ATTR{address}", "==").or_else(|| value("SYSFS{address}", "=="));
            let place = value("KERNELS", "==").filter(|place| is_pci(place));
            Some(GivenName {
                name: interface_name(name)?,
                mac: address.and_then(mac),
                pci_address: place.map(str::to_owned),
                file: path.to_owned(),
            })
        })
        .filter(|given| given.mac.is_some() || given.pci_address.is_some())
        .collect()
}

fn link(path: &str, text: &str) -> Option<GivenName> {
    let mut given = GivenName {
        file: path.to_owned(),
        ..GivenName::default()
    };
    let mut name = None;
    for (section, key, value) in sections(text) {
        match (section.as_str(), key.as_str()) {
            ("match", "macaddress" | "permanentmacaddress") => {
                given.mac = value.split_whitespace().find_map(mac);
            }
            ("match", "path") => {
                let place = value.strip_prefix("pci-").filter(|place| is_pci(place));
                given.pci_address = place.map(str::to_owned);
            }
            ("link", "name") => name = interface_name(&value),
            _ => {}
        }
    }
    given.name = name?;
    (given.mac.is_some() || given.pci_address.is_some()).then_some(given)
}

/// `0000:18:00.0`
fn is_pci(place: &str) -> bool {
    let shape = [4, 2, 2, 1];
    let parts: Vec<&str> = place.split([':', '.']).collect();
    parts.len() == shape.len()
        && parts.iter().zip(shape).all(|(part, len)| {
            part.len() == len && part.bytes().all(|byte| byte.is_ascii_hexdigit())
        })
}

/// Files that switch systemd's names off when they are empty or lead to `/dev/null`.
const SWITCHES: [&str; 3] = [
    "/etc/systemd/network/99-default.link",
    "/etc/udev/rules.d/80-net-setup-link.rules",
    "/etc/udev/rules.d/80-net-name-slot.rules",
];
/// What gives the names.
const NAMERS: [&str; 4] = [
    "/usr/lib/udev/rules.d/80-net-setup-link.rules",
    "/usr/lib/udev/rules.d/80-net-name-slot.rules",
    "/lib/udev/rules.d/80-net-setup-link.rules",
    "/lib/udev/rules.d/80-net-name-slot.rules",
];

pub(super) fn are_predictable(
    reading: &Reading<'_>,
    command_line: Option<&CommandLine>,
) -> Option<bool> {
    let options = command_line
        .map(|line| line.text.as_str())
        .unwrap_or_default();
    if options
        .split_whitespace()
        .any(|word| word == "net.ifnames=0")
    {
        return Some(false);
    }
    let links = reading.list(LINKS);
    let rules = reading.list(RULES);
    let is_off = SWITCHES.iter().any(|switch| {
        let file = switch.rsplit('/').next().unwrap_or(switch);
        links.iter().chain(&rules).any(|entry| entry.name == file)
            // A device file, or nothing, because /dev is empty on a disk.
            && reading.text(switch).is_none_or(|text| text.trim().is_empty())
    });
    if is_off {
        return Some(false);
    }
    NAMERS
        .iter()
        .any(|namer| reading.exists(namer))
        .then_some(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_and_links_give_names_by_address_or_place() {
        let text = "# PCI device\nSUBSYSTEM==\"net\", ACTION==\"add\", DRIVERS==\"?*\", \
                    ATTR{address}==\"b0:26:28:aa:bb:01\", ATTR{dev_id}==\"0x0\", KERNEL==\"eth*\", \
                    NAME=\"eth0\"\nSUBSYSTEM==\"net\", KERNELS==\"0000:18:00.1\", NAME=\"lan1\"\n\
                    SUBSYSTEM==\"net\", ATTR{address}==\"b0:26:28:aa:bb:02\", NAME=\"../x\"\n";
        let found = rules("f", text);
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].name, "eth0");
        assert_eq!(found[0].mac.as_deref(), Some("b0:26:28:aa:bb:01"));
        assert_eq!(found[1].pci_address.as_deref(), Some("0000:18:00.1"));
        let text = "[Match]\nPermanentMACAddress=B0:26:28:AA:BB:01\n[Link]\nName=lan0\n";
        assert_eq!(link("f", text).unwrap().name, "lan0");
        let text = "[Match]\nPath=pci-0000:18:00.0\n[Link]\nName=lan0\nMTUBytes=9000\n";
        let given = link("f", text).unwrap();
        assert_eq!(given.pci_address.as_deref(), Some("0000:18:00.0"));
        assert!(link("f", "[Match]\nOriginalName=*\n[Link]\nNamePolicy=mac\n").is_none());
    }
}
