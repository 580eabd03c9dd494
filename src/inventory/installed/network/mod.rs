//! How a Linux configures its network. In: its files. Out: which programs configure it, each configured
//! interface with what it is matched by and its addresses, and the names that the system's own rules
//! give to cards. One file a program.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

mod address;
mod ifcfg;
mod ifupdown;
mod names;
mod netplan;
mod network_manager;
mod networkd;
mod yaml;

use super::reading::Reading;
use super::system::{CommandLine, Interface, Network};

/// Interfaces that are told.
const MOST: usize = 512;

/// What one program has.
type Found = Vec<Interface>;

/// Reads all of it.
pub(super) fn read(reading: &Reading<'_>, command_line: Option<&CommandLine>) -> Network {
    let mut network = Network::default();
    let programs: [(&str, Found); 6] = [
        ("ifupdown", ifupdown::read(reading)),
        ("netplan", netplan::read(reading)),
        ("network-manager", network_manager::read(reading)),
        ("systemd-networkd", networkd::read(reading)),
        ("ifcfg", ifcfg::red_hat(reading)),
        ("wicked", ifcfg::suse(reading)),
    ];
    for (name, found) in programs {
        if !found.is_empty() {
            network.managers.push(name.to_owned());
        }
        network.interfaces.extend(found);
    }
    network.interfaces.truncate(MOST);
    network.names = names::given(reading);
    network.names.truncate(MOST);
    network.predictable_names = names::are_predictable(reading, command_line);
    network
}
