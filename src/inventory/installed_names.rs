//! The name that the installed system knows each network card by. In: the cards with the names that they
//! could have, and the system's configuration. Out: `installed_name`, where one follows.
//!
//! First what its files say (a rule, a configuration with the card's address), then the one candidate
//! that its configuration names, then the policy of systemd (`NamePolicy=keep kernel database onboard slot
//! path` of `99-default.link`), unless its configuration shows that it goes by other names.

use super::NicInfo;
use super::installed::{Interface, Network, System, SystemKind};

/// What the names of interfaces begin with that are no cards.
const NO_CARDS: [&str; 12] = [
    "lo", "bond", "br", "team", "vlan", "virbr", "docker", "tun", "tap", "wg", "dummy", "veth",
];

/// Gives each card its name.
pub(super) fn give(nics: &mut [NicInfo], system: &System) {
    let network = match (system.kind, &system.network) {
        (Some(SystemKind::Linux), Some(network)) => network,
        _ => return,
    };
    let configured = configured(network);
    for index in 0..nics.len() {
        let name =
            by_file(&nics[index], network).or_else(|| by_candidate(nics, index, &configured));
        nics[index].installed_name = name;
    }
    let taken: Vec<String> = nics
        .iter()
        .filter_map(|nic| nic.installed_name.clone())
        .collect();
    let others: Vec<&String> = configured
        .iter()
        .filter(|name| !taken.contains(name))
        .collect();
    match network.predictable_names {
        Some(true) if others.is_empty() => {
            for nic in nics.iter_mut().filter(|nic| nic.installed_name.is_none()) {
                let candidates = &nic.name_candidates;
                let policy = [&candidates.onboard, &candidates.slot, &candidates.path];
                nic.installed_name = policy.into_iter().flatten().next().cloned();
            }
        }
        // The only card is the first one.
        Some(false) => {
            if let [nic] = nics
                && nic.installed_name.is_none()
                && others.iter().all(|name| *name == "eth0")
                && nic
                    .name_candidates
                    .path
                    .as_deref()
                    .is_some_and(|n| n.starts_with("en"))
            {
                nic.installed_name = Some("eth0".into());
            }
        }
        _ => {}
    }
}

/// The names of cards in the configuration, without patterns, VLANs and aliases.
fn configured(network: &Network) -> Vec<String> {
    let mut names: Vec<String> = network
        .interfaces
        .iter()
        .filter_map(|interface| interface.name.clone())
        .filter(|name| {
            !name.contains(['*', '?', '[', '!', '.', ':', '@'])
                && !NO_CARDS.iter().any(|no| name.starts_with(no))
        })
        .collect();
    names.sort();
    names.dedup();
    names
}

/// A name that a file gives to a card with this address or place.
fn by_file(nic: &NicInfo, network: &Network) -> Option<String> {
    let mut given = network.names.iter();
    let given = given.find(|given| {
        // What a file says about the address has to fit as well as the place.
        let same =
            |wanted: &Option<String>, own: &Option<String>| wanted.is_none() || wanted == own;
        same(&given.mac, &nic.mac) && same(&given.pci_address, &nic.pci_address)
    });
    if let Some(given) = given {
        return Some(given.name.clone());
    }
    let is_its = |interface: &&Interface| {
        interface.mac.is_some()
            && interface.mac == nic.mac
            && interface
                .name
                .as_ref()
                .is_some_and(|name| !name.contains('*'))
    };
    network.interfaces.iter().find(is_its)?.name.clone()
}

/// The configured name that is a candidate of this card and of no other.
fn by_candidate(nics: &[NicInfo], index: usize, configured: &[String]) -> Option<String> {
    let has = |nic: &NicInfo, name: &str| {
        let names = &nic.name_candidates;
        [
            &names.onboard,
            &names.slot,
            &names.path,
            &names.mac,
            &names.label,
        ]
        .into_iter()
        .flatten()
        .any(|candidate| candidate == name)
    };
    let mut names = configured.iter().filter(|name| {
        has(&nics[index], name) && nics.iter().filter(|nic| has(nic, name)).count() == 1
    });
    names.next().cloned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inventory::NameCandidates;
    use crate::inventory::installed::GivenName;

    fn nic(mac: &str, onboard: Option<&str>, path: &str) -> NicInfo {
        NicInfo {
            mac: Some(mac.into()),
            name_candidates: NameCandidates {
                onboard: onboard.map(str::to_owned),
                path: Some(path.into()),
                ..NameCandidates::default()
            },
            ..NicInfo::default()
        }
    }

    fn two() -> Vec<NicInfo> {
        vec![
            nic("aa", Some("eno1"), "enp24s0f0"),
            nic("bb", None, "enp24s0f1"),
        ]
    }

    fn names(nics: &mut [NicInfo], network: Network) -> Vec<Option<String>> {
        let system = System {
            kind: Some(SystemKind::Linux),
            network: Some(network),
            ..System::default()
        };
        give(nics, &system);
        nics.iter().map(|nic| nic.installed_name.clone()).collect()
    }

    fn interface(name: &str) -> Interface {
        Interface {
            name: Some(name.into()),
            ..Interface::default()
        }
    }

    fn some(name: &str) -> Option<String> {
        Some(name.into())
    }

    #[test]
    fn rules_come_before_configuration_and_that_before_the_policy() {
        let rule = GivenName {
            name: "lan0".into(),
            mac: some("aa"),
            ..GivenName::default()
        };
        let network = Network {
            names: vec![rule],
            interfaces: vec![interface("enp24s0f1"), interface("bond0"), interface("en*")],
            predictable_names: Some(true),
            ..Network::default()
        };
        assert_eq!(
            names(&mut two(), network),
            [some("lan0"), some("enp24s0f1")]
        );
        let network = Network {
            interfaces: vec![interface("enp24s0f0")],
            predictable_names: Some(true),
            ..Network::default()
        };
        // It configures the first card by another name than the policy's.
        assert_eq!(
            names(&mut two(), network),
            [some("enp24s0f0"), some("enp24s0f1")]
        );
    }

    #[test]
    fn unknown_names_keep_the_policy_from_guessing() {
        let network = Network {
            interfaces: vec![interface("em1")],
            predictable_names: Some(true),
            ..Network::default()
        };
        assert_eq!(names(&mut two(), network.clone()), [None, None]);
        let network = Network {
            interfaces: Vec::new(),
            predictable_names: None,
            ..network
        };
        assert_eq!(names(&mut two(), network), [None, None]);
    }

    #[test]
    fn without_systemds_names_only_a_single_card_is_known() {
        let network = Network {
            interfaces: vec![interface("eth0")],
            predictable_names: Some(false),
            ..Network::default()
        };
        assert_eq!(names(&mut two(), network.clone()), [None, None]);
        assert_eq!(names(&mut two()[..1], network), [some("eth0")]);
    }
}
