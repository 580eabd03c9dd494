//! The manifests for KubeVirt, held against the published schemas of KubeVirt and CDI
//! (`vm_kubevirt/recipe.sh` made them) by PyYAML and Python's jsonschema.

mod import_common;
mod python_site;

use haulier::import::Target;
use haulier::inventory::Bus;
use haulier::vm::kubevirt::{Files, buses, files};
use haulier::vm::{DiskBus, VmDisk, VmFirmware, VmPlan};
use import_common::{
    BUSES, Programs, add_disk, capture_of_empty_disk, filled, import, local_time, names, options,
    server, shellcheck, tpm,
};
use proptest::prelude::*;
use python_site::Answers;
use serde_json::{Value, json};
use std::fs;
use std::sync::{LazyLock, Mutex};

/// Reads a manifest; the documents, each held against its schema, or what is wrong with them.
fn read(manifest: &str) -> Result<Vec<Value>, String> {
    static READER: LazyLock<Mutex<Answers>> =
        LazyLock::new(|| Mutex::new(Answers::of("vm_kubevirt/reads.py")));
    let mut reader = READER.lock().unwrap_or_else(|e| e.into_inner());
    match serde_json::from_str(&reader.ask(&json!(manifest).to_string())).unwrap() {
        Value::Array(documents) => Ok(documents),
        wrong => Err(wrong.to_string()),
    }
}

/// Reads all documents; returns the machine, which is the last.
fn validated(written: &Files) -> Value {
    let documents = read(&written.manifest).unwrap_or_else(|e| panic!("{e}: {}", written.manifest));
    let machine = documents.last().unwrap();
    assert_eq!(machine["kind"], "VirtualMachine");
    webhook(machine);
    machine.clone()
}

/// What is a plain string to the schema and is checked by KubeVirt's webhook.
fn webhook(machine: &Value) {
    let spec = &machine["spec"]["template"]["spec"];
    assert_eq!(machine["spec"]["runStrategy"], "Halted");
    let label = |text: &Value| {
        let text = text.as_str().unwrap();
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        assert!(
            !text.is_empty() && text.len() <= 63 && text.chars().all(plain),
            "{text}"
        );
        assert!(!text.starts_with('-') && !text.ends_with('-'), "{text}");
    };
    let serial = |text: &Value| {
        let text = text.as_str().unwrap();
        let plain = |c: char| c.is_ascii_alphanumeric() || "_.+-".contains(c);
        assert!(
            !text.is_empty() && text.len() <= 256 && text.chars().all(plain),
            "{text}"
        );
    };
    label(&machine["metadata"]["name"]);
    let domain = &spec["domain"];
    let mut orders = Vec::new();
    for disk in domain["devices"]["disks"].as_array().unwrap() {
        label(&disk["name"]);
        let bus = disk["disk"]["bus"].as_str().unwrap();
        assert!(["sata", "virtio", "scsi", "usb"].contains(&bus), "{bus}");
        if !disk["serial"].is_null() {
            serial(&disk["serial"]);
        }
        let size = &disk["blockSize"]["custom"];
        if !size.is_null() {
            assert!(
                size["logical"].as_u64() <= size["physical"].as_u64(),
                "{size}"
            );
            assert!(bus != "sata" || size["logical"] == 512, "{disk}");
        }
        orders.push(disk["bootOrder"].as_u64().unwrap());
        let volumes = spec["volumes"].as_array().unwrap();
        assert!(volumes.iter().any(|volume| volume["name"] == disk["name"]));
    }
    orders.sort_unstable();
    assert!(
        orders
            .iter()
            .zip(1..)
            .all(|(order, expected)| *order == expected),
        "{orders:?}"
    );
    if domain["firmware"]["bootloader"]["efi"]["secureBoot"] == true {
        assert_eq!(domain["features"]["smm"]["enabled"], true);
    }
    if !domain["firmware"]["serial"].is_null() {
        serial(&domain["firmware"]["serial"]);
    }
    for card in domain["devices"]["interfaces"]
        .as_array()
        .into_iter()
        .flatten()
    {
        assert!(["e1000e", "virtio"].contains(&card["model"].as_str().unwrap()));
    }
}

#[test]
fn the_schemas_refuse_wrong_keys_and_types() {
    let mut machine = server("uefi");
    let disks = [add_disk(&mut machine, Bus::Sata, "ahci", 512)];
    let good = validated(&files(&VmPlan::new(&machine, &disks)));
    let domain = "/spec/template/spec/domain";
    for (place, wrong) in [
        ("cpu", json!({"sockets": "one"})),
        (
            "devices",
            json!({"disks": [{"name": "a", "disk": {"buss": "sata"}}]}),
        ),
        ("firmware", json!({"bootloader": {"uefi": {}}})),
        ("memory", json!({"guest": 1})),
    ] {
        let mut bad = good.clone();
        *bad.pointer_mut(&format!("{domain}/{place}")).unwrap() = wrong;
        // JSON is YAML.
        let wrong = read(&bad.to_string()).unwrap_err();
        assert!(wrong.contains("ValidationError"), "{place}: {wrong}");
    }
}

#[test]
fn every_bus_firmware_and_sector_is_valid() {
    for firmware in ["bios", "uefi"] {
        let mut all = server(firmware);
        let mut all_disks: Vec<VmDisk> = Vec::new();
        for (bus, driver) in BUSES {
            for sector in [512, 4096] {
                let mut machine = server(firmware);
                let disks = [add_disk(&mut machine, bus, driver, sector)];
                let mut plan = VmPlan::new(&machine, &disks);
                validated(&files(&plan));
                if firmware == "uefi" {
                    plan.firmware = VmFirmware::Uefi { secure_boot: true };
                    validated(&files(&plan));
                }
                all_disks.push(add_disk(&mut all, bus, driver, sector));
            }
        }
        validated(&files(&VmPlan::new(&all, &all_disks)));
    }
}

#[test]
fn what_the_machine_is_arrives() {
    let mut machine = server("uefi");
    tpm(&mut machine, "1.2");
    let disks = [
        add_disk(&mut machine, Bus::Nvme, "nvme", 4096),
        add_disk(&mut machine, Bus::Sata, "ahci", 512),
    ];
    let plan = VmPlan::new(&machine, &disks);
    let plan = plan.with_boot_first(|disk| disk.file.ends_with("disk-1.qcow2"));
    assert_eq!(buses(&plan), [DiskBus::VirtioBlk, DiskBus::Sata]);
    let written = files(&plan);
    let machine = validated(&written);
    let domain = &machine["spec"]["template"]["spec"]["domain"];
    assert_eq!(domain["cpu"]["cores"], 2);
    assert_eq!(domain["memory"]["guest"], "262144Ki");
    assert_eq!(
        domain["firmware"]["uuid"],
        "4c4c4544-0058-4b10-8033-b7c04f503532"
    );
    assert_eq!(domain["firmware"]["serial"], "7XK3P52");
    assert_eq!(domain["chassis"]["serial"], "7XK3P52");
    assert_eq!(domain["devices"]["tpm"], json!({}));
    let disks = &domain["devices"]["disks"];
    assert_eq!(disks[0]["bootOrder"], 2);
    assert_eq!(disks[0]["disk"]["bus"], "virtio");
    assert_eq!(disks[0]["blockSize"]["custom"]["logical"], 4096);
    assert_eq!(disks[1]["disk"]["bus"], "sata");
    assert_eq!(disks[1]["serial"], "S45NNA0M123401");
    assert_eq!(
        domain["devices"]["interfaces"][0]["macAddress"],
        "b0:26:28:aa:bb:01"
    );
    let notes = written.notes.join("\n");
    for words in [
        "disk-0.qcow2 comes to VIRTIO",
        "b0:26:28:aa:bb:02",
        "vendor and product",
        "the TPM is of version 2.0",
        "the TPM forgets",
    ] {
        assert!(notes.contains(words), "{words}: {notes}");
    }
}

#[test]
fn the_script_applies_and_uploads() {
    let dir = tempfile::tempdir().unwrap();
    let capture = capture_of_empty_disk(dir.path(), "uefi");
    let out = dir.path().join("vm");
    let said = import(&options(&capture, Target::Kubevirt, &out)).unwrap();
    assert_eq!(names(&out), ["disk-0.qcow2", "upload.sh", "vm.yaml"]);
    assert!(
        said.iter()
            .any(|(_, line)| line.contains("KubeVirt takes no UEFI variables"))
    );
    shellcheck(&fs::read_to_string(out.join("upload.sh")).unwrap());
    let clients = Programs::new(&[("kubectl", ""), ("virtctl", "")]);
    let calls = clients.run_at(
        &out.join("upload.sh"),
        &["--insecure"],
        &[("NAMESPACE", "two words")],
    );
    let expected = [
        vec![
            "kubectl",
            "apply",
            "--namespace",
            "two words",
            "-f",
            "vm.yaml",
        ],
        vec![
            "virtctl",
            "image-upload",
            "dv",
            "r640-7xk3p52-disk-0",
            "--namespace",
            "two words",
            "--no-create",
            "--image-path",
            "disk-0.qcow2",
            "--insecure",
        ],
    ];
    assert_eq!(calls, expected);
    let manifest = fs::read_to_string(out.join("vm.yaml")).unwrap();
    let volume = &read(&manifest).unwrap()[0];
    assert_eq!(volume["metadata"]["name"], "r640-7xk3p52-disk-0");
    let storage = &volume["spec"]["storage"]["resources"]["requests"]["storage"];
    assert_eq!(storage, &import_common::DISK_BYTES.to_string());
}

#[test]
fn the_clock_counts_the_machines_zone_and_static_addresses_are_told_of() {
    let made = |kind: &str, zone: Value| {
        let mut machine = server("uefi");
        let disks = [add_disk(&mut machine, Bus::Sata, "ahci", 512)];
        local_time(&mut machine, kind, zone);
        let network = json!({"interfaces": [{"name": "enp1s0", "addresses": ["192.0.2.7/24"]}]});
        let systems = machine.installed.as_mut().unwrap();
        systems[0].network = serde_json::from_value(network).unwrap();
        let written = files(&VmPlan::new(&machine, &disks));
        let machine = validated(&written);
        let clock = machine["spec"]["template"]["spec"]["domain"]["clock"].clone();
        (clock, written.notes.join("\n"))
    };
    let (clock, notes) = made("linux", json!({"name": "Europe/Berlin"}));
    assert_eq!(clock["timezone"], "Europe/Berlin");
    assert_eq!(clock["utc"], Value::Null);
    assert!(!notes.contains("clock"), "{notes}");
    assert!(notes.contains("static addresses (192.0.2.7/24)"), "{notes}");
    let (clock, notes) = made("windows", json!({"utc_offset_minutes": -300}));
    assert_eq!(clock["utc"], json!({"offsetSeconds": -18_000}));
    assert!(!notes.contains("clock"), "{notes}");
    let (clock, notes) = made("windows", json!(null));
    assert_eq!(clock["utc"], json!({}));
    assert!(notes.contains("set clock.timezone"), "{notes}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn no_string_of_a_firmware_leaves_its_place(
        text in r#"[ -~\n\r\t]{0,30}|.{0,20}|(: |- |#|!!|&|\*|\{|\}|\n---\n|'|"|%|@|`|yes|~|0x1|\|){0,8}|.{300}"#,
    ) {
        let run = |text: &str| {
            let (machine, disks) = filled(text);
            let written = files(&VmPlan::new(&machine, &disks));
            let clients = Programs::new(&[("kubectl", ""), ("virtctl", "")]);
            let calls = clients.run(&written.upload, &[], &[]);
            (validated(&written), calls.iter().map(Vec::len).collect::<Vec<_>>())
        };
        let ((found, calls), (harmless, expected)) = (run(&text), run("harmless"));
        prop_assert_eq!(calls, expected);
        let shown: String =
            text.chars().map(|c| if (' '..='~').contains(&c) { c } else { '?' }).collect();
        if !shown.trim().is_empty() {
            prop_assert_eq!(shape(&found), shape(&harmless));
            let asset = &found["spec"]["template"]["spec"]["domain"]["chassis"]["asset"];
            prop_assert_eq!(asset, shown.trim());
        }
    }
}

/// All places of a document, without what is there.
fn shape(value: &Value) -> Vec<String> {
    let within = |key: &str, value: &Value| -> Vec<String> {
        let mut places = vec![key.to_owned()];
        places.extend(shape(value).iter().map(|place| format!("{key}/{place}")));
        places
    };
    match value {
        Value::Object(map) => map
            .iter()
            .flat_map(|(key, value)| within(key, value))
            .collect(),
        Value::Array(list) => list.iter().flat_map(|value| within("*", value)).collect(),
        _ => Vec::new(),
    }
}
