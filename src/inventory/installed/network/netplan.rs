//! netplan's YAML (netplan(5)): the definitions below `network`.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use super::Found;
use super::address::cidr;
use super::yaml::Yaml;
use crate::inventory::installed::reading::{Reading, interface_name, mac};
use crate::inventory::installed::system::Interface;

const FOLDERS: [&str; 2] = ["/lib/netplan", "/etc/netplan"];
const KINDS: [&str; 5] = ["ethernets", "bonds", "bridges", "vlans", "dummy-devices"];

pub(super) fn read(reading: &Reading<'_>) -> Found {
    let mut found = Found::new();
    for folder in FOLDERS {
        for (path, text) in reading.texts(folder, ".yaml") {
            match Yaml::parse(&text) {
                Some(document) => file(&path, &document, &mut found),
                None => reading.note(&path, "it is no YAML"),
            }
        }
    }
    found
}

fn file(path: &str, document: &Yaml, found: &mut Found) {
    let Some(network) = document.get("network") else {
        return;
    };
    for kind in KINDS {
        let definitions = network.get(kind).into_iter().flat_map(Yaml::entries);
        for (id, definition) in definitions {
            found.push(interface(path, id, definition));
        }
    }
}

fn interface(path: &str, id: &str, definition: &Yaml) -> Interface {
    let matched = definition.get("match");
    let text = |of: Option<&Yaml>, key: &str| {
        let value = of.and_then(|of| of.get(key)).and_then(Yaml::text);
        value.map(str::to_owned)
    };
    // With `match` the definition's own name is only a name.
    let name = match matched {
        Some(_) => text(Some(definition), "set-name").or_else(|| text(matched, "name")),
        None => Some(id.to_owned()),
    };
    let mut addresses = Vec::new();
    if ["dhcp4", "dhcp6"]
        .iter()
        .any(|key| definition.get(key).is_some_and(Yaml::is_true))
    {
        addresses.push("dhcp".to_owned());
    }
    let given = definition
        .get("addresses")
        .into_iter()
        .flat_map(Yaml::items);
    for address in given {
        // With options it is a map whose key it is.
        let text = address
            .text()
            .or_else(|| address.entries().next().map(|(key, _)| key.as_str()));
        addresses.extend(text.and_then(|text| cidr(text, None)));
    }
    Interface {
        name: name.as_deref().and_then(interface_name),
        mac: text(matched, "macaddress").as_deref().and_then(mac),
        addresses,
        file: path.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn definitions_are_matched_by_name_or_address() {
        let text = "# cloud\nnetwork:\n  version: 2\n  renderer: networkd\n  ethernets:\n    \
                    eno1:\n      dhcp4: true\n    uplink:\n      match:\n        macaddress: \
                    'b0:26:28:aa:bb:01'\n      set-name: lan0\n      addresses:\n        - \
                    192.0.2.7/24\n        - \"2001:db8::7/64\":\n            label: x\n      \
                    nameservers: {addresses: [192.0.2.1]}\n    rest: {match: {name: enp*}, dhcp6: \
                    yes}\n  vlans:\n    vlan5: {id: 5, link: eno1, addresses: [198.51.100.7/24]}\n";
        let mut found = Found::new();
        file("f", &Yaml::parse(text).unwrap(), &mut found);
        let names: Vec<_> = found.iter().map(|i| i.name.as_deref().unwrap()).collect();
        assert_eq!(names, ["eno1", "lan0", "enp*", "vlan5"]);
        assert_eq!(found[0].addresses, ["dhcp"]);
        assert_eq!(found[1].mac.as_deref(), Some("b0:26:28:aa:bb:01"));
        assert_eq!(found[1].addresses, ["192.0.2.7/24", "2001:db8::7/64"]);
        assert_eq!(found[3].addresses, ["198.51.100.7/24"]);
    }
}
