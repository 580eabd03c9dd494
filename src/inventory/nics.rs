//! The network cards, from `/sys/class/net`, and the list of PCI functions.

use super::sysroot::{SysRoot, hex, link_name, number};
use crate::device::sysfs::attribute;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// A physical network card.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NicInfo {
    /// The running kernel's name, `eth0`: not that of the installed system.
    pub name: String,
    /// Its permanent address, lower case with colons.
    pub mac: Option<String>,
    /// The kernel's driver.
    pub driver: Option<String>,
    /// Vendor and device, `8086:10d3`.
    pub pci_id: Option<String>,
    /// Place on the bus, `0000:18:00.0`.
    pub pci_address: Option<String>,
    /// Whether there is a link; `None` while the card is down.
    pub link: Option<bool>,
    /// In Mbit/s.
    pub speed_mbit: Option<u32>,
}

/// A PCI function, for the record: what drivers the machine had.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PciInfo {
    /// `0000:18:00.0`
    pub address: String,
    /// Vendor and device, `8086:10d3`.
    pub id: String,
    /// Class code of 24 bits in hexadecimal, `020000`.
    pub class: String,
    /// The kernel's driver, if one claims it.
    pub driver: Option<String>,
}

/// `ARPHRD_ETHER` and `ARPHRD_INFINIBAND` of linux/if_arp.h.
const PHYSICAL: [u32; 2] = [1, 32];

/// All physical cards: not bridges, bonds, VLANs, or the virtual functions of a card.
pub(super) fn read(root: &SysRoot) -> Vec<NicInfo> {
    root.entries("/sys/class/net")
        .into_iter()
        .filter_map(|(name, link)| nic(root, name, &root.device(&link)?))
        .collect()
}

fn nic(root: &SysRoot, name: String, dir: &Path) -> Option<NicInfo> {
    let device = root.device(&dir.join("device"))?;
    let physical = number::<u32>(&dir.join("type")).is_some_and(|kind| PHYSICAL.contains(&kind));
    if !physical || device.join("physfn").exists() {
        return None;
    }
    // NET_ADDR_PERM is 0: otherwise the address was changed, as a bond does to its members.
    let permanent = number::<u8>(&dir.join("addr_assign_type")).is_none_or(|kind| kind == 0);
    let mac = attribute(&dir.join("bonding_slave/perm_hwaddr"))
        .or_else(|| permanent.then(|| attribute(&dir.join("address"))).flatten())
        .map(|mac| mac.to_ascii_lowercase())
        .filter(|mac| mac != "00:00:00:00:00:00");
    // A virtio card's PCI function is one further up.
    let pci = device
        .ancestors()
        .find(|dir| link_name(&dir.join("subsystem")).as_deref() == Some("pci"));
    Some(NicInfo {
        name,
        mac,
        driver: link_name(&device.join("driver")),
        pci_id: pci.and_then(pci_id),
        pci_address: pci
            .and_then(Path::file_name)
            .and_then(|name| name.to_str())
            .map(str::to_owned),
        link: number::<u8>(&dir.join("carrier")).map(|carrier| carrier == 1),
        // -1 without a link.
        speed_mbit: number(&dir.join("speed")),
    })
}

fn pci_id(dir: &Path) -> Option<String> {
    let vendor = hex(&dir.join("vendor"))?;
    let device = hex(&dir.join("device"))?;
    Some(format!("{vendor:04x}:{device:04x}"))
}

/// All PCI functions in address order.
pub(super) fn read_pci(root: &SysRoot) -> Vec<PciInfo> {
    let mut functions: Vec<PciInfo> = root
        .entries("/sys/bus/pci/devices")
        .into_iter()
        .filter_map(|(address, link)| {
            let dir = root.device(&link)?;
            Some(PciInfo {
                id: pci_id(&dir)?,
                class: format!("{:06x}", hex(&dir.join("class"))?),
                driver: link_name(&dir.join("driver")),
                address,
            })
        })
        .collect();
    functions.sort_by(|a, b| a.address.cmp(&b.address));
    functions
}
