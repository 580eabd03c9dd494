//! The loader that firmware falls back to goes to the EFI system partition of a machine whose system nobody can
//! open, by libguestfs.

use haulier_testbed::command::{run, tool};
use haulier_testbed::guestfs::emulated;
use haulier_testbed::product::{Product, scratch};
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::process::Stdio;

const MIB: u64 = 1 << 20;

#[test]
fn a_windows_that_is_encrypted_gets_its_loader_where_firmware_looks() {
    let folder = scratch().unwrap();
    let at = |name: &str| folder.path().join(name);
    let (disk, loader, store) = (at("disk.img"), at("loader"), at("store"));
    let file = File::create(&disk).unwrap();
    file.set_len(128 * MIB).unwrap();
    let mut sfdisk = tool("sfdisk")
        .args(["--quiet", "--no-reread"])
        .arg(&disk)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let table = b"label: gpt\nstart=2048, size=81920, type=uefi\nstart=83968, type=linux\n";
    sfdisk.stdin.take().unwrap().write_all(table).unwrap();
    assert!(sfdisk.wait().unwrap().success());
    // What is encrypted looks like this.
    let random: Vec<u8> = std::iter::repeat_with(|| fastrand::u8(..))
        .take(1 << 20)
        .collect();
    file.write_all_at(&random, 41 * MIB).unwrap();
    run(tool("mkfs.vfat")
        .args(["-F", "32", "-s", "1", "--offset", "2048"])
        .arg(&disk)
        .arg("40960"))
    .unwrap();
    let esp = format!("{}@@{MIB}", disk.display());
    run(tool("mmd").args([
        "-i",
        &esp,
        "::/EFI",
        "::/EFI/Microsoft",
        "::/EFI/Microsoft/Boot",
    ]))
    .unwrap();
    fs::write(&loader, &random[..70_000]).unwrap();
    run(tool("mcopy")
        .args(["-i", &esp])
        .arg(&loader)
        .arg("::/EFI/Microsoft/Boot/bootmgfw.efi"))
    .unwrap();

    let product = Product::find().unwrap();
    fs::create_dir(&store).unwrap();
    run(product
        .command()
        .args(["capture", "--name", "desk", "--disk"])
        .arg(&disk)
        .arg("--to")
        .arg(&store))
    .unwrap();
    let mut import = product.command();
    import
        .arg("import")
        .arg(&store)
        .args([
            "--to",
            "raw",
            "--fallback-loader",
            "--firmware",
            "uefi",
            "--out",
        ])
        .arg(at("vm"));
    run(emulated(&mut import, folder.path()).unwrap()).unwrap();

    let list = fs::read_to_string(at("vm/changes.txt")).unwrap();
    assert!(
        list.contains("BOOTX64.EFI: a copy of /EFI/Microsoft/Boot/bootmgfw.efi"),
        "{list}"
    );
    let esp = format!("{}@@{MIB}", at("vm/disk-0.raw").display());
    run(tool("mcopy")
        .args(["-i", &esp, "::/EFI/BOOT/BOOTX64.EFI"])
        .arg(at("copy")))
    .unwrap();
    assert_eq!(fs::read(at("copy")).unwrap(), fs::read(&loader).unwrap());
}
