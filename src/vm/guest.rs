//! What an installed system does in a VM that people have to know before they start it.

use super::{DiskBus, VmPlan};
use crate::inventory::{System, SystemKind};
use std::net::IpAddr;

/// Addresses that are named in one sentence.
const MOST_ADDRESSES: usize = 16;

/// What a Windows does with disks that it has not seen on their bus before.
///
/// `SanPolicy` (`VDS_SAN_POLICY`, vds.h; diskpart's `san`): 1 `OnlineAll`, 2 `OfflineShared`, 3 `OfflineAll`,
/// 4 `OfflineInternal`. Without the value it is the edition's: `OfflineShared` of servers, `OnlineAll` of others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SanPolicy {
    name: &'static str,
    /// Whether it is only about buses that several machines could share: SCSI, SAS and what Windows takes for such.
    shared_only: bool,
    /// Whose word it is.
    whose: &'static str,
}

impl SanPolicy {
    /// One that leaves disks offline; `None` for others.
    pub(super) fn of(system: &System) -> Option<Self> {
        let is_server = system
            .name
            .as_ref()
            .is_some_and(|name| name.contains("Server"));
        let (name, whose) = match system.san_policy {
            _ if system.kind != Some(SystemKind::Windows) => return None,
            Some(2) => ("OfflineShared", "its SAN policy is"),
            Some(3) => ("OfflineAll", "its SAN policy is"),
            Some(4) => ("OfflineInternal", "its SAN policy is"),
            None if is_server => (
                "OfflineShared",
                "its SAN policy is not set, and a server's is then",
            ),
            _ => return None,
        };
        Some(Self {
            name,
            shared_only: name == "OfflineShared",
            whose,
        })
    }
}

impl VmPlan {
    /// Of a Windows with several disks: that it may leave its data disks offline.
    pub(super) fn note_offline_disks(&mut self) {
        let policy = self.system.as_ref().and_then(|system| system.san_policy);
        let Some(SanPolicy {
            name,
            shared_only,
            whose,
        }) = policy
        else {
            return;
        };
        let own = [DiskBus::Ide, DiskBus::Sata, DiskBus::Nvme, DiskBus::Usb];
        let is_shared = self.disks.iter().any(|disk| !own.contains(&disk.bus));
        if self.disks.len() > 1 && (is_shared || !shared_only) {
            self.settled.push(format!(
                "Windows may leave data disks offline in the VM, because they are new to it there and {whose} {name}: \
                 if disks are missing there, say in diskpart 'san policy=OnlineAll', then for each 'select disk N', \
                 'online disk' and 'attributes disk clear readonly'"
            ));
        }
    }
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
    use crate::inventory::{DiskInfo, FirmwareKind, Machine};
    use crate::vm::VmDisk;
    use serde_json::json;

    fn windows(name: &str, policy: Option<u32>) -> Machine {
        let installed = json!([{"kind": "windows", "name": name, "san_policy": policy}]);
        let json = json!({"version": 2, "name": "m", "installed": installed});
        Machine::from_json(json.to_string().as_bytes()).unwrap()
    }

    fn notes(machine: &Machine, disks: usize, bus: DiskBus) -> String {
        let disks: Vec<VmDisk> = (0..disks)
            .map(|number| {
                VmDisk::of(&DiskInfo {
                    name: format!("sd{number}"),
                    size_bytes: 1 << 30,
                    ..DiskInfo::default()
                })
            })
            .collect();
        let plan = VmPlan::with_firmware(machine, &disks, FirmwareKind::Bios);
        plan.with_disk_bus(bus).unwrap().all_notes().join("\n")
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
            let on_virtio = notes(&machine, 2, DiskBus::VirtioBlk);
            assert_eq!(
                on_virtio.contains("diskpart"),
                told.is_some(),
                "{on_virtio}"
            );
            assert!(on_virtio.contains(told.unwrap_or_default()), "{on_virtio}");
            // A bus of the machine's own is not shared.
            let on_sata = notes(&machine, 2, DiskBus::Sata);
            let is_told = told.is_some_and(|told| !told.contains("OfflineShared"));
            assert_eq!(on_sata.contains("diskpart"), is_told, "{on_sata}");
            assert!(!notes(&machine, 1, DiskBus::VirtioBlk).contains("diskpart"));
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
