//! Files of FAT12, FAT16 and FAT32: EFI system partitions, with boot loaders and, with systemd-boot, kernels.
//! A file is known by where its entry in a directory lies on the volume.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use super::mapped::{MAX_RUNS, Mapped, Run};
use super::{Content, Kind, Node, Tree};
use crate::bytes::{read_array, read_u8, read_u16le, read_u32le};
use crate::device::ReadAt;
use crate::refusal::Refusal;
use crate::units::ByteOffset;
use crate::usedmap::fat::boot::{Boot, Kind as Width};
use crate::usedmap::fat::{ENTRY, label, volume_id};

/// No entry lies in the boot sector.
const ROOT: u64 = 0;
/// A directory of more bytes than this is cut: no folder of boot loaders is.
const LARGEST_DIRECTORY: u64 = 1 << 20;
/// What a directory's cluster is read in, at the most.
const LARGEST_CLUSTER: usize = 1 << 20;

const DIRECTORY: u8 = 0x10;
const VOLUME_ID: u8 = 0x08;
const LONG_NAME: u8 = 0x0F;

/// See the module.
pub(super) struct Fat<'a> {
    volume: &'a dyn ReadAt,
    boot: Boot,
}

impl<'a> Fat<'a> {
    pub(super) fn open(volume: &'a dyn ReadAt) -> Result<Self, Refusal> {
        let boot = Boot::read(volume)?;
        Ok(Self { volume, boot })
    }

    /// The entry of a file that is not the root.
    fn entry(&self, node: Node) -> Result<[u8; ENTRY], Refusal> {
        let mut entry = [0; ENTRY];
        self.volume.read_at(ByteOffset(node.number), &mut entry)?;
        Ok(entry)
    }

    /// Where a directory lies on the volume: offsets and lengths, in bytes.
    fn places(&self, directory: Node) -> Result<Vec<(u64, u64)>, Refusal> {
        let first = if directory.number != ROOT {
            first_cluster(&self.entry(directory)?)
        } else if self.boot.kind == Width::Fat32 {
            self.boot.root_cluster
        } else {
            let at = self.boot.data_at.saturating_sub(self.boot.root_size);
            return Ok(vec![(at, self.boot.root_size.min(LARGEST_DIRECTORY))]);
        };
        let most = LARGEST_DIRECTORY.div_ceil(self.boot.cluster_size.max(1));
        let size = self.boot.cluster_size;
        // A chain in a circle ends here too.
        let clusters = self.chain(first, most)?;
        let places = clusters.into_iter();
        Ok(places
            .map(|cluster| (self.boot.cluster_at(cluster), size))
            .collect())
    }

    /// Up to `most` clusters of a chain.
    fn chain(&self, first: u64, most: u64) -> Result<Vec<u64>, Refusal> {
        let mut clusters = Vec::new();
        let mut cluster = first;
        let mut left = most;
        while left > 0 && self.boot.has_cluster(cluster) {
            clusters.push(cluster);
            cluster = self.next(cluster)?;
            left = left.saturating_sub(1);
        }
        Ok(clusters)
    }

    /// What the table says of a cluster, in the copy that is in use.
    fn next(&self, cluster: u64) -> Result<u64, Refusal> {
        let boot = &self.boot;
        let at_bit = cluster.saturating_mul(boot.kind.entry_bits());
        let table = boot
            .fat_size
            .saturating_mul(boot.active_fat)
            .saturating_add(boot.fat_at);
        let mut entry = [0; 4];
        let width = if boot.kind == Width::Fat32 { 4 } else { 2 };
        let (bytes, _) = entry.split_at_mut(width);
        self.volume
            .read_at(ByteOffset(table.saturating_add(at_bit / 8)), bytes)?;
        let value = u32::from_le_bytes(entry);
        Ok(u64::from(match boot.kind {
            Width::Fat12 if !at_bit.is_multiple_of(8) => value >> 4,
            Width::Fat12 => value & 0xFFF,
            Width::Fat16 => value,
            Width::Fat32 => value & 0x0FFF_FFFF,
        }))
    }

    /// Where the clusters of a file of `size` bytes lie.
    fn runs(&self, first: u64, size: u64) -> Result<Vec<Run>, Refusal> {
        let cluster_size = self.boot.cluster_size.max(1);
        let needs = size.div_ceil(cluster_size);
        if needs > self.boot.clusters {
            return Err(Refusal::Damaged(format!(
                "a file of {size} bytes is larger than its filesystem"
            )));
        }
        let mut runs: Vec<Run> = Vec::new();
        let (mut cluster, mut at) = (first, 0_u64);
        while at < size {
            if !self.boot.has_cluster(cluster) {
                return Err(Refusal::Damaged(format!(
                    "a file of {size} bytes ends at byte {at}"
                )));
            }
            let place = self.boot.cluster_at(cluster);
            let last = runs.last_mut();
            match last.filter(|last| last.place.checked_add(last.len) == Some(place)) {
                Some(last) => last.len = last.len.saturating_add(cluster_size),
                None => runs.push(Run {
                    at,
                    len: cluster_size,
                    place,
                }),
            }
            if runs.len() > MAX_RUNS {
                return Err(Refusal::Unsupported(format!(
                    "a file in more than {MAX_RUNS} pieces"
                )));
            }
            at = at.saturating_add(cluster_size);
            if at < size {
                cluster = self.next(cluster)?;
            }
        }
        Ok(runs)
    }
}

impl Tree for Fat<'_> {
    fn filesystem(&self) -> &str {
        "vfat"
    }

    fn uuid(&self) -> Option<String> {
        volume_id(&self.boot)
    }

    fn label(&self) -> Option<String> {
        label(self.volume, &self.boot)
    }

    fn root(&self) -> Node {
        Node {
            tree: 0,
            number: ROOT,
        }
    }

    fn kind(&self, node: Node) -> Result<Kind, Refusal> {
        let is_directory =
            node.number == ROOT || read_u8(&self.entry(node)?, 0x0B) & DIRECTORY != 0;
        Ok(match is_directory {
            true => Kind::Directory,
            false => Kind::File,
        })
    }

    fn entries(&self, directory: Node, each: &mut dyn FnMut(&[u8], Node)) -> Result<(), Refusal> {
        // Pieces of a long name stand before their entry, the last piece first.
        let mut long: Vec<u16> = Vec::new();
        for (place, len) in self.places(directory)? {
            let len = usize::try_from(len).unwrap_or(LARGEST_CLUSTER);
            let mut bytes = vec![0; len.min(LARGEST_CLUSTER)];
            self.volume.read_at(ByteOffset(place), &mut bytes)?;
            for (raw, at) in bytes.chunks_exact(ENTRY).zip((place..).step_by(ENTRY)) {
                let attributes = read_u8(raw, 0x0B) & 0x3F;
                match read_u8(raw, 0) {
                    0 => return Ok(()),
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
                        if first != b'.' {
                            each(
                                name.as_bytes(),
                                Node {
                                    tree: 0,
                                    number: at,
                                },
                            );
                        }
                    }
                }
            }
        }
        Ok(())
    }

    fn open(&self, file: Node) -> Result<Box<dyn Content + '_>, Refusal> {
        let entry = self.entry(file)?;
        let size = u64::from(read_u32le(&entry, 0x1C));
        let runs = self.runs(first_cluster(&entry), size)?;
        Ok(Box::new(Mapped::new(self.volume, size, runs)))
    }

    fn target(&self, _: Node) -> Result<Vec<u8>, Refusal> {
        Err(Refusal::Unsupported("FAT has no links".into()))
    }

    fn folds_case(&self) -> bool {
        true
    }
}

fn first_cluster(entry: &[u8; ENTRY]) -> u64 {
    let high = u64::from(read_u16le(entry, 0x14));
    let low = u64::from(read_u16le(entry, 0x1A));
    (high << 16) | low
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
    use crate::files::below;
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

    fn find(disk: &MemDisk) -> Result<Vec<String>, Refusal> {
        below(&Fat::open(disk)?, "efi", ".efi")
    }

    #[test]
    fn loaders_are_found_on_all_kinds_of_fat() {
        for (bits, kib) in [("12", "1440"), ("16", "16384"), ("32", "65536")] {
            let found = find(&MemDisk(esp(bits, kib))).unwrap();
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
        assert!(find(&MemDisk(vec![0; 4096])).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn damage_ends_and_does_not_crash(hits in prop::collection::vec((0_usize..65_536, any::<u8>()), 1..64)) {
            let mut disk = CLEAN.with(Clone::clone);
            for (at, byte) in hits {
                disk[at] = byte;
            }
            let disk = MemDisk(disk);
            let found = find(&disk).unwrap_or_default();
            prop_assert!(found.len() <= 256);
            if let Ok(tree) = Fat::open(&disk) {
                let mut nodes = Vec::new();
                let _ = tree.entries(tree.root(), &mut |_, node| nodes.push(node));
                for node in nodes {
                    let content = tree.open(node);
                    prop_assert!(content.is_err() || content.is_ok_and(|c| c.size() <= 0xFFFF_FFFF));
                }
            }
        }
    }

    thread_local! {
        static CLEAN: Vec<u8> = esp("12", "1440");
    }
}
