//! A Windows, by its registry: the hives `SOFTWARE` and `SYSTEM`.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use super::hive::{Hive, Key};
use super::notes::Notes;
use super::reading::{Reading, host_name, plain};
use super::system::{System, SystemKind, WindowsDriver};
use super::volumes::Volumes;
use crate::files::{Files, Node, Tree};
use crate::inventory::{RtcBasis, TimeZone};

/// Where the hives are; the second one until Windows 2000.
const FOLDERS: [&str; 2] = ["/Windows/System32/config", "/WINNT/system32/config"];
/// Drivers that are told: of disks and network cards, on the metal and in virtual machines.
const DRIVERS: [&str; 19] = [
    "storahci", "msahci", "stornvme", "iastor", "viostor", "vioscsi", "netkvm", "megasas",
    "lsi_sas", "vmbus", "storvsc", "pvscsi", "e1g60", "e1i", "xenvbd", "pciide", "intelide",
    "atapi", "usbstor",
];
/// The first build of Windows 11, which still calls itself 10.
const ELEVEN: u32 = 22_000;

/// Whether a Windows lies in a directory.
pub(super) fn is_root(tree: &dyn Tree, root: Node) -> bool {
    let files = Files::new(tree, root);
    FOLDERS
        .iter()
        .any(|folder| matches!(files.kind(&format!("{folder}/SOFTWARE")), Ok(Some(_))))
}

/// Reads the Windows on the volume `place`.
pub(super) fn read<'t>(
    volumes: &'t Volumes<'t>,
    place: usize,
    tree: &'t dyn Tree,
    root: Node,
    notes: &'t Notes,
) -> System {
    let reading = Reading {
        files: Files::new(tree, root),
        name: volumes.name(place),
        notes,
    };
    let mut system = System {
        kind: Some(SystemKind::Windows),
        id: Some("windows".into()),
        root: volumes.describe(place),
        ..System::default()
    };
    let folder = FOLDERS
        .iter()
        .find(|folder| reading.exists(&format!("{folder}/SOFTWARE")));
    let folder = folder.copied().unwrap_or_default();
    hive(&reading, &format!("{folder}/SOFTWARE"), |root| {
        software(root, &mut system);
    });
    hive(&reading, &format!("{folder}/SYSTEM"), |root| {
        configuration(root, &mut system);
    });
    system.staged_drivers = Some(staged(&reading, folder));
    system
}

fn hive(reading: &Reading<'_>, path: &str, read: impl FnOnce(Key<'_>)) {
    let Some(content) = reading.open(path) else {
        return;
    };
    match Hive::open(&*content) {
        Some(hive) => read(hive.root()),
        None => reading.note(path, "it is no registry hive"),
    }
}

fn software(root: Key<'_>, system: &mut System) {
    let Some(current) = root.at(r"Microsoft\Windows NT\CurrentVersion") else {
        return;
    };
    let product = current.text("ProductName").and_then(|text| plain(&text));
    let build = current
        .text("CurrentBuild")
        .or_else(|| current.text("CurrentBuildNumber"))
        .and_then(|text| plain(&text));
    let number: Option<u32> = build.as_deref().and_then(|build| build.parse().ok());
    // "6.3" for ever since Windows 10, which has two numbers instead.
    let version = match (
        current.number("CurrentMajorVersionNumber"),
        current.number("CurrentMinorVersionNumber"),
    ) {
        (Some(major), Some(minor)) => Some(format!("{major}.{minor}")),
        _ => current.text("CurrentVersion").and_then(|text| plain(&text)),
    };
    let is_server = current
        .text("InstallationType")
        .is_some_and(|kind| kind.to_ascii_lowercase().contains("server"));
    let product = product.map(|product| match number {
        Some(number) if number >= ELEVEN && !is_server => {
            product.replace("Windows 10", "Windows 11")
        }
        _ => product,
    });
    system.name = product.map(|product| match (&build, current.number("UBR")) {
        (Some(build), Some(revision)) => format!("{product} (build {build}.{revision})"),
        (Some(build), None) => format!("{product} (build {build})"),
        (None, _) => product,
    });
    system.version = version
        .zip(build)
        .map(|(version, build)| format!("{version}.{build}"));
}

fn configuration(root: Key<'_>, system: &mut System) {
    let current = root.at("Select").and_then(|key| key.number("Current"));
    let set = format!("ControlSet{:03}", current.unwrap_or(1));
    let Some(set) = root.at(&set) else { return };
    let name = |path: &str, value: &str| set.at(path)?.text(value);
    system.hostname = name(r"Services\Tcpip\Parameters", "Hostname")
        .or_else(|| name(r"Control\ComputerName\ComputerName", "ComputerName"))
        .and_then(|name| host_name(&name));
    system.architecture = name(
        r"Control\Session Manager\Environment",
        "PROCESSOR_ARCHITECTURE",
    )
    .and_then(|name| {
        Some(match name.to_ascii_uppercase().as_str() {
            "AMD64" => "x86_64",
            "X86" => "i686",
            "ARM64" => "aarch64",
            _ => return None,
        })
    })
    .map(str::to_owned);
    let zone = set.at(r"Control\TimeZoneInformation");
    let is_utc = zone
        .and_then(|key| key.number("RealTimeIsUniversal"))
        .is_some_and(|number| number != 0);
    system.time_zone = zone.and_then(time_zone);
    system.san_policy = set
        .at(r"Services\partmgr\Parameters")
        .and_then(|key| key.number("SanPolicy"));
    system.rtc = Some(match is_utc {
        true => RtcBasis::Utc,
        false => RtcBasis::Localtime,
    });
    system.drivers = set.at("Services").map(drivers);
}

/// `ActiveTimeBias`: the minutes from local time to UTC, a signed number in a `REG_DWORD` (`TIME_ZONE_INFORMATION`,
/// timezoneapi.h: "UTC = local time + bias").
fn time_zone(key: Key<'_>) -> Option<TimeZone> {
    // A day is more than any zone is off.
    const MOST_MINUTES: i32 = 24 * 60;
    let bias = key
        .number("ActiveTimeBias")
        .map(|bias| i32::from_le_bytes(bias.to_le_bytes()));
    let zone = TimeZone {
        // Windows Vista and 7 leave remains of longer names behind the end.
        name: key
            .text("TimeZoneKeyName")
            .and_then(|name| plain(name.split('\0').next()?)),
        utc_offset_minutes: bias
            .and_then(i32::checked_neg)
            .filter(|minutes| (-MOST_MINUTES..=MOST_MINUTES).contains(minutes)),
    };
    zone.known()
}

/// The drivers beside the hives' own folder that have a description (`.inf`).
fn staged(reading: &Reading<'_>, folder: &str) -> Vec<String> {
    let windows = folder.split('/').nth(1).unwrap_or_default();
    let folder = format!("/{windows}/Drivers/VirtIO");
    if !reading.exists(&folder) {
        return Vec::new();
    }
    let mut names: Vec<String> = reading
        .list(&folder)
        .into_iter()
        .filter_map(|entry| {
            let name = entry.name.to_ascii_lowercase();
            let name = name.strip_suffix(".inf")?;
            let fits = (1..=64).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_graphic());
            fits.then(|| name.to_owned())
        })
        .take(256)
        .collect();
    names.sort();
    names
}

/// When a driver is started. Since Windows 8 its own drivers of disks have `Start` 0, and 3 below `StartOverride`
/// where no disk was theirs when it was installed: then they are not started by the boot loader.
fn start(service: Key<'_>) -> Option<u32> {
    let instead = service.at("StartOverride").and_then(|key| key.number("0"));
    instead
        .filter(|start| *start != 0)
        .or_else(|| service.number("Start"))
}

fn drivers(services: Key<'_>) -> Vec<WindowsDriver> {
    let mut drivers: Vec<WindowsDriver> = services
        .children()
        .into_iter()
        .filter_map(|service| {
            let name = service.name()?.to_ascii_lowercase();
            let is_told = DRIVERS.iter().any(|driver| name.starts_with(driver));
            let fits = name.len() <= 64 && name.bytes().all(|byte| byte.is_ascii_graphic());
            (is_told && fits).then(|| WindowsDriver {
                start: start(service),
                name,
            })
        })
        .collect();
    drivers.sort_by(|a, b| a.name.cmp(&b.name));
    drivers.truncate(256);
    drivers
}
