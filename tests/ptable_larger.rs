//! A GPT on a larger disk, held against gdisk, fdisk and the crate `gpt`.

use haulier::device::{MemDisk, ReadAt};
use haulier::ptable::{PartitionTable, larger};
use haulier::units::{ByteLen, ByteOffset, SectorSize};
use std::fs;
use std::path::Path;
use std::process::Command;

const MIB: u64 = 1 << 20;

/// Runs a tool that must succeed; returns what it printed.
fn tool(command: &mut Command) -> String {
    let output = command
        .output()
        .unwrap_or_else(|e| panic!("{command:?} is needed: {e}"));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{command:?}: {said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    said
}

/// A disk of `sectors` with two partitions, by gdisk; `more` are options of its.
fn disk(sectors: u64, more: &[&str]) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.img");
    fs::File::create(&path)
        .unwrap()
        .set_len(sectors * 512)
        .unwrap();
    tool(
        Command::new("sgdisk")
            .args([
                "--new=1:2048:4095",
                "--new=3:4096:0",
                "--change-name=3:räume",
            ])
            .args(more)
            .arg(&path),
    );
    fs::read(path).unwrap()
}

/// The copy of `disk` with `size` bytes.
fn grown(disk: &[u8], sector: SectorSize, size: u64) -> Vec<u8> {
    let mem = MemDisk(disk.to_vec());
    let larger = larger(&mem, sector, ByteLen(size)).expect("a table");
    assert_eq!(larger.size, ByteLen(size));
    let mut copy = disk.to_vec();
    copy.resize(usize::try_from(size).unwrap(), 0);
    for (at, bytes) in &larger.sectors {
        let at = usize::try_from(at.0).unwrap();
        copy[at..at + bytes.len()].copy_from_slice(bytes);
    }
    copy
}

/// What gdisk and fdisk say of a disk must be nothing.
fn is_sound(bytes: &[u8]) -> String {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.img");
    fs::write(&path, bytes).unwrap();
    let said = tool(Command::new("sgdisk").arg("--verify").arg(&path));
    assert!(said.contains("No problems found"), "{said}");
    assert!(!said.to_lowercase().contains("warning"), "{said}");
    let said = tool(Command::new("sfdisk").arg("--verify").arg(&path));
    assert!(said.contains("No errors detected"), "{said}");
    dump(&path)
}

/// The partitions, their names, types and GUIDs, and the disk's.
fn dump(path: &Path) -> String {
    let said = tool(Command::new("sfdisk").arg("--dump").arg(path));
    let kept = |line: &&str| !line.starts_with("last-lba") && !line.starts_with("device");
    let lines: Vec<&str> = said.lines().filter(kept).collect();
    lines
        .join("\n")
        .replace(&path.display().to_string(), "disk")
}

#[test]
fn gdisk_and_fdisk_find_no_fault_however_little_or_much_it_grows() {
    // Less than the table takes: its old and its new place overlap.
    let sectors = 34_001;
    let small = disk(sectors, &[]);
    let before = is_sound(&small);
    for more in [1, 2, 7, 31, 32, 33, 34, 64, 2047, 2048, 100_000] {
        let copy = grown(&small, SectorSize::B512, (sectors + more) * 512);
        assert_eq!(is_sound(&copy), before, "{more} sectors more");
        // The old backup is nowhere any more.
        let headers = copy
            .chunks(512)
            .filter(|sector| sector.starts_with(b"EFI PART"));
        assert_eq!(headers.count(), 2, "{more} sectors more");
        // No partition has another byte.
        let partitions = 2048 * 512..(34_001 - 33) * 512;
        assert!(copy[partitions.clone()] == small[partitions]);
        let table = PartitionTable::read(&MemDisk(copy), SectorSize::B512).unwrap();
        assert_eq!(table.notes, Vec::<String>::new());
    }
}

#[test]
fn the_code_in_the_first_sector_and_a_hybrid_table_stay() {
    let mut hybrid = disk(20_000, &["--hybrid=1"]);
    hybrid[..440].fill(0x90);
    let copy = grown(&hybrid, SectorSize::B512, 12 * MIB);
    assert!(copy[..512] == hybrid[..512]);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.img");
    fs::write(&path, &copy).unwrap();
    let said = tool(Command::new("sgdisk").arg("--verify").arg(&path));
    assert!(said.contains("No problems found"), "{said}");

    let mut plain = disk(20_000, &[]);
    plain[..440].fill(0x90);
    let copy = grown(&plain, SectorSize::B512, 12 * MIB);
    assert!(copy[..440] == plain[..440]);
    // SizeInLBA of the protective record: the disk less the sector before it.
    let sectors = u32::try_from(12 * MIB / 512 - 1).unwrap();
    assert_eq!(copy[0x1CA..0x1CE], sectors.to_le_bytes());
}

#[test]
fn a_table_in_sectors_of_4096_bytes_counts_in_them() {
    let size = 5 * MIB + 3 * 4096;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.img");
    let file = fs::File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path)
        .unwrap();
    file.set_len(size).unwrap();
    let block = gpt::disk::LogicalBlockSize::Lb4096;
    let last = u32::try_from(size / 4096 - 1).unwrap();
    gpt::mbr::ProtectiveMBR::with_lb_size(last)
        .overwrite_lba0(&mut &file)
        .unwrap();
    let mut table = gpt::GptConfig::new()
        .writable(true)
        .logical_block_size(block)
        .create_from_device(file, None)
        .unwrap();
    table
        .add_partition("root", MIB, gpt::partition_types::LINUX_FS, 0, None)
        .unwrap();
    let before = table.take_partitions();
    table.update_partitions(before.clone()).unwrap();
    table.write().unwrap();
    let small = fs::read(&path).unwrap();
    let sector = SectorSize::B4096;
    fs::write(&path, grown(&small, sector, 6 * MIB)).unwrap();
    let read = gpt::GptConfig::new()
        .logical_block_size(block)
        .open(&path)
        .unwrap();
    assert_eq!(read.partitions(), &before);
    let (primary, backup) = (
        read.primary_header().unwrap(),
        read.backup_header().unwrap(),
    );
    let last = 6 * MIB / 4096 - 1;
    assert_eq!((primary.backup_lba, backup.current_lba), (last, last));
    assert_eq!(primary.last_usable, last - 5);
    assert_eq!((backup.part_start, backup.backup_lba), (last - 4, 1));
}

#[test]
fn a_table_that_is_better_left_alone_is_left_alone_with_a_reason() {
    let sound = disk(20_000, &[]);
    let flaw = |bytes: &[u8], size: u64| {
        larger(&MemDisk(bytes.to_vec()), SectorSize::B512, ByteLen(size)).unwrap_err()
    };
    let patched = |at: usize| {
        let mut bytes = sound.clone();
        bytes[at] ^= 1;
        bytes
    };
    let last = 19_999 * 512;
    for (bytes, words) in [
        (patched(512 + 0x38), "of the GPT at sector 1, its checksum"),
        (
            patched(last + 0x38),
            "of the GPT at sector 19999, its checksum",
        ),
        (
            patched(1024),
            "the entries of the GPT at sector 1 are damaged",
        ),
        (patched(last), "there is no GPT header at sector 19999"),
        (patched(0x1FE), "no protective MBR"),
        (vec![0; 1 << 20], "there is no GPT header at sector 1"),
    ] {
        let said = flaw(&bytes, 11 * MIB);
        assert!(said.contains(words), "{words}: {said}");
    }
    assert!(flaw(&sound, 20_000 * 512).contains("not larger"));
    assert!(flaw(&sound, 11 * MIB + 1).contains("no whole number of sectors"));
    assert!(flaw(&[], MIB).contains("no whole number") || flaw(&[], MIB).contains("sector"));
}

#[test]
fn a_disk_beyond_2_tib_has_the_largest_number_in_its_protective_record() {
    struct Sparse(Vec<u8>, u64);
    impl ReadAt for Sparse {
        fn size(&self) -> ByteLen {
            ByteLen(self.1)
        }
        fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> haulier::Result<()> {
            let half = u64::try_from(self.0.len()).unwrap() / 2;
            let at = match offset.0 < half {
                true => offset.0,
                false => offset.0 - (self.1 - 2 * half),
            };
            let at = usize::try_from(at).unwrap();
            buf.copy_from_slice(&self.0[at..at + buf.len()]);
            Ok(())
        }
        fn name(&self) -> String {
            "sparse".into()
        }
    }
    // The first and the last MiB of a disk of 3 TiB.
    let size = 3 << 40;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.img");
    let file = fs::File::create(&path).unwrap();
    file.set_len(size).unwrap();
    tool(Command::new("sgdisk").arg("--new=1:2048:0").arg(&path));
    let file = fs::File::open(&path).unwrap();
    let mut ends = vec![0; 2 << 20];
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut ends[..1 << 20], 0).unwrap();
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut ends[1 << 20..], size - MIB).unwrap();
    let larger = larger(&Sparse(ends, size), SectorSize::B512, ByteLen(size + MIB)).unwrap();
    let file = fs::File::options().write(true).open(&path).unwrap();
    file.set_len(size + MIB).unwrap();
    for (at, bytes) in &larger.sectors {
        std::os::unix::fs::FileExt::write_all_at(&file, bytes, at.0).unwrap();
    }
    let said = tool(Command::new("sgdisk").arg("--verify").arg(&path));
    assert!(said.contains("No problems found"), "{said}");
    assert_eq!(larger.sectors[&ByteOffset(0)][0x1CA..0x1CE], [0xff; 4]);
}
