//! What becomes of a UEFI system where the VM's variables cannot be shipped: its firmware knows no boot
//! entry and starts the loader at the fallback path, if there is one (UEFI 2.10, 3.5.1.1).

use super::{VmFirmware, VmPlan, file_name, printable};
use crate::inventory::DiskBoot;

/// The loader that x86-64 firmware looks for on a disk without a boot entry.
const FALLBACK: &str = "/EFI/BOOT/BOOTX64.EFI";

/// Says what it means that `target` takes no UEFI variables. `boots` are the plan's disks as they are
/// started, `None` where that could not be seen.
pub fn without_variables(
    plan: &VmPlan,
    boots: &[Option<DiskBoot>],
    target: &str,
) -> Option<String> {
    if plan.firmware == VmFirmware::Bios {
        return None;
    }
    let (mut with, mut lacking) = (Vec::new(), Vec::new());
    for (disk, boot) in plan.disks.iter().zip(boots) {
        for esp in boot.iter().flat_map(|boot| &boot.esps) {
            let Some(loaders) = &esp.loaders else {
                continue;
            };
            let found = loaders
                .iter()
                .any(|path| path.eq_ignore_ascii_case(FALLBACK));
            match (found, loaders.first()) {
                (true, _) => with.push(file_name(&disk.file)),
                (false, Some(other)) => lacking.push(format!(
                    "{} has {}",
                    file_name(&disk.file),
                    printable(other)
                )),
                (false, None) => {}
            }
        }
    }
    let start =
        format!("{target} takes no UEFI variables, so the machine's boot entries stay here");
    let fallback = FALLBACK.replace('/', "\\");
    Some(match (with.is_empty(), lacking.is_empty()) {
        (false, true) => format!(
            "{start}; the firmware will start {fallback}, which {} has",
            with.join(", ")
        ),
        (false, false) => format!(
            "{start}; the firmware will start {fallback}, which {} has and which is not the only \
             loader ({})",
            with.join(", "),
            lacking.join(", ")
        ),
        (true, false) => format!(
            "{start}, and the VM will end in the firmware's shell: there is no {fallback} ({}). Import \
             again with --fallback-loader, which puts it there, or to qemu, libvirt or proxmox, which take the entries",
            lacking.join(", ")
        ),
        (true, true) => format!(
            "{start}; whether there is a loader at {fallback}, which the firmware starts without \
             them, could not be seen"
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inventory::{FirmwareKind, Machine};
    use crate::vm::VmDisk;
    use serde_json::json;

    fn note(firmware: FirmwareKind, loaders: Option<Vec<&str>>) -> Option<String> {
        let machine = json!({"version": 2, "name": "m", "disks": []});
        let machine = Machine::from_json(machine.to_string().as_bytes()).unwrap();
        let disks: Vec<VmDisk> = serde_json::from_value::<crate::device::DiskIdentity>(json!({
            "path": "/dev/sda", "size_bytes": 1 << 20, "logical_sector_bytes": 512,
            "physical_sector_bytes": 512, "model": null, "serial": null, "wwn": null,
        }))
        .map(|source| VmDisk {
            file: "disk-0.qcow2".into(),
            source,
        })
        .into_iter()
        .collect();
        let plan = VmPlan::with_firmware(&machine, &disks, firmware);
        let boot = serde_json::from_value(json!({
            "scheme": "gpt", "boot_code": null, "bios_boot_partition": null,
            "active_partition": null, "by_bios": false, "by_uefi": true,
            "esps": [{"partition": 1, "guid": null, "loaders": loaders}],
        }))
        .unwrap();
        without_variables(&plan, &[Some(boot)], "Glance")
    }

    #[test]
    fn a_disk_without_the_fallback_loader_is_named_with_the_loader_that_it_has() {
        let text = note(FirmwareKind::Uefi, Some(vec!["/EFI/debian/shimx64.efi"])).unwrap();
        assert!(
            text.contains("disk-0.qcow2 has /EFI/debian/shimx64.efi"),
            "{text}"
        );
        assert!(text.contains("shell"), "{text}");
    }

    #[test]
    fn a_disk_with_it_starts_whatever_the_case_of_its_letters() {
        let loaders = vec!["/EFI/debian/shimx64.efi", "/efi/boot/bootx64.efi"];
        let text = note(FirmwareKind::Uefi, Some(loaders)).unwrap();
        assert!(text.contains("which disk-0.qcow2 has"), "{text}");
        assert!(!text.contains("shell"), "{text}");
    }

    #[test]
    fn an_unreadable_partition_is_not_called_empty() {
        let text = note(FirmwareKind::Uefi, None).unwrap();
        assert!(text.contains("could not be seen"), "{text}");
        assert_eq!(note(FirmwareKind::Bios, None), None);
    }
}
