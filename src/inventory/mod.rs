//! What a machine is. In: `/sys` and `/proc`, and what its disks hold and answer. Out: [`Machine`], which is the file `machine.json` of
//! a capture and what the VM is made from (docs/machine-json.md).
//!
//! Nothing here fails: a firmware that says nothing, a file that only root may read or a kernel
//! without the feature leave a `None`, because an inventory with a gap is worth more than none.

pub mod boot;
mod clock;
mod content;
mod controller;
mod cpu;
pub mod device_path;
mod disks;
mod firmware;
mod health;
pub mod installed;
mod installed_names;
mod multipath;
mod name;
mod netname;
mod nics;
mod pci_names;
mod raid;
mod smbios;
mod sysroot;
mod text;
mod tpm;

pub use boot::DiskBoot;
pub(crate) use clock::is_zone_name;
pub use clock::{RtcBasis, RtcClock, TimeZone};
pub use controller::Controller;
pub use cpu::Cpu;
pub use disks::{Bus, DiskInfo};
pub use firmware::{
    BootEntry, EfiVariable, Firmware, FirmwareKind, GLOBAL, LoadOption, SECURITY_DATABASE,
};
pub use health::{HiddenArea, Smart};
pub use installed::{System, SystemKind};
pub(crate) use name::slug;
pub use netname::NameCandidates;
pub use nics::{NicInfo, PciInfo, PciKind};
pub use raid::RaidMember;
pub use smbios::Smbios;
pub use tpm::Tpm;

use crate::error::{Error, Kind, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::path::Path;
use sysroot::SysRoot;

/// The schema that this program writes. It reads all from 1 on: what is missing there is `None`.
pub const VERSION: u32 = 2;

/// A machine as it was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// [`VERSION`]
    pub version: u32,
    /// Short and safe as a file name: `R640-7XK3P52`.
    pub name: String,
    /// When it was looked at, RFC 3339 in UTC, by the machine's own clock.
    pub taken_at: Option<String>,
    /// Release of the kernel that looked.
    pub kernel: Option<String>,
    /// Identity.
    #[serde(default)]
    pub smbios: Smbios,
    /// Processors.
    #[serde(default)]
    pub cpu: Cpu,
    /// Memory.
    #[serde(default)]
    pub memory: Memory,
    /// How it boots.
    #[serde(default)]
    pub firmware: Firmware,
    /// Its trusted platform module.
    pub tpm: Option<Tpm>,
    /// What its hardware clock counts; `None` where that is not known.
    pub rtc: Option<RtcBasis>,
    /// What its hardware clock says.
    pub rtc_clock: Option<RtcClock>,
    /// Disks in the kernel's order, the stick among them.
    #[serde(default)]
    pub disks: Vec<DiskInfo>,
    /// Physical network cards.
    #[serde(default)]
    pub nics: Vec<NicInfo>,
    /// PCI functions.
    #[serde(default)]
    pub pci: Vec<PciInfo>,
    /// The installed systems, the one that starts first in front; `None` where nobody looked.
    #[serde(default)]
    pub installed: Option<Vec<System>>,
}

/// How much memory there is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Memory {
    /// The modules' sizes in bytes, by SMBIOS.
    pub installed_bytes: Option<u64>,
    /// What the kernel can use, in bytes: less than installed.
    pub usable_bytes: Option<u64>,
}

impl Memory {
    /// What the VM should have: the modules, else what the kernel sees.
    pub fn bytes(&self) -> Option<u64> {
        self.installed_bytes.or(self.usable_bytes)
    }
}

impl Machine {
    /// Looks at the machine whose `/sys` and `/proc` lie below `root` (`/` but for tests).
    pub fn read(root: &Path) -> Self {
        let root = SysRoot::new(root);
        let smbios = Smbios::read(&root);
        let nics = nics::read(&root);
        Self {
            version: VERSION,
            name: name::machine_name(&smbios, &nics),
            taken_at: Some(
                jiff::Timestamp::now()
                    .strftime("%Y-%m-%dT%H:%M:%SZ")
                    .to_string(),
            ),
            kernel: root.text("/proc/sys/kernel/osrelease"),
            cpu: Cpu::read(&root),
            memory: Memory {
                installed_bytes: smbios::installed_memory(&root),
                usable_bytes: usable_memory(&root),
            },
            firmware: Firmware::read(&root),
            tpm: tpm::read(&root),
            rtc: clock::basis(&root),
            rtc_clock: clock::read(&root),
            disks: disks::read(&root),
            pci: nics::read_pci(&root),
            installed: None,
            smbios,
            nics,
        }
    }

    /// What hides disks from this list, each a sentence.
    pub fn warnings(&self) -> Vec<String> {
        controller::without_driver(&self.pci)
    }

    /// Reads a `machine.json`.
    ///
    /// # Errors
    /// When it is not one, or one of a newer schema.
    pub fn from_json(json: &[u8]) -> Result<Self> {
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        let reading = |error| {
            Error::new(
                Kind::Corrupt,
                "reading the machine's description (machine.json)",
            )
            .because(error)
        };
        let Version { version } = serde_json::from_slice(json).map_err(reading)?;
        if version > VERSION {
            return Err(Error::new(
                Kind::Unsupported,
                format!("machine.json has version {version}, this program knows 1 to {VERSION}"),
            )
            .advise("Use the haulier that wrote it, or a newer one"));
        }
        if version == 0 {
            return Err(Error::corrupt(
                "machine.json has version 0, which never was",
            ));
        }
        let mut document = serde_json::from_slice(json).map_err(reading)?;
        without_nulls(&mut document);
        let machine: Self = serde_json::from_value(document).map_err(reading)?;
        if machine.disks.iter().any(|disk| disk.name.is_empty()) {
            return Err(Error::corrupt("machine.json has a disk without a name"));
        }
        Ok(machine)
    }

    /// The document `machine.json`, with a newline at its end.
    pub fn to_json(&self) -> String {
        // Strings, numbers and lists only: nothing in it can fail to be written.
        let mut json = serde_json::to_string_pretty(self).unwrap_or_default();
        json.push('\n');
        json
    }

    /// For the technician: at most 80 columns, and 24 lines for a common machine.
    pub fn to_text(&self) -> String {
        text::machine(self)
    }
}

/// Leaves out what is `null`: a number or a list that is not known may be that or be missing, and serde's
/// defaults are for what is missing.
fn without_nulls(value: &mut Value) {
    match value {
        Value::Object(entries) => {
            entries.retain(|_, value| !value.is_null());
            entries.values_mut().for_each(without_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(without_nulls),
        _ => {}
    }
}

/// `MemTotal` of `/proc/meminfo`, in KiB there.
fn usable_memory(root: &SysRoot) -> Option<u64> {
    let meminfo = root.lines("/proc/meminfo")?;
    let line = meminfo.lines().find(|line| line.starts_with("MemTotal:"))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn null_is_unknown_for_every_key_that_may_be_missing() {
        let json = br#"{"version": 2, "name": "m", "smbios": null, "firmware": null, "pci": null, "nics": null,
            "cpu": {"sockets": null, "cores_per_socket": null, "threads_per_core": null, "flags": null,
                "vendor": null},
            "memory": {"installed_bytes": null, "usable_bytes": null},
            "disks": [{"name": "sda", "size_bytes": null, "bus": null, "removable": null, "paths": null}]}"#;
        let machine = Machine::from_json(json).unwrap();
        assert_eq!(machine.cpu, Cpu::default());
        assert_eq!(machine.memory, Memory::default());
        assert_eq!(
            (machine.disks[0].bus, machine.disks[0].size_bytes),
            (Bus::Other, 0)
        );
        let nothing = br#"{"version": 2, "name": "m", "cpu": null, "memory": null}"#;
        assert_eq!(Machine::from_json(nothing).unwrap().cpu, Cpu::default());
    }
}
