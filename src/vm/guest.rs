//! What an installed system does in a VM that people have to know before they start it.

use super::VmPlan;
use crate::inventory::{Machine, System, SystemKind};
use std::net::IpAddr;

/// Addresses that are named in one sentence.
const MOST_ADDRESSES: usize = 16;

/// Of a Windows with several disks: that it may leave its data disks offline, by the policy of its own for disks that it has not
/// seen on their bus before.
///
/// `SanPolicy` (`VDS_SAN_POLICY`, vds.h; diskpart's `san`): 1 `OnlineAll`, 2 `OfflineShared`, 3 `OfflineAll`,
/// 4 `OfflineInternal`. Without the value it is the edition's: `OfflineShared` of servers, `OnlineAll` of others.
pub(super) fn offline_disks(machine: &Machine, disks: usize) -> Option<String> {
    let mut systems = machine.installed.iter().flatten();
    let windows = systems.find(|system| system.kind == Some(SystemKind::Windows))?;
    let is_server = windows
        .name
        .as_ref()
        .is_some_and(|name| name.contains("Server"));
    let (policy, whose) = match windows.san_policy {
        Some(2) => ("OfflineShared", "its SAN policy is"),
        Some(3) => ("OfflineAll", "its SAN policy is"),
        Some(4) => ("OfflineInternal", "its SAN policy is"),
        None if is_server => (
            "OfflineShared",
            "its SAN policy is not set, and a server's is then",
        ),
        _ => return None,
    };
    (disks > 1).then(|| {
        format!(
            "Windows may leave data disks offline in the VM, because they are new to it there and {whose} {policy}: \
             if disks are missing there, say in diskpart 'san policy=OnlineAll', then for each 'select disk N', \
             'online disk' and 'attributes disk clear readonly'"
        )
    })
}

/// The addresses that a system gives its cards itself, without those that are good only inside it or on its cable.
pub(super) fn static_addresses(system: &System) -> Vec<String> {
    let interfaces = system.network.iter().flat_map(|net| &net.interfaces);
    let mut addresses: Vec<String> = interfaces
        .flat_map(|interface| &interface.addresses)
        .filter(|address| {
            let ip = address.split('/').next().and_then(|ip| ip.parse().ok());
            ip.is_some_and(|ip: IpAddr| match ip {
                IpAddr::V4(ip) => !ip.is_loopback() && !ip.is_link_local(),
                IpAddr::V6(ip) => !ip.is_loopback() && !ip.is_unicast_link_local(),
            })
        })
        .take(MOST_ADDRESSES)
        .map(|address| super::printable(address))
        .collect();
    addresses.dedup();
    addresses
}

/// Behind a masquerade (KubeVirt's pod network) the guest has the address that DHCP gives it and no other.
pub(super) fn no_network(plan: &VmPlan) -> Option<String> {
    let addresses = &plan.system.as_ref()?.static_addresses;
    (!plan.nics.is_empty() && !addresses.is_empty()).then(|| {
        format!(
            "the system has static addresses ({}), with which it reaches nothing on the pod network of vm.yaml \
             (masquerade): give its card a bridge to a network of your cluster (multus) there, or set it to DHCP",
            addresses.join(", ")
        )
    })
}

/// What a program of the machine may need and this host does not have: levels of the x86-64 psABI.
pub(crate) fn lower_level(metal: Option<u32>, host: Option<u32>) -> Option<String> {
    let (metal, host) = (metal?, host?);
    (metal > host).then(|| {
        format!(
            "the machine's processors have x86-64-v{metal}, this host's only x86-64-v{host}: programs that were \
             built for v{metal} do not run here"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn windows(name: &str, policy: Option<u32>) -> Machine {
        let installed = json!([{"kind": "windows", "name": name, "san_policy": policy}]);
        let json = json!({"version": 2, "name": "m", "installed": installed});
        Machine::from_json(json.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn a_policy_that_leaves_disks_offline_is_told_where_there_are_several() {
        for (name, policy, told) in [
            ("Windows Server 2019", Some(1), None),
            (
                "Windows Server 2019",
                None,
                Some("not set, and a server's is then OfflineShared:"),
            ),
            ("Windows Server 2019", Some(2), Some("is OfflineShared:")),
            ("Windows 11", Some(3), Some("is OfflineAll:")),
            ("Windows 11", Some(4), Some("is OfflineInternal:")),
            ("Windows 11", None, None),
            ("Windows 11", Some(77), None),
        ] {
            let machine = windows(name, policy);
            let note = offline_disks(&machine, 2);
            assert_eq!(note.is_some(), told.is_some(), "{name} {policy:?}");
            let note = note.unwrap_or_default();
            assert!(note.contains(told.unwrap_or_default()), "{note}");
            assert_eq!(offline_disks(&machine, 1), None);
        }
    }

    #[test]
    fn only_addresses_that_others_reach_are_static_ones() {
        let network = json!({"interfaces": [
            {"name": "lo", "addresses": ["127.0.0.1/8", "::1/128"]},
            {"name": "eth0", "addresses": ["192.0.2.7/24", "dhcp", "fe80::1/64", "2001:db8::7/64", "$(id)"]},
        ]});
        let system = System {
            network: serde_json::from_value(network).unwrap(),
            ..System::default()
        };
        assert_eq!(
            static_addresses(&system),
            ["192.0.2.7/24", "2001:db8::7/64"]
        );
    }

    #[test]
    fn a_host_of_a_lower_level_is_told_of_and_no_other() {
        let note = lower_level(Some(3), Some(2)).unwrap();
        assert!(
            note.contains("have x86-64-v3, this host's only x86-64-v2"),
            "{note}"
        );
        for (metal, host) in [
            (Some(2), Some(2)),
            (Some(2), Some(4)),
            (None, Some(1)),
            (Some(4), None),
        ] {
            assert_eq!(lower_level(metal, host), None);
        }
    }
}
