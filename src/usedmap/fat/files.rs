//! Names of files on a FAT: enough to see which boot loaders an EFI system partition has. Nothing of
//! a file's content is read.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use super::ENTRY;
use super::boot::{Boot, Kind};
use crate::bytes::{read_array, read_u8, read_u16le, read_u32le};
use crate::device::ReadAt;
use crate::error::Result;
use crate::refusal::Refusal;
use crate::units::ByteOffset;
use std::collections::BTreeSet;

/// A directory of more than this is cut: no folder of boot loaders is.
const LARGEST_DIRECTORY: usize = 1 << 20;
/// Folders that are looked into in all.
const MOST_FOLDERS: usize = 256;
/// Names that are kept.
const MOST_FILES: usize = 256;
/// Folders inside each other.
const DEEPEST: usize = 6;

const DIRECTORY: u8 = 0x10;
const VOLUME_ID: u8 = 0x08;
const LONG_NAME: u8 = 0x0F;

/// Paths of the files below the folder `top` that end in `suffix`, in whatever case: `/EFI/BOOT/x.efi`.
/// At most [`MOST_FILES`]; a damaged directory ends where it is damaged.
///
/// # Errors
/// When it is no FAT, or the root directory cannot be read.
pub(crate) fn find(
    volume: &dyn ReadAt,
    top: &str,
    suffix: &str,
) -> std::result::Result<Vec<String>, Refusal> {
    let boot = Boot::read(volume)?;
    let mut found = Vec::new();
    let mut seen = BTreeSet::new();
    let mut waiting: Vec<(String, u64, usize)> = root(volume, &boot)?
        .into_iter()
        .filter(|entry| entry.is_directory && entry.name.eq_ignore_ascii_case(top))
        .map(|entry| (format!("/{}", entry.name), entry.cluster, 1))
        .collect();
    while let Some((path, cluster, depth)) = waiting.pop() {
        // A folder inside itself would never end.
        if !seen.insert(cluster) || seen.len() > MOST_FOLDERS {
            continue;
        }
        let Ok(bytes) = chain(volume, &boot, cluster) else {
            continue;
        };
        for entry in entries(&bytes) {
            let below = format!("{path}/{}", entry.name);
            let lower = entry.name.to_ascii_lowercase();
            if entry.is_directory {
                if depth < DEEPEST {
                    waiting.push((below, entry.cluster, depth.saturating_add(1)));
                }
            } else if lower.ends_with(suffix) && found.len() < MOST_FILES {
                found.push(below);
            }
        }
    }
    found.sort();
    Ok(found)
}

struct Entry {
    name: String,
    is_directory: bool,
    cluster: u64,
}

fn root(volume: &dyn ReadAt, boot: &Boot) -> Result<Vec<Entry>> {
    if boot.kind == Kind::Fat32 {
        return Ok(entries(&chain(volume, boot, boot.root_cluster)?));
    }
    let len = usize::try_from(boot.root_size)
        .unwrap_or(LARGEST_DIRECTORY)
        .min(LARGEST_DIRECTORY);
    let mut bytes = vec![0; len];
    let at = boot.data_at.saturating_sub(boot.root_size);
    volume.read_at(ByteOffset(at), &mut bytes)?;
    Ok(entries(&bytes))
}

/// The bytes of a chain of clusters, up to [`LARGEST_DIRECTORY`], which also ends a chain in a circle.
fn chain(volume: &dyn ReadAt, boot: &Boot, first: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut cluster = first;
    let size = usize::try_from(boot.cluster_size).unwrap_or(LARGEST_DIRECTORY);
    while boot.has_cluster(cluster) && bytes.len() < LARGEST_DIRECTORY {
        let mut piece = vec![0; size.min(LARGEST_DIRECTORY)];
        volume.read_at(ByteOffset(boot.cluster_at(cluster)), &mut piece)?;
        bytes.append(&mut piece);
        cluster = next(volume, boot, cluster)?;
    }
    Ok(bytes)
}

/// What the table says of a cluster, in the copy that is in use.
fn next(volume: &dyn ReadAt, boot: &Boot, cluster: u64) -> Result<u64> {
    let bits = boot.kind.entry_bits();
    let at_bit = cluster.saturating_mul(bits);
    let table = boot
        .fat_size
        .saturating_mul(boot.active_fat)
        .saturating_add(boot.fat_at);
    let mut entry = [0; 4];
    let width = if boot.kind == Kind::Fat32 { 4 } else { 2 };
    let (bytes, _) = entry.split_at_mut(width);
    volume.read_at(ByteOffset(table.saturating_add(at_bit / 8)), bytes)?;
    let value = u32::from_le_bytes(entry);
    Ok(u64::from(match boot.kind {
        Kind::Fat12 if !at_bit.is_multiple_of(8) => value >> 4,
        Kind::Fat12 => value & 0xFFF,
        Kind::Fat16 => value,
        Kind::Fat32 => value & 0x0FFF_FFFF,
    }))
}

/// The entries of a directory, but `.`, `..`, deleted ones and the label.
fn entries(bytes: &[u8]) -> Vec<Entry> {
    let mut entries = Vec::new();
    // Pieces of a long name stand before their entry, the last piece first.
    let mut long: Vec<u16> = Vec::new();
    for raw in bytes.chunks_exact(ENTRY) {
        let attributes = read_u8(raw, 0x0B) & 0x3F;
        match read_u8(raw, 0) {
            0 => break,
            0xE5 => long.clear(),
            order if attributes == LONG_NAME => {
                if order & 0x40 != 0 {
                    long.clear();
                }
                let mut piece: Vec<u16> = [1, 3, 5, 7, 9, 14, 16, 18, 20, 22, 24, 28, 30]
                    .into_iter()
                    .map(|at| read_u16le(raw, at))
                    .take_while(|unit| *unit != 0)
                    .collect();
                piece.append(&mut long);
                // 20 pieces are the most that a name has.
                piece.truncate(260);
                long = piece;
            }
            _ if attributes & VOLUME_ID != 0 => long.clear(),
            first => {
                let name = if long.is_empty() {
                    short_name(&read_array::<11>(raw, 0), read_u8(raw, 0x0C))
                } else {
                    String::from_utf16_lossy(&long)
                };
                long.clear();
                if first == b'.' || name.contains('/') {
                    continue;
                }
                let high = u64::from(read_u16le(raw, 0x14));
                let low = u64::from(read_u32le(raw, 0x1A) & 0xFFFF);
                entries.push(Entry {
                    name,
                    is_directory: attributes & DIRECTORY != 0,
                    cluster: (high << 16) | low,
                });
            }
        }
    }
    entries
}

/// `GRUBX64 EFI` is `GRUBX64.EFI`. Bits 3 and 4 of `DIR_NTRes` say that the name and its extension are
/// meant in lower case, which Windows, Linux and mtools write instead of a long name.
fn short_name(raw: &[u8; 11], case: u8) -> String {
    let (base, extension) = raw.split_at(8);
    let text = |part: &[u8], bit: u8| {
        let text = String::from_utf8_lossy(part).trim_end().to_owned();
        if case & bit == 0 {
            text
        } else {
            text.to_lowercase()
        }
    };
    match text(extension, 0x10) {
        extension if extension.is_empty() => text(base, 0x08),
        extension => format!("{}.{extension}", text(base, 0x08)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::MemDisk;
    use proptest::prelude::*;
    use std::process::Command;

    fn run(program: &str, args: &[&str]) {
        let output = Command::new(program).args(args).output().unwrap();
        assert!(output.status.success(), "{program} {args:?}: {output:?}");
    }

    /// Made by mkfs.vfat and mtools: `/EFI/debian/{shimx64,grubx64}.efi`, `/EFI/BOOT/BOOTX64.EFI`, a
    /// file of no interest and forty long names, so that the folder has several clusters.
    fn esp(bits: &str, kib: &str) -> Vec<u8> {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("esp");
        let image = image.to_str().unwrap();
        run("mkfs.vfat", &["-C", "-F", bits, "-s", "1", image, kib]);
        let file = dir.path().join("file");
        std::fs::write(&file, b"x").unwrap();
        let file = file.to_str().unwrap();
        for folder in ["::/EFI", "::/EFI/debian", "::/EFI/BOOT", "::/other"] {
            run("mmd", &["-i", image, folder]);
        }
        let mut names = vec![
            "EFI/debian/shimx64.efi".to_owned(),
            "EFI/debian/grub.cfg".into(),
            "EFI/BOOT/BOOTX64.EFI".into(),
            "other/x.efi".into(),
        ];
        names.extend((0..40).map(|n| format!("EFI/debian/a rather long name {n:02}.txt")));
        names.push("EFI/debian/grubx64.efi".into());
        for name in names {
            run("mcopy", &["-i", image, file, &format!("::/{name}")]);
        }
        std::fs::read(image).unwrap()
    }

    #[test]
    fn loaders_are_found_on_all_kinds_of_fat() {
        for (bits, kib) in [("12", "1440"), ("16", "16384"), ("32", "65536")] {
            let found = find(&MemDisk(esp(bits, kib)), "efi", ".efi").unwrap();
            assert_eq!(
                found,
                [
                    "/EFI/BOOT/BOOTX64.EFI",
                    "/EFI/debian/grubx64.efi",
                    "/EFI/debian/shimx64.efi"
                ],
                "FAT{bits}"
            );
        }
    }

    #[test]
    fn what_is_no_fat_is_refused() {
        assert!(find(&MemDisk(vec![0; 4096]), "efi", ".efi").is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn damage_ends_and_does_not_crash(hits in prop::collection::vec((0_usize..65_536, any::<u8>()), 1..64)) {
            let mut disk = CLEAN.with(Clone::clone);
            for (at, byte) in hits {
                disk[at] = byte;
            }
            let found = find(&MemDisk(disk), "efi", ".efi").unwrap_or_default();
            prop_assert!(found.len() <= MOST_FILES);
        }
    }

    thread_local! {
        static CLEAN: Vec<u8> = esp("12", "1440");
    }
}
