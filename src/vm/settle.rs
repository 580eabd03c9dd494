//! What follows from the controllers of the disks, and is made anew whenever they are chosen anew: the chip
//! set, with it the model of the network cards and how many processors it takes, and the serial numbers,
//! as long as a controller shows them and each once where it has to be.

use super::disk::shorten;
use super::size::Processors;
use super::{DiskBus, MachineType, NicModel, PlannedDisk, VmFirmware, VmPlan, printable};

/// The most processors of QEMU's i440FX machine (`max_cpus` of hw/i386/pc_piix.c).
const MOST_ON_PC: u32 = 255;
/// IDE has two channels of two disks.
const IDE_DISKS: usize = 4;

impl VmPlan {
    /// Puts all disks on one kind of controller: for a system that has no driver for the chosen one.
    ///
    /// # Errors
    /// When it does not take the sectors of one of the disks.
    pub fn with_disk_bus(mut self, bus: DiskBus) -> crate::Result<Self> {
        let large = |disk: &&PlannedDisk| disk.logical_block_bytes != 512;
        if !bus.takes_large_sectors()
            && let Some(disk) = self.disks.iter().find(large)
        {
            return Err(crate::Error::refused(format!(
                "{} has sectors of {} bytes, and emulated SATA and IDE disks have only sectors of 512 bytes",
                disk.described, disk.logical_block_bytes
            ))
            .advise("Choose another bus (--disk-bus nvme, virtio-scsi), or leave --disk-bus out"));
        }
        for disk in &mut self.disks {
            disk.bus = bus;
            disk.bus_note = None;
        }
        self.settle_machine();
        Ok(self)
    }

    /// What differs from the machine and why, each a sentence: [`VmPlan::notes`], and what follows from the
    /// hardware that was chosen last.
    pub fn all_notes(&self) -> Vec<String> {
        let of_buses = self.disks.iter().filter_map(|disk| {
            let (bus, note) = disk.bus_note.as_ref()?;
            (*bus == disk.bus).then_some(note)
        });
        let all = of_buses.chain(&self.notes).chain(&self.settled);
        all.cloned().collect()
    }

    /// The chip set follows from the disks, and the network cards and the processors from the chip set.
    pub(super) fn settle_machine(&mut self) {
        self.settled.clear();
        self.settle_buses();
        self.machine = if self.disks.iter().any(|disk| disk.bus == DiskBus::Ide) {
            MachineType::Pc
        } else {
            MachineType::Q35
        };
        for nic in &mut self.nics {
            if nic.model != NicModel::Virtio {
                nic.model = match self.machine {
                    MachineType::Q35 => NicModel::E1000e,
                    MachineType::Pc => NicModel::E1000,
                };
            }
        }
        self.settle_processors();
        self.settle_serials();
        self.note_shared_names();
        self.note_offline_disks();
    }

    fn settle_buses(&mut self) {
        let bios = self.firmware == VmFirmware::Bios;
        let mut ide = 0_usize;
        for (place, disk) in (1..).zip(&mut self.disks) {
            if disk.bus == DiskBus::MptSas {
                // Linux 6.12 finds no disk without a SAS address on QEMU 10.0's adapter. This one is
                // of the kind that is locally assigned (NAA 3h).
                let place: u64 = place;
                disk.wwn.get_or_insert_with(|| format!("3{place:015x}"));
            }
            if disk.bus == DiskBus::Ide {
                ide = ide.saturating_add(1);
                let why = if !bios {
                    "UEFI virtual machines have no IDE"
                } else if ide > IDE_DISKS {
                    "virtual machines have four IDE disks at most"
                } else {
                    continue;
                };
                disk.bus = DiskBus::Sata;
                let name = printable(&disk.source_name);
                let note = format!("{name} comes to SATA instead of IDE, because {why}");
                disk.bus_note = Some((DiskBus::Sata, note));
            }
        }
    }

    fn settle_processors(&mut self) {
        let all = self.processors;
        let Processors {
            sockets,
            cores,
            threads,
        } = match self.machine {
            MachineType::Q35 => all,
            MachineType::Pc => all.at_most(MOST_ON_PC),
        };
        (self.sockets, self.cores, self.threads) = (sockets, cores, threads);
        if self.vcpus() != all.count() {
            self.settled.push(format!(
                "the VM has {} processors instead of the machine's {}: one with IDE disks takes {MOST_ON_PC} at \
                 most (--disk-bus sata gives it all of them)",
                self.vcpus(),
                all.count()
            ));
        }
    }

    /// QEMU names an NVMe controller's subsystem by the serial number (`subnqn` of hw/nvme/ctrl.c), and of two
    /// with one name Linux takes the first only ("Duplicate cntlid 0 with nvme0, subsys ..., rejecting").
    /// On the metal the namespaces of one controller share its number, and so do cheap disks.
    fn settle_serials(&mut self) {
        for disk in &mut self.disks {
            disk.serial.clone_from(&disk.whole_serial);
            shorten(&mut disk.serial, disk.bus.longest_serial());
        }
        let nvme = |disk: &&PlannedDisk| disk.bus == DiskBus::Nvme;
        let taken: Vec<String> = self
            .disks
            .iter()
            .filter(nvme)
            .filter_map(|disk| disk.serial.clone())
            .collect();
        let mut given: Vec<(String, String)> = Vec::new();
        for disk in self
            .disks
            .iter_mut()
            .filter(|disk| disk.bus == DiskBus::Nvme)
        {
            let Some(serial) = &disk.serial else {
                continue;
            };
            let name = printable(&disk.source_name);
            let Some((_, first)) = given.iter().find(|(other, _)| other == serial) else {
                given.push((serial.clone(), name));
                continue;
            };
            let unused = |text: &String| {
                !taken.contains(text) && given.iter().all(|(other, _)| other != text)
            };
            let longest = DiskBus::Nvme.longest_serial();
            let Some(other) = (2..).map(|n| numbered(serial, n, longest)).find(unused) else {
                continue;
            };
            self.settled.push(format!(
                "{} has the serial number {other} in the VM, and {first} keeps {serial}: of two NVMe disks with \
                 one number Linux uses the first only. Where the system names it by \
                 /dev/disk/by-id, change that",
                disk.described
            ));
            given.push((other.clone(), name));
            disk.serial = Some(other);
        }
    }

    /// Two disks with one world-wide name are so on the metal, else the inventory is wrong.
    fn note_shared_names(&mut self) {
        for (index, disk) in self.disks.iter().enumerate() {
            let Some(wwn) = &disk.wwn else {
                continue;
            };
            let mut before = self.disks.iter().take(index);
            if let Some(first) = before.find(|other| other.wwn.as_ref() == Some(wwn)) {
                self.settled.push(format!(
                    "{} has the world-wide name {wwn} of {}, as in the inventory: a system with multipath takes \
                     them for one disk. If they are two paths to one disk, the VM needs only one of them",
                    disk.described,
                    printable(&first.source_name)
                ));
            }
        }
    }
}

/// `NV1-2`, cut in front of the number where it has more than `longest` characters.
fn numbered(serial: &str, number: u32, longest: usize) -> String {
    let end = format!("-{number}");
    let room = longest.saturating_sub(end.len());
    let start: String = serial.chars().take(room).collect();
    format!("{}{end}", start.trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inventory::{Bus, DiskInfo, FirmwareKind, Machine};
    use crate::vm::{Profile, VmDisk};

    /// A plan for disks of these buses, sizes of sectors and serial numbers.
    fn plan(disks: &[(Bus, u32, &str)], firmware: FirmwareKind) -> VmPlan {
        let mut machine = Machine::from_json(br#"{"version": 2, "name": "m"}"#).unwrap();
        machine.memory.installed_bytes = Some(1 << 30);
        let cpu = &mut machine.cpu;
        (cpu.sockets, cpu.cores_per_socket, cpu.threads_per_core) = (1, 2, 1);
        let mut images = Vec::new();
        for (number, (bus, sector, serial)) in disks.iter().enumerate() {
            let info = DiskInfo {
                name: format!("disk{number}"),
                model: Some("MODEL".into()),
                serial: Some((*serial).into()),
                size_bytes: 1 << 20,
                logical_sector_bytes: Some(*sector),
                physical_sector_bytes: Some(4096),
                bus: *bus,
                ..DiskInfo::default()
            };
            images.push(VmDisk::of(&info));
            machine.disks.push(info);
        }
        VmPlan::with_firmware(&machine, &images, firmware)
    }

    fn serials(plan: &VmPlan) -> Vec<&str> {
        plan.disks
            .iter()
            .filter_map(|disk| disk.serial.as_deref())
            .collect()
    }

    #[test]
    fn a_disk_of_large_sectors_is_never_put_on_ata() {
        let plan = plan(
            &[(Bus::Sata, 512, "A"), (Bus::Sata, 4096, "B")],
            FirmwareKind::Bios,
        );
        for bus in [DiskBus::Sata, DiskBus::Ide] {
            let error = plan.clone().with_disk_bus(bus).unwrap_err();
            assert_eq!(error.kind(), crate::error::Kind::Refused);
            let said = error.to_string();
            assert!(
                said.contains("disk1 (MODEL, serial B) has sectors of 4096 bytes"),
                "{said}"
            );
        }
        let moved = plan.with_disk_bus(DiskBus::VirtioScsi).unwrap();
        assert_eq!(moved.disks[1].logical_block_bytes, 4096);
    }

    #[test]
    fn what_was_said_of_a_bus_is_not_said_of_another() {
        let sas = plan(&[(Bus::Sas, 512, "A")], FirmwareKind::Uefi);
        assert!(
            sas.all_notes().join("\n").contains("comes to SATA"),
            "{:?}",
            sas.all_notes()
        );
        let virtio = sas.clone().with_profile(Profile::Virtio, &[]);
        assert_eq!(virtio.all_notes(), [""; 0]);
        let asked = sas.with_disk_bus(DiskBus::Sata).unwrap();
        assert_eq!(asked.all_notes(), [""; 0]);
    }

    #[test]
    fn each_ide_disk_that_comes_to_sata_is_named() {
        let six = [(Bus::Ide, 512, "A"); 6];
        let bios = plan(&six, FirmwareKind::Bios);
        let why =
            "comes to SATA instead of IDE, because virtual machines have four IDE disks at most";
        assert_eq!(
            bios.all_notes(),
            [format!("disk4 {why}"), format!("disk5 {why}")]
        );
        // Asked for where there is none.
        let uefi = plan(&[(Bus::Sata, 512, "A")], FirmwareKind::Uefi);
        let uefi = uefi.with_disk_bus(DiskBus::Ide).unwrap();
        assert_eq!(uefi.disks[0].bus, DiskBus::Sata);
        assert_eq!(uefi.all_notes().len(), 1, "{:?}", uefi.all_notes());
    }

    #[test]
    fn serial_numbers_of_nvme_disks_are_made_different_and_only_of_those() {
        let long = "12345678901234567890";
        let disks = [
            (Bus::Nvme, 512, "NV1"),
            (Bus::Nvme, 512, "NV1"),
            (Bus::Nvme, 512, "NV1-2"),
            (Bus::Nvme, 512, "123456789012345678901"),
            (Bus::Nvme, 512, "123456789012345678902"),
        ];
        let nvme = plan(&disks, FirmwareKind::Bios);
        assert_eq!(
            serials(&nvme),
            ["NV1", "NV1-3", "NV1-2", long, "123456789012345678-2"]
        );
        let notes = nvme.all_notes();
        assert_eq!(notes.len(), 2, "{notes:?}");
        assert!(
            notes[0].starts_with(
                "disk1 (MODEL, serial NV1) has the serial number NV1-3 in the VM, and disk0 keeps NV1"
            ),
            "{notes:?}"
        );
        // What was changed for NVMe comes back for a controller that shows more.
        let scsi = nvme.with_disk_bus(DiskBus::VirtioScsi).unwrap();
        assert_eq!(serials(&scsi), disks.map(|(_, _, serial)| serial));
        assert_eq!(scsi.all_notes(), [""; 0]);
    }
}
