//! Disks for targets that take one file a disk. In: the images as they were captured, and the overlays over
//! them in which the installed system was changed for its VM. Out: in each image's place one that holds both.

use super::{Capture, Options, OutDir, changes};
use crate::device::Disk;
use crate::error::{Error, Kind, Result};
use crate::inventory::DiskBoot;
use crate::qcow2::Reader;
use crate::report::Report;
use crate::say;
use crate::vm::{DiskBus, VmPlan};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What was changed, which `changes` writes.
const LIST: &str = "changes.txt";

/// Changes what the system on the copied disks needs to be the VM of `plan`, whose disks the target puts
/// on these `buses`, and makes one image of each disk again. Returns how each disk is started then.
pub(super) fn apply(
    capture: &Capture<'_>,
    plan: &VmPlan,
    buses: &[DiskBus],
    dir: &OutDir,
    options: &Options,
    report: &dyn Report,
) -> Result<Vec<Option<DiskBoot>>> {
    let originals: Vec<PathBuf> = plan.disks.iter().map(|disk| disk.file.clone()).collect();
    let mut plan = plan.clone();
    for (disk, bus) in plan.disks.iter_mut().zip(buses) {
        disk.bus = *bus;
    }
    changes::apply(&capture.machine, &mut plan, dir, options, report)?;
    if !flatten(&mut plan, &originals, dir, report)? {
        return Ok(capture.boots.clone());
    }
    let disks = capture.manifest.disks.iter().zip(&originals);
    Ok(disks
        .map(|(record, file)| {
            let image = Reader::open(Disk::open(&dir.partial.join(file)).ok()?).ok()?;
            DiskBoot::look(&image, record.source.logical_sector_bytes).ok()
        })
        .collect())
}

/// Puts each overlay and the image below it into the image's place; `false` where there is none.
fn flatten(
    plan: &mut VmPlan,
    originals: &[PathBuf],
    dir: &OutDir,
    report: &dyn Report,
) -> Result<bool> {
    let mut any = false;
    for (disk, original) in plan.disks.iter_mut().zip(originals) {
        if disk.file == *original {
            continue;
        }
        any = true;
        let overlay = dir.partial.join(&disk.file);
        let image = dir.partial.join(original);
        let flat = image.with_extension("flat");
        merge(&overlay, &flat)?;
        fs::rename(&flat, &image)
            .and_then(|()| fs::remove_file(&overlay))
            .map_err(|e| Error::io(format!("putting {} in place", image.display()), e))?;
        disk.file.clone_from(original);
        say!(report, "{} holds the changes now", original.display());
    }
    if any {
        retell(&dir.partial.join(LIST))?;
    }
    Ok(any)
}

fn merge(overlay: &Path, flat: &Path) -> Result<()> {
    let doing = || {
        format!(
            "making one image of {} and the one below it",
            overlay.display()
        )
    };
    let output = Command::new("qemu-img")
        .args(["convert", "-c", "-f", "qcow2", "-O", "qcow2"])
        .args(["-o", "compression_type=zstd"])
        .args([overlay, flat])
        .env("LC_ALL", "C")
        .output()
        .map_err(|e| Error::io(doing(), e))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(Error::new(Kind::Io, doing()).because(said))
}

/// There are no overlays any more that the list of changes could speak of.
fn retell(list: &Path) -> Result<()> {
    let on_list = |e: std::io::Error| Error::io(format!("rewriting {}", list.display()), e);
    let text = match fs::read_to_string(list) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(on_list(e)),
    };
    let mut told = String::from(
        "What haulier import changed for this VM. The capture is untouched: import it again with \
         --unchanged for\ndisks without these changes.\n\n",
    );
    for line in text.lines().filter(|line| line.starts_with("- ")) {
        told += line;
        told.push('\n');
    }
    fs::write(list, told).map_err(on_list)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inventory::Machine;
    use crate::report::Recorder;
    use crate::vm::VmDisk;
    use serde_json::json;

    fn tool(dir: &Path, program: &str, args: &[&str]) -> String {
        let output = Command::new(program).args(args).current_dir(dir).output();
        let output = output.unwrap_or_else(|e| panic!("{program} is needed: {e}"));
        assert!(output.status.success(), "{program} {args:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    #[test]
    fn an_overlay_and_its_image_become_one_image_in_the_images_place() {
        let folder = tempfile::tempdir().unwrap();
        let dir = OutDir::begin(&folder.path().join("vm"), 0).unwrap();
        let at = dir.partial.clone();
        for file in ["disk-0.qcow2", "disk-1.qcow2"] {
            tool(
                &at,
                "qemu-img",
                &["create", "-q", "-f", "qcow2", file, "4M"],
            );
            tool(
                &at,
                "qemu-io",
                &["-f", "qcow2", "-c", "write -P 1 0 64k", file],
            );
        }
        let over = ["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b"];
        let changed = "disk-1.changed.qcow2";
        tool(
            &at,
            "qemu-img",
            &[&over[..], &["disk-1.qcow2", changed]].concat(),
        );
        tool(
            &at,
            "qemu-io",
            &["-f", "qcow2", "-c", "write -P 2 1M 64k", changed],
        );
        fs::write(
            at.join(LIST),
            "The changes lie in overlays\n\n- one\n- two\n\nTo undo\n",
        )
        .unwrap();
        let machine = json!({"version": 2, "name": "m"}).to_string();
        let machine = Machine::from_json(machine.as_bytes()).unwrap();
        let source: crate::device::DiskIdentity = serde_json::from_value(json!({
            "path": "/dev/sda", "size_bytes": 4 << 20, "logical_sector_bytes": 512,
            "physical_sector_bytes": 512, "model": null, "serial": null, "wwn": null,
        }))
        .unwrap();
        let originals: Vec<PathBuf> = vec!["disk-0.qcow2".into(), "disk-1.qcow2".into()];
        let disks: Vec<VmDisk> = ["disk-0.qcow2", changed]
            .map(|file| VmDisk {
                file: file.into(),
                source: source.clone(),
            })
            .into();
        let mut plan = VmPlan::new(&machine, &disks);
        assert!(flatten(&mut plan, &originals, &dir, &Recorder::default()).unwrap());
        assert_eq!(plan.disks[1].file, originals[1]);
        let info = tool(&at, "qemu-img", &["info", "--output=json", "disk-1.qcow2"]);
        assert!(!info.contains("backing"), "{info}");
        for read in ["read -P 1 0 64k", "read -P 2 1M 64k", "read -P 0 2M 2M"] {
            tool(&at, "qemu-io", &["-f", "qcow2", "-c", read, "disk-1.qcow2"]);
        }
        assert!(!at.join(changed).exists() && !at.join("disk-1.flat").exists());
        let list = fs::read_to_string(at.join(LIST)).unwrap();
        assert!(
            list.ends_with("\n\n- one\n- two\n") && !list.contains("overlays"),
            "{list}"
        );
        // Nothing is left to do.
        assert!(!flatten(&mut plan, &originals, &dir, &Recorder::default()).unwrap());
    }
}
