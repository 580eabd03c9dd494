//! The inventory as a technician reads it on a 80x24 console.

use super::{FirmwareKind, Machine, NicInfo, PciInfo, PciKind, Smbios, System, pci_names};
use crate::units::ByteLen;
use std::cmp::Reverse;

/// Columns of the narrowest console: the last one stays free, because writing it wraps on some.
const WIDTH: usize = 79;
/// Where the values begin.
const INDENT: usize = 10;
/// Rows of a table before the rest is only counted: four lines and two tables fit a screen.
const ROWS: usize = 10;
/// Lines of a common screen.
const LINES: usize = 24;
/// Lines about what hides disks; the table of cards gives way to them.
const HIDDEN: usize = 2;
/// Lines about installed systems; so does it to them.
const SYSTEMS: usize = 2;
/// Lines about graphics cards and accelerators, and as many about storage controllers; so does it to them.
const FUNCTIONS: usize = 2;

pub(super) fn machine(machine: &Machine) -> String {
    let mut text = String::new();
    let hidden = hidden(machine);
    let systems = systems(machine);
    let storage = functions(machine, storage_rank);
    let gpus = functions(machine, gpu_rank);
    line(&mut text, "Machine:", &name(machine));
    line(&mut text, "Firmware:", &firmware(machine));
    line(&mut text, "CPU:", &cpu(machine));
    line(&mut text, "Memory:", &memory(machine));
    table(
        &mut text,
        "Disks:",
        "none found: is the controller's RAID mode on, or its driver missing?",
        ROWS,
        Some(2),
        machine
            .disks
            .iter()
            .enumerate()
            .map(|(index, disk)| {
                vec![
                    index.to_string(),
                    disk.device().display().to_string(),
                    disk.model.clone().unwrap_or_else(|| "-".into()),
                    clipped(disk.serial.as_deref().unwrap_or("-"), 20),
                    if disk.size_bytes == 0 {
                        "no medium".into()
                    } else {
                        ByteLen(disk.size_bytes).to_string()
                    },
                    disk.bus.to_string(),
                ]
            })
            .collect(),
    );
    for function in &storage {
        line(&mut text, "Storage:", function);
    }
    let others = [hidden.len(), systems.len(), gpus.len()];
    let taken = others.iter().fold(text.lines().count(), |sum, n| sum + n);
    table(
        &mut text,
        "Network:",
        "no card found",
        ROWS.min(LINES.saturating_sub(taken)),
        None,
        machine.nics.iter().map(nic).collect(),
    );
    for function in &gpus {
        line(&mut text, "GPU:", function);
    }
    for system in &systems {
        line(&mut text, "System:", system);
    }
    for sentence in &hidden {
        line(&mut text, "Hidden:", sentence);
    }
    text
}

/// The cells of a network card. Its name comes last, where it may be cut.
fn nic(nic: &NicInfo) -> Vec<String> {
    let names = [&nic.device, &nic.vendor, &nic.pci_id];
    let called = names.into_iter().flatten().next();
    vec![
        nic.name.clone(),
        nic.mac.clone().unwrap_or_else(|| "-".into()),
        nic.driver.clone().unwrap_or_else(|| "no driver".into()),
        match (nic.link, nic.speed_mbit) {
            (Some(true), Some(speed)) => format!("link, {speed} Mbit/s"),
            (Some(true), None) => "link".into(),
            (Some(false), _) => "no link".into(),
            (None, _) => "down".into(),
        },
        called.cloned().unwrap_or_default(),
    ]
}

/// Storage controllers, those that bring drivers of their own first. An NVMe disk is its own and stands in
/// the table of disks.
fn storage_rank(kind: PciKind) -> Option<u8> {
    Some(match kind {
        PciKind::Raid => 0,
        PciKind::Sas => 1,
        PciKind::FibreChannel => 2,
        PciKind::Storage => 3,
        PciKind::Sata => 4,
        PciKind::Ide => 5,
        _ => return None,
    })
}

/// Graphics cards and accelerators: which one is worth more, no class says.
fn gpu_rank(kind: PciKind) -> Option<u8> {
    matches!(kind, PciKind::Gpu | PciKind::Accelerator).then_some(0)
}

/// A line for each model of the functions that have a rank, at most [`FUNCTIONS`]: those of the lowest rank
/// first, and of those what the machine has most of, so that eight GPUs stand before the board's own.
fn functions(machine: &Machine, rank: impl Fn(PciKind) -> Option<u8>) -> Vec<String> {
    let mut models: Vec<(u8, usize, &PciInfo)> = Vec::new();
    for function in &machine.pci {
        let Some(rank) = function.kind.and_then(&rank) else {
            continue;
        };
        match models.iter_mut().find(|model| model.2.id == function.id) {
            Some((_, count, _)) => *count += 1,
            None => models.push((rank, 1, function)),
        }
    }
    models.sort_by_key(|(rank, count, _)| (*rank, Reverse(*count)));
    let shown = if models.len() > FUNCTIONS {
        FUNCTIONS - 1
    } else {
        models.len()
    };
    let rest: usize = models.iter().skip(shown).map(|(_, count, _)| count).sum();
    let mut lines: Vec<String> = models
        .iter()
        .take(shown)
        .map(|(_, count, function)| {
            let PciInfo { vendor, device, .. } = function;
            let name = pci_names::shown(vendor.as_deref(), device.as_deref(), &function.id);
            match count {
                1 => name,
                _ => format!("{count} x {name}"),
            }
        })
        .collect();
    if rest > 0 {
        lines.push(format!("and {rest} more"));
    }
    lines
}

/// A line for each installed system, at most [`SYSTEMS`].
fn systems(machine: &Machine) -> Vec<String> {
    let Some(systems) = &machine.installed else {
        return Vec::new();
    };
    if systems.is_empty() {
        return vec!["none found on the disks".into()];
    }
    let mut lines: Vec<String> = systems.iter().map(system).collect();
    if lines.len() > SYSTEMS {
        let rest = lines.split_off(SYSTEMS - 1);
        lines.push(format!("and {} more", rest.len()));
    }
    lines
}

/// `Debian GNU/Linux 13 (trixie), web1, ext4 on sda2, 6.12.57-amd64`
fn system(system: &System) -> String {
    let root = &system.root;
    let place = match (&root.volume, root.disks.as_slice(), root.partition) {
        (Some(volume), ..) => volume.clone(),
        (None, [disk], Some(number)) => {
            let infix = if disk.ends_with(|c: char| c.is_ascii_digit()) {
                "p"
            } else {
                ""
            };
            format!("{disk}{infix}{number}")
        }
        (None, disks, _) => disks.join(", "),
    };
    if system.kind.is_none() {
        return format!(
            "unknown: {place} is {}, and has no key yet",
            root.filesystem
        );
    }
    let kernel = system.kernels.as_ref().and_then(|kernels| kernels.first());
    let facts = [
        Some(clipped(system.name.as_deref().unwrap_or("unknown"), 34)),
        system.hostname.clone(),
        Some(format!("{} on {place}", root.filesystem)),
        // The longest comes last, where it may be cut.
        kernel.map(|kernel| kernel.release.clone()),
    ];
    facts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

/// At most [`HIDDEN`] sentences, the last of which counts what has no room.
fn hidden(machine: &Machine) -> Vec<String> {
    let mut warnings = machine.warnings();
    if warnings.len() > HIDDEN {
        let rest = warnings.split_off(HIDDEN - 1);
        warnings.push(format!("{} more controllers have no driver", rest.len()));
    }
    warnings
}

fn name(machine: &Machine) -> String {
    let Smbios {
        manufacturer,
        product,
        serial,
        ..
    } = &machine.smbios;
    let mut words: Vec<&str> = [manufacturer, product]
        .into_iter()
        .filter_map(Option::as_deref)
        .collect();
    if words.is_empty() {
        words.push("unknown model");
    }
    let mut text = words.join(" ");
    if let Some(serial) = serial {
        text += &format!(", serial {serial}");
    }
    text
}

fn firmware(machine: &Machine) -> String {
    let firmware = &machine.firmware;
    let mut facts = vec![match firmware.installed {
        Some(installed) if installed != firmware.kind => {
            format!("{installed} by the disks, {} this boot", firmware.kind)
        }
        _ => firmware.kind.to_string(),
    }];
    if firmware.kind == FirmwareKind::Uefi {
        facts.push(
            match firmware.secure_boot {
                Some(true) => "Secure Boot on",
                Some(false) => "Secure Boot off",
                None => "Secure Boot unknown",
            }
            .into(),
        );
    }
    let smbios = &machine.smbios;
    let version = [&smbios.bios_vendor, &smbios.bios_version]
        .into_iter()
        .filter_map(Option::as_deref)
        .collect::<Vec<_>>()
        .join(" ");
    if !version.is_empty() {
        facts.push(version);
    }
    if let Some(tpm) = &machine.tpm {
        facts.push(format!(
            "TPM {}",
            tpm.version.as_deref().unwrap_or("present")
        ));
    }
    facts.join(", ")
}

fn cpu(machine: &Machine) -> String {
    let cpu = &machine.cpu;
    let plural = |count: u32, thing: &str| match count {
        1 => format!("1 {thing}"),
        _ => format!("{count} {thing}s"),
    };
    format!(
        "{}, {}, {}, {}",
        clipped(cpu.model.as_deref().unwrap_or("unknown model"), 34),
        plural(cpu.sockets, "socket"),
        plural(cpu.sockets.saturating_mul(cpu.cores_per_socket), "core"),
        plural(cpu.threads(), "thread"),
    )
}

/// Memory in binary units, as the modules are sold.
fn memory(machine: &Machine) -> String {
    let memory = &machine.memory;
    let gib = |bytes: u64| {
        let tenths = bytes.saturating_mul(10) / (1 << 30);
        format!("{}.{} GiB", tenths / 10, tenths % 10)
    };
    match (memory.installed_bytes, memory.usable_bytes) {
        (Some(installed), Some(usable)) => {
            format!("{} installed, {} usable", gib(installed), gib(usable))
        }
        (Some(bytes), None) => format!("{} installed", gib(bytes)),
        (None, Some(bytes)) => format!("{} usable", gib(bytes)),
        (None, None) => "unknown".into(),
    }
}

/// One labelled line, cut at the edge of the screen.
fn line(text: &mut String, label: &str, value: &str) {
    let line = format!("{label:<INDENT$}{}", printable(value));
    *text += &clipped(&line, WIDTH);
    text.push('\n');
}

/// Rows in columns, the label before the first one. All rows have the same number of cells.
fn table(
    text: &mut String,
    label: &str,
    empty: &str,
    most: usize,
    elastic: Option<usize>,
    rows: Vec<Vec<String>>,
) {
    if rows.is_empty() {
        return line(text, label, empty);
    }
    let shown = if rows.len() > most {
        most - 1
    } else {
        rows.len()
    };
    let mut widths = vec![0_usize; rows.iter().map(Vec::len).max().unwrap_or(0)];
    for row in rows.iter().take(shown) {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(printable(cell).chars().count());
        }
    }
    // The column that may be long gives way, so that what stands behind it stays on the screen.
    if let Some(elastic) = elastic {
        let others: usize = widths.iter().map(|width| width + 1).sum::<usize>() - widths[elastic];
        widths[elastic] = widths[elastic].min((WIDTH - INDENT).saturating_sub(others).max(8));
    }
    for (index, row) in rows.iter().take(shown).enumerate() {
        let cells: Vec<String> = row
            .iter()
            .zip(&widths)
            .map(|(cell, &width)| format!("{:<width$}", clipped(&printable(cell), width)))
            .collect();
        let label = if index == 0 { label } else { "" };
        line(text, label, cells.join(" ").trim_end());
    }
    if shown < rows.len() {
        line(text, "", &format!("and {} more", rows.len() - shown));
    }
}

/// A vendor's string must not steer the terminal.
fn printable(text: &str) -> String {
    text.chars()
        .map(|c| {
            if c.is_ascii_graphic() || c == ' ' {
                c
            } else {
                '?'
            }
        })
        .collect()
}

/// At most `width` characters, the last a `~` if something was cut.
fn clipped(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let mut cut: String = text.chars().take(width.saturating_sub(1)).collect();
    cut.push('~');
    cut
}
