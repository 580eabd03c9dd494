//! What systemd mounts without a line in fstab, by the types of the partitions on the root's disk: the extended boot
//! loader partition and the ESP (systemd-gpt-auto-generator(8); the UAPI group's Discoverable Partitions Specification).
//! Kernels lie there.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use super::reading::Reading;
use super::system::FstabEntry;
use super::volumes::Volumes;
use crate::files::{Files, Tree};
use crate::ptable::PartitionType;

/// What does it, and where it is where `/lib` is a folder of its own.
const GENERATORS: [&str; 2] = [
    "/usr/lib/systemd/system-generators/systemd-gpt-auto-generator",
    "/lib/systemd/system-generators/systemd-gpt-auto-generator",
];
/// The library that has systemd's version in its name, and where it may be.
const LIBRARY: &str = "libsystemd-shared-";
const LIBRARIES: [&str; 4] = [
    "/usr/lib/systemd",
    "/usr/lib64/systemd",
    "/usr/lib/x86_64-linux-gnu/systemd",
    "/usr/lib/aarch64-linux-gnu/systemd",
];
/// The first one that puts the ESP at `/boot` where it could be there and at `/efi`.
const BOOT_FIRST: u32 = 254;

/// Mounts them where systemd would, and says what and where. `None`: this system does no such thing.
pub(super) fn mount<'t>(
    reading: &mut Reading<'t>,
    volumes: &'t Volumes<'t>,
    root: usize,
    fstab: &[FstabEntry],
) -> Option<Vec<FstabEntry>> {
    GENERATORS.iter().find(|path| reading.exists(path))?;
    let is_boot = |path: &str| {
        let path = path.trim_end_matches('/');
        ["/boot", "/efi"].iter().any(|top| {
            let below = path.strip_prefix(top);
            below.is_some_and(|below| below.is_empty() || below.starts_with('/'))
        })
    };
    if fstab.iter().any(|entry| is_boot(&entry.file)) {
        return None;
    }
    let mut entries = Vec::new();
    let extended = found(volumes, PartitionType::EXTENDED_BOOT, root);
    let boot_is_free = reading.exists("/boot") && reading.list("/boot").is_empty();
    let efi_is_free = reading.list("/efi").is_empty();
    if let Some((tree, uuid)) = &extended
        && reading.list("/boot").is_empty()
    {
        reading.files.mount("/boot", *tree, tree.root());
        entries.push(entry("/boot", *tree, uuid));
    }
    let esp = found(volumes, PartitionType::EFI_SYSTEM, root);
    // Only a loader of systemd's kind says which ESP it came from, without which none is mounted.
    let esp = esp.filter(|(tree, _)| {
        let files = Files::new(*tree, tree.root());
        let is_there = |path: &&str| matches!(files.kind(path), Ok(Some(_)));
        extended.is_some()
            || ["/loader", "/EFI/Linux", "/EFI/systemd"]
                .iter()
                .any(is_there)
    });
    let prefers_efi = reading.exists("/efi")
        && efi_is_free
        && version(reading).is_some_and(|version| version < BOOT_FIRST);
    let place = match extended {
        None if boot_is_free && !prefers_efi => Some("/boot"),
        _ => efi_is_free.then_some("/efi"),
    };
    if let (Some((tree, uuid)), Some(place)) = (esp, place) {
        reading.files.mount(place, tree, tree.root());
        entries.push(entry(place, tree, &uuid));
    }
    (!entries.is_empty()).then_some(entries)
}

/// The filesystem on the partition of a type, and its UUID.
fn found<'t>(
    volumes: &'t Volumes<'t>,
    kind: PartitionType,
    root: usize,
) -> Option<(&'t dyn Tree, String)> {
    let tree = volumes.tree(volumes.of_type(kind, root)?)?;
    Some((tree, tree.uuid()?))
}

fn entry(place: &str, tree: &dyn Tree, uuid: &str) -> FstabEntry {
    FstabEntry {
        spec: format!("UUID={uuid}"),
        file: place.to_owned(),
        fs_type: tree.filesystem().to_owned(),
        options: Vec::new(),
    }
}

/// The version of the system's systemd.
fn version(reading: &Reading<'_>) -> Option<u32> {
    let files = LIBRARIES.iter().flat_map(|folder| reading.list(folder));
    files
        .filter_map(|file| {
            let rest = file.name.strip_prefix(LIBRARY)?;
            rest.split(|c: char| !c.is_ascii_digit())
                .next()?
                .parse()
                .ok()
        })
        .max()
}
