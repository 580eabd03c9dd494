//! NetworkManager's keyfiles (nm-settings-keyfile(5)).

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

const FOLDERS: [&str; 2] = [
    "/etc/NetworkManager/system-connections",
    "/usr/lib/NetworkManager/system-connections",
];

pub(super) fn read(reading: &Reading<'_>) -> Found {
    let files = FOLDERS.iter().flat_map(|folder| reading.texts(folder, ""));
    files
        .filter_map(|(path, text)| file(&path, &text))
        .collect()
}

fn file(path: &str, text: &str) -> Option<Interface> {
    let mut interface = Interface {
        file: path.to_owned(),
        ..Interface::default()
    };
    let mut is_wired = false;
    for (section, key, value) in sections(text) {
        match (section.as_str(), key.as_str()) {
            ("connection", "type") => {
                // Wireless ones have passwords in them and are no server's.
                is_wired = !["wifi", "802-11-wireless", "vpn", "wireguard", "gsm"]
                    .contains(&value.as_str());
            }
            ("connection", "interface-name") => interface.name = interface_name(&value),
            ("ethernet" | "802-3-ethernet", "mac-address") => interface.mac = mac(&value),
            ("ipv4" | "ipv6", "method")
                if value == "auto" && !interface.addresses.iter().any(|a| a == "dhcp") =>
            {
                interface.addresses.push("dhcp".into());
            }
            ("ipv4" | "ipv6", key) if is_address(key) => {
                let own = value.split([',', ';']).next().unwrap_or_default();
                interface.addresses.extend(cidr(own, None));
            }
            _ => {}
        }
    }
    is_wired.then_some(interface)
}

/// `address1`, `address2`, and `addresses` of old.
fn is_address(key: &str) -> bool {
    key.strip_prefix("address")
        .is_some_and(|rest| rest == "es" || rest.bytes().all(|byte| byte.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wired_connection_is_told_and_a_wireless_one_is_not() {
        let text = "[connection]\nid=eno1\nuuid=1\ntype=ethernet\ninterface-name=eno1\n\n\
                    [ethernet]\nmac-address=B0:26:28:AA:BB:01\n\n\
                    [ipv4]\naddress1=192.0.2.7/24,192.0.2.1\nmethod=manual\n\n[ipv6]\nmethod=auto\n";
        let found = file("f", text).unwrap();
        assert_eq!(found.name.as_deref(), Some("eno1"));
        assert_eq!(found.mac.as_deref(), Some("b0:26:28:aa:bb:01"));
        assert_eq!(found.addresses, ["192.0.2.7/24", "dhcp"]);
        assert!(file("f", "[connection]\ntype=wifi\n").is_none());
        assert!(file("f", "no keyfile").is_none());
    }
}
