//! A map for people.

use super::disk::DiskMap;
use super::made::MadeVolume;
use super::region::{Policy, Region, RegionKind, State};
use crate::ptable::Scheme;
use crate::units::ByteLen;
use std::fmt::Write;

const COLUMNS: usize = 80;
const INDENT: &str = "        ";

/// Volume by volume; no line longer than 80 columns, except for a path that is.
pub(super) fn render(map: &DiskMap) -> String {
    let mut out = String::new();
    let scheme = match map.scheme {
        Scheme::Gpt => "GPT",
        Scheme::Mbr => "MBR",
        Scheme::None => "no partition table",
    };
    line(
        &mut out,
        "",
        &format!(
            "{}: {}, {scheme}, sectors of {} bytes",
            map.disk.path.display(),
            ByteLen(map.disk.size_bytes),
            map.disk.logical_sector_bytes
        ),
    );
    for note in &map.notes {
        line(&mut out, "  ", &format!("Note: {note}."));
    }
    out.push('\n');
    let row = |out: &mut String, cells: [&str; 5]| {
        let [part, content, size, taken, state] = cells;
        let _ = writeln!(
            out,
            "{}",
            format!("{part:>4}    {content:<28}{size:>12}{taken:>12}  {state}").trim_end()
        );
    };
    row(&mut out, ["Part", "Content", "Size", "Taken", "State"]);
    let mut others = ByteLen::ZERO;
    for region in &map.regions {
        if !is_shown(region) {
            others = ByteLen(others.0.saturating_add(region.used_bytes));
            continue;
        }
        let part = region.partition.map_or("-".into(), |n| n.to_string());
        row(
            &mut out,
            [
                &part,
                &content(region),
                &ByteLen(region.length_bytes).to_string(),
                &taken(region),
                state(region.state),
            ],
        );
        if region.is_remarkable() {
            line(
                &mut out,
                INDENT,
                &format!("{}.", capitalised(&region.reason)),
            );
        }
    }
    for volume in &map.volumes {
        let (heading, size, taken) = volume_cells(volume);
        row(&mut out, ["", &heading, &size, &taken, state(volume.state)]);
        line(&mut out, INDENT, &format!("{}.", volume_place(volume)));
        if is_remarkable(volume) {
            let reason = capitalised(&volume.reason);
            line(&mut out, INDENT, &format!("{reason}."));
        }
    }
    if others != ByteLen::ZERO {
        row(
            &mut out,
            ["-", "tables, gaps, slack", "", &others.to_string(), ""],
        );
    }
    out.push('\n');
    let most = if map.nonzero_only().is_empty() {
        ""
    } else {
        "at most "
    };
    line(
        &mut out,
        "",
        &format!(
            "To read: {most}{} of {}.",
            ByteLen(map.used_bytes),
            ByteLen(map.disk.size_bytes)
        ),
    );
    out
}

/// A line a volume and no headings, for a screen of 25 lines that shows the whole machine; the
/// reason only where something is wrong with it.
pub(super) fn brief(map: &DiskMap) -> String {
    let mut out = String::new();
    for note in &map.notes {
        line(&mut out, "     ", &format!("Note: {note}."));
    }
    for region in map.regions.iter().filter(|region| is_shown(region)) {
        let part = region.partition.map_or("-".into(), |n| n.to_string());
        let row = format!(
            "{part:>6} {:<28}{:>12}{:>12}  {}",
            content(region),
            ByteLen(region.length_bytes).to_string(),
            taken(region),
            state(region.state)
        );
        let _ = writeln!(out, "{}", row.trim_end());
        let locked = region.kind == RegionKind::Encrypted && region.state.is_none();
        if locked || !matches!(region.state, None | Some(State::Clean)) {
            line(
                &mut out,
                INDENT,
                &format!("{}.", capitalised(&region.reason)),
            );
        }
    }
    for volume in &map.volumes {
        let (heading, size, taken) = volume_cells(volume);
        let state = state(volume.state);
        let row = format!("{:>6} {heading:<28}{size:>12}{taken:>12}  {state}", "");
        let _ = writeln!(out, "{}", row.trim_end());
        if !matches!(volume.state, None | Some(State::Clean)) {
            let reason = capitalised(&volume.reason);
            line(&mut out, INDENT, &format!("{reason}."));
        }
    }
    out
}

/// The small regions that every disk has would bury what matters.
fn is_shown(region: &Region) -> bool {
    let small = region.length_bytes <= 1 << 20;
    match region.kind {
        RegionKind::PartitionTable | RegionKind::BootGap => false,
        RegionKind::Unpartitioned => !small,
        RegionKind::Unknown => !small || region.policy == Policy::CopyAll,
        _ => true,
    }
}

/// A volume's name with what is in it, its size, and what of it is taken.
fn volume_cells(volume: &MadeVolume) -> (String, String, String) {
    let content = match volume.kind {
        RegionKind::PartitionTable => "partitioned",
        _ => volume.filesystem.as_deref().unwrap_or("unknown"),
    };
    // What is at the end of a name tells volumes apart: vg0/lv_root, vg0/lv_home.
    let room = 27_usize.saturating_sub(content.chars().count() + 1);
    let name: Vec<char> = volume.name.chars().flat_map(char::escape_debug).collect();
    let cut = name.len().saturating_sub(room);
    let name: String = name.into_iter().skip(cut).collect();
    let used = ByteLen(volume.used_bytes);
    let taken = match volume.policy {
        Policy::CopyNonzero => format!("<= {used}"),
        _ => used.to_string(),
    };
    let size = ByteLen(volume.size_bytes).to_string();
    (format!("{name} {content}"), size, taken)
}

/// Where a volume lies: `linear, of /dev/sda partition 2`.
fn volume_place(volume: &MadeVolume) -> String {
    let text = format!("{} of {}", volume.layout, volume.members.join(", "));
    capitalised(&text.escape_debug().to_string())
}

fn is_remarkable(volume: &MadeVolume) -> bool {
    volume.state.is_some_and(|state| state != State::Clean)
        || volume.policy == Policy::CopyNonzero && volume.size_bytes > ByteLen(1 << 20).0
}

fn content(region: &Region) -> String {
    let name = match region.kind {
        RegionKind::Unpartitioned => "unpartitioned",
        RegionKind::Unknown if region.policy == Policy::CopyAll => "boot loader",
        RegionKind::Unknown => "unknown",
        _ => region.filesystem.as_deref().unwrap_or("unknown"),
    };
    let text = match &region.label {
        Some(label) => format!("{name} \"{}\"", label.escape_debug()),
        None => name.to_owned(),
    };
    text.chars().take(27).collect()
}

fn taken(region: &Region) -> String {
    let bytes = ByteLen(region.used_bytes);
    match region.policy {
        // The zeros in it are known only once it has been read.
        Policy::CopyNonzero => format!("<= {bytes}"),
        _ => bytes.to_string(),
    }
}

fn state(state: Option<State>) -> &'static str {
    match state {
        Some(State::Clean) => "clean",
        Some(State::Dirty) => "dirty",
        Some(State::Damaged) => "damaged",
        Some(State::Unreadable) => "unreadable",
        Some(State::Unsupported) => "unsupported",
        None => "",
    }
}

fn capitalised(text: &str) -> String {
    let mut chars = text.chars();
    chars
        .next()
        .map(|first| first.to_uppercase().chain(chars).collect())
        .unwrap_or_default()
}

/// Writes words into lines that start with `indent`.
fn line(out: &mut String, indent: &str, text: &str) {
    let mut column = 0;
    for word in text.split(' ') {
        let width = word.chars().count();
        if column > 0 && column + 1 + width > COLUMNS {
            out.push('\n');
            column = 0;
        }
        let gap = if column == 0 { indent } else { " " };
        out.push_str(gap);
        out.push_str(word);
        column += gap.len() + width;
    }
    out.push('\n');
}
