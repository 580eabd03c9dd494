//! [`VmPlan`] for OpenStack: the properties of its images, and a script that makes images, flavor,
//! ports, volumes and server with the client `openstack`.
//!
//! A property is what Nova knows (`nova/objects/image_meta.py`): it reads others without a word and
//! refuses a known one with a value that is not in its list, so a bus that it does not know is not
//! written but replaced. Processors, memory and MAC addresses are no properties; they come by flavor
//! and port.

use super::clock::zone_of_host;
use super::shell::{filled, quoted};
use super::{DiskBus, Family, NicModel, PlannedDisk, VmFirmware, VmPlan, file_name};
use crate::inventory::RtcBasis;
use serde_json::{Map, Value, json};

const GIB: u64 = 1 << 30;

/// What is written for OpenStack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    /// `create.sh`
    pub create: String,
    /// `image-N.json`: for each disk the body of Glance's `POST /v2/images`.
    pub images: Vec<String>,
    /// What OpenStack cannot express, each a sentence.
    pub notes: Vec<String>,
}

/// The files for a plan whose disks lie beside them.
pub fn files(plan: &VmPlan) -> Files {
    let images = (0..plan.disks.len())
        .map(|index| {
            let mut json = serde_json::to_string_pretty(&image(plan, index)).unwrap_or_default();
            json.push('\n');
            json
        })
        .collect();
    Files {
        create: create_script(plan),
        images,
        notes: notes(plan),
    }
}

/// Nova's name of a bus, the model of its controller if it has several, and why it is not the plan's.
fn bus(bus: DiskBus) -> (&'static str, Option<&'static str>, Option<&'static str>) {
    match bus {
        DiskBus::Ide => ("ide", None, None),
        DiskBus::Sata => ("sata", None, None),
        DiskBus::Nvme => ("sata", None, Some("Nova knows no NVMe disks")),
        DiskBus::MegaSas => ("scsi", Some("lsisas1078"), None),
        DiskBus::MptSas => ("scsi", Some("lsisas1068"), None),
        DiskBus::VirtioScsi => ("scsi", Some("virtio-scsi"), None),
        DiskBus::VirtioBlk => ("virtio", None, None),
        DiskBus::Usb => ("usb", None, None),
    }
}

/// The bus that each disk gets.
pub fn buses(plan: &VmPlan) -> Vec<DiskBus> {
    let there = |disk: &PlannedDisk| match disk.bus {
        DiskBus::Nvme => DiskBus::Sata,
        other => other,
    };
    plan.disks.iter().map(there).collect()
}

/// What Cinder, flavors and Glance count in.
fn gib(disk: &PlannedDisk) -> u64 {
    disk.size_bytes.div_ceil(GIB).max(1)
}

fn image_name(plan: &VmPlan, index: usize) -> String {
    format!("{}-disk-{index}", plan.name)
}

/// The image of a disk as Glance's REST takes it.
fn image(plan: &VmPlan, index: usize) -> Value {
    let mut image = Map::new();
    let disk = plan.disks.get(index);
    image.insert("name".into(), json!(image_name(plan, index)));
    image.insert("disk_format".into(), json!("qcow2"));
    image.insert("container_format".into(), json!("bare"));
    image.insert("min_disk".into(), json!(disk.map_or(1, gib)));
    image.insert("min_ram".into(), json!(plan.memory_mib()));
    for (key, value) in disk
        .map(|disk| properties(plan, disk))
        .into_iter()
        .flatten()
    {
        image.insert(key.into(), json!(value));
    }
    Value::Object(image)
}

/// Names and values of the properties.
fn properties(plan: &VmPlan, disk: &PlannedDisk) -> Vec<(&'static str, String)> {
    let mut properties = vec![
        ("hw_architecture", "x86_64".to_owned()),
        ("hw_machine_type", plan.machine.name().into()),
    ];
    match plan.firmware {
        VmFirmware::Bios => properties.push(("hw_firmware_type", "bios".into())),
        VmFirmware::Uefi { secure_boot } => {
            properties.push(("hw_firmware_type", "uefi".into()));
            let secure_boot = if secure_boot { "required" } else { "disabled" };
            properties.push(("os_secure_boot", secure_boot.into()));
        }
    }
    let (name, model, _) = bus(disk.bus);
    properties.push(("hw_disk_bus", name.into()));
    if let Some(model) = model {
        properties.push(("hw_scsi_model", model.into()));
    }
    if let Some(nic) = plan.nics.first() {
        properties.push(("hw_vif_model", vif_model(nic.model).into()));
    }
    properties.push(("hw_cpu_sockets", plan.sockets.to_string()));
    properties.push(("hw_cpu_cores", plan.cores.to_string()));
    properties.push(("hw_cpu_threads", plan.threads.to_string()));
    properties.push(("hw_rng_model", "virtio".into()));
    match &plan.system {
        Some(system) => {
            properties.push(("os_type", system.os_type().into()));
            let distro = system.os_distro().map(str::to_owned);
            properties.extend(distro.map(|distro| ("os_distro", distro)));
        }
        // The only word by which Nova sets a clock to local time.
        None if plan.rtc == RtcBasis::Localtime => {
            properties.push(("os_type", "windows".into()));
        }
        None => {}
    }
    properties
}

fn vif_model(model: NicModel) -> &'static str {
    model.name()
}

fn notes(plan: &VmPlan) -> Vec<String> {
    let mut notes = Vec::new();
    for disk in &plan.disks {
        let file = file_name(&disk.file);
        if let (to, _, Some(why)) = bus(disk.bus) {
            notes.push(format!(
                "{file} comes to {}, because {why}",
                to.to_uppercase()
            ));
        }
        if disk.logical_block_bytes != 512 {
            notes.push(format!(
                "{file} has sectors of {} bytes and OpenStack cannot say so: unless the volume's \
                 own storage has such sectors, the system finds no partition on it",
                disk.logical_block_bytes
            ));
        }
    }
    if plan.firmware == (VmFirmware::Uefi { secure_boot: true }) {
        notes.push(
            "Secure Boot is enforced with the keys of the cloud's firmware, not with the machine's \
             own"
            .into(),
        );
    }
    if plan.tpm.is_some() {
        notes.push(
            "the server gets no TPM in OpenStack, because one starts only where hosts and a key \
             manager support it (add hw_tpm_version and hw_tpm_model to the image there)"
                .into(),
        );
    }
    let models: Vec<_> = plan.nics.iter().map(|nic| vif_model(nic.model)).collect();
    if let Some((first, rest)) = models.split_first()
        && rest.iter().any(|model| model != first)
    {
        notes.push(format!(
            "all network cards are {first}, because OpenStack has one model for all cards of a server"
        ));
    }
    let system = plan.system.as_ref().map(|system| system.family);
    match (system, plan.rtc) {
        (Some(Family::Linux), RtcBasis::Localtime) => notes.push(
            "the machine's clock counts local time, and OpenStack gives Linux one that counts UTC: \
             set /etc/adjtime to UTC"
                .into(),
        ),
        (Some(Family::Windows), RtcBasis::Utc) => notes.push(
            "the machine's clock counts UTC, and OpenStack gives Windows one that counts local time"
                .into(),
        ),
        (_, RtcBasis::Localtime) => notes.extend(zone_of_host(plan)),
        _ => {}
    }
    notes.push(
        "OpenStack shows the guest its own vendor, product and UUID and gives disks other serial \
         numbers: licences that are bound to the machine's ask again"
            .into(),
    );
    notes
}

/// The disk that the server starts from: Nova boots the image.
fn root(plan: &VmPlan) -> usize {
    plan.boot_order().first().copied().unwrap_or(0)
}

fn create_script(plan: &VmPlan) -> String {
    let network = if plan.nics.is_empty() {
        NO_NETWORK
    } else {
        NETWORK
    };
    let values = [("DESCRIPTION", &*plan.description), ("NETWORK", network)];
    let mut script = filled(HEAD, &values);
    let root = root(plan);
    for (index, disk) in plan.disks.iter().enumerate() {
        script += &format!("\n{}\n", make_image(plan, index, disk));
    }
    script += &format!(
        "\nif [ -z \"$flavor\" ]; then\n  flavor=$(\"$openstack\" flavor create --vcpus {} --ram {} \
         --disk {} -f value -c id {})\nfi\n",
        plan.vcpus(),
        plan.memory_mib(),
        plan.disks.get(root).map_or(1, gib),
        quoted(&plan.name)
    );
    let mut server = String::from("\n\"$openstack\" server create --flavor \"$flavor\" \\\n");
    server += &format!("  --image \"$image_{root}\" \\\n");
    for (index, nic) in plan.nics.iter().enumerate() {
        script += &format!(
            "port_{index}=$(\"$openstack\" port create --network \"$network\" --mac-address {} \
             -f value -c id {})\n",
            quoted(&nic.mac),
            quoted(&format!("{}-nic-{index}", plan.name))
        );
        server += &format!("  --nic \"port-id=$port_{index}\" \\\n");
    }
    if plan.nics.is_empty() {
        // Else Nova makes a port on the only network, if there is one.
        server += "  --nic none \\\n";
    }
    let data: Vec<usize> = plan.boot_order().into_iter().skip(1).collect();
    if !data.is_empty() {
        script += WAIT;
    }
    for (place, index) in data.into_iter().enumerate() {
        let Some(disk) = plan.disks.get(index) else {
            continue;
        };
        script += &format!(
            "volume_{index}=$(\"$openstack\" volume create --image \"$image_{index}\" --size {} \
             -f value -c id {})\nwait_for \"$volume_{index}\"\n",
            gib(disk),
            quoted(&image_name(plan, index))
        );
        server += &format!(
            "  --block-device \"uuid=$volume_{index},source_type=volume,destination_type=volume,\
             disk_bus={},boot_index={}\" \\\n",
            bus(disk.bus).0,
            place.saturating_add(1)
        );
    }
    script + &server + &format!("  \"$@\" {}\n", quoted(&plan.name))
}

fn make_image(plan: &VmPlan, index: usize, disk: &PlannedDisk) -> String {
    let mut command = format!(
        "image_{index}=$(\"$openstack\" image create --file {} \\\n  --disk-format qcow2 \
         --container-format bare --min-disk {} --min-ram {} \\\n",
        quoted(&file_name(&disk.file)),
        gib(disk),
        plan.memory_mib()
    );
    for (key, value) in properties(plan, disk) {
        command += &format!("  --property {} \\\n", quoted(&format!("{key}={value}")));
    }
    command + &format!("  -f value -c id {})", quoted(&image_name(plan, index)))
}

const HEAD: &str = r#"#!/bin/sh
# @DESCRIPTION@
#
# Makes this machine in OpenStack. Written by haulier; the folder may be moved.
# Who you are comes as for every use of the client: OS_CLOUD, or the other OS_ variables.
# What is given to this script goes to 'openstack server create'. These variables change it:
#   OPENSTACK   the client (openstack)
#   NETWORK     the network for the machine's network cards
#   FLAVOR      a flavor that is there; without it one is made, which only administrators may
set -eu
CDPATH='' cd -- "$(dirname -- "$0")"
openstack=${OPENSTACK:-openstack}
flavor=${FLAVOR:-}
if ! command -v "$openstack" >/dev/null 2>&1; then
  echo "$0: there is no $openstack here: install OpenStack's client (python3-openstackclient)" >&2
  exit 1
fi
@NETWORK@"#;

const NETWORK: &str = r#"network=${NETWORK:-}
if [ -z "$network" ]; then
  echo "$0: name the network for the machine's network cards in NETWORK" >&2
  exit 1
fi
"#;

/// Only Nova's API 2.37 and later makes a server without a card ("networks: none"); the client takes 2.1 by itself.
const NO_NETWORK: &str = r#"OS_COMPUTE_API_VERSION=${OS_COMPUTE_API_VERSION:-2.37}
export OS_COMPUTE_API_VERSION
"#;

/// A volume of an image is copied for minutes; three hours are 64 GiB at 6 MiB/s.
const WAIT: &str = r#"
wait_for() {
  tries=0
  while [ "$tries" -lt 2160 ]; do
    state=$("$openstack" volume show -f value -c status "$1")
    case $state in
      available) return ;;
      error*) break ;;
    esac
    tries=$((tries + 1))
    sleep 5
  done
  echo "$0: the volume $1 is not available but $state" >&2
  exit 1
}
"#;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_bus_is_one_that_nova_refuses() {
        for kind in DiskBus::ALL {
            let (name, model, _) = bus(kind);
            assert!(
                ["ide", "sata", "scsi", "usb", "virtio"].contains(&name),
                "{name}"
            );
            assert_eq!(name == "scsi", model.is_some(), "{kind:?}");
            let replaced = bus(kind).2.is_some();
            assert_eq!(replaced, kind == DiskBus::Nvme, "see buses()");
        }
    }
}
