//! [`VmPlan`] as an OVF descriptor (DSP0243 1.1) for VMware, VirtualBox and everything that reads what
//! they write. What OVF has no word for (firmware, Secure Boot, the UUID) stands in VMware's own
//! elements, which are marked as not required.
//!
//! Elements of an `Item` are in the order of the alphabet, as CIM's schema wants them.

use super::xml::Xml;
use super::{DiskBus, GuestSystem, NicModel, VmFirmware, VmPlan, file_name};
use crate::inventory::RtcBasis;
use uuid::Uuid;

const ENVELOPE: &str = "http://schemas.dmtf.org/ovf/envelope/1";
const RASD: &str =
    "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData";
const VSSD: &str = "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_VirtualSystemSettingData";
const VMWARE: &str = "http://www.vmware.com/schema/ovf";
const STREAM_OPTIMIZED: &str =
    "http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized";
/// VMware's hardware version of ESXi 6.7: the first with Secure Boot, NVMe and a virtual TPM.
const HARDWARE: &str = "vmx-14";
/// Processors of a machine of [`HARDWARE`] (VMware's "Hardware Features Available with Virtual Machine Compatibility
/// Settings", vSphere 6.7, column "ESXi 6.7 and later").
const MOST_PROCESSORS: u32 = 128;
/// Its memory in MiB: 6128 GiB.
const MOST_MEMORY: u64 = 6128 * 1024;
/// Its network cards.
const MOST_NICS: usize = 10;
/// The name of the one network.
const NETWORK: &str = "VM Network";

/// What is written for OVF.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    /// The descriptor.
    pub descriptor: String,
    /// What OVF cannot express, each a sentence.
    pub notes: Vec<String>,
}

/// A kind of controller in the descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Controller {
    Ide,
    Scsi,
    Sata,
    Nvme,
}

impl Controller {
    /// `ResourceType` (CIM 2.22), `ResourceSubType`, its name for people.
    fn resource(self) -> (&'static str, Option<&'static str>, &'static str) {
        match self {
            Self::Ide => ("5", None, "IDE"),
            Self::Scsi => ("6", Some("lsilogicsas"), "SCSI"),
            Self::Sata => ("20", Some("vmware.sata.ahci"), "SATA"),
            Self::Nvme => ("20", Some("vmware.nvme.controller"), "NVMe"),
        }
    }

    /// Disks of one controller.
    fn places(self) -> usize {
        match self {
            Self::Ide => 2,
            Self::Scsi | Self::Nvme => 15,
            Self::Sata => 30,
        }
    }

    /// Controllers of a machine of [`HARDWARE`].
    fn most(self) -> usize {
        match self {
            Self::Ide => 2,
            Self::Scsi | Self::Nvme | Self::Sata => 4,
        }
    }
}

/// The controller for a disk, and why it is not of the plan's kind.
fn controller(bus: DiskBus) -> (Controller, Option<&'static str>) {
    match bus {
        DiskBus::Ide => (Controller::Ide, None),
        DiskBus::Sata => (Controller::Sata, None),
        DiskBus::Nvme => (Controller::Nvme, None),
        // VMware's LSI Logic SAS is this one.
        DiskBus::MptSas => (Controller::Scsi, None),
        DiskBus::MegaSas => (
            Controller::Scsi,
            Some("it is the only SAS controller of VMware"),
        ),
        DiskBus::VirtioScsi | DiskBus::VirtioBlk => {
            (Controller::Sata, Some("VMware has no virtio disks"))
        }
        DiskBus::Usb => (Controller::Sata, Some("VMware has no emulated USB disks")),
    }
}

/// The bus that each disk gets.
pub fn buses(plan: &VmPlan) -> Vec<DiskBus> {
    let there = |bus| match controller(bus).0 {
        Controller::Ide => DiskBus::Ide,
        Controller::Scsi => DiskBus::MptSas,
        Controller::Sata => DiskBus::Sata,
        Controller::Nvme => DiskBus::Nvme,
    };
    plan.disks.iter().map(|disk| there(disk.bus)).collect()
}

/// The descriptor of a plan whose disks are streamOptimized VMDKs; `sizes` are those of their files, in
/// bytes.
pub fn files(plan: &VmPlan, sizes: &[u64]) -> Files {
    let mut xml = Xml::new();
    xml.open(
        "ovf:Envelope",
        &[
            ("xmlns:ovf", ENVELOPE),
            ("xmlns:rasd", RASD),
            ("xmlns:vssd", VSSD),
            ("xmlns:vmw", VMWARE),
        ],
    );
    xml.open("ovf:References", &[]);
    for ((index, disk), size) in plan.disks.iter().enumerate().zip(sizes) {
        xml.empty(
            "ovf:File",
            &[
                ("ovf:id", &format!("file{index}")),
                ("ovf:href", &file_name(&disk.file)),
                ("ovf:size", &size.to_string()),
            ],
        );
    }
    xml.close();
    xml.open("ovf:DiskSection", &[]);
    xml.text("ovf:Info", &[], "The disks");
    for (index, disk) in plan.disks.iter().enumerate() {
        xml.empty(
            "ovf:Disk",
            &[
                ("ovf:diskId", &format!("vmdisk{index}")),
                ("ovf:fileRef", &format!("file{index}")),
                ("ovf:capacity", &disk.size_bytes.to_string()),
                ("ovf:format", STREAM_OPTIMIZED),
            ],
        );
    }
    xml.close();
    if !plan.nics.is_empty() {
        xml.open("ovf:NetworkSection", &[]);
        xml.text("ovf:Info", &[], "The networks");
        xml.open("ovf:Network", &[("ovf:name", NETWORK)]);
        xml.text("ovf:Description", &[], "The network of all cards");
        xml.close();
        xml.close();
    }
    xml.open("ovf:VirtualSystem", &[("ovf:id", &plan.name)]);
    xml.text("ovf:Info", &[], &plan.description);
    xml.text("ovf:Name", &[], &plan.name);
    // CIM_OperatingSystem.OSType 102: other, 64 bits.
    let system = plan.system.as_ref().map(GuestSystem::ovf);
    let (id, name) = system.unwrap_or(("102", "otherGuest64"));
    xml.open(
        "ovf:OperatingSystemSection",
        &[("ovf:id", id), ("vmw:osType", name)],
    );
    xml.text("ovf:Info", &[], "The operating system");
    xml.close();
    hardware(&mut xml, plan);
    xml.close();
    xml.close();
    Files {
        descriptor: format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n{}",
            xml.finish()
        ),
        notes: notes(plan),
    }
}

fn hardware(xml: &mut Xml, plan: &VmPlan) {
    xml.open("ovf:VirtualHardwareSection", &[]);
    xml.text("ovf:Info", &[], "The hardware");
    xml.open("ovf:System", &[]);
    xml.text("vssd:ElementName", &[], "Virtual Hardware Family");
    xml.text("vssd:InstanceID", &[], "0");
    xml.text("vssd:VirtualSystemIdentifier", &[], &plan.name);
    xml.text("vssd:VirtualSystemType", &[], HARDWARE);
    xml.close();
    let mut items = Items { xml, last: 0 };
    let vcpus = plan.vcpus();
    let id = items.open();
    items.field("AllocationUnits", "hertz * 10^6");
    items.field("ElementName", &format!("{vcpus} virtual CPUs"));
    items.field("InstanceID", &id);
    items.field("ResourceType", "3");
    items.field("VirtualQuantity", &vcpus.to_string());
    let cores = plan.cores.saturating_mul(plan.threads).to_string();
    items
        .xml
        .text("vmw:CoresPerSocket", &[("ovf:required", "false")], &cores);
    items.xml.close();
    let id = items.open();
    let memory = plan.memory_mib().to_string();
    items.field("AllocationUnits", "byte * 2^20");
    items.field("ElementName", &format!("{memory} MiB of memory"));
    items.field("InstanceID", &id);
    items.field("ResourceType", "4");
    items.field("VirtualQuantity", &memory);
    items.xml.close();
    disks(&mut items, plan);
    for (index, nic) in plan.nics.iter().enumerate() {
        let id = items.open();
        items.field("Address", &nic.mac);
        items.field("AddressOnParent", &index.saturating_add(7).to_string());
        items.field("AutomaticAllocation", "true");
        items.field("Connection", NETWORK);
        items.field("ElementName", &format!("Network card {index}"));
        items.field("InstanceID", &id);
        items.field("ResourceSubType", nic_model(nic.model).0);
        items.field("ResourceType", "10");
        items.xml.close();
    }
    let config = |xml: &mut Xml, element: &str, key: &str, value: &str| {
        let attributes = [
            ("ovf:required", "false"),
            ("vmw:key", key),
            ("vmw:value", value),
        ];
        xml.empty(element, &attributes);
    };
    match plan.firmware {
        VmFirmware::Bios => config(xml, "vmw:Config", "firmware", "bios"),
        VmFirmware::Uefi { secure_boot } => {
            config(xml, "vmw:Config", "firmware", "efi");
            let secure = if secure_boot { "true" } else { "false" };
            config(
                xml,
                "vmw:Config",
                "bootOptions.efiSecureBootEnabled",
                secure,
            );
        }
    }
    if let Some(uuid) = plan
        .uuid
        .as_deref()
        .and_then(|text| Uuid::parse_str(text).ok())
    {
        config(xml, "vmw:ExtraConfig", "uuid.bios", &uuid_bios(uuid));
    }
    xml.close();
}

/// Controllers, each before its disks.
fn disks(items: &mut Items<'_>, plan: &VmPlan) {
    // Kind, its number, the controller's instance, disks on it.
    let mut controllers: Vec<(Controller, usize, String, usize)> = Vec::new();
    for index in plan.boot_order() {
        let Some(disk) = plan.disks.get(index) else {
            continue;
        };
        let (kind, _) = controller(disk.bus);
        let number = controllers.iter().filter(|(k, ..)| *k == kind).count();
        let free = controllers
            .iter()
            .position(|(k, _, _, used)| *k == kind && *used < kind.places());
        let at = match free {
            Some(at) => at,
            None => {
                let (resource, subtype, name) = kind.resource();
                let id = items.open();
                items.field("Address", &number.to_string());
                items.field("ElementName", &format!("{name} controller {number}"));
                items.field("InstanceID", &id);
                if let Some(subtype) = subtype {
                    items.field("ResourceSubType", subtype);
                }
                items.field("ResourceType", resource);
                items.xml.close();
                controllers.push((kind, number, id, 0));
                controllers.len().saturating_sub(1)
            }
        };
        let Some((kind, _, parent, used)) = controllers.get_mut(at) else {
            continue;
        };
        // The controller itself has address 7 of a SCSI bus.
        let place = match (*kind, *used) {
            (Controller::Scsi, used) if used >= 7 => used.saturating_add(1),
            (_, used) => used,
        };
        *used = used.saturating_add(1);
        let parent = parent.clone();
        let id = items.open();
        items.field("AddressOnParent", &place.to_string());
        items.field("ElementName", &format!("Disk {index}"));
        items.field("HostResource", &format!("ovf:/disk/vmdisk{index}"));
        items.field("InstanceID", &id);
        items.field("Parent", &parent);
        items.field("ResourceType", "17");
        items.xml.close();
    }
}

/// Writes `Item` elements with numbers of their own.
struct Items<'a> {
    xml: &'a mut Xml,
    last: u32,
}

impl Items<'_> {
    /// Begins an item; returns its number.
    fn open(&mut self) -> String {
        self.last = self.last.saturating_add(1);
        self.xml.open("ovf:Item", &[]);
        self.last.to_string()
    }

    fn field(&mut self, name: &str, value: &str) {
        self.xml.text(&format!("rasd:{name}"), &[], value);
    }
}

/// VMware's name of a card, and why it is not of the plan's kind.
fn nic_model(model: NicModel) -> (&'static str, Option<&'static str>) {
    match model {
        NicModel::E1000e => ("E1000e", None),
        NicModel::E1000 => ("E1000", None),
        NicModel::Virtio => ("E1000e", Some("VMware has no virtio cards")),
    }
}

/// VMware's form of the UUID: the bytes of the SMBIOS structure, whose first three fields are little
/// endian (SMBIOS 3.7, 7.2.1).
fn uuid_bios(uuid: Uuid) -> String {
    let hex: Vec<String> = uuid
        .to_bytes_le()
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect();
    let (first, second) = hex.split_at(hex.len() / 2);
    format!("{}-{}", first.join(" "), second.join(" "))
}

fn notes(plan: &VmPlan) -> Vec<String> {
    let mut notes = Vec::new();
    for disk in &plan.disks {
        let file = file_name(&disk.file);
        if let (kind, Some(why)) = controller(disk.bus) {
            notes.push(format!(
                "{file} comes to {}, because {why}",
                kind.resource().2
            ));
        }
        if disk.logical_block_bytes != 512 {
            notes.push(format!(
                "{file} has sectors of {} bytes and OVF cannot say so: where it is shown with 512, the \
                 system finds no partition on it",
                disk.logical_block_bytes
            ));
        }
    }
    limits(plan, &mut notes);
    if let Some(why) = plan.nics.iter().find_map(|nic| nic_model(nic.model).1) {
        notes.push(format!("network cards come to E1000e, because {why}"));
    }
    if plan.firmware == (VmFirmware::Uefi { secure_boot: true }) {
        notes.push(
            "Secure Boot is enforced with the keys of the importer's firmware, not with the \
             machine's own"
                .into(),
        );
    }
    if plan.tpm.is_some() {
        notes.push("an OVA has no TPM: add one after importing it".into());
    }
    if plan.rtc == RtcBasis::Localtime {
        notes.push(
            "the machine's clock counts local time, which OVF cannot say: the importer decides"
                .into(),
        );
    }
    notes.push(
        "an OVA has no place for the machine's vendor, product and serial numbers: licences that are \
         bound to them ask again"
            .into(),
    );
    notes
}

/// What VMware's hardware version does not take: the importer refuses it, or leaves it out.
fn limits(plan: &VmPlan, notes: &mut Vec<String>) {
    let mut add = |what: String, most: String| {
        notes.push(format!(
            "{what}, and VMware's hardware version {HARDWARE} takes at most {most}: raise the version or \
             lower the number in the descriptor before importing it there"
        ));
    };
    if plan.vcpus() > MOST_PROCESSORS {
        let what = format!("the VM has {} processors", plan.vcpus());
        add(what, MOST_PROCESSORS.to_string());
    }
    if plan.memory_mib() > MOST_MEMORY {
        let what = format!("the VM has {} MiB of memory", plan.memory_mib());
        add(what, MOST_MEMORY.to_string());
    }
    if plan.nics.len() > MOST_NICS {
        let what = format!("the VM has {} network cards", plan.nics.len());
        add(what, MOST_NICS.to_string());
    }
    for kind in [
        Controller::Ide,
        Controller::Scsi,
        Controller::Sata,
        Controller::Nvme,
    ] {
        let disks = plan
            .disks
            .iter()
            .filter(|disk| controller(disk.bus).0 == kind);
        let (disks, most) = (disks.count(), kind.most().saturating_mul(kind.places()));
        if disks > most {
            let what = format!("the VM has {disks} {} disks", kind.resource().2);
            add(what, most.to_string());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_uuid_is_in_the_order_of_its_smbios_bytes() {
        let uuid = Uuid::parse_str("4c4c4544-0058-4b10-8033-b7c04f503532").unwrap();
        let text = "44 45 4c 4c 58 00 10 4b-80 33 b7 c0 4f 50 35 32";
        assert_eq!(uuid_bios(uuid), text);
    }
}
