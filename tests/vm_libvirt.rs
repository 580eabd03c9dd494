//! The domain for libvirt, held against libvirt's schema and against libvirt itself.

mod vm_common;

use haulier::inventory::{Bus, Tpm};
use haulier::vm::{Hypervisor, VmDisk, VmPlan, libvirt::domain_xml};
use proptest::prelude::*;
use serde_json::json;
use std::fs;
use std::process::Command;
use vm_common::{BUSES, add_disk, libvirt_root, local_time, server, tool};

#[test]
fn a_uefi_server_with_a_sata_and_an_nvme_disk() {
    let mut machine = server("uefi");
    let disks = [
        add_disk(&mut machine, Bus::Sata, "ahci", 512),
        add_disk(&mut machine, Bus::Nvme, "nvme", 4096),
    ];
    let mut plan = VmPlan::new(&machine, &disks);
    plan.nvram = Some("VARS.fd".into());
    let expected = include_str!("vm_libvirt/uefi-sata-nvme.xml");
    assert_eq!(domain_xml(&plan), expected);
}

#[test]
fn libvirt_defines_every_bus_under_both_firmwares() {
    let dir = tempfile::tempdir().unwrap();
    let mut commands = Vec::new();
    for firmware in ["bios", "uefi"] {
        let mut all = server(firmware);
        let mut all_disks: Vec<VmDisk> = Vec::new();
        for (index, (bus, driver)) in BUSES.into_iter().enumerate() {
            for sector in [512, 4096] {
                let mut machine = server(firmware);
                machine.smbios.uuid = None;
                machine.name = format!("{firmware}-{index}-{sector}");
                let disks = [add_disk(&mut machine, bus, driver, sector)];
                let mut plan = VmPlan::new(&machine, &disks);
                plan.hypervisor = Hypervisor::Tcg;
                commands.push(validated(dir.path(), &plan));
                all_disks.push(add_disk(&mut all, bus, driver, sector));
            }
        }
        // More than one controller has room for.
        for _ in 0..7 {
            all_disks.push(add_disk(&mut all, Bus::Sata, "ahci", 512));
            all_disks.push(add_disk(&mut all, Bus::Ide, "ata_piix", 512));
        }
        all.name = format!("{firmware}-all");
        all.smbios.uuid = None;
        let mut plan = VmPlan::new(&all, &all_disks);
        plan.hypervisor = Hypervisor::Tcg;
        commands.push(validated(dir.path(), &plan));
    }
    for plan in large_servers() {
        commands.push(validated(dir.path(), &plan));
    }
    for version in ["1.2", "2.0"] {
        let mut machine = server("uefi");
        machine.smbios.uuid = None;
        machine.name = format!("uefi-tpm-{version}");
        machine.tpm = Some(Tpm {
            version: Some(version.into()),
        });
        let disks = [add_disk(&mut machine, Bus::Sata, "ahci", 512)];
        let mut plan = VmPlan::new(&machine, &disks);
        plan.hypervisor = Hypervisor::Tcg;
        assert!(domain_xml(&plan).contains(&format!("version=\"{version}\"")));
        commands.push(validated(dir.path(), &plan));
    }
    let root = libvirt_root(dir.path());
    let output = tool(
        Command::new("virsh")
            .args(["-q", "-c", &root])
            .arg(format!("{}; list --all --name", commands.join("; "))),
    );
    let said = String::from_utf8_lossy(&output.stdout);
    let defined = said
        .lines()
        .filter(|l| l.starts_with("bios-") || l.starts_with("uefi-"))
        .count();
    assert_eq!(defined, commands.len(), "{said}");
}

#[test]
fn a_clock_on_local_time_counts_the_machines_zone_and_not_the_hosts() {
    let dir = tempfile::tempdir().unwrap();
    let windows = |minutes: i32| json!({"name": "X Standard Time", "utc_offset_minutes": minutes});
    for (kind, zone, expected) in [
        (
            "linux",
            json!({"name": "Europe/Berlin"}),
            "offset=\"timezone\" timezone=\"Europe/Berlin\"",
        ),
        (
            "windows",
            windows(120),
            "offset=\"variable\" basis=\"utc\" adjustment=\"7200\"",
        ),
        (
            "windows",
            windows(-210),
            "offset=\"variable\" basis=\"utc\" adjustment=\"-12600\"",
        ),
        ("windows", json!(null), "offset=\"localtime\""),
        ("linux", json!({"name": "../x"}), "offset=\"localtime\""),
    ] {
        let mut machine = server("bios");
        let disks = [add_disk(&mut machine, Bus::Sata, "ahci", 512)];
        local_time(&mut machine, kind, zone);
        let plan = VmPlan::new(&machine, &disks);
        let xml = domain_xml(&plan);
        assert!(xml.contains(&format!("<clock {expected}>")), "{xml}");
        validated(dir.path(), &plan);
    }
}

/// Servers that a controller, a PCI bus or an interrupt has no room for.
fn large_servers() -> Vec<VmPlan> {
    let large = |name: &str, disks: usize, bus, driver, cores| {
        let mut machine = server("bios");
        machine.smbios.uuid = None;
        machine.name = format!("bios-{name}");
        machine.cpu.cores_per_socket = cores;
        let disks: Vec<VmDisk> = (0..disks)
            .map(|_| add_disk(&mut machine, bus, driver, 512))
            .collect();
        let mut plan = VmPlan::new(&machine, &disks);
        plan.hypervisor = Hypervisor::Tcg;
        plan
    };
    let mptsas = large("mptsas", 12, Bus::Sas, "mptsas", 2);
    assert_eq!(domain_xml(&mptsas).matches("lsisas1068").count(), 2);
    let processors = large("processors", 1, Bus::Sata, "ahci", 256);
    assert!(domain_xml(&processors).contains("<ioapic driver=\"qemu\"/>"));
    vec![
        mptsas,
        large("megasas", 66, Bus::Sas, "megaraid_sas", 2),
        large("nvme", 30, Bus::Nvme, "nvme", 2),
        large("ide-processors", 1, Bus::Ide, "ata_piix", 256),
        processors,
    ]
}

#[test]
fn much_memory_takes_the_address_bits_of_the_host() {
    let dir = tempfile::tempdir().unwrap();
    for (gib, asked) in [(768, false), (2048, true)] {
        let mut machine = server("bios");
        machine.memory.installed_bytes = Some(gib << 30);
        let disks = [add_disk(&mut machine, Bus::Sata, "ahci", 512)];
        let mut plan = VmPlan::new(&machine, &disks);
        validated(dir.path(), &plan);
        let element = "<maxphysaddr mode=\"passthrough\"/>";
        assert_eq!(domain_xml(&plan).contains(element), asked, "{gib} GiB");
        plan.hypervisor = Hypervisor::Tcg;
        assert!(!domain_xml(&plan).contains(element));
    }
}

/// Writes the domain, checks it against the schema, returns virsh's command for it.
fn validated(dir: &std::path::Path, plan: &VmPlan) -> String {
    let path = dir.join(format!("{}.xml", plan.name));
    fs::write(&path, domain_xml(plan)).unwrap();
    tool(Command::new("virt-xml-validate").arg(&path).arg("domain"));
    format!("define --validate {}", path.display())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn no_string_of_a_firmware_leaves_its_place_in_the_domain(text in r#"(.|\n|[<>&'"]|]]>){0,30}"#) {
        let mut machine = server("bios");
        machine.name = text.clone();
        machine.smbios.product = Some(text.clone());
        machine.smbios.serial = Some(text.clone());
        let mut disks = [add_disk(&mut machine, Bus::Sata, "ahci", 512)];
        machine.disks[0].serial = Some(text.clone());
        disks[0].source.serial = Some(text.clone());
        let xml = domain_xml(&VmPlan::new(&machine, &disks));
        let shown: String = text
            .chars()
            .map(|c| if (' '..='~').contains(&c) { c } else { '?' })
            .collect();
        let seen = xmllint(&xml, "concat(count(//*), '|', //system/entry[@name='product'])");
        let (elements, product) = seen.split_once('|').unwrap();
        prop_assert_eq!(product, shown.trim());
        // Those of a harmless one, without the entries that an empty string leaves out.
        if !shown.trim().is_empty() {
            machine.smbios.product = Some("x".into());
            machine.smbios.serial = Some("x".into());
            let harmless = domain_xml(&VmPlan::new(&machine, &disks));
            prop_assert_eq!(elements, xmllint(&harmless, "count(//*)"));
        }
    }
}

/// What an independent parser finds in a document.
fn xmllint(xml: &str, xpath: &str) -> String {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("domain.xml");
    fs::write(&path, xml).unwrap();
    let output = tool(Command::new("xmllint").args(["--xpath", xpath]).arg(&path));
    String::from_utf8(output.stdout)
        .unwrap()
        .trim_end_matches('\n')
        .to_owned()
}
