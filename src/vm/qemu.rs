//! [`VmPlan`] as a shell script that runs `qemu-system-x86_64`. The script finds its files beside
//! itself, so the folder can be moved and copied, and chooses KVM and the UEFI firmware where it
//! runs, not where it was written.

use super::clock::zone;
use super::shell::{filled, quoted};
use super::slots::Slots;
use super::{DiskBus, MachineType, PlannedDisk, TpmVersion, VmFirmware, VmPlan, file_name, smbios};
use crate::inventory::RtcBasis;

/// AHCI ports of one controller; the first controller of a q35 is `ide`.
const SATA_PORTS: usize = 6;

/// Where distributions keep OVMF: Debian and Ubuntu, Fedora and RHEL, Arch, SUSE; the 4 MiB build,
/// because the shipped variable store has that layout.
const CODE: &str = "/usr/share/OVMF/OVMF_CODE_4M.fd \
/usr/share/edk2/ovmf-4m/OVMF_CODE.fd \
/usr/share/edk2/x64/OVMF_CODE.4m.fd \
/usr/share/qemu/ovmf-x86_64-code.bin";
/// The same with Secure Boot and system management mode.
const CODE_SECURE: &str = "/usr/share/OVMF/OVMF_CODE_4M.secboot.fd \
/usr/share/edk2/ovmf-4m/OVMF_CODE.secboot.fd \
/usr/share/edk2/x64/OVMF_CODE.secboot.4m.fd \
/usr/share/qemu/ovmf-x86_64-smm-code.bin";

/// The script `run.sh`.
pub fn run_script(plan: &VmPlan) -> String {
    let secure = plan.firmware == (VmFirmware::Uefi { secure_boot: true });
    let memory = (plan.memory_kib / 1024).max(1).to_string();
    let values = [("DESCRIPTION", &*plan.description), ("MEMORY", &memory)];
    let mut script = filled(HEAD, &values);
    if plan.firmware != VmFirmware::Bios {
        let code = if secure { CODE_SECURE } else { CODE };
        script += &filled(UEFI, &[("CODE", code), ("VARS", &quoted(&vars_file(plan)))]);
    }
    if let Some(version) = plan.tpm {
        let (device, standard) = match version {
            TpmVersion::V1_2 => ("tpm-tis", ""),
            TpmVersion::V2_0 => ("tpm-crb", "--tpm2"),
        };
        script += &filled(TPM, &[("DEVICE", device), ("STANDARD", standard)]);
    }
    if let Some(zone) = zone(plan) {
        // What QEMU takes for local time.
        script += &format!("TZ=${{QEMU_TZ:-{}}}\nexport TZ\n", zone.tz());
    }
    if plan.needs_many_addresses() {
        script += MUCH_MEMORY;
    }
    script += "\nexec \"$qemu\" \\\n";
    for (option, value) in options(plan) {
        script += &format!("  {option} {value} \\\n");
    }
    script + "  \"$@\"\n"
}

/// The variable store beside the script.
fn vars_file(plan: &VmPlan) -> String {
    plan.nvram
        .as_deref()
        .map_or_else(|| "VARS.fd".to_owned(), file_name)
}

/// Pairs of an option and its value, quoted for the shell.
fn options(plan: &VmPlan) -> Vec<(&'static str, String)> {
    let secure = plan.firmware == (VmFirmware::Uefi { secure_boot: true });
    let mut options = vec![
        ("-name", quoted(&format!("guest={}", doubled(&plan.name)))),
        (
            "-machine",
            match (plan.machine, secure) {
                (MachineType::Q35, true) => "q35,smm=on".into(),
                (MachineType::Q35, false) => "q35,smm=off".into(),
                (MachineType::Pc, _) => "pc".into(),
            },
        ),
    ];
    if plan.needs_x2apic() {
        // The IOMMU remaps interrupts only of an I/O APIC that is QEMU's own. Software emulation has no
        // other, and overlooks the word.
        if let Some((_, machine)) = options.last_mut() {
            *machine += ",kernel-irqchip=split";
        }
        // In front of all devices, which it is to know of.
        options.push(("-device", "intel-iommu,intremap=on,eim=on".into()));
    }
    // Word splitting of $accel and $tpm is wanted: they hold whole options, or none.
    let words = if plan.tpm.is_some() {
        "$accel $tpm"
    } else {
        "$accel"
    };
    // With KVM `max` has as many address bits as the host.
    options.push((words, "-cpu max".into()));
    options.push(("-m", "\"${QEMU_MEMORY:-$memory}M\"".into()));
    options.push((
        "-smp",
        format!(
            "\"${{QEMU_SMP:-{},sockets={},cores={},threads={}}}\"",
            plan.vcpus(),
            plan.sockets,
            plan.cores,
            plan.threads
        ),
    ));
    options.push(("-nodefaults", "-no-user-config".into()));
    options.push((
        "-rtc",
        match plan.rtc {
            RtcBasis::Utc => "base=utc".into(),
            RtcBasis::Localtime => "base=localtime".into(),
        },
    ));
    if let Some(uuid) = &plan.uuid {
        options.push(("-uuid", quoted(uuid)));
    }
    identity_of_machine(plan, &mut options);
    if plan.firmware != VmFirmware::Bios {
        if secure {
            options.push((
                "-global",
                "driver=cfi.pflash01,property=secure,value=on".into(),
            ));
            // Waking from S3 would bypass the firmware's protection (edk2 OvmfPkg/README).
            options.push(("-global", "ICH9-LPC.disable_s3=1".into()));
        }
        options.push((
            "-drive",
            "\"if=pflash,unit=0,format=raw,readonly=on,file=$code\"".into(),
        ));
        options.push((
            "-drive",
            "\"if=pflash,unit=1,format=raw,file=$vars\"".into(),
        ));
    }
    let mut slots = Slots::new(plan);
    disks(plan, &mut slots, &mut options);
    for (index, nic) in plan.nics.iter().enumerate() {
        let backend = match index {
            0 => "${QEMU_NET:-user}",
            _ => "user",
        };
        options.push(("-netdev", format!("\"{backend},id=net{index}\"")));
        options.push((
            "-device",
            quoted(&format!(
                "{},netdev=net{index},mac={}{}",
                nic.model.qemu(),
                nic.mac,
                slots.next()
            )),
        ));
    }
    options.push((
        "-device",
        "virtio-balloon-pci,free-page-reporting=on".into(),
    ));
    options.push(("-device", "virtio-rng-pci".into()));
    options.push(("-device", "VGA".into()));
    options.push(("-display", "\"${QEMU_DISPLAY:-none}\"".into()));
    options.push(("-serial", "\"${QEMU_SERIAL:-mon:stdio}\"".into()));
    options
}

fn identity_of_machine(plan: &VmPlan, options: &mut Vec<(&'static str, String)>) {
    for structure in smbios::structures(plan) {
        let mut text = format!("type={}", structure.number);
        for (name, value) in structure.fields {
            text += &format!(",{name}={}", doubled(value));
        }
        options.push(("-smbios", quoted(&text)));
    }
}

fn disks(plan: &VmPlan, slots: &mut Slots, options: &mut Vec<(&'static str, String)>) {
    let mut controllers: Vec<String> = Vec::new();
    for (index, disk) in plan.disks.iter().enumerate() {
        let n = plan
            .disks
            .iter()
            .take(index)
            .filter(|other| other.bus == disk.bus)
            .count();
        let (controller, device) = attachment(plan.machine, disk, n);
        if let Some(controller) = controller
            && !controllers.contains(&controller)
        {
            options.push(("-device", controller.clone()));
            controllers.push(controller);
        }
        options.push((
            "-blockdev",
            quoted(&format!(
                "driver=qcow2,node-name=disk{index},discard=unmap,file.driver=file,\
                 file.filename={}",
                doubled(&file_name(&disk.file))
            )),
        ));
        let mut device = format!("{device},drive=disk{index},bootindex={}", disk.boot_index);
        match (&disk.serial, disk.bus) {
            (Some(serial), _) => device += &format!(",serial={}", doubled(serial)),
            // QEMU: "serial property not set".
            (None, DiskBus::Nvme) => device += &format!(",serial=nvme-{index}"),
            (None, _) => {}
        }
        if (disk.logical_block_bytes, disk.physical_block_bytes) != (512, 512) {
            device += &format!(
                ",logical_block_size={},physical_block_size={}",
                disk.logical_block_bytes, disk.physical_block_bytes
            );
        }
        device += &identity(disk);
        if disk.bus.is_pci() {
            device += &slots.next();
        }
        options.push(("-device", quoted(&device)));
    }
}

/// The controller that the `n`th disk of its bus needs, if it is not part of the machine, and the
/// disk's device with its place.
fn attachment(machine: MachineType, disk: &PlannedDisk, n: usize) -> (Option<String>, String) {
    let scsi = |model: &str, id: &str| {
        let targets = disk.bus.targets();
        let id = match n / targets {
            0 => id.to_owned(),
            more => format!("{id}{more}"),
        };
        (
            Some(format!("{model},id={id}")),
            format!("scsi-hd,bus={id}.0,scsi-id={}", n % targets),
        )
    };
    match disk.bus {
        DiskBus::Ide => (None, format!("ide-hd,bus=ide.{},unit={}", n / 2, n % 2)),
        DiskBus::Sata => {
            let (controller, port) = (n / SATA_PORTS, n % SATA_PORTS);
            if machine == MachineType::Q35 && controller == 0 {
                (None, format!("ide-hd,bus=ide.{port}"))
            } else {
                (
                    Some(format!("ahci,id=ahci{controller}")),
                    format!("ide-hd,bus=ahci{controller}.{port}"),
                )
            }
        }
        DiskBus::Nvme => (None, "nvme".into()),
        DiskBus::MegaSas => scsi("megasas", "megasas"),
        DiskBus::MptSas => scsi("mptsas1068", "mptsas"),
        DiskBus::VirtioScsi => scsi("virtio-scsi-pci", "vscsi"),
        DiskBus::VirtioBlk => (None, "virtio-blk-pci".into()),
        DiskBus::Usb => (
            Some("qemu-xhci,id=usb".into()),
            format!("usb-storage,bus=usb.0,port={}", n.saturating_add(1)),
        ),
    }
}

/// Names by which the guest's `/dev/disk/by-id` finds the disk again: the model of ATA disks (40
/// characters), the world-wide name of ATA and SCSI disks.
fn identity(disk: &PlannedDisk) -> String {
    let ata = matches!(disk.bus, DiskBus::Ide | DiskBus::Sata);
    let mut text = String::new();
    if let (true, Some(model)) = (ata, &disk.model) {
        let model: String = model.chars().take(40).collect();
        text += &format!(",model={}", doubled(&model));
    }
    if let (true, Some(wwn)) = (ata || disk.bus.is_scsi(), &disk.wwn) {
        text += &format!(",wwn=0x{wwn}");
    }
    text
}

/// A value inside one of QEMU's option lists: a comma would end it and is doubled.
fn doubled(value: &str) -> String {
    value.replace(',', ",,")
}

const HEAD: &str = r#"#!/bin/sh
# @DESCRIPTION@
#
# Runs this machine in QEMU. Written by haulier; the folder may be moved.
# What is given to this script goes to QEMU behind its own options. These variables change them:
#   QEMU           the program (qemu-system-x86_64)
#   QEMU_ACCEL     kvm or tcg; without it KVM where it can be used, else software
#   QEMU_MEMORY    MiB of memory
#   QEMU_SMP       processors, as for -smp
#   QEMU_DISPLAY   gtk, sdl, vnc=:0 ... (none)
#   QEMU_TZ        zone of a hardware clock on local time; a Windows' is the one it was captured in
#   QEMU_SERIAL    where the first serial line goes (mon:stdio: here; Ctrl-A X ends)
#   QEMU_NET       backend of the first network card (user)
#   OVMF_CODE      the UEFI firmware, if it is not found by itself
set -eu
CDPATH='' cd -- "$(dirname -- "$0")"
qemu=${QEMU:-qemu-system-x86_64}
memory=@MEMORY@
if ! command -v "$qemu" >/dev/null 2>&1; then
  echo "$0: there is no $qemu here: install QEMU for x86-64" >&2
  exit 1
fi
if [ -n "${QEMU_ACCEL:-}" ]; then
  accel="-accel $QEMU_ACCEL"
elif [ -r /dev/kvm ] && [ -w /dev/kvm ]; then
  accel="-accel kvm -accel tcg"
else
  accel="-accel tcg"
  echo "$0: /dev/kvm cannot be used: emulating in software, which is slow" >&2
fi
"#;

/// QEMU's own words are "Address space limit 0xffffffffff < 0x... phys-bits too low (40)".
const MUCH_MEMORY: &str = r#"case "$accel" in
  "-accel tcg"*)
    if [ "${QEMU_MEMORY:-$memory}" -gt 921600 ]; then
      echo "$0: software emulation has room for 900 GiB of memory: use KVM, or set QEMU_MEMORY (MiB)" >&2
    fi ;;
esac
"#;

const UEFI: &str = r#"code=${OVMF_CODE:-}
if [ -z "$code" ]; then
  for file in @CODE@
  do
    if [ -r "$file" ]; then code=$file; break; fi
  done
fi
if [ -z "$code" ]; then
  echo "$0: this machine needs UEFI firmware (OVMF, 4 MiB build) and none was found." >&2
  echo "Install the package ovmf (Fedora: edk2-ovmf), or name the file in OVMF_CODE." >&2
  exit 1
fi
if ! [ -r "$code" ]; then
  echo "$0: cannot read the UEFI firmware $code" >&2
  exit 1
fi
vars=@VARS@
if ! [ -w "$vars" ]; then
  echo "$0: cannot write the UEFI variables $PWD/$vars: is this folder on a read-only medium?" >&2
  exit 1
fi
"#;

/// The module is a program of its own, which ends with QEMU. Its state stays in the folder `tpm`. A path of a
/// socket has 107 bytes at most (unix(7)), so the socket is not there.
const TPM: &str = r#"tpm=
if command -v swtpm >/dev/null 2>&1; then
  mkdir -p tpm
  socket=$(mktemp -u "${XDG_RUNTIME_DIR:-/tmp}/haulier-tpm.XXXXXX")
  # Not as a daemon, which leaves this folder.
  swtpm socket @STANDARD@ --tpmstate dir=tpm --ctrl type=unixio,path="$socket" --terminate &
  waited=0
  while ! [ -S "$socket" ] && [ "$waited" -lt 100 ]; do
    sleep 0.1
    waited=$((waited + 1))
  done
  tpm="-chardev socket,id=tpm,path=$socket -tpmdev emulator,id=tpm,chardev=tpm -device @DEVICE@,tpmdev=tpm"
else
  echo "$0: there is no swtpm here: the machine runs without its TPM" >&2
fi
"#;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commas_are_doubled() {
        assert_eq!(
            doubled("Standard PC (Q35 + ICH9, 2009)"),
            "Standard PC (Q35 + ICH9,, 2009)"
        );
    }
}
