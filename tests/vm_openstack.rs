//! The files for OpenStack, held against Nova's own reader of images, against a Glance, and against the
//! parsers of OpenStack's client.

mod import_common;
mod python_site;

use haulier::import::Target;
use haulier::inventory::Bus;
use haulier::vm::openstack::{buses, files};
use haulier::vm::{DiskBus, VmDisk, VmPlan};
use import_common::{
    BUSES, Programs, add_disk, capture, filled, import, installed, local_time, names, options,
    server, shellcheck, tool, tpm,
};
use proptest::prelude::*;
use python_site::python;
use serde_json::{Value, json};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::process::Command;

/// Properties of an image's document that Glance itself knows.
const GLANCE: [&str; 5] = [
    "name",
    "disk_format",
    "container_format",
    "min_disk",
    "min_ram",
];

#[test]
fn nova_takes_every_property_of_every_bus_and_firmware() {
    let dir = tempfile::tempdir().unwrap();
    let mut paths = Vec::new();
    let mut documents: Vec<Value> = Vec::new();
    for firmware in ["bios", "uefi"] {
        for (bus, driver) in BUSES {
            for rtc in ["utc", "localtime"] {
                let mut machine = server(firmware);
                machine.rtc = serde_json::from_value(json!(rtc)).unwrap();
                match rtc {
                    "utc" => installed(&mut machine, "linux", "debian", "13"),
                    _ => installed(&mut machine, "windows", "", "10.0.17763"),
                }
                let disks = [add_disk(&mut machine, bus, driver, 512)];
                for chosen in [None, Some(DiskBus::VirtioScsi)] {
                    let mut plan = VmPlan::new(&machine, &disks);
                    plan.firmware = match (firmware, chosen) {
                        ("uefi", Some(_)) => haulier::vm::VmFirmware::Uefi { secure_boot: true },
                        _ => plan.firmware,
                    };
                    if chosen.is_some() && rtc == "utc" {
                        plan.system = None;
                    }
                    if let Some(bus) = chosen {
                        plan = plan.with_disk_bus(bus).unwrap();
                    }
                    let image = files(&plan).images.remove(0);
                    let path = dir.path().join(format!("{}.json", paths.len()));
                    fs::write(&path, &image).unwrap();
                    documents.push(serde_json::from_str(&image).unwrap());
                    paths.push(path);
                }
            }
        }
    }
    let said = python(
        "vm_openstack/nova_reads.py",
        |python| python.args(&paths),
        "",
    );
    let understood: Vec<Value> = serde_json::from_str(&said).unwrap();
    assert_eq!(understood.len(), documents.len());
    for (understood, document) in understood.iter().zip(&documents) {
        for (key, value) in document.as_object().unwrap() {
            let glance = ["disk_format", "container_format"].contains(&key.as_str());
            assert!(
                glance || &understood[key] == value,
                "{key}: {understood} {document}"
            );
            assert!(
                value.is_string() || GLANCE.contains(&key.as_str()),
                "{key} is no text"
            );
        }
    }
}

/// A server with a boot disk behind a data disk, and the stand-in for the client.
fn two_disks(firmware: &str) -> (VmPlan, Programs) {
    let mut machine = server(firmware);
    tpm(&mut machine, "2.0");
    let disks = [
        add_disk(&mut machine, Bus::Nvme, "nvme", 4096),
        add_disk(&mut machine, Bus::Sata, "ahci", 512),
    ];
    let plan = VmPlan::new(&machine, &disks);
    let plan = plan.with_boot_first(|disk| disk.file.ends_with("disk-1.qcow2"));
    (plan, client())
}

/// Gives each thing a name that shows what it was made of.
fn client() -> Programs {
    let then = r#"case "$1 $2" in
      "volume show") echo available ;;
      *) for last; do :; done; echo "id-of-$last" ;;
    esac"#;
    Programs::new(&[("openstack", then)])
}

#[test]
fn the_clients_own_parsers_take_every_command_of_the_script() {
    let (plan, client) = two_disks("uefi");
    let script = files(&plan).create;
    shellcheck(&script);
    let calls = client.run(&script, &["--key-name", "mine"], &[("NETWORK", "lan 1")]);
    let words: Vec<&[String]> = calls.iter().map(|call| &call[1..]).collect();
    let said = python(
        "vm_openstack/client_parses.py",
        |python| python,
        &json!(words).to_string(),
    );
    let meant: Vec<Value> = serde_json::from_str(&said).unwrap();
    let of = |command: &str| -> Vec<&Value> {
        meant
            .iter()
            .filter(|one| one["command"] == command)
            .collect()
    };
    let images = of("image create");
    assert_eq!(images.len(), 2);
    assert_eq!(images[0]["filename"], "disk-0.qcow2");
    assert_eq!(images[1]["properties"]["hw_firmware_type"], "uefi");
    assert_eq!(images[1]["properties"]["hw_disk_bus"], "sata");
    assert_eq!(images[1]["min_disk"], 1);
    let ports = of("port create");
    let macs: Vec<_> = ports.iter().map(|port| &port["mac_address"]).collect();
    assert_eq!(macs, ["b0:26:28:aa:bb:01", "b0:26:28:aa:bb:02"]);
    assert!(ports.iter().all(|port| port["network"] == "lan 1"));
    let flavor = of("flavor create")[0];
    assert_eq!((&flavor["vcpus"], &flavor["ram"]), (&json!(2), &json!(256)));
    assert_eq!(of("volume create")[0]["image"], "id-of-R640-7XK3P52-disk-0");
    let server = of("server create")[0];
    assert_eq!(server["image"], "id-of-R640-7XK3P52-disk-1");
    assert_eq!(server["flavor"], "id-of-R640-7XK3P52");
    assert_eq!(server["key_name"], "mine");
    assert_eq!(server["nics"].as_array().unwrap().len(), 2);
    let device = &server["block_devices"][0];
    assert_eq!(device["uuid"], "id-of-R640-7XK3P52-disk-0");
    assert_eq!(
        (&device["boot_index"], &device["disk_bus"]),
        (&json!("1"), &json!("sata"))
    );
}

#[test]
fn a_machine_without_cards_asks_for_no_network_at_all() {
    let mut machine = server("bios");
    machine.nics.clear();
    let disks = [add_disk(&mut machine, Bus::Sata, "ahci", 512)];
    let script = files(&VmPlan::new(&machine, &disks)).create;
    shellcheck(&script);
    // The client writes down which version of the API it is told to use.
    let then = r#"[ "$1" != server ] || printf '1\0version\0%s\0' "$OS_COMPUTE_API_VERSION" >> "$RECORDED"
    echo id"#;
    let client = Programs::new(&[("openstack", then)]);
    for (given, expected) in [("", "2.37"), ("2.90", "2.90")] {
        let calls = client.run(&script, &[], &[("OS_COMPUTE_API_VERSION", given)]);
        let (version, calls) = calls.split_last().unwrap();
        assert_eq!(version[1], expected);
        let words: Vec<&[String]> = calls.iter().map(|call| &call[1..]).collect();
        let said = python(
            "vm_openstack/client_parses.py",
            |python| python,
            &json!(words).to_string(),
        );
        let meant: Vec<Value> = serde_json::from_str(&said).unwrap();
        let server = meant.last().unwrap();
        assert_eq!(server["command"], "server create");
        assert_eq!(server["nics"], json!(["none"]));
        assert!(meant.iter().all(|one| one["command"] != "port create"));
    }
}

#[test]
fn a_clock_on_local_time_names_the_zone_of_the_host() {
    let mut machine = server("bios");
    let disks = [add_disk(&mut machine, Bus::Sata, "ahci", 512)];
    local_time(&mut machine, "windows", json!({"utc_offset_minutes": 120}));
    let notes = files(&VmPlan::new(&machine, &disks)).notes.join("\n");
    assert!(
        notes.contains("in the machine's zone, UTC+02:00 when it was captured"),
        "{notes}"
    );
}

#[test]
fn the_script_says_what_is_missing_and_takes_a_flavor_that_is_there() {
    let (plan, client) = two_disks("bios");
    let script = files(&plan).create;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("create.sh");
    fs::write(&path, &script).unwrap();
    let output = client.output(&path, &[], &[]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        !output.status.success() && said.contains("in NETWORK"),
        "{said}"
    );
    let none = [("OPENSTACK", "no-such-client"), ("NETWORK", "lan")];
    let output = client.output(&path, &[], &none);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("there is no no-such-client here"), "{said}");
    let calls = client.run(&script, &[], &[("NETWORK", "lan"), ("FLAVOR", "m1.large")]);
    assert!(calls.iter().all(|call| call[1] != "flavor"));
    assert!(calls.last().unwrap().contains(&"m1.large".to_owned()));
}

#[test]
fn what_is_installed_is_said_and_decides_the_clock() {
    let made = |kind: &str, rtc: &str| {
        let mut machine = server("bios");
        let disks = [add_disk(&mut machine, Bus::Sata, "ahci", 512)];
        machine.rtc = serde_json::from_value(json!(rtc)).unwrap();
        if !kind.is_empty() {
            installed(&mut machine, kind, "debian", "6.1.7601");
        }
        let written = files(&VmPlan::new(&machine, &disks));
        let image: Value = serde_json::from_str(&written.images[0]).unwrap();
        let noted = written.notes.iter().any(|note| note.contains("clock"));
        let text = |key: &str| image[key].as_str().unwrap_or_default().to_owned();
        (text("os_type"), text("os_distro"), noted)
    };
    for (kind, rtc, os_type, os_distro, noted) in [
        ("linux", "utc", "linux", "debian", false),
        ("linux", "localtime", "linux", "debian", true),
        ("windows", "localtime", "windows", "windows", true),
        ("windows", "utc", "windows", "windows", true),
        ("", "utc", "", "", false),
        ("", "localtime", "windows", "", true),
    ] {
        let expected = (os_type.to_owned(), os_distro.to_owned(), noted);
        assert_eq!(made(kind, rtc), expected, "{kind} {rtc}");
    }
}

#[test]
fn what_openstack_cannot_express_is_said() {
    let (plan, _) = two_disks("uefi");
    // As the properties have it, so that names inside the system are changed for the same.
    assert_eq!(buses(&plan), [DiskBus::Sata, DiskBus::Sata]);
    let notes = files(&plan).notes.join("\n");
    for words in [
        "disk-0.qcow2 comes to SATA, because Nova knows no NVMe disks",
        "disk-0.qcow2 has sectors of 4096 bytes",
        "all network cards are e1000e",
        "the server gets no TPM",
        "licences",
    ] {
        assert!(notes.contains(words), "{words}: {notes}");
    }
}

#[test]
fn a_product_that_looks_like_a_place_of_the_template_is_no_command() {
    let text = "@NETWORK@ touch x # @DESCRIPTION@ @NETWORK @ ;@@NETWORK@@";
    let run = |text: &str| {
        let (mut machine, disks): (_, Vec<VmDisk>) = filled("harmless");
        machine.smbios.product = Some(text.into());
        // A card, so that the place has content.
        machine.nics = server("bios").nics;
        let script = files(&VmPlan::new(&machine, &disks)).create;
        tool(Command::new("sh").args(["-n", "-c", &script]));
        (client().run(&script, &[], &[("NETWORK", "lan")]), script)
    };
    let ((calls, script), (harmless, expected)) = (run(text), run("nothing"));
    assert_eq!(calls, harmless);
    assert_eq!(script.replace(text, "nothing"), expected);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn no_string_of_a_firmware_leaves_its_place(
        text in r#"[ -~\n\r\t]{0,30}|.{0,20}|(['"`$(){};&|<>,=\\\n]|touch x|@NETWORK@| #){0,12}|.{300}"#,
    ) {
        let run = |text: &str| {
            let (machine, disks): (_, Vec<VmDisk>) = filled(text);
            let plan = VmPlan::new(&machine, &disks);
            let written = files(&plan);
            for image in &written.images {
                serde_json::from_str::<Value>(image).unwrap();
            }
            (client().run(&written.create, &[], &[("NETWORK", "lan")]), plan.name)
        };
        let ((found, name), (harmless, _)) = (run(&text), run("harmless"));
        prop_assert_eq!(found.len(), harmless.len());
        for (found, harmless) in found.iter().zip(&harmless) {
            prop_assert_eq!(found.len(), harmless.len());
            // Only the machine's name, which is a slug, is another one.
            for (word, other) in found.iter().zip(harmless) {
                prop_assert_eq!(word, &other.replace("harmless", &name));
            }
        }
    }
}

#[test]
fn a_glance_takes_the_images_and_gives_the_same_bytes_back() {
    let dir = tempfile::tempdir().unwrap();
    let mut machine = server("uefi");
    add_disk(&mut machine, Bus::Sata, "ahci", 512);
    let raw = dir.path().join("disk.img");
    let file = File::create(&raw).unwrap();
    file.set_len(import_common::DISK_BYTES).unwrap();
    file.write_all_at(b"mark", 1 << 20).unwrap();
    let capture = capture(dir.path(), &machine, &[raw]);
    let out = dir.path().join("vm");
    let said = import(&options(&capture, Target::Openstack, &out)).unwrap();
    assert_eq!(names(&out), ["create.sh", "disk-0.qcow2", "image-0.json"]);
    assert!(
        said.iter()
            .any(|(_, line)| line.contains("OpenStack takes no UEFI variables"))
    );
    let glance = dir.path().join("glance");
    let image = python(
        "vm_openstack/glance_takes.py",
        |python| {
            python
                .arg(&glance)
                .arg(out.join("image-0.json"))
                .arg(out.join("disk-0.qcow2"))
        },
        "",
    );
    let image: Value = serde_json::from_str(&image).unwrap();
    assert_eq!(image["status"], "active", "{image}");
    assert_eq!(image["os_hash_algo"], "sha512");
    let disk = fs::read(out.join("disk-0.qcow2")).unwrap();
    let digest = <sha2::Sha512 as sha2::Digest>::digest(&disk);
    let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(image["os_hash_value"], digest.as_str());
    assert_eq!(image["downloaded_sha512"], digest.as_str());
    assert_eq!(image["virtual_size"], import_common::DISK_BYTES);
    let document = fs::read_to_string(out.join("image-0.json")).unwrap();
    let document: Value = serde_json::from_str(&document).unwrap();
    for (key, value) in document.as_object().unwrap() {
        assert_eq!(&image[key], value, "{key}");
    }
}
