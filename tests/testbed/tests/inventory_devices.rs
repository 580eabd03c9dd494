//! The inventory of a machine with emulated devices, held against what other programs say of them
//! in the same machine: smartctl, hdparm, nvme, lscpu, dmidecode, lspci, ethtool, udevadm.
//!
//! The devices are QEMU's: an ATA disk on AHCI, an NVMe disk, a SCSI disk behind a RAID controller, one
//! with two paths, network cards. So ATA and NVMe commands are seen to reach a device and to come back.

use haulier::inventory::{Bus, DiskInfo, Machine};
use haulier_testbed::lab::Lab;
use haulier_testbed::product::Product;
use serde_json::Value;
use std::time::Duration;

const LONG: Duration = Duration::from_secs(240);

const DEVICES: &[&str] = &[
    "-smp",
    "4,sockets=2,cores=2,threads=1",
    "-smbios",
    "type=1,manufacturer=Dell Inc.,product=PowerEdge R640,serial=7XK3P52,\
     uuid=4c4c4544-0058-4b10-8033-b7c04f503532",
    "-blockdev",
    "driver=null-co,node-name=ata,size=3221225472,read-zeroes=on",
    "-device",
    "ide-hd,bus=ide.0,drive=ata,serial=ATA1,model=SAMSUNG-MZ7LH480,wwn=0x5002538e40a0b1c2",
    "-blockdev",
    "driver=null-co,node-name=nvme,size=5368709120,read-zeroes=on",
    "-device",
    "nvme,drive=nvme,serial=NVME1",
    "-blockdev",
    "driver=null-co,node-name=raid,size=7516192768,read-zeroes=on",
    "-device",
    "megasas,id=mega",
    "-device",
    "scsi-hd,bus=mega.0,drive=raid,serial=MEGA1",
    // One volume at two places. Not behind further adapters: with three of them QEMU 10.0 ends in an
    // assertion of its MSI-X.
    "-blockdev",
    "driver=null-co,node-name=volume,size=9663676416,read-zeroes=on",
    "-device",
    "scsi-hd,bus=mega.0,drive=volume,share-rw=on,serial=SAN1,wwn=0x600508b1001c4d3f",
    "-device",
    "scsi-hd,bus=mega.0,drive=volume,share-rw=on,serial=SAN1,wwn=0x600508b1001c4d3f",
    "-netdev",
    "user,id=a,restrict=on",
    "-device",
    "e1000e,netdev=a,mac=b0:26:28:aa:bb:01",
    "-netdev",
    "user,id=b,restrict=on",
    "-device",
    "virtio-net-pci,netdev=b,mac=b0:26:28:aa:bb:02,acpi-index=1",
    "-netdev",
    "user,id=c,restrict=on",
    // Slots are numbered by PCI Express itself: QEMU's ACPI calls them all 0.
    "-global",
    "ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off",
    "-device",
    "pcie-root-port,id=ports,chassis=2,slot=3",
    "-device",
    "e1000e,netdev=c,mac=b0:26:28:aa:bb:03,bus=ports",
];

/// Each program's words behind a line with its name. The first card has another address than its own, as
/// a bond gives it.
const SCRIPT: &str = "
    for turn in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
        [ -e /dev/sdd ] && [ -e /dev/nvme0n1 ] && break
        sleep 1
    done
    volume=
    for disk in sda sdb sdc sdd; do
        case $(readlink /sys/block/$disk) in */ata*) ata=$disk ;; esac
        case $(cat /sys/block/$disk/device/wwid) in
            naa.600508b1001c4d3f) volume=\"$volume --disk /dev/$disk\" ;;
        esac
    done
    ip link set eth0 address 02:00:00:00:00:07
    echo '== haulier';   haulier inventory --json
    echo '== smartctl';  smartctl -j -a -d sat /dev/$ata || [ $(( $? & 7 )) = 0 ]
    echo '== identify';  hdparm -I /dev/$ata
    echo '== native';    hdparm -N /dev/$ata || true
    echo '== nvme';      nvme smart-log -o json /dev/nvme0
    echo '== lscpu';     lscpu -J
    echo '== dmidecode'; dmidecode -s system-serial-number; dmidecode -s system-uuid
    echo '== memory';    dmidecode -t 17
    echo '== lspci';     lspci -D -n
    for card in eth0 eth1 eth2; do
        echo \"== $card\"
        ethtool -P $card
        udevadm test-builtin net_id /sys/class/net/$card
    done
    echo '== both'
    haulier capture $volume --to /tmp || echo \"ended with $?\"
    echo '== end'";

/// What was said behind the line `== name`.
fn section<'a>(said: &'a str, name: &str) -> &'a str {
    let begin = said
        .split_once(&format!("== {name}\n"))
        .unwrap_or_else(|| panic!("{name} is not in {said}"));
    begin.1.split("== ").next().unwrap_or_default()
}

fn disk<'a>(machine: &'a Machine, serial: &str) -> &'a DiskInfo {
    let mut disks = machine.disks.iter();
    disks
        .find(|disk| disk.serial.as_deref() == Some(serial))
        .unwrap_or_else(|| panic!("no {serial} among {:?}", machine.disks))
}

#[test]
fn other_programs_say_the_same_of_the_devices() {
    let product = Product::find().unwrap();
    let said = Lab::new()
        .program(&product.haulier)
        .tools(&[
            "smartctl",
            "hdparm",
            "nvme",
            "lscpu",
            "dmidecode",
            "lspci",
            "ethtool",
            "udevadm",
        ])
        .module("ahci")
        .module("sd_mod")
        .module("nvme")
        .module("megaraid_sas")
        .module("e1000e")
        .module("virtio_net")
        .qemu(DEVICES)
        .script(SCRIPT)
        .run(LONG)
        .unwrap();
    println!("{said}");
    let machine = Machine::from_json(section(&said, "haulier").as_bytes()).unwrap();
    ata_disk(&machine, &said);
    nvme_disk(&machine, &said);
    raid_volume(&machine);
    two_paths(&machine, &said);
    processors_and_memory(&machine, &said);
    cards_and_functions(&machine, &said);
}

/// Health by SMART RETURN STATUS, which comes back in registers, and attributes by SMART READ DATA.
fn ata_disk(machine: &Machine, said: &str) {
    let ata = disk(machine, "ATA1");
    assert_eq!((ata.bus, ata.driver.as_deref()), (Bus::Sata, Some("ahci")));
    let smart = ata.smart.as_ref().expect("SMART of the ATA disk");
    let other: Value = serde_json::from_str(section(said, "smartctl")).unwrap();
    assert_eq!(smart.healthy, other["smart_status"]["passed"].as_bool());
    assert_eq!(smart.healthy, Some(true));
    let attribute = |id: u64| {
        let table = other["ata_smart_attributes"]["table"].as_array().unwrap();
        let found = table.iter().find(|entry| entry["id"] == id);
        found.and_then(|entry| entry["raw"]["value"].as_u64())
    };
    assert_eq!(smart.power_on_hours, attribute(9));
    assert_eq!(smart.reallocated_sectors, attribute(5));
    assert_eq!(smart.pending_sectors, attribute(197));
    assert!(smart.power_on_hours.is_some() && smart.reallocated_sectors.is_some());
    let celsius = other["temperature"]["current"].as_i64();
    assert_eq!(smart.temperature_celsius.map(i64::from), celsius);
    assert!(celsius.is_some());
    assert_eq!(
        Some(ata.size_bytes),
        other["user_capacity"]["bytes"].as_u64()
    );
    let identify = section(said, "identify");
    assert!(
        identify.contains("Serial Number:      ATA1") && identify.contains("SAMSUNG-MZ7LH480"),
        "{identify}"
    );
    // QEMU answers READ NATIVE MAX ADDRESS, which hdparm asks in any case, but does not say that it has
    // the feature, and then it is not asked.
    let native = section(said, "native");
    let sectors = ata.size_bytes / 512;
    assert!(native.contains(&format!("{sectors}/{sectors}")), "{native}");
    assert!(!identify.contains("Host Protected Area"), "{identify}");
    assert_eq!(ata.hidden_area, None);
}

fn nvme_disk(machine: &Machine, said: &str) {
    let nvme = disk(machine, "NVME1");
    assert_eq!((nvme.bus, nvme.size_bytes), (Bus::Nvme, 5 << 30));
    let controller = nvme.controller.as_ref().expect("its controller");
    let listed = format!("{} 0108: ", controller.pci_address);
    assert!(section(said, "lspci").contains(&listed), "{controller:?}");
    let smart = nvme.smart.as_ref().expect("the NVMe disk's log");
    let other: Value = serde_json::from_str(section(said, "nvme")).unwrap();
    assert_eq!(
        smart.healthy,
        other["critical_warning"].as_u64().map(|bits| bits == 0)
    );
    let kelvin = other["temperature"].as_i64().unwrap();
    assert_eq!(smart.temperature_celsius.map(i64::from), Some(kelvin - 273));
    // The numbers of 128 bits are text in newer versions.
    let number = |key: &str| {
        let value = &other[key];
        value
            .as_u64()
            .or_else(|| value.as_str()?.replace(',', "").parse().ok())
    };
    assert_eq!(smart.power_on_hours, number("power_on_hours"));
    assert_eq!(smart.media_errors, number("media_errors"));
    let used = number("percent_used").or_else(|| number("percentage_used"));
    assert_eq!(smart.used_percent.map(u64::from), used);
}

/// A SCSI disk behind a RAID controller has no ATA answers, and asking does no harm.
fn raid_volume(machine: &Machine) {
    let volume = disk(machine, "MEGA1");
    assert_eq!(
        (volume.bus, volume.driver.as_deref()),
        (Bus::Sas, Some("megaraid_sas"))
    );
    assert_eq!(volume.smart, None);
    assert_eq!(volume.hidden_area, None);
    let controller = volume.controller.as_ref().expect("its controller");
    assert_eq!(
        controller
            .kind
            .and_then(|kind| serde_json::to_value(kind).ok()),
        Some("raid".into())
    );
}

fn two_paths(machine: &Machine, said: &str) {
    let with_serial = |disk: &&DiskInfo| disk.serial.as_deref() == Some("SAN1");
    assert_eq!(machine.disks.iter().filter(with_serial).count(), 1);
    let volume = disk(machine, "SAN1");
    assert_eq!(volume.paths.len(), 2, "{volume:?}");
    assert_eq!(volume.paths[0], volume.name);
    let refusal = section(said, "both");
    let [first, second] = [0, 1].map(|index| format!("/dev/{}", volume.paths[index]));
    let sentence = format!("{first} and {second} are two paths of one disk");
    assert!(refusal.contains(&sentence), "{refusal}");
    // Refused, before anything was written.
    assert!(refusal.contains("ended with 4"), "{refusal}");
}

fn processors_and_memory(machine: &Machine, said: &str) {
    let other: Value = serde_json::from_str(section(said, "lscpu")).unwrap();
    let field = |name: &str| find_field(&other["lscpu"], name).unwrap_or_default();
    let cpu = &machine.cpu;
    assert_eq!(cpu.sockets.to_string(), field("Socket(s):"));
    assert_eq!(
        cpu.cores_per_socket.to_string(),
        field("Core(s) per socket:")
    );
    assert_eq!(
        cpu.threads_per_core.to_string(),
        field("Thread(s) per core:")
    );
    assert_eq!(cpu.threads().to_string(), field("CPU(s):"));
    assert_eq!(cpu.model.as_deref(), Some(&*field("Model name:")));
    assert_eq!(cpu.vendor.as_deref(), Some(&*field("Vendor ID:")));
    let mut firmware = section(said, "dmidecode").lines();
    assert_eq!(machine.smbios.serial.as_deref(), firmware.next());
    assert_eq!(
        machine.smbios.uuid,
        firmware.next().map(str::to_ascii_lowercase)
    );
    assert!(section(said, "memory").contains("Size: 1 GB"));
    assert_eq!(machine.memory.installed_bytes, Some(1 << 30));
}

/// lscpu nests its fields, deeper in newer versions.
fn find_field(fields: &Value, name: &str) -> Option<String> {
    fields.as_array()?.iter().find_map(|entry| {
        if entry["field"] == name {
            return entry["data"].as_str().map(str::to_owned);
        }
        find_field(&entry["children"], name)
    })
}

fn cards_and_functions(machine: &Machine, said: &str) {
    let functions: Vec<String> = machine
        .pci
        .iter()
        .map(|function| {
            format!(
                "{} {}: {}",
                function.address,
                &function.class[..4],
                function.id
            )
        })
        .collect();
    // "0000:00:02.0 0108: 1b36:0010 (rev 02)"
    let listed: Vec<&str> = section(said, "lspci")
        .lines()
        .filter_map(|line| line.split(" (").next())
        .filter(|line| !line.is_empty())
        .collect();
    assert_eq!(functions, listed);
    for nic in &machine.nics {
        let other = section(said, &nic.name);
        let mac = nic.mac.as_deref().unwrap();
        assert!(
            other.contains(&format!("Permanent address: {mac}")),
            "{mac}: {other}"
        );
        let names = &nic.name_candidates;
        for (key, name) in [
            ("ID_NET_NAME_ONBOARD", &names.onboard),
            ("ID_NET_NAME_SLOT", &names.slot),
            ("ID_NET_NAME_PATH", &names.path),
        ] {
            let told = other
                .lines()
                .find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
            assert_eq!(name.as_deref(), told, "{key} of {}: {other}", nic.name);
        }
    }
    let drivers: Vec<_> = machine
        .nics
        .iter()
        .map(|nic| nic.driver.as_deref())
        .collect();
    let (onboard, slot): (Vec<_>, Vec<_>) = (machine.nics.iter())
        .map(|nic| {
            (
                nic.name_candidates.onboard.as_deref(),
                nic.name_candidates.slot.as_deref(),
            )
        })
        .unzip();
    assert!(onboard.contains(&Some("eno1")), "{onboard:?}");
    assert!(slot.contains(&Some("ens3")), "{slot:?}");
    for driver in ["e1000e", "virtio_net"] {
        assert!(drivers.contains(&Some(driver)), "{drivers:?}");
    }
}
