//! Windows: hives that `hivexregedit` fills, on an NTFS that ntfs-3g fills.

use crate::map_support::hive::hive;
use crate::map_support::mount::privileged;
use crate::map_support::{arg, run};
use crate::scene::look_at;
use haulier::inventory::{RtcBasis, SystemKind};
use std::fs;

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
"ActiveTimeBias"=dword:ffffff88
"TimeZoneKeyName"="W. Europe Standard Time"

[HKEY_LOCAL_MACHINE\SYSTEM\ControlSet002\Control\Session Manager]

[HKEY_LOCAL_MACHINE\SYSTEM\ControlSet002\Control\Session Manager\Environment]
"PROCESSOR_ARCHITECTURE"="AMD64"

[HKEY_LOCAL_MACHINE\SYSTEM\ControlSet002\Services]

[HKEY_LOCAL_MACHINE\SYSTEM\ControlSet002\Services\partmgr]

[HKEY_LOCAL_MACHINE\SYSTEM\ControlSet002\Services\partmgr\Parameters]
"SanPolicy"=dword:00000003

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
    let zone = system.time_zone.as_ref().unwrap();
    assert_eq!(zone.name.as_deref(), Some("W. Europe Standard Time"));
    assert_eq!(zone.utc_offset_minutes, Some(120));
    assert_eq!(system.san_policy, Some(3));
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
