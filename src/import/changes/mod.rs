//! What a captured system needs changed before it runs well as this VM: cards keep their names, tables
//! name filesystems instead of places, the initramfs gets drivers. In: the images as they were
//! captured, and what the inventory says of the system on them. Out: an overlay over each image
//! (`disk-0.changed.qcow2`), which the VM runs on, and `changes.txt`, which lists every change.
//!
//! The images themselves stay as they were captured: without the overlays they are the machine. Nothing
//! here fails an import: what cannot be changed is said.
//!
//! * `wanted`: which changes. `disks`: which disk a name means.
//! * `groups`: what is changed together, and what is left out when it fails.
//! * `links`, `tables`, `initramfs`, `loader`, `lvm`: how each is made. `mounts`: names of devices in tables;
//!   `images`: which files the kernels start with.
//! * `guest`: what they need of a machine. `guestfish`: the machine that they are made in.
//! * `windows`: how a Windows gets drivers. `layered`: what an overlay holds afterwards.

mod disks;
mod groups;
mod guest;
mod guestfish;
mod images;
mod initramfs;
mod layered;
mod links;
mod loader;
mod lvm;
mod mounts;
mod tables;
mod wanted;
mod windows;

use super::{Capture, Options, OutDir};
use crate::error::{Error, Kind, Result};
use crate::inventory::{DiskBoot, Machine};
use crate::report::Report;
use crate::vm::{VmPlan, printable};
use crate::{say, warn};
use groups::{Done, Failed, Failure, Group, InWindows};
use guestfish::Session;
use std::path::{Path, PathBuf};
use std::process::Command;
use wanted::Wanted;
use windows::Tools;

/// The list of changes, beside the disks.
const LIST: &str = "changes.txt";

/// Where the changes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Keep {
    /// Into overlays that the VM runs on.
    Over,
    /// Into the copied disks, in this format of qemu-img: the target takes one file a disk.
    Into(&'static str),
}

/// Makes the changes that the machine on the disks in `dir`, which are `images` there, needs to be the VM of
/// `plan`. The plan has the overlays as its disks then, if they are kept.
///
/// # Errors
/// Only when the list, an overlay or an image cannot be written.
pub(super) fn apply(
    capture: &Capture<'_>,
    plan: &mut VmPlan,
    dir: &OutDir,
    keep: Keep,
    options: &Options,
    report: &dyn Report,
) -> Result<()> {
    let records = capture.manifest.disks.iter().zip(&capture.boots);
    let boots: Vec<(usize, &DiskBoot)> = records
        .filter_map(|(record, boot)| {
            let file = Path::new(&record.file);
            let disk = plan.disks.iter().position(|disk| disk.file == file)?;
            Some((disk, boot.as_ref()?))
        })
        .collect();
    let wanted = Wanted::new(&capture.machine, &boots, plan, options);
    for note in &wanted.notes {
        warn!(report, "{note}");
    }
    if wanted.is_empty() {
        return Ok(());
    }
    let left = |why: &str| {
        warn!(
            report,
            "{why}, so the disks stay as they were captured. What is missing: {}",
            wanted.sentences().join("; ")
        );
        let lost = [Group::Drivers, Group::Windows];
        for group in wanted.groups().iter().filter(|group| lost.contains(group)) {
            warn!(report, "{}", group.consequence());
        }
    };
    if options.unchanged {
        left("--unchanged was given");
        return Ok(());
    }
    let tools = match &wanted.windows {
        Some(root) => match Tools::find() {
            Ok(tools) => Some((tools, root)),
            Err(why) => {
                left(&why);
                return Ok(());
            }
        },
        None => None,
    };
    if wanted.needs_guestfish() && !Session::is_installed() {
        left(
            "the program guestfish is not installed on this machine (package libguestfs-tools, or \
             guestfs-tools)",
        );
        return Ok(());
    }
    say!(
        report,
        "changing, over the captured disks: {}",
        wanted.sentences().join("; ")
    );
    let images: Vec<PathBuf> = plan
        .disks
        .iter()
        .map(|disk| match keep {
            Keep::Into("raw") => disk.file.with_extension("raw"),
            _ => disk.file.clone(),
        })
        .collect();
    let in_windows = |overlays: &[PathBuf]| match &tools {
        Some((tools, root)) => {
            let images = images.iter().map(|image| dir.partial.join(image));
            let disks: Vec<(PathBuf, PathBuf)> = overlays.iter().cloned().zip(images).collect();
            let before: Vec<&DiskBoot> = boots.iter().map(|(_, boot)| *boot).collect();
            tools.convert(&disks, plan, root, &before, report)
        }
        None => Ok(Vec::new()),
    };
    let (overlays, done, failed) = make(&images, keep, dir, &wanted, options, &in_windows)?;
    for (group, why) in &failed {
        warn!(
            report,
            "not changed: {}: {why}. So {}",
            wanted.sentence(*group),
            group.consequence()
        );
    }
    if overlays.is_empty() {
        warn!(
            report,
            "nothing was changed: the disks stay as they were captured"
        );
        return Ok(());
    }
    let printed = |lines: &[String]| -> Vec<String> {
        let lines = lines.iter().map(|line| printable(line));
        lines.collect()
    };
    let (lines, mut told) = (printed(&done.lines), printed(&done.told));
    for line in &lines {
        say!(report, "changed: {line}");
    }
    for line in &told {
        warn!(report, "{line}");
    }
    told.extend(failed.iter().map(|(group, why)| {
        let why = printable(why);
        format!("not changed: {}: {why}", wanted.sentence(*group))
    }));
    dir.write(LIST, list(&images, keep, &lines, &told).as_bytes(), 0o644)?;
    if keep == Keep::Over {
        for (disk, overlay) in plan.disks.iter_mut().zip(&overlays) {
            disk.file = overlay.file_name().map_or(overlay.clone(), PathBuf::from);
        }
        return Ok(());
    }
    for overlay in &overlays {
        let doing = format!(
            "writing the changes into the disk below {}",
            overlay.display()
        );
        qemu_img(
            Command::new("qemu-img").args(["commit", "-q"]).arg(overlay),
            &doing,
        )?;
    }
    discard(&overlays)
}

/// Makes what can be made; the overlays that have it, none if nothing could be.
fn make(
    images: &[PathBuf],
    keep: Keep,
    dir: &OutDir,
    wanted: &Wanted,
    options: &Options,
    in_windows: &InWindows<'_>,
) -> Result<(Vec<PathBuf>, Done, Failed)> {
    let mut groups = wanted.groups();
    let mut failed = Failed::default();
    while !groups.is_empty() {
        let overlays = overlays(images, keep, dir)?;
        let attempt = groups::attempt(
            &overlays,
            wanted,
            &groups,
            &options.key_files,
            in_windows,
            &mut failed,
        );
        match attempt {
            Ok(done) if !done.lines.is_empty() => return Ok((overlays, done, failed)),
            // All that was left is in `failed`.
            Ok(_) => groups.clear(),
            // Once more without them; at least one group less each time.
            Err(failure) => {
                let Failure { groups: out, why } = failure;
                failed.extend(out.into_iter().map(|group| (group, why.clone())));
                groups.retain(|group| !failed.iter().any(|(out, _)| out == group));
            }
        }
        discard(&overlays)?;
    }
    Ok((Vec::new(), Done::default(), failed))
}

/// Whether anything will be changed.
pub(super) fn are_wanted(machine: &Machine, plan: &VmPlan, options: &Options) -> bool {
    !options.unchanged && !Wanted::new(machine, &[], plan, options).is_empty()
}

/// Whether the names by which the installed system finds its disks mean the same in the VM.
pub(super) fn names_stay(machine: &Machine, plan: &VmPlan, options: &Options) -> bool {
    let wanted = Wanted::new(machine, &[], plan, options);
    wanted.places.is_empty() && !wanted.unknown_places
}

/// Makes an overlay beside each image.
fn overlays(images: &[PathBuf], keep: Keep, dir: &OutDir) -> Result<Vec<PathBuf>> {
    let format = match keep {
        Keep::Over => "qcow2",
        Keep::Into(format) => format,
    };
    let mut overlays = Vec::new();
    for image in images {
        let overlay = dir.partial.join(image.with_extension("changed.qcow2"));
        if overlay.exists() {
            return Err(Error::corrupt(format!(
                "the capture has a disk of the name {}",
                name(&overlay)
            )));
        }
        let mut command = Command::new("qemu-img");
        command
            .args(["create", "-q", "-f", "qcow2", "-F", format, "-b"])
            // By its name only: the folder may be moved.
            .arg(image)
            .arg(&overlay)
            .current_dir(&dir.partial);
        qemu_img(
            &mut command,
            &format!("making the overlay {}", overlay.display()),
        )?;
        overlays.push(overlay);
    }
    Ok(overlays)
}

fn qemu_img(command: &mut Command, doing: &str) -> Result<()> {
    let output = command.output().map_err(|e| Error::io(doing, e))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(Error::new(Kind::Io, doing).because(said))
}

fn discard(overlays: &[PathBuf]) -> Result<()> {
    for overlay in overlays {
        std::fs::remove_file(overlay)
            .map_err(|e| Error::io(format!("removing {}", overlay.display()), e))?;
    }
    Ok(())
}

/// `changes.txt`
fn list(images: &[PathBuf], keep: Keep, done: &[String], told: &[String]) -> String {
    let mut text = String::from("What haulier import changed for this VM. ");
    text += match keep {
        Keep::Over => {
            "The changes lie in overlays (*.changed.qcow2);\n\
             the disks below them are as they were captured, and the capture itself is untouched.\n\n"
        }
        Keep::Into(_) => {
            "The changes lie in the copied disks;\nthe capture itself is untouched.\n\n"
        }
    };
    for line in done {
        text += &format!("- {line}\n");
    }
    if !told.is_empty() {
        text += "\nWhat to know:\n\n";
    }
    for line in told {
        text += &format!("- {line}\n");
    }
    text += "\nTo undo all of it: import again with --unchanged";
    if keep != Keep::Over {
        return text + ".\n";
    }
    text += ", or put the disk in the overlay's place\nin the VM's configuration:\n";
    for image in images {
        let overlay = image.with_extension("changed.qcow2");
        text += &format!("  {} -> {}\n", name(&overlay), name(image));
    }
    text
}

fn name(path: &Path) -> String {
    path.file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default()
}
