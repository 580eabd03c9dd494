//! Debian's interfaces(5): `iface NAME FAMILY METHOD` and what is indented below it.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use super::Found;
use super::address::cidr;
use crate::inventory::installed::reading::{Reading, interface_name};
use crate::inventory::installed::system::Interface;

const FILE: &str = "/etc/network/interfaces";
const FOLDER: &str = "/etc/network/interfaces.d";

pub(super) fn read(reading: &Reading<'_>) -> Found {
    let own = reading.text(FILE).map(|text| (FILE.to_owned(), text));
    let mut found = Found::new();
    // `source` names the folder in every installed system; others are not followed.
    for (path, text) in own.into_iter().chain(reading.texts(FOLDER, "")) {
        stanzas(&path, &text, &mut found);
    }
    found
}

fn stanzas(path: &str, text: &str, found: &mut Found) {
    let mut open: Option<Stanza> = None;
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["iface", name, family, rest @ ..] => {
                close(path, open.take(), found);
                let is_dhcp = *family != "can" && rest.contains(&"dhcp");
                open = Some(Stanza {
                    name: (*name).to_owned(),
                    addresses: is_dhcp.then(|| "dhcp".to_owned()).into_iter().collect(),
                    address: None,
                    mask: None,
                });
            }
            [
                "auto" | "source" | "source-directory" | "mapping" | "no-scripts" | "rename",
                ..,
            ] => {
                close(path, open.take(), found);
            }
            [word, ..] if word.starts_with("allow-") => close(path, open.take(), found),
            ["address", address, ..] => {
                if let Some(open) = &mut open {
                    open.address = Some((*address).to_owned());
                }
            }
            ["netmask", mask, ..] => {
                if let Some(open) = &mut open {
                    open.mask = Some((*mask).to_owned());
                }
            }
            _ => {}
        }
    }
    close(path, open, found);
}

struct Stanza {
    name: String,
    addresses: Vec<String>,
    address: Option<String>,
    mask: Option<String>,
}

/// Stanzas of one interface (IPv4 and IPv6) become one.
fn close(path: &str, stanza: Option<Stanza>, found: &mut Found) {
    let Some(mut stanza) = stanza.filter(|stanza| stanza.name != "lo") else {
        return;
    };
    let Some(name) = interface_name(&stanza.name) else {
        return;
    };
    let address = stanza.address.as_deref();
    let address = address.and_then(|address| cidr(address, stanza.mask.as_deref()));
    stanza.addresses.extend(address);
    let same = |interface: &&mut Interface| {
        interface.name.as_ref() == Some(&name) && interface.file == path
    };
    if let Some(interface) = found.iter_mut().find(same) {
        for address in stanza.addresses {
            if !interface.addresses.contains(&address) {
                interface.addresses.push(address);
            }
        }
        return;
    }
    found.push(Interface {
        name: Some(name),
        mac: None,
        addresses: stanza.addresses,
        file: path.to_owned(),
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stanzas_of_one_interface_are_put_together() {
        let text = "# x\nauto lo\niface lo inet loopback\n\nallow-hotplug enp1s0\n\
                    iface enp1s0 inet static\n    address 192.0.2.7\n    netmask 255.255.255.0\n\
                    \tgateway 192.0.2.1\niface enp1s0 inet6 static\n address 2001:db8::7/64\n\
                    auto eth1\niface eth1 inet dhcp\niface a/../b inet dhcp\niface\n";
        let mut found = Found::new();
        stanzas("f", text, &mut found);
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].name.as_deref(), Some("enp1s0"));
        assert_eq!(found[0].addresses, ["192.0.2.7/24", "2001:db8::7/64"]);
        assert_eq!(found[1].addresses, ["dhcp"]);
    }
}
