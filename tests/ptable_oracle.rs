//! Partition tables as the tools that everybody uses make and read them: sfdisk, sgdisk, fdisk,
//! partx. Every table is also punched: what lies outside its metadata is overwritten, and the tool
//! must read the same table as before.

mod map_support;

use haulier::device::{Disk, MemDisk, ReadAt};
use haulier::extent::{Extent, ExtentList};
use haulier::ptable::{Partition, PartitionTable, PartitionType, Scheme};
use haulier::units::{ByteOffset, SectorSize};
use map_support::{arg, fill, run};
use std::fs;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use tempfile::TempDir;

const MIB: u64 = 1 << 20;

struct Image {
    _dir: TempDir,
    path: PathBuf,
}

impl Image {
    fn new(size: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk.img");
        fs::File::create(&path).unwrap().set_len(size).unwrap();
        Self { _dir: dir, path }
    }

    /// A table from a script for sfdisk.
    fn sfdisk(size: u64, script: &str) -> Self {
        let image = Self::new(size);
        image.feed("sfdisk", &["-q", arg(&image.path)], script);
        image
    }

    fn feed(&self, tool: &str, args: &[&str], input: &str) {
        let mut child = Command::new(tool)
            .args(args)
            .env(
                "PATH",
                format!(
                    "{}:/usr/sbin:/sbin",
                    std::env::var("PATH").unwrap_or_default()
                ),
            )
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("this test needs the program {tool}: {error}"));
        child
            .stdin
            .take()
            .unwrap()
            .write_all(input.as_bytes())
            .unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(
            output.status.success(),
            "{tool}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }

    fn read(&self) -> PartitionTable {
        self.read_in(SectorSize::B512)
    }

    fn read_in(&self, sector: SectorSize) -> PartitionTable {
        let disk = Disk::open(&self.path).unwrap().with_sector_size(sector);
        PartitionTable::read(&disk, sector).unwrap()
    }

    fn file(&self) -> fs::File {
        fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open(&self.path)
            .unwrap()
    }

    /// Overwrites everything but the table.
    fn punch(&self, metadata: &ExtentList) {
        let size = self.file().metadata().unwrap().len();
        let whole: ExtentList = Extent::between(0, size).into_iter().collect();
        for hole in whole.subtract(metadata).iter() {
            fill(&self.file(), hole.start().0, hole.end(), 0xA5);
        }
    }
}

/// Number, first sector, sectors.
fn places(table: &PartitionTable) -> Vec<(u32, u64, u64)> {
    let sector = table.sector.bytes();
    table
        .partitions
        .iter()
        .map(|partition| {
            (
                partition.number,
                partition.start.0 / sector,
                partition.len.0 / sector,
            )
        })
        .collect()
}

/// Number, first sector, sectors, type, UUID and name.
type Row = (u32, u64, u64, String, Option<String>, Option<String>);

/// The same from `sfdisk --json`, with type, UUID and name.
fn by_sfdisk(path: &Path) -> Vec<Row> {
    let json: serde_json::Value =
        serde_json::from_str(&run("sfdisk", &["--json", arg(path)])).unwrap();
    let text = |value: &serde_json::Value| value.as_str().map(str::to_owned);
    json["partitiontable"]["partitions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|partition| {
            let node = partition["node"].as_str().unwrap();
            let number = node
                .strip_prefix(arg(path))
                .unwrap()
                .trim_start_matches('p');
            (
                number.parse().unwrap(),
                partition["start"].as_u64().unwrap(),
                partition["size"].as_u64().unwrap(),
                text(&partition["type"]).unwrap().to_lowercase(),
                text(&partition["uuid"]).map(|uuid| uuid.to_lowercase()),
                text(&partition["name"]),
            )
        })
        .collect()
}

/// Ours in the same form.
fn described(table: &PartitionTable) -> Vec<Row> {
    places(table)
        .into_iter()
        .zip(&table.partitions)
        .map(|((number, start, size), partition)| {
            let kind = match partition.kind {
                PartitionType::Gpt(guid) => guid.hyphenated().to_string(),
                PartitionType::Mbr(byte) => format!("{byte:x}"),
            };
            let guid = partition.guid.map(|guid| guid.hyphenated().to_string());
            (number, start, size, kind, guid, partition.name.clone())
        })
        .collect()
}

/// What partx tells the kernel, which also numbers as the kernel does: all but the extended
/// partitions themselves.
fn by_partx(path: &Path) -> Vec<(u32, u64, u64)> {
    run(
        "partx",
        &["-g", "-r", "-o", "NR,START,SECTORS,TYPE", arg(path)],
    )
    .lines()
    .filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let number = |index: usize| fields[index].parse::<u64>().unwrap();
        let extended = ["0x5", "0xf", "0x85"].contains(&fields[3]);
        (!extended).then(|| (u32::try_from(number(0)).unwrap(), number(1), number(2)))
    })
    .collect()
}

const GPT: &str = "label: gpt\n\
    label-id: 11111111-2222-3333-4444-555555555555\n\
    1: start=2048, size=4096, type=uefi, name=\"EFI system\"\n\
    3: start=8192, size=2048, type=21686148-6449-6E6F-744E-656564454649\n\
    7: start=20480, size=8192, type=linux, name=\"Größe ☃\", attrs=\"LegacyBIOSBootable,GUID:63\"\n\
    5: start=30720, size=1024, type=swap\n";

const MBR: &str = "label: dos\n\
    label-id: 0xc0ffee01\n\
    1: start=2048, size=2048, type=83, bootable\n\
    2: start=4096, size=1024, type=7\n\
    4: start=8192, size=50000, type=f\n\
    5: start=10240, size=2048, type=83\n\
    6: start=40960, size=2048, type=82\n\
    7: start=20480, size=4096, type=83\n\
    8: start=14336, size=2048, type=8e\n";

#[test]
fn a_gpt_is_read_as_sfdisk_reads_it() {
    let image = Image::sfdisk(32 * MIB, GPT);
    let table = image.read();
    assert_eq!(table.scheme, Scheme::Gpt);
    assert_eq!(
        table.id.unwrap().to_string(),
        "11111111-2222-3333-4444-555555555555"
    );
    assert_eq!(table.notes, [""; 0]);
    assert_eq!(described(&table), by_sfdisk(&image.path));
    assert_eq!(places(&table), by_partx(&image.path));
    assert_eq!(table.partitions[3].name.as_deref(), Some("Größe ☃"));
    assert_eq!(table.partitions[3].attributes, 1 << 63 | 1 << 2);
    assert!(table.partitions[1].kind.is_raw_boot());
}

#[test]
fn the_metadata_of_a_gpt_is_all_of_it() {
    let image = Image::sfdisk(32 * MIB, GPT);
    let before = by_sfdisk(&image.path);
    image.punch(&image.read().metadata);
    assert_eq!(by_sfdisk(&image.path), before);
    // sgdisk looks at both copies.
    let said = run("sgdisk", &["-v", arg(&image.path)]);
    assert!(said.contains("No problems found"), "{said}");
}

#[test]
fn logical_partitions_are_numbered_along_the_chain_whatever_its_order() {
    let image = Image::sfdisk(32 * MIB, MBR);
    let table = image.read();
    assert_eq!(table.scheme, Scheme::Mbr);
    assert_eq!(table.id.unwrap().to_string(), "c0ffee01");
    assert_eq!(table.notes, [""; 0]);
    assert_eq!(places(&table), by_partx(&image.path));
    let expected: Vec<_> = by_sfdisk(&image.path)
        .into_iter()
        .filter(|row| row.3 != "f")
        .collect();
    assert_eq!(described(&table), expected);
    // The order of the chain is not that of the disk.
    assert!(table.partitions[3].start > table.partitions[4].start);
}

#[test]
fn the_metadata_of_an_mbr_is_all_of_it() {
    let image = Image::sfdisk(32 * MIB, MBR);
    let before = by_sfdisk(&image.path);
    let table = image.read();
    // The MBR and an EBR for each logical partition.
    assert_eq!(table.metadata.total().0, 5 * 512);
    image.punch(&table.metadata);
    assert_eq!(by_sfdisk(&image.path), before);
}

#[test]
fn a_chain_with_holes_is_numbered_as_partx_numbers_it() {
    for deleted in ["5", "6", "7", "8"] {
        let image = Image::sfdisk(32 * MIB, MBR);
        run("sfdisk", &["-q", "--delete", arg(&image.path), deleted]);
        let table = image.read();
        assert_eq!(table.partitions.len(), 5, "after deleting {deleted}");
        assert_eq!(
            places(&table),
            by_partx(&image.path),
            "after deleting {deleted}"
        );
    }
}

/// Writes entries of MBRs and EBRs: the sector of the table, which entry, its type, start and
/// sectors.
fn write_entries(image: &Image, entries: &[(u64, u64, u8, u32, u32)]) {
    let file = image.file();
    for &(table_sector, slot, kind, start, sectors) in entries {
        let mut entry = [0; 16];
        entry[4] = kind;
        entry[8..12].copy_from_slice(&start.to_le_bytes());
        entry[12..].copy_from_slice(&sectors.to_le_bytes());
        file.write_all_at(&entry, table_sector * 512 + 0x1BE + slot * 16)
            .unwrap();
        file.write_all_at(&[0x55, 0xAA], table_sector * 512 + 0x1FE)
            .unwrap();
    }
}

#[test]
fn links_before_data_and_links_without_data_are_followed() {
    // DR-DOS puts the link first; deleting in other tools leaves links without data.
    let image = Image::new(32 * MIB);
    write_entries(
        &image,
        &[
            (0, 0, 0x05, 2048, 40000),
            (2048, 0, 0x05, 10000, 2000),
            (2048, 1, 0x83, 63, 1000),
            (12048, 1, 0x05, 20000, 2000),
            (22048, 0, 0x83, 63, 500),
            (22048, 1, 0x05, 5000, 2000),
            (7048, 0, 0x83, 1, 100),
        ],
    );
    let table = image.read();
    assert_eq!(
        places(&table),
        [(5, 2111, 1000), (6, 22111, 500), (7, 7049, 100)]
    );
    assert_eq!(places(&table), by_partx(&image.path));
    assert_eq!(table.metadata.total().0, 5 * 512);
}

#[test]
fn a_chain_that_bites_its_tail_ends_with_a_note() {
    let image = Image::new(32 * MIB);
    write_entries(
        &image,
        &[
            (0, 0, 0x0F, 2048, 40000),
            (2048, 0, 0x83, 63, 1000),
            (2048, 1, 0x05, 10000, 2000),
            (12048, 0, 0x83, 63, 1000),
            (12048, 1, 0x05, 0, 2000),
        ],
    );
    let table = image.read();
    assert_eq!(places(&table), [(5, 2111, 1000), (6, 12111, 1000)]);
    assert_eq!(table.notes.len(), 1);
    assert!(
        table.notes[0].contains("comes back to sector 2048"),
        "{}",
        table.notes[0]
    );
}

#[test]
fn a_partition_that_ends_behind_the_disk_is_cut_as_the_kernel_cuts_it() {
    let image = Image::new(4 * MIB);
    write_entries(
        &image,
        &[(0, 0, 0x83, 2048, 100_000), (0, 1, 0x83, 100_000, 8)],
    );
    let table = image.read();
    assert_eq!(places(&table), [(1, 2048, 8192 - 2048)]);
    assert_eq!(table.notes.len(), 2, "{:?}", table.notes);
}

#[test]
fn without_the_primary_header_the_backup_is_used() {
    let image = Image::sfdisk(32 * MIB, GPT);
    let whole = image.read();
    fill(&image.file(), 512, 1024, 0);
    let table = image.read();
    assert_eq!(table.partitions, whole.partitions);
    assert_eq!(table.metadata, whole.metadata);
    assert!(
        table.notes[0].contains("the backup at sector 65535 is used"),
        "{:?}",
        table.notes
    );
}

#[test]
fn with_damaged_primary_entries_the_backup_is_used() {
    let image = Image::sfdisk(32 * MIB, GPT);
    let whole = image.read();
    // One letter of the first partition's name.
    image.file().write_all_at(b"X", 1024 + 0x38).unwrap();
    let table = image.read();
    assert_eq!(table.partitions, whole.partitions);
    assert!(
        table.notes[0].contains("the checksum of its entries at sector 2 does not match"),
        "{:?}",
        table.notes
    );
}

/// Why the reader is our own (docs/decisions): should this fail, look at the crate again.
#[test]
fn the_gpt_crate_gives_up_where_the_backup_is_sound() {
    let image = Image::sfdisk(32 * MIB, GPT);
    image.file().write_all_at(b"X", 1024 + 0x38).unwrap();
    let opened = gpt::GptConfig::new().writable(false).open(&image.path);
    assert!(
        opened.is_err(),
        "the gpt crate has learnt to use the backup"
    );
    assert_eq!(image.read().partitions.len(), 4);
}

#[test]
fn a_damaged_backup_is_noted() {
    let image = Image::sfdisk(32 * MIB, GPT);
    let whole = image.read();
    image
        .file()
        .write_all_at(b"X", 32 * MIB - 512 + 0x30)
        .unwrap();
    let table = image.read();
    assert_eq!(table.partitions, whole.partitions);
    assert_eq!(
        table.metadata, whole.metadata,
        "a damaged copy is still taken"
    );
    assert!(
        table.notes[0].contains("the backup GPT cannot be used"),
        "{:?}",
        table.notes
    );
}

#[test]
fn on_an_enlarged_disk_the_backup_is_found_where_the_primary_points() {
    let image = Image::sfdisk(32 * MIB, GPT);
    let whole = image.read();
    image.file().set_len(64 * MIB).unwrap();
    let table = image.read();
    assert_eq!(table.partitions, whole.partitions);
    assert!(
        whole.metadata.subtract(&table.metadata).is_empty(),
        "the old backup is metadata too"
    );
    assert!(
        table.notes[0].contains("the disk was enlarged"),
        "{:?}",
        table.notes
    );
    // And when the primary is damaged, but still says where.
    image.file().write_all_at(b"X", 512 + 0x30).unwrap();
    let table = image.read();
    assert_eq!(table.partitions, whole.partitions);
    assert!(
        table
            .notes
            .iter()
            .any(|note| note.contains("backup at sector 65535")),
        "{:?}",
        table.notes
    );
}

#[test]
fn copies_that_differ_are_noted_and_the_primary_counts() {
    let image = Image::sfdisk(32 * MIB, GPT);
    let other = Image::sfdisk(32 * MIB, &GPT.replace("EFI system", "EFI other"));
    let tail = 32 * MIB - 33 * 512;
    let mut backup = vec![0; 33 * 512];
    other.file().read_exact_at(&mut backup, tail).unwrap();
    image.file().write_all_at(&backup, tail).unwrap();
    let table = image.read();
    assert_eq!(table.partitions[0].name.as_deref(), Some("EFI system"));
    assert!(table.notes[0].contains("differ"), "{:?}", table.notes);
}

#[test]
fn without_any_usable_copy_there_is_no_partition_and_a_note() {
    let image = Image::sfdisk(32 * MIB, GPT);
    fill(&image.file(), 512, 1024, 0);
    fill(&image.file(), 32 * MIB - 512, 32 * MIB, 0);
    let table = image.read();
    assert_eq!(table.scheme, Scheme::None);
    assert_eq!(table.partitions, []);
    assert!(table.notes[0].contains("neither copy"), "{:?}", table.notes);
}

#[test]
fn a_hybrid_mbr_does_not_hide_the_gpt() {
    let image = Image::sfdisk(32 * MIB, GPT);
    let whole = image.read();
    run("sgdisk", &["-h", "1:7", arg(&image.path)]);
    let table = image.read();
    assert_eq!(table.partitions, whole.partitions);
    assert!(table.notes[0].contains("hybrid"), "{:?}", table.notes);
}

#[test]
fn a_gpt_without_protective_mbr_is_ignored_as_linux_ignores_it() {
    let image = Image::sfdisk(32 * MIB, GPT);
    fill(&image.file(), 0, 512, 0);
    let table = image.read();
    assert_eq!(table.scheme, Scheme::None);
    assert!(
        table.notes[0].contains("no protective MBR"),
        "{:?}",
        table.notes
    );
}

#[test]
fn a_4kn_table_is_read_on_its_disk_and_noted_on_another() {
    let image = Image::new(64 * MIB);
    image.feed(
        "fdisk",
        &["-b", "4096", arg(&image.path)],
        "g\nn\n1\n256\n+8M\nn\n2\n\n+16M\nw\n",
    );
    let table = image.read_in(SectorSize::B4096);
    assert_eq!(table.notes, [""; 0]);
    assert_eq!(places(&table), [(1, 256, 2048), (2, 2304, 4096)]);
    assert_eq!(table.partitions[0].start, ByteOffset(MIB));
    // MBR, header and 4 sectors of entries; the same behind, without MBR.
    assert_eq!(table.metadata.total().0, (1 + 5 + 5) * 4096);

    let misread = image.read_in(SectorSize::B512);
    assert_eq!(misread.partitions, table.partitions);
    assert_eq!(misread.sector, SectorSize::B4096);
    assert!(
        misread.notes[0].contains("sectors of 4096 bytes"),
        "{:?}",
        misread.notes
    );
}

#[test]
fn a_512_byte_table_on_a_4kn_disk_is_read_and_noted() {
    let image = Image::sfdisk(32 * MIB, GPT);
    let table = image.read_in(SectorSize::B4096);
    assert_eq!(table.partitions, image.read().partitions);
    assert!(
        table.notes[0].contains("sectors of 512 bytes"),
        "{:?}",
        table.notes
    );
}

#[test]
fn entries_of_256_bytes_are_read_and_noted() {
    let image = Image::sfdisk(32 * MIB, GPT);
    let whole = image.read();
    let file = image.file();
    let mut entries = vec![0; 128 * 128];
    file.read_exact_at(&mut entries, 1024).unwrap();
    // 64 entries of 256 bytes take the same room.
    let mut wide = Vec::new();
    for entry in entries.chunks(128).take(64) {
        wide.extend_from_slice(entry);
        wide.extend_from_slice(&[0; 128]);
    }
    file.write_all_at(&wide, 1024).unwrap();
    let mut header = [0; 92];
    file.read_exact_at(&mut header, 512).unwrap();
    header[0x50..0x54].copy_from_slice(&64_u32.to_le_bytes());
    header[0x54..0x58].copy_from_slice(&256_u32.to_le_bytes());
    header[0x58..0x5C].copy_from_slice(&crc32fast::hash(&wide).to_le_bytes());
    header[0x10..0x14].fill(0);
    let crc = crc32fast::hash(&header);
    header[0x10..0x14].copy_from_slice(&crc.to_le_bytes());
    file.write_all_at(&header, 512).unwrap();
    let table = image.read();
    assert_eq!(table.partitions, whole.partitions);
    assert!(
        table
            .notes
            .iter()
            .any(|note| note.contains("entries of 256 bytes")),
        "{:?}",
        table.notes
    );
}

#[test]
fn a_filesystem_on_the_whole_disk_is_no_table() {
    let image = Image::new(16 * MIB);
    run("mke2fs", &["-q", "-F", arg(&image.path)]);
    assert_eq!(image.read().scheme, Scheme::None);
    assert!(image.read().metadata.is_empty());
    // FAT ends its first sector in 55 AA like an MBR.
    let image = Image::new(16 * MIB);
    run("mkfs.vfat", &["--mbr=no", arg(&image.path)]);
    assert_eq!(image.read().scheme, Scheme::None);
    assert_eq!(image.read().partitions, []);
}

#[test]
fn a_disk_smaller_than_a_sector_and_an_empty_disk_have_no_table() {
    for size in [0, 1, 511, 512, 513, 4096] {
        let disk = MemDisk(vec![0; size]);
        for sector in [SectorSize::B512, SectorSize::B4096] {
            let table = PartitionTable::read(&disk, sector).unwrap();
            assert_eq!(table.scheme, Scheme::None, "{size}");
            assert_eq!(table.notes, [""; 0]);
        }
    }
}

/// What must hold of any table, however damaged.
fn assert_sane(table: &PartitionTable, disk: &dyn ReadAt) {
    let size = disk.size().0;
    assert!(table.partitions.len() <= 255);
    let inside = |partition: &Partition| partition.extent().is_some_and(|e| e.end() <= size);
    assert!(
        table.partitions.iter().all(inside),
        "a partition leaves the disk"
    );
    assert!(
        table
            .partitions
            .windows(2)
            .all(|pair| pair[0].number < pair[1].number)
    );
    assert!(table.metadata.iter().all(|extent| extent.end() <= size));
}

#[path = "ptable_oracle/hostile.rs"]
mod hostile;
