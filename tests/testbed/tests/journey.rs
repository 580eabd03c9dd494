//! The whole journey, on BIOS and on UEFI: capture a Debian server on the stick, import it, and
//! see it boot as a virtual machine with the same files. On the way, the two proofs of
//! guarantee 1: the source disk's digest, and QEMU's own count of writes to it.

use haulier_testbed::command::run;
use haulier_testbed::digest::sha256_file;
use haulier_testbed::guest::{Base, Guest, Recipe};
use haulier_testbed::journey::{self, LOGIN, MAC, UNATTENDED};
use haulier_testbed::libvirt::Host;
use haulier_testbed::product::{Product, scratch};
use haulier_testbed::qemu::Bus;
use haulier_testbed::stick::{STICK_BYTES, Stick};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// A capture on a stick, proven to have left its source alone.
struct Captured {
    folder: TempDir,
    product: Product,
    guest: Guest,
    stick: PathBuf,
}

fn capture(recipe: Recipe, bus: Bus) -> Captured {
    let product = Product::find().unwrap();
    let folder = scratch().unwrap();
    let at = |name: &str| folder.path().join(name);
    let base = Base::get(&|line| println!("{line}")).unwrap();
    let guest = Guest::make(&base, recipe, &at("server.img")).unwrap();
    let stick = Stick::make(&product.image, &product.lock, &at("stick.img"), STICK_BYTES).unwrap();
    stick.answer(UNATTENDED).unwrap();

    let before = sha256_file(&guest.path).unwrap();
    let ended = journey::capture(journey::server(&guest, bus), &stick).unwrap();
    assert_eq!(ended.exit_code, 0, "{}", ended.screen);
    assert!(
        ended.source.reads > 0,
        "QEMU counts the reads: {:?}",
        ended.source
    );
    assert_eq!(
        (ended.source.writes, ended.source.unmaps),
        (0, 0),
        "QEMU counted writes on the source disk"
    );
    assert_eq!(
        before,
        sha256_file(&guest.path).unwrap(),
        "the source disk changed"
    );

    let stick = stick.path().to_owned();
    run(product.command().arg("verify").arg(&stick)).unwrap();
    Captured {
        folder,
        product,
        guest,
        stick,
    }
}

/// Nothing of the junk in free blocks and swap was captured: it alone is more than this.
fn assert_only_used_blocks(vm: &Path) {
    let bytes: u64 = std::fs::read_dir(vm)
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.path().extension().is_some_and(|kind| kind == "qcow2"))
        .map(|entry| entry.metadata().unwrap().len())
        .sum();
    assert!(bytes > 0, "there is no disk image in {}", vm.display());
    assert!(bytes < 450 << 20, "the images are {} MiB", bytes >> 20);
}

#[test]
fn a_bios_server_travels_to_qemu() {
    let captured = capture(Recipe::BIOS_MBR, Bus::Sata);
    let out = captured.folder.path().join("vm");
    let script = journey::import_to_qemu(&captured.product, &captured.stick, &out).unwrap();
    assert_only_used_blocks(&out);
    journey::boot_script(&script, &captured.guest.payload).unwrap();
}

#[test]
fn a_uefi_server_with_nvme_travels_to_qemu_and_libvirt() {
    let captured = capture(Recipe::UEFI, Bus::Nvme);
    let out = captured.folder.path().join("vm");
    let script = journey::import_to_qemu(&captured.product, &captured.stick, &out).unwrap();
    assert_only_used_blocks(&out);
    journey::boot_script(&script, &captured.guest.payload).unwrap();

    let host = Host::start(&captured.folder.path().join("host")).unwrap();
    let mut import = captured.product.command();
    import
        .arg("import")
        .arg(&captured.stick)
        .args(["--to", "libvirt", "--name", "ledger-vm", "--out"])
        .arg(captured.folder.path().join("images"));
    run(&mut host.command(&import)).unwrap();
    let definition = run(host.virsh().args(["dumpxml", "ledger-vm"])).unwrap();
    assert!(definition.contains(MAC), "{definition}");
    let mut domain = host.boot("ledger-vm").unwrap();
    domain.serial().wait_for("login: ", LOGIN).unwrap();
    let heard = domain.serial().text();
    let line = heard
        .lines()
        .find(|line| line.contains("payload: "))
        .unwrap();
    journey::check_payload(line.trim_end(), &captured.guest.payload).unwrap();
}
