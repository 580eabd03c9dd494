//! Whose boot code lies in the first sector of a disk or partition. BIOS runs it whatever it is, so an
//! unknown one counts too; the name is for people.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use serde::{Deserialize, Serialize};

/// Boot code of a master boot record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BootCode {
    /// GRUB's `boot.img`: goes on in the gap behind the sector or in a BIOS boot partition.
    Grub,
    /// Windows, DOS, or FreeBSD's `mbr`, which speaks the same words: runs the active partition's own
    /// boot sector. A Windows that speaks another language is [`Self::Unknown`].
    Windows,
    /// Syslinux' `mbr.bin` or `gptmbr.bin`: runs the active partition's own boot sector.
    Syslinux,
    /// LILO.
    Lilo,
    /// FreeBSD's `boot0`.
    FreeBsd,
    /// What parted writes with each new label: runs the active partition's own boot sector.
    Generic,
    /// Some other.
    #[serde(other)]
    Unknown,
}

impl BootCode {
    /// The code in a first sector; `None` where BIOS would find nothing to run. Places and words of LILO
    /// and Windows as in file(1)'s magic (Magdir/filesystems); GRUB, Syslinux and parted as their
    /// packages have them.
    pub fn find(sector: &[u8; 512]) -> Option<Self> {
        let (code, _) = sector.split_at(440);
        if !sector.ends_with(&[0x55, 0xAA]) || code.iter().all(|byte| *byte == 0) {
            return None;
        }
        let has = |text: &[u8]| code.windows(text.len()).any(|window| window == text);
        Some(if has(b"GRUB ") && has(b"Geom") {
            Self::Grub
        } else if code.get(6..10) == Some(b"LILO") {
            Self::Lilo
        } else if has(b"Multiple active partitions") {
            // Not `altmbr.bin`, which runs a partition of its own choice, nor the code of a hybrid ISO
            // image: both say "Operating system load error" too.
            Self::Syslinux
        } else if has(b"Invalid partition table") && has(b"Error loading operating system") {
            Self::Windows
        } else if has(b"FreeBS\xC4") {
            // The last letter of its names has the high bit set (sys/boot/i386/boot0/boot0.S).
            Self::FreeBsd
        } else if code.starts_with(PARTED) {
            Self::Generic
        } else {
            Self::Unknown
        })
    }

    /// Whether it does nothing but run the boot sector of the active partition.
    pub fn needs_active_partition(self) -> bool {
        matches!(self, Self::Windows | Self::Syslinux | Self::Generic)
    }

    /// How people know it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Grub => "GRUB",
            Self::Windows => "Windows",
            Self::Syslinux => "Syslinux",
            Self::Lilo => "LILO",
            Self::FreeBsd => "FreeBSD",
            Self::Generic => "a generic boot sector",
            Self::Unknown => "an unknown boot sector",
        }
    }
}

/// How the code of parted 3.5 begins; it is written with each new label, so it says nothing about a
/// system. sfdisk and sgdisk write none.
const PARTED: &[u8] = &[0xFA, 0xB8, 0x00, 0x10, 0x8E, 0xD0, 0xBC, 0x00, 0xB0];

#[cfg(test)]
#[allow(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]
mod tests {
    use super::*;

    fn sector(at: usize, code: &[u8]) -> [u8; 512] {
        let mut sector = [0; 512];
        sector[at..][..code.len()].copy_from_slice(code);
        sector[510..].copy_from_slice(&[0x55, 0xAA]);
        sector
    }

    #[test]
    fn grubs_own_image_is_recognised() {
        let image = std::fs::read("/usr/lib/grub/i386-pc/boot.img").unwrap();
        let image: [u8; 512] = image.try_into().unwrap();
        assert_eq!(BootCode::find(&image), Some(BootCode::Grub));
    }

    #[test]
    fn syslinux_own_images_are_recognised_but_the_one_that_needs_no_active_partition() {
        for (name, found) in [
            ("mbr", BootCode::Syslinux),
            ("gptmbr", BootCode::Syslinux),
            ("altmbr", BootCode::Unknown),
        ] {
            let image = std::fs::read(format!("/usr/lib/syslinux/mbr/{name}.bin")).unwrap();
            assert_eq!(BootCode::find(&sector(0, &image)), Some(found), "{name}");
        }
    }

    #[test]
    fn what_parted_writes_is_recognised() {
        let disk = tempfile::NamedTempFile::new().unwrap();
        disk.as_file().set_len(8 << 20).unwrap();
        let parted = std::process::Command::new("/usr/sbin/parted")
            .arg("-s")
            .arg(disk.path())
            .args(["mklabel", "msdos"])
            .output()
            .unwrap();
        assert!(parted.status.success(), "{parted:?}");
        let bytes = std::fs::read(disk.path()).unwrap();
        let first: &[u8; 512] = bytes.first_chunk().unwrap();
        assert_eq!(BootCode::find(first), Some(BootCode::Generic));
    }

    #[test]
    fn others_are_recognised_by_what_they_say() {
        for (at, code, found) in [
            (
                300,
                &b"Invalid partition table\0Error loading operating system\0"[..],
                BootCode::Windows,
            ),
            (6, b"LILO", BootCode::Lilo),
            (410, b"FreeBS\xC4", BootCode::FreeBsd),
            (0, &[0xEB, 0x63], BootCode::Unknown),
        ] {
            assert_eq!(BootCode::find(&sector(at, code)), Some(found));
        }
    }

    #[test]
    fn no_signature_or_no_code_is_nothing_to_run() {
        assert_eq!(BootCode::find(&[0; 512]), None);
        assert_eq!(BootCode::find(&sector(446, &[0x80])), None);
        let mut unsigned = sector(0, PARTED);
        unsigned[511] = 0;
        assert_eq!(BootCode::find(&unsigned), None);
    }
}
