//! A capture becomes a VM. In: the files of a whole capture and the name of a target. Out: the
//! disks, copied and proven on the way, with the target's configuration beside them
//! (docs/import.md).
//!
//! Everything that can be refused is refused before the first disk is copied; what is copied lies in
//! a folder ending in `.partial` until it is whole.

mod changes;
mod find;
mod flat;
mod grown;
mod kubevirt;
mod libvirt;
mod openstack;
mod out;
mod ova;
mod pieces;
mod proxmox;
mod qemu;
mod raw;

use crate::device::ReadAt;
use crate::error::{Error, Kind, Result};
use crate::inventory::{DiskBoot, FirmwareKind, Machine, SystemKind};
use crate::qcow2::Reader;
use crate::report::{Progress, Report};
use crate::store::{CaptureFiles, Digest, DiskRecord, FileDigest, Manifest};
use crate::units::{ByteLen, ByteOffset};
use crate::vm::{DiskBus, Profile, VmDisk, VmPlan, printable};
use crate::{say, warn};
use sha2::Digest as _;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

pub use find::find;

use out::OutDir;
use pieces::Pieces;

/// The inventory of a capture.
const MACHINE: &str = "machine.json";
/// The variable store that is written beside the disks.
const VARS: &str = "VARS.fd";
/// The largest `machine.json` that is read: hundreds of PCI functions are some 100 KiB.
const LARGEST_MACHINE: ByteLen = ByteLen(64 << 20);
/// Bytes that are copied at a time.
const PIECE_BYTES: usize = 1 << 20;
/// What changes inside take: some kernels' initramfs, in overlays.
const ROOM_FOR_CHANGES: u64 = 512 << 20;
/// What besides the disks is written, generously.
const SMALL_FILES: u64 = 4 << 20;

/// What to make of a capture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Target {
    /// A folder with a script that runs the machine in QEMU
    Qemu,
    /// A domain of libvirt
    Libvirt,
    /// A folder with a script that makes the machine in OpenStack
    Openstack,
    /// A folder with a script that makes the machine on a Proxmox VE host
    Proxmox,
    /// A folder with manifests for KubeVirt and a script that uploads the disks
    Kubevirt,
    /// A file for VMware, VirtualBox and others that read OVF
    Ova,
    /// A folder with the disks as they are, for anything else
    Raw,
}

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Options {
    /// A capture, or a store with captures; several for one in parts, in any order.
    pub captures: Vec<PathBuf>,
    /// Which capture of a store: `machine` or `machine/capture`.
    pub pick: Option<String>,
    /// What to make of it.
    pub to: Target,
    /// The folder for the disks; must not exist, or be empty.
    pub out: Option<PathBuf>,
    /// libvirt's URI.
    pub connect: String,
    /// Name of the VM, if not the machine's.
    pub name: Option<String>,
    /// A random UUID for the VM instead of the machine's.
    pub new_uuid: bool,
    /// One kind of controller for all disks.
    pub disk_bus: Option<DiskBus>,
    /// Which hardware the VM has.
    pub profile: Profile,
    /// The disks stay as they were captured, whatever the system on them would need.
    pub unchanged: bool,
    /// The ESP gets the loader that firmware falls back to.
    pub fallback_loader: bool,
    /// What opens encrypted disks that are to be changed.
    pub key_files: Vec<PathBuf>,
    /// A firmware other than the one that the disks or the inventory tell of.
    pub firmware: Option<FirmwareKind>,
    /// Whether disks with a GPT grow to sizes that the target does not round, with their backup GPT.
    pub pad: bool,
}

impl Options {
    /// Where to put a folder that needs no place of its own.
    fn folder(&self, plan: &VmPlan) -> PathBuf {
        self.out
            .clone()
            .unwrap_or_else(|| PathBuf::from(&plan.name))
    }
}

/// Imports a capture.
///
/// # Errors
/// [`Kind::Refused`] before anything is written; [`Kind::Mismatch`] when a file of the capture is
/// not what its manifest says; whatever reading, writing and the target's own programs report.
pub fn run(options: &Options, report: &dyn Report) -> Result<()> {
    let parts = find(&options.captures, options.pick.as_deref())?;
    let capture = Capture::read(&parts, options)?;
    match options.to {
        Target::Qemu => qemu::import(&capture, options, report),
        Target::Libvirt => libvirt::import(&capture, options, report),
        Target::Openstack => openstack::import(&capture, options, report),
        Target::Proxmox => proxmox::import(&capture, options, report),
        Target::Kubevirt => kubevirt::import(&capture, options, report),
        Target::Ova => ova::import(&capture, options, report),
        Target::Raw => raw::import(&capture, options, report),
    }
}

/// A capture whose small files were read and checked.
struct Capture<'a> {
    files: &'a dyn CaptureFiles,
    machine: Machine,
    /// Room for what is changed inside, in bytes.
    changes_bytes: u64,
    /// Why the VM has the hardware that it has, where the import chose it.
    hardware: Option<String>,
    manifest: Manifest,
    /// With disks by their file names only.
    plan: VmPlan,
    /// How each disk is started, where that could be seen.
    boots: Vec<Option<DiskBoot>>,
    /// For each disk that lies in several images: all of them.
    merged: Vec<Option<Pieces>>,
}

impl<'a> Capture<'a> {
    /// Of all parts of one capture, mostly one.
    fn read(parts: &'a [Box<dyn CaptureFiles>], options: &Options) -> Result<Self> {
        let (files, manifest, merged) = pieces::read(parts)?;
        let json = files.read_small(MACHINE, LARGEST_MACHINE)?;
        let expected = manifest
            .files
            .iter()
            .find(|file| file.name == MACHINE)
            .ok_or_else(|| {
                Error::corrupt(format!("the manifest does not name {MACHINE}")).on(files.name())
            })?;
        let found = Digest(sha2::Sha256::digest(&json).into());
        let expected = FileDigest::Sha256(expected.sha256);
        check_digest(MACHINE, expected, FileDigest::Sha256(found))
            .map_err(|e| e.on(files.name()))?;
        let machine = Machine::from_json(&json).map_err(|e| e.on(files.name()))?;
        if manifest.disks.is_empty() {
            return Err(Error::refused("the capture has no disk").on(files.name()));
        }
        let mut disks: Vec<VmDisk> = Vec::new();
        for record in &manifest.disks {
            check_file_name(&record.file).map_err(|e| e.on(files.name()))?;
            if disks
                .iter()
                .any(|disk| disk.file == Path::new(&record.file))
            {
                return Err(
                    Error::corrupt(format!("the manifest names {} twice", record.file))
                        .on(files.name()),
                );
            }
            disks.push(VmDisk {
                file: record.file.clone().into(),
                source: record.source.clone(),
            });
        }
        // The images have the first word: a capture of an older program has no other, and one of
        // image files neither.
        let boots: Vec<Option<DiskBoot>> = manifest
            .disks
            .iter()
            .zip(&merged)
            .map(|(record, part)| {
                let sector = record.source.logical_sector_bytes;
                match part {
                    Some(part) => DiskBoot::look(&part.disk, sector).ok(),
                    None => {
                        let image = files.open(&record.file).and_then(Reader::open).ok()?;
                        DiskBoot::look(&image, sector).ok()
                    }
                }
            })
            .collect();
        let (seen, note) = machine.firmware_for(boots.iter().flatten());
        let firmware = options.firmware.unwrap_or(seen);
        let mut plan =
            VmPlan::with_firmware(&machine, &disks, firmware).with_loaders(boots.iter().flatten());
        if options.firmware.is_none() {
            plan.notes
                .extend(note.map(|note| format!("{note} (--firmware takes the other)")));
        }
        if firmware == FirmwareKind::Bios {
            let images = manifest.disks.iter().zip(&merged);
            plan = plan.with_boot_first(|disk| {
                let mut images = images.clone();
                let image = images.find(|(record, _)| disk.file == Path::new(&record.file));
                image.is_some_and(|(record, part)| match part {
                    Some(part) => has_boot_code(&part.disk),
                    None => files
                        .open(&record.file)
                        .and_then(Reader::open)
                        .is_ok_and(|image| has_boot_code(&image)),
                })
            });
        }
        if let Some(name) = &options.name {
            plan = plan.with_name(name)?;
        }
        if options.disk_bus.is_none() {
            plan = plan.on_reached_buses(&machine);
        }
        if options.new_uuid {
            plan = plan.with_new_uuid();
        }
        let systems = machine.installed.as_deref().unwrap_or_default();
        let chosen = plan.clone().with_profile(options.profile, systems);
        // Nobody asked for virtio: not where a table would have to be changed for it.
        let names_stay = changes::names_stay(&machine, &chosen, options);
        if options.profile != Profile::Auto || names_stay {
            plan = chosen;
        }
        let hardware = hardware(&plan, options, &machine, names_stay);
        if let Some(bus) = options.disk_bus {
            plan = plan.with_disk_bus(bus)?;
        }
        let changes_bytes = if changes::are_wanted(&machine, &plan, options) {
            ROOM_FOR_CHANGES
        } else {
            0
        };
        Ok(Self {
            files,
            machine,
            hardware,
            changes_bytes,
            manifest,
            plan,
            boots,
            merged,
        })
    }

    /// Bytes that the import writes.
    fn bytes(&self) -> u64 {
        let of_parts = |part: &Option<Pieces>| part.as_ref().map(|part| part.bytes);
        self.manifest.disks.iter().zip(&self.merged).fold(
            SMALL_FILES.saturating_add(self.changes_bytes),
            |sum, (disk, part)| sum.saturating_add(of_parts(part).unwrap_or(disk.file_bytes)),
        )
    }

    /// Says which hardware the VM has, and how it differs from the machine.
    fn say_notes(&self, report: &dyn Report) {
        if let Some(hardware) = &self.hardware {
            say!(report, "{hardware}");
        }
        for note in &self.plan.all_notes() {
            warn!(report, "{note}");
        }
    }

    /// Says what a target makes of it.
    fn say_others(&self, notes: &[String], report: &dyn Report) {
        for note in notes {
            warn!(report, "{note}");
        }
    }
}

/// What [`Profile::Auto`] chose, and why.
fn hardware(
    plan: &VmPlan,
    options: &Options,
    machine: &Machine,
    names_stay: bool,
) -> Option<String> {
    let systems = machine.installed.as_deref().unwrap_or_default();
    let first = systems.first()?;
    if options.profile != Profile::Auto || options.disk_bus.is_some() {
        return None;
    }
    let name = printable(first.name.as_deref().unwrap_or("the installed system"));
    let seen = || systems.iter().all(|system| plan.starts_on_virtio(system));
    Some(if plan.needs_virtio() {
        if !seen() {
            return None;
        }
        format!(
            "The VM has virtio disks and network cards: {name} has the drivers to start on them"
        )
    } else {
        let kinds = match plan.has_the_metals_buses(machine) {
            true => "the metal's kinds of disks and network cards",
            false => {
                "emulated disks and network cards of common kinds, the metal's own where there are such"
            }
        };
        let why = match (names_stay, first.kind) {
            (false, _) => {
                format!("{name} names disks by their place (--profile virtio changes that)")
            }
            (true, Some(SystemKind::Windows)) => format!("{name} is not seen to start on virtio"),
            (true, _) => format!(
                "{name} is not seen to start on virtio (--profile virtio gives a Linux the drivers)"
            ),
        };
        format!("The VM has {kinds}: {why}")
    })
}

/// Copies all disks; each is compared with its digest on the way.
fn copy_disks(capture: &Capture<'_>, out: &OutDir, report: &dyn Report) -> Result<()> {
    for (record, part) in capture.manifest.disks.iter().zip(&capture.merged) {
        if let Some(part) = part {
            merge_disk(part, record, out, report)?;
            continue;
        }
        report.begin(
            &format!("copying {}", record.file),
            ByteLen(record.file_bytes),
        );
        let result = copy_disk(capture.files, record, out, report);
        report.end();
        result?;
        say!(
            report,
            "{} is copied and its digest is right ({})",
            record.file,
            ByteLen(record.file_bytes)
        );
    }
    Ok(())
}

/// Makes one image of several; each chunk is compared with its digest on the way.
fn merge_disk(part: &Pieces, record: &DiskRecord, out: &OutDir, report: &dyn Report) -> Result<()> {
    report.begin(
        &format!("merging the images of {}", record.file),
        record.extents.total(),
    );
    let path = out.partial.join(&record.file);
    let result = flat::write(&part.disk, None, record.compression, &path, report);
    report.end();
    let bytes = result?;
    say!(
        report,
        "{} is merged out of {} images and all its {} chunks are what was read ({bytes})",
        record.file,
        part.disk.layers().len(),
        record.chunks.len()
    );
    Ok(())
}

fn copy_disk(
    files: &dyn CaptureFiles,
    record: &DiskRecord,
    out: &OutDir,
    report: &dyn Report,
) -> Result<()> {
    let source = files.open(&record.file)?;
    let size = source.size();
    if size != ByteLen(record.file_bytes) {
        return Err(Error::new(
            Kind::Mismatch,
            format!(
                "{} has {} bytes, the manifest says {}",
                record.file, size.0, record.file_bytes
            ),
        )
        .on(files.name()));
    }
    check_image(&*source, record)?;
    let path = out.partial.join(&record.file);
    let writing = |e: std::io::Error| Error::io(format!("writing {}", path.display()), e);
    let mut target = File::create_new(&path).map_err(writing)?;
    let expected = record.digest().map_err(|e| e.on(files.name()))?;
    let mut hasher = expected.hasher();
    let mut piece = vec![0; PIECE_BYTES];
    let mut at = 0_u64;
    while at < size.0 {
        let left = usize::try_from(size.0 - at).unwrap_or(PIECE_BYTES);
        let now = &mut piece[..left.min(PIECE_BYTES)];
        source.read_at(ByteOffset(at), now)?;
        hasher.update(now);
        target.write_all(now).map_err(writing)?;
        at += u64::try_from(now.len()).unwrap_or(0);
        report.progress(Progress {
            done: ByteLen(at),
            total: size,
            written: ByteLen(at),
        });
    }
    target.sync_all().map_err(writing)?;
    check_digest(&record.file, expected, hasher.finish()).map_err(|e| e.on(files.name()))
}

/// An image from a stranger must not make QEMU open other files of this host: no backing file, no
/// external data file. And it must be of the disk that the manifest speaks of.
fn check_image(source: &dyn ReadAt, record: &DiskRecord) -> Result<()> {
    let virtual_size = Reader::open(source)?.header().virtual_size;
    if virtual_size != ByteLen(record.virtual_size_bytes) {
        return Err(Error::new(
            Kind::Mismatch,
            format!(
                "{} is of a disk of {} bytes, the manifest says {}",
                record.file, virtual_size.0, record.virtual_size_bytes
            ),
        ));
    }
    Ok(())
}

/// Whether the disk's first sector is one that a BIOS starts: the signature 55AAh and code in front
/// of the partition table. An image that cannot be read is found out while copying.
fn has_boot_code(image: &dyn ReadAt) -> bool {
    let mut sector = [0; 512];
    image.read_at(ByteOffset(0), &mut sector).is_ok()
        && sector.ends_with(&[0x55, 0xaa])
        && sector[..440].iter().any(|b| *b != 0)
}

fn check_digest(name: &str, expected: FileDigest, found: FileDigest) -> Result<()> {
    if expected == found {
        return Ok(());
    }
    Err(Error::new(
        Kind::Mismatch,
        format!(
            "{name} is not what was captured: its {} is {found}, the manifest says {expected}",
            expected.kind()
        ),
    )
    .advise("Run haulier verify on the capture, and copy it again from the stick"))
}

/// The manifest may be a stranger's: a disk's name is a plain file name in the capture, and one
/// that is harmless in scripts and configurations.
fn check_file_name(name: &str) -> Result<()> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    if name.bytes().all(plain) && name.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        return Ok(());
    }
    Err(Error::corrupt(format!(
        "the manifest names a disk {name:?}, which is no name of a disk's file"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_leave_the_folder_or_end_a_word_are_refused() {
        for name in [
            "", "..", "../x", "a/b", "-x", "a b", "a'b", "a,b", "a\nb", "$(id)",
        ] {
            assert!(check_file_name(name).is_err(), "{name:?}");
        }
        assert!(check_file_name("disk-0.qcow2").is_ok());
    }
}
