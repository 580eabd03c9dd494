//! systemd.network(5): what `[Match]` names, and the addresses.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use super::Found;
use super::address::cidr;
use crate::inventory::installed::reading::{Reading, interface_name, mac, sections};
use crate::inventory::installed::system::Interface;

const FOLDER: &str = "/etc/systemd/network";
/// `DHCP=`, with the words of old.
const YES: [&str; 9] = ["yes", "true", "on", "1", "both", "ipv4", "ipv6", "v4", "v6"];

pub(super) fn read(reading: &Reading<'_>) -> Found {
    let files = reading.texts(FOLDER, ".network").into_iter();
    files.flat_map(|(path, text)| file(&path, &text)).collect()
}

/// An interface for each name; one if it is matched by its address alone.
fn file(path: &str, text: &str) -> Vec<Interface> {
    let mut names: Vec<String> = Vec::new();
    let mut by_mac = None;
    let mut addresses = Vec::new();
    for (section, key, value) in sections(text) {
        match (section.as_str(), key.as_str()) {
            ("match", "name") => {
                names.extend(value.split_whitespace().filter_map(interface_name));
            }
            ("match", "macaddress" | "permanentmacaddress") => {
                by_mac = value.split_whitespace().find_map(mac);
            }
            ("network", "dhcp") if YES.contains(&value.to_ascii_lowercase().as_str()) => {
                addresses.push("dhcp".to_owned());
            }
            ("network" | "address", "address") => addresses.extend(cidr(&value, None)),
            _ => {}
        }
    }
    let interface = |name: Option<String>| Interface {
        name,
        mac: by_mac.clone(),
        addresses: addresses.clone(),
        file: path.to_owned(),
    };
    match (names.is_empty(), &by_mac) {
        (true, None) => Vec::new(),
        (true, Some(_)) => vec![interface(None)],
        (false, _) => names
            .into_iter()
            .map(|name| interface(Some(name)))
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interfaces_are_matched_by_name_pattern_or_address() {
        let found = file("f", "[Match]\nName=en* eth*\n\n[Network]\nDHCP=yes\n");
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].name.as_deref(), Some("en*"));
        assert_eq!(found[0].addresses, ["dhcp"]);
        let text = "[Match]\nMACAddress=B0:26:28:AA:BB:01\n[Network]\nAddress=192.0.2.7/24\n\
                    [Address]\nAddress=2001:db8::7/64\n[Route]\nGateway=192.0.2.1\n";
        let found = file("f", text);
        assert_eq!(found[0].mac.as_deref(), Some("b0:26:28:aa:bb:01"));
        assert_eq!(found[0].addresses, ["192.0.2.7/24", "2001:db8::7/64"]);
        assert!(file("f", "[Match]\nType=ether\n[Network]\nDHCP=yes\n").is_empty());
    }
}
