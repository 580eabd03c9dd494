//! A machine as a VM. In: the inventory and the images of its disks. Out: [`VmPlan`], which knows
//! nothing of any hypervisor, and from it the files that one hypervisor each understands.
//!
//! The inventory comes from a stranger's firmware or from a file, so its strings are made harmless
//! once, here; each writer still quotes for its own format.

mod bus;
mod clock;
mod drivers;
mod fallback;
mod guest;
pub mod kubevirt;
mod label;
pub mod libvirt;
mod loaders;
pub mod nvram;
pub mod openstack;
pub mod ovf;
mod profile;
pub mod proxmox;
pub mod qemu;
mod shell;
mod smbios;
mod system;
mod v2v;
pub mod varstore;
mod xml;

pub use bus::DiskBus;
pub use clock::Zone;
pub(crate) use clock::unknown_zone;
pub use fallback::without_variables;
pub(crate) use guest::lower_level;
pub(crate) use loaders::best as best_loader;
pub use profile::Profile;
pub use system::{Family, GuestSystem};
pub(crate) use v2v::xml_for_v2v;

use crate::device::DiskIdentity;
use crate::inventory::{
    DiskBoot, DiskInfo, EfiVariable, FirmwareKind, Machine, NicInfo, RtcBasis, Smbios, slug,
};
use std::path::{Path, PathBuf};

/// Memory for a machine whose own amount is unknown, in KiB.
const UNKNOWN_MEMORY_KIB: u64 = 2 * 1024 * 1024;

/// An image and the disk that it was taken from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmDisk {
    /// Where the image is, as the VM's definition shall name it.
    pub file: PathBuf,
    /// The disk, as it was opened.
    pub source: DiskIdentity,
}

impl VmDisk {
    /// What the inventory says of the disk: found by serial number and size, or by the path where
    /// there is no serial number. What is no disk of the machine (an image file) counts as a SATA
    /// disk.
    fn info(&self, machine: &Machine) -> DiskInfo {
        let source = &self.source;
        let same = |disk: &&DiskInfo| {
            disk.size_bytes == source.size_bytes
                && disk.serial == source.serial
                && (source.serial.is_some() || disk.device() == source.path)
        };
        let found = machine.disks.iter().find(same).cloned();
        let unknown = || DiskInfo {
            name: source.path.file_name().map_or_else(
                || source.path.display().to_string(),
                |name| name.to_string_lossy().into_owned(),
            ),
            model: source.model.clone(),
            serial: source.serial.clone(),
            wwn: source.wwn.clone(),
            size_bytes: source.size_bytes,
            ..DiskInfo::default()
        };
        DiskInfo {
            // The capture knows the sectors that it was made with.
            logical_sector_bytes: Some(source.logical_sector_bytes.into()),
            physical_sector_bytes: Some(source.physical_sector_bytes.into()),
            ..found.unwrap_or_else(unknown)
        }
    }
}

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

/// A disk of the VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedDisk {
    /// The qcow2 image.
    pub file: PathBuf,
    /// What the inventory calls the disk.
    pub source_name: String,
    /// What the guest sees.
    pub size_bytes: u64,
    /// The controller.
    pub bus: DiskBus,
    /// Letters, digits and `_.+- ` only, as long as the controller takes.
    pub serial: Option<String>,
    /// Vendor and model, for disks that can show one.
    pub model: Option<String>,
    /// World-wide name in 16 hexadecimal digits, where it is of that kind; always on [`DiskBus::MptSas`].
    pub wwn: Option<String>,
    /// Logical sector in bytes.
    pub logical_block_bytes: u32,
    /// Physical sector in bytes.
    pub physical_block_bytes: u32,
    /// Place in the order of booting, from 1.
    pub boot_index: usize,
}

/// A network card of the VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedNic {
    /// Six pairs of hexadecimal digits with colons, lower case; unicast.
    pub mac: String,
    /// QEMU's and libvirt's name of the model.
    pub model: NicModel,
}

/// An emulated network card.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NicModel {
    /// Intel 82574L, for all systems of the last fifteen years.
    E1000e,
    /// Intel 82540EM, for PCI machines.
    E1000,
    /// virtio-net
    Virtio,
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
    /// What differs from the machine and why, each a sentence.
    pub notes: Vec<String>,
}

impl VmPlan {
    /// The VM that is most like `machine`, with these disks.
    pub fn new(machine: &Machine, disks: &[VmDisk]) -> Self {
        let infos: Vec<DiskInfo> = disks.iter().map(|disk| disk.info(machine)).collect();
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
                let info = disk.info(machine);
                let (bus, note) = bus::choose(&info, firmware);
                notes.extend(note.as_deref().map(printable));
                planned_disk(&disk.file, &info, bus, index.saturating_add(1))
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
        notes.extend(guest::offline_disks(machine, disks.len()));
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
        let memory_kib = match machine.memory.bytes() {
            Some(bytes) => (bytes / 1024).max(1),
            None => {
                notes.push("the machine's memory is unknown: the VM has 2 GiB".into());
                UNKNOWN_MEMORY_KIB
            }
        };
        let mut plan = Self {
            name: slug(&machine.name),
            description: description(machine),
            uuid: machine
                .smbios
                .uuid
                .as_deref()
                .and_then(|text| uuid::Uuid::parse_str(text).ok())
                .map(|uuid| uuid.to_string()),
            memory_kib,
            sockets: machine.cpu.sockets.max(1),
            cores: machine.cpu.cores_per_socket.max(1),
            threads: machine.cpu.threads_per_core.max(1),
            hypervisor: Hypervisor::Kvm,
            machine: MachineType::Q35,
            firmware: match firmware {
                FirmwareKind::Bios => VmFirmware::Bios,
                FirmwareKind::Uefi => VmFirmware::Uefi { secure_boot },
            },
            nvram: None,
            variables,
            disks: chosen,
            nics: machine.nics.iter().filter_map(planned_nic).collect(),
            smbios: smbios::printable(&machine.smbios),
            rtc: machine.rtc.unwrap_or(RtcBasis::Utc),
            tpm,
            system: GuestSystem::of(machine.installed.as_deref()),
            notes,
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

    /// Puts all disks on one kind of controller: for a system that has no driver for the chosen one.
    #[must_use]
    pub fn with_disk_bus(mut self, bus: DiskBus) -> Self {
        for disk in &mut self.disks {
            disk.bus = bus;
            shorten(&mut disk.serial, bus.longest_serial());
        }
        self.settle_machine();
        self
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

    /// The chip set follows from the disks, and the network cards from the chip set.
    fn settle_machine(&mut self) {
        let bios = self.firmware == VmFirmware::Bios;
        let mut ide = 0_usize;
        for disk in &mut self.disks {
            if disk.bus == DiskBus::MptSas {
                // Linux 6.12 finds no disk without a SAS address on QEMU 10.0's adapter. This one is
                // of the kind that is locally assigned (NAA 3h).
                let place = disk.boot_index;
                disk.wwn.get_or_insert_with(|| format!("3{place:015x}"));
            }
            if disk.bus == DiskBus::Ide {
                ide = ide.saturating_add(1);
                // Two channels of two disks, and none under UEFI.
                if ide > 4 || !bios {
                    disk.bus = DiskBus::Sata;
                }
            }
        }
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
    }

    /// Virtual processors in all.
    pub fn vcpus(&self) -> u32 {
        self.sockets
            .saturating_mul(self.cores)
            .saturating_mul(self.threads)
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

impl NicModel {
    /// libvirt's name of it.
    fn name(self) -> &'static str {
        match self {
            Self::E1000e => "e1000e",
            Self::E1000 => "e1000",
            Self::Virtio => "virtio",
        }
    }

    /// QEMU's name of it.
    fn qemu(self) -> &'static str {
        match self {
            Self::Virtio => "virtio-net-pci",
            other => other.name(),
        }
    }
}

fn planned_disk(file: &Path, info: &DiskInfo, bus: DiskBus, boot_index: usize) -> PlannedDisk {
    let logical = sector(info.logical_sector_bytes).unwrap_or(512);
    let mut serial = info.serial.as_deref().map(serial_charset);
    shorten(&mut serial, bus.longest_serial());
    PlannedDisk {
        file: file.to_owned(),
        source_name: info.name.clone(),
        size_bytes: info.size_bytes,
        bus,
        serial,
        model: info
            .model
            .as_deref()
            .map(printable)
            .filter(|model| !model.is_empty()),
        wwn: info.wwn.as_deref().and_then(naa),
        logical_block_bytes: logical,
        physical_block_bytes: sector(info.physical_sector_bytes)
            .unwrap_or(logical)
            .max(logical),
        boot_index,
    }
}

/// QEMU takes powers of two up to 2 MiB; real disks have 512 or 4096, some arrays more.
fn sector(bytes: Option<u32>) -> Option<u32> {
    bytes.filter(|bytes| bytes.is_power_of_two() && (512..=65_536).contains(bytes))
}

/// What libvirt's schema allows in a serial number.
fn serial_charset(serial: &str) -> String {
    serial
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '+' | '-' | ' ') {
                c
            } else {
                '_'
            }
        })
        .collect()
}

/// Cuts a serial number to what the controller can show; an empty one is none.
fn shorten(serial: &mut Option<String>, longest: usize) {
    *serial = serial
        .take()
        .map(|text| text.chars().take(longest).collect::<String>())
        .map(|text| text.trim().to_owned())
        .filter(|text| !text.is_empty());
}

/// `naa.5002538e40a0b1c2`: the form that SCSI and ATA disks can show.
fn naa(wwn: &str) -> Option<String> {
    let digits = wwn.strip_prefix("naa.")?;
    (digits.len() == 16 && digits.bytes().all(|b| b.is_ascii_hexdigit()))
        .then(|| digits.to_ascii_lowercase())
}

fn planned_nic(nic: &NicInfo) -> Option<PlannedNic> {
    let mac = nic.mac.as_deref()?.to_ascii_lowercase();
    let bytes: Vec<u8> = mac
        .split(':')
        .map(|pair| {
            let hex = pair.len() == 2 && pair.bytes().all(|b| b.is_ascii_hexdigit());
            hex.then(|| u8::from_str_radix(pair, 16).ok())?
        })
        .collect::<Option<_>>()?;
    // Bit 0 of the first byte marks group addresses, which no card has.
    let [first, _, _, _, _, _] = *bytes else {
        return None;
    };
    let model = match nic.driver.as_deref() {
        Some("virtio_net") => NicModel::Virtio,
        _ => NicModel::E1000e,
    };
    (first & 1 == 0).then_some(PlannedNic { mac, model })
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
