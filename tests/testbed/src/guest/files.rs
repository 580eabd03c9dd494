//! What makes a guest this server: its configuration, its service and its data files, as a tar
//! archive that is laid over the installed system.
//!
//! The service `payload` says on the first serial line, at each boot and before the login prompt:
//! `payload: <n> files sha256 <digest>`. The digest is that of `sha256sum`'s lines over all data
//! files, sorted by path; the disk's maker computes the same from what it put in. Before that, a line
//! for each network card: `network: <name> <MAC> <address>`.

use super::base::{Base, CONSOLE, Flavor};
use super::recipe::{Boot, DISK_WWN, Drivers, PV_UUID, Recipe};
use crate::digest::{hex, sha256_hex};
use anyhow::{Context, Result};
use fastrand::Rng;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};
use tar::{Builder, EntryType, Header};

/// The name of the server, in its login prompt.
const HOST: &str = "ledger";

/// Many small files and a few large ones, as on a server: (how many, up to which size in bytes).
const SIZES: [(usize, usize); 4] = [
    (300, 16 << 10),
    (120, 128 << 10),
    (30, 2 << 20),
    (6, 16 << 20),
];

const SERVICE: &str = "[Unit]
Description=Digest of the data files
After=local-fs.target systemd-networkd.service NetworkManager.service
Before=getty.target serial-getty@ttyS0.service getty@tty1.service

[Service]
Type=oneshot
ExecStart=/usr/local/sbin/payload

[Install]
WantedBy=multi-user.target
";

/// /dev/console is the last `console=` of the kernel's command line: the serial line.
const SCRIPT: &str = r#"#!/bin/sh -e
say() { echo "$@" | tee /dev/tty1 > /dev/console; }
export LC_ALL=C
# Drivers that the initramfs lacks are still being loaded, and their cards named.
udevadm settle --timeout=60 || true
for card in /sys/class/net/*; do
    [ -e "$card/device" ] || continue
    # What networkd has to wait for: its first try may still run.
    for turn in 1 2 3 4 5 6 7 8 9 10; do
        address=$(ip -4 -o address show dev "${card##*/}" scope global | awk '{ print $4 }')
        [ -z "$address" ] && [ -e /etc/static-addresses ] || break
        sleep 1
    done
    say "network: ${card##*/} $(cat "$card/address") ${address:-none}"
done
cd /srv/data
count=$(find . -type f | wc -l)
digest=$(find . -type f -print0 | sort -z | xargs -0 sha256sum | sha256sum | cut -d' ' -f1)
say "payload: $count files sha256 $digest"
"#;

/// Matches whatever slot and driver the card gets in the machine or the VM.
const NETWORK: &str = "[Match]
Name=en* eth*

[Network]
DHCP=yes
";

/// What the guest will say about its data files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Payload {
    /// How many files.
    pub files: usize,
    /// SHA-256 over `sha256sum`'s lines, lower-case hexadecimal.
    pub sha256: String,
    /// Their bytes in all.
    pub bytes: u64,
}

impl Payload {
    /// The line that the guest prints when nothing is lost.
    pub fn line(&self) -> String {
        format!("payload: {} files sha256 {}", self.files, self.sha256)
    }
}

/// Writes the archive to `tar`, with the two zero blocks at its end.
pub(super) fn write(tar: &Path, base: &Base, recipe: &Recipe) -> Result<Payload> {
    let doing = || format!("writing the guest's files to {}", tar.display());
    let mut overlay = Overlay {
        tar: Builder::new(File::create(tar).with_context(doing)?),
        time: SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs(),
    };
    configuration(&mut overlay, base, recipe).with_context(doing)?;
    let payload = data(&mut overlay).with_context(doing)?;
    overlay.tar.finish().with_context(doing)?;
    Ok(payload)
}

fn configuration(overlay: &mut Overlay, base: &Base, recipe: &Recipe) -> Result<()> {
    if recipe.boot == Boot::Uefi {
        overlay.directory("boot/efi")?;
    }
    overlay.file("etc/fstab", 0o644, recipe.fstab().as_bytes())?;
    let release = base.kernel()?;
    let containers = recipe.table_of_containers();
    if let Some(table) = &containers {
        overlay.file("etc/crypttab", 0o644, table.as_bytes())?;
    }
    if recipe.drivers != Drivers::All {
        // What initramfs-tools writes down of it, over the empty table of the system that it was made in.
        let late = containers.map_or_else(Vec::new, |table| {
            cpio(&[("cryptroot", None), ("cryptroot/crypttab", Some(&table))])
        });
        base.further(
            &release,
            recipe.drivers,
            recipe.dep,
            late,
            |path, content| overlay.file(path, 0o644, content),
        )?;
    }
    let dracut = recipe.flavor == Flavor::Dracut;
    for (name, address) in recipe.addresses {
        if dracut {
            let profile = format!(
                "[connection]\nid={name}\ntype=ethernet\ninterface-name={name}\n\n\
                 [ipv4]\nmethod=manual\naddress1={address}\n"
            );
            overlay.file(
                &format!("etc/NetworkManager/system-connections/{name}.nmconnection"),
                0o600,
                profile.as_bytes(),
            )?;
            continue;
        }
        let unit = format!("[Match]\nName={name}\n\n[Network]\nAddress={address}\n");
        overlay.file(
            &format!("etc/systemd/network/20-{name}.network"),
            0o644,
            unit.as_bytes(),
        )?;
    }
    if recipe.addresses.is_empty() && !dracut {
        overlay.file(
            "etc/systemd/network/80-dhcp.network",
            0o644,
            NETWORK.as_bytes(),
        )?;
    } else {
        overlay.file("etc/static-addresses", 0o644, b"")?;
    }
    overlay.file("etc/hostname", 0o644, format!("{HOST}\n").as_bytes())?;
    overlay.file(
        "etc/hosts",
        0o644,
        format!("127.0.0.1 localhost\n127.0.1.1 {HOST}\n").as_bytes(),
    )?;
    // With an identity of its own the first boot asks no questions.
    let identity = &sha256_hex(HOST.as_bytes())[..32];
    overlay.file("etc/machine-id", 0o444, format!("{identity}\n").as_bytes())?;
    // Newer than /usr: no rebuilding of caches at boot.
    overlay.file("etc/.updated", 0o644, b"")?;
    overlay.file("var/.updated", 0o644, b"")?;
    overlay.file("usr/local/sbin/payload", 0o755, SCRIPT.as_bytes())?;
    overlay.file(
        "etc/systemd/system/payload.service",
        0o644,
        SERVICE.as_bytes(),
    )?;
    let network = if dracut {
        "NetworkManager.service"
    } else {
        "systemd-networkd.service"
    };
    for (unit, from) in [
        ("payload.service", "/etc/systemd/system"),
        (network, "/usr/lib/systemd/system"),
    ] {
        overlay.link(
            &format!("etc/systemd/system/multi-user.target.wants/{unit}"),
            &format!("{from}/{unit}"),
        )?;
    }
    if recipe.lvm_devices {
        lvm_devices(overlay, base, &release)?;
    }
    if recipe.flavor.has_systemd_boot() {
        return Ok(());
    }
    overlay.directory("boot/grub")?;
    overlay.file(
        "boot/grub/grub.cfg",
        0o600,
        menu(recipe, &release).as_bytes(),
    )
}

/// LVM's devices file as RHEL's installer leaves it, in the initramfs too, and the setting that RHEL's lvm2 is
/// built with.
fn lvm_devices(overlay: &mut Overlay, base: &Base, release: &str) -> Result<()> {
    let devices = format!(
        "VERSION=1.1.1\nIDTYPE=sys_wwid IDNAME=naa.{DISK_WWN:016x} DEVNAME=/dev/sda3 PVID={} PART=3\n",
        PV_UUID.replace('-', "")
    );
    let files = [
        ("etc/lvm/devices/system.devices", devices.as_str()),
        ("etc/lvm/lvmlocal.conf", "devices { use_devicesfile = 1 }\n"),
    ];
    let mut initramfs = base.initramfs(release)?;
    let mut entries = vec![("etc/lvm", None), ("etc/lvm/devices", None)];
    entries.extend(files.map(|(path, text)| (path, Some(text))));
    // Behind what dracut made: the later file of a name wins.
    initramfs.extend(cpio(&entries));
    overlay.file(&format!("boot/initrd.img-{release}"), 0o644, &initramfs)?;
    overlay.directory("etc/lvm/devices")?;
    for (path, text) in files {
        overlay.file(path, 0o600, text.as_bytes())?;
    }
    Ok(())
}

/// The boot menu.
fn menu(recipe: &Recipe, release: &str) -> String {
    let folder = recipe.grub_folder();
    format!(
        "set timeout=0\n\
         search --no-floppy --fs-uuid --set=root {}\n\
         menuentry 'Debian GNU/Linux' {{\n\
         \x20 linux {folder}/vmlinuz-{release} {} ro {CONSOLE}\n\
         \x20 initrd {folder}/initrd.img-{release}\n\
         }}\n",
        recipe.grub_uuid(),
        recipe.root_arguments(),
    )
}

/// An archive for an initramfs: directories, and files with their content
/// (Linux, Documentation/driver-api/early-userspace/buffer-format.rst). Its length is a multiple of 512.
fn cpio(entries: &[(&str, Option<&str>)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let end = ("TRAILER!!!", Some(""));
    for (number, (name, content)) in entries.iter().chain([&end]).enumerate() {
        let (mode, content) = match content {
            Some(content) => (0o100_644, *content),
            None => (0o040_755, ""),
        };
        let mut header = String::from("070701");
        // ino, mode, uid, gid, nlink, mtime, filesize, dev, rdev, namesize, check.
        let (size, length) = (content.len(), name.len() + 1);
        for field in [number + 1, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, length, 0] {
            header += &format!("{field:08x}");
        }
        bytes.extend(header.as_bytes());
        bytes.extend(name.as_bytes());
        bytes.push(0);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes.extend(content.as_bytes());
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

/// The same files each time: half of them random bytes, half text; a link or two among them.
fn data(overlay: &mut Overlay) -> Result<Payload> {
    let mut rng = Rng::with_seed(2026);
    let mut digests: BTreeMap<String, [u8; 32]> = BTreeMap::new();
    let mut bytes = 0;
    overlay.directory("srv/data")?;
    let mut number = 0;
    for (count, limit) in SIZES {
        for _ in 0..count {
            if number % 32 == 0 {
                overlay.directory(&format!("srv/data/year-{}", number / 32))?;
            }
            let name = format!("year-{}/Beleg Nr. {number} \u{fc}ber.dat", number / 32);
            // Some are empty.
            let length = if digests.len().is_multiple_of(100) {
                0
            } else {
                rng.usize(1..=limit)
            };
            let content = if number % 2 == 0 {
                random(&mut rng, length)
            } else {
                text(&mut rng, length)
            };
            overlay.file(&format!("srv/data/{name}"), 0o640, &content)?;
            bytes += content.len() as u64;
            digests.insert(format!("./{name}"), Sha256::digest(&content).into());
            number += 1;
        }
    }
    // A symbolic link is not counted by `find -type f`.
    overlay.link("srv/data/latest", "year-1")?;
    let mut sums = Sha256::new();
    for (name, digest) in &digests {
        sums.update(format!("{}  {name}\n", hex(digest)));
    }
    Ok(Payload {
        files: digests.len(),
        sha256: hex(&sums.finalize()),
        bytes,
    })
}

/// `length` bytes that do not compress.
pub(super) fn random(rng: &mut Rng, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    rng.fill(&mut bytes);
    bytes
}

/// `length` bytes of lines as in a log.
fn text(rng: &mut Rng, length: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(length + 80);
    while bytes.len() < length {
        let line = format!(
            "2026-11-{:02} account {:06} amount {:7}.00 EUR booked\n",
            rng.u8(1..=30),
            rng.u32(0..1_000_000),
            rng.u32(0..9_999_999)
        );
        bytes.extend_from_slice(line.as_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// The archive while it grows; everything in it belongs to root.
struct Overlay {
    tar: Builder<File>,
    time: u64,
}

impl Overlay {
    fn file(&mut self, path: &str, mode: u32, content: &[u8]) -> Result<()> {
        let mut header = self.header(EntryType::Regular, mode);
        header.set_size(content.len() as u64);
        self.tar
            .append_data(&mut header, format!("./{path}"), content)?;
        Ok(())
    }

    fn directory(&mut self, path: &str) -> Result<()> {
        let mut header = self.header(EntryType::Directory, 0o755);
        self.tar
            .append_data(&mut header, format!("./{path}/"), std::io::empty())?;
        Ok(())
    }

    fn link(&mut self, path: &str, target: &str) -> Result<()> {
        let mut header = self.header(EntryType::Symlink, 0o777);
        self.tar
            .append_link(&mut header, format!("./{path}"), target)?;
        Ok(())
    }

    fn header(&self, kind: EntryType, mode: u32) -> Header {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(self.time);
        header.set_size(0);
        header
    }
}
