//! `report.html`: what a capture took of a machine, what it did not and why, and what was lost, for
//! people who were not there. One file without scripts or anything from elsewhere, so that it opens
//! from the stick, in an air-gapped room, in ten years.
//!
//! In: the inventory, the manifest, the losses. Out: the page.

use crate::inventory::Machine;
use crate::lost::{Loss, What};
use crate::store::{DiskRecord, Manifest};
use crate::units::ByteLen;
use crate::usedmap::{Policy, Region};
use maud::{DOCTYPE, Markup, PreEscaped, html};

/// Width of a disk's picture in its own units.
const WIDTH: u64 = 1000;

/// Losses beyond these are only in their file.
const MOST_LOSSES: usize = 2000;

const STYLE: &str = "
body{font:16px/1.5 system-ui,sans-serif;max-width:66rem;margin:2rem auto;padding:0 1rem;color:#1c2530;background:#fff}
h1{font-size:1.7rem;margin:0 0 .3rem}h2{font-size:1.2rem;margin:2.2rem 0 .6rem;border-bottom:1px solid #d5dbe2}
.verdict{padding:.8rem 1rem;border-left:.4rem solid;margin:1rem 0;font-weight:600}
.good{background:#e8f5ec;border-color:#1d8348}.bad{background:#fdecea;border-color:#c0392b}
.open{background:#fef6e4;border-color:#b9770e}
table{border-collapse:collapse;width:100%;font-size:.92rem}th,td{text-align:left;padding:.3rem .6rem;
border-bottom:1px solid #e3e8ed;vertical-align:top;overflow-wrap:anywhere}
td.n,th.n{text-align:right;white-space:nowrap;font-variant-numeric:tabular-nums}
pre{background:#f4f6f8;padding:.8rem;overflow-x:auto;font-size:.85rem}svg{width:100%;height:44px;display:block;margin:.6rem 0 .2rem}
.key{font-size:.85rem;color:#4a5665}.key i{display:inline-block;width:.8em;height:.8em;margin:0 .3em 0 1em}
.dim{color:#5d6b7a}@media print{body{margin:0;max-width:none}h2{break-after:avoid}}
";

/// The page of a capture. `read_back` if all of it was compared after it was written; `losses` has
/// what lay in the bytes that could not be read, nothing if that is not known.
pub fn page(
    machine: &Machine,
    manifest: &Manifest,
    losses: Option<&[Loss]>,
    read_back: bool,
) -> String {
    let disks = &manifest.disks;
    let lost: u64 = disks.iter().map(|disk| disk.bad_ranges.total().0).sum();
    let read: u64 = disks.iter().map(|disk| disk.extents.total().0).sum();
    let stored: u64 = disks.iter().map(|disk| disk.file_bytes).sum();
    let seconds = manifest.finished.duration_since(manifest.started).as_secs();
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width";
                title { "Capture of " (manifest.machine) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                h1 { "Capture of " (manifest.machine) }
                div.dim {
                    (manifest.started.strftime("%F %T UTC")) " to "
                    (manifest.finished.strftime("%F %T UTC")) " (" (duration(seconds))
                    "), by haulier " (manifest.tool_version)
                }
                @if let Some(part) = &manifest.part {
                    div.verdict.open {
                        "Part " (part.number) @if part.last { ", the last one," }
                        " of a capture on several media. Only all of them together are the machine: "
                        "haulier verify and haulier import want them all, in any order."
                    }
                }
                (verdict(lost, read_back, manifest.part.is_some()))
                p {
                    (disks.len()) @if disks.len() == 1 { " disk" } @else { " disks" } ": "
                    (ByteLen(read)) " in use were read, " (ByteLen(stored)) " are stored."
                }
                @for disk in disks { (of_disk(disk)) }
                @if lost > 0 { (of_losses(losses)) }
                h2 { "The machine" }
                pre { (machine.to_text()) }
                h2 { "What to do with it" }
                pre {
                    "haulier verify DIRECTORY                # is every bit still what was read?\n"
                    "haulier import DIRECTORY --to libvirt   # run it here\n"
                    "haulier import DIRECTORY --to qemu --out vm"
                }
                p.dim { "DIRECTORY is the one that this page lies in." }
            }
        }
    };
    page.into_string()
}

fn duration(seconds: i64) -> String {
    match seconds {
        ..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        _ => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
    }
}

fn verdict(lost: u64, read_back: bool, part: bool) -> Markup {
    let complete = if part {
        "This part is whole."
    } else {
        "Complete."
    };
    html! {
        @if lost > 0 {
            div.verdict.bad {
                (lost) " bytes could not be read and are zero in the images. All else is as it was read"
                @if read_back { ", compared after it was written." } @else { "." }
            }
        } @else if read_back {
            div.verdict.good { (complete) " Every byte was read back and is what the disks held." }
        } @else {
            div.verdict.open {
                (complete) " It was not read back after writing (--no-verify). "
                "haulier verify does that at any time."
            }
        }
    }
}

fn of_disk(disk: &DiskRecord) -> Markup {
    let source = &disk.source;
    let used = disk.extents.total();
    html! {
        h2 { (source.path.display()) ", " (disk.file) }
        table {
            tr { th { "Model" } td { (or_unknown(source.model.as_deref())) } }
            tr { th { "Serial number" } td { (or_unknown(source.serial.as_deref())) } }
            tr { th { "Size" } td {
                (ByteLen(source.size_bytes)) " (" (source.size_bytes) " bytes, sectors of "
                (source.logical_sector_bytes) ")"
            } }
            tr { th { "In use" } td { (used) } }
            @if let Some((from, to)) = disk.range {
                tr { th { "Held here" } td { "bytes " (from) " to " (to) } }
            }
            tr { th { "Image" } td {
                (disk.file) ", " (ByteLen(disk.file_bytes)) ", " (disk.compression.name())
                @if let Some(since) = &disk.since {
                    ", changes since the capture " (since.capture) ", which it needs"
                }
            } }
            @if let Ok(digest) = disk.digest() {
                tr { th { (digest.kind()) } td { (digest) } }
            }
        }
        (picture(disk))
        div.key {
            i style="background:#2874a6" {} "read" i style="background:#dfe5ea" {} "free, not read"
            @if !disk.bad_ranges.is_empty() { i style="background:#c0392b" {} "could not be read" }
        }
        table {
            tr {
                th { "Region" } th.n { "From byte" } th.n { "Size" } th.n { "Read" } th { "Taken" }
            }
            @for region in &disk.regions { (of_region(region)) }
        }
    }
}

fn or_unknown(text: Option<&str>) -> &str {
    text.unwrap_or("unknown")
}

fn of_region(region: &Region) -> Markup {
    let what = serde_json::to_value(region.kind).ok();
    let what = what.as_ref().and_then(|kind| kind.as_str()).unwrap_or("");
    let taken = match region.policy {
        Policy::UsedBlocks => "the blocks in use",
        Policy::CopyAll => "all",
        Policy::CopyNonzero => "all but zeros",
        Policy::Skip => "not",
    };
    html! {
        tr {
            td {
                @if let Some(partition) = region.partition { "partition " (partition) ": " }
                (region.filesystem.as_deref().unwrap_or(what))
                @if let Some(label) = &region.label { " “" (label) "”" }
                @if let Some(uuid) = &region.uuid { br; span.dim { (uuid) } }
            }
            td.n { (region.start_byte) }
            td.n { (ByteLen(region.length_bytes)) }
            td.n { (ByteLen(region.used_bytes)) }
            td { (taken) br; span.dim { (region.reason) } }
        }
    }
}

/// The disk from its first to its last byte: how dark a column is says how much of it is in use.
fn picture(disk: &DiskRecord) -> Markup {
    let size = disk.virtual_size_bytes.max(1);
    let column = |byte: u64| u64::try_from(u128::from(byte) * u128::from(WIDTH) / u128::from(size));
    let bytes_a_column = (size / WIDTH).max(1);
    let mut used = vec![0_u64; usize::try_from(WIDTH).unwrap_or(0)];
    for extent in disk.extents.iter() {
        let mut at = extent.start().0;
        while at < extent.end() {
            let index = at / bytes_a_column;
            let end = index
                .saturating_add(1)
                .saturating_mul(bytes_a_column)
                .min(extent.end());
            let last = used.len().saturating_sub(1);
            let index = usize::try_from(index).unwrap_or(last).min(last);
            if let Some(column) = used.get_mut(index) {
                *column = column.saturating_add(end.saturating_sub(at));
            }
            at = end.max(at.saturating_add(1));
        }
    }
    // Columns that look the same are one, lest their edges show.
    let mut columns: Vec<(usize, usize, String)> = Vec::new();
    for (x, bytes) in used.iter().enumerate().filter(|(_, bytes)| **bytes > 0) {
        let opacity = opacity(*bytes, bytes_a_column);
        match columns.last_mut() {
            Some((from, width, same)) if *from + *width == x && *same == opacity => *width += 1,
            _ => columns.push((x, 1, opacity)),
        }
    }
    html! {
        svg viewBox="0 0 1000 44" preserveAspectRatio="none" role="img" shape-rendering="crispEdges"
            aria-label="which parts of the disk are in use" {
            rect x="0" y="0" width="1000" height="36" fill="#dfe5ea" {}
            @for (x, width, opacity) in columns {
                rect x=(x) y="0" width=(width) height="36" fill="#2874a6" opacity=(opacity) {}
            }
            @for bad in disk.bad_ranges.iter() {
                @if let Ok(x) = column(bad.start().0) {
                    rect x=(x) y="0" width="2" height="44" fill="#c0392b" {}
                }
            }
            @for region in disk.regions.iter().filter(|region| region.partition.is_some()) {
                @if let (Ok(from), Ok(to)) = (
                    column(region.start_byte),
                    column(region.start_byte.saturating_add(region.length_bytes)),
                ) {
                    rect x=(from) y="39" width=(to.saturating_sub(from).saturating_sub(1).max(1))
                        height="5" fill="#5d6b7a" {}
                }
            }
        }
    }
}

/// A little is seen too.
fn opacity(used: u64, of: u64) -> String {
    let percent = used
        .saturating_mul(75)
        .checked_div(of)
        .unwrap_or(75)
        .min(75);
    format!("{:.2}", (25.0 + percent as f64) / 100.0)
}

fn of_losses(losses: Option<&[Loss]>) -> Markup {
    html! {
        h2 { "What could not be read" }
        @match losses {
            None => p { "Which files the lost bytes belong to could not be found out." },
            Some(losses) => {
                table {
                    tr { th { "Disk" } th.n { "From byte" } th.n { "Bytes" } th { "What lay there" } }
                    @for loss in losses.iter().take(MOST_LOSSES) {
                        tr {
                            td { "disk-" (loss.disk) }
                            td.n { (loss.range.start()) }
                            td.n { (loss.range.len().0) }
                            td {
                                @match &loss.what {
                                    What::File { path, .. } => { "file " b { (path) } },
                                    What::Directory { path, .. } => { "names in the directory " b { (path) } },
                                    other => (what(other)),
                                }
                                @if let Some(volume) = &loss.volume { br; span.dim { (volume) } }
                            }
                        }
                    }
                }
                @if losses.len() > MOST_LOSSES {
                    p { "and " (losses.len() - MOST_LOSSES) " more, see losses.json" }
                }
            },
        }
    }
}

fn what(what: &What) -> String {
    match what {
        What::Metadata { which, files } if files.is_empty() => which.clone(),
        What::Metadata { which, files } => format!("{which}, and with it {}", files.join(", ")),
        What::FreeSpace => "free space, nothing is missing".into(),
        What::OutsideFiles { which } => format!("no part of any file ({which})"),
        What::Unknown { reason } => format!("not known ({reason})"),
        What::File { path, .. } | What::Directory { path, .. } => path.clone(),
    }
}
