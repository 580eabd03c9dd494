//! The sectors of the image: MBR, GPT, GRUB's core, ESP.
//!
//! | sector | what |
//! | --- | --- |
//! | 0 | GRUB's boot code (bytes 0 to 439), protective MBR |
//! | 1, 2-33 | GPT header and entries |
//! | 34-2047 | entry 2: BIOS boot partition, GRUB's core |
//! | 2048-… | entry 1: ESP |
//! | last 33 | backup GPT |
//!
//! The rest of a stick is free; the appliance makes entry 3 there, its data partition. The ESP is
//! entry 1 because some firmware looks no further.

use super::esp::EspFile;
use anyhow::{Context, Result, ensure};
use gpt::disk::LogicalBlockSize;
use gpt::partition::Partition;
use gpt::partition_types::{BIOS, EFI, Type};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use uuid::Uuid;

/// Bytes of a sector: sticks have no other.
pub(super) const SECTOR: u64 = 512;

/// First byte of the ESP.
pub(super) const ESP_START: u64 = 1 << 20;

/// The first sector of GRUB's core, right behind the GPT's entries.
const CORE_LBA: u64 = 34;

/// Sectors of the backup GPT: 32 of entries, one header.
const BACKUP_SECTORS: u64 = 33;

/// Names of the image, made from its contents: other contents, other names; same contents, same.
#[derive(Debug)]
pub(super) struct Identity {
    /// The FAT volume's serial number.
    pub(super) volume_id: u32,
    disk: Uuid,
    esp: Uuid,
    bios_boot: Uuid,
}

impl Identity {
    pub(super) fn of(core: &[u8], files: &[EspFile]) -> Self {
        let mut hash = Sha256::new();
        hash.update(Sha256::digest(core));
        for file in files {
            hash.update(file.path);
            hash.update(Sha256::digest(&file.data));
        }
        let contents = hash.finalize();
        let name = |what: &str| {
            let mut bytes = [0; 16];
            let digest = Sha256::new()
                .chain_update(what)
                .chain_update(contents)
                .finalize();
            bytes.copy_from_slice(&digest[..16]);
            // Version 8 of RFC 9562: bits of the maker's own making.
            uuid::Builder::from_custom_bytes(bytes).into_uuid()
        };
        let [.., a, b, c, d] = name("volume").into_bytes();
        Self {
            volume_id: u32::from_be_bytes([a, b, c, d]),
            disk: name("disk"),
            esp: name("esp"),
            bios_boot: name("bios-boot"),
        }
    }
}

/// Writes the image; `out` is there once it is whole.
///
/// # Errors
/// When GRUB's parts do not fit their places, or the image cannot be written.
pub(super) fn write(
    out: &Path,
    boot: &[u8],
    core: &[u8],
    esp: &[u8],
    identity: &Identity,
) -> Result<()> {
    let esp_end = ESP_START + u64::try_from(esp.len())?;
    let size = (esp_end + BACKUP_SECTORS * SECTOR).next_multiple_of(1 << 20);
    let core = core_in_place(core)?;

    let folder = match out.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    let passing = tempfile::Builder::new()
        .prefix(".haulier-image-")
        .tempfile_in(folder)
        .with_context(|| format!("making a file in {}", folder.display()))?;
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(passing.path())?;
    file.set_len(size)?;
    file.write_all_at(&mbr(boot, size / SECTOR)?, 0)?;
    file.write_all_at(&core, CORE_LBA * SECTOR)?;
    file.write_all_at(esp, ESP_START)?;
    partition_table(&file, esp_end, identity)?;
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    fs::set_permissions(passing.path(), mode)?;
    passing
        .persist(out)
        .with_context(|| format!("writing {}", out.display()))?;
    Ok(())
}

fn partition_table(file: &fs::File, esp_end: u64, identity: &Identity) -> Result<()> {
    let entry = |kind: Type, part_guid, first_lba, last_lba, name: &str| Partition {
        part_type_guid: kind,
        part_guid,
        first_lba,
        last_lba,
        flags: 0,
        name: name.to_owned(),
    };
    let esp_first = ESP_START / SECTOR;
    let entries = BTreeMap::from([
        (
            1,
            entry(
                EFI,
                identity.esp,
                esp_first,
                esp_end / SECTOR - 1,
                "haulier-esp",
            ),
        ),
        (
            2,
            entry(
                BIOS,
                identity.bios_boot,
                CORE_LBA,
                esp_first - 1,
                "haulier-bios",
            ),
        ),
    ]);
    let mut disk = gpt::GptConfig::new()
        .writable(true)
        .logical_block_size(LogicalBlockSize::Lb512)
        .create_from_device(file, Some(identity.disk))
        .context("making the partition table")?;
    disk.update_partitions(entries)
        .context("making the partition table")?;
    disk.write().context("writing the partition table")?;
    Ok(())
}

/// Sector 0: what grub-bios-setup makes of GRUB's boot.img, and the protective MBR.
fn mbr(boot: &[u8], sectors: u64) -> Result<[u8; 512]> {
    ensure!(boot.len() == 512, "GRUB's boot.img is not one sector long");
    let mut mbr = [0; 512];
    mbr[..440].copy_from_slice(&boot[..440]);
    // boot.h: GRUB_BOOT_MACHINE_KERNEL_SECTOR, where the core starts.
    mbr[0x5C..0x64].copy_from_slice(&CORE_LBA.to_le_bytes());
    // GRUB_BOOT_MACHINE_BOOT_DRIVE: the drive that the BIOS names.
    mbr[0x64] = 0xFF;
    // GRUB_BOOT_MACHINE_DRIVE_CHECK: two NOPs, so that a BIOS naming an odd drive is believed.
    mbr[0x66..0x68].copy_from_slice(&[0x90, 0x90]);
    // UEFI 2.10, 5.2.3: the protective entry, not active.
    mbr[446..454].copy_from_slice(&[0x00, 0x00, 0x02, 0x00, 0xEE, 0xFF, 0xFF, 0xFF]);
    mbr[454..458].copy_from_slice(&1_u32.to_le_bytes());
    let length = u32::try_from(sectors - 1).unwrap_or(u32::MAX);
    mbr[458..462].copy_from_slice(&length.to_le_bytes());
    // Some BIOSes want an active entry, which UEFI forbids on the protective one: an empty entry
    // is active in its place.
    mbr[462] = 0x80;
    mbr[474] = 1;
    mbr[510..].copy_from_slice(&[0x55, 0xAA]);
    Ok(mbr)
}

/// GRUB's core, padded to sectors, told where its own second sector lies (diskboot.img's block
/// list, at the end of the first sector; the load segment after it stays as it is).
fn core_in_place(core: &[u8]) -> Result<Vec<u8>> {
    let mut core = core.to_vec();
    core.resize(core.len().next_multiple_of(512), 0);
    let sectors = u64::try_from(core.len())? / SECTOR;
    ensure!(
        (CORE_LBA + sectors) * SECTOR <= ESP_START,
        "GRUB's core is {sectors} sectors long and does not fit before the ESP"
    );
    ensure!(
        core.get(0x1FE..0x200) == Some(&[0x20, 0x08]),
        "GRUB's core does not begin with diskboot.img"
    );
    core[0x1F4..0x1FC].copy_from_slice(&(CORE_LBA + 1).to_le_bytes());
    core[0x1FC..0x1FE].copy_from_slice(&u16::try_from(sectors - 1)?.to_le_bytes());
    Ok(core)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    fn core() -> Vec<u8> {
        let mut core = vec![0xAA; 1000];
        core[0x1FE..0x200].copy_from_slice(&[0x20, 0x08]);
        core
    }

    fn image(folder: &Path, files: &[EspFile]) -> std::path::PathBuf {
        let out = folder.join("image");
        let identity = Identity::of(&core(), files);
        write(&out, &[0x11; 512], &core(), &vec![0x22; 4 << 20], &identity).unwrap();
        out
    }

    fn sgdisk(arguments: &[&str], image: &Path) -> String {
        let output = Command::new("sgdisk")
            .args(arguments)
            .arg(image)
            .output()
            .expect("the program sgdisk is missing: install the package gdisk");
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{text}");
        text
    }

    #[test]
    fn sgdisk_finds_no_problem_and_the_two_partitions() {
        let folder = tempfile::tempdir().unwrap();
        let image = image(folder.path(), &[]);
        let verdict = sgdisk(&["-v"], &image);
        assert!(verdict.contains("No problems found"), "{verdict}");
        let esp = sgdisk(&["-i", "1"], &image);
        assert!(
            esp.contains("C12A7328-F81F-11D2-BA4B-00A0C93EC93B"),
            "{esp}"
        );
        assert!(esp.contains("First sector: 2048 "), "{esp}");
        assert!(esp.contains("Last sector: 10239 "), "{esp}");
        let bios = sgdisk(&["-i", "2"], &image);
        assert!(
            bios.contains("21686148-6449-6E6F-744E-656564454649"),
            "{bios}"
        );
        assert!(bios.contains("First sector: 34 "), "{bios}");
        assert!(bios.contains("Last sector: 2047 "), "{bios}");
    }

    #[test]
    fn boot_code_and_core_lead_to_each_other() {
        let folder = tempfile::tempdir().unwrap();
        let bytes = fs::read(image(folder.path(), &[])).unwrap();
        assert_eq!(bytes[0x5C..0x64], 34_u64.to_le_bytes());
        assert_eq!(bytes[..0x5C], [0x11; 0x5C]);
        let core = &bytes[34 * 512..];
        assert_eq!(core[0x1F4..0x1FC], 35_u64.to_le_bytes());
        assert_eq!(core[0x1FC..0x200], [1, 0, 0x20, 0x08]);
        assert_eq!(bytes[1 << 20], 0x22);
    }

    #[test]
    fn the_same_contents_have_the_same_names_and_others_others() {
        let file = |data: &[u8]| [EspFile::new("a", data.to_vec())];
        let (one, again) = (
            Identity::of(&core(), &file(b"1")),
            Identity::of(&core(), &file(b"1")),
        );
        let other = Identity::of(&core(), &file(b"2"));
        assert_eq!((one.disk, one.volume_id), (again.disk, again.volume_id));
        assert_ne!(one.disk, other.disk);
        assert_ne!(one.esp, one.disk);
    }

    #[test]
    fn a_core_that_is_too_long_is_refused() {
        let mut core = core();
        core.resize(1 << 20, 0);
        assert!(core_in_place(&core).is_err());
    }
}
