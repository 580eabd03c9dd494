//! [`VmPlan`] for KubeVirt: `vm.yaml` with a `VirtualMachine` (`kubevirt.io/v1`) and a `DataVolume`
//! (`cdi.kubevirt.io/v1beta1`) for each disk, and a script that uploads the disks into them.
//!
//! The schemas are closed: a key that they do not have is refused by the cluster, and what is a plain
//! string to them (bus, model) is checked by KubeVirt's webhook, whose lists are kept to here
//! (`validating-webhook/admitters/vmi-create-admitter.go`).

use super::clock::{Zone, zone};
use super::guest::no_network;
use super::label::dns_label;
use super::shell::{filled, quoted};
use super::{DiskBus, NicModel, PlannedDisk, TpmVersion, VmFirmware, VmPlan, file_name};
use crate::inventory::RtcBasis;
use serde_json::{Map, Value, json};

/// What is written for KubeVirt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    /// `vm.yaml`
    pub manifest: String,
    /// `upload.sh`
    pub upload: String,
    /// What KubeVirt cannot express, each a sentence.
    pub notes: Vec<String>,
}

/// The files for a plan whose disks lie beside them.
pub fn files(plan: &VmPlan) -> Files {
    let mut notes = Vec::new();
    // Room for the disks' numbers: names of volumes have 63 characters.
    let name = dns_label(&plan.name, 50);
    let mut documents: Vec<Value> = plan
        .disks
        .iter()
        .enumerate()
        .map(|(index, disk)| data_volume(&name, index, disk))
        .collect();
    documents.push(virtual_machine(&name, plan, &mut notes));
    let mut manifest = format!("# {}\n# Written by haulier.\n", plan.description);
    for document in &documents {
        manifest += "---\n";
        yaml(document, 0, &mut manifest);
    }
    Files {
        manifest,
        upload: upload_script(&name, plan),
        notes,
    }
}

/// KubeVirt's name of a bus, and why it is not of the plan's kind.
fn bus(disk: &PlannedDisk) -> (&'static str, Option<&'static str>) {
    let (name, why) = match disk.bus {
        DiskBus::Sata => ("sata", None),
        DiskBus::Ide => ("sata", Some("its machines have no IDE")),
        DiskBus::Nvme => ("sata", Some("it has no NVMe disks")),
        DiskBus::MegaSas | DiskBus::MptSas => ("sata", Some("it has no SAS controllers")),
        DiskBus::VirtioScsi => ("scsi", None),
        DiskBus::VirtioBlk => ("virtio", None),
        DiskBus::Usb => ("usb", None),
    };
    if name == "sata" && disk.logical_block_bytes != 512 {
        return (
            "virtio",
            Some("its SATA disks have only sectors of 512 bytes"),
        );
    }
    (name, why)
}

/// The bus that each disk gets.
pub fn buses(plan: &VmPlan) -> Vec<DiskBus> {
    let there = |disk: &PlannedDisk| match bus(disk).0 {
        "scsi" => DiskBus::VirtioScsi,
        "virtio" => DiskBus::VirtioBlk,
        "usb" => DiskBus::Usb,
        _ => DiskBus::Sata,
    };
    plan.disks.iter().map(there).collect()
}

fn disk_name(index: usize) -> String {
    format!("disk-{index}")
}

fn volume_name(name: &str, index: usize) -> String {
    format!("{name}-disk-{index}")
}

fn data_volume(name: &str, index: usize, disk: &PlannedDisk) -> Value {
    json!({
        "apiVersion": "cdi.kubevirt.io/v1beta1",
        "kind": "DataVolume",
        "metadata": {
            "name": volume_name(name, index),
            // Else a storage class that waits for its first user waits for a VM that is off.
            "annotations": {"cdi.kubevirt.io/storage.bind.immediate.requested": "true"},
        },
        "spec": {
            "source": {"upload": {}},
            "storage": {"resources": {"requests": {"storage": disk.size_bytes.to_string()}}},
        },
    })
}

fn virtual_machine(name: &str, plan: &VmPlan, notes: &mut Vec<String>) -> Value {
    let volumes: Vec<Value> = (0..plan.disks.len())
        .map(|index| {
            json!({"name": disk_name(index), "dataVolume": {"name": volume_name(name, index)}})
        })
        .collect();
    let mut spec = Map::new();
    spec.insert("domain".into(), domain(plan, notes));
    if !plan.nics.is_empty() {
        spec.insert("networks".into(), json!([{"name": "default", "pod": {}}]));
    }
    spec.insert("volumes".into(), json!(volumes));
    json!({
        "apiVersion": "kubevirt.io/v1",
        "kind": "VirtualMachine",
        "metadata": {
            "name": name,
            "annotations": {"haulier/machine": plan.description},
        },
        "spec": {
            "runStrategy": "Halted",
            "template": {
                "metadata": {"labels": {"kubevirt.io/domain": name}},
                "spec": spec,
            },
        },
    })
}

fn domain(plan: &VmPlan, notes: &mut Vec<String>) -> Value {
    let secure_boot = plan.firmware == (VmFirmware::Uefi { secure_boot: true });
    let mut firmware = Map::new();
    let bootloader = match plan.firmware {
        VmFirmware::Bios => json!({"bios": {}}),
        VmFirmware::Uefi { secure_boot } => json!({"efi": {"secureBoot": secure_boot}}),
    };
    firmware.insert("bootloader".into(), bootloader);
    if let Some(uuid) = &plan.uuid {
        firmware.insert("uuid".into(), json!(uuid));
    }
    if let Some(serial) = plan.smbios.serial.as_deref().and_then(serial) {
        firmware.insert("serial".into(), json!(serial));
    }
    let mut features = json!({"acpi": {}, "apic": {}});
    if secure_boot {
        // The webhook asks for it.
        features["smm"] = json!({"enabled": true});
        notes.push(
            "Secure Boot is enforced with the keys of KubeVirt's firmware, not with the machine's \
             own"
            .into(),
        );
    }
    let mut clock = json!({
        "utc": {},
        "timer": {
            "rtc": {"tickPolicy": "catchup"},
            "pit": {"tickPolicy": "delay"},
            "hpet": {"present": false},
        },
    });
    match zone(plan) {
        // Of the two only one may be there (its webhook).
        Some(Zone::Named(name)) => {
            clock["timezone"] = json!(name);
            if let Some(clock) = clock.as_object_mut() {
                clock.remove("utc");
            }
        }
        Some(Zone::Minutes(minutes)) => {
            clock["utc"]["offsetSeconds"] = json!(minutes.saturating_mul(60));
        }
        None => {}
    }
    if plan.rtc == RtcBasis::Localtime && zone(plan).is_none() {
        notes.push(
            "the machine's clock counts local time and the VM's UTC: set clock.timezone in vm.yaml \
             to the machine's zone"
                .into(),
        );
    }
    let mut domain = json!({
        "machine": {"type": "q35"},
        "cpu": {
            "model": "host-model",
            "sockets": plan.sockets,
            "cores": plan.cores,
            "threads": plan.threads,
        },
        "memory": {"guest": format!("{}Ki", plan.memory_kib)},
        "firmware": firmware,
        "features": features,
        "clock": clock,
        "devices": devices(plan, notes),
    });
    let smbios = &plan.smbios;
    let chassis: Map<String, Value> = [
        ("manufacturer", &smbios.chassis_manufacturer),
        ("serial", &smbios.chassis_serial),
        ("asset", &smbios.chassis_asset_tag),
    ]
    .into_iter()
    .filter_map(|(key, value)| Some((key.to_owned(), json!(value.as_deref()?))))
    .collect();
    if !chassis.is_empty() {
        domain["chassis"] = Value::Object(chassis);
    }
    if smbios.manufacturer.is_some() || smbios.product.is_some() {
        notes.push(
            "KubeVirt shows the guest the cluster's vendor and product, not the machine's: a licence \
             that is bound to them asks again"
                .into(),
        );
    }
    domain
}

fn devices(plan: &VmPlan, notes: &mut Vec<String>) -> Value {
    let mut disks = Vec::new();
    for (index, disk) in plan.disks.iter().enumerate() {
        let (bus, why) = bus(disk);
        if let Some(why) = why {
            notes.push(format!(
                "{} comes to {}, because of KubeVirt: {why}",
                file_name(&disk.file),
                bus.to_uppercase()
            ));
        }
        let mut entry = json!({
            "name": disk_name(index),
            "bootOrder": disk.boot_index,
            "disk": {"bus": bus},
        });
        if let Some(serial) = disk.serial.as_deref().and_then(serial) {
            entry["serial"] = json!(serial);
        }
        if (disk.logical_block_bytes, disk.physical_block_bytes) != (512, 512) {
            entry["blockSize"] = json!({"custom": {
                "logical": disk.logical_block_bytes,
                "physical": disk.physical_block_bytes,
            }});
        }
        disks.push(entry);
    }
    let mut devices = json!({"disks": disks, "rng": {}});
    if let Some(version) = plan.tpm {
        devices["tpm"] = json!({});
        if version == TpmVersion::V1_2 {
            notes.push("the TPM is of version 2.0, because KubeVirt has no other".into());
        }
        notes.push(
            "the TPM forgets its keys when the VM is switched off; where your cluster has a storage \
             class for such state, set tpm.persistent in vm.yaml before anything is sealed with it"
                .into(),
        );
    }
    notes.extend(no_network(plan));
    match plan.nics.split_first() {
        Some((nic, others)) => {
            devices["interfaces"] = json!([{
                "name": "default",
                "macAddress": nic.mac,
                "model": match nic.model {
                    NicModel::Virtio => "virtio",
                    NicModel::E1000e | NicModel::E1000 => "e1000e",
                },
                "masquerade": {},
            }]);
            if !others.is_empty() {
                let macs: Vec<&str> = others.iter().map(|nic| nic.mac.as_str()).collect();
                notes.push(format!(
                    "only the first network card is in vm.yaml, on the pod network; the others need \
                     networks of your cluster (multus): {}",
                    macs.join(", ")
                ));
            }
        }
        None => devices["autoattachPodInterface"] = json!(false),
    }
    devices
}

/// A serial number as the webhook takes it: no blanks.
fn serial(text: &str) -> Option<String> {
    let text: String = text
        .chars()
        .map(|c| match c {
            '_' | '.' | '+' | '-' => c,
            c if c.is_ascii_alphanumeric() => c,
            _ => '_',
        })
        .take(256)
        .collect();
    (!text.is_empty()).then_some(text)
}

fn upload_script(name: &str, plan: &VmPlan) -> String {
    let mut script = filled(HEAD, &[("DESCRIPTION", &plan.description)]);
    for (index, disk) in plan.disks.iter().enumerate() {
        script += &format!(
            "upload {} {} \"$@\"\n",
            quoted(&volume_name(name, index)),
            quoted(&file_name(&disk.file))
        );
    }
    script + &format!("echo \"To run it: $virtctl start --namespace $namespace {name}\"\n")
}

/// YAML in blocks. Every scalar is written as JSON, which YAML reads as the same (YAML 1.2, 1.3):
/// so no text is ever taken for a number, a tag or a comment.
fn yaml(value: &Value, depth: usize, out: &mut String) {
    let indent = "  ".repeat(depth);
    let scalar = |value: &Value| match value {
        Value::Object(map) if !map.is_empty() => None,
        Value::Array(list) if !list.is_empty() => None,
        other => Some(other.to_string()),
    };
    let entry = |head: String, value: &Value, out: &mut String| match scalar(value) {
        Some(text) => *out += &format!("{head} {text}\n"),
        None => {
            *out += &format!("{head}\n");
            yaml(value, depth.saturating_add(1), out);
        }
    };
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (key, value) in map {
                entry(format!("{indent}{}:", yaml_key(key)), value, out);
            }
        }
        Value::Array(list) if !list.is_empty() => {
            for value in list {
                entry(format!("{indent}-"), value, out);
            }
        }
        other => *out += &format!("{indent}{other}\n"),
    }
}

/// Keys are ours; those that are more than a word are quoted.
fn yaml_key(key: &str) -> String {
    match key.bytes().all(|b| b.is_ascii_alphanumeric()) {
        true => key.to_owned(),
        false => json!(key).to_string(),
    }
}

const HEAD: &str = r#"#!/bin/sh
# @DESCRIPTION@
#
# Makes this machine in a cluster with KubeVirt and CDI, and uploads its disks. Written by haulier;
# the folder may be moved.
# What is given to this script goes to each upload, such as --insecure or
# --uploadproxy-url https://... These variables change it:
#   NAMESPACE   where it goes (default)
#   KUBECTL     the client of Kubernetes (kubectl)
#   VIRTCTL     the client of KubeVirt (virtctl)
set -eu
CDPATH='' cd -- "$(dirname -- "$0")"
namespace=${NAMESPACE:-default}
kubectl=${KUBECTL:-kubectl}
virtctl=${VIRTCTL:-virtctl}
for program in "$kubectl" "$virtctl"; do
  if ! command -v "$program" >/dev/null 2>&1; then
    echo "$0: there is no $program here" >&2
    exit 1
  fi
done
upload() {
  volume=$1
  file=$2
  shift 2
  "$virtctl" image-upload dv "$volume" --namespace "$namespace" --no-create \
    --image-path "$file" "$@"
}
"$kubectl" apply --namespace "$namespace" -f vm.yaml
"#;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_and_objects_are_blocks_and_empty_ones_are_not() {
        let mut text = String::new();
        let value = json!({"a": [{"b": 1}, "x: y"], "c": {}, "d.e/f": [], "g": {"h": null}});
        yaml(&value, 0, &mut text);
        let expected = "a:\n  -\n    b: 1\n  - \"x: y\"\nc: {}\n\"d.e/f\": []\ng:\n  h: null\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn serial_numbers_have_no_blanks() {
        assert_eq!(serial("VMware-56 4d").as_deref(), Some("VMware-56_4d"));
        assert_eq!(serial(""), None);
    }
}
