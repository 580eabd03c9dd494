//! A Linux, by its own files.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use super::notes::Notes;
use super::reading::{Reading, assignments, host_name, plain, word};
use super::system::{CrypttabEntry, FstabEntry, System, SystemKind};
use super::volumes::Volumes;
use super::{discoverable, kernels, loader, lvm, network, tables};
use crate::bytes::{has_magic, read_u8, read_u16be, read_u16le};
use crate::files::{Files, Node, Tree};
use crate::inventory::{RtcBasis, TimeZone, is_zone_name};

/// Folders of a system that may lie on volumes of their own, and that are looked into.
const MOUNTED: [&str; 8] = [
    "/usr",
    "/boot",
    "/boot/efi",
    "/efi",
    "/etc",
    "/lib",
    "/opt",
    "/var",
];

/// Where os-release may be (os-release(5)).
const OS_RELEASE: [&str; 2] = ["/etc/os-release", "/usr/lib/os-release"];
/// What distributions before it had.
const RELEASES: [&str; 4] = [
    "/etc/redhat-release",
    "/etc/SuSE-release",
    "/etc/lsb-release",
    "/etc/debian_version",
];

/// Whether a Linux lies in a directory: the root of one, not a volume that is mounted in one.
pub(super) fn is_root(tree: &dyn Tree, root: Node) -> bool {
    let files = Files::new(tree, root);
    let is_there = |path: &str| matches!(files.kind(path), Ok(Some(_)));
    let has_release = OS_RELEASE
        .iter()
        .chain(&RELEASES)
        .any(|path| is_there(path));
    // os-release may lead to /usr, which may be a volume of its own.
    is_there("/etc") && (has_release || is_there("/etc/fstab") && is_there("/etc/passwd"))
}

/// The mount of a system's own root that its fstab names, for telling subvolumes apart.
pub(super) fn root_options(tree: &dyn Tree, root: Node) -> Vec<String> {
    let files = Files::new(tree, root);
    let text = files.read("/etc/fstab", 1 << 20).ok().flatten();
    let text = String::from_utf8_lossy(&text.unwrap_or_default()).into_owned();
    let mut entries = tables::fstab(&text).into_iter();
    let entry = entries.find(|entry| entry.file == "/");
    entry.map(|entry| entry.options).unwrap_or_default()
}

/// Reads the Linux in a directory of the volume `place`.
pub(super) fn read<'t>(
    volumes: &'t Volumes<'t>,
    place: usize,
    tree: &'t dyn Tree,
    (root, subvolume): (Node, Option<String>),
    notes: &'t Notes,
) -> System {
    let mut reading = Reading {
        files: Files::new(tree, root),
        name: volumes.name(place),
        notes,
    };
    let fstab = reading.text("/etc/fstab").map(|text| tables::fstab(&text));
    let crypttab = reading
        .text("/etc/crypttab")
        .map(|text| tables::crypttab(&text));
    let listed = fstab.as_deref().unwrap_or_default();
    mount(
        &mut reading,
        volumes,
        place,
        listed,
        crypttab.as_deref().unwrap_or_default(),
    );
    let discovered = discoverable::mount(&mut reading, volumes, place, listed);
    let mut system = System {
        kind: Some(SystemKind::Linux),
        fstab,
        discovered_mounts: discovered,
        crypttab,
        root: volumes.describe(place),
        hostname: host(&reading),
        architecture: architecture(&reading),
        rtc: Some(rtc(&reading)),
        time_zone: time_zone(&reading),
        ..System::default()
    };
    system.root.subvolume = subvolume;
    name(&reading, &mut system);
    let menu = loader::menu(&reading);
    system.command_line = kernels::command_line(&reading, menu.as_ref());
    system.kernels = kernels::kernels(&reading, menu.as_ref());
    system.lvm = lvm::read(&reading);
    system.network = Some(network::read(&reading, system.command_line.as_ref()));
    system
}

/// Puts the other volumes in their places, as fstab says.
fn mount<'t>(
    reading: &mut Reading<'t>,
    volumes: &'t Volumes<'t>,
    root: usize,
    fstab: &[FstabEntry],
    crypttab: &[CrypttabEntry],
) {
    for entry in fstab {
        let file = entry.file.trim_end_matches('/');
        if !MOUNTED.contains(&file) {
            continue;
        }
        let found = volumes.find(&entry.spec, crypttab, root);
        let Some(tree) = found.and_then(|place| volumes.tree(place)) else {
            reading.note(
                file,
                format!(
                    "its volume {} is not at hand, or cannot be read",
                    entry.spec
                ),
            );
            continue;
        };
        match tree.subvolume(&entry.options) {
            Some(node) => reading.files.mount(file, tree, node),
            None => reading.note(file, "its subvolume is not there"),
        }
    }
}

fn name(reading: &Reading<'_>, system: &mut System) {
    let text = OS_RELEASE.iter().find_map(|path| reading.text(path));
    let mut codename = None;
    for (key, value) in assignments(text.as_deref().unwrap_or_default()) {
        match key {
            "PRETTY_NAME" => system.name = plain(&value),
            // Where there is no other.
            "NAME" => codename = plain(&value),
            "ID" => system.id = word(&value),
            "ID_LIKE" => system.id_like = value.split_whitespace().filter_map(word).collect(),
            "VERSION_ID" => system.version = word(&value),
            _ => {}
        }
    }
    system.name = system.name.take().or(codename).or_else(|| {
        let mut releases = RELEASES.iter();
        releases.find_map(|path| plain(reading.text(path)?.lines().next()?))
    });
}

fn host(reading: &Reading<'_>) -> Option<String> {
    // /etc/HOSTNAME: SUSE of old.
    let files = ["/etc/hostname", "/etc/HOSTNAME"];
    let of_file = files.iter().find_map(|path| {
        let text = reading.text(path)?;
        let mut lines = text.lines().map(str::trim);
        host_name(lines.find(|line| !line.is_empty() && !line.starts_with('#'))?)
    });
    of_file.or_else(|| {
        // RHEL 6 and before.
        let text = reading.text("/etc/sysconfig/network")?;
        let mut all = assignments(&text);
        host_name(&all.find(|(key, _)| *key == "HOSTNAME")?.1)
    })
}

/// adjtime_config(5): the third line; without the file it is UTC.
fn rtc(reading: &Reading<'_>) -> RtcBasis {
    let text = reading.text("/etc/adjtime").unwrap_or_default();
    match text.lines().nth(2).map(str::trim) {
        Some("LOCAL") => RtcBasis::Localtime,
        _ => RtcBasis::Utc,
    }
}

/// localtime(5): a link below `/usr/share/zoneinfo`. Where it is a copy, Debian has the name in a file of its own, and
/// RHEL 6 in `ZONE`.
fn time_zone(reading: &Reading<'_>) -> Option<TimeZone> {
    let file = reading.files.real_path("/etc/localtime").ok().flatten();
    let linked = file.and_then(|path| {
        let name = path.split_once("/zoneinfo/")?.1;
        let name = name.strip_prefix("posix/").unwrap_or(name);
        Some(name.to_owned())
    });
    let name = linked
        .or_else(|| Some(reading.text("/etc/timezone")?.trim().to_owned()))
        .or_else(|| {
            let text = reading.text("/etc/sysconfig/clock")?;
            Some(assignments(&text).find(|(key, _)| *key == "ZONE")?.1)
        });
    let zone = TimeZone {
        name: name.filter(|name| is_zone_name(name)),
        utc_offset_minutes: None,
    };
    zone.known()
}

/// By the header of a program that every system has (`Elf64_Ehdr`: `e_ident[EI_DATA]` 0x05, `e_machine`
/// 0x12).
fn architecture(reading: &Reading<'_>) -> Option<String> {
    let programs = ["/sbin/init", "/bin/sh", "/usr/bin/sh", "/usr/sbin/init"];
    let header = programs
        .iter()
        .find_map(|path| reading.files.read(path, 64).ok().flatten())?;
    if !has_magic(&header, 0, b"\x7fELF") {
        return None;
    }
    let is_big = read_u8(&header, 0x05) == 2;
    let machine = match is_big {
        true => read_u16be(&header, 0x12),
        false => read_u16le(&header, 0x12),
    };
    let name = match (machine, is_big) {
        (0x3E, false) => "x86_64",
        (0x03, false) => "i686",
        (0xB7, false) => "aarch64",
        (0x28, false) => "armv7l",
        (0x15, false) => "ppc64le",
        (0x15, true) => "ppc64",
        (0x16, true) => "s390x",
        (0xF3, false) => "riscv64",
        _ => return None,
    };
    Some(name.to_owned())
}
