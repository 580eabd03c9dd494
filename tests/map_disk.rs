//! The map of whole disks: every byte has a region, every region a reason, and the document keeps
//! its form.

mod map_support;

use haulier::extent::ExtentList;
use haulier::ptable::Scheme;
use haulier::usedmap::{DiskMap, Policy, Region, RegionKind, State};
use map_support::{Noise, arg, debugfs, fill, map_of, run, try_run};
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

const MIB: u64 = 1 << 20;
const SECTORS_A_MIB: u64 = 2048;

/// A server's disk: ESP, BIOS boot, ext4 root, swap, something unknown, a hole, free space behind.
struct Server {
    dir: TempDir,
    image: PathBuf,
}

/// First MiB and length in MiB of partitions 1 to 5.
const PLACES: [(u64, u64); 5] = [(1, 34), (35, 1), (40, 64), (104, 8), (112, 8)];
const DISK_MIB: u64 = 128;

impl Server {
    fn make() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("disk.img");
        map_support::soiled_file(&image, DISK_MIB * MIB, 0);
        let types = [
            "uefi",
            "21686148-6449-6E6F-744E-656564454649",
            "linux",
            "swap",
            "linux",
        ];
        let mut script = String::from("label: gpt\n");
        for ((first, length), kind) in PLACES.iter().zip(types) {
            script += &format!(
                "start={}, size={}, type={kind}\n",
                first * SECTORS_A_MIB,
                length * SECTORS_A_MIB
            );
        }
        let script_file = dir.path().join("script");
        fs::write(&script_file, script).unwrap();
        run(
            "sh",
            &[
                "-c",
                &format!("sfdisk -q {} < {}", arg(&image), arg(&script_file)),
            ],
        );
        let server = Self { dir, image };
        server.put(1, |file| {
            run("mkfs.vfat", &["-F", "32", arg(file)]);
        });
        let noise = Noise(7).bytes(MIB);
        server.put(2, |file| fs::write(file, &noise).unwrap());
        server.put(3, |file| {
            run(
                "mke2fs",
                &[
                    "-q",
                    "-F",
                    "-t",
                    "ext4",
                    "-L",
                    "root",
                    "-U",
                    ROOT_UUID,
                    arg(file),
                ],
            );
            let content = file.with_extension("content");
            fs::write(&content, Noise(3).bytes(5 * MIB)).unwrap();
            debugfs(
                file,
                server.dir.path(),
                &[format!("write {} etc", content.display())],
            );
        });
        server.put(4, |file| {
            run("mkswap", &["-L", "swap0", "-U", SWAP_UUID, arg(file)]);
        });
        server.put(5, |file| fs::write(file, &noise).unwrap());
        server
    }

    /// Fills a partition with what `make` writes into a file of its size.
    fn put(&self, number: usize, make: impl FnOnce(&Path)) {
        let (first, length) = PLACES[number - 1];
        let part = self.dir.path().join(format!("part{number}"));
        fs::File::create(&part)
            .unwrap()
            .set_len(length * MIB)
            .unwrap();
        make(&part);
        let bytes = fs::read(&part).unwrap();
        self.file().write_all_at(&bytes, first * MIB).unwrap();
    }

    /// The bytes of a partition.
    fn get(&self, number: usize) -> Vec<u8> {
        let (first, length) = PLACES[number - 1];
        let mut bytes = vec![0; usize::try_from(length * MIB).unwrap()];
        self.file().read_exact_at(&mut bytes, first * MIB).unwrap();
        bytes
    }

    fn file(&self) -> fs::File {
        fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open(&self.image)
            .unwrap()
    }
}

const ROOT_UUID: &str = "3c9f2c4e-6d67-4b3f-9b1c-0d6a5f1e2a3b";
const SWAP_UUID: &str = "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0";

fn of_partition(map: &DiskMap, number: u32) -> &Region {
    map.regions
        .iter()
        .find(|region| region.partition == Some(number))
        .unwrap_or_else(|| panic!("partition {number} has no region"))
}

/// What holds of every map.
fn assert_whole(map: &DiskMap) {
    let windows: ExtentList = map.regions.iter().filter_map(Region::extent).collect();
    assert_eq!(
        windows.total().0,
        map.disk.size_bytes,
        "a byte has no region"
    );
    assert_eq!(windows.len(), 1);
    assert!(map.regions.is_sorted_by_key(|region| region.start_byte));
    assert!(map.extents.subtract(&windows).is_empty());
    assert_eq!(map.extents.total().0, map.used_bytes);
    for region in &map.regions {
        assert!(!region.reason.is_empty());
        assert!(region.used_bytes <= region.length_bytes);
        let inside: u64 = map
            .extents
            .within(region.extent().unwrap())
            .map(|e| e.len().0)
            .sum();
        assert!(inside >= region.used_bytes);
    }
}

#[test]
fn every_part_of_a_server_disk_gets_its_decision() {
    let server = Server::make();
    let map = map_of(&server.image);
    assert_whole(&map);
    assert_eq!(map.scheme, Scheme::Gpt);
    assert_eq!(map.notes, [""; 0]);
    let row = |number| {
        let region = of_partition(&map, number);
        (
            region.kind,
            region.filesystem.as_deref(),
            region.policy,
            region.label.as_deref(),
        )
    };
    assert_eq!(
        row(1),
        (
            RegionKind::Filesystem,
            Some("fat32"),
            Policy::UsedBlocks,
            None
        )
    );
    assert_eq!(row(2), (RegionKind::Unknown, None, Policy::CopyAll, None));
    assert_eq!(
        row(3),
        (
            RegionKind::Filesystem,
            Some("ext4"),
            Policy::UsedBlocks,
            Some("root")
        )
    );
    assert_eq!(
        row(4),
        (
            RegionKind::Swap,
            Some("swap"),
            Policy::UsedBlocks,
            Some("swap0")
        )
    );
    assert_eq!(
        row(5),
        (RegionKind::Unknown, None, Policy::CopyNonzero, None)
    );
    assert_eq!(of_partition(&map, 3).state, Some(State::Clean));
    assert_eq!(of_partition(&map, 3).uuid.as_deref(), Some(ROOT_UUID));
    assert_eq!(of_partition(&map, 4).uuid.as_deref(), Some(SWAP_UUID));
    assert_eq!(of_partition(&map, 4).used_bytes, 4096);
    let of_kind = |kind| {
        map.regions
            .iter()
            .filter(|region| region.kind == kind)
            .collect::<Vec<_>>()
    };
    let gaps = of_kind(RegionKind::BootGap);
    assert_eq!(gaps.len(), 1);
    assert_eq!(
        (gaps[0].start_byte, gaps[0].length_bytes),
        (34 * 512, MIB - 34 * 512)
    );
    let free: Vec<_> = of_kind(RegionKind::Unpartitioned)
        .iter()
        .map(|region| (region.start_byte, region.length_bytes, region.policy))
        .collect();
    assert_eq!(
        free,
        [
            (36 * MIB, 4 * MIB, Policy::CopyNonzero),
            (120 * MIB, 8 * MIB - 33 * 512, Policy::CopyNonzero)
        ]
    );
    // Known to be needed: nothing of that is "only if it is not zero".
    let sure = map.extents.subtract(map.nonzero_only());
    let root = of_partition(&map, 3).extent().unwrap();
    assert_eq!(
        sure.within(root).map(|e| e.len().0).sum::<u64>(),
        of_partition(&map, 3).used_bytes
    );
}

#[test]
fn a_disk_survives_with_only_what_its_map_says() {
    let server = Server::make();
    let map = map_of(&server.image);
    let table = run("sfdisk", &["--json", arg(&server.image)]);
    let kept: Vec<Vec<u8>> = [2, 5].map(|number| server.get(number)).into();
    let size = map.disk.size_bytes;
    let whole: ExtentList = haulier::extent::Extent::between(0, size)
        .into_iter()
        .collect();
    for hole in whole.subtract(&map.extents).iter() {
        fill(&server.file(), hole.start().0, hole.end(), 0xA5);
    }
    assert_eq!(run("sfdisk", &["--json", arg(&server.image)]), table);
    assert_eq!([2, 5].map(|number| server.get(number)).to_vec(), kept);
    let esp = server.dir.path().join("esp");
    fs::write(&esp, server.get(1)).unwrap();
    run("fsck.fat", &["-n", arg(&esp)]);
    let root = server.dir.path().join("root");
    fs::write(&root, server.get(3)).unwrap();
    run("e2fsck", &["-f", "-n", arg(&root)]);
    let content = try_run("debugfs", &["-R", "cat /etc", arg(&root)]).stdout;
    assert_eq!(content, Noise(3).bytes(5 * MIB));
    let swap = server.dir.path().join("swap");
    fs::write(&swap, server.get(4)).unwrap();
    let probed = run("blkid", &["-p", "-o", "export", arg(&swap)]);
    assert!(
        probed.contains("TYPE=swap") && probed.contains(SWAP_UUID),
        "{probed}"
    );
}

#[test]
fn swap_space_with_a_suspended_system_is_taken() {
    for magic in [&b"S1SUSPEND\0"[..], b"ULSUSPEND\0", b"LINHIB0001"] {
        let server = Server::make();
        server
            .file()
            .write_all_at(magic, PLACES[3].0 * MIB + 4086)
            .unwrap();
        let map = map_of(&server.image);
        let swap = of_partition(&map, 4);
        assert_eq!(swap.kind, RegionKind::Swap);
        assert_eq!(swap.policy, Policy::CopyNonzero);
        assert_eq!(swap.used_bytes, swap.length_bytes);
        assert!(swap.reason.contains("suspended"), "{}", swap.reason);
    }
}

#[test]
fn what_lies_behind_the_end_of_a_filesystem_is_taken() {
    let server = Server::make();
    server.put(3, |file| {
        run(
            "mke2fs",
            &["-q", "-F", "-t", "ext4", "-b", "4096", arg(file), "40M"],
        );
    });
    let map = map_of(&server.image);
    assert_whole(&map);
    let tail = map
        .regions
        .iter()
        .filter(|region| region.partition == Some(3))
        .nth(1)
        .unwrap();
    assert_eq!((tail.start_byte, tail.length_bytes), (80 * MIB, 24 * MIB));
    assert_eq!(tail.policy, Policy::CopyNonzero);
    assert!(
        map.extents
            .within(tail.extent().unwrap())
            .eq([tail.extent().unwrap()])
    );
}

#[test]
fn a_second_signature_means_that_one_is_stale_and_all_is_taken() {
    // md 1.0 keeps its superblock at the end, so a member of a mirror looks like its filesystem.
    let server = Server::make();
    let end = (PLACES[2].0 + PLACES[2].1) * MIB;
    server
        .file()
        .write_all_at(&0xA92B_4EFC_u32.to_le_bytes(), end - 8192)
        .unwrap();
    let map = map_of(&server.image);
    let region = of_partition(&map, 3);
    assert_eq!(region.policy, Policy::CopyNonzero);
    assert!(
        region.reason.contains("ext and md RAID"),
        "{}",
        region.reason
    );
}

#[test]
fn overlapping_partitions_are_both_taken() {
    let server = Server::make();
    let mut mbr = [0; 512];
    mbr[0x1FE..].copy_from_slice(&[0x55, 0xAA]);
    for (slot, (first, length)) in [(40_u32, 64_u32), (50, 70)].into_iter().enumerate() {
        let entry = &mut mbr[0x1BE + slot * 16..][..16];
        entry[4] = 0x83;
        entry[8..12].copy_from_slice(&(first * 2048).to_le_bytes());
        entry[12..].copy_from_slice(&(length * 2048).to_le_bytes());
    }
    server.file().write_all_at(&mbr, 0).unwrap();
    let map = map_of(&server.image);
    assert_eq!(map.scheme, Scheme::Mbr);
    assert_eq!(of_partition(&map, 1).policy, Policy::UsedBlocks);
    let second = of_partition(&map, 2);
    assert_eq!(second.policy, Policy::CopyNonzero);
    assert!(second.reason.contains("overlaps"), "{}", second.reason);
    let extent = second.extent().unwrap();
    assert!(map.extents.within(extent).eq([extent]));
}

#[test]
fn a_filesystem_on_the_whole_disk_is_mapped() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("disk.img");
    map_support::soiled_file(&image, 32 * MIB, 0xEE);
    run(
        "mke2fs",
        &[
            "-q",
            "-F",
            "-t",
            "ext4",
            "-E",
            "nodiscard",
            arg(&image),
            "24M",
        ],
    );
    let map = map_of(&image);
    assert_whole(&map);
    assert_eq!(map.scheme, Scheme::None);
    let policies: Vec<_> = map
        .regions
        .iter()
        .map(|region| (region.kind, region.length_bytes, region.policy))
        .collect();
    assert_eq!(
        policies,
        [
            (RegionKind::Filesystem, 24 * MIB, Policy::UsedBlocks),
            (RegionKind::Unknown, 8 * MIB, Policy::CopyNonzero)
        ]
    );
}

/// Swap space on the whole disk was partitioned later, and its partitions then lost: the old
/// signature is still there, and what was in the partitions as well.
#[test]
fn under_a_table_without_partitions_everything_is_taken() {
    let tables: [(&str, u64, &[u8]); 3] = [
        ("an empty MBR", 0x1FE, &[0x55, 0xAA]),
        (
            "a broken GPT",
            0x1BE,
            &[
                0, 0, 0, 0, 0xEE, 0, 0, 0, 1, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF,
            ],
        ),
        ("an unprotected GPT", 512, &[]),
    ];
    for (what, at, bytes) in tables {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("disk.img");
        map_support::soiled_file(&image, 32 * MIB, 0);
        if bytes.is_empty() {
            run(
                "sh",
                &[
                    "-c",
                    &format!("echo label: gpt | sfdisk -q {}", arg(&image)),
                ],
            );
        }
        let file = fs::OpenOptions::new().write(true).open(&image).unwrap();
        if bytes.is_empty() {
            fill(&file, 0, 512, 0);
        } else {
            file.write_all_at(&[0x55, 0xAA], 0x1FE).unwrap();
            file.write_all_at(bytes, at).unwrap();
        }
        file.write_all_at(&1_u32.to_le_bytes(), 1024).unwrap();
        file.write_all_at(&4095_u32.to_le_bytes(), 1028).unwrap();
        file.write_all_at(b"SWAPSPACE2", 4086).unwrap();
        let map = map_of(&image);
        assert_whole(&map);
        assert_eq!(map.used_bytes, map.disk.size_bytes, "under {what}");
        // And without the table it is what it seems.
        fill(&file, 0, 1024, 0);
        assert_eq!(map_of(&image).regions[0].kind, RegionKind::Swap);
    }
}

#[test]
fn an_empty_disk_is_one_region() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("disk.img");
    map_support::soiled_file(&image, MIB, 0);
    let map = map_of(&image);
    assert_whole(&map);
    assert_eq!(map.regions.len(), 1);
    assert_eq!(map.regions[0].policy, Policy::CopyNonzero);
}

/// Signatures by the program that made them, where this machine has it, or by their bytes.
#[test]
fn volumes_are_named_by_their_signature() {
    let cases: [(&str, u64, &[u8], RegionKind); 12] = [
        ("xfs", 0, b"XFSB", RegionKind::Filesystem),
        ("btrfs", 0x1_0040, b"_BHRfS_M", RegionKind::Filesystem),
        ("ntfs", 3, b"NTFS    ", RegionKind::Filesystem),
        ("apfs", 32, b"NXSB", RegionKind::Filesystem),
        (
            "VMFS",
            0x10_0000,
            &[0x0D, 0xD0, 0x01, 0xC0],
            RegionKind::VolumeManager,
        ),
        ("LUKS", 0, b"LUKS\xBA\xBE", RegionKind::Encrypted),
        ("BitLocker", 3, b"-FVE-FS-", RegionKind::Encrypted),
        (
            "md RAID",
            4096,
            &[0xFC, 0x4E, 0x2B, 0xA9],
            RegionKind::VolumeManager,
        ),
        (
            "bcache",
            0x1018,
            &[
                0xC6, 0x85, 0x73, 0xF6, 0x4E, 0x1A, 0x45, 0xCA, 0x82, 0x65, 0xF5, 0x7F, 0x48, 0xBA,
                0x6D, 0x81,
            ],
            RegionKind::VolumeManager,
        ),
        ("ReFS", 3, b"ReFS\0\0\0\0", RegionKind::Filesystem),
        (
            "f2fs",
            1024,
            &[0x10, 0x20, 0xF5, 0xF2],
            RegionKind::Filesystem,
        ),
        (
            "DDF RAID",
            4 * MIB - 512,
            &[0xDE, 0x11, 0xDE, 0x11],
            RegionKind::VolumeManager,
        ),
    ];
    for (name, at, magic, kind) in cases {
        let mut disk = vec![0; usize::try_from(4 * MIB).unwrap()];
        let at = usize::try_from(at).unwrap();
        disk[at..at + magic.len()].copy_from_slice(magic);
        let found = haulier::usedmap::identify::identify(&haulier::device::MemDisk(disk)).unwrap();
        let found: Vec<_> = found
            .iter()
            .map(|signature| (signature.name, signature.kind))
            .collect();
        assert_eq!(found, [(name, kind)]);
    }
}

#[test]
fn the_document_is_the_one_that_docs_describe() {
    let server = Server::make();
    let map = map_of(&server.image);
    let json: serde_json::Value = serde_json::from_str(&map.to_json().unwrap()).unwrap();
    let keys = |value: &serde_json::Value| -> Vec<String> {
        value.as_object().unwrap().keys().cloned().collect()
    };
    let docs =
        fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/map-json.md")).unwrap();
    let volume = serde_json::to_value(haulier::usedmap::MadeVolume {
        name: "vg0/root".into(),
        layout: "linear".into(),
        members: vec!["/dev/sda partition 2".into()],
        size_bytes: 1,
        kind: RegionKind::Filesystem,
        filesystem: None,
        label: None,
        uuid: None,
        state: None,
        policy: Policy::UsedBlocks,
        reason: String::new(),
        used_bytes: 1,
    })
    .unwrap();
    let mut described = 0;
    for key in keys(&json)
        .into_iter()
        .chain(keys(&json["disk"]))
        .chain(keys(&json["regions"][0]))
        .chain(keys(&volume))
    {
        assert!(
            docs.contains(&format!("| `{key}` |")),
            "docs/map-json.md does not know {key}"
        );
        described += 1;
    }
    assert_eq!(
        described,
        docs.lines().filter(|line| line.starts_with("| `")).count()
    );
    assert_eq!(json["version"], 1);
    assert_eq!(json["disk"]["logical_sector_bytes"], 512);
    assert_eq!(json["regions"][0]["kind"], "partition-table");
    assert_eq!(json["regions"][0]["policy"], "copy-all");
    assert_eq!(json["extents"][0]["start_byte"], 0);
    let again: DiskMap = serde_json::from_value(json).unwrap();
    assert_eq!(again.to_json().unwrap(), map.to_json().unwrap());
}

#[test]
fn the_text_for_people_fits_a_console() {
    let server = Server::make();
    // The reasons of a dirty filesystem are the longest.
    let root = server.dir.path().join("part3");
    let mounted = ["feature -has_journal", "set_super_value state 0"];
    debugfs(&root, server.dir.path(), &mounted.map(Into::into));
    server
        .file()
        .write_all_at(&fs::read(&root).unwrap(), PLACES[2].0 * MIB)
        .unwrap();
    let map = map_of(&server.image);
    let text = map.render_text();
    println!("{text}");
    let mut lines = text.lines();
    assert!(lines.next().unwrap().contains("disk.img: 134.2 MB, GPT"));
    for line in lines {
        assert!(line.chars().count() <= 80, "{line}");
    }
    for expected in [
        "ext4 \"root\"",
        "dirty",
        "power it off",
        "swap \"swap0\"",
        "boot loader",
    ] {
        assert!(text.contains(expected), "{expected} is missing");
    }
}
