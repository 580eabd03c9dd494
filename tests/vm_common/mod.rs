//! Machines for the tests of `vm` and `import`.

#![allow(unreachable_pub, reason = "a module of several test programs")]
#![allow(dead_code, reason = "each test program uses a part of it")]

mod programs;

#[allow(unused_imports, reason = "each test program uses a part of it")]
pub use programs::{Programs, shellcheck};

use haulier::device::DiskIdentity;
use haulier::inventory::{Bus, DiskInfo, Machine};
use haulier::units::SectorSize;
use haulier::vm::VmDisk;
use serde_json::json;
use std::path::Path;
use std::process::{Command, Output};

/// 64 MiB: a disk that every controller takes.
pub const DISK_BYTES: u64 = 64 << 20;

/// A server with two cards and no disks, as `machine.json` has it.
pub fn server(firmware: &str) -> Machine {
    let json = json!({
        "version": 1,
        "name": "R640-7XK3P52",
        "taken_at": "2026-11-22T10:15:00Z",
        "smbios": {
            "manufacturer": "Dell Inc.",
            "product": "PowerEdge R640",
            "serial": "7XK3P52",
            "uuid": "4c4c4544-0058-4b10-8033-b7c04f503532",
            "board_manufacturer": "Dell Inc.",
            "board_product": "0H28RR",
            "chassis_serial": "7XK3P52",
            "bios_vendor": "Dell Inc.",
            "bios_version": "2.19.1",
            "bios_date": "06/04/2023",
        },
        "cpu": {"sockets": 1, "cores_per_socket": 2, "threads_per_core": 1},
        "memory": {"installed_bytes": 268_435_456},
        "firmware": {"kind": firmware, "secure_boot": false},
        "nics": [
            {"name": "eth0", "mac": "b0:26:28:aa:bb:01", "driver": "tg3"},
            {"name": "eth1", "mac": "B0:26:28:AA:BB:02", "driver": "virtio_net"},
            {"name": "ib0", "mac": "80:00:02:08:fe:80:00:00:00:00:00:00:e4:1d", "driver": "mlx5_core"},
        ],
    });
    Machine::from_json(json.to_string().as_bytes()).expect("a machine.json")
}

/// Adds a disk and returns its image.
pub fn add_disk(machine: &mut Machine, bus: Bus, driver: &str, sector: u32) -> VmDisk {
    let number = machine.disks.len();
    let letter = |n: usize| char::from(b'a' + u8::try_from(n % 26).expect("a letter"));
    // sda to sdz, then sdaa: few disks.
    let first = (number >= 26).then(|| letter(number / 26 - 1));
    let info = DiskInfo {
        name: format!(
            "sd{}{}",
            first.map(String::from).unwrap_or_default(),
            letter(number)
        ),
        model: Some("SAMSUNG MZ7LH480HAHQ".into()),
        serial: Some(format!("S45NNA0M1234{number:02}")),
        wwn: Some("naa.5002538e40a0b1c2".into()),
        size_bytes: DISK_BYTES,
        logical_sector_bytes: Some(sector),
        physical_sector_bytes: Some(4096),
        bus,
        driver: Some(driver.into()),
        ..DiskInfo::default()
    };
    let source = DiskIdentity {
        path: info.device(),
        model: info.model.clone(),
        serial: info.serial.clone(),
        wwn: info.wwn.clone(),
        size_bytes: info.size_bytes,
        logical_sector_bytes: SectorSize::new(sector).expect("a sector"),
        physical_sector_bytes: SectorSize::B4096,
    };
    machine.disks.push(info);
    VmDisk {
        file: format!("disk-{number}.qcow2").into(),
        source,
    }
}

/// A machine whose every string is `text`.
pub fn filled(text: &str) -> (Machine, Vec<VmDisk>) {
    let mut machine = server("bios");
    let some = || Some(text.to_owned());
    machine.name = text.into();
    machine.taken_at = some();
    machine.smbios.manufacturer = some();
    machine.smbios.product = some();
    machine.smbios.serial = some();
    machine.smbios.family = some();
    machine.smbios.board_product = some();
    machine.smbios.chassis_asset_tag = some();
    machine.smbios.bios_version = some();
    machine.nics[0].mac = some();
    let mut disks = vec![add_disk(&mut machine, Bus::Sata, text, 512)];
    machine.disks[0].serial = some();
    machine.disks[0].model = some();
    machine.disks[0].wwn = some();
    disks[0].source.serial = some();
    disks[0].source.wwn = some();
    (machine, disks)
}

/// Says what is installed, as the inventory has it.
pub fn installed(machine: &mut Machine, kind: &str, id: &str, version: &str) {
    let systems = json!([{"kind": kind, "id": id, "version": version}]);
    machine.installed = serde_json::from_value(systems).expect("a list of systems");
}

/// Says what is installed and of which zone its clock on local time is.
pub fn local_time(machine: &mut Machine, kind: &str, zone: serde_json::Value) {
    machine.rtc = serde_json::from_value(json!("localtime")).expect("a clock");
    let systems = json!([{"kind": kind, "time_zone": zone}]);
    machine.installed = serde_json::from_value(systems).expect("a list of systems");
}

/// Gives the machine a TPM.
pub fn tpm(machine: &mut Machine, version: &str) {
    machine.tpm = serde_json::from_value(json!({"version": version})).expect("a TPM");
}

/// Every bus with a driver that stands for it, as the inventory names them.
pub const BUSES: [(Bus, &str); 8] = [
    (Bus::Sata, "ahci"),
    (Bus::Nvme, "nvme"),
    (Bus::Sas, "megaraid_sas"),
    (Bus::Sas, "mptsas"),
    (Bus::VirtioBlk, "virtio_blk"),
    (Bus::VirtioScsi, "virtio_scsi"),
    (Bus::Ide, "ata_piix"),
    (Bus::Usb, "usb-storage"),
];

/// Makes an empty image.
pub fn create_image(path: &Path) {
    tool(
        Command::new("qemu-img")
            .args(["create", "-q", "-f", "qcow2"])
            .arg(path)
            .arg("64M"),
    );
}

/// A libvirt of our own without a daemon; returns its URI. QEMU runs as root in it, because libvirt
/// asks QEMU anew what it can do (8 s) whenever its user may not open a `/dev/kvm` that is there.
pub fn libvirt_root(dir: &Path) -> String {
    let root = dir.join("libvirt");
    std::fs::create_dir_all(root.join("etc")).expect("a folder for libvirt");
    std::fs::write(
        root.join("etc/qemu.conf"),
        "user = \"root\"\ngroup = \"root\"\n",
    )
    .expect("libvirt's configuration");
    format!("qemu:///embed?root={}", root.display())
}

/// Runs a tool that must succeed; a missing one is named.
pub fn tool(command: &mut Command) -> Output {
    let output = command
        .output()
        .unwrap_or_else(|e| panic!("{:?} is needed: {e}", command.get_program()));
    assert!(
        output.status.success(),
        "{command:?}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}
