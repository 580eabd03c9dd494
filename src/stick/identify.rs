//! Which disk we booted from, for certain: GRUB puts the partition GUID of the ESP that it was
//! loaded from on the kernel command line, and exactly one disk carries it.
//!
//! Not by size, order, name or "removable": internal SD modules and BMC media are that too.

#![forbid(unsafe_code)]

use super::cmdline::Cmdline;
use super::disks::{self, WholeDisk};
use super::renamed::{self, Wanted};
use super::table::{Copies, Geometry, Table};
use crate::device::{DiskIdentity, ioctl, sysfs};
use crate::error::{Error, Kind, Result};
use crate::units::ByteLen;
use rustix::fs::{FileType, Mode, OFlags};
use std::fs::File;
use std::path::Path;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};
use uuid::Uuid;

/// How long PID 1 gets to write-protect a stick that came back.
const GRACE: Duration = Duration::from_secs(2);

/// The parameter that GRUB adds.
const PARAMETER: &str = "haulier.boot";

/// The GUIDs by which the stick's table is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Guids {
    pub(super) disk: Uuid,
    pub(super) esp: Uuid,
    pub(super) esp_number: u32,
}

/// What a stick is to this run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// The server booted from it.
    Booted,
    /// A capture goes on on it.
    Further,
}

/// The disk that we booted from, or a further stick. Only [`identify`], [`super::further()`] and
/// [`Stick::find_again`] make one, so holding it is the proof; what writes proves it again on the open
/// device.
#[derive(Debug)]
pub struct Stick {
    disk: WholeDisk,
    role: Role,
    /// They change once, when the data partition is made.
    guids: Mutex<Guids>,
}

/// The partition GUID of the ESP that we booted from, as the kernel command line tells it.
///
/// # Errors
/// `Refused` when this kernel was not booted from a Haulier stick.
pub fn boot_partuuid() -> Result<Uuid> {
    named_by(&Cmdline::of_this_kernel()?)
}

fn named_by(cmdline: &Cmdline) -> Result<Uuid> {
    let advice = "Boot this server from a Haulier stick by its own boot menu";
    let text = cmdline.value(PARAMETER).ok_or_else(|| {
        Error::refused(format!(
            "the kernel command line has no {PARAMETER}=: this system was not booted from a stick"
        ))
        .advise(advice)
    })?;
    Uuid::try_parse(text).map_err(|e| {
        Error::refused(format!(
            "{PARAMETER}={text} on the kernel command line is no partition GUID"
        ))
        .because(e)
        .advise(advice)
    })
}

/// Finds and proves the stick.
///
/// # Errors
/// `Refused` when no disk carries the identity, or more than one: the sentence names the disks.
pub fn identify() -> Result<Stick> {
    let wanted = Wanted::read(Path::new(renamed::PATH), boot_partuuid()?)?;
    choose(wanted, candidates()?)
}

/// Whether a disk with the stick's identity is there already; `identify` says which and if it is
/// the only one. For waiting while USB devices appear.
pub fn is_present() -> bool {
    match identify() {
        Ok(_) => true,
        // Two are as good as one here: more waiting does not help.
        Err(error) => error.to_string().contains(TWO_STICKS),
    }
}

const TWO_STICKS: &str = "more than one disk carries the identity of the stick";

/// A disk and the table on it, or why that could not be read.
#[derive(Debug)]
pub(super) struct Candidate {
    pub(super) disk: WholeDisk,
    pub(super) copies: Result<Copies, String>,
}

impl Candidate {
    pub(super) fn table(&self) -> Option<&Table> {
        self.copies.as_ref().ok()?.table()
    }

    fn guids(&self, esp: Uuid) -> Option<Guids> {
        let table = self.table()?;
        let (esp_number, partition) = table.by_guid(esp)?;
        (partition.part_type_guid.guid == gpt::partition_types::EFI.guid).then_some(Guids {
            disk: table.disk_guid,
            esp,
            esp_number,
        })
    }
}

/// Every whole disk with its table. Opens for reading only and changes nothing, not even the
/// kernel's read-only flag: the stick may be mounted when the program is started again.
pub(super) fn candidates() -> Result<Vec<Candidate>> {
    let disks = disks::whole_disks()?.into_iter();
    Ok(disks.map(candidate).collect())
}

fn candidate(disk: WholeDisk) -> Candidate {
    let copies = Geometry::of(&disk.identity)
        .and_then(|geometry| Ok((geometry, open(&disk, OFlags::RDONLY)?)))
        .map(|(geometry, mut file)| Copies::read(&mut file, geometry))
        .map_err(|e| e.to_string());
    Candidate { disk, copies }
}

fn choose(wanted: Wanted, candidates: Vec<Candidate>) -> Result<Stick> {
    let carries = |esp: Uuid| candidates.iter().any(|c| c.guids(esp).is_some());
    let esp = match wanted.before {
        Some(before) if !carries(wanted.now) => before,
        _ => wanted.now,
    };
    let (mut ours, others): (Vec<_>, Vec<_>) = candidates
        .into_iter()
        .map(|candidate| (candidate.guids(esp), candidate))
        .partition(|(guids, _)| guids.is_some());
    match (ours.pop(), ours.is_empty()) {
        (Some((Some(guids), candidate)), true) => {
            Ok(Stick::new(candidate.disk, guids, Role::Booted))
        }
        (Some((_, last)), false) => {
            let mut names: Vec<_> = ours
                .iter()
                .map(|(_, c)| c.disk.identity.describe())
                .collect();
            names.push(last.disk.identity.describe());
            Err(Error::refused(format!(
                "{TWO_STICKS} that this server booted from (partition {esp}): {}",
                names.join(" and ")
            ))
            .advise(
                "They were written from one image and none has been used yet. Leave only one of them \
                 plugged in, then go back to the start with Enter; the others can be put in when \
                 the capture asks for them",
            ))
        }
        _ => Err(Error::refused(format!(
            "no disk carries the identity of the stick that this server booted from (partition \
             {esp}). Seen: {}",
            seen(&others)
        ))
        .advise("Plug the stick in again, in another USB port if it was in one, or restart")),
    }
}

fn seen(candidates: &[(Option<Guids>, Candidate)]) -> String {
    if candidates.is_empty() {
        return "no disk at all".into();
    }
    let names: Vec<_> = candidates
        .iter()
        .map(|(_, candidate)| match &candidate.copies {
            Ok(_) => candidate.disk.identity.describe(),
            Err(why) => format!(
                "{}, not readable: {why}",
                candidate.disk.identity.describe()
            ),
        })
        .collect();
    names.join("; ")
}

/// Opens the device node and makes sure that it still is this disk.
fn open(disk: &WholeDisk, flags: OFlags) -> Result<File> {
    let path = &disk.identity.path;
    let opening = |e| Error::io("opening", e).on(disk.identity.describe());
    let flags = flags | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
    let fd = rustix::fs::open(path, flags, Mode::empty()).map_err(opening)?;
    let stat = rustix::fs::fstat(&fd).map_err(opening)?;
    let is_block_device = FileType::from_raw_mode(stat.st_mode) == FileType::BlockDevice;
    if !is_block_device || stat.st_rdev != disk.devnum {
        return Err(Error::new(
            Kind::Vanished,
            format!(
                "{} is no longer {}",
                path.display(),
                disk.identity.describe()
            ),
        ));
    }
    Ok(File::from(fd))
}

impl Stick {
    pub(super) fn new(disk: WholeDisk, guids: Guids, role: Role) -> Self {
        Self {
            disk,
            role,
            guids: Mutex::new(guids),
        }
    }

    pub(super) fn role(&self) -> Role {
        self.role
    }

    /// What it is: path, model, serial, size.
    pub fn identity(&self) -> &DiskIdentity {
        &self.disk.identity
    }

    /// `/dev/sdb (SanDisk Ultra, serial 4C53, 31.9 GB)`
    pub fn describe(&self) -> String {
        self.disk.identity.describe()
    }

    /// Whether this device number is the stick's (the whole disk, not one of its partitions).
    pub fn is_this(&self, devnum: u64) -> bool {
        self.disk.devnum == devnum
    }

    /// GUID of the stick's partition table.
    pub fn disk_guid(&self) -> Uuid {
        self.guids().disk
    }

    /// Unique partition GUID of the ESP that we booted from.
    pub fn esp_partuuid(&self) -> Uuid {
        self.guids().esp
    }

    /// Size of the whole stick.
    pub fn size(&self) -> ByteLen {
        ByteLen(self.disk.identity.size_bytes)
    }

    /// Whether it is still plugged in, and is still the one that it was.
    pub fn is_there(&self) -> bool {
        self.open_to_read().is_ok()
    }

    pub(super) fn guids(&self) -> MutexGuard<'_, Guids> {
        self.guids.lock().unwrap_or_else(|e| e.into_inner())
    }

    pub(super) fn disk(&self) -> &WholeDisk {
        &self.disk
    }

    /// The open device still is the stick: its number, its disk GUID and its ESP's GUID. A pulled
    /// stick's device number may meanwhile belong to another.
    pub(super) fn prove_on(&self, file: &mut File) -> Result<Copies> {
        let copies = Copies::read(file, Geometry::of(self.identity())?);
        let guids = *self.guids();
        let is_ours =
            |table: &Table| table.disk_guid == guids.disk && table.by_guid(guids.esp).is_some();
        if copies.table().is_some_and(is_ours) {
            return Ok(copies);
        }
        Err(Error::refused(format!(
            "{} no longer carries the stick's identity (disk {}, partition {}); nothing was written",
            self.describe(),
            guids.disk,
            guids.esp
        ))
        .advise("Plug the same stick in again"))
    }

    /// Opens the stick for writing: the only place of the program where a disk is. Nobody else may
    /// use it meanwhile, and as long as the file is open, its device number and name cannot pass
    /// to another disk.
    ///
    /// # Errors
    /// `Refused` when it is another disk now, is in use or is write-protected.
    pub(super) fn open_to_write(&self) -> Result<(File, Copies)> {
        // Proven before its write protection is lifted, and again on the file that will be written.
        self.open_to_read()?;
        self.set_writable()?;
        let mut file = open(&self.disk, OFlags::RDWR | OFlags::EXCL)?;
        let copies = self.prove_on(&mut file)?;
        Ok((file, copies))
    }

    /// Opens the stick for reading.
    pub(super) fn open_to_read(&self) -> Result<File> {
        let mut file = open(&self.disk, OFlags::RDONLY)?;
        self.prove_on(&mut file)?;
        Ok(file)
    }

    /// Lifts the write protection that PID 1 sets on every disk, from the stick alone.
    pub(super) fn set_writable(&self) -> Result<()> {
        let file = open(&self.disk, OFlags::RDONLY)?;
        ioctl::set_read_only(&file, false)
            .map_err(|e| Error::io("making the stick writable", e).on(self.describe()))?;
        // What the device itself says stays: a switch on its side, a worn-out flash chip.
        if ioctl::is_read_only(&file).unwrap_or(false) || self.is_protected() {
            return Err(
                Error::refused(format!("{} is write-protected", self.describe())).advise(
                    "Flip the switch on its side or use another stick: worn-out ones protect \
                 themselves",
                ),
            );
        }
        Ok(())
    }

    /// Waits until the stick, pulled and put back, is there again; perhaps by another device name.
    ///
    /// # Errors
    /// `Vanished` when it has not come back in time; `Refused` when two disks claim to be it.
    pub fn find_again(&self, timeout: Duration) -> Result<Self> {
        let until = Instant::now() + timeout;
        let mut seen_since = None;
        loop {
            let back = match self.look_again() {
                Ok(back) => back,
                Err(error) if error.kind() == Kind::Refused => return Err(error),
                // Disks come and go right now: look once more.
                Err(_) => None,
            };
            if let Some(stick) = back {
                // PID 1 of the appliance write-protects every disk that appears. If the stick is
                // not protected yet, lifting that now would be undone: let PID 1 go first.
                let since = *seen_since.get_or_insert_with(Instant::now);
                if stick.disk == self.disk || stick.is_protected() || since.elapsed() > GRACE {
                    return Ok(stick);
                }
            } else if Instant::now() >= until {
                return Err(Error::new(
                    Kind::Vanished,
                    format!(
                        "the stick {} is gone and did not come back within {} seconds",
                        self.describe(),
                        timeout.as_secs()
                    ),
                )
                .advise("Plug the same stick in again; any USB port will do"));
            }
            std::thread::sleep(Duration::from_millis(250));
        }
    }

    /// PID 1 of the appliance write-protects every disk that appears. Lifting that of a stick that was
    /// just plugged in would be undone: lets PID 1 go first.
    pub(super) fn wait_for_protection(&self) {
        let until = Instant::now() + GRACE;
        while !self.is_protected() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn is_protected(&self) -> bool {
        sysfs::attribute(&self.disk.sysfs.join("ro")).as_deref() == Some("1")
    }

    fn look_again(&self) -> Result<Option<Self>> {
        let guids = *self.guids();
        let serial = &self.disk.identity.serial;
        let ours: Vec<_> = candidates()?
            .into_iter()
            .filter(|c| c.disk.identity.serial == *serial && c.guids(guids.esp) == Some(guids))
            .collect();
        if ours.is_empty() {
            return Ok(None);
        }
        let wanted = Wanted {
            now: guids.esp,
            before: None,
        };
        let mut stick = choose(wanted, ours)?;
        stick.role = self.role;
        Ok(Some(stick))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{MIB, StickImage};
    use super::*;
    use crate::units::SectorSize;

    fn candidate_of(image: &StickImage, name: &str) -> Candidate {
        let size_bytes = image.open().metadata().unwrap().len();
        Candidate {
            disk: WholeDisk {
                identity: DiskIdentity {
                    path: Path::new("/dev").join(name),
                    model: Some("SanDisk Ultra".into()),
                    serial: Some(format!("serial-of-{name}")),
                    wwn: None,
                    size_bytes,
                    logical_sector_bytes: SectorSize::B512,
                    physical_sector_bytes: SectorSize::B512,
                },
                devnum: 0,
                sequence: None,
                sysfs: name.into(),
            },
            copies: Ok(Copies::read(&mut image.open(), image.geometry())),
        }
    }

    fn esp_of(image: &StickImage) -> Uuid {
        let copies = Copies::read(&mut image.open(), image.geometry());
        copies.table().unwrap().partitions[&1].part_guid
    }

    fn only(now: Uuid) -> Wanted {
        Wanted { now, before: None }
    }

    #[test]
    fn the_disk_with_the_esp_is_the_stick_whatever_its_order() {
        let stick = StickImage::new(512 * MIB);
        let other = StickImage::new(98 * MIB).with_other_guids();
        let disks = vec![candidate_of(&other, "sda"), candidate_of(&stick, "sdb")];
        let found = choose(only(esp_of(&stick)), disks).unwrap();
        assert_eq!(found.identity().path, Path::new("/dev/sdb"));
        assert_eq!(found.esp_partuuid(), esp_of(&stick));
    }

    #[test]
    fn two_twins_are_refused_with_both_names() {
        let stick = StickImage::new(512 * MIB);
        let disks = vec![candidate_of(&stick, "sdb"), candidate_of(&stick, "sdc")];
        let error = choose(only(esp_of(&stick)), disks).unwrap_err();
        assert_eq!(error.kind(), Kind::Refused);
        let text = error.to_string();
        for part in ["/dev/sdb", "serial-of-sdb", "/dev/sdc", "serial-of-sdc"] {
            assert!(text.contains(part), "{text}");
        }
        assert!(text.contains(TWO_STICKS), "{text}");
    }

    #[test]
    fn without_the_stick_the_disks_seen_are_named() {
        let other = StickImage::new(98 * MIB);
        let mut unreadable = candidate_of(&other, "sdd");
        unreadable.copies = Err("opening: No medium found".into());
        let disks = vec![candidate_of(&other, "sda"), unreadable];
        let error = choose(only(Uuid::from_u128(1)), disks).unwrap_err();
        assert_eq!(error.kind(), Kind::Refused);
        let text = error.to_string();
        assert!(text.contains("serial serial-of-sda"), "{text}");
        assert!(text.contains("/dev/sdd"), "{text}");
        assert!(text.contains("No medium found"), "{text}");

        let error = choose(only(Uuid::from_u128(1)), Vec::new()).unwrap_err();
        assert!(error.to_string().contains("no disk at all"), "{error}");
    }

    #[test]
    fn a_damaged_primary_table_still_proves_the_stick() {
        let stick = StickImage::new(98 * MIB);
        let esp = esp_of(&stick);
        stick.patch(512, &[0; 512]);
        choose(only(esp), vec![candidate_of(&stick, "sdb")]).unwrap();
    }

    #[test]
    fn a_partition_with_the_guid_that_is_no_esp_proves_nothing() {
        let stick = StickImage::new(98 * MIB);
        stick.sgdisk(&["--typecode=1:8300"]);
        choose(only(esp_of(&stick)), vec![candidate_of(&stick, "sdb")]).unwrap_err();
    }

    #[test]
    fn once_renamed_a_twin_with_the_old_name_is_not_the_stick() {
        let twin = StickImage::new(98 * MIB);
        let ours = StickImage::new(98 * MIB).with_other_guids();
        let disks = || vec![candidate_of(&twin, "sda"), candidate_of(&ours, "sdb")];
        let planned = Wanted {
            now: esp_of(&ours),
            before: Some(esp_of(&twin)),
        };
        let found = choose(planned, disks()).unwrap();
        assert_eq!(found.identity().path, Path::new("/dev/sdb"));
        // Not yet written: the old name still is ours.
        let found = choose(planned, vec![candidate_of(&twin, "sda")]).unwrap();
        assert_eq!(found.identity().path, Path::new("/dev/sda"));
        // Written: it is not.
        choose(only(esp_of(&ours)), vec![candidate_of(&twin, "sda")]).unwrap_err();
    }

    #[test]
    fn a_command_line_without_a_stick_is_refused() {
        for line in [
            "quiet",
            "haulier.boot",
            "haulier.boot=",
            "haulier.boot=1234-01",
        ] {
            let error = named_by(&Cmdline::parse(line)).unwrap_err();
            assert_eq!(error.kind(), Kind::Refused, "{line}");
            assert!(error.to_string().contains("haulier.boot"), "{error}");
        }
    }
}
