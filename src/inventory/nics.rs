//! The network cards, from `/sys/class/net`, and the list of PCI functions.

use super::netname::{self, NameCandidates};
use super::pci_names::{self, Names};
use super::sysroot::{SysRoot, hex, link_name, number};
use crate::device::ioctl;
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
    /// The vendor's name, `Intel Corporation`; `None` where it is in no list.
    pub vendor: Option<String>,
    /// The device's name, `82574L Gigabit Network Connection`; the same.
    pub device: Option<String>,
    /// Place on the bus, `0000:18:00.0`.
    pub pci_address: Option<String>,
    /// Whether there is a link; `None` while the card is down.
    pub link: Option<bool>,
    /// In Mbit/s.
    pub speed_mbit: Option<u32>,
    /// Names that the installed system may know it by.
    pub name_candidates: NameCandidates,
    /// The name that the installed system knows it by, where that follows from its files.
    pub installed_name: Option<String>,
}

/// A PCI function, for the record: what the machine had, and by what drivers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PciInfo {
    /// `0000:18:00.0`
    pub address: String,
    /// Vendor and device, `8086:10d3`.
    pub id: String,
    /// The vendor's name, `Intel Corporation`; `None` where it is in no list.
    pub vendor: Option<String>,
    /// The device's name, `82574L Gigabit Network Connection`; the same.
    pub device: Option<String>,
    /// Class code of 24 bits in hexadecimal, `020000`.
    pub class: String,
    /// What the class stands for; `None` for rare ones.
    pub kind: Option<PciKind>,
    /// Vendor and device of the card or board that the function is on, `1028:0615`.
    pub subsystem_id: Option<String>,
    /// Name of that card or board, `PERC H730P Mini`; the same.
    pub subsystem: Option<String>,
    /// The kernel's driver, if one claims it.
    pub driver: Option<String>,
}

/// What sort of thing a PCI function is, by its class code (PCI Code and ID Assignment 1.15).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PciKind {
    /// 0101
    Ide,
    /// 0104: disks behind it are its volumes.
    Raid,
    /// 0106
    Sata,
    /// 0107
    Sas,
    /// 0108
    Nvme,
    /// 0100 and all other storage.
    Storage,
    /// 02xx
    Network,
    /// 03xx: graphics cards and accelerators that say they are ones.
    Gpu,
    /// 12xx: accelerators.
    Accelerator,
    /// 0604 and all other bridges.
    Bridge,
    /// 0C03
    Usb,
    /// 0C04
    FibreChannel,
    /// A class of a later program: never written.
    #[serde(other)]
    Other,
}

impl PciKind {
    fn of_class(class: u32) -> Option<Self> {
        Some(match ((class >> 16) & 0xff, (class >> 8) & 0xff) {
            (0x01, 0x01) => Self::Ide,
            (0x01, 0x04) => Self::Raid,
            (0x01, 0x06) => Self::Sata,
            (0x01, 0x07) => Self::Sas,
            (0x01, 0x08) => Self::Nvme,
            (0x01, _) => Self::Storage,
            (0x02, _) => Self::Network,
            (0x03, _) => Self::Gpu,
            (0x06, _) => Self::Bridge,
            (0x0c, 0x03) => Self::Usb,
            (0x0c, 0x04) => Self::FibreChannel,
            (0x12, _) => Self::Accelerator,
            _ => return None,
        })
    }
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
    let mac = burnt_in(root, &name)
        .or_else(|| attribute(&dir.join("bonding_slave/perm_hwaddr")))
        .or_else(|| permanent.then(|| attribute(&dir.join("address"))).flatten())
        .map(|mac| mac.to_ascii_lowercase())
        .filter(|mac| mac != "00:00:00:00:00:00");
    let pci = pci_above(&device);
    let id = pci.and_then(pci_id);
    let Names {
        vendor,
        device: device_name,
    } = id.as_deref().map(pci_names::of).unwrap_or_default();
    Some(NicInfo {
        name_candidates: netname::candidates(root, dir, &device, pci, mac.as_deref()),
        name,
        mac,
        driver: link_name(&device.join("driver")),
        pci_id: id,
        vendor,
        device: device_name,
        pci_address: pci
            .and_then(Path::file_name)
            .and_then(|name| name.to_str())
            .map(str::to_owned),
        link: number::<u8>(&dir.join("carrier")).map(|carrier| carrier == 1),
        // -1 without a link.
        speed_mbit: number(&dir.join("speed")),
        installed_name: None,
    })
}

/// The permanent address, from the driver: of this machine only, not of a recorded tree.
fn burnt_in(root: &SysRoot, name: &str) -> Option<String> {
    if !root.is_live() {
        return None;
    }
    let socket = rustix::net::socket(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::DGRAM,
        None,
    )
    .ok()?;
    let address = ioctl::permanent_address(&socket, name).ok()?;
    // Drivers without one say nothing, or zeros.
    let real = address.iter().any(|byte| *byte != 0);
    real.then(|| {
        let pairs: Vec<String> = address.iter().map(|b| format!("{b:02x}")).collect();
        pairs.join(":")
    })
}

/// The nearest PCI function at or above a device: that of a virtio card or disk is one further up.
pub(super) fn pci_above(dir: &Path) -> Option<&Path> {
    dir.ancestors()
        .find(|dir| link_name(&dir.join("subsystem")).as_deref() == Some("pci"))
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
        .filter_map(|(_, link)| pci_function(root, &link))
        .collect();
    functions.sort_by(|a, b| a.address.cmp(&b.address));
    functions
}

/// The PCI function at a folder of sysfs, or a link to it.
pub(super) fn pci_function(root: &SysRoot, link: &Path) -> Option<PciInfo> {
    let dir = root.device(link)?;
    let class = hex(&dir.join("class"))?;
    let subsystem = hex(&dir.join("subsystem_vendor"))
        .zip(hex(&dir.join("subsystem_device")))
        .filter(|ids| *ids != (0, 0))
        .map(|(vendor, device)| format!("{vendor:04x}:{device:04x}"));
    let id = pci_id(&dir)?;
    let Names { vendor, device } = pci_names::of(&id);
    Some(PciInfo {
        address: dir.file_name()?.to_str()?.to_owned(),
        vendor,
        device,
        class: format!("{class:06x}"),
        kind: PciKind::of_class(class),
        subsystem: subsystem
            .as_deref()
            .and_then(|subsystem| pci_names::subsystem(&id, subsystem)),
        subsystem_id: subsystem,
        id,
        driver: link_name(&dir.join("driver")),
    })
}
