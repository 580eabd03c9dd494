//! Made systems: the files of a small Debian server in a folder, with an initramfs that the tools of
//! the distribution pack, and disks with partitions of such filesystems.

#![allow(unreachable_pub)]

use crate::map_support::{arg, run, try_run};
use haulier::device::{Disk, ReadAt};
use haulier::inventory::System;
use haulier::inventory::installed::{Found, look};
use haulier::usedmap::DiskInfo;
use haulier::volume::crypt::Secrets;
use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

pub const MIB: u64 = 1 << 20;
pub const RELEASE: &str = "6.12.57+deb13-amd64";
pub const ROOT_UUID: &str = "6f0ab5a4-57d9-4c0c-9a0d-2f8d4f8a1c11";
pub const BOOT_UUID: &str = "6f0ab5a4-57d9-4c0c-9a0d-2f8d4f8a1c22";

const OS_RELEASE: &str = "PRETTY_NAME=\"Debian GNU/Linux 13 (trixie)\"\nNAME=\"Debian GNU/Linux\"\n\
                          VERSION_ID=\"13\"\nVERSION=\"13 (trixie)\"\nID=debian\nID_LIKE='a b'\n";
const INTERFACES: &str = "auto lo\niface lo inet loopback\n\nallow-hotplug enp24s0f0\niface enp24s0f0 \
                          inet static\n\taddress 192.0.2.7/24\n\tgateway 192.0.2.1\n";

/// Modules in the initramfs, by their paths below `kernel/`, and whether they are told.
const MODULES: [(&str, bool); 8] = [
    ("drivers/ata/ahci.ko.xz", true),
    ("drivers/block/virtio_blk.ko", true),
    ("drivers/scsi/megaraid/megaraid_sas.ko.xz", true),
    ("drivers/virtio/virtio-pci.ko.zst", true),
    ("drivers/net/ethernet/intel/e1000e/e1000e.ko", true),
    ("fs/ext4/ext4.ko.xz", true),
    ("drivers/gpu/drm/ast/ast.ko.xz", false),
    ("lib/crc16.ko", false),
];

/// How an initramfs is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    Plain,
    Gzip,
    Xz,
    Lzma,
    Zstd,
    Lz4,
}

impl Packing {
    pub const ALL: [Self; 6] = [
        Self::Plain,
        Self::Gzip,
        Self::Xz,
        Self::Lzma,
        Self::Zstd,
        Self::Lz4,
    ];

    /// As initramfs-tools and dracut call it.
    fn command(self) -> &'static [&'static str] {
        match self {
            Self::Plain => &["cat"],
            Self::Gzip => &["gzip", "-9n"],
            Self::Xz => &["xz", "--check=crc32"],
            Self::Lzma => &["lzma", "-9"],
            Self::Zstd => &["zstd", "-q", "-19", "-T1"],
            Self::Lz4 => &["lz4", "-9", "-l", "-q"],
        }
    }
}

fn write(root: &Path, path: &str, content: impl AsRef<[u8]>) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

fn link(root: &Path, path: &str, target: &str) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    symlink(target, path).unwrap();
}

/// Runs a program with an input; its output.
pub fn piped(command: &[&str], folder: &Path, input: &[u8]) -> Vec<u8> {
    let mut child = Command::new(command[0])
        .args(&command[1..])
        .current_dir(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap_or_else(|e| panic!("{}: {e}", command[0]));
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let feeder = std::thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output().unwrap();
    feeder.join().unwrap().unwrap();
    assert!(output.status.success(), "{command:?}");
    output.stdout
}

/// What GNU cpio makes of a folder.
fn cpio(folder: &Path) -> Vec<u8> {
    let names = run(
        "sh",
        &[
            "-c",
            &format!("cd {} && find . -mindepth 1 | cut -c3- | sort", arg(folder)),
        ],
    );
    piped(
        &["cpio", "--quiet", "-o", "-H", "newc"],
        folder,
        names.as_bytes(),
    )
}

/// An initramfs as Debian makes it; with `early`, microcode and some modules come uncompressed in front.
pub fn initramfs(packing: Packing, early: bool) -> Vec<u8> {
    let scratch = tempfile::tempdir().unwrap();
    let (front, main) = (scratch.path().join("front"), scratch.path().join("main"));
    let mut bytes = Vec::new();
    write(&main, "init", "#!/bin/sh\n");
    write(&main, "conf/conf.d/long", vec![b'x'; 300_000]);
    link(&main, "lib", "usr/lib");
    for (nth, (module, _)) in MODULES.iter().enumerate() {
        let root = if early && nth < 2 { &front } else { &main };
        let path = format!("usr/lib/modules/{RELEASE}/kernel/{module}");
        write(root, &path, vec![b'm'; 1000 * nth]);
    }
    if early {
        let microcode = scratch.path().join("microcode");
        write(
            &microcode,
            "kernel/x86/microcode/GenuineIntel.bin",
            vec![7; 5000],
        );
        bytes.extend(cpio(&microcode));
        bytes.extend(cpio(&front));
    }
    bytes.extend(piped(packing.command(), scratch.path(), &cpio(&main)));
    bytes
}

/// The modules that `lsinitramfs` sees and that are told, as they are told.
pub fn modules_by_lsinitramfs(image: &Path) -> Vec<String> {
    // Behind an archive that is not compressed it looks for a compressed one, and fails without.
    let output = try_run("lsinitramfs", &[arg(image)]);
    let listed = String::from_utf8_lossy(&output.stdout);
    let mut modules: Vec<String> = MODULES
        .iter()
        .filter(|(module, told)| {
            let path = format!("usr/lib/modules/{RELEASE}/kernel/{module}");
            assert!(listed.lines().any(|line| line == path), "{path}: {listed}");
            *told
        })
        .map(|(module, _)| {
            let file = module.rsplit('/').next().unwrap();
            file.split_once(".ko").unwrap().0.replace('-', "_")
        })
        .collect();
    modules.sort();
    modules
}

/// The files of a server. `boot` is its folder of kernels, which may be another volume.
pub fn system(root: &Path, boot: &Path, fstab: &str) {
    let path_of_boot = |name: &str| boot.join(name);
    write(root, "usr/lib/os-release", OS_RELEASE);
    link(root, "etc/os-release", "../usr/lib/os-release");
    write(root, "etc/hostname", "ledger\n");
    write(root, "etc/passwd", "root:x:0:0::/root:/bin/sh\n");
    write(root, "etc/fstab", fstab);
    write(root, "etc/adjtime", "0.0 0 0.0\n0\nLOCAL\n");
    write(root, "usr/share/zoneinfo/Europe/Berlin", "TZif2");
    link(root, "etc/localtime", "/usr/share/zoneinfo/Europe/Berlin");
    write(root, "etc/network/interfaces", INTERFACES);
    write(
        root,
        "usr/lib/udev/rules.d/80-net-setup-link.rules",
        "# x\n",
    );
    fs::create_dir_all(root.join("usr/sbin")).unwrap();
    fs::copy("/bin/true", root.join("usr/sbin/init")).unwrap();
    link(root, "sbin", "usr/sbin");
    link(root, "lib", "usr/lib");
    let builtin = "kernel/drivers/nvme/host/nvme-core.ko\nkernel/fs/binfmt_misc.ko\n";
    write(
        root,
        &format!("usr/lib/modules/{RELEASE}/modules.builtin"),
        builtin,
    );
    write(root, "usr/lib/modules/6.1.0-1-amd64/modules.builtin", "");
    fs::create_dir_all(path_of_boot("grub")).unwrap();
    for release in [RELEASE, "6.1.0-1-amd64"] {
        fs::write(path_of_boot(&format!("vmlinuz-{release}")), b"MZ").unwrap();
    }
    fs::write(
        path_of_boot(&format!("initrd.img-{RELEASE}")),
        initramfs(Packing::Zstd, true),
    )
    .unwrap();
    let menu = format!(
        "set default=\"0\"\nmenuentry 'Debian GNU/Linux' --class debian {{\n\tlinux \
         /vmlinuz-{RELEASE} root=UUID={ROOT_UUID} ro quiet resume=/dev/sda9\n\tinitrd \
         /initrd.img-{RELEASE}\n}}\n"
    );
    fs::write(path_of_boot("grub/grub.cfg"), menu).unwrap();
}

/// What [`system`] put in, in whatever volume it is.
pub fn check(system: &System) {
    assert_eq!(system.name.as_deref(), Some("Debian GNU/Linux 13 (trixie)"));
    assert_eq!(system.id.as_deref(), Some("debian"));
    assert_eq!(system.id_like, ["a", "b"]);
    assert_eq!(system.version.as_deref(), Some("13"));
    assert_eq!(system.hostname.as_deref(), Some("ledger"));
    assert_eq!(system.architecture.as_deref(), Some("x86_64"));
    assert_eq!(system.rtc, Some(haulier::inventory::RtcBasis::Localtime));
    let zone = system.time_zone.as_ref().unwrap();
    assert_eq!(zone.name.as_deref(), Some("Europe/Berlin"));
    assert_eq!(zone.utc_offset_minutes, None);
    let line = system.command_line.as_ref().unwrap();
    assert_eq!(line.root.as_deref(), Some(&*format!("UUID={ROOT_UUID}")));
    assert_eq!(line.resume.as_deref(), Some("/dev/sda9"));
    let kernels = system.kernels.as_ref().unwrap();
    let releases: Vec<&str> = kernels.iter().map(|k| k.release.as_str()).collect();
    assert_eq!(releases, [RELEASE, "6.1.0-1-amd64"]);
    let kernel = &kernels[0];
    assert_eq!(kernel.default, Some(true));
    assert_eq!(
        kernel.initramfs.as_deref(),
        Some(&*format!("/boot/initrd.img-{RELEASE}"))
    );
    let drivers = kernel.initramfs_drivers.as_ref().unwrap();
    for driver in [
        "ahci",
        "virtio_blk",
        "virtio_pci",
        "megaraid_sas",
        "e1000e",
        "ext4",
    ] {
        assert!(drivers.iter().any(|d| d == driver), "{driver}: {drivers:?}");
    }
    assert_eq!(drivers.len(), 6);
    let built_in = kernel.builtin_drivers.as_ref().unwrap();
    assert_eq!(*built_in, ["binfmt_misc", "nvme_core"]);
    assert_eq!(kernels[1].initramfs, None);
    let network = system.network.as_ref().unwrap();
    assert_eq!(network.managers, ["ifupdown"]);
    assert_eq!(network.interfaces[0].name.as_deref(), Some("enp24s0f0"));
    assert_eq!(network.interfaces[0].addresses, ["192.0.2.7/24"]);
    assert_eq!(network.predictable_names, Some(true));
}

/// An ESP with the files of a folder.
pub fn esp_image(folder: &Path, image: &Path) {
    let at = ["-C", "-F", "32", "-i", "4A1D7E33", "-n", "EFI"];
    run("mkfs.vfat", &[&at[..], &[arg(image), "65536"]].concat());
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        run("mcopy", &["-s", "-i", arg(image), arg(&path), "::/"]);
    }
}

/// An ext4 made of a folder.
pub fn ext4(folder: &Path, image: &Path, mib: u64, uuid: &str, options: &[&str]) {
    let size = format!("{mib}M");
    let mut all = vec!["-q", "-F", "-t", "ext4", "-U", uuid, "-d", arg(folder)];
    all.extend_from_slice(options);
    all.extend([arg(image), size.as_str()]);
    run("mke2fs", &all);
}

/// A disk whose partitions (GPT, from 1 MiB on) have these contents.
pub fn disk(image: &Path, partitions: &[&Path]) {
    let partitions: Vec<(&Path, &str)> = partitions.iter().map(|path| (*path, "linux")).collect();
    disk_of(image, &partitions);
}

/// The same with their types, as sfdisk calls them or by their GUID.
pub fn disk_of(image: &Path, partitions: &[(&Path, &str)]) {
    let mut table = "label: gpt\nlabel-id: 0E4C9B1A-6D3B-4C43-9E1B-7A5D12C0F001\n".to_owned();
    let mut start = MIB;
    let mut places = Vec::new();
    for (partition, kind) in partitions {
        let size = fs::metadata(partition).unwrap().len().next_multiple_of(MIB);
        table += &format!("start={}, size={}, type={kind}\n", start / 512, size / 512);
        places.push(start);
        start += size;
    }
    fs::File::create(image)
        .unwrap()
        .set_len(start + MIB)
        .unwrap();
    piped(
        &["/usr/sbin/sfdisk", "--quiet", "--no-reread", arg(image)],
        Path::new("/"),
        table.as_bytes(),
    );
    for ((partition, _), start) in partitions.iter().zip(places) {
        run(
            "dd",
            &[
                "bs=1M",
                "conv=sparse,notrunc",
                "status=none",
                &format!("if={}", arg(partition)),
                &format!("of={}", arg(image)),
                &format!("seek={}", start / MIB),
            ],
        );
    }
}

/// What is found on images.
pub fn look_at(images: &[PathBuf]) -> Found {
    let disks: Vec<Disk> = images
        .iter()
        .map(|image| Disk::open(image).unwrap())
        .collect();
    let sources: Vec<(&dyn ReadAt, DiskInfo)> = disks
        .iter()
        .map(|disk| (disk as &dyn ReadAt, DiskInfo::from(disk.identity())))
        .collect();
    look(&sources, &Secrets::default()).unwrap()
}
