//! What a machine is. In: `/sys` and `/proc`. Out: [`Machine`], which is the file `machine.json` of
//! a capture and what the VM is made from (docs/machine-json.md).
//!
//! Nothing here fails: a firmware that says nothing, a file that only root may read or a kernel
//! without the feature leave a `None`, because an inventory with a gap is worth more than none.

mod cpu;
pub mod device_path;
mod disks;
mod firmware;
mod name;
mod nics;
mod smbios;
mod sysroot;
mod text;

pub use cpu::Cpu;
pub use disks::{Bus, DiskInfo};
pub use firmware::{
    BootEntry, EfiVariable, Firmware, FirmwareKind, GLOBAL, LoadOption, SECURITY_DATABASE,
};
pub(crate) use name::slug;
pub use nics::{NicInfo, PciInfo};
pub use smbios::Smbios;

use crate::error::{Error, Kind, Result};
use serde::{Deserialize, Serialize};
use std::path::Path;
use sysroot::SysRoot;

/// The schema that this program writes and reads.
pub const VERSION: u32 = 1;

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
    /// Disks in the kernel's order, the stick among them.
    #[serde(default)]
    pub disks: Vec<DiskInfo>,
    /// Physical network cards.
    #[serde(default)]
    pub nics: Vec<NicInfo>,
    /// PCI functions.
    #[serde(default)]
    pub pci: Vec<PciInfo>,
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

/// A trusted platform module. Its keys cannot be carried: what is sealed with it stays behind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tpm {
    /// `2.0` or `1.2`
    pub version: Option<String>,
}

/// What a hardware clock counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RtcBasis {
    /// UTC, as all but Windows do.
    Utc,
    /// Local time.
    Localtime,
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
            tpm: tpm(&root),
            rtc: rtc(&root),
            disks: disks::read(&root),
            pci: nics::read_pci(&root),
            smbios,
            nics,
        }
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
        if version != VERSION {
            return Err(Error::new(
                Kind::Unsupported,
                format!("machine.json has version {version}, this program knows {VERSION}"),
            )
            .advise("Use the haulier that wrote it, or a newer one"));
        }
        serde_json::from_slice(json).map_err(reading)
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

/// `MemTotal` of `/proc/meminfo`, in KiB there.
fn usable_memory(root: &SysRoot) -> Option<u64> {
    let meminfo = root.lines("/proc/meminfo")?;
    let line = meminfo.lines().find(|line| line.starts_with("MemTotal:"))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    kib.checked_mul(1024)
}

fn tpm(root: &SysRoot) -> Option<Tpm> {
    root.path("/sys/class/tpm/tpm0").exists().then(|| Tpm {
        version: root
            .text("/sys/class/tpm/tpm0/tpm_version_major")
            .map(|major| match major.as_str() {
                "1" => "1.2".to_owned(),
                _ => format!("{major}.0"),
            }),
    })
}

/// From hwclock's file: on a stick it is missing, because only the installed system knows.
fn rtc(root: &SysRoot) -> Option<RtcBasis> {
    // adjtime_config(5): the third line.
    match root.lines("/etc/adjtime")?.lines().nth(2)?.trim() {
        "UTC" => Some(RtcBasis::Utc),
        "LOCAL" => Some(RtcBasis::Localtime),
        _ => None,
    }
}
