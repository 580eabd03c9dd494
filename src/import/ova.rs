//! One file for everything that reads OVF: a tar archive (ustar) of the descriptor, the digests and
//! the disks as streamOptimized VMDKs, in that order (DSP0243 1.1, section 5.3). The disks are converted
//! by qemu-img, from copies that were proven.

use super::grown::{Growth, MIB, copy_changed};
use super::{Capture, Options, OutDir};
use crate::error::{Error, Kind, Result};
use crate::report::Report;
use crate::say;
use crate::vm::{ovf, without_variables};
use sha2::Digest as _;
use std::fs::{self, File};
use std::io::Read as _;
use std::path::Path;
use std::process::Command;

/// The program that makes VMDKs.
const QEMU_IMG: &str = "qemu-img";
/// Bytes that are hashed at a time.
const PIECE_BYTES: usize = 1 << 20;

pub(super) fn import(capture: &Capture<'_>, options: &Options, report: &dyn Report) -> Result<()> {
    refuse_without_qemu_img()?;
    let mut plan = capture.plan.clone();
    let growth = Growth::plan(capture, &mut plan, options.pad.then_some(MIB), report)?;
    // The images, the VMDKs and the archive of them, of which only the last stays.
    let bytes = capture.bytes().saturating_mul(3);
    let dir = OutDir::begin(&options.folder(&plan), bytes)?;
    capture.say_notes(report);
    // Names of disks and drivers are those of the buses that the target has.
    let there = plan.clone().on_buses(&ovf::buses(&plan));
    copy_changed(capture, &growth, there, &dir, options, report)?;
    let mut members = Vec::new();
    let mut sizes = Vec::new();
    for (disk, record) in plan.disks.iter_mut().zip(&capture.manifest.disks) {
        disk.file = Path::new(&record.file).with_extension("vmdk");
        let image = dir.partial.join(&record.file);
        let vmdk = dir.partial.join(&disk.file);
        report.begin(
            &format!("converting {}", disk.file.display()),
            record.extents.total(),
        );
        let result = convert(&image, &vmdk);
        report.end();
        result?;
        fs::remove_file(&image)
            .map_err(|e| Error::io(format!("removing {}", image.display()), e))?;
        let (size, sha256) = digest(&vmdk)?;
        sizes.push(size);
        members.push((disk.file.clone(), sha256));
    }
    let files = ovf::files(&plan, &sizes);
    capture.say_others(&files.notes, report);
    if !options.fallback_loader {
        capture.say_others(
            without_variables(&plan, &capture.boots, "an OVA").as_slice(),
            report,
        );
    }
    let descriptor = format!("{}.ovf", plan.name);
    let mut digests = format!(
        "SHA256({descriptor})= {}\n",
        hex(&sha2::Sha256::digest(&files.descriptor))
    );
    for (name, sha256) in &members {
        digests += &format!("SHA256({})= {sha256}\n", name.display());
    }
    let name = format!("{}.ova", plan.name);
    report.begin(
        &format!("packing {name}"),
        crate::units::ByteLen(sizes.iter().sum()),
    );
    let names: Vec<_> = members.iter().map(|(name, _)| name.as_path()).collect();
    let small = [
        (descriptor, files.descriptor.as_bytes()),
        (format!("{}.mf", plan.name), digests.as_bytes()),
    ];
    let result = pack(&dir.partial, &name, &small, &names);
    report.end();
    result?;
    for name in names {
        let vmdk = dir.partial.join(name);
        fs::remove_file(&vmdk).map_err(|e| Error::io(format!("removing {}", vmdk.display()), e))?;
    }
    let whole = dir.commit()?;
    say!(report, "It is in {}", whole.join(name).display());
    Ok(())
}

fn refuse_without_qemu_img() -> Result<()> {
    match Command::new(QEMU_IMG).arg("--version").output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(Error::refused(format!("{QEMU_IMG} does not run: {}", output.status))),
        Err(error) => Err(Error::refused(format!(
            "the program {QEMU_IMG} is not installed on this machine, and an OVA needs it for its disks"
        ))
        .because(error)
        .advise("Install it (package qemu-utils; Fedora: qemu-img)")),
    }
}

fn convert(image: &Path, vmdk: &Path) -> Result<()> {
    let doing = || format!("converting {} with {QEMU_IMG}", image.display());
    let output = Command::new(QEMU_IMG)
        .args([
            "convert",
            "-f",
            "qcow2",
            "-O",
            "vmdk",
            "-o",
            "subformat=streamOptimized",
        ])
        .args([image, vmdk])
        .env("LC_ALL", "C")
        .output()
        .map_err(|e| Error::io(doing(), e))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(Error::new(Kind::Io, doing()).because(said))
}

/// Size and SHA-256 of a file.
fn digest(path: &Path) -> Result<(u64, String)> {
    let reading = |e: std::io::Error| Error::io(format!("reading {}", path.display()), e);
    let mut file = File::open(path).map_err(reading)?;
    let mut hasher = sha2::Sha256::new();
    let mut piece = vec![0; PIECE_BYTES];
    let mut size = 0_u64;
    loop {
        let got = file.read(&mut piece).map_err(reading)?;
        let Some(bytes) = piece.get(..got).filter(|bytes| !bytes.is_empty()) else {
            return Ok((size, hex(&hasher.finalize())));
        };
        hasher.update(bytes);
        size = size.saturating_add(u64::try_from(got).unwrap_or(0));
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Writes the archive from small files and from those that lie in `folder`. The size of a member of 8 GiB or
/// more has no room in ustar's digits: it is written in base 256, as GNU tar does.
fn pack(folder: &Path, name: &str, small: &[(String, &[u8])], disks: &[&Path]) -> Result<()> {
    let path = folder.join(name);
    let packing = |e: std::io::Error| Error::io(format!("writing {}", path.display()), e);
    let file = File::create_new(&path).map_err(packing)?;
    let mut archive = tar::Builder::new(file);
    let header = |size: u64| {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(tar::EntryType::Regular);
        header.set_mode(0o644);
        header.set_size(size);
        header
    };
    for (name, bytes) in small {
        let size = u64::try_from(bytes.len()).unwrap_or(0);
        archive
            .append_data(&mut header(size), name, *bytes)
            .map_err(packing)?;
    }
    for name in disks {
        let disk = folder.join(name);
        let file =
            File::open(&disk).map_err(|e| Error::io(format!("opening {}", disk.display()), e))?;
        let size = file.metadata().map_err(packing)?.len();
        archive
            .append_data(&mut header(size), name, file)
            .map_err(packing)?;
    }
    archive
        .into_inner()
        .and_then(|file| file.sync_all())
        .map_err(packing)
}
