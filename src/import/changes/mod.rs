//! What a captured system needs changed before it runs well as this VM: cards keep their names, tables
//! name filesystems instead of places, the initramfs gets drivers. In: the images as they were
//! captured, and what the inventory says of the system on them. Out: an overlay over each image
//! (`disk-0.changed.qcow2`), which the VM runs on, and `changes.txt`, which lists every change.
//!
//! The images themselves stay as they were captured: without the overlays they are the machine. Nothing
//! here fails an import: what cannot be changed is said.
//!
//! * `wanted`: which changes.
//! * `mounts`: names of devices in tables.
//! * `linux`: how each is made.
//! * `guestfish`: the machine that they are made in.

mod guestfish;
mod linux;
mod mounts;
mod wanted;

use super::{Options, OutDir};
use crate::error::{Error, Kind, Result};
use crate::inventory::Machine;
use crate::report::Report;
use crate::vm::VmPlan;
use crate::{say, warn};
use guestfish::Session;
use std::path::{Path, PathBuf};
use std::process::Command;
use wanted::Wanted;

/// The list of changes, beside the disks.
const LIST: &str = "changes.txt";

/// Makes the changes that the machine on the disks in `dir` needs to be the VM of `plan`, whose disks are
/// the overlays then.
///
/// # Errors
/// Only when the list or an overlay cannot be written.
pub(super) fn apply(
    machine: &Machine,
    plan: &mut VmPlan,
    dir: &OutDir,
    options: &Options,
    report: &dyn Report,
) -> Result<()> {
    let wanted = Wanted::new(machine, plan, options);
    for note in &wanted.notes {
        warn!(report, "{note}");
    }
    if wanted.is_empty() {
        return Ok(());
    }
    let left = |why: &str| {
        warn!(
            report,
            "{why}, so the disks stay as they were captured. Without it: {}",
            wanted.sentences().join("; ")
        );
    };
    if options.unchanged {
        left("--unchanged was given");
        return Ok(());
    }
    if !Session::is_installed() {
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
    let overlays = overlays(plan, dir)?;
    let changed = Session::start(&overlays, &options.key_files).and_then(|session| {
        let done = linux::change(&session, &wanted, plan)?;
        session.finish()?;
        Ok(done)
    });
    match changed {
        Ok(done) if !done.is_empty() => {
            for line in &done {
                say!(report, "changed: {line}");
            }
            dir.write(LIST, list(plan, &done).as_bytes(), 0o644)?;
            for (disk, overlay) in plan.disks.iter_mut().zip(overlays) {
                disk.file = overlay.file_name().map_or(overlay.clone(), PathBuf::from);
            }
        }
        Ok(_) => discard(&overlays)?,
        Err(error) => {
            discard(&overlays)?;
            left(&format!("the disks cannot be changed ({error})"));
        }
    }
    Ok(())
}

/// Whether the names by which the installed system finds its disks mean the same in the VM.
pub(super) fn names_stay(machine: &Machine, plan: &VmPlan, options: &Options) -> bool {
    Wanted::new(machine, plan, options).places.is_empty()
}

/// Makes an overlay beside each image.
fn overlays(plan: &VmPlan, dir: &OutDir) -> Result<Vec<PathBuf>> {
    let mut overlays = Vec::new();
    for disk in &plan.disks {
        let overlay = dir.partial.join(disk.file.with_extension("changed.qcow2"));
        let doing = || format!("making the overlay {}", overlay.display());
        let output = Command::new("qemu-img")
            .args(["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b"])
            // By its name only: the folder may be moved.
            .arg(&disk.file)
            .arg(&overlay)
            .current_dir(&dir.partial)
            .output()
            .map_err(|e| Error::io(doing(), e))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(Error::new(Kind::Io, doing()).because(said));
        }
        overlays.push(overlay);
    }
    Ok(overlays)
}

fn discard(overlays: &[PathBuf]) -> Result<()> {
    for overlay in overlays {
        std::fs::remove_file(overlay)
            .map_err(|e| Error::io(format!("removing {}", overlay.display()), e))?;
    }
    Ok(())
}

/// `changes.txt`
fn list(plan: &VmPlan, done: &[String]) -> String {
    let mut text = String::from(
        "What haulier import changed for this VM. The changes lie in overlays (*.changed.qcow2);\n\
         the disks below them are as they were captured, and the capture itself is untouched.\n\n",
    );
    for line in done {
        text += &format!("- {line}\n");
    }
    text += "\nTo undo all of it: import again with --unchanged, or put the disk in the overlay's place\n\
             in the VM's configuration:\n";
    for disk in &plan.disks {
        let overlay = disk.file.with_extension("changed.qcow2");
        text += &format!("  {} -> {}\n", name(&overlay), name(&disk.file));
    }
    text
}

fn name(path: &Path) -> String {
    path.file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default()
}
