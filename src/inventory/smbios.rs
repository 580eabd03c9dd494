//! What the firmware says the machine is: SMBIOS ("DMI").
//!
//! The strings come from `/sys/class/dmi/id`, decoded by the kernel. The amount of memory installed
//! is only in the raw table: DMTF DSP0134 3.7, 7.18 (type 17, memory device) and 7.20 (type 19,
//! memory array mapped address). Read here rather than by the crate `dmidecode`, whose slicing
//! panics on a damaged table (docs/decisions/0006-smbios.md).

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use super::sysroot::SysRoot;
use serde::{Deserialize, Serialize};

/// The identity that firmware and vendors give a machine; licences are often bound to it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Smbios {
    /// `Dell Inc.`
    pub manufacturer: Option<String>,
    /// `PowerEdge R640`
    pub product: Option<String>,
    /// The vendor's version of the product.
    pub version: Option<String>,
    /// Serial number, Dell's service tag. Needs root.
    pub serial: Option<String>,
    /// Stock keeping unit.
    pub sku: Option<String>,
    /// Product family.
    pub family: Option<String>,
    /// In the order in which people write it, lower case. Needs root.
    pub uuid: Option<String>,
    /// Vendor of the main board.
    pub board_manufacturer: Option<String>,
    /// Name of the main board.
    pub board_product: Option<String>,
    /// Version of the main board.
    pub board_version: Option<String>,
    /// Serial number of the main board. Needs root.
    pub board_serial: Option<String>,
    /// Vendor of the case.
    pub chassis_manufacturer: Option<String>,
    /// Serial number of the case. Needs root.
    pub chassis_serial: Option<String>,
    /// The owner's inventory number.
    pub chassis_asset_tag: Option<String>,
    /// Vendor of the firmware.
    pub bios_vendor: Option<String>,
    /// Version of the firmware.
    pub bios_version: Option<String>,
    /// Date of the firmware as the firmware writes it, usually `MM/DD/YYYY`.
    pub bios_date: Option<String>,
}

impl Smbios {
    pub(super) fn read(root: &SysRoot) -> Self {
        let text = |name: &str| {
            root.text(&format!("/sys/class/dmi/id/{name}"))
                .filter(|text| !is_filler(text))
        };
        Self {
            manufacturer: text("sys_vendor"),
            product: text("product_name"),
            version: text("product_version"),
            serial: text("product_serial"),
            sku: text("product_sku"),
            family: text("product_family"),
            uuid: text("product_uuid")
                .and_then(|text| uuid::Uuid::parse_str(&text).ok())
                .filter(|uuid| !uuid.is_nil() && !uuid.is_max())
                .map(|uuid| uuid.to_string()),
            board_manufacturer: text("board_vendor"),
            board_product: text("board_name"),
            board_version: text("board_version"),
            board_serial: text("board_serial"),
            chassis_manufacturer: text("chassis_vendor"),
            chassis_serial: text("chassis_serial"),
            chassis_asset_tag: text("chassis_asset_tag"),
            bios_vendor: text("bios_vendor"),
            bios_version: text("bios_version"),
            bios_date: text("bios_date"),
        }
    }
}

/// Whether a vendor forgot to fill a string in: then it identifies nothing.
fn is_filler(text: &str) -> bool {
    const FILLER: [&str; 13] = [
        "to be filled by o.e.m.",
        "default string",
        "not specified",
        "not available",
        "not applicable",
        "none",
        "n/a",
        "unknown",
        "system product name",
        "system manufacturer",
        "system serial number",
        "system version",
        "chassis serial number",
    ];
    let lower = text.to_ascii_lowercase();
    FILLER.contains(&lower.as_str())
        || lower == "0123456789"
        || text.chars().all(|c| matches!(c, '0' | '.' | '-' | ' '))
}

/// Bytes of memory installed according to the raw table: the sum of the memory devices, or of the
/// mapped arrays where no device states its size.
pub(super) fn installed_memory(root: &SysRoot) -> Option<u64> {
    let table = root.bytes("/sys/firmware/dmi/tables/DMI")?;
    let mut devices = 0_u64;
    let mut arrays = 0_u64;
    for structure in Structures(&table) {
        match structure.first() {
            Some(17) => devices = devices.saturating_add(memory_device(structure).unwrap_or(0)),
            Some(19) => arrays = arrays.saturating_add(mapped_array(structure).unwrap_or(0)),
            _ => {}
        }
    }
    [devices, arrays].into_iter().find(|bytes| *bytes > 0)
}

/// Type 17: `Size` at 0Ch, `Extended Size` at 1Ch. 0 is an empty socket, FFFFh unknown, 7FFFh "see
/// the extended size"; bit 15 chooses KiB rather than MiB.
fn memory_device(structure: &[u8]) -> Option<u64> {
    match read_u16le(structure, 0x0c)? {
        0 | 0xffff => None,
        0x7fff => {
            // Bit 31 is reserved.
            let mib = read_u32le(structure, 0x1c)? & 0x7fff_ffff;
            u64::from(mib).checked_mul(1 << 20)
        }
        size if size & 0x8000 != 0 => u64::from(size & 0x7fff).checked_mul(1 << 10),
        size => u64::from(size).checked_mul(1 << 20),
    }
}

/// Type 19: `Starting Address` at 04h and `Ending Address` at 08h in KiB, both inside; FFFFFFFFh
/// means the extended ones at 0Fh and 17h in bytes.
fn mapped_array(structure: &[u8]) -> Option<u64> {
    let start = read_u32le(structure, 0x04)?;
    let end = read_u32le(structure, 0x08)?;
    if start == u32::MAX {
        let start = read_u64le(structure, 0x0f)?;
        let end = read_u64le(structure, 0x17)?;
        return end.checked_sub(start)?.checked_add(1);
    }
    let kib = end.checked_sub(start)?;
    u64::from(kib).checked_add(1)?.checked_mul(1 << 10)
}

/// Walks the structures of a table (6.1.2): type, length of the formatted area and handle, the rest
/// of that area, then strings up to two NUL bytes. Yields the formatted areas.
struct Structures<'a>(&'a [u8]);

impl<'a> Iterator for Structures<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let length = usize::from(*self.0.get(1)?);
        // A header has four bytes: anything shorter is damage, and would loop for ever.
        if length < 4 {
            return None;
        }
        let (structure, strings) = self.0.split_at_checked(length)?;
        // Type 127 ends the table.
        if structure.first() == Some(&127) {
            return None;
        }
        let end = strings
            .windows(2)
            .position(|pair| pair == [0, 0])
            .and_then(|at| at.checked_add(2));
        self.0 = end.and_then(|end| strings.get(end..)).unwrap_or_default();
        Some(structure)
    }
}

fn read_u16le(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn read_u32le(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn read_u64le(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn device(size: u16, extended: u32) -> Vec<u8> {
        let mut bytes = vec![0_u8; 0x28];
        bytes[0] = 17;
        bytes[1] = 0x28;
        bytes[0x0c..0x0e].copy_from_slice(&size.to_le_bytes());
        bytes[0x1c..0x20].copy_from_slice(&extended.to_le_bytes());
        bytes
    }

    #[test]
    fn a_memory_device_states_its_size_in_four_ways() {
        assert_eq!(memory_device(&device(0x4000, 0)), Some(16 << 30));
        assert_eq!(memory_device(&device(0x8400, 0)), Some(1 << 20));
        assert_eq!(memory_device(&device(0x7fff, 65_536)), Some(64 << 30));
        assert_eq!(memory_device(&device(0, 0)), None);
        assert_eq!(memory_device(&device(0xffff, 0)), None);
    }

    #[test]
    fn fillers_identify_nothing() {
        for text in [
            "To Be Filled By O.E.M.",
            "None",
            "0000000",
            "Default string",
        ] {
            assert!(is_filler(text), "{text}");
        }
        assert!(!is_filler("7XK3P52"));
    }

    #[test]
    fn a_structure_without_a_header_ends_the_walk() {
        assert_eq!(Structures(&[17, 0, 0, 0, 0, 0]).count(), 0);
    }

    proptest! {
        #[test]
        fn any_table_is_walked_to_an_end(table in prop::collection::vec(any::<u8>(), 0..512)) {
            for structure in Structures(&table) {
                prop_assert!(structure.len() >= 4);
                memory_device(structure);
                mapped_array(structure);
            }
        }
    }
}
