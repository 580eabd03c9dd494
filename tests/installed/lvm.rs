//! LVM's own devices file: as lvm2 writes it, and what lvm2 does where it does not fit.

use crate::map_support::mount::privileged;
use crate::map_support::{arg, run};
use crate::scene::{ROOT_UUID, ext4, look_at, system};
use std::fs;
use std::path::Path;

/// A loop device with a physical volume, and lvm2 with a configuration of its own.
struct Volume {
    device: String,
    configuration: String,
}

impl Volume {
    fn new(dir: &Path) -> Self {
        let image = dir.join("pv.img");
        fs::File::create(&image).unwrap().set_len(64 << 20).unwrap();
        let device = privileged("losetup", &["--find", "--show", arg(&image)]);
        let folder = dir.join("lvm");
        fs::create_dir_all(folder.join("devices")).unwrap();
        fs::write(folder.join("lvm.conf"), "devices { scan = [ \"/dev\" ] }\n").unwrap();
        let volume = Self {
            device: device.trim().to_owned(),
            configuration: format!("LVM_SYSTEM_DIR={}", arg(&folder)),
        };
        volume.lvm(&["pvcreate", "-qq", &volume.device]);
        volume
    }

    /// Runs one of lvm2's commands, with its devices file in use.
    fn lvm(&self, words: &[&str]) -> String {
        let used = ["--config", "devices{use_devicesfile=1}"];
        let (command, rest) = words.split_first().unwrap();
        let all = [&[&*self.configuration, "lvm", command], &used[..], rest].concat();
        privileged("env", &all)
    }

    fn is_seen(&self) -> bool {
        self.lvm(&["pvs", "--noheadings", "-o", "pv_name"])
            .split_whitespace()
            .any(|name| name == self.device)
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        privileged("losetup", &["--detach", &self.device]);
    }
}

#[test]
fn a_devices_file_is_read_as_lvm2_wrote_it_and_hides_a_volume_on_another_disk() {
    let scratch = tempfile::tempdir().unwrap();
    let path = |name: &str| scratch.path().join(name);
    let volume = Volume::new(scratch.path());
    volume.lvm(&["lvmdevices", "-y", "--adddev", &volume.device]);
    assert!(volume.is_seen());
    let file = path("lvm/devices/system.devices");
    let written = privileged("cat", &[arg(&file)]);
    let uuid = volume.lvm(&["pvs", "--noheadings", "-o", "pv_uuid", &volume.device]);
    let uuid = uuid.trim().replace('-', "");

    // As RHEL 9's installer leaves it for a disk on SAS.
    let line = written
        .lines()
        .find(|line| line.starts_with("IDTYPE="))
        .unwrap();
    let metal = format!(
        "IDTYPE=sys_wwid IDNAME=naa.5002538e40a0b1c2 DEVNAME={} PVID={uuid}",
        volume.device
    );
    let changed = written.replace(line, &metal);
    let source = path("changed");
    fs::write(&source, &changed).unwrap();
    privileged("cp", &[arg(&source), arg(&file)]);
    assert!(!volume.is_seen(), "{changed}");
    // What the import does about it.
    privileged("mv", &[arg(&file), &format!("{}.of-the-metal", arg(&file))]);
    assert!(volume.is_seen());

    let (root, image) = (path("root"), path("image"));
    fs::create_dir_all(root.join("boot")).unwrap();
    system(
        &root,
        &root.join("boot"),
        &format!("UUID={ROOT_UUID} / ext4 defaults 0 1\n"),
    );
    fs::create_dir_all(root.join("etc/lvm/devices")).unwrap();
    fs::write(
        root.join("etc/lvm/devices/system.devices"),
        format!("{changed}{line}\n"),
    )
    .unwrap();
    // Debian's, with every setting explained, and one more.
    let mut configuration = run(
        "lvm",
        &["dumpconfig", "--type", "default", "--withcomments"],
    );
    configuration +=
        "\ndevices {\n\tfilter = [ \"a|^/dev/sda3$|\", \"r|.*|\" ]\n\tuse_devicesfile = 1\n}\n";
    let configuration = configuration.replace("use_devicesfile=0", "use_devicesfile=1");
    fs::write(root.join("etc/lvm/lvm.conf"), configuration).unwrap();
    ext4(&root, &image, 64, ROOT_UUID, &[]);
    let found = look_at(&[image]);
    assert_eq!(found.notes, Vec::<String>::new());
    let lvm = found.systems[0].lvm.as_ref().unwrap();
    let kinds: Vec<&str> = lvm.entries.iter().map(|entry| &*entry.id_type).collect();
    assert_eq!(kinds, ["sys_wwid", "loop_file"]);
    assert_eq!(
        lvm.entries[0].id_name.as_deref(),
        Some("naa.5002538e40a0b1c2")
    );
    assert_eq!(lvm.entries[0].device.as_deref(), Some(&*volume.device));
    assert!(
        lvm.entries
            .iter()
            .all(|entry| entry.pv_uuid.as_deref() == Some(&*uuid))
    );
    assert_eq!(lvm.filters, ["a|^/dev/sda3$|", "r|.*|"]);
}
