//! The image from the committed lock, held against other people's tools. The appliance's programs
//! are stand-ins here; the tests that boot the image use the real ones.

use haulier_image::edit::Esp;
use haulier_image::packages::{Lock, Sysroot, unpack};
use haulier_image::programs::Programs;
use haulier_image::{Inputs, MAX_SIZE, Summary, build};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use tempfile::TempDir;

const MIB: u64 = 1 << 20;

struct Image {
    folder: TempDir,
    summary: Summary,
    lock: Lock,
    sysroot: Sysroot,
}

/// The image, built once for all tests.
fn image() -> &'static Image {
    static IMAGE: OnceLock<Image> = OnceLock::new();
    IMAGE.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let stand_in = |name: &str| {
            let path = folder.path().join(name);
            fs::write(&path, name).unwrap();
            path
        };
        let programs = Programs {
            haulier: stand_in("haulier"),
            init: stand_in("init"),
        };
        let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let lock = Lock::read(&haulier_image::lock_path(workspace)).unwrap();
        let summary = build(&Inputs {
            programs,
            lock: lock.clone(),
            out: folder.path().join("haulier.img"),
        })
        .unwrap();
        let sysroot = unpack(&lock).unwrap();
        Image {
            folder,
            summary,
            lock,
            sysroot,
        }
    })
}

/// A copy of the image that a test may change.
fn copy(folder: &TempDir) -> PathBuf {
    let path = folder.path().join("copy.img");
    fs::copy(&image().summary.image, &path).unwrap();
    path
}

/// Runs a program that must succeed and gives what it wrote.
fn output(command: &mut Command) -> String {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("starting {:?}: {error}", command.get_program()));
    let text = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {text}");
    text
}

/// The initramfs taken out of the image and unpacked: `early` and `root` in this folder.
fn initramfs() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let image = image();
        let esp = Esp::open(&image.summary.image, &image.lock).unwrap();
        let initrd = esp.get("slot-a/initrd.img").unwrap();
        // The early archive ends with zeros, the next one begins with zstd's magic number.
        let magic = [0x28, 0xB5, 0x2F, 0xFD];
        let main = initrd
            .chunks(4)
            .position(|word| word == magic)
            .expect("no zstd frame at a multiple of four bytes")
            * 4;
        let busybox = image.sysroot.path().join("usr/bin/busybox");
        for (name, archive) in [
            ("early", initrd[..main].to_vec()),
            ("root", zstd::decode_all(&initrd[main..]).unwrap()),
        ] {
            let folder = image.folder.path().join(name);
            fs::create_dir(&folder).unwrap();
            fs::write(folder.with_extension("cpio"), archive).unwrap();
            let archive = fs::File::open(folder.with_extension("cpio")).unwrap();
            let listing = output(
                Command::new(&busybox)
                    .args(["cpio", "-i", "-d", "-v"])
                    .current_dir(&folder)
                    .stdin(Stdio::from(archive)),
            );
            fs::write(folder.with_extension("list"), listing).unwrap();
        }
        image.folder.path().to_path_buf()
    })
}

/// The modules in the initramfs, as paths below the folder of their kernel.
fn modules() -> BTreeSet<String> {
    let folder = initramfs()
        .join("root/usr/lib/modules")
        .join(&image().summary.kernel);
    let find = output(
        Command::new("find")
            .args(["kernel", "-type", "f"])
            .current_dir(&folder),
    );
    find.lines().map(str::to_owned).collect()
}

#[test]
fn the_image_is_small_and_has_room_for_a_second_slot() {
    let summary = &image().summary;
    let length = fs::metadata(&summary.image).unwrap().len();
    assert_eq!(summary.size, length);
    assert!(length <= MAX_SIZE, "{length}");
    // 96 MiB of ESP, of which shim, GRUB and the file system's own tables take 6.
    assert!(2 * summary.boot_bytes < 90 * MIB, "{}", summary.boot_bytes);
}

#[test]
fn sha256sum_agrees_with_the_summary() {
    let summary = &image().summary;
    let text = output(Command::new("sha256sum").arg(&summary.image));
    assert_eq!(text.split(' ').next(), Some(summary.sha256.as_str()));
}

#[test]
fn sgdisk_finds_no_problem_in_the_partition_table() {
    let text = output(Command::new("sgdisk").arg("-v").arg(&image().summary.image));
    assert!(text.contains("No problems found"), "{text}");
}

#[test]
fn fsck_finds_no_problem_in_the_esp() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = fs::read(&image().summary.image).unwrap();
    let esp = folder.path().join("esp");
    fs::write(&esp, &bytes[1 << 20..97 << 20]).unwrap();
    let text = output(
        image()
            .sysroot
            .command("usr/sbin/fsck.fat")
            .args(["-n", "-v"])
            .arg(&esp),
    );
    assert!(
        text.contains("32 bits entries") || text.contains("FATs, 32 bit entries"),
        "{text}"
    );
    assert!(
        !text.contains("fixed") && !text.contains("differ"),
        "{text}"
    );
}

#[test]
fn the_esp_holds_these_files_and_no_fallback_loader() {
    let start = image().summary.image.display().to_string() + "@@1048576";
    let text = output(
        image()
            .sysroot
            .command("usr/bin/mdir")
            .args(["-/", "-b", "-i", &start, "::"]),
    );
    let names: BTreeSet<&str> = text.lines().filter(|line| !line.ends_with('/')).collect();
    let expected = BTreeSet::from([
        "::/EFI/BOOT/BOOTX64.EFI",
        "::/EFI/BOOT/grubx64.efi",
        "::/EFI/BOOT/mmx64.efi",
        "::/EFI/debian/grub.cfg",
        "::/EFI/debian/grubenv",
        "::/slot-a/SHA256SUMS",
        "::/slot-a/initrd.img",
        "::/slot-a/vmlinuz",
    ]);
    assert_eq!(names, expected);
}

#[test]
fn grubs_own_checker_accepts_the_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let esp = Esp::open(&image().summary.image, &image().lock).unwrap();
    let config = folder.path().join("grub.cfg");
    fs::write(&config, esp.get("EFI/debian/grub.cfg").unwrap()).unwrap();
    output(
        image()
            .sysroot
            .command("usr/bin/grub-script-check")
            .arg(&config),
    );
}

#[test]
fn grub_editenv_reads_the_variables_that_were_set() {
    let folder = tempfile::tempdir().unwrap();
    let esp = Esp::open(&copy(&folder), &image().lock).unwrap();
    esp.set_grub(&[("haulier_timeout", "0"), ("haulier_args", "haulier.x=1 y")])
        .unwrap();
    let block = folder.path().join("grubenv");
    fs::write(&block, esp.get("EFI/debian/grubenv").unwrap()).unwrap();
    let text = output(
        image()
            .sysroot
            .command("usr/bin/grub-editenv")
            .arg(&block)
            .arg("list"),
    );
    assert_eq!(text, "haulier_timeout=0\nhaulier_args=haulier.x=1 y\n");
}

#[test]
fn an_answer_file_is_put_replaced_and_removed() {
    let folder = tempfile::tempdir().unwrap();
    let esp = Esp::open(&copy(&folder), &image().lock).unwrap();
    esp.put("haulier.toml", b"first").unwrap();
    esp.put("haulier.toml", b"second").unwrap();
    assert_eq!(esp.get("haulier.toml").unwrap(), b"second");
    esp.remove("haulier.toml").unwrap();
    assert!(esp.get("haulier.toml").is_err());
}

#[test]
fn the_early_archive_holds_microcode() {
    let path = initramfs().join("early/kernel/x86/microcode/AuthenticAMD.bin");
    let data = fs::read(path).unwrap();
    // The container's magic number, "DMA" in reverse.
    assert_eq!(data[..4], [0x44, 0x4D, 0x41, 0x00]);
}

#[test]
fn the_initramfs_keeps_its_contract_with_init() {
    let root = initramfs().join("root");
    assert_eq!(fs::read(root.join("init")).unwrap(), b"init");
    assert_eq!(fs::read(root.join("usr/bin/haulier")).unwrap(), b"haulier");
    let link = |path: &str| fs::read_link(root.join(path)).unwrap();
    assert_eq!(link("sbin/modprobe"), Path::new("/init"));
    assert_eq!(link("bin/sh"), Path::new("busybox"));
    assert!(root.join("bin/busybox").exists());
    assert!(root.join("etc/mke2fs.conf").exists());
    let release = fs::read_to_string(root.join("etc/haulier-release")).unwrap();
    assert!(release.contains(&format!("KERNEL={}\n", image().summary.kernel)));
    for index in ["dep", "alias", "softdep", "builtin"] {
        let path = format!("lib/modules/{}/modules.{index}", image().summary.kernel);
        assert!(fs::metadata(root.join(&path)).unwrap().len() > 0, "{path}");
    }
    let list = fs::read_to_string(initramfs().join("root.list")).unwrap();
    let last = list.lines().rfind(|line| !line.ends_with(" blocks"));
    assert_eq!(last, Some("etc/haulier-complete"));
}

#[test]
fn ext4_programs_run_with_nothing_but_the_initramfs() {
    let root = initramfs().join("root");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ext4");
    fs::File::create(&file).unwrap().set_len(64 * MIB).unwrap();
    for (program, options) in [
        (
            "sbin/mke2fs",
            vec!["-q", "-F", "-t", "ext4", "-L", "HAULIER"],
        ),
        ("sbin/e2fsck", vec!["-f", "-n"]),
    ] {
        output(
            Command::new(root.join("lib64/ld-linux-x86-64.so.2"))
                .arg("--library-path")
                .arg(root.join("lib/x86_64-linux-gnu"))
                .arg(root.join(program))
                .args(options)
                .arg(&file)
                .env("MKE2FS_CONFIG", root.join("etc/mke2fs.conf")),
        );
    }
}

#[test]
fn every_module_that_the_index_names_is_there() {
    let root = initramfs().join("root/usr/lib/modules");
    let index = fs::read_to_string(root.join(&image().summary.kernel).join("modules.dep")).unwrap();
    let named: BTreeSet<String> = index
        .split_whitespace()
        .map(|path| path.trim_end_matches(':').to_owned())
        .collect();
    assert_eq!(named, modules());
}

#[test]
fn the_drivers_of_real_servers_are_there() {
    let modules = modules();
    let has = |name: &str| {
        modules
            .iter()
            .any(|path| path.ends_with(&format!("/{name}.ko.xz")))
    };
    // The disks of PCs, Dell, HPE, Lenovo, Supermicro and Cisco servers, and of hypervisors.
    for name in [
        "ahci",
        "nvme",
        "vmd",
        "megaraid_sas",
        "mpt3sas",
        "mpi3mr",
        "hpsa",
        "smartpqi",
        "aacraid",
        "arcmsr",
        "isci",
        "mptsas",
        "mptspi",
        "3w-9xxx",
        "fnic",
        "snic",
        "qla2xxx",
        "lpfc",
        "virtio_blk",
        "virtio_scsi",
        "vmw_pvscsi",
        "hv_storvsc",
        "xen-blkfront",
        "sd_mod",
        "sr_mod",
        "nd_pmem",
        "mmc_block",
        // The stick, its file systems, the keyboard.
        "xhci-pci",
        "ehci-pci",
        "usb-storage",
        "uas",
        "vfat",
        "nls_cp437",
        "nls_ascii",
        "ext4",
        "crc32c_generic",
        "efivarfs",
        "usbhid",
        "hid-generic",
        // The addresses of network cards.
        "e1000e",
        "igb",
        "ixgbe",
        "i40e",
        "ice",
        "tg3",
        "bnx2x",
        "bnxt_en",
        "mlx5_core",
        "r8169",
        "virtio_net",
        "vmxnet3",
    ] {
        assert!(has(name), "{name} is missing");
    }
    // Would write into the server's NVRAM; would make disks that are none.
    for name in ["efi_pstore", "scsi_debug", "null_blk"] {
        assert!(!has(name), "{name} is there");
    }
}
