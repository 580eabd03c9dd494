//! What an import writes, and what it refuses.

mod import_common;

use haulier::Kind;
use haulier::import::Target;
use haulier::inventory::{Bus, Machine};
use haulier::report::Level;
use import_common::{
    add_disk, capture, edit_manifest, import, libvirt_root, names, options, server, tool,
    write_machine,
};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A raw disk of 64 MiB with a mark at its beginning.
fn disk(dir: &Path, mark: &[u8]) -> PathBuf {
    let path = dir.join(format!("disk-{}.img", mark.len()));
    let file = File::create(&path).unwrap();
    file.set_len(import_common::DISK_BYTES).unwrap();
    file.write_all_at(mark, 0).unwrap();
    path
}

/// A captured server with one SATA disk.
fn sata_server(dir: &Path) -> (Machine, PathBuf) {
    let mut machine = server("uefi");
    add_disk(&mut machine, Bus::Sata, "ahci", 512);
    let capture = capture(dir, &machine, &[disk(dir, b"mark")]);
    (machine, capture)
}

#[test]
fn a_folder_for_qemu_holds_the_disks_the_variables_and_the_script() {
    let dir = tempfile::tempdir().unwrap();
    let (_, capture) = sata_server(dir.path());
    let out = dir.path().join("vm");
    import(&options(&capture, Target::Qemu, &out)).unwrap();
    assert_eq!(names(&out), ["VARS.fd", "disk-0.qcow2", "run.sh"]);
    let compared = tool(
        Command::new("qemu-img")
            .args(["compare", "-f", "qcow2", "-F", "raw"])
            .arg(out.join("disk-0.qcow2"))
            .arg(dir.path().join("disk-4.img")),
    );
    assert!(String::from_utf8_lossy(&compared.stdout).contains("identical"));
    let script = fs::read_to_string(out.join("run.sh")).unwrap();
    assert!(script.contains("ide-hd,bus=ide.0,drive=disk0"), "{script}");
    assert!(script.contains("mac=b0:26:28:aa:bb:01"), "{script}");
}

#[test]
fn a_flipped_bit_in_an_image_is_found_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (_, capture) = sata_server(dir.path());
    let image = File::options()
        .read(true)
        .write(true)
        .open(capture.join("disk-0.qcow2"))
        .unwrap();
    let last = image.metadata().unwrap().len() - 1;
    let mut byte = [0];
    image.read_exact_at(&mut byte, last).unwrap();
    image.write_all_at(&[byte[0] ^ 1], last).unwrap();
    let error = import(&options(&capture, Target::Qemu, &dir.path().join("vm"))).unwrap_err();
    assert_eq!(error.kind(), Kind::Mismatch, "{error}");
    assert!(error.to_string().contains("disk-0.qcow2"), "{error}");
    assert_eq!(names(dir.path()), ["disk-4.img", "store"]);
}

#[test]
fn a_changed_inventory_is_found_before_anything_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let (_, capture) = sata_server(dir.path());
    let mut json = fs::read(capture.join("machine.json")).unwrap();
    json.push(b' ');
    fs::write(capture.join("machine.json"), json).unwrap();
    let error = import(&options(&capture, Target::Qemu, &dir.path().join("vm"))).unwrap_err();
    assert_eq!(error.kind(), Kind::Mismatch, "{error}");
    assert_eq!(names(dir.path()), ["disk-4.img", "store"]);
}

#[test]
fn an_image_that_would_open_another_file_of_this_host_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (_, capture) = sata_server(dir.path());
    let secret = dir.path().join("disk-4.img");
    let image = capture.join("disk-0.qcow2");
    fs::remove_file(&image).unwrap();
    tool(
        Command::new("qemu-img")
            .args(["create", "-q", "-f", "qcow2", "-F", "raw", "-b"])
            .arg(&secret)
            .arg(&image),
    );
    edit_manifest(&capture, |manifest| {
        manifest.disks[0].file_bytes = fs::metadata(&image).unwrap().len();
    });
    let error = import(&options(&capture, Target::Qemu, &dir.path().join("vm"))).unwrap_err();
    assert!(error.to_string().contains("backing file"), "{error}");
    assert_eq!(names(dir.path()), ["disk-4.img", "store"]);
}

#[test]
fn a_manifest_that_names_a_file_elsewhere_is_refused() {
    for name in ["../../../disk-4.img", "/etc/passwd", "a,b", "$(id)"] {
        let dir = tempfile::tempdir().unwrap();
        let (_, capture) = sata_server(dir.path());
        edit_manifest(&capture, |manifest| manifest.disks[0].file = name.into());
        let error = import(&options(&capture, Target::Qemu, &dir.path().join("vm"))).unwrap_err();
        assert_eq!(error.kind(), Kind::Corrupt, "{error}");
        assert_eq!(names(dir.path()), ["disk-4.img", "store"]);
    }
}

#[test]
fn an_inventory_of_a_newer_version_is_refused_by_its_version() {
    let dir = tempfile::tempdir().unwrap();
    let (machine, capture) = sata_server(dir.path());
    let newer = Machine {
        version: haulier::inventory::VERSION + 1,
        ..machine
    };
    write_machine(&capture, newer.to_json().as_bytes());
    let error = import(&options(&capture, Target::Qemu, &dir.path().join("vm"))).unwrap_err();
    assert_eq!(error.kind(), Kind::Unsupported, "{error}");
}

#[test]
fn the_disk_with_boot_code_boots_under_bios() {
    let dir = tempfile::tempdir().unwrap();
    let mut machine = server("bios");
    add_disk(&mut machine, Bus::Nvme, "nvme", 512);
    add_disk(&mut machine, Bus::Sata, "ahci", 512);
    let mut sector = [0_u8; 512];
    sector[0] = 0xfa;
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    let disks = [disk(dir.path(), b"data"), disk(dir.path(), &sector)];
    let capture = capture(dir.path(), &machine, &disks);
    let out = dir.path().join("vm");
    import(&options(&capture, Target::Qemu, &out)).unwrap();
    let script = fs::read_to_string(out.join("run.sh")).unwrap();
    assert!(script.contains("nvme,drive=disk0,bootindex=2"), "{script}");
    assert!(script.contains("drive=disk1,bootindex=1"), "{script}");
}

#[test]
fn the_bus_and_the_firmware_can_be_chosen() {
    let dir = tempfile::tempdir().unwrap();
    let (_, capture) = sata_server(dir.path());
    let out = dir.path().join("vm");
    let mut options = options(&capture, Target::Qemu, &out);
    options.disk_bus = Some(haulier::vm::DiskBus::VirtioScsi);
    options.firmware = Some(haulier::inventory::FirmwareKind::Bios);
    options.name = Some("web-1".into());
    import(&options).unwrap();
    let script = fs::read_to_string(out.join("run.sh")).unwrap();
    assert!(
        script.contains("virtio-scsi-pci") && script.contains("guest=web-1"),
        "{script}"
    );
    assert!(!script.contains("pflash"), "{script}");
    options.name = Some("web 1".into());
    assert_eq!(import(&options).unwrap_err().kind(), Kind::Refused);
}

#[test]
fn libvirt_gets_the_domain_and_never_replaces_one() {
    let dir = tempfile::tempdir().unwrap();
    let (machine, capture) = sata_server(dir.path());
    let out = dir.path().join("images");
    let mut options = options(&capture, Target::Libvirt, &out);
    options.connect = libvirt_root(dir.path());
    let virsh = |args: &[&str]| {
        let output = tool(
            Command::new("virsh")
                .args(["-q", "-c", &options.connect])
                .args(args),
        );
        String::from_utf8(output.stdout).unwrap()
    };
    let said = import(&options).unwrap();
    let last = said.last().unwrap();
    assert!(
        last.0 == Level::Info && last.1.contains("start R640-7XK3P52"),
        "{last:?}"
    );
    assert_eq!(names(&out), ["VARS.fd", "disk-0.qcow2", "domain.xml"]);
    let xml = virsh(&["dumpxml", "--inactive", "R640-7XK3P52"]);
    for part in ["bus='sata'", "b0:26:28:aa:bb:01", "firmware='efi'"] {
        assert!(xml.contains(part), "{part}: {xml}");
    }
    assert!(
        xml.contains(&out.join("disk-0.qcow2").display().to_string()),
        "{xml}"
    );

    // The same name, then another name with the same UUID: both would replace the domain.
    options.out = Some(dir.path().join("again"));
    let error = import(&options).unwrap_err();
    assert!(
        error.kind() == Kind::Refused && error.to_string().contains("named"),
        "{error}"
    );
    options.name = Some("another".into());
    let error = import(&options).unwrap_err();
    assert!(
        error.kind() == Kind::Refused && error.to_string().contains("UUID"),
        "{error}"
    );
    let error = error.to_string();
    assert!(error.contains("Perhaps it is another machine"), "{error}");
    assert!(!dir.path().join("again").exists());

    // Boards that share a UUID: it gets one of its own.
    options.name = Some("shared".into());
    options.out = Some(dir.path().join("shared"));
    options.new_uuid = true;
    let said = import(&options).unwrap();
    let uuid = virsh(&["domuuid", "shared"]).trim().to_owned();
    assert!(
        said.iter()
            .any(|(level, line)| *level == Level::Warn
                && line.contains(&format!("the new UUID {uuid}"))),
        "{uuid}: {said:?}"
    );
    let xml = virsh(&["dumpxml", "--inactive", "shared"]);
    assert!(
        xml.contains(&format!("<entry name='uuid'>{uuid}</entry>")),
        "{xml}"
    );
    options.new_uuid = false;
    options.name = Some("another".into());
    options.out = Some(dir.path().join("again"));

    // Without a UUID of its own it may come a second time under another name.
    let mut anonymous = machine;
    anonymous.smbios.uuid = None;
    write_machine(&capture, anonymous.to_json().as_bytes());
    import(&options).unwrap();
    let domains = virsh(&["list", "--all", "--name"]);
    assert_eq!(domains.split_whitespace().count(), 3, "{domains}");
}

#[test]
fn a_libvirt_that_does_not_answer_is_refused_before_copying() {
    let dir = tempfile::tempdir().unwrap();
    let (_, capture) = sata_server(dir.path());
    let mut options = options(&capture, Target::Libvirt, &dir.path().join("images"));
    for (uri, words) in [
        ("qemu:///nothing", "running virsh"),
        (
            "qemu+ssh://other.example/system",
            "another machine's libvirt",
        ),
    ] {
        options.connect = uri.into();
        let error = import(&options).unwrap_err();
        assert_eq!(error.kind(), Kind::Refused, "{error}");
        assert!(error.to_string().contains(words), "{error}");
    }
    assert!(!dir.path().join("images").exists());
}
