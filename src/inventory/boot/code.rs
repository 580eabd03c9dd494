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
    /// Windows from Vista on, or DOS to XP: runs the active partition's own boot sector.
    Windows,
    /// Syslinux' `mbr.bin` or `gptmbr.bin`: runs the active partition's own boot sector.
    Syslinux,
    /// LILO.
    Lilo,
    /// FreeBSD's `boot0`.
    FreeBsd,
    /// What parted, fdisk and Debian's `mbr` write: runs the active partition's own boot sector.
    Generic,
    /// Some other.
    #[serde(other)]
    Unknown,
}

impl BootCode {
    /// The code in a first sector; `None` where BIOS would find nothing to run.
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
        } else if has(b"Operating system load error") || has(b"OS load error") || has(b"Missing OS")
        {
            Self::Syslinux
        } else if has(b"Invalid partition table") && has(b"Error loading operating system") {
            Self::Windows
        } else if has(b"FreeBSD") {
            Self::FreeBsd
        } else if code.starts_with(PARTED) || has(b"MBR \x0D\x0A") {
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

/// How parted's `MBR_BOOT_CODE` begins (libparted/labels/dos.c); it is written with each new label,
/// so it says nothing about a system.
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
        sector[at..at + code.len()].copy_from_slice(code);
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
    fn others_are_recognised_by_what_they_say() {
        for (at, code, found) in [
            (
                300,
                &b"Invalid partition table\0Error loading operating system\0"[..],
                BootCode::Windows,
            ),
            (
                250,
                b"Missing operating system.\r\n\0Operating system load error.\r\n",
                BootCode::Syslinux,
            ),
            (200, b"Missing OS\r\n", BootCode::Syslinux),
            (6, b"LILO", BootCode::Lilo),
            (0, PARTED, BootCode::Generic),
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
