//! The data partition in the file tree, and the answer file on the ESP.

#![forbid(unsafe_code)]

use super::content::{self, Content};
use super::format;
use super::identify::{Role, Stick};
use super::layout::State;
use super::partition::{self, Node};
use crate::error::{Error, Kind, Result};
use crate::report::Report;
use crate::say;
use crate::units::{ByteLen, ByteOffset};
use crate::volume::crypt::Secrets;
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Component, Path, PathBuf};

/// Where the data partition is mounted.
pub const STORE_PATH: &str = "/run/haulier/store";
/// Where that of a further stick is: the capture goes on there.
const FURTHER_PATH: &str = "/run/haulier/further";
const ESP_PATH: &str = "/run/haulier/esp";
const ANSWER_FILE: &str = "haulier.toml";
/// What every image has on its ESP: the digests of the system, and the system.
const SYSTEM_SUMS: &str = "slot-a/SHA256SUMS";
const SYSTEM_FILES: [&str; 2] = ["vmlinuz", "initrd.img"];
/// An answer file is a page or two; more is a mistake.
const LONGEST_ANSWERS: u64 = 64 << 10;

/// The stick's data partition, mounted.
#[derive(Debug)]
#[must_use = "unmount it, or the stick has to be checked next time"]
pub struct MountedStore {
    path: PathBuf,
    stick: String,
}

/// Room in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// What can still be written.
    pub free: ByteLen,
    /// Free and used.
    pub total: ByteLen,
}

/// Makes, formats, checks and mounts the data partition, whatever of that is still to be done. A
/// filesystem with captures is never formatted.
///
/// # Errors
/// `Refused` when the stick has no room, is write-protected or in use, or its third partition is
/// not ours; `Corrupt` when the filesystem needs a person to repair it.
pub fn open_store(stick: &Stick, report: &dyn Report) -> Result<MountedStore> {
    let path = Path::new(match stick.role() {
        Role::Booted => STORE_PATH,
        Role::Further => FURTHER_PATH,
    });
    let store = MountedStore {
        path: path.into(),
        stick: stick.describe(),
    };
    match mounted_device(path)? {
        Some(device) if is_data_partition(stick, device) => return Ok(store),
        // Of a stick that was pulled out: nothing can be saved through it any more.
        Some(_) => detach(path)?,
        None => {}
    }
    // While this is open, neither the number nor the name of the device can pass to another disk,
    // so the programs that get its name reach the stick or nothing.
    let _pin = stick.open_to_read()?;
    let (state, node) = partition::prepare(stick, report)?;
    match state {
        State::Made => make_ready(stick, &node, report)?,
        State::Absent | State::Begun => {
            make(stick, &node, report)?;
            partition::finish(stick)?;
        }
    }
    // Where nothing had to be prepared, the protection is lifted all the same.
    stick.set_writable()?;
    mount(&node.path, path, "ext4", MountFlags::NOATIME).map_err(|e| e.on(stick.describe()))?;
    Ok(store)
}

fn make(stick: &Stick, node: &Node, report: &dyn Report) -> Result<()> {
    say!(
        report,
        "Formatting the data partition of {}",
        stick.describe()
    );
    format::make(&node.path).map_err(|e| e.on(stick.describe()))?;
    open_node(node)
        .and_then(|file| {
            file.sync_all()
                .map_err(|e| Error::io("making the new filesystem last", e))
        })
        .map_err(|e| e.on(stick.describe()))
}

fn make_ready(stick: &Stick, node: &Node, report: &dyn Report) -> Result<()> {
    let content =
        content::read(&mut open_node(node)?, ByteOffset(0)).map_err(|e| e.on(stick.describe()))?;
    match content {
        Content::Ours { clean: true, .. } => Ok(()),
        Content::Ours { clean: false, .. } => {
            format::check(&node.path, report).map_err(|e| e.on(stick.describe()))
        }
        Content::Nothing => make(stick, node, report),
        Content::Other(what) => Err(Error::refused(format!(
            "the data partition {} holds {what}; Haulier does not overwrite it",
            node.path.display()
        ))
        .on(stick.describe())
        .advise("Save what it holds and write the image to the stick again, or use another stick")),
    }
}

fn open_node(node: &Node) -> Result<File> {
    let opening = |e| Error::io(format!("opening {}", node.path.display()), e);
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
    let fd = rustix::fs::open(&node.path, flags, Mode::empty()).map_err(opening)?;
    let stat = rustix::fs::fstat(&fd).map_err(opening)?;
    if FileType::from_raw_mode(stat.st_mode) == FileType::BlockDevice && stat.st_rdev == node.devnum
    {
        return Ok(fd.into());
    }
    Err(Error::new(
        Kind::Vanished,
        format!(
            "{} is no longer a partition of the stick",
            node.path.display()
        ),
    ))
}

fn is_data_partition(stick: &Stick, device: u64) -> bool {
    partition::node(stick, super::layout::DATA_NUMBER).is_ok_and(|node| node.devnum == device)
}

impl MountedStore {
    /// The folder in which captures go.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How much room there is.
    pub fn space(&self) -> Result<Space> {
        let asking = |e| Error::io("asking the free space", e).on(self.stick.clone());
        let statvfs = rustix::fs::statvfs(&self.path).map_err(asking)?;
        let bytes = |blocks: u64| ByteLen(blocks.saturating_mul(statvfs.f_frsize));
        Ok(Space {
            free: bytes(statvfs.f_bavail),
            total: bytes(statvfs.f_blocks),
        })
    }

    /// Returns once everything written survives a power cut.
    pub fn sync(&self) -> Result<()> {
        let syncing = |e: Errno| Error::io("writing everything to the stick", e).on(&*self.stick);
        let folder = rustix::fs::open(
            &self.path,
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .map_err(syncing)?;
        rustix::fs::syncfs(folder).map_err(syncing)
    }

    /// Writes everything out and unmounts: the stick may be pulled then.
    ///
    /// # Errors
    /// When it cannot be written any more, or a file of it is still open.
    pub fn unmount(self) -> Result<()> {
        self.sync()?;
        rustix::mount::unmount(&self.path, UnmountFlags::empty())
            .map_err(|e| Error::io("unmounting the stick", e).on(self.stick))
    }

    /// Lets go of a stick that was pulled out.
    pub fn abandon(self) -> Result<()> {
        detach(&self.path)
    }
}

fn detach(path: &Path) -> Result<()> {
    rustix::mount::unmount(path, UnmountFlags::DETACH).map_err(|e| {
        Error::io("letting go of the stick that was pulled", e).on(path.display().to_string())
    })
}

/// The answer file on the ESP that we booted from; `None` if there is none.
///
/// # Errors
/// When the ESP cannot be read; `Refused` when the file is over 64 KiB or not UTF-8.
pub fn answers(stick: &Stick) -> Result<Option<String>> {
    with_esp(stick, |folder| read_answers(&folder.join(ANSWER_FILE)))
}

/// What the key files that an answer file names hold; they are files of the stick's ESP.
///
/// # Errors
/// When the ESP or a file cannot be read; `Refused` for a name that leads out of the stick.
pub fn secrets(stick: &Stick, names: &[PathBuf]) -> Result<Secrets> {
    if names.is_empty() {
        return Ok(Secrets::new());
    }
    for name in names {
        let inside = |part| matches!(part, Component::Normal(_));
        if !name.components().all(inside) {
            return Err(Error::refused(format!(
                "the key file {} is not named from the top of the stick's EFI system partition",
                name.display()
            ))
            .advise("Write it like keys/server.key"));
        }
    }
    with_esp(stick, |folder| {
        let mut secrets = Secrets::new();
        for name in names {
            secrets.append(Secrets::from_key_file(&folder.join(name))?);
        }
        Ok(secrets)
    })
}

/// Proves by the ESP of a further stick that it holds Haulier: a table alone can be copied.
///
/// # Errors
/// `Refused` when the system is not there; when it cannot be read.
pub(super) fn refuse_without_system(stick: &Stick) -> Result<()> {
    with_esp(stick, |folder| {
        let sums = std::fs::read_to_string(folder.join(SYSTEM_SUMS)).unwrap_or_default();
        let slot = Path::new(SYSTEM_SUMS).parent().unwrap_or(Path::new(""));
        let named = |file: &str| sums.lines().any(|line| line.ends_with(file));
        let is_there = |file: &str| {
            let found = std::fs::metadata(folder.join(slot).join(file));
            found.is_ok_and(|found| found.is_file() && found.len() > 0)
        };
        if SYSTEM_FILES
            .iter()
            .all(|file| named(file) && is_there(file))
        {
            return Ok(());
        }
        Err(
            Error::refused("Haulier's own system is missing on its first partition").advise(
                "Nothing was written to it. Write the image to it again, or use another Haulier \
                 stick",
            ),
        )
    })
}

/// Has the stick's ESP mounted, read-only, for `look`.
fn with_esp<T>(stick: &Stick, look: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
    let _pin = stick.open_to_read()?;
    let number = stick.guids().esp_number;
    let node = partition::node(stick, number)?;
    let folder = Path::new(ESP_PATH);
    if mounted_device(folder)?.is_some() {
        detach(folder)?;
    }
    mount(&node.path, folder, "vfat", MountFlags::RDONLY).map_err(|e| e.on(stick.describe()))?;
    let seen = look(folder).map_err(|e| e.on(stick.describe()));
    rustix::mount::unmount(folder, UnmountFlags::empty())
        .map_err(|e| Error::io("unmounting the ESP", e).on(stick.describe()))?;
    seen
}

fn read_answers(path: &Path) -> Result<Option<String>> {
    let reading = |e| Error::io(format!("reading the answer file {ANSWER_FILE}"), e);
    let advice = "Correct the file, or remove it to be asked";
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(reading(error)),
    };
    let mut bytes = Vec::new();
    file.take(LONGEST_ANSWERS + 1)
        .read_to_end(&mut bytes)
        .map_err(reading)?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length > LONGEST_ANSWERS) {
        return Err(Error::refused(format!(
            "the answer file {ANSWER_FILE} has more than {LONGEST_ANSWERS} bytes"
        ))
        .advise(advice));
    }
    String::from_utf8(bytes).map(Some).map_err(|e| {
        Error::refused(format!("the answer file {ANSWER_FILE} is not UTF-8"))
            .because(e)
            .advise(advice)
    })
}

fn mount(node: &Path, folder: &Path, filesystem: &str, flags: MountFlags) -> Result<()> {
    let mounting = || format!("mounting {} as {filesystem}", node.display());
    std::fs::create_dir_all(folder).map_err(|e| Error::io(mounting(), e))?;
    let flags = flags | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    rustix::mount::mount(node, folder, filesystem, flags, None)
        .map_err(|e| Error::io(mounting(), e))
}

/// The device mounted on a folder.
fn mounted_device(folder: &Path) -> Result<Option<u64>> {
    let path = "/proc/self/mountinfo";
    let text = std::fs::read_to_string(path)
        .map_err(|e| Error::io("reading what is mounted", e).on(path))?;
    Ok(device_mounted_on(&text, folder))
}

/// proc_pid_mountinfo(5): id, parent, major:minor, root, mount point, …; the last one is on top.
fn device_mounted_on(mountinfo: &str, folder: &Path) -> Option<u64> {
    let mut device = None;
    for line in mountinfo.lines() {
        let mut fields = line.split(' ').skip(2);
        if let (Some(number), Some(point)) = (fields.next(), fields.nth(1))
            && Path::new(point) == folder
            && let Some((major, minor)) = number.split_once(':')
            && let (Ok(major), Ok(minor)) = (major.parse(), minor.parse())
        {
            device = Some(rustix::fs::makedev(major, minor));
        }
    }
    device
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_topmost_mount_on_the_folder_counts() {
        let text = "\
22 1 0:20 / /proc rw - proc proc rw
31 22 8:17 / /run/haulier/store rw,noatime - ext4 /dev/sdb3 rw
32 31 8:35 / /run/haulier/store rw,noatime - ext4 /dev/sdc3 rw
33 32 8:1 / /run/haulier/store2 rw - ext4 /dev/sda1 rw
";
        let on = |folder| device_mounted_on(text, Path::new(folder));
        assert_eq!(on(STORE_PATH), Some(rustix::fs::makedev(8, 35)));
        assert_eq!(on("/run/haulier"), None);
        assert_eq!(device_mounted_on("nonsense\n\n1 2", Path::new("/")), None);
    }

    #[test]
    fn answers_are_read_when_they_are_there_and_make_sense() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(ANSWER_FILE);
        assert_eq!(read_answers(&path).unwrap(), None);
        std::fs::write(&path, "after = \"poweroff\"\n").unwrap();
        assert_eq!(
            read_answers(&path).unwrap().as_deref(),
            Some("after = \"poweroff\"\n")
        );
        for bad in [&b"\xFF\xFE"[..], &[b'#'; (64 << 10) + 1]] {
            std::fs::write(&path, bad).unwrap();
            let error = read_answers(&path).unwrap_err();
            assert_eq!(error.kind(), Kind::Refused);
            assert!(error.to_string().contains("haulier.toml"), "{error}");
        }
    }
}
