//! Boot entries for systems whose own was not recorded: a stick that BIOS started sees no UEFI
//! variables. Made from the loaders on the EFI system partitions.
//!
//! The fallback loader `\EFI\BOOT\BOOTX64.EFI` needs none: firmware tries it by itself (UEFI 2.10,
//! 3.5.1.1).

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use super::nvram::{END_OF_PATH, NON_VOLATILE_RUNTIME};
use crate::inventory::boot::Esp;
use crate::inventory::{DiskBoot, EfiVariable, GLOBAL, LoadOption, device_path};
use crate::ptable::Scheme;
use uuid::Uuid;

/// Loaders that start a system, the better first: shim starts GRUB, and with Secure Boot only shim
/// does. Names as distributions and Windows install them.
const KNOWN: [&str; 5] = [
    "shimx64.efi",
    "grubx64.efi",
    "systemd-bootx64.efi",
    "refind_x64.efi",
    "bootmgfw.efi",
];
/// Entries that are made: a machine has a handful of systems.
const MOST_ENTRIES: usize = 16;
/// The last partition of an MBR that a Hard Drive node can name: only its own four slots (UEFI 2.10,
/// 10.3.5.1), nothing of an extended chain.
const MOST_OF_MBR: u32 = 4;

/// A loader that an entry is made for.
#[derive(Debug, Clone)]
struct Loader<'a> {
    /// Place in [`KNOWN`].
    rank: usize,
    place: Place<'a>,
    /// `/EFI/debian/shimx64.efi`
    path: &'a str,
}

/// An EFI system partition and its disk.
#[derive(Debug, Clone, Copy)]
struct Place<'a> {
    disk: &'a DiskBoot,
    esp: &'a Esp,
}

impl Place<'_> {
    /// Signature, MBR type and signature type of the Hard Drive node.
    fn identity(&self) -> Option<[u8; 18]> {
        let (signature, kind) = match self.disk.scheme {
            Scheme::Gpt => {
                let guid = Uuid::parse_str(self.esp.guid.as_deref()?).ok()?;
                (guid.to_bytes_le(), 2)
            }
            Scheme::Mbr if self.esp.partition <= MOST_OF_MBR => {
                let [a, b, c, d] = self.disk.mbr_signature()?.to_le_bytes();
                let signature = [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
                (signature, 1)
            }
            _ => return None,
        };
        let mut identity = [kind; 18];
        identity.split_at_mut(16).0.copy_from_slice(&signature);
        Some(identity)
    }

    /// The Hard Drive node (UEFI 2.10, 10.3.5.1). `None` for a partition without an identity or place.
    fn node(&self) -> Option<Vec<u8>> {
        let mut node = vec![4, 1, 42, 0];
        node.extend(self.esp.partition.to_le_bytes());
        node.extend(self.esp.start_sector?.to_le_bytes());
        node.extend(self.esp.sectors?.to_le_bytes());
        node.extend(self.identity()?);
        Some(node)
    }

    /// Whether it is the same partition for a firmware: members of a mirror hold the same table.
    fn is_the_same_as(&self, other: &Self) -> bool {
        let key = |place: &Self| (place.identity(), place.esp.partition);
        key(self) == key(other)
    }

    /// Whether a boot entry names the partition. A signature is the disk's, so it takes the number too.
    fn is_named_by(&self, entry: &[u8]) -> bool {
        let (Some(option), Some(identity)) = (LoadOption::parse(entry), self.identity()) else {
            return false;
        };
        device_path::nodes(option.path).any(|node| {
            let number = node.data.get(..4) == Some(&self.esp.partition.to_le_bytes());
            node.is_hard_drive()
                && node.data.get(20..38) == Some(&identity)
                && (number || self.disk.scheme == Scheme::Gpt)
        })
    }
}

/// Adds entries to `variables` where no entry there names an EFI system partition of `disks`, and puts
/// them in front. What was added, as `\EFI\debian\shimx64.efi`, in order.
pub(super) fn add_missing<'a>(
    variables: &mut Vec<EfiVariable>,
    disks: impl IntoIterator<Item = &'a DiskBoot>,
) -> Vec<String> {
    let places: Vec<Place<'_>> = disks
        .into_iter()
        .flat_map(|disk| disk.esps.iter().map(move |esp| Place { disk, esp }))
        .collect();
    let is_entry = |variable: &&EfiVariable| number(&variable.name).is_some();
    let named = |place: &Place<'_>| {
        let mut entries = variables.iter().filter(is_entry);
        entries.any(|entry| place.is_named_by(&entry.data))
    };
    if places.iter().any(named) {
        return Vec::new();
    }
    let taken: Vec<u16> = variables.iter().filter_map(|v| number(&v.name)).collect();
    let mut free = (0..u16::MAX).filter(|number| !taken.contains(number));
    let mut order = Vec::new();
    let mut added = Vec::new();
    for loader in chosen(&places) {
        let Some((number, data)) = free.next().zip(load_option(&loader)) else {
            continue;
        };
        order.extend(number.to_le_bytes());
        added.push(loader.path.replace('/', "\\"));
        variables.push(EfiVariable {
            name: format!("Boot{number:04X}"),
            guid: GLOBAL.into(),
            attributes: NON_VOLATILE_RUNTIME,
            data,
        });
    }
    if added.is_empty() {
        return added;
    }
    match variables.iter_mut().find(|v| v.name == "BootOrder") {
        Some(recorded) => {
            order.append(&mut recorded.data);
            recorded.data = order;
        }
        None => variables.push(EfiVariable {
            name: "BootOrder".into(),
            guid: GLOBAL.into(),
            attributes: NON_VOLATILE_RUNTIME,
            data: order,
        }),
    }
    added
}

/// The best of some loaders on an ESP, if one is known to start a system.
pub(crate) fn best<'a>(paths: &[&'a str]) -> Option<&'a str> {
    let rank = |path: &str| {
        let name = path.rsplit_once('/').map_or(path, |(_, name)| name);
        KNOWN
            .iter()
            .position(|known| known.eq_ignore_ascii_case(name))
    };
    let ranked = paths.iter().filter_map(|path| Some((rank(path)?, *path)));
    ranked.min().map(|(_, path)| path)
}

/// The number of `Boot0001`, not of `BootOrder`.
fn number(name: &str) -> Option<u16> {
    let digits = name.strip_prefix("Boot").filter(|rest| rest.len() == 4)?;
    u16::from_str_radix(digits, 16).ok()
}

/// The best loader of each folder, the better kinds first.
fn chosen<'a>(places: &[Place<'a>]) -> Vec<Loader<'a>> {
    let mut best: Vec<Loader<'a>> = Vec::new();
    for &place in places {
        for path in place.esp.loaders.iter().flatten() {
            let Some((folder, name)) = path.rsplit_once('/') else {
                continue;
            };
            let known = |known: &&str| known.eq_ignore_ascii_case(name);
            let Some(rank) = KNOWN.iter().position(known) else {
                continue;
            };
            // What is in the fallback's folder is started by the fallback.
            if folder.eq_ignore_ascii_case("/EFI/BOOT") {
                continue;
            }
            let loader = Loader { rank, place, path };
            let same = |other: &&mut Loader<'_>| {
                other.place.is_the_same_as(&place)
                    && (other.path.rsplit_once('/')).is_some_and(|(other, _)| other == folder)
            };
            match best.iter_mut().find(same) {
                Some(other) if other.rank > rank => *other = loader,
                Some(_) => {}
                None => best.push(loader),
            }
        }
    }
    best.sort_by_key(|loader| loader.rank);
    best.truncate(MOST_ENTRIES);
    best
}

/// `EFI_LOAD_OPTION` (UEFI 2.10, 3.1.3) with the short path that firmware searches all disks for: a
/// Hard Drive node (10.3.5.1) and a File Path node (10.3.5.4). `None` for a partition that has no such node.
fn load_option(loader: &Loader<'_>) -> Option<Vec<u8>> {
    let mut path = loader.place.node()?;
    let file = utf16(&loader.path.replace('/', "\\"));
    path.extend([4, 4]);
    path.extend(
        u16::try_from(file.len().checked_add(4)?)
            .ok()?
            .to_le_bytes(),
    );
    path.extend(file);
    path.extend(END_OF_PATH);
    // Active.
    let mut data = 1_u32.to_le_bytes().to_vec();
    data.extend(u16::try_from(path.len()).ok()?.to_le_bytes());
    data.extend(utf16(description(loader.path)));
    data.extend(path);
    Some(data)
}

/// What the firmware's menu shows: the vendor's folder.
fn description(path: &str) -> &str {
    path.split('/').nth(2).unwrap_or("system")
}

fn utf16(text: &str) -> Vec<u8> {
    let units = text.encode_utf16().chain([0]);
    units.flat_map(u16::to_le_bytes).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GUID: &str = "7d2b1c4e-93aa-4f0e-8f61-0c5d4e3f2a1b";

    fn disk(loaders: &[&str]) -> DiskBoot {
        DiskBoot {
            scheme: Scheme::Gpt,
            disk_signature: None,
            boot_code: None,
            bios_boot_partition: None,
            active_partition: None,
            esps: vec![Esp {
                partition: 1,
                guid: Some(GUID.into()),
                start_sector: Some(2048),
                sectors: Some(98_304),
                loaders: Some(loaders.iter().map(|&path| path.into()).collect()),
            }],
            by_bios: false,
            by_uefi: true,
        }
    }

    /// The same on an MBR.
    fn mbr(partition: u32, signature: Option<&str>) -> DiskBoot {
        let mut disk = disk(&["/EFI/debian/shimx64.efi"]);
        disk.scheme = Scheme::Mbr;
        disk.disk_signature = signature.map(str::to_owned);
        disk.esps[0].partition = partition;
        disk.esps[0].guid = None;
        disk
    }

    #[test]
    fn an_esp_on_an_mbr_is_named_by_number_and_disk_signature() {
        let disk = mbr(2, Some("1b2c3d4e"));
        let mut variables = Vec::new();
        assert_eq!(add_missing(&mut variables, [&disk]).len(), 1);
        let option = LoadOption::parse(&variables[0].data).unwrap();
        let mut node = vec![4, 1, 42, 0]; // Type, SubType, Length
        node.extend([2, 0, 0, 0]); // PartitionNumber
        node.extend([0, 8, 0, 0, 0, 0, 0, 0]); // PartitionStart
        node.extend([0, 0x80, 1, 0, 0, 0, 0, 0]); // PartitionSize
        node.extend([0x4e, 0x3d, 0x2c, 0x1b]); // PartitionSignature: that at 0x1B8 of the MBR
        node.extend([0; 12]);
        node.extend([1, 1]); // MBRType, SignatureType
        assert_eq!(option.path[..42], node);
        let shim = r"\EFI\debian\shimx64.efi";
        assert_eq!(
            device_path::text(option.path),
            format!("HD(2,MBR,0x1b2c3d4e,0x800,0x18000)/{shim}")
        );
        // The entry that was made counts as a recorded one, but not for another partition or disk.
        assert!(add_missing(&mut variables.clone(), [&disk]).is_empty());
        for other in [mbr(1, Some("1b2c3d4e")), mbr(2, Some("1b2c3d4f"))] {
            assert_eq!(add_missing(&mut variables.clone(), [&other]).len(), 1);
        }
    }

    #[test]
    fn an_esp_on_an_mbr_that_no_node_can_name_gets_no_entry() {
        for disk in [
            mbr(1, None),
            mbr(1, Some("no number")),
            mbr(5, Some("1b2c3d4e")),
        ] {
            let mut variables = Vec::new();
            assert!(add_missing(&mut variables, [&disk]).is_empty(), "{disk:?}");
            assert_eq!(variables, []);
        }
    }

    #[test]
    fn systems_on_two_mbr_disks_have_an_entry_each() {
        let disks = [mbr(1, Some("00000001")), mbr(1, Some("00000002"))];
        let mut variables = Vec::new();
        assert_eq!(add_missing(&mut variables, &disks).len(), 2);
    }

    #[test]
    fn one_entry_for_each_system_shim_before_grub_and_both_before_windows() {
        let disk = disk(&[
            "/EFI/BOOT/BOOTX64.EFI",
            "/EFI/Microsoft/Boot/bootmgfw.efi",
            "/EFI/Microsoft/Boot/memtest.efi",
            "/EFI/debian/grubx64.efi",
            "/EFI/debian/mmx64.efi",
            "/EFI/debian/shimx64.efi",
        ]);
        let mut variables = Vec::new();
        let added = add_missing(&mut variables, [&disk]);
        let shim = r"\EFI\debian\shimx64.efi";
        assert_eq!(added, [shim, r"\EFI\Microsoft\Boot\bootmgfw.efi"]);
        let names: Vec<&str> = variables.iter().map(|v| v.name.as_str()).collect();
        assert_eq!(names, ["Boot0000", "Boot0001", "BootOrder"]);
        assert_eq!(variables[2].data, [0, 0, 1, 0]);
        let option = LoadOption::parse(&variables[0].data).unwrap();
        assert_eq!(option.description, utf16("debian"));
        assert_eq!(
            device_path::text(option.path),
            format!("HD(1,GPT,{GUID},0x800,0x18000)/{shim}")
        );
    }

    #[test]
    fn an_entry_that_was_recorded_stays_the_only_one() {
        let disk = disk(&["/EFI/debian/shimx64.efi"]);
        let mut variables = Vec::new();
        add_missing(&mut variables, [&disk]);
        let before = variables.clone();
        assert!(add_missing(&mut variables, [&disk]).is_empty());
        assert_eq!(variables, before);
    }

    #[test]
    fn an_entry_of_another_disk_comes_behind() {
        let disk = disk(&["/EFI/debian/shimx64.efi"]);
        let recorded = |name: &str, data: &[u8]| EfiVariable {
            name: name.into(),
            guid: GLOBAL.into(),
            attributes: NON_VOLATILE_RUNTIME,
            data: data.to_vec(),
        };
        let mut variables = vec![
            recorded("Boot0000", b"stick"),
            recorded("BootOrder", &[0, 0]),
        ];
        assert_eq!(add_missing(&mut variables, [&disk]).len(), 1);
        assert_eq!(variables[1].data, [1, 0, 0, 0]);
        assert_eq!(variables[2].name, "Boot0001");
    }

    #[test]
    fn the_fallback_alone_needs_no_entry() {
        let mut variables = Vec::new();
        let disk = disk(&["/EFI/BOOT/BOOTX64.EFI", "/EFI/BOOT/grubx64.efi"]);
        assert!(add_missing(&mut variables, [&disk]).is_empty());
        assert_eq!(variables, []);
    }
}
