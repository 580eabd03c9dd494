//! `ifcfg-NAME`: Red Hat's in `/etc/sysconfig/network-scripts`, SUSE's in `/etc/sysconfig/network`
//! (ifcfg(5) of wicked), where the name of the file is that of the interface.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use super::Found;
use super::address::cidr;
use crate::inventory::installed::reading::{Reading, assignments, interface_name, mac};
use crate::inventory::installed::system::Interface;
use std::collections::BTreeMap;

pub(super) fn red_hat(reading: &Reading<'_>) -> Found {
    read(reading, "/etc/sysconfig/network-scripts")
}

pub(super) fn suse(reading: &Reading<'_>) -> Found {
    read(reading, "/etc/sysconfig/network")
}

fn read(reading: &Reading<'_>, folder: &str) -> Found {
    let files = reading.list(folder).into_iter();
    files
        .filter(|entry| !entry.is_directory)
        .filter_map(|entry| {
            let name = entry.name.strip_prefix("ifcfg-")?;
            // Copies that editors and package managers leave are not read by the system either.
            let is_copy = [".bak", ".orig", ".rpmnew", ".rpmsave", "~", ".old"]
                .iter()
                .any(|suffix| name.ends_with(suffix));
            if name == "lo" || is_copy {
                return None;
            }
            let path = format!("{folder}/{}", entry.name);
            let text = reading.text(&path)?;
            Some(file(&path, name, &text))
        })
        .collect()
}

fn file(path: &str, file_name: &str, text: &str) -> Interface {
    let values: BTreeMap<&str, String> = assignments(text).collect();
    let value = |key: &str| {
        values
            .get(key)
            .map(String::as_str)
            .filter(|v| !v.is_empty())
    };
    let mut addresses = Vec::new();
    if value("BOOTPROTO").is_some_and(|how| how.contains("dhcp") || how == "bootp") {
        addresses.push("dhcp".to_owned());
    }
    for nth in ["", "0", "1", "2", "3", "_0", "_1", "_2", "_3"] {
        let of = |key: &str| value(&format!("{key}{nth}")).map(str::to_owned);
        if let Some(address) = of("IPADDR") {
            let mask = of("PREFIX")
                .or_else(|| of("PREFIXLEN"))
                .or_else(|| of("NETMASK"));
            addresses.extend(cidr(&address, mask.as_deref()));
        }
    }
    addresses.extend(value("IPV6ADDR").and_then(|address| cidr(address, None)));
    Interface {
        name: interface_name(value("DEVICE").unwrap_or(file_name)),
        mac: value("HWADDR").and_then(mac),
        addresses,
        file: path.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_families_are_read() {
        let text = "TYPE=Ethernet\nBOOTPROTO=none\nDEVICE=\"em1\"\nHWADDR=B0:26:28:AA:BB:01\n\
                    IPADDR=192.0.2.7\nPREFIX=24\nIPADDR1=192.0.2.8\nNETMASK1=255.255.0.0\n\
                    IPV6ADDR=2001:db8::7/64\n";
        let found = file("f", "em1", text);
        assert_eq!(found.name.as_deref(), Some("em1"));
        assert_eq!(found.mac.as_deref(), Some("b0:26:28:aa:bb:01"));
        let addresses = ["192.0.2.7/24", "192.0.2.8/16", "2001:db8::7/64"];
        assert_eq!(found.addresses, addresses);
        let found = file("f", "eth0", "BOOTPROTO='static'\nIPADDR='192.0.2.7/24'\n");
        assert_eq!(found.name.as_deref(), Some("eth0"));
        assert_eq!(found.addresses, ["192.0.2.7/24"]);
        assert_eq!(file("f", "eth0", "BOOTPROTO='dhcp4'\n").addresses, ["dhcp"]);
    }
}
