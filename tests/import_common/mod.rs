//! Captures for the tests of `import`: real ones, made by the program from disks made by others'
//! tools, with a `machine.json` of our choice.

#![allow(unreachable_pub, reason = "a module of several test programs")]
#![allow(dead_code, reason = "each test program uses a part of it")]

use haulier::import::{Options, Target, run};
use haulier::inventory::{Bus, Machine};
use haulier::report::{Level, Recorder};
use haulier::store::{CaptureFiles, Digest, DirFiles, Manifest};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

#[path = "../vm_common/mod.rs"]
pub mod vm_common;
pub use vm_common::*;

/// Captures image files into `dir/store` as the disks of `machine`, whose `disks` describe them in
/// the same order. Returns the capture's folder.
pub fn capture(dir: &Path, machine: &Machine, disks: &[PathBuf]) -> PathBuf {
    let store = dir.join("store");
    fs::create_dir_all(&store).unwrap();
    let mut haulier = Command::new(env!("CARGO_BIN_EXE_haulier"));
    haulier
        .args(["capture", "--name", &machine.name, "--to"])
        .arg(&store);
    for disk in disks {
        haulier.arg("--disk").arg(disk);
    }
    tool(&mut haulier);
    let captures: Vec<PathBuf> = fs::read_dir(store.join(&machine.name))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    let [capture] = captures.as_slice() else {
        panic!("{captures:?}");
    };
    for number in 0..machine.disks.len() {
        let image = capture.join(format!("disk-{number}.qcow2"));
        tool(Command::new("qemu-img").args(["check", "-q"]).arg(image));
    }
    // The image files of this test stand for the machine's disks.
    edit_manifest(capture, |manifest| {
        for (record, info) in manifest.disks.iter_mut().zip(&machine.disks) {
            record.source.path = info.device();
            record.source.model.clone_from(&info.model);
            record.source.serial.clone_from(&info.serial);
            record.source.wwn.clone_from(&info.wwn);
        }
    });
    write_machine(capture, machine.to_json().as_bytes());
    capture.clone()
}

/// The capture of a server whose only disk, on SATA, is empty.
pub fn capture_of_empty_disk(dir: &Path, firmware: &str) -> PathBuf {
    let mut machine = server(firmware);
    add_disk(&mut machine, Bus::Sata, "ahci", 512);
    let raw = dir.join("disk.img");
    let disk = fs::File::create(&raw).unwrap();
    disk.set_len(DISK_BYTES).unwrap();
    capture(dir, &machine, &[raw])
}

/// Replaces `machine.json`, with its digest in the manifest.
pub fn write_machine(capture: &Path, json: &[u8]) {
    fs::write(capture.join("machine.json"), json).unwrap();
    let file = DirFiles::new(capture).open("machine.json").unwrap();
    let sha256 = Digest::sha256_of_file(&*file).unwrap();
    edit_manifest(capture, |manifest| {
        let record = manifest.files.iter_mut().find(|f| f.name == "machine.json");
        record.unwrap().sha256 = sha256;
    });
}

/// Changes the manifest.
pub fn edit_manifest(capture: &Path, edit: impl FnOnce(&mut Manifest)) {
    let (mut manifest, _) = Manifest::read(&DirFiles::new(capture)).unwrap();
    edit(&mut manifest);
    fs::write(capture.join("manifest.json"), manifest.to_json().unwrap()).unwrap();
}

/// An import of `capture` for QEMU to `out`.
pub fn options(capture: &Path, to: Target, out: &Path) -> Options {
    Options {
        captures: vec![capture.into()],
        pick: None,
        to,
        out: Some(out.into()),
        connect: "qemu:///system".into(),
        name: None,
        new_uuid: false,
        disk_bus: None,
        profile: haulier::vm::Profile::default(),
        unchanged: false,
        fallback_loader: false,
        key_files: Vec::new(),
        firmware: None,
        pad: true,
    }
}

/// Imports; returns what was said.
pub fn import(options: &Options) -> haulier::Result<Vec<(Level, String)>> {
    let recorder = Recorder::default();
    run(options, &recorder)?;
    Ok(recorder.lines())
}

/// Names of what lies in a folder.
pub fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}
