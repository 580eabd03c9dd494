//! Libguestfs, through its own shell: it mounts the filesystems of an image in a small machine of its own,
//! whatever they lie on (LVM, md, btrfs subvolumes), so that neither root nor the host's drivers are needed.
//! One session is started and asked command by command (guestfish(1), "Remote control over a socket").

use super::guest::Guest;
use super::wanted::Wanted;
use crate::error::{Error, Kind, Result};
use crate::vm::printable;
use rustix::process::{Pid, Signal};
use std::ffi::OsStr;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

/// The largest file that is taken out to be changed: tables and menus, not data.
const LARGEST_FILE: u64 = 1 << 20;

/// Filesystems that the system's own files lie on; others are not touched.
const SYSTEM: [&str; 5] = ["/boot", "/boot/efi", "/efi", "/usr", "/var"];
/// How long a machine may outlive its server, which is looked for every 2 s (libguestfs' launch-direct.c), and
/// keep others from its disks.
const ENDING: Duration = Duration::from_secs(5);
/// What says how the machine is run (guestfs(3)); what a person has set is left alone.
const SETTINGS: &str = "LIBGUESTFS_BACKEND_SETTINGS";
/// What the server complains of, in the session's folder.
const COMPLAINED: &str = "complained";
/// How long its machine may take to start with KVM: seconds, and a minute where it has to be built first. Some
/// hosts have a KVM in which no kernel gets far.
const LAUNCH_WITH_KVM: Duration = Duration::from_secs(120);
/// Without: 20 s, and as much again for building it, on a quiet machine.
const LAUNCH: Duration = Duration::from_secs(600);
/// How long anything else may take: making some initramfs anew takes minutes in software emulation.
const WORK: Duration = Duration::from_secs(2 * 3600);

/// A machine of libguestfs with the guest's filesystems mounted. Ends when dropped.
#[derive(Debug)]
pub(super) struct Session {
    pid: String,
    /// Where it reads keys from, line by line.
    keys: Option<ChildStdin>,
    /// Where files pass through.
    folder: tempfile::TempDir,
}

impl Session {
    /// Whether the program is there at all.
    pub(super) fn is_installed() -> bool {
        Command::new("guestfish")
            .arg("--version")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    }

    /// Starts it on qcow2 images in the order of the machine's disks; nothing is mounted yet. Where it does not
    /// start with KVM, it is run in software emulation.
    ///
    /// # Errors
    /// When libguestfs does not start.
    pub(super) fn start(images: &[PathBuf]) -> Result<Self> {
        if std::env::var_os(SETTINGS).is_some() {
            return Self::launch(images, None, LAUNCH);
        }
        if Path::new("/dev/kvm").exists() {
            if let Ok(session) = Self::launch(images, None, LAUNCH_WITH_KVM) {
                return Ok(session);
            }
            std::thread::sleep(ENDING);
        }
        Self::launch(images, Some("force_tcg"), LAUNCH)
    }

    fn launch(images: &[PathBuf], settings: Option<&str>, limit: Duration) -> Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("haulier-guestfish-")
            .tempdir()
            .map_err(|e| Error::io("making a folder for guestfish", e))?;
        let mut command = Command::new("guestfish");
        command.args(["--listen", "--rw", "--keys-from-stdin", "--format=qcow2"]);
        for image in images {
            command.arg("--add").arg(image);
        }
        // The server keeps what it inherits, so its output is a file: a pipe would never end.
        let said = folder.path().join("said");
        let complained = folder.path().join(COMPLAINED);
        let create = |path: &Path| {
            File::create(path).map_err(|e| Error::io(format!("making {}", path.display()), e))
        };
        // Libvirt's own session is one more thing that may be missing or refuse.
        if std::env::var_os("LIBGUESTFS_BACKEND").is_none() {
            command.env("LIBGUESTFS_BACKEND", "direct");
        }
        if let Some(settings) = settings {
            command.env(SETTINGS, settings);
        }
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(create(&said)?)
            .stderr(create(&complained)?)
            .env("LC_ALL", "C")
            .spawn()
            .map_err(|e| Error::io("starting guestfish", e))?;
        let keys = child.stdin.take();
        let status = child
            .wait()
            .map_err(|e| Error::io("starting guestfish", e))?;
        let text = std::fs::read_to_string(&said).unwrap_or_default();
        let pid = text
            .split(['=', ';'])
            .nth(1)
            .map(str::trim)
            .filter(|pid| !pid.is_empty() && pid.bytes().all(|b| b.is_ascii_digit()));
        match pid {
            Some(pid) if status.success() => {
                let session = Self {
                    pid: pid.to_owned(),
                    keys,
                    folder,
                };
                session.wait_for_socket();
                session.run_within(&["run"], limit)?;
                Ok(session)
            }
            _ => {
                let complaint = std::fs::read_to_string(&complained).unwrap_or_default();
                Err(failed("starting guestfish", &complaint))
            }
        }
    }

    /// Opens LUKS containers with the first of `keys` that fits, and what LVM finds in them. `name` is what
    /// the system calls the container with a UUID: its own tools look for it by that name.
    ///
    /// # Errors
    /// When a key cannot be read, or libguestfs is gone.
    pub(super) fn open_encrypted(
        &mut self,
        keys: &[PathBuf],
        name: impl Fn(&str) -> Option<String>,
    ) -> Result<()> {
        if keys.is_empty() {
            return Ok(());
        }
        let mut opened = 0_usize;
        for list in ["list-partitions", "lvs", "list-md-devices", "list-devices"] {
            for device in self.run(&[list])?.lines() {
                // What has no filesystem at all is an error there.
                if self.try_run(&["-vfs-type", device])?.trim() != "crypto_LUKS" {
                    continue;
                }
                let uuid = self.try_run(&["-vfs-uuid", device])?;
                let name = name(uuid.trim()).unwrap_or_else(|| format!("haulier{opened}"));
                for key in keys {
                    let mut line = std::fs::read(key)
                        .map_err(|e| Error::io(format!("reading the key {}", key.display()), e))?;
                    if line.last() != Some(&b'\n') {
                        line.push(b'\n');
                    }
                    // It is handed over as a line.
                    if line.iter().filter(|b| **b == b'\n').count() != 1 {
                        continue;
                    }
                    if let Some(pipe) = &mut self.keys {
                        pipe.write_all(&line)
                            .and_then(|()| pipe.flush())
                            .map_err(|e| Error::io("handing a key to guestfish", e))?;
                    }
                    self.try_run(&["-cryptsetup-open", device, &name])?;
                    let there = format!("/dev/mapper/{name}");
                    let open = self.run(&["list-dm-devices"])?;
                    if open.lines().any(|device| device == there) {
                        opened = opened.saturating_add(1);
                        break;
                    }
                }
            }
        }
        if opened > 0 {
            // Older than 1.40 it has no such command, and scans by itself.
            self.try_run(&["-lvm-scan", "true"])?;
        }
        Ok(())
    }

    /// Mounts the system that is to be changed, and of its other filesystems those that changes go to.
    ///
    /// # Errors
    /// When there is no such system, or a filesystem of it that changes need is not mounted in the end.
    pub(super) fn mount(&self, wanted: &Wanted) -> Result<()> {
        let place = &wanted.root;
        let roots = self.run(&["inspect-os"])?;
        let roots: Vec<&str> = roots.lines().filter(|line| !line.is_empty()).collect();
        let mut found = None;
        for root in &roots {
            // `btrfsvol:/dev/sda2/@` is the subvolume of a filesystem.
            let volume = match (root.strip_prefix("btrfsvol:"), &place.subvolume) {
                (None, _) => Some(*root),
                (Some(rest), Some(subvolume)) => rest
                    .strip_suffix(subvolume.trim_start_matches('/'))
                    .map(|device| device.trim_end_matches('/')),
                (Some(_), None) => None,
            };
            let Some(volume) = volume else {
                continue;
            };
            let uuid = self.try_run(&["-vfs-uuid", volume])?;
            let same = place.uuid.as_deref() == Some(uuid.trim());
            if same || (place.uuid.is_none() && roots.len() == 1) {
                found = Some(*root);
                break;
            }
        }
        let root = found.ok_or_else(|| {
            Error::new(
                Kind::Unsupported,
                if place.encrypted {
                    "the system is encrypted, and no key of --key-file opens it".into()
                } else {
                    format!(
                        "libguestfs finds {} systems, and none of them is the one that starts",
                        roots.len()
                    )
                },
            )
        })?;
        self.run(&["mount", root, "/"])?;
        let mut places: Vec<(String, String)> = self
            .run(&["inspect-get-mountpoints", root])?
            .lines()
            .filter_map(|line| line.split_once(": "))
            .map(|(path, device)| (path.to_owned(), device.to_owned()))
            .filter(|(path, _)| SYSTEM.contains(&path.as_str()))
            .collect();
        places.sort();
        for (path, name) in &places {
            // Where the disks are known by their content, that is better than libguestfs' counting.
            for name in wanted.device(name).iter().chain([name]) {
                self.try_run(&["-mount", name, path])?;
                if self.is_mounted(path)? {
                    break;
                }
            }
        }
        for (path, uuid) in &wanted.discovered {
            let device = self.try_run(&["-findfs-uuid", uuid])?;
            // systemd makes it where it is not.
            self.try_run(&["-mkdir-p", path])?;
            self.try_run(&["-mount", device.trim(), path])?;
        }
        let needed = ["/boot", "/usr"];
        let listed = wanted.mounts.iter().map(String::as_str);
        let listed = listed.filter(|path| needed.contains(path));
        let discovered = wanted.discovered.iter().map(|(path, _)| path.as_str());
        for path in listed.chain(discovered) {
            // Without these a kernel's files, or the programs that make them, are not there.
            if !self.is_mounted(path)? {
                return Err(Error::new(
                    Kind::Unsupported,
                    format!("the filesystem of the system's {path} was not found"),
                ));
            }
        }
        Ok(())
    }

    fn is_mounted(&self, path: &str) -> Result<bool> {
        let said = self.run(&["mountpoints"])?;
        let mut points = said.lines().filter_map(|line| line.rsplit_once(": "));
        Ok(points.any(|(_, point)| point == path))
    }

    /// Runs one command that may fail: it begins with `-`, without which a failure ends the server
    /// (guestfish(1), "Remote control"). Returns what it printed, which is nothing where it failed.
    pub(super) fn try_run(&self, words: &[&str]) -> Result<String> {
        self.run(words)
    }

    /// Runs one command; returns what it printed.
    ///
    /// # Errors
    /// With libguestfs' own words.
    pub(super) fn run<S: AsRef<OsStr>>(&self, words: &[S]) -> Result<String> {
        self.run_within(words, WORK)
    }

    fn run_within<S: AsRef<OsStr>>(&self, words: &[S], limit: Duration) -> Result<String> {
        let word = words.first().map(|word| word.as_ref().to_string_lossy());
        let doing = format!("running {} of guestfish", word.unwrap_or_default());
        let io = |e: std::io::Error| Error::io(&*doing, e);
        // The server says what went wrong on its own standard error.
        let complained = self.folder.path().join(COMPLAINED);
        let said_before = complained.metadata().map_or(0, |file| file.len());
        let answer = self.folder.path().join("answer");
        let mut child = Command::new("guestfish")
            .arg(format!("--remote={}", self.pid))
            .arg("--")
            .args(words)
            .stdin(Stdio::null())
            .stdout(File::create(&answer).map_err(io)?)
            .stderr(Stdio::null())
            .env("LC_ALL", "C")
            .spawn()
            .map_err(io)?;
        let deadline = Instant::now().checked_add(limit);
        let status = loop {
            if let Some(status) = child.try_wait().map_err(io)? {
                break status;
            }
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                // Its machine ends with the server.
                self.kill();
                let _ = child.kill();
                let _ = child.wait();
                return Err(Error::new(Kind::Io, doing)
                    .because(format!("it did not answer within {} s", limit.as_secs())));
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        if status.success() {
            let bytes = std::fs::read(&answer).map_err(io)?;
            return Ok(String::from_utf8_lossy(&bytes).into_owned());
        }
        let said = std::fs::read(&complained).unwrap_or_default();
        let start = usize::try_from(said_before).unwrap_or(0);
        let said = said.get(start..).unwrap_or_default();
        Err(failed(&doing, &String::from_utf8_lossy(said)))
    }

    /// Where the server listens (fish/rc.c).
    fn socket(&self) -> PathBuf {
        let user = rustix::process::geteuid().as_raw();
        PathBuf::from(format!("/tmp/.guestfish-{user}/socket-{}", self.pid))
    }

    /// It says its number before it listens.
    fn wait_for_socket(&self) {
        for _ in 0..100 {
            if self.socket().exists() {
                return;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Ends the server whatever it does, if it is still there.
    fn kill(&self) {
        if !self.socket().exists() {
            return;
        }
        let pid = self.pid.parse().ok().and_then(Pid::from_raw);
        if let Some(pid) = pid {
            // It may have ended by itself.
            let _ = rustix::process::kill_process(pid, Signal::KILL);
        }
    }

    /// Writes everything out and ends the machine.
    ///
    /// # Errors
    /// When something was not written.
    pub(super) fn finish(self) -> Result<()> {
        self.run(&["umount-all"])?;
        self.run(&["shutdown"])?;
        Ok(())
    }
}

impl Guest for Session {
    fn run(&self, words: &[&str]) -> Result<String> {
        Session::run(self, words)
    }

    fn is_file(&self, path: &str) -> Result<bool> {
        let said = self.run(&["is-file", path, "followsymlinks:true"])?;
        Ok(said.trim() == "true")
    }

    fn read(&self, path: &str) -> Result<Option<String>> {
        if !self.is_file(path)? {
            return Ok(None);
        }
        let size = self.run(&["filesize", path])?;
        let no_table = || {
            Error::new(
                Kind::Unsupported,
                format!("{} is not a text of less than 1 MiB", printable(path)),
            )
        };
        if size
            .trim()
            .parse::<u64>()
            .map_or(true, |size| size > LARGEST_FILE)
        {
            return Err(no_table());
        }
        let Some(to) = self.fetch(path)? else {
            return Ok(None);
        };
        let bytes =
            std::fs::read(&to).map_err(|e| Error::io(format!("reading {}", printable(path)), e))?;
        String::from_utf8(bytes).map(Some).map_err(|_| no_table())
    }

    fn fetch(&self, path: &str) -> Result<Option<PathBuf>> {
        if !self.is_file(path)? {
            return Ok(None);
        }
        let to = self.folder.path().join("file");
        self.run(&[OsStr::new("download"), OsStr::new(path), to.as_os_str()])?;
        Ok(Some(to))
    }

    fn write(&self, path: &str, content: &str) -> Result<()> {
        let from = self.folder.path().join("file");
        std::fs::write(&from, content).map_err(|e| Error::io(format!("writing {path}"), e))?;
        self.run(&[OsStr::new("upload"), from.as_os_str(), OsStr::new(path)])?;
        Ok(())
    }

    fn is_alive(&self) -> bool {
        self.socket().exists()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // After finish() nothing is left to be written; after a failure the overlay is thrown away.
        if self.run_within(&["exit"], Duration::from_secs(60)).is_err() {
            self.kill();
        }
    }
}

/// An error with the last lines of what libguestfs said.
fn failed(doing: &str, said: &str) -> Error {
    // The guest's own programs speak here, too.
    let lines: Vec<String> = said
        .lines()
        .map(|line| printable(line.trim_start_matches("libguestfs: error:")))
        .filter(|line| !line.is_empty())
        .collect();
    let tail = lines.get(lines.len().saturating_sub(4)..).unwrap_or(&[]);
    Error::new(Kind::Io, doing).because(tail.join("; "))
}
