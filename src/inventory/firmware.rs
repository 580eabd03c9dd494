//! How the machine's firmware boots: BIOS or UEFI, Secure Boot, boot entries.
//!
//! UEFI variables are read from efivarfs (`NAME-GUID`, four bytes of attributes, then the data). The
//! raw bytes of those that decide about booting are recorded too: the VM's variable store is made
//! from them, because a lost boot entry is the usual reason why a moved machine does not start.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use super::device_path;
use super::sysroot::SysRoot;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Where efivarfs is mounted.
const EFIVARS: &str = "/sys/firmware/efi/efivars";
/// `EFI_GLOBAL_VARIABLE` (UEFI 2.10, 3.3).
pub const GLOBAL: &str = "8be4df61-93ca-11d2-aa0d-00e098032b8c";
/// `EFI_IMAGE_SECURITY_DATABASE_GUID` (UEFI 2.10, 32.4.1).
pub const SECURITY_DATABASE: &str = "d719b2cb-3d3a-4596-a3bc-dad00e67656f";
/// A variable larger than this is no boot entry and no list of keys: not recorded.
const LARGEST: usize = 256 * 1024;

/// Which of the two interfaces the running system was booted through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum FirmwareKind {
    /// Legacy BIOS, or UEFI pretending to be one (CSM).
    #[default]
    Bios,
    /// UEFI.
    Uefi,
}

impl fmt::Display for FirmwareKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bios => "BIOS",
            Self::Uefi => "UEFI",
        })
    }
}

/// The firmware's state.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Firmware {
    /// Which one booted us.
    pub kind: FirmwareKind,
    /// Which one starts the installed system, by its disks; `None` where they do not tell.
    pub installed: Option<FirmwareKind>,
    /// What that was seen by.
    pub installed_why: Option<String>,
    /// Whether Secure Boot is enforced; `None` where that cannot be read.
    pub secure_boot: Option<bool>,
    /// Whether the firmware is in setup mode (no platform key).
    pub setup_mode: Option<bool>,
    /// Number of the entry that was booted: usually our own stick's.
    pub boot_current: Option<u16>,
    /// Numbers of the entries in the order in which they are tried.
    pub boot_order: Vec<u16>,
    /// The entries.
    pub boot_entries: Vec<BootEntry>,
    /// The raw variables: `BootOrder`, `Boot####`, `PK`, `KEK`, `db`, `dbx`.
    pub variables: Vec<EfiVariable>,
}

/// A `Boot####` variable, decoded.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootEntry {
    /// The `####`.
    pub number: u16,
    /// What the firmware's menu shows.
    pub description: String,
    /// Whether it is tried without being asked for (`LOAD_OPTION_ACTIVE`).
    pub active: bool,
    /// The device path as text.
    pub path: String,
    /// The loader on its partition, with backslashes; `None` for network and firmware entries.
    pub file: Option<String>,
}

/// A UEFI variable as the firmware holds it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EfiVariable {
    /// Its name.
    pub name: String,
    /// Its vendor's GUID, lower case.
    pub guid: String,
    /// Attributes (UEFI 2.10, 8.2.1).
    pub attributes: u32,
    /// Its bytes in hexadecimal.
    #[serde(rename = "data_hex", with = "hex_bytes")]
    pub data: Vec<u8>,
}

impl Firmware {
    pub(super) fn read(root: &SysRoot) -> Self {
        if !root.path("/sys/firmware/efi").is_dir() {
            return Self::default();
        }
        let flag = |name: &str| {
            variable(root, name, GLOBAL).and_then(|v| v.data.first().map(|byte| *byte == 1))
        };
        let number = |name: &str| {
            let data = variable(root, name, GLOBAL)?.data;
            Some(u16::from_le_bytes(*data.first_chunk()?))
        };
        let order = variable(root, "BootOrder", GLOBAL);
        let mut firmware = Self {
            kind: FirmwareKind::Uefi,
            installed: None,
            installed_why: None,
            secure_boot: flag("SecureBoot"),
            setup_mode: flag("SetupMode"),
            boot_current: number("BootCurrent"),
            boot_order: order.as_ref().map(order_numbers).unwrap_or_default(),
            boot_entries: Vec::new(),
            variables: order.into_iter().collect(),
        };
        for (file, _) in root.entries(EFIVARS) {
            let Some(number) = boot_number(&file) else {
                continue;
            };
            if let Some(raw) = variable(root, &format!("Boot{number:04X}"), GLOBAL) {
                firmware.boot_entries.extend(decode(number, &raw.data));
                firmware.variables.push(raw);
            }
        }
        for (name, guid) in [
            ("PK", GLOBAL),
            ("KEK", GLOBAL),
            ("db", SECURITY_DATABASE),
            ("dbx", SECURITY_DATABASE),
        ] {
            firmware.variables.extend(variable(root, name, guid));
        }
        firmware
    }

    /// The entries in the order in which the firmware tries them, unlisted ones last.
    pub fn entries_in_order(&self) -> Vec<&BootEntry> {
        let mut entries: Vec<&BootEntry> = self.boot_entries.iter().collect();
        entries.sort_by_key(|entry| {
            self.boot_order
                .iter()
                .position(|number| *number == entry.number)
                .unwrap_or(usize::MAX)
        });
        entries
    }

    /// The raw variable of that name.
    pub fn variable(&self, name: &str) -> Option<&EfiVariable> {
        self.variables.iter().find(|variable| variable.name == name)
    }
}

fn variable(root: &SysRoot, name: &str, guid: &str) -> Option<EfiVariable> {
    let bytes = root.bytes(&format!("{EFIVARS}/{name}-{guid}"))?;
    let (attributes, data) = bytes.split_first_chunk::<4>()?;
    (data.len() <= LARGEST).then(|| EfiVariable {
        name: name.to_owned(),
        guid: guid.to_owned(),
        attributes: u32::from_le_bytes(*attributes),
        data: data.to_vec(),
    })
}

fn order_numbers(order: &EfiVariable) -> Vec<u16> {
    order
        .data
        .chunks_exact(2)
        .filter_map(|pair| Some(u16::from_le_bytes(*pair.first_chunk()?)))
        .collect()
}

/// The number in a file name `Boot0001-8be4df61-…`.
fn boot_number(file: &str) -> Option<u16> {
    let digits = file
        .strip_prefix("Boot")?
        .strip_suffix(GLOBAL)?
        .strip_suffix('-')?;
    (digits.len() == 4
        && digits
            .bytes()
            .all(|b| matches!(b, b'0'..=b'9' | b'A'..=b'F')))
    .then(|| u16::from_str_radix(digits, 16).ok())?
}

/// The pieces of an `EFI_LOAD_OPTION`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoadOption<'a> {
    /// `LOAD_OPTION_ACTIVE` is bit 0.
    pub attributes: u32,
    /// UTF-16 with its NUL.
    pub description: &'a [u8],
    /// The packed device paths.
    pub path: &'a [u8],
    /// Handed to the loader.
    pub optional_data: &'a [u8],
}

impl<'a> LoadOption<'a> {
    /// UEFI 2.10, 3.1.3: `Attributes` u32 at 0, `FilePathListLength` u16 at 4, `Description` from 6
    /// up to its NUL, then the paths and the optional data. `None` if it is damaged.
    pub fn parse(data: &'a [u8]) -> Option<Self> {
        let (attributes, rest) = data.split_first_chunk::<4>()?;
        let (length, rest) = rest.split_first_chunk::<2>()?;
        let nul = rest.chunks_exact(2).position(|pair| pair == [0, 0])?;
        let (description, rest) = rest.split_at_checked(nul.checked_add(1)?.checked_mul(2)?)?;
        let (path, optional_data) =
            rest.split_at_checked(usize::from(u16::from_le_bytes(*length)))?;
        Some(Self {
            attributes: u32::from_le_bytes(*attributes),
            description,
            path,
            optional_data,
        })
    }
}

fn decode(number: u16, data: &[u8]) -> Option<BootEntry> {
    let option = LoadOption::parse(data)?;
    Some(BootEntry {
        number,
        description: device_path::utf16(option.description),
        active: option.attributes & 1 != 0,
        path: device_path::text(option.path),
        file: device_path::nodes(option.path).find_map(|node| node.file()),
    })
}

/// Bytes as hexadecimal digits: half the size of a JSON list, and readable beside `efivar -p`.
mod hex_bytes {
    use serde::{Deserialize, Deserializer, Serializer, de};
    use std::fmt::Write as _;

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], out: S) -> Result<S::Ok, S::Error> {
        let mut text = String::new();
        for byte in bytes {
            // Writing to a string cannot fail.
            let _ = write!(text, "{byte:02x}");
        }
        out.serialize_str(&text)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(from)?;
        let pairs = text.as_bytes().chunks(2);
        pairs
            .map(|pair| {
                let digits = str::from_utf8(pair).ok().filter(|pair| pair.len() == 2)?;
                // from_str_radix takes a sign.
                let hex = digits.bytes().all(|b| b.is_ascii_hexdigit());
                hex.then(|| u8::from_str_radix(digits, 16).ok())?
            })
            .collect::<Option<Vec<u8>>>()
            .ok_or_else(|| de::Error::custom("data_hex is not pairs of hexadecimal digits"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_boot_entries_have_a_boot_number() {
        assert_eq!(boot_number(&format!("Boot001F-{GLOBAL}")), Some(0x1f));
        for name in ["BootOrder", "BootNext", "BootCurrent", "Boot01", "Boot00+1"] {
            assert_eq!(boot_number(&format!("{name}-{GLOBAL}")), None, "{name}");
        }
    }

    #[test]
    fn a_load_option_cut_short_is_none() {
        let whole = [1, 0, 0, 0, 4, 0, b'x', 0, 0, 0, 0x7f, 0xff, 4, 0];
        assert!(LoadOption::parse(&whole).is_some());
        for length in 0..whole.len() {
            assert_eq!(LoadOption::parse(&whole[..length]), None, "{length}");
        }
    }

    #[test]
    fn odd_or_signed_hex_is_refused() {
        for hex in ["0", "+1", "zz", "00 "] {
            let json = format!(r#"{{"name":"x","guid":"y","attributes":7,"data_hex":"{hex}"}}"#);
            assert!(serde_json::from_str::<EfiVariable>(&json).is_err(), "{hex}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_decode_or_do_not(data in prop::collection::vec(any::<u8>(), 0..128)) {
            decode(0, &data);
        }

        #[test]
        fn a_variable_survives_json(data in prop::collection::vec(any::<u8>(), 0..64)) {
            let variable = EfiVariable {
                name: "db".into(), guid: SECURITY_DATABASE.into(), attributes: 0x27, data,
            };
            let json = serde_json::to_string(&variable).unwrap();
            prop_assert_eq!(serde_json::from_str::<EfiVariable>(&json).unwrap(), variable);
        }
    }
}
