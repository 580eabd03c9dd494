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
use crate::inventory::{DiskBoot, EfiVariable, GLOBAL};
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

/// A loader that an entry is made for.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Loader<'a> {
    /// Place in [`KNOWN`].
    rank: usize,
    esp: &'a Esp,
    /// `/EFI/debian/shimx64.efi`
    path: &'a str,
}

/// Adds entries to `variables` where no entry there names an EFI system partition of `disks`, and puts
/// them in front. What was added, as `\EFI\debian\shimx64.efi`, in order.
pub(super) fn add_missing<'a>(
    variables: &mut Vec<EfiVariable>,
    disks: impl IntoIterator<Item = &'a DiskBoot>,
) -> Vec<String> {
    let esps: Vec<&Esp> = disks.into_iter().flat_map(|disk| &disk.esps).collect();
    let is_entry = |variable: &&EfiVariable| number(&variable.name).is_some();
    let named = |esp: &&&Esp| {
        guid(esp).is_some_and(|guid| {
            let guid = guid.to_bytes_le();
            let mut entries = variables.iter().filter(is_entry);
            entries.any(|entry| entry.data.windows(16).any(|window| window == guid))
        })
    };
    if esps.iter().any(|esp| named(&esp)) {
        return Vec::new();
    }
    let taken: Vec<u16> = variables.iter().filter_map(|v| number(&v.name)).collect();
    let mut free = (0..u16::MAX).filter(|number| !taken.contains(number));
    let mut order = Vec::new();
    let mut added = Vec::new();
    for loader in chosen(&esps) {
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

fn guid(esp: &Esp) -> Option<Uuid> {
    Uuid::parse_str(esp.guid.as_deref()?).ok()
}

/// The best loader of each folder, the better kinds first.
fn chosen<'a>(esps: &[&'a Esp]) -> Vec<Loader<'a>> {
    let mut best: Vec<Loader<'a>> = Vec::new();
    for esp in esps {
        for path in esp.loaders.iter().flatten() {
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
            let loader = Loader { rank, esp, path };
            let same = |other: &&mut Loader<'_>| {
                other.esp.guid == esp.guid
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
/// Hard Drive node (10.3.5.1) and a File Path node (10.3.5.4). `None` for a partition without a GUID or
/// place.
fn load_option(loader: &Loader<'_>) -> Option<Vec<u8>> {
    let esp = loader.esp;
    let mut path = vec![4, 1, 42, 0];
    path.extend(esp.partition.to_le_bytes());
    path.extend(esp.start_sector?.to_le_bytes());
    path.extend(esp.sectors?.to_le_bytes());
    path.extend(guid(esp)?.to_bytes_le());
    // GPT, and a signature that is a GUID.
    path.extend([2, 2]);
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
    use crate::inventory::{LoadOption, device_path};
    use crate::ptable::Scheme;

    const GUID: &str = "7d2b1c4e-93aa-4f0e-8f61-0c5d4e3f2a1b";

    fn disk(loaders: &[&str]) -> DiskBoot {
        DiskBoot {
            scheme: Scheme::Gpt,
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
