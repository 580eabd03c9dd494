//! A UEFI machine whose loader is not at the fallback path starts as a VM, because its boot entry
//! comes along; and with the keys that it enforced Secure Boot with, it enforces it still.
//!
//! The loader is a program of a few instructions that says `HAULIER-BOOTED` on the console.

mod import_common;

use haulier::import::Target;
use haulier::inventory::{
    Bus, EfiVariable, Firmware, FirmwareKind, GLOBAL, Machine, SECURITY_DATABASE,
};
use import_common::{add_disk, capture, import, options, server, tool};
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

/// The ESP's partition GUID.
const ESP: uuid::Uuid = uuid::uuid!("7d2b1c4e-93aa-4f0e-8f61-0c5d4e3f2a1b");
const ESP_START: u64 = 2048;
const ESP_SECTORS: u64 = 98_304;
/// What the loader says.
const SAID: &str = "HAULIER-BOOTED";

/// A PE32+ program for UEFI: `SystemTable->ConOut->OutputString(SAID)`, then a loop.
fn loader() -> Vec<u8> {
    let mut code = vec![
        0x48, 0x8b, 0x4a, 0x40, // mov rcx, [rdx+40h]: ConOut
        0x48, 0x8d, 0x15, 9, 0, 0, 0, // lea rdx, [rip+9]: the text
        0x48, 0x83, 0xec, 0x28, // sub rsp, 28h
        0xff, 0x51, 0x08, // call [rcx+8]: OutputString
        0xeb, 0xfe, // jmp to itself
    ];
    for unit in SAID.encode_utf16().chain([0]) {
        code.extend(unit.to_le_bytes());
    }
    code.resize(0x200, 0);
    let mut file = b"MZ".to_vec();
    file.resize(0x3c, 0);
    file.extend(0x40_u32.to_le_bytes()); // e_lfanew
    file.extend(b"PE\0\0");
    file.extend(0x8664_u16.to_le_bytes()); // Machine
    file.extend(1_u16.to_le_bytes()); // NumberOfSections
    file.extend([0; 12]);
    file.extend(0xf0_u16.to_le_bytes()); // SizeOfOptionalHeader
    file.extend(0x022e_u16.to_le_bytes()); // Characteristics
    let optional = file.len();
    file.extend(0x20b_u16.to_le_bytes()); // Magic: PE32+
    file.resize(optional + 16, 0);
    file.extend(0x1000_u32.to_le_bytes()); // AddressOfEntryPoint
    file.extend(0x1000_u32.to_le_bytes()); // BaseOfCode
    file.extend(0_u64.to_le_bytes()); // ImageBase
    file.extend(0x1000_u32.to_le_bytes()); // SectionAlignment
    file.extend(0x200_u32.to_le_bytes()); // FileAlignment
    file.resize(optional + 56, 0);
    file.extend(0x2000_u32.to_le_bytes()); // SizeOfImage
    file.extend(0x200_u32.to_le_bytes()); // SizeOfHeaders
    file.resize(optional + 68, 0);
    file.extend(10_u16.to_le_bytes()); // Subsystem: EFI application
    file.resize(optional + 108, 0);
    file.extend(16_u32.to_le_bytes()); // NumberOfRvaAndSizes
    file.resize(optional + 0xf0, 0);
    file.extend(b".text\0\0\0");
    for word in [0x200_u32, 0x1000, 0x200, 0x200, 0, 0, 0, 0x6000_0020] {
        file.extend(word.to_le_bytes());
    }
    file.resize(0x200, 0);
    file.extend(code);
    file
}

/// A GPT disk of 64 MiB: an ESP whose only loader is `\EFI\debian\<name>`.
fn disk_without_fallback(dir: &Path, name: &str) -> PathBuf {
    let esp = dir.join("esp.img");
    let program = dir.join("loader.efi");
    fs::write(&program, loader()).unwrap();
    File::create(&esp)
        .unwrap()
        .set_len(ESP_SECTORS * 512)
        .unwrap();
    tool(Command::new("mkfs.vfat").arg(&esp));
    tool(
        Command::new("mmd")
            .arg("-i")
            .arg(&esp)
            .args(["::/EFI", "::/EFI/debian"]),
    );
    tool(
        Command::new("mcopy")
            .arg("-i")
            .arg(&esp)
            .arg(&program)
            .arg(format!("::/EFI/debian/{name}")),
    );
    let disk = dir.join("server.img");
    let mut file = File::create(&disk).unwrap();
    file.set_len(import_common::DISK_BYTES).unwrap();
    let end = ESP_START + ESP_SECTORS - 1;
    tool(
        Command::new("sgdisk")
            .args([
                "-n",
                &format!("1:{ESP_START}:{end}"),
                "-t",
                "1:ef00",
                "-u",
                &format!("1:{ESP}"),
            ])
            .arg(&disk),
    );
    file.seek(SeekFrom::Start(ESP_START * 512)).unwrap();
    file.write_all(&fs::read(esp).unwrap()).unwrap();
    disk
}

/// One node of a device path.
fn node(kind: u8, subtype: u8, data: &[u8]) -> Vec<u8> {
    let length = u16::try_from(data.len() + 4).unwrap();
    [&[kind, subtype], &length.to_le_bytes()[..], data].concat()
}

/// `Boot0003` as a Dell has it, with its own PCI devices in front of the partition.
fn boot_entry() -> EfiVariable {
    let utf16 = |text: &str| -> Vec<u8> {
        text.encode_utf16()
            .chain([0])
            .flat_map(u16::to_le_bytes)
            .collect()
    };
    let partition = [
        &1_u32.to_le_bytes()[..],
        &ESP_START.to_le_bytes(),
        &ESP_SECTORS.to_le_bytes(),
        &ESP.to_bytes_le(),
        &[2, 2],
    ]
    .concat();
    let path = [
        node(2, 1, &[0xd0, 0x41, 0x03, 0x0a, 0, 0, 0, 0]),
        node(1, 1, &[5, 0x11]),
        node(3, 18, &[0, 0, 0xff, 0xff, 0, 0]),
        node(4, 1, &partition),
        node(4, 4, &utf16(r"\EFI\debian\shimx64.efi")),
        node(0x7f, 0xff, &[]),
    ]
    .concat();
    let length = u16::try_from(path.len()).unwrap();
    variable(
        "Boot0003",
        GLOBAL,
        [
            &1_u32.to_le_bytes()[..],
            &length.to_le_bytes(),
            &utf16("debian"),
            &path,
        ]
        .concat(),
    )
}

fn variable(name: &str, guid: &str, data: Vec<u8>) -> EfiVariable {
    EfiVariable {
        name: name.into(),
        guid: guid.into(),
        attributes: 7,
        data,
    }
}

/// What efivarfs held, read by the inventory itself from a folder of such files.
fn firmware(dir: &Path, variables: &[EfiVariable]) -> Firmware {
    let root = dir.join("root");
    let efivars = root.join("sys/firmware/efi/efivars");
    fs::create_dir_all(&efivars).unwrap();
    for v in variables {
        let bytes = [&v.attributes.to_le_bytes()[..], &v.data].concat();
        fs::write(efivars.join(format!("{}-{}", v.name, v.guid)), bytes).unwrap();
    }
    Machine::read(&root).firmware
}

/// Captures, imports and runs the machine; what its console says until it says one of `ends`.
fn console(dir: &Path, firmware: Firmware, ends: &[&str]) -> String {
    console_with(dir, firmware, "shimx64.efi", ends)
}

/// The same with another name of the loader.
fn console_with(dir: &Path, firmware: Firmware, loader: &str, ends: &[&str]) -> String {
    let mut machine = server("uefi");
    machine.firmware = firmware;
    add_disk(&mut machine, Bus::Sata, "ahci", 512);
    let capture = capture(dir, &machine, &[disk_without_fallback(dir, loader)]);
    let out = dir.join("vm");
    import(&options(&capture, Target::Qemu, &out)).unwrap();
    let mut qemu = Command::new("sh")
        .arg(out.join("run.sh"))
        .env("QEMU_ACCEL", "tcg")
        .env("QEMU_SERIAL", "stdio")
        // No network: OVMF would try to boot from it before its shell.
        .args(["-boot", "menu=off,strict=on"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap();
    let mut stdout = qemu.stdout.take().unwrap();
    let (pieces, screen) = mpsc::channel();
    let reader = std::thread::spawn(move || {
        let mut piece = [0; 4096];
        while let Ok(length @ 1..) = stdout.read(&mut piece) {
            if pieces.send(piece[..length].to_vec()).is_err() {
                break;
            }
        }
    });
    let mut said = Vec::new();
    // A guard against a hang only: it takes some 5 s here.
    while let Ok(piece) = screen.recv_timeout(Duration::from_secs(240)) {
        said.extend(piece);
        let text = String::from_utf8_lossy(&said);
        if ends.iter().any(|end| text.contains(end)) {
            break;
        }
    }
    drop(screen);
    qemu.kill().unwrap();
    qemu.wait().unwrap();
    reader.join().unwrap();
    String::from_utf8_lossy(&said).into_owned()
}

#[test]
fn the_boot_entry_comes_along() {
    let dir = tempfile::tempdir().unwrap();
    let firmware = firmware(
        dir.path(),
        &[variable("BootOrder", GLOBAL, vec![3, 0]), boot_entry()],
    );
    assert_eq!(firmware.kind, FirmwareKind::Uefi);
    assert_eq!(
        firmware.boot_entries[0].path,
        format!(
            "PciRoot(0x0)/Pci(0x11,0x5)/Sata(0,0xffff,0)/HD(1,GPT,{ESP},0x800,0x18000)/\
             \\EFI\\debian\\shimx64.efi"
        )
    );
    let said = console(dir.path(), firmware, &[SAID, "Shell>"]);
    assert!(said.contains(SAID), "{said}");
}

/// The stick was started by BIOS: no variable was seen, and what is on the disk is enough.
#[test]
fn a_boot_entry_is_made_of_the_loader_where_none_was_recorded() {
    let dir = tempfile::tempdir().unwrap();
    let firmware = server("bios").firmware;
    assert_eq!(
        (firmware.kind, firmware.variables.len()),
        (FirmwareKind::Bios, 0)
    );
    let said = console(dir.path(), firmware, &[SAID, "Shell>"]);
    assert!(said.contains(SAID), "{said}");
}

/// Without this the tests above would prove nothing. Of a loader with such a name nobody knows whether
/// it starts a system.
#[test]
fn without_a_boot_entry_the_machine_does_not_start() {
    let dir = tempfile::tempdir().unwrap();
    let firmware = firmware(dir.path(), &[]);
    let said = console_with(
        dir.path(),
        firmware,
        "other.efi",
        &[SAID, "Shell>", "EFI Internal Shell"],
    );
    assert!(!said.contains(SAID) && said.contains("Shell"), "{said}");
}

#[test]
fn secure_boot_with_the_machines_keys_refuses_an_unsigned_loader() {
    let template = fs::read("/usr/share/OVMF/OVMF_VARS_4M.ms.fd")
        .expect("/usr/share/OVMF/OVMF_VARS_4M.ms.fd: install the package ovmf");
    let key = |name: &str, guid: &str| variable(name, guid, stored(&template, name));
    let dir = tempfile::tempdir().unwrap();
    let firmware = firmware(
        dir.path(),
        &[
            variable("BootOrder", GLOBAL, vec![3, 0]),
            boot_entry(),
            variable("SecureBoot", GLOBAL, vec![1]),
            key("PK", GLOBAL),
            key("KEK", GLOBAL),
            key("db", SECURITY_DATABASE),
            key("dbx", SECURITY_DATABASE),
        ],
    );
    assert_eq!(firmware.secure_boot, Some(true));
    let said = console(dir.path(), firmware, &[SAID, "Access Denied", "Shell>"]);
    assert!(
        said.contains("Access Denied") && !said.contains(SAID),
        "{said}"
    );
}

/// The data of the last valid variable of that name in a store of authenticated variables.
fn stored(store: &[u8], name: &str) -> Vec<u8> {
    let name: Vec<u8> = name
        .encode_utf16()
        .chain([0])
        .flat_map(u16::to_le_bytes)
        .collect();
    let u32le = |at: usize| {
        usize::try_from(u32::from_le_bytes(store[at..at + 4].try_into().unwrap())).unwrap()
    };
    let mut at = 0x64;
    let mut found = None;
    while store[at..at + 2] == [0xaa, 0x55] {
        let (name_size, data_size) = (u32le(at + 36), u32le(at + 40));
        let data = at + 60 + name_size;
        if store[at + 2] == 0x3f && store[at + 60..data] == name {
            found = Some(store[data..data + data_size].to_vec());
        }
        at = (data + data_size).next_multiple_of(4);
    }
    found.expect("a key in the template")
}
