//! An encrypted server: dm-crypt itself encrypts its disk; on the appliance a person types `k` and
//! the passphrase, or the answer file names a key file on the stick. What is captured is small, is
//! still encrypted, and opens in the copy with every file the same.

#[path = "../../map_support/mod.rs"]
mod map_support;

use haulier_testbed::command::run;
use haulier_testbed::digest::sha256_file;
use haulier_testbed::journey::{self, BOOT, CAPTURE, DISK_SERIAL, STICK_SERIAL};
use haulier_testbed::lab::Lab;
use haulier_testbed::product::{Product, scratch};
use haulier_testbed::qemu::{Bus, Drive, Firmware, Machine};
use haulier_testbed::stick::{STICK_BYTES, Stick};
use map_support::{Noise, arg};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

const LONG: Duration = Duration::from_secs(600);
const PASSPHRASE: &str = "correct horse battery";
const DISK_BYTES: u64 = 384 << 20;

/// A machine with the disk and the passphrase in a file.
fn lab(disk: &Path, script: &str) -> String {
    let functions = include_str!("map_lab/guest.sh");
    Lab::new()
        .tools(&["cryptsetup", "mke2fs", "e2fsck"])
        .module("dm_crypt")
        .module("xts")
        .file("lab/noise", Noise(2026).bytes(4 << 20))
        .file("lab/key", PASSPHRASE)
        .disk(disk)
        .script(&format!("{functions}\n{script}"))
        .run(LONG)
        .unwrap()
}

/// The lines between those that begin with `==`.
fn digests(said: &str) -> Vec<&str> {
    let from_first = said.lines().skip_while(|line| !line.starts_with("== "));
    from_first
        .skip(1)
        .take_while(|line| *line != "==")
        .collect()
}

/// A GPT disk that is noise all over, as after years behind dm-crypt; its only partition is LUKS2
/// with an ext4 in it.
fn make_disk(disk: &Path) -> String {
    let mut file = File::create(disk).unwrap();
    let mut noise = Noise(7);
    for _ in 0..DISK_BYTES >> 22 {
        file.write_all(&noise.bytes(4 << 20)).unwrap();
    }
    map_support::run("sgdisk", &["--zap-all", arg(disk)]);
    map_support::run(
        "sgdisk",
        &["--new=1:2048:0", "--typecode=1:8309", arg(disk)],
    );
    lab(
        disk,
        "luks='--key-file /lab/key --batch-mode'
         cryptsetup luksFormat $luks --type luks2 --pbkdf argon2id --pbkdf-memory 32768 \
             --pbkdf-parallel 1 --pbkdf-force-iterations 4 /dev/vda1
         cryptsetup open $luks /dev/vda1 plain
         mke2fs -q -t ext4 /dev/mapper/plain
         mkdir /mnt/plain; mount -t ext4 /dev/mapper/plain /mnt/plain
         use /mnt/plain; told ext4 /mnt/plain
         umount /mnt/plain; cryptsetup close plain",
    )
}

struct Scene {
    folder: tempfile::TempDir,
    product: Product,
    disk: PathBuf,
}

impl Scene {
    fn stick(&self, name: &str) -> Stick {
        let path = self.folder.path().join(name);
        Stick::make(&self.product.image, &self.product.lock, &path, STICK_BYTES).unwrap()
    }

    fn server(&self) -> Machine {
        Machine::new(Firmware::Bios)
            .product("Dell Inc.", "PowerEdge R640", "7XK3P52")
            .disk(Drive::raw(&self.disk, Bus::Sata, DISK_SERIAL))
            .stays_after_shutdown()
    }

    /// The disk of the machine that is imported from `stick`.
    fn imported(&self, stick: &Stick, name: &str) -> PathBuf {
        run(self.product.command().arg("verify").arg(stick.path())).unwrap();
        let out = self.folder.path().join(name);
        journey::import_to_qemu(&self.product, stick.path(), &out).unwrap();
        out.join("disk-0.qcow2")
    }
}

#[test]
fn an_encrypted_server_stays_encrypted_and_becomes_small() {
    let folder = scratch().unwrap();
    let disk = folder.path().join("server.img");
    let scene = Scene {
        product: Product::find().unwrap(),
        disk,
        folder,
    };
    let said = make_disk(&scene.disk);
    let before = digests(&said);
    assert!(before.len() > 25, "{said}");
    let source = sha256_file(&scene.disk).unwrap();

    let typed = scene.stick("typed.img");
    type_the_passphrase(&scene, &typed);

    // The same by a key file on the stick, without a person.
    let unattended = scene.stick("unattended.img");
    unattended
        .answer("unattended = true\nafter = \"poweroff\"\nkey-files = [\"ledger.key\"]\n")
        .unwrap();
    unattended.put("ledger.key", PASSPHRASE.as_bytes()).unwrap();
    let ended = journey::capture(scene.server(), &unattended).unwrap();
    assert_eq!(ended.exit_code, 0, "{}", ended.screen);
    assert_eq!(ended.source.writes, 0);
    assert_eq!(source, sha256_file(&scene.disk).unwrap());

    let image = scene.imported(&typed, "by-hand");
    let other = scene.imported(&unattended, "by-file");
    let mut compare = Command::new("qemu-img");
    run(compare.arg("compare").arg(&image).arg(&other)).unwrap();

    // Ciphertext cannot be compressed: what was copied is seen by its size.
    let bytes = image.metadata().unwrap().len();
    println!("{bytes} of {DISK_BYTES} bytes");
    assert!(bytes < DISK_BYTES / 5, "{bytes} bytes");
    let copy = scene.folder.path().join("copy.img");
    let mut convert = Command::new("qemu-img");
    run(convert.args(["convert", "-O", "raw"]).args([&image, &copy])).unwrap();
    let said = lab(
        &copy,
        "cryptsetup open --key-file /lab/key /dev/vda1 plain
         e2fsck -fn /dev/mapper/plain
         mkdir /mnt/plain; mount -t ext4 -o ro /dev/mapper/plain /mnt/plain
         told ext4 /mnt/plain; umount /mnt/plain; cryptsetup close plain",
    );
    assert_eq!(digests(&said), before, "{said}");
}

/// Boots the appliance and plays the technician, who mistypes once.
fn type_the_passphrase(scene: &Scene, stick: &Stick) {
    let start = Instant::now();
    let mut machine = scene
        .server()
        .stick(stick.path(), STICK_SERIAL)
        .start()
        .unwrap();
    let serial = machine.serial();
    serial.wait_for("Haulier ", BOOT).unwrap();
    serial.wait_for("LUKS", BOOT).unwrap();
    for words in ["Not this one", PASSPHRASE] {
        serial.wait_for("Enter: capture this disk", BOOT).unwrap();
        serial.send("k\n").unwrap();
        serial.wait_for("only Enter: none", BOOT).unwrap();
        serial.send(&format!("{words}\n")).unwrap();
        serial.wait_for("To be captured", BOOT).unwrap();
    }
    serial.wait_for("ext4", BOOT).unwrap();
    serial.wait_for("Enter: capture this disk", BOOT).unwrap();
    serial.send("\n").unwrap();
    serial.wait_for("capturing", CAPTURE).unwrap();
    assert_eq!(journey::exit_code(&mut machine).unwrap(), 0);
    machine.serial().wait_for("p: power off", BOOT).unwrap();
    machine.serial().send("p\n").unwrap();
    machine.wait_shutdown(BOOT).unwrap();
    let screen = machine.serial().text();
    println!("{screen}\n{:?}", start.elapsed());
    assert!(!screen.contains(PASSPHRASE), "{screen}");
    let counted = machine.qmp().block_stats("disk0").unwrap();
    assert_eq!((counted.writes, counted.unmaps), (0, 0));
}
