//! A Windows gets virtio's drivers at import, by virt-v2v-in-place. No Windows can be had here: these are its
//! registry, the files by which libguestfs knows it and drivers of the right names, for which virt-v2v
//! does what it does for a real one. Nothing here boots.

mod import_common;
mod map_support;

use haulier::device::{Disk, ReadAt};
use haulier::inventory::installed::look;
use haulier::inventory::{Bus, Machine, SystemKind};
use haulier::usedmap::DiskInfo;
use haulier::volume::crypt::Secrets;
use import_common::{add_disk, capture, names, server, tool};
use map_support::hive::hive;
use map_support::mount::privileged;
use map_support::{arg, run};
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

const MIB: u64 = 1 << 20;
/// virt-v2v wants 100 MB free on it.
const VOLUME_MIB: u64 = 160;

const SOFTWARE: &str = r#"[HKEY_LOCAL_MACHINE\SOFTWARE\Microsoft]

[HKEY_LOCAL_MACHINE\SOFTWARE\Microsoft\Windows]

[HKEY_LOCAL_MACHINE\SOFTWARE\Microsoft\Windows\CurrentVersion]
"DevicePath"=hex(2):25,00,53,00,79,00,73,00,74,00,65,00,6d,00,52,00,6f,00,6f,00,74,00,25,00,5c,00,69,00,6e,00,66,00,00,00

[HKEY_LOCAL_MACHINE\SOFTWARE\Microsoft\Windows NT]

[HKEY_LOCAL_MACHINE\SOFTWARE\Microsoft\Windows NT\CurrentVersion]
"ProductName"="Windows Server 2019 Standard"
"CurrentBuild"="17763"
"CurrentBuildNumber"="17763"
"CurrentVersion"="6.3"
"CurrentMajorVersionNumber"=dword:0000000a
"CurrentMinorVersionNumber"=dword:00000000
"EditionID"="ServerStandard"
"InstallationType"="Server"
"#;

/// Keys of the other hive, with their values.
const SYSTEM: [(&str, &str); 12] = [
    (
        "Select",
        "\"Current\"=dword:00000001\n\"Default\"=dword:00000001\n",
    ),
    ("DriverDatabase", ""),
    (r"DriverDatabase\DeviceIds", ""),
    (r"DriverDatabase\DriverInfFiles", ""),
    (r"DriverDatabase\DriverPackages", ""),
    ("ControlSet001", ""),
    (r"ControlSet001\Control", ""),
    (r"ControlSet001\Services", ""),
    (r"ControlSet001\Services\Tcpip", ""),
    (
        r"ControlSet001\Services\Tcpip\Parameters",
        "\"Hostname\"=\"LEDGER-W\"\n",
    ),
    (
        r"ControlSet001\Services\storahci",
        "\"Start\"=dword:00000000\n",
    ),
    ("MountedDevices", ""),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Firmware {
    Bios,
    Uefi,
}

/// The head of a program for x86_64, by which libguestfs knows the architecture.
fn program() -> Vec<u8> {
    let mut file = vec![0; 512];
    file[..2].copy_from_slice(b"MZ");
    file[0x3c] = 0x80;
    file[0x80..0x84].copy_from_slice(b"PE\0\0");
    file[0x84..0x86].copy_from_slice(&0x8664_u16.to_le_bytes());
    file[0x94..0x96].copy_from_slice(&0xf0_u16.to_le_bytes());
    file[0x96..0x98].copy_from_slice(&0x22_u16.to_le_bytes());
    file[0x98..0x9a].copy_from_slice(&0x20b_u16.to_le_bytes());
    file
}

/// The Windows' own volume.
fn volume(dir: &Path) -> PathBuf {
    let path = |name: &str| dir.join(name);
    hive(&path("SOFTWARE"), r"HKEY_LOCAL_MACHINE\SOFTWARE", SOFTWARE);
    let system: String = SYSTEM
        .iter()
        .map(|(key, values)| format!("[HKEY_LOCAL_MACHINE\\SYSTEM\\{key}]\n{values}\n"))
        .collect();
    hive(&path("SYSTEM"), r"HKEY_LOCAL_MACHINE\SYSTEM", &system);
    let image = path("ntfs.img");
    let file = fs::File::create(&image).unwrap();
    file.set_len(VOLUME_MIB * MIB).unwrap();
    run("mkntfs", &["-F", "-q", "-Q", "-L", "System", arg(&image)]);
    let at = path("mounted");
    fs::create_dir_all(&at).unwrap();
    privileged("ntfs-3g", &[arg(&image), arg(&at)]);
    for folder in ["System32/config", "System32/drivers", "Temp", "inf"] {
        fs::create_dir_all(at.join("Windows").join(folder)).unwrap();
    }
    fs::create_dir_all(at.join("Program Files")).unwrap();
    fs::write(at.join("Windows/System32/cmd.exe"), program()).unwrap();
    for name in ["SOFTWARE", "SYSTEM"] {
        fs::copy(path(name), at.join("Windows/System32/config").join(name)).unwrap();
    }
    privileged("umount", &[arg(&at)]);
    image
}

/// The ESP as Windows' installer fills it, with an empty store of boot entries.
fn esp(dir: &Path) -> PathBuf {
    let image = dir.join("esp.img");
    let file = fs::File::create(&image).unwrap();
    file.set_len(64 * MIB).unwrap();
    run("mkfs.vfat", &["-F", "32", arg(&image)]);
    for folder in ["::/EFI", "::/EFI/Microsoft", "::/EFI/Microsoft/Boot"] {
        run("mmd", &["-i", arg(&image), folder]);
    }
    let loader = dir.join("bootmgfw.efi");
    fs::write(&loader, program()).unwrap();
    let entries = dir.join("BCD");
    let root = r"HKEY_LOCAL_MACHINE\BCD00000000";
    hive(&entries, root, &format!("[{root}\\Objects]\n"));
    for file in [&loader, &entries] {
        run(
            "mcopy",
            &["-i", arg(&image), arg(file), "::/EFI/Microsoft/Boot/"],
        );
    }
    image
}

/// A disk with the Windows; where its volume starts, in MiB.
fn disk(dir: &Path, firmware: Firmware) -> (PathBuf, u64) {
    let disk = dir.join("disk.img");
    let sectors = VOLUME_MIB * 2048;
    let (table, parts) = match firmware {
        Firmware::Bios => (
            format!("label: dos\nstart=2048,size={sectors},type=7,bootable\n"),
            vec![(volume(dir), 1)],
        ),
        Firmware::Uefi => (
            format!(
                "label: gpt\nstart=2048,size=131072,type=uefi\nstart=133120,size={sectors},\
                 type=EBD0A0A2-B9E5-4433-87C0-68B6B72699C7\n"
            ),
            vec![(esp(dir), 1), (volume(dir), 65)],
        ),
    };
    let size = (VOLUME_MIB + 72) * MIB;
    fs::File::create(&disk).unwrap().set_len(size).unwrap();
    let mut sfdisk = Command::new("/usr/sbin/sfdisk")
        .args(["--quiet", "--no-reread"])
        .arg(&disk)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut input = sfdisk.stdin.take().unwrap();
    input.write_all(table.as_bytes()).unwrap();
    drop(input);
    assert!(sfdisk.wait().unwrap().success());
    for (part, at) in &parts {
        let (from, to) = (format!("if={}", arg(part)), format!("of={}", arg(&disk)));
        let seek = format!("seek={at}");
        let all = ["bs=1M", "conv=notrunc,sparse", "status=none"];
        run("dd", &[&all[..], &[&from, &to, &seek]].concat());
    }
    let (_, at) = parts.last().unwrap();
    (disk, *at)
}

/// Files of these names where virtio-win has those for Windows Server 2019.
fn drivers(dir: &Path) -> PathBuf {
    let root = dir.join("virtio-win");
    for (folder, name) in [
        ("viostor", "viostor"),
        ("vioscsi", "vioscsi"),
        ("NetKVM", "netkvm"),
        ("Balloon", "balloon"),
    ] {
        let folder = root.join(folder).join("2k19/amd64");
        fs::create_dir_all(&folder).unwrap();
        for end in ["cat", "inf", "sys"] {
            fs::write(
                folder.join(format!("{name}.{end}")),
                format!("{name} {end}\n"),
            )
            .unwrap();
        }
    }
    root
}

/// The machine as the inventory has it, captured.
fn captured(dir: &Path, disk: &Path, firmware: Firmware) -> PathBuf {
    let mut machine: Machine = server(match firmware {
        Firmware::Bios => "bios",
        Firmware::Uefi => "uefi",
    });
    add_disk(&mut machine, Bus::Sata, "ahci", 512);
    machine.disks[0].size_bytes = fs::metadata(disk).unwrap().len();
    let opened = Disk::open(disk).unwrap();
    let source: &dyn ReadAt = &opened;
    let found = look(
        &[(source, DiskInfo::from(opened.identity()))],
        &Secrets::new(),
    )
    .unwrap();
    let mut systems = found.systems;
    assert_eq!(systems.len(), 1, "{:?}", found.notes);
    assert_eq!(systems[0].kind, Some(SystemKind::Windows));
    systems[0].root.disks = vec!["sda".into()];
    machine.installed = Some(systems);
    capture(dir, &machine, &[disk.to_owned()])
}

/// `haulier import --profile virtio` with libguestfs in software emulation, on one processor.
fn import(capture: &Path, out: &Path, words: &[&str], variables: &[(&str, &str)]) -> Output {
    let qemu = capture.join("../qemu-with-one-processor");
    fs::write(
        &qemu,
        "#!/bin/bash\nwords=()\nwhile [ $# -gt 0 ]; do\n  case $1 in\n    -smp) words+=(-smp 1); shift 2;;\n    \
         *) words+=(\"$1\"); shift;;\n  esac\ndone\nexec qemu-system-x86_64 \"${words[@]}\"\n",
    )
    .unwrap();
    fs::set_permissions(&qemu, fs::Permissions::from_mode(0o755)).unwrap();
    tool(
        Command::new(env!("CARGO_BIN_EXE_haulier"))
            .arg("import")
            .arg(capture)
            .args(["--to", "qemu", "--profile", "virtio", "--out"])
            .arg(out)
            .args(words)
            .env("LIBGUESTFS_BACKEND", "direct")
            .env("LIBGUESTFS_BACKEND_SETTINGS", "force_tcg")
            .env("LIBGUESTFS_HV", qemu)
            .envs(variables.iter().copied()),
    )
}

fn said(output: &Output) -> String {
    let both = [&output.stdout[..], &output.stderr[..]].concat();
    // As people read it, not as it was broken into lines.
    let text = String::from_utf8_lossy(&both).into_owned();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn becomes_virtio(firmware: Firmware) {
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path();
    let (disk, start) = disk(dir, firmware);
    let capture = captured(dir, &disk, firmware);
    let out = dir.join("vm");
    let virtio_win = drivers(dir);
    let output = import(&capture, &out, &[], &[("VIRTIO_WIN", arg(&virtio_win))]);
    let said = said(&output);
    assert!(said.contains("QEMU Guest Agent"), "{said}");
    let list = fs::read_to_string(out.join("changes.txt")).unwrap_or_else(|_| panic!("{said}"));
    for part in [
        "the driver viostor of the VM's disks starts with the boot loader",
        "at its first start: balloon, netkvm, vioscsi, viostor",
        "disk-0.changed.qcow2 -> disk-0.qcow2",
    ] {
        assert!(list.contains(part), "{part}: {list}");
    }
    let has_loader = list.contains(r"\EFI\BOOT\BOOTX64.EFI");
    assert_eq!(has_loader, firmware == Firmware::Uefi, "{list}");
    let script = fs::read_to_string(out.join("run.sh")).unwrap();
    for part in ["disk-0.changed.qcow2", "virtio-blk-pci", "virtio-net-pci"] {
        assert!(script.contains(part), "{part}: {script}");
    }
    // The disk below is what was captured.
    let compared = tool(
        Command::new("qemu-img")
            .args(["compare", "-f", "qcow2", "-F", "raw"])
            .args([&out.join("disk-0.qcow2"), &disk]),
    );
    assert!(String::from_utf8_lossy(&compared.stdout).contains("identical"));
    // What others see in the overlay.
    let raw = dir.join("changed.img");
    tool(
        Command::new("qemu-img")
            .args(["convert", "-O", "raw"])
            .args([&out.join("disk-0.changed.qcow2"), &raw]),
    );
    let changed = dir.join("changed.ntfs");
    run(
        "dd",
        &[
            "bs=1M",
            "status=none",
            &format!("if={}", arg(&raw)),
            &format!("of={}", arg(&changed)),
            &format!("skip={start}"),
            &format!("count={VOLUME_MIB}"),
        ],
    );
    let at = dir.join("mounted");
    privileged("ntfs-3g", &["-o", "ro", arg(&changed), arg(&at)]);
    let hive = dir.join("SYSTEM.changed");
    fs::copy(at.join("Windows/System32/config/SYSTEM"), &hive).unwrap();
    let driver = fs::read_to_string(at.join("Windows/System32/drivers/viostor.sys"));
    let staged = names(&at.join("Windows/Drivers/VirtIO"));
    privileged("umount", &[arg(&at)]);
    assert_eq!(driver.unwrap(), "viostor sys\n");
    assert_eq!(staged.len(), 12, "{staged:?}");
    let keys = run(
        "hivexregedit",
        &["--export", arg(&hive), r"\ControlSet001\Services\viostor"],
    );
    assert!(keys.contains("\"Start\"=dword:00000000"), "{keys}");
}

#[test]
fn a_windows_on_a_gpt_gets_the_driver_of_its_virtio_disk() {
    becomes_virtio(Firmware::Uefi);
}

#[test]
fn a_windows_on_an_mbr_gets_the_driver_of_its_virtio_disk() {
    becomes_virtio(Firmware::Bios);
}

#[test]
fn what_goes_wrong_leaves_the_disks_and_is_said() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path();
    let (disk, _) = disk(dir, Firmware::Bios);
    let capture = captured(dir, &disk, Firmware::Bios);
    let virtio_win = drivers(dir);
    let path = std::env::var("PATH").unwrap();
    let fakes = dir.join("fakes");
    let with = |script: &str| {
        fs::create_dir_all(&fakes).unwrap();
        let program = fakes.join("virt-v2v-in-place");
        fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        format!("{}:{path}", fakes.display())
    };
    let fails = "echo '[ 0.0] Opening'; echo 'virt-v2v-in-place: error: filesystem was mounted read-only,' >&2; \
                 echo 'even though we asked.' >&2; echo >&2; echo 'If reporting bugs, run it with -v -x' >&2; exit 1";
    let there = arg(&virtio_win);
    for (case, (script, virtio_win, words, expected)) in [
        (
            fails,
            there,
            &[][..],
            "filesystem was mounted read-only, even though we asked.",
        ),
        // It says that all is well, and nothing was done.
        (
            "exit 0",
            there,
            &[],
            "Windows is not seen to start on the VM's disks",
        ),
        (
            "exit 0",
            "/nowhere",
            &[],
            "the variable VIRTIO_WIN names /nowhere",
        ),
        ("exit 0", there, &["--unchanged"], "--unchanged was given"),
    ]
    .into_iter()
    .enumerate()
    {
        let out = dir.join(format!("vm-{case}"));
        let variables = [
            ("PATH", with(script)),
            ("VIRTIO_WIN", virtio_win.to_owned()),
        ];
        let variables = variables.each_ref().map(|(name, value)| (*name, &**value));
        let said = said(&import(&capture, &out, words, &variables));
        for part in [
            expected,
            "the disks",
            "Windows gets the virtio drivers by virt-v2v-in-place",
            "import again with --profile faithful",
        ] {
            assert!(said.contains(part), "{case}: {part}: {said}");
        }
        assert_eq!(names(&out), ["disk-0.qcow2", "run.sh"], "{case}");
    }
}
