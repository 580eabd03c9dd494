//! Windows: hives that `hivexregedit` fills, on an NTFS that ntfs-3g fills.

use crate::map_support::mount::privileged;
use crate::map_support::{arg, run};
use crate::scene::look_at;
use haulier::inventory::{RtcBasis, SystemKind};
use std::fs;
use std::path::Path;

/// A hive with nothing but a root key, for `hivexregedit` to start from: a base block, one bin, in it
/// the root (`nk`), its security (`sk`) and what is free.
fn empty_hive() -> Vec<u8> {
    fn put(bytes: &mut [u8], at: usize, with: &[u8]) {
        bytes[at..at + with.len()].copy_from_slice(with);
    }
    let number = |n: u32| n.to_le_bytes();
    let mut hive = vec![0; 0x2000];
    put(&mut hive, 0, b"regf");
    for (at, value) in [
        (4, 1),
        (8, 1),
        (0x14, 1),
        (0x18, 3),
        (0x20, 1),
        (0x24, 0x20),
        (0x28, 0x1000),
        (0x2C, 1),
    ] {
        put(&mut hive, at, &number(value));
    }
    put(&mut hive, 0x1000, b"hbin");
    put(&mut hive, 0x1008, &number(0x1000));
    let (root, security, free) = (0x1020, 0x1080, 0x10C0);
    put(&mut hive, root, &(-0x60_i32).to_le_bytes());
    put(&mut hive, root + 4, b"nk");
    // Root of a hive, its name in one byte a letter.
    put(&mut hive, root + 6, &0x2C_u16.to_le_bytes());
    for at in [0x10, 0x1C, 0x20, 0x28, 0x30] {
        put(&mut hive, root + 4 + at, &number(u32::MAX));
    }
    put(&mut hive, root + 4 + 0x2C, &number(0x80));
    put(&mut hive, root + 4 + 0x48, &4_u16.to_le_bytes());
    put(&mut hive, root + 4 + 0x4C, b"ROOT");
    put(&mut hive, security, &(-0x40_i32).to_le_bytes());
    put(&mut hive, security + 4, b"sk");
    put(&mut hive, security + 8, &number(0x80));
    put(&mut hive, security + 12, &number(0x80));
    put(&mut hive, security + 16, &number(1));
    put(&mut hive, security + 20, &number(20));
    put(&mut hive, security + 24, &[1, 0, 4, 0x80]);
    put(&mut hive, free, &number(0x2000 - 0x10C0));
    let sum = hive[..508].chunks_exact(4).fold(0, |sum, word| {
        sum ^ u32::from_le_bytes(word.try_into().unwrap())
    });
    put(&mut hive, 508, &number(sum));
    hive
}

/// A hive with what a `.reg` file says.
fn hive(path: &Path, prefix: &str, text: &str) {
    fs::write(path, empty_hive()).unwrap();
    let file = path.with_extension("reg");
    fs::write(
        &file,
        format!("Windows Registry Editor Version 5.00\n\n{text}"),
    )
    .unwrap();
    run(
        "hivexregedit",
        &["--merge", "--prefix", prefix, arg(path), arg(&file)],
    );
}

const SOFTWARE: &str = r#"[HKEY_LOCAL_MACHINE\SOFTWARE\Microsoft]

[HKEY_LOCAL_MACHINE\SOFTWARE\Microsoft\Windows NT]

[HKEY_LOCAL_MACHINE\SOFTWARE\Microsoft\Windows NT\CurrentVersion]
"ProductName"="Windows Server 2019 Standard"
"CurrentBuild"="17763"
"CurrentVersion"="6.3"
"CurrentMajorVersionNumber"=dword:0000000a
"CurrentMinorVersionNumber"=dword:00000000
"UBR"=dword:000004d2
"EditionID"="ServerStandard"
"InstallationType"="Server"
"#;

fn system() -> String {
    let mut text = r#"[HKEY_LOCAL_MACHINE\SYSTEM\Select]
"Current"=dword:00000002

[HKEY_LOCAL_MACHINE\SYSTEM\ControlSet002]

[HKEY_LOCAL_MACHINE\SYSTEM\ControlSet002\Control]

[HKEY_LOCAL_MACHINE\SYSTEM\ControlSet002\Control\ComputerName]

[HKEY_LOCAL_MACHINE\SYSTEM\ControlSet002\Control\ComputerName\ComputerName]
"ComputerName"="LEDGER-W"

[HKEY_LOCAL_MACHINE\SYSTEM\ControlSet002\Control\TimeZoneInformation]
"RealTimeIsUniversal"=dword:00000001

[HKEY_LOCAL_MACHINE\SYSTEM\ControlSet002\Control\Session Manager]

[HKEY_LOCAL_MACHINE\SYSTEM\ControlSet002\Control\Session Manager\Environment]
"PROCESSOR_ARCHITECTURE"="AMD64"

[HKEY_LOCAL_MACHINE\SYSTEM\ControlSet002\Services]

"#
    .to_owned();
    for (name, start) in [
        ("storahci", 0),
        ("stornvme", 3),
        ("megasas35i", 0),
        ("LSI_SAS2i", 3),
        ("viostor", 0),
    ] {
        text += &format!(
            "[HKEY_LOCAL_MACHINE\\SYSTEM\\ControlSet002\\Services\\{name}]\n\"Start\"=dword:{start:08x}\n\n"
        );
    }
    for nth in 0..300 {
        text += &format!(
            "[HKEY_LOCAL_MACHINE\\SYSTEM\\ControlSet002\\Services\\other{nth}]\n\"Start\"=dword:00000003\n\n"
        );
    }
    text
}

#[test]
fn a_windows_server_is_read_from_its_registry() {
    let scratch = tempfile::tempdir().unwrap();
    let path = |name: &str| scratch.path().join(name);
    hive(&path("SOFTWARE"), r"HKEY_LOCAL_MACHINE\SOFTWARE", SOFTWARE);
    hive(&path("SYSTEM"), r"HKEY_LOCAL_MACHINE\SYSTEM", &system());
    let image = path("image");
    fs::File::create(&image).unwrap().set_len(64 << 20).unwrap();
    run("mkntfs", &["-F", "-q", "-Q", "-L", "System", arg(&image)]);
    let at = path("mounted");
    fs::create_dir_all(&at).unwrap();
    privileged("ntfs-3g", &[arg(&image), arg(&at)]);
    let config = at.join("Windows/System32/config");
    fs::create_dir_all(&config).unwrap();
    for nth in 0..400 {
        fs::write(config.with_file_name(format!("library-{nth:03}.dll")), "MZ").unwrap();
    }
    for name in ["SOFTWARE", "SYSTEM"] {
        fs::copy(path(name), config.join(name)).unwrap();
    }
    privileged("umount", &[arg(&at)]);
    let serial = run("blkid", &["-o", "value", "-s", "UUID", arg(&image)]);
    let found = look_at(&[image]);
    assert_eq!(found.notes, Vec::<String>::new());
    assert_eq!(found.systems.len(), 1);
    let system = &found.systems[0];
    assert_eq!(system.kind, Some(SystemKind::Windows));
    assert_eq!(
        system.name.as_deref(),
        Some("Windows Server 2019 Standard (build 17763.1234)")
    );
    assert_eq!(system.version.as_deref(), Some("10.0.17763"));
    assert_eq!(system.hostname.as_deref(), Some("LEDGER-W"));
    assert_eq!(system.architecture.as_deref(), Some("x86_64"));
    assert_eq!(system.rtc, Some(RtcBasis::Utc));
    assert_eq!(system.root.uuid.as_deref(), Some(serial.trim()));
    assert_eq!(system.root.label.as_deref(), Some("System"));
    let drivers: Vec<(&str, Option<u32>)> = system
        .drivers
        .as_ref()
        .unwrap()
        .iter()
        .map(|driver| (driver.name.as_str(), driver.start))
        .collect();
    let expected = [
        ("lsi_sas2i", Some(3)),
        ("megasas35i", Some(0)),
        ("storahci", Some(0)),
        ("stornvme", Some(3)),
        ("viostor", Some(0)),
    ];
    assert_eq!(drivers, expected);
    assert_eq!(system.kernels, None);
}
