//! The controllers that disks hang on, and those that hide disks: without a driver, or in RAID mode.

use super::nics::{PciInfo, PciKind};
use super::sysroot::{SysRoot, link_name};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// The PCI function that a disk hangs on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Controller {
    /// `0000:00:17.0`
    pub pci_address: String,
    /// Vendor and device, `8086:a182`.
    pub pci_id: Option<String>,
    /// The vendor's name, `Broadcom / LSI`; `None` where it is in no list.
    pub vendor: Option<String>,
    /// The device's name, `MegaRAID SAS-3 3108 [Invader]`; the same.
    pub device: Option<String>,
    /// By its class: `raid` means that its disks may be volumes of its own.
    pub kind: Option<PciKind>,
    /// Whether Intel's Volume Management Device stands before it: the installed system needs the
    /// driver `vmd` on the metal, and nothing of the kind in a VM.
    #[serde(default)]
    pub behind_vmd: bool,
}

/// The nearest PCI function above the disk at `dir`.
pub(super) fn of_disk(root: &SysRoot, dir: &Path) -> Option<Controller> {
    let pci = super::nics::pci_above(dir)?;
    let function = super::nics::pci_function(root, pci)?;
    let behind_vmd = pci
        .ancestors()
        .skip(1)
        .any(|above| link_name(&above.join("driver")).as_deref() == Some("vmd"));
    Some(Controller {
        pci_address: function.address,
        pci_id: Some(function.id),
        vendor: function.vendor,
        device: function.device,
        kind: function.kind,
        behind_vmd,
    })
}

/// A sentence for each storage controller that no driver has claimed.
pub(super) fn without_driver(functions: &[PciInfo]) -> Vec<String> {
    functions
        .iter()
        .filter(|function| function.driver.is_none())
        .filter_map(|function| {
            let what = match function.kind? {
                // Intel's VMD has the class of a RAID controller.
                PciKind::Raid if is_vmd(&function.id) => {
                    "Intel VMD, which hides the NVMe disks behind it"
                }
                PciKind::Raid => "a RAID controller, or SATA in RAID mode",
                PciKind::Ide | PciKind::Sata => "a SATA or IDE controller",
                PciKind::Sas | PciKind::Storage => "a SAS or SCSI controller",
                PciKind::Nvme => "an NVMe disk",
                PciKind::FibreChannel => "a Fibre Channel adapter",
                _ => return None,
            };
            Some(format!(
                "{} ({}) has no driver: {what}; its disks are not in the list",
                function.address, function.id
            ))
        })
        .collect()
}

/// Device ids of the kernel's `drivers/pci/controller/vmd.c`.
fn is_vmd(id: &str) -> bool {
    const DEVICES: [&str; 8] = [
        "201d", "28c0", "467f", "4c3d", "7d0b", "9a0b", "a77f", "ad0b",
    ];
    id.strip_prefix("8086:")
        .is_some_and(|device| DEVICES.contains(&device))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_controller_that_hides_disks_is_named() {
        let function = |id: &str, kind, driver: Option<&str>| PciInfo {
            address: "0000:00:0e.0".into(),
            id: id.into(),
            kind: Some(kind),
            driver: driver.map(str::to_owned),
            ..PciInfo::default()
        };
        let said = without_driver(&[
            function("8086:467f", PciKind::Raid, None),
            function("8086:2822", PciKind::Raid, None),
            function("8086:a182", PciKind::Sata, Some("ahci")),
            function("8086:1533", PciKind::Network, None),
        ]);
        assert_eq!(said.len(), 2, "{said:?}");
        assert!(said[0].contains("VMD") && said[1].contains("RAID mode"));
    }
}
