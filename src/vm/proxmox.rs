//! [`VmPlan`] as a script that makes the machine on a Proxmox VE host with `qm create`, which copies
//! the disks into a storage (`import-from`, since Proxmox VE 7.2).
//!
//! The option names and values are those of the packages' own schema (qemu-server 9.2:
//! `PVE::QemuServer`, `::Drive`, `::Network`, `::Machine`).

use super::clock::zone_of_host;
use super::label::dns_label;
use super::shell::{filled, quoted};
use super::{DiskBus, PlannedDisk, TpmVersion, VmFirmware, VmPlan, file_name};
use crate::inventory::RtcBasis;
use base64ct::{Base64, Encoding as _};

/// `maxLength` of `smbios1`.
const MOST_SMBIOS: usize = 512;
/// The least memory that it takes, in MiB.
const LEAST_MEMORY: u64 = 16;
/// `$MAX_NETS`
const MOST_NICS: usize = 32;

/// What is written for Proxmox VE.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    /// `create.sh`
    pub create: String,
    /// What Proxmox VE cannot express, each a sentence.
    pub notes: Vec<String>,
}

/// A bus of Proxmox VE: its name and how many disks it takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Slot {
    Ide,
    Sata,
    Scsi,
    Virtio,
}

impl Slot {
    fn name(self) -> &'static str {
        match self {
            Self::Ide => "ide",
            Self::Sata => "sata",
            Self::Scsi => "scsi",
            Self::Virtio => "virtio",
        }
    }

    fn most(self) -> usize {
        match self {
            Self::Ide => 4,
            Self::Sata => 6,
            Self::Scsi => 31,
            Self::Virtio => 16,
        }
    }
}

/// The slot for a disk, and why it is not of the plan's kind.
fn slot(bus: DiskBus) -> (Slot, Option<&'static str>) {
    match bus {
        DiskBus::Ide => (Slot::Ide, None),
        DiskBus::Sata => (Slot::Sata, None),
        DiskBus::Nvme => (Slot::Sata, Some("Proxmox VE has no emulated NVMe disks")),
        DiskBus::MptSas => (
            Slot::Sata,
            Some("Proxmox VE has no LSI SAS 1068 controller"),
        ),
        DiskBus::Usb => (Slot::Sata, Some("Proxmox VE has no emulated USB disks")),
        DiskBus::MegaSas | DiskBus::VirtioScsi => (Slot::Scsi, None),
        DiskBus::VirtioBlk => (Slot::Virtio, None),
    }
}

/// The files for a plan whose disks (and variables, if [`VmPlan::nvram`] names them) lie beside them.
pub fn files(plan: &VmPlan) -> Files {
    let mut notes = Vec::new();
    let mut script = filled(HEAD, &[("DESCRIPTION", &plan.description)]);
    for (option, value) in options(plan, &mut notes) {
        script += &format!("  --{option} {value} \\\n");
    }
    script += "\necho \"To run it: qm start $id\"\n";
    // The last option ends the command.
    let create = script.replace(" \\\n\necho", "\n\necho");
    Files { create, notes }
}

/// Options of `qm create` with their values, quoted for the shell.
fn options(plan: &VmPlan, notes: &mut Vec<String>) -> Vec<(String, String)> {
    let mut options: Vec<(String, String)> = Vec::new();
    let mut add = |option: &str, value: String| options.push((option.to_owned(), value));
    add("name", quoted(&dns_label(&plan.name, 63)));
    add("description", quoted(&plan.description));
    add("machine", plan.machine.name().into());
    if let Some(system) = &plan.system {
        add("ostype", system.proxmox().into());
    }
    add("cpu", "\"$cpu\"".into());
    add("sockets", plan.sockets.to_string());
    // It has no word for threads; they are cores to the guest.
    add("cores", plan.cores.saturating_mul(plan.threads).to_string());
    if plan.threads > 1 {
        notes.push(format!(
            "the {} threads of each core are cores of their own, because Proxmox VE has none",
            plan.threads
        ));
    }
    add("memory", plan.memory_mib().max(LEAST_MEMORY).to_string());
    let localtime = plan.rtc == RtcBasis::Localtime;
    add("localtime", u8::from(localtime).to_string());
    notes.extend(zone_of_host(plan));
    if let Some(smbios) = smbios(plan, notes) {
        add("smbios1", quoted(&smbios));
    }
    firmware(plan, &mut add, notes);
    if let Some(version) = plan.tpm {
        let version = match version {
            TpmVersion::V1_2 => "v1.2",
            TpmVersion::V2_0 => "v2.0",
        };
        // Of any size, which is ignored.
        add("tpmstate0", format!("\"$storage:1,version={version}\""));
    }
    disks(plan, &mut add, notes);
    for (index, nic) in plan.nics.iter().take(MOST_NICS).enumerate() {
        add(
            &format!("net{index}"),
            format!(
                "{},bridge=\"$bridge\"",
                quoted(&format!("{}={}", nic.model.name(), nic.mac))
            ),
        );
    }
    if plan.nics.len() > MOST_NICS {
        notes.push(format!(
            "only the first {MOST_NICS} network cards come along, because Proxmox VE takes no more"
        ));
    }
    add("serial0", "socket".into());
    add("rng0", "source=/dev/urandom".into());
    options
}

fn firmware(plan: &VmPlan, add: &mut impl FnMut(&str, String), notes: &mut Vec<String>) {
    let VmFirmware::Uefi { secure_boot } = plan.firmware else {
        add("bios", "seabios".into());
        return;
    };
    add("bios", "ovmf".into());
    let mut disk = format!(
        "\"$storage:0,efitype=4m,pre-enrolled-keys={}",
        u8::from(secure_boot)
    );
    match &plan.nvram {
        Some(vars) => {
            // Into double quotes: the name is one of ours.
            disk += &format!(",import-from=$here/{}", file_name(vars));
        }
        None if secure_boot => notes.push(
            "Secure Boot is enforced with Proxmox VE's keys, not with the machine's own".into(),
        ),
        None => {}
    }
    disk.push('"');
    add("efidisk0", disk);
}

/// A disk's place, if there is one, and why it is not of the plan's kind.
struct Place {
    slot: Option<(Slot, usize)>,
    why: Option<&'static str>,
}

/// Where each disk goes.
fn places(plan: &VmPlan) -> Vec<Place> {
    let mut places: Vec<Place> = Vec::new();
    for disk in &plan.disks {
        let used = |slot: Slot| {
            let slots = places.iter().filter_map(|place| place.slot);
            slots.filter(|(other, _)| *other == slot).count()
        };
        let (mut slot, mut why) = slot(disk.bus);
        if used(slot) >= slot.most() {
            why = Some("Proxmox VE has no more places of that kind");
            slot = Slot::Scsi;
        }
        let number = used(slot);
        let slot = (number < slot.most()).then_some((slot, number));
        places.push(Place { slot, why });
    }
    places
}

/// The bus that each disk gets.
pub fn buses(plan: &VmPlan) -> Vec<DiskBus> {
    let mega = scsi_controller(plan) == "megasas";
    let disks = plan.disks.iter().zip(places(plan));
    disks
        .map(|(disk, place)| match place.slot {
            Some((Slot::Ide, _)) => DiskBus::Ide,
            Some((Slot::Sata, _)) => DiskBus::Sata,
            Some((Slot::Virtio, _)) => DiskBus::VirtioBlk,
            Some((Slot::Scsi, _)) if mega => DiskBus::MegaSas,
            Some((Slot::Scsi, _)) => DiskBus::VirtioScsi,
            None => disk.bus,
        })
        .collect()
}

fn disks(plan: &VmPlan, add: &mut impl FnMut(&str, String), notes: &mut Vec<String>) {
    let places = places(plan);
    for (disk, place) in plan.disks.iter().zip(&places) {
        let file = file_name(&disk.file);
        let Some((slot, number)) = place.slot else {
            notes.push(format!(
                "{file} has no place: attach it by hand (qm disk import)"
            ));
            continue;
        };
        if let Some(why) = place.why {
            notes.push(format!(
                "{file} comes to {}, because {why}",
                slot.name().to_uppercase()
            ));
        }
        if disk.logical_block_bytes != 512 {
            notes.push(format!(
                "{file} has sectors of {} bytes and Proxmox VE shows 512: the system finds no \
                 partition on it",
                disk.logical_block_bytes
            ));
        }
        add(&format!("{}{number}", slot.name()), drive(disk, slot));
    }
    let slots = || places.iter().filter_map(|place| place.slot);
    if slots().any(|(slot, _)| slot == Slot::Scsi) {
        let model = scsi_controller(plan);
        let asked = plan.disks.iter().any(|disk| disk.bus == DiskBus::MegaSas);
        if asked && model != "megasas" {
            notes.push(
                "disks on several kinds of SCSI controller come to VirtIO SCSI, because Proxmox VE \
                 has one kind for all"
                    .into(),
            );
        }
        add("scsihw", model.into());
    }
    let order: Vec<String> = plan
        .boot_order()
        .into_iter()
        .filter_map(|index| places.get(index)?.slot)
        .map(|(slot, number)| format!("{}{number}", slot.name()))
        .collect();
    if !order.is_empty() {
        add("boot", quoted(&format!("order={}", order.join(";"))));
    }
}

/// The one kind of controller for all SCSI disks.
fn scsi_controller(plan: &VmPlan) -> &'static str {
    let mut scsi = plan
        .disks
        .iter()
        .map(|disk| disk.bus)
        .filter(|bus| slot(*bus).0 == Slot::Scsi)
        .peekable();
    // What has found no place on its own bus comes along.
    if scsi.peek().is_some() && scsi.all(|bus| bus == DiskBus::MegaSas) {
        "megasas"
    } else {
        "virtio-scsi-pci"
    }
}

/// A drive's property string.
fn drive(disk: &PlannedDisk, slot: Slot) -> String {
    let mut tail = format!("/{},discard=on", file_name(&disk.file));
    if let Some(serial) = &disk.serial {
        let serial: String = serial.chars().take(20).collect();
        tail += &format!(",serial={}", url_encoded(serial.trim()));
    }
    if let (Slot::Ide, Some(model)) = (slot, &disk.model) {
        let model: String = model.chars().take(40).collect();
        tail += &format!(",model={}", url_encoded(model.trim()));
    }
    if let (Slot::Ide | Slot::Sata | Slot::Scsi, Some(wwn)) = (slot, &disk.wwn) {
        tail += &format!(",wwn=0x{wwn}");
    }
    format!("\"$storage:0,import-from=$here\"{}", quoted(&tail))
}

/// Everything but letters, digits, `-`, `.` and `_` as `%xx` (Proxmox' format `urlencoded`).
fn url_encoded(text: &str) -> String {
    text.bytes()
        .map(|b| match b {
            b'-' | b'.' | b'_' => char::from(b).to_string(),
            b if b.is_ascii_alphanumeric() => char::from(b).to_string(),
            b => format!("%{b:02X}"),
        })
        .collect()
}

/// SMBIOS type 1, as much of it as there is room for: what licences are bound to first.
fn smbios(plan: &VmPlan, notes: &mut Vec<String>) -> Option<String> {
    let smbios = &plan.smbios;
    let mut text = String::from("base64=1");
    if let Some(uuid) = &plan.uuid {
        text += &format!(",uuid={uuid}");
    }
    let empty = text.len();
    for (name, value) in [
        ("serial", &smbios.serial),
        ("manufacturer", &smbios.manufacturer),
        ("product", &smbios.product),
        ("version", &smbios.version),
        ("sku", &smbios.sku),
        ("family", &smbios.family),
    ] {
        let Some(value) = value else {
            continue;
        };
        let field = format!(",{name}={}", Base64::encode_string(value.as_bytes()));
        if text.len().saturating_add(field.len()) > MOST_SMBIOS {
            notes.push(format!(
                "the machine's {name} is left out, because Proxmox VE has no room for it"
            ));
            continue;
        }
        text += &field;
    }
    (plan.uuid.is_some() || text.len() > empty).then_some(text)
}

const HEAD: &str = r#"#!/bin/sh
# @DESCRIPTION@
#
# Makes this machine on a Proxmox VE host (7.2 or later), where it has to run as root.
# Written by haulier; the folder may be moved.
#   create.sh [ID [STORAGE [BRIDGE]]]
# or by variables:
#   ID        number of the VM (the next free one)
#   STORAGE   where its disks go (local-lvm)
#   BRIDGE    for its network cards (vmbr0)
#   CPU       type of its processors (host)
set -eu
CDPATH='' cd -- "$(dirname -- "$0")"
here=$PWD
case $here in
  *,*)
    echo "$0: a comma in $here would end a property of Proxmox VE: move this folder" >&2
    exit 1
    ;;
esac
if ! command -v qm >/dev/null 2>&1; then
  echo "$0: there is no qm here: run this on a Proxmox VE host, as root" >&2
  exit 1
fi
id=${1:-${ID:-}}
storage=${2:-${STORAGE:-local-lvm}}
bridge=${3:-${BRIDGE:-vmbr0}}
cpu=${CPU:-host}
if [ -z "$id" ]; then
  id=$(pvesh get /cluster/nextid)
fi
qm create "$id" \
"#;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_proxmox_would_take_for_its_own_is_encoded() {
        assert_eq!(url_encoded("S45NNA0M 1+2,x"), "S45NNA0M%201%2B2%2Cx");
    }
}
