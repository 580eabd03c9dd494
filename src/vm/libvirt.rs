//! [`VmPlan`] as a libvirt domain (<https://libvirt.org/formatdomain.html>), for libvirt 8.2 and
//! later. Sizes are in KiB throughout, because virt-v2v 2.2 takes every number for KiB.

use super::clock::{Zone, zone};
use super::xml::Xml;
use super::{DiskBus, Hypervisor, PlannedDisk, PlannedNic, TpmVersion, VmFirmware, VmPlan, smbios};
use crate::inventory::RtcBasis;
use std::path::Path;

/// Where libvirt keeps images on a host that nobody has configured.
pub const DEFAULT_IMAGES: &str = "/var/lib/libvirt/images";
/// The namespace of libvirt's QEMU extensions.
const QEMU_NAMESPACE: &str = "http://libvirt.org/schemas/domain/qemu/1.0";
/// AHCI ports of one controller.
const SATA_PORTS: usize = 6;

/// The document `domain.xml`. libvirt takes absolute paths only, so a relative one is taken to lie
/// in a folder of the VM's name below [`DEFAULT_IMAGES`].
pub fn domain_xml(plan: &VmPlan) -> String {
    let mut xml = Xml::new();
    let kind = match plan.hypervisor {
        Hypervisor::Kvm => "kvm",
        Hypervisor::Tcg => "qemu",
    };
    let nvme = plan.disks.iter().any(|disk| disk.bus == DiskBus::Nvme);
    let mut attributes = vec![("type", kind)];
    if nvme {
        attributes.push(("xmlns:qemu", QEMU_NAMESPACE));
    }
    xml.open("domain", &attributes);
    xml.text("name", &[], &plan.name);
    if let Some(uuid) = &plan.uuid {
        xml.text("uuid", &[], uuid);
    }
    xml.text("description", &[], &plan.description);
    let memory = plan.memory_kib.to_string();
    xml.text("memory", &[("unit", "KiB")], &memory);
    xml.text("currentMemory", &[("unit", "KiB")], &memory);
    xml.text("vcpu", &[], &plan.vcpus().to_string());
    os(&mut xml, plan);
    sysinfo(&mut xml, plan);
    features(&mut xml, plan);
    cpu(&mut xml, plan);
    clock(&mut xml, plan);
    xml.open("devices", &[]);
    disks(&mut xml, plan);
    for nic in &plan.nics {
        interface(&mut xml, nic);
    }
    if let Some(version) = plan.tpm {
        tpm(&mut xml, version);
    }
    if plan.needs_x2apic() {
        // libvirt: "more than 255 vCPUs require extended interrupt mode enabled on the iommu device".
        xml.open("iommu", &[("model", "intel")]);
        xml.empty("driver", &[("intremap", "on"), ("eim", "on")]);
        xml.close();
    }
    other_devices(&mut xml);
    xml.close();
    if nvme {
        override_nvme(&mut xml, &plan.disks);
    }
    xml.close();
    xml.finish()
}

fn os(xml: &mut Xml, plan: &VmPlan) {
    let secure_boot = match plan.firmware {
        VmFirmware::Bios => None,
        VmFirmware::Uefi { secure_boot } => Some(secure_boot),
    };
    match secure_boot {
        // libvirt chooses the firmware itself: paths differ from one distribution to the next.
        Some(_) => xml.open("os", &[("firmware", "efi")]),
        None => xml.open("os", &[]),
    }
    // The alias, never the version that it stands for on this host: another host lacks it.
    let machine = plan.machine.name();
    xml.text("type", &[("arch", "x86_64"), ("machine", machine)], "hvm");
    if let Some(secure_boot) = secure_boot {
        xml.open("firmware", &[]);
        let enabled = yes_no(secure_boot);
        xml.empty("feature", &[("enabled", enabled), ("name", "secure-boot")]);
        xml.close();
        if let Some(nvram) = &plan.nvram {
            xml.text("nvram", &[], &absolute(plan, nvram));
        }
    }
    xml.empty("smbios", &[("mode", "sysinfo")]);
    xml.close();
}

fn sysinfo(xml: &mut Xml, plan: &VmPlan) {
    xml.open("sysinfo", &[("type", "smbios")]);
    for mut structure in smbios::structures(plan) {
        // libvirt refuses dates of any other form, and its schema empty elements.
        structure
            .fields
            .retain(|(name, value)| *name != "date" || is_us_date(value));
        if structure.fields.is_empty() {
            continue;
        }
        xml.open(structure.element, &[]);
        for (name, value) in structure.fields {
            xml.text("entry", &[("name", name)], value);
        }
        xml.close();
    }
    xml.close();
}

fn features(xml: &mut Xml, plan: &VmPlan) {
    xml.open("features", &[]);
    xml.empty("acpi", &[]);
    xml.empty("apic", &[]);
    if plan.firmware == (VmFirmware::Uefi { secure_boot: true }) {
        // Keeps the guest from writing the variables past the firmware.
        xml.empty("smm", &[("state", "on")]);
    }
    if plan.needs_x2apic() {
        // What the IOMMU asks for.
        xml.empty("ioapic", &[("driver", "qemu")]);
    }
    xml.close();
}

fn cpu(xml: &mut Xml, plan: &VmPlan) {
    match plan.hypervisor {
        Hypervisor::Kvm => xml.open("cpu", &[("mode", "host-model")]),
        Hypervisor::Tcg => xml.open("cpu", &[("mode", "maximum")]),
    }
    xml.empty(
        "topology",
        &[
            ("sockets", &plan.sockets.to_string()),
            ("cores", &plan.cores.to_string()),
            ("threads", &plan.threads.to_string()),
        ],
    );
    if plan.hypervisor == Hypervisor::Kvm && plan.needs_many_addresses() {
        // Else the model's 40 bits, and QEMU ends with "phys-bits too low". libvirt 8.7 and later; an older one
        // refuses the element, and can have no such guest without `qemu:commandline`.
        xml.empty("maxphysaddr", &[("mode", "passthrough")]);
    }
    xml.close();
}

fn clock(xml: &mut Xml, plan: &VmPlan) {
    match (plan.rtc, zone(plan)) {
        (RtcBasis::Utc, _) => xml.open("clock", &[("offset", "utc")]),
        (_, Some(Zone::Named(name))) => {
            xml.open("clock", &[("offset", "timezone"), ("timezone", name)]);
        }
        (_, Some(Zone::Minutes(minutes))) => {
            let seconds = minutes.saturating_mul(60).to_string();
            let adjustment = [("basis", "utc"), ("adjustment", &seconds)];
            xml.open(
                "clock",
                &[&[("offset", "variable")], &adjustment[..]].concat(),
            );
        }
        // The host's.
        (_, None) => xml.open("clock", &[("offset", "localtime")]),
    }
    xml.empty("timer", &[("name", "rtc"), ("tickpolicy", "catchup")]);
    xml.empty("timer", &[("name", "pit"), ("tickpolicy", "delay")]);
    xml.empty("timer", &[("name", "hpet"), ("present", "no")]);
    xml.close();
}

fn disks(xml: &mut Xml, plan: &VmPlan) {
    let disks = &plan.disks;
    // The controllers: a bus, and which one of it.
    let mut scsi: Vec<(DiskBus, usize)> = Vec::new();
    // Names must be unique over all buses that share a prefix.
    let mut names = [("hd", 0_usize), ("sd", 0), ("vd", 0)];
    for (index, disk) in disks.iter().enumerate() {
        let on_same_bus = disks
            .iter()
            .take(index)
            .filter(|other| other.bus == disk.bus)
            .count();
        let (bus, prefix) = target(disk.bus);
        let number = names
            .iter_mut()
            .find(|(name, _)| *name == prefix)
            .map_or(0, |(_, next)| {
                *next = next.saturating_add(1);
                next.saturating_sub(1)
            });
        let targets = disk.bus.targets();
        let needed = (disk.bus, on_same_bus / targets);
        if disk.bus.is_scsi() && !scsi.contains(&needed) {
            scsi.push(needed);
        }
        let controller = scsi
            .iter()
            .position(|there| *there == needed)
            .unwrap_or_default();
        let name = format!("{prefix}{}", letters(number));
        xml.open("disk", &[("type", "file"), ("device", "disk")]);
        xml.empty(
            "driver",
            &[
                ("name", "qemu"),
                ("type", "qcow2"),
                ("cache", "none"),
                ("discard", "unmap"),
            ],
        );
        xml.empty("source", &[("file", &absolute(plan, &disk.file))]);
        if (disk.logical_block_bytes, disk.physical_block_bytes) != (512, 512) {
            xml.empty(
                "blockio",
                &[
                    ("logical_block_size", &disk.logical_block_bytes.to_string()),
                    (
                        "physical_block_size",
                        &disk.physical_block_bytes.to_string(),
                    ),
                ],
            );
        }
        xml.empty("target", &[("dev", &name), ("bus", bus)]);
        if let Some(serial) = &disk.serial {
            xml.text("serial", &[], serial);
        }
        // libvirt 9.0: "Only ide and scsi disk support wwn".
        if let Some(wwn) = &disk.wwn
            && (disk.bus.is_scsi() || disk.bus == DiskBus::Ide)
        {
            xml.text("wwn", &[], wwn);
        }
        xml.empty("boot", &[("order", &disk.boot_index.to_string())]);
        if disk.bus == DiskBus::Nvme {
            xml.empty("alias", &[("name", &nvme_alias(index))]);
        }
        address(xml, disk.bus, on_same_bus, controller);
        xml.close();
    }
    for (index, (bus, _)) in scsi.iter().enumerate() {
        let model = match bus {
            DiskBus::MegaSas => "lsisas1078",
            DiskBus::MptSas => "lsisas1068",
            _ => "virtio-scsi",
        };
        xml.empty(
            "controller",
            &[
                ("type", "scsi"),
                ("index", &index.to_string()),
                ("model", model),
            ],
        );
    }
}

/// libvirt's name of the bus, and the prefix of names on it.
fn target(bus: DiskBus) -> (&'static str, &'static str) {
    match bus {
        DiskBus::Ide => ("ide", "hd"),
        DiskBus::Sata => ("sata", "sd"),
        DiskBus::MegaSas | DiskBus::MptSas | DiskBus::VirtioScsi => ("scsi", "sd"),
        DiskBus::Usb => ("usb", "sd"),
        // See `override_nvme`.
        DiskBus::VirtioBlk | DiskBus::Nvme => ("virtio", "vd"),
    }
}

/// The place of the `n`th disk of its bus; PCI devices and USB disks find theirs themselves.
fn address(xml: &mut Xml, bus: DiskBus, n: usize, scsi_controller: usize) {
    let (controller, channel, target, unit) = match bus {
        DiskBus::Ide => (0, n / 2, 0, n % 2),
        DiskBus::Sata => (n / SATA_PORTS, 0, 0, n % SATA_PORTS),
        DiskBus::MegaSas | DiskBus::MptSas | DiskBus::VirtioScsi => {
            (scsi_controller, 0, n % bus.targets(), 0)
        }
        DiskBus::Nvme | DiskBus::VirtioBlk | DiskBus::Usb => return,
    };
    xml.empty(
        "address",
        &[
            ("type", "drive"),
            ("controller", &controller.to_string()),
            ("bus", &channel.to_string()),
            ("target", &target.to_string()),
            ("unit", &unit.to_string()),
        ],
    );
}

/// Names given by users must begin with `ua-`.
fn nvme_alias(index: usize) -> String {
    format!("ua-nvme-{index}")
}

/// libvirt before 11.5 has no emulated NVMe disk. One on virtio-blk is the same to libvirt (a PCI
/// device with a drive, a serial number, a place in the order of booting), so the disk is declared
/// as that and only the name of QEMU's device is replaced (`qemu:override`, since libvirt 8.2).
/// Unlike a whole device in `qemu:commandline` it keeps libvirt's PCI addresses, its security labels
/// on the image and its block jobs.
fn override_nvme(xml: &mut Xml, disks: &[PlannedDisk]) {
    xml.open("qemu:override", &[]);
    for (index, disk) in disks.iter().enumerate() {
        if disk.bus != DiskBus::Nvme {
            continue;
        }
        xml.open("qemu:device", &[("alias", &nvme_alias(index))]);
        xml.open("qemu:frontend", &[]);
        let property = |name, value| [("name", name), ("type", "string"), ("value", value)];
        xml.empty("qemu:property", &property("driver", "nvme"));
        if disk.serial.is_none() {
            // QEMU: "serial property not set".
            xml.empty("qemu:property", &property("serial", &nvme_alias(index)));
        }
        xml.close();
        xml.close();
    }
    xml.close();
}

fn interface(xml: &mut Xml, nic: &PlannedNic) {
    // Not type='user', which virt-v2v drops.
    xml.open("interface", &[("type", "network")]);
    xml.empty("mac", &[("address", &nic.mac)]);
    xml.empty("source", &[("network", "default")]);
    xml.empty("model", &[("type", nic.model.name())]);
    xml.close();
}

/// Emulated by swtpm, which keeps its state beside the domain's.
fn tpm(xml: &mut Xml, version: TpmVersion) {
    let (model, version) = match version {
        TpmVersion::V1_2 => ("tpm-tis", "1.2"),
        TpmVersion::V2_0 => ("tpm-crb", "2.0"),
    };
    xml.open("tpm", &[("model", model)]);
    xml.empty("backend", &[("type", "emulator"), ("version", version)]);
    xml.close();
}

/// What every VM gets: a serial line, a screen, an agent's channel, random numbers, and a balloon
/// that gives unused memory back, which also makes live migration cheap.
fn other_devices(xml: &mut Xml) {
    xml.open("serial", &[("type", "pty")]);
    xml.empty("target", &[("port", "0")]);
    xml.close();
    xml.open("console", &[("type", "pty")]);
    xml.empty("target", &[("type", "serial"), ("port", "0")]);
    xml.close();
    xml.open("channel", &[("type", "unix")]);
    let agent = [("type", "virtio"), ("name", "org.qemu.guest_agent.0")];
    xml.empty("target", &agent);
    xml.close();
    xml.empty("input", &[("type", "tablet"), ("bus", "usb")]);
    xml.empty("graphics", &[("type", "vnc"), ("autoport", "yes")]);
    xml.open("video", &[]);
    xml.empty("model", &[("type", "vga")]);
    xml.close();
    xml.empty(
        "memballoon",
        &[("model", "virtio"), ("freePageReporting", "on")],
    );
    xml.open("rng", &[("model", "virtio")]);
    xml.text("backend", &[("model", "random")], "/dev/urandom");
    xml.close();
}

fn absolute(plan: &VmPlan, path: &Path) -> String {
    let folder = Path::new(DEFAULT_IMAGES).join(&plan.name);
    folder.join(path).display().to_string()
}

fn yes_no(yes: bool) -> &'static str {
    if yes { "yes" } else { "no" }
}

/// `MM/DD/YYYY`
fn is_us_date(text: &str) -> bool {
    let parts: Vec<&str> = text.split('/').collect();
    let [month, day, year] = *parts else {
        return false;
    };
    let number = |text: &str, digits: usize| {
        (text.len() == digits && text.bytes().all(|b| b.is_ascii_digit()))
            .then(|| text.parse::<u32>().ok())
            .flatten()
    };
    number(month, 2).is_some_and(|m| (1..=12).contains(&m))
        && number(day, 2).is_some_and(|d| (1..=31).contains(&d))
        && number(year, 4).is_some_and(|y| y >= 1900)
}

/// 0 is `a`, 25 `z`, 26 `aa`, as the kernel names disks.
pub(super) fn letters(mut number: usize) -> String {
    let mut name = String::new();
    loop {
        let digit = u8::try_from(number % 26).unwrap_or(0);
        name.insert(0, char::from(b'a'.saturating_add(digit)));
        if number < 26 {
            return name;
        }
        number = number / 26 - 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_are_lettered_as_the_kernel_does() {
        for (number, name) in [(0, "a"), (25, "z"), (26, "aa"), (701, "zz"), (702, "aaa")] {
            assert_eq!(letters(number), name);
        }
    }

    #[test]
    fn only_dates_that_libvirt_takes_are_dates() {
        assert!(is_us_date("07/31/2023"));
        for text in [
            "2023-07-31",
            "7/31/2023",
            "13/01/2023",
            "07/31/23",
            "07/31/2023 x",
        ] {
            assert!(!is_us_date(text), "{text}");
        }
    }
}
