//! A machine as a VM. In: the inventory and the images of its disks. Out: [`VmPlan`], which knows
//! nothing of any hypervisor, and from it the files that one hypervisor each understands.
//!
//! The inventory comes from a stranger's firmware or from a file, so its strings are made harmless
//! once, here; each writer still quotes for its own format.

mod bus;
mod clock;
mod disk;
mod drivers;
mod fallback;
mod guest;
pub mod kubevirt;
mod label;
pub mod libvirt;
mod loaders;
mod nic;
pub mod nvram;
pub mod openstack;
pub mod ovf;
mod profile;
pub mod proxmox;
pub mod qemu;
mod settle;
mod shell;
mod size;
mod slots;
mod smbios;
mod system;
mod v2v;
pub mod varstore;
mod xml;

pub use bus::DiskBus;
pub use clock::Zone;
pub(crate) use clock::unknown_zone;
pub use disk::{PlannedDisk, VmDisk};
pub use fallback::without_variables;
pub(crate) use guest::lower_level;
pub(crate) use loaders::best as best_loader;
pub use nic::{NicModel, PlannedNic};
pub use profile::Profile;
pub use system::{Family, GuestSystem};
pub(crate) use v2v::xml_for_v2v;

use size::Processors;

use crate::inventory::{
    DiskBoot, DiskInfo, EfiVariable, FirmwareKind, Machine, RtcBasis, Smbios, slug,
};
use std::path::{Path, PathBuf};

/// What emulates the processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Hypervisor {
    /// The processor itself.
    #[default]
    Kvm,
    /// QEMU in software: slow, works everywhere.
    Tcg,
}

/// The chip set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MachineType {
    /// PCI Express and AHCI.
    Q35,
    /// i440FX: the one with IDE.
    Pc,
}

impl MachineType {
    /// QEMU's and libvirt's alias of it, which each version has.
    pub fn name(self) -> &'static str {
        match self {
            Self::Q35 => "q35",
            Self::Pc => "pc",
        }
    }
}

/// The firmware that the VM starts with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VmFirmware {
    /// SeaBIOS
    Bios,
    /// OVMF
    Uefi {
        /// Whether it enforces Secure Boot, with the machine's own keys.
        secure_boot: bool,
    },
}

/// The standard of a trusted platform module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TpmVersion {
    /// TPM 1.2, at its fixed address (TIS).
    V1_2,
    /// TPM 2.0, with a command buffer (CRB).
    V2_0,
}

/// A VM, before it is written for one hypervisor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmPlan {
    /// Letters, digits, `.`, `_`, `-`.
    pub name: String,
    /// What the VM is for people.
    pub description: String,
    /// The machine's own, lower case.
    pub uuid: Option<String>,
    /// Memory in KiB.
    pub memory_kib: u64,
    /// Processor packages.
    pub sockets: u32,
    /// Cores a package.
    pub cores: u32,
    /// Threads a core.
    pub threads: u32,
    /// What emulates the processor.
    pub hypervisor: Hypervisor,
    /// The chip set.
    pub machine: MachineType,
    /// The firmware.
    pub firmware: VmFirmware,
    /// Where the VM's UEFI variables are, if they are shipped.
    pub nvram: Option<PathBuf>,
    /// The variables that go there.
    pub variables: Vec<EfiVariable>,
    /// Disks in the order of booting.
    pub disks: Vec<PlannedDisk>,
    /// Network cards.
    pub nics: Vec<PlannedNic>,
    /// The machine's identity, shown to the guest because licences are bound to it.
    pub smbios: Smbios,
    /// What the hardware clock counts.
    pub rtc: RtcBasis,
    /// A new, empty module where the machine had one.
    pub tpm: Option<TpmVersion>,
    /// What starts in it, where that is known.
    pub system: Option<GuestSystem>,
    /// What differs from the machine and why, each a sentence, whatever hardware is chosen: see
    /// [`VmPlan::all_notes`].
    pub notes: Vec<String>,
    /// The same of what follows from the hardware that was chosen last.
    settled: Vec<String>,
    /// The machine's, of which the chip set may not take all.
    processors: Processors,
}

impl VmPlan {
    /// The VM that is most like `machine`, with these disks.
    pub fn new(machine: &Machine, disks: &[VmDisk]) -> Self {
        let infos: Vec<DiskInfo> = disks.iter().map(|disk| disk.info(machine).0).collect();
        let boots = || infos.iter().filter_map(|info| info.boot.as_ref());
        let (firmware, note) = machine.firmware_for(boots());
        let mut plan = Self::with_firmware(machine, disks, firmware).with_loaders(boots());
        plan.notes.extend(note.as_deref().map(printable));
        if firmware == FirmwareKind::Bios {
            plan = plan.with_boot_first(|disk| {
                let mut infos = infos.iter();
                let info = infos.find(|info| info.name == disk.source_name);
                info.and_then(|info| info.boot.as_ref())
                    .is_some_and(|boot| boot.by_bios)
            });
        }
        plan.on_reached_buses(machine)
    }

    /// Under UEFI: makes boot entries of the loaders on the disks where the inventory has none for them.
    #[must_use]
    pub fn with_loaders<'a>(mut self, disks: impl IntoIterator<Item = &'a DiskBoot>) -> Self {
        if self.firmware != VmFirmware::Bios {
            let added = loaders::add_missing(&mut self.variables, disks);
            if !added.is_empty() {
                let list = printable(&added.join(", "));
                self.notes.push(format!(
                    "no boot entry of the machine names its disks: the VM has one for {list}"
                ));
            }
        }
        self
    }

    /// The same with a firmware other than the one that the inventory was made under: a stick
    /// started through a CSM says nothing about the system on the disk.
    pub fn with_firmware(machine: &Machine, disks: &[VmDisk], firmware: FirmwareKind) -> Self {
        let mut notes = Vec::new();
        let chosen: Vec<PlannedDisk> = disks
            .iter()
            .enumerate()
            .map(|(index, disk)| {
                let (info, note) = disk.info(machine);
                notes.extend(note);
                let (bus, note) = bus::choose(&info, firmware);
                let place = index.saturating_add(1);
                let mut planned = PlannedDisk::new(&disk.file, &info, bus, place);
                planned.bus_note = note.map(|note| (bus, printable(&note)));
                planned
            })
            .collect();
        let tpm = machine
            .tpm
            .as_ref()
            .and_then(|tpm| match tpm.version.as_deref() {
                Some("2.0") => Some(TpmVersion::V2_0),
                Some("1.2") => Some(TpmVersion::V1_2),
                _ => None,
            });
        if machine.tpm.is_some() {
            let what = match tpm {
                Some(_) => "gets a new, empty one",
                None => "has none, because its version is not known",
            };
            notes.push(format!(
                "the machine has a TPM and the VM {what}: keys sealed with it (BitLocker, LUKS by \
                 clevis) need their recovery key"
            ));
        }
        let mut variables = match firmware {
            FirmwareKind::Bios => Vec::new(),
            FirmwareKind::Uefi => nvram::variables(&machine.firmware),
        };
        notes.extend(nvram::without_long_dbx(&mut variables));
        let secure_boot = nvram::enforces_secure_boot(&variables);
        if firmware == FirmwareKind::Uefi
            && machine.firmware.secure_boot == Some(true)
            && !secure_boot
        {
            notes.push(
                "the machine enforces Secure Boot and the VM does not: its keys were not \
                 recorded"
                    .into(),
            );
        }
        let memory_kib = size::memory_kib(machine, &mut notes);
        let processors = Processors::of(machine, &mut notes);
        let (nics, without) = nic::planned(&machine.nics);
        notes.extend(without);
        let (uuid, note) = smbios::uuid(&machine.smbios);
        notes.extend(note);
        let mut plan = Self {
            name: slug(&machine.name),
            description: description(machine),
            uuid,
            memory_kib,
            sockets: processors.sockets,
            cores: processors.cores,
            threads: processors.threads,
            hypervisor: Hypervisor::Kvm,
            machine: MachineType::Q35,
            firmware: match firmware {
                FirmwareKind::Bios => VmFirmware::Bios,
                FirmwareKind::Uefi => VmFirmware::Uefi { secure_boot },
            },
            nvram: None,
            variables,
            disks: chosen,
            nics,
            smbios: smbios::printable(&machine.smbios),
            rtc: machine.rtc.unwrap_or(RtcBasis::Utc),
            tpm,
            system: GuestSystem::of(machine.installed.as_deref()),
            notes,
            settled: Vec::new(),
            processors,
        };
        plan.settle_machine();
        plan
    }

    /// Gives the VM a random UUID instead of the machine's, which is not always the only one of its kind.
    #[must_use]
    pub fn with_new_uuid(mut self) -> Self {
        let uuid = uuid::Uuid::new_v4();
        self.uuid = Some(uuid.to_string());
        self.notes.push(format!(
            "the VM has the new UUID {uuid}: licences that are bound to the machine's may ask again"
        ));
        self
    }

    /// Gives the VM another name.
    ///
    /// # Errors
    /// When it has other characters than letters, digits, `.`, `_` and `-`.
    pub fn with_name(mut self, name: &str) -> crate::Result<Self> {
        if slug(name) != name {
            return Err(crate::Error::refused(format!("{name:?} cannot name a VM")).advise(
                "Use at most 63 letters, digits, '.', '_' and '-', a letter or digit first and last",
            ));
        }
        self.name = name.to_owned();
        Ok(self)
    }

    /// Puts the disks that `bootable` says yes to at the front of the order of booting. SeaBIOS tries
    /// one hard disk only, so under BIOS the order is not a matter of taste.
    #[must_use]
    pub fn with_boot_first(mut self, mut bootable: impl FnMut(&PlannedDisk) -> bool) -> Self {
        let mut order: Vec<(bool, usize)> = self
            .disks
            .iter()
            .enumerate()
            .map(|(index, disk)| (!bootable(disk), index))
            .collect();
        order.sort_unstable();
        for (place, (_, index)) in order.into_iter().enumerate() {
            if let Some(disk) = self.disks.get_mut(index) {
                disk.boot_index = place.saturating_add(1);
            }
        }
        self
    }

    /// Virtual processors in all.
    pub fn vcpus(&self) -> u32 {
        self.sockets
            .saturating_mul(self.cores)
            .saturating_mul(self.threads)
    }

    /// Whether it has processors that an interrupt reaches only through an IOMMU that remaps it: the number of a
    /// local APIC in an interrupt has 8 bits, and 255 stands for all of them (Intel 64 and IA-32 SDM, 11.12.10).
    fn needs_x2apic(&self) -> bool {
        self.vcpus() > 255
    }

    /// Memory in MiB, rounded up.
    pub fn memory_mib(&self) -> u64 {
        self.memory_kib.div_ceil(1024).max(1)
    }

    /// Numbers of the disks in the order of booting.
    fn boot_order(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.disks.len()).collect();
        order.sort_by_key(|index| self.disks.get(*index).map(|disk| disk.boot_index));
        order
    }

    /// The variable store to ship, if there is anything to put into it.
    ///
    /// # Errors
    /// When the variables do not fit.
    pub fn varstore(&self) -> crate::Result<Option<Vec<u8>>> {
        match self.firmware {
            VmFirmware::Uefi { .. } => varstore::build(&self.variables).map(Some),
            VmFirmware::Bios => Ok(None),
        }
    }
}

fn description(machine: &Machine) -> String {
    let smbios = &machine.smbios;
    let words: Vec<&str> = [&smbios.manufacturer, &smbios.product]
        .into_iter()
        .filter_map(Option::as_deref)
        .collect();
    let mut text = match words.as_slice() {
        [] => "A physical machine".to_owned(),
        words => words.join(" "),
    };
    if let Some(serial) = &smbios.serial {
        text += &format!(", serial {serial}");
    }
    if let Some(time) = &machine.taken_at {
        text += &format!(", carried here by haulier from its state of {time}");
    }
    printable(&text)
}

/// Printable ASCII, which XML 1.0, a shell script's comment and a terminal all take. Firmware
/// strings have nothing else (SMBIOS 3.7, 6.1.3 allows UTF-8, vendors do not use it).
pub(crate) fn printable(text: &str) -> String {
    let shown = |c| if matches!(c, ' '..='~') { c } else { '?' };
    text.chars()
        .map(shown)
        .collect::<String>()
        .trim()
        .to_owned()
}

/// The file's name where the definition lies beside it.
fn file_name(path: &Path) -> String {
    path.file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default()
}
