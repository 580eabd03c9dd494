//! A disk's own word on its health, and the sectors that it hides. Asked by ATA and NVMe commands that
//! change nothing; a disk of another kind, or one behind a controller that lets none through, leaves
//! `None`.

use super::disks::{Bus, DiskInfo};
use crate::bytes::{read_array, read_u8, read_u16le, read_u32le};
use crate::device::ioctl::{self, AtaAnswer, AtaQuestion};
use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};

/// What a disk says of itself; each `None` where it does not.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Smart {
    /// Whether it expects to go on working.
    pub healthy: Option<bool>,
    /// In degrees Celsius.
    pub temperature_celsius: Option<i32>,
    /// Hours that it has been on.
    pub power_on_hours: Option<u64>,
    /// ATA attribute 5: sectors that it has replaced.
    pub reallocated_sectors: Option<u64>,
    /// ATA attribute 197: sectors that it could not read and waits to replace.
    pub pending_sectors: Option<u64>,
    /// NVMe: how much of its life is used, in percent; may be over 100.
    pub used_percent: Option<u8>,
    /// NVMe: errors of its media.
    pub media_errors: Option<u64>,
}

/// Sectors between the size that a disk shows and the one that it has.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HiddenArea {
    /// Sectors that it shows.
    pub shown_sectors: u64,
    /// Sectors with its host protected area, where it has that feature.
    pub native_sectors: Option<u64>,
    /// Sectors without its device configuration overlay, where it has that feature.
    pub real_sectors: Option<u64>,
}

/// What a disk answered.
#[derive(Debug, Default)]
pub(super) struct Answers {
    pub smart: Option<Smart>,
    pub hidden_area: Option<HiddenArea>,
}

/// Asks a disk of this machine.
pub(super) fn ask(disk: &DiskInfo) -> Answers {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
    let Ok(file) = rustix::fs::open(disk.device(), flags, Mode::empty()) else {
        return Answers::default();
    };
    match disk.bus {
        Bus::Nvme => Answers {
            smart: ioctl::nvme_smart_log(&file).ok().map(|log| nvme(&log)),
            hidden_area: None,
        },
        // Some USB bridges hang on such a command, and no other bus passes it on.
        Bus::Sata | Bus::Ide | Bus::Sas => ata(&file),
        _ => Answers::default(),
    }
}

fn ata(file: &OwnedFd) -> Answers {
    let ask = |question| ioctl::ask_ata(file, question).ok();
    let good = |question| ask(question).filter(|a| a.status == 0).map(|a| a.data);
    let Some(identify) = good(AtaQuestion::Identify).filter(is_ata_disk) else {
        return Answers::default();
    };
    // ATA8-ACS, 7.16.7: words 82 and 85, bit 0: SMART is there and on.
    let has = |word: usize, bit: u16| read_u16le(&identify, word * 2) & (1 << bit) != 0;
    let smart = (has(82, 0) && has(85, 0)).then(|| {
        let mut smart = good(AtaQuestion::SmartData)
            .map(|data| ata_attributes(&data))
            .unwrap_or_default();
        smart.healthy = ask(AtaQuestion::SmartStatus)
            .and_then(|answer| registers(&answer))
            .and_then(|registers| registers.healthy());
        smart
    });
    let shown_sectors = shown_sectors(&identify);
    // Words 82, bit 10: host protected area; 83, bit 11: device configuration overlay.
    let native_sectors = has(82, 10)
        .then(|| ask(AtaQuestion::NativeMax))
        .flatten()
        .and_then(|answer| registers(&answer)?.sectors());
    let real_sectors = has(83, 11)
        .then(|| good(AtaQuestion::DcoIdentify))
        .flatten()
        .and_then(|data| dco_sectors(&data));
    Answers {
        smart,
        hidden_area: (native_sectors.is_some() || real_sectors.is_some()).then_some(HiddenArea {
            shown_sectors,
            native_sectors,
            real_sectors,
        }),
    }
}

/// Word 0, bit 15 clear: no ATAPI; and not the nothing that some adapters answer.
fn is_ata_disk(identify: &[u8; 512]) -> bool {
    read_u16le(identify, 0) & 0x8000 == 0 && shown_sectors(identify) != 0
}

/// Words 100 to 103, or 60 and 61 of a disk of 28 bits.
fn shown_sectors(identify: &[u8; 512]) -> u64 {
    match u64::from_le_bytes(read_array(identify, 200)) {
        0 => u64::from(read_u32le(identify, 120)),
        sectors => sectors,
    }
}

/// Words 3 to 6 are the highest address (ATA8-ACS, 7.10.3.2), of a table that says revision 1 or 2.
fn dco_sectors(data: &[u8; 512]) -> Option<u64> {
    let known = matches!(read_u16le(data, 0), 1 | 2);
    let highest = u64::from_le_bytes(read_array(data, 6));
    (known && highest != 0).then(|| highest.checked_add(1))?
}

/// The registers that a command without data leaves.
struct Registers {
    /// Bits 7:0, 15:8 … 47:40 of the address.
    lba: [u8; 6],
    status: u8,
}

impl Registers {
    /// SMART RETURN STATUS turns 4Fh C2h into F4h 2Ch when a limit is exceeded.
    fn healthy(&self) -> Option<bool> {
        match (self.lba[1], self.lba[2]) {
            (0x4F, 0xC2) => Some(true),
            (0xF4, 0x2C) => Some(false),
            _ => None,
        }
    }

    /// The native maximum address, as a number of sectors. Bit 0 of the status is an error.
    fn sectors(&self) -> Option<u64> {
        let [a, b, c, d, e, f] = self.lba;
        let highest = u64::from_le_bytes([a, b, c, d, e, f, 0, 0]);
        (self.status & 1 == 0 && highest != 0).then(|| highest.checked_add(1))?
    }
}

/// From the ATA Status Return descriptor (SAT-3, 12.2.6) of descriptor-format sense data. The fixed
/// format has no room for all of the address and is not believed.
fn registers(answer: &AtaAnswer) -> Option<Registers> {
    let sense = &answer.sense;
    if read_u8(sense, 0) & 0x7F != 0x72 || (sense[8], sense[9]) != (0x09, 0x0C) {
        return None;
    }
    Some(Registers {
        lba: [
            sense[15], sense[17], sense[19], sense[14], sense[16], sense[18],
        ],
        status: sense[21],
    })
}

/// Thirty entries of twelve bytes from offset 2 (SFF-8035i; vendors agree on these four).
fn ata_attributes(data: &[u8; 512]) -> Smart {
    let mut smart = Smart::default();
    let mut airflow = None;
    for entry in data[2..362].chunks_exact(12) {
        let raw = u64::from_le_bytes([
            entry[5], entry[6], entry[7], entry[8], entry[9], entry[10], 0, 0,
        ]);
        match entry[0] {
            5 => smart.reallocated_sectors = Some(raw & 0xFFFF_FFFF),
            // The upper half is minutes or milliseconds with some vendors.
            9 => smart.power_on_hours = Some(raw & 0xFFFF_FFFF),
            // Some SSDs have this one only; smartctl falls back to it too.
            190 => airflow = Some(i32::from(entry[5])),
            // The upper bytes are the lowest and highest so far.
            194 => smart.temperature_celsius = Some(i32::from(entry[5])),
            197 => smart.pending_sectors = Some(raw & 0xFFFF_FFFF),
            _ => {}
        }
    }
    smart.temperature_celsius = smart.temperature_celsius.or(airflow);
    smart
}

/// The SMART / Health Information log (NVM Express Base Specification 2.0, figure 207).
fn nvme(log: &[u8; 512]) -> Smart {
    let kelvin = i32::from(read_u16le(log, 1));
    let counter = |at| u64::try_from(u128::from_le_bytes(read_array(log, at))).ok();
    Smart {
        // Any bit of the critical warning.
        healthy: Some(log[0] == 0),
        temperature_celsius: (kelvin != 0).then_some(kelvin - 273),
        power_on_hours: counter(128),
        used_percent: Some(log[5]),
        media_errors: counter(160),
        ..Smart::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nvme_log_of_the_specification() {
        let mut log = [0; 512];
        log[0] = 0x04;
        log[1..3].copy_from_slice(&323_u16.to_le_bytes());
        log[5] = 103;
        log[128..130].copy_from_slice(&[0x10, 0x27]);
        log[160] = 7;
        assert_eq!(
            nvme(&log),
            Smart {
                healthy: Some(false),
                temperature_celsius: Some(50),
                power_on_hours: Some(10_000),
                used_percent: Some(103),
                media_errors: Some(7),
                ..Smart::default()
            }
        );
    }

    #[test]
    fn ata_attributes_are_found_by_their_numbers() {
        let mut data = [0; 512];
        for (slot, id, raw) in [
            (0, 5, 8_u64),
            (1, 9, 43_210),
            (2, 190, 31),
            (3, 194, 0x0014_001E),
            (29, 197, 2),
        ] {
            let at = 2 + slot * 12;
            data[at] = id;
            data[at + 5..at + 11].copy_from_slice(&raw.to_le_bytes()[..6]);
        }
        let smart = ata_attributes(&data);
        assert_eq!(smart.reallocated_sectors, Some(8));
        assert_eq!(smart.power_on_hours, Some(43_210));
        assert_eq!(smart.temperature_celsius, Some(30));
        assert_eq!(smart.pending_sectors, Some(2));
        assert_eq!(smart.healthy, None);
        data[2 + 3 * 12] = 0;
        assert_eq!(ata_attributes(&data).temperature_celsius, Some(31));
    }

    fn answer(lba: [u8; 6], status: u8) -> AtaAnswer {
        let mut sense = [0; 32];
        sense[0] = 0x72;
        (sense[8], sense[9], sense[21]) = (0x09, 0x0C, status);
        for (at, byte) in [15, 17, 19, 14, 16, 18].into_iter().zip(lba) {
            sense[at] = byte;
        }
        AtaAnswer {
            data: [0; 512],
            sense,
            status: 2,
        }
    }

    #[test]
    fn registers_tell_health_and_the_native_size() {
        let healthy = |lba| registers(&answer(lba, 0x50)).unwrap().healthy();
        assert_eq!(healthy([0, 0x4F, 0xC2, 0, 0, 0]), Some(true));
        assert_eq!(healthy([0, 0xF4, 0x2C, 0, 0, 0]), Some(false));
        assert_eq!(healthy([0; 6]), None);
        let sectors = |status| {
            registers(&answer([0xFF, 1, 0, 2, 0, 0], status))
                .unwrap()
                .sectors()
        };
        assert_eq!(sectors(0x50), Some(0x0200_0200));
        assert_eq!(sectors(0x51), None);
        assert!(
            registers(&AtaAnswer {
                data: [0; 512],
                sense: [0; 32],
                status: 0
            })
            .is_none()
        );
    }
}
