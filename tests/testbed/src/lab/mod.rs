//! A laboratory: a small Linux machine that runs one script on given disk images, with the
//! drivers that this machine's kernel may lack (vfat, NTFS, exFAT, F2FS, JFS, ReiserFS, HFS+, UFS,
//! NILFS2, md, device-mapper and others) and without root.
//!
//! ```no_run
//! # fn main() -> anyhow::Result<()> {
//! use haulier_testbed::lab::Lab;
//! use std::{path::Path, time::Duration};
//!
//! let said = Lab::new()
//!     .tool("mdadm") // this machine's program, with its libraries
//!     .module("raid456") // loaded at the start; filesystems load by themselves when mounted
//!     .disk(Path::new("/tmp/a.img")) // vda
//!     .disk(Path::new("/tmp/b.img")) // vdb
//!     .script(
//!         "mdadm --create /dev/md0 --run --level=1 --raid-devices=2 /dev/vda /dev/vdb
//!          mdadm --wait /dev/md0 || true
//!          mdadm --detail /dev/md0",
//!     )
//!     .run(Duration::from_secs(120))?;
//! assert!(said.contains("State : clean"));
//! # Ok(())
//! # }
//! ```
//!
//! * The script runs in a POSIX shell (this machine's dash) with `-eu`: the first command that
//!   fails ends it, and `run` is then an error that carries what was said, the kernel's last words
//!   included. `run` returns standard output and standard error of the script.
//! * A boot costs about ten seconds of processor time under emulation: put many things into one.
//! * Disks are `/dev/vda`, `/dev/vdb` … in their order. Nothing is mounted; folders for mounting
//!   can be made below `/mnt`, `/tmp` is in memory.
//! * Programs: this machine's that are named with `tool`, then all of busybox (`sha256sum`,
//!   `find`, `dd`, `mount`, `losetup` …).
//! * All modules of the kinds in `base` are there and load on demand (`modprobe` works too). They
//!   come from the kernel package of the stick image, as does the kernel.
//! * [`Lab::start`] gives the running machine, to cut its power in the middle of writing; what its
//!   disks were told can be kept write by write: [`Lab::logged_disk`].
//!
//! Files: `base` (kernel, modules, busybox), `programs` (this machine's programs), `init.sh` (what
//! runs first), `guest` (a running laboratory).

mod base;
mod guest;
mod programs;

pub use guest::Guest;

use crate::qemu::{Bus, Drive, Firmware, Machine};
use anyhow::{Context, Result, ensure};
use base::Base;
use haulier_image::initramfs::{Tree, archive};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What the kernel is told. The machine is emulated and lives for a minute: no mitigations; a
/// panic switches it off.
const KERNEL: &str = "console=ttyS0 loglevel=5 panic=-1 no_timer_check mitigations=off nokaslr \
                      random.trust_cpu=on";

/// How often a laboratory is started whose clock stands still.
const ATTEMPTS: usize = 3;

/// The laboratory to be.
#[derive(Debug, Clone)]
pub struct Lab {
    tools: Vec<String>,
    programs: Vec<PathBuf>,
    modules: Vec<String>,
    disks: Vec<Drive>,
    files: Vec<(String, Vec<u8>)>,
    script: String,
    memory_mib: u32,
    qemu: Vec<String>,
}

impl Default for Lab {
    fn default() -> Self {
        Self::new()
    }
}

impl Lab {
    /// 1 GiB of memory, two processors, nothing else.
    pub fn new() -> Self {
        Self {
            tools: vec!["dash".into()],
            programs: Vec::new(),
            modules: Vec::new(),
            disks: Vec::new(),
            files: Vec::new(),
            script: String::new(),
            memory_mib: 1024,
            qemu: Vec::new(),
        }
    }

    /// Takes a program of this machine along, with its libraries.
    #[must_use]
    pub fn tool(mut self, name: &str) -> Self {
        self.tools.push(name.into());
        self
    }

    /// Several of them.
    #[must_use]
    pub fn tools(mut self, names: &[&str]) -> Self {
        self.tools.extend(names.iter().map(|&name| name.into()));
        self
    }

    /// Takes a program along that is not where programs are, with its libraries, by its file name.
    #[must_use]
    pub fn program(mut self, path: &Path) -> Self {
        self.programs.push(path.into());
        self
    }

    /// Loads a kernel module before the script starts.
    #[must_use]
    pub fn module(mut self, name: &str) -> Self {
        self.modules.push(name.into());
        self
    }

    /// Adds a file, by its path in the laboratory.
    #[must_use]
    pub fn file(mut self, path: &str, data: impl Into<Vec<u8>>) -> Self {
        self.files.push((path.into(), data.into()));
        self
    }

    /// Attaches a raw image as the next disk.
    #[must_use]
    pub fn disk(self, image: &Path) -> Self {
        self.drive(image, |drive| drive)
    }

    /// Attaches a raw image as a disk with sectors of 4096 bytes.
    #[must_use]
    pub fn disk_4k(self, image: &Path) -> Self {
        self.drive(image, |drive| drive.sector_bytes(4096))
    }

    /// Attaches a raw image as the next disk, and keeps every write and flush in `log`, in the
    /// format of the kernel's dm-log-writes.
    #[must_use]
    pub fn logged_disk(self, image: &Path, log: &Path) -> Self {
        self.drive(image, |drive| drive.write_log(log))
    }

    fn drive(mut self, image: &Path, more: impl FnOnce(Drive) -> Drive) -> Self {
        let letter = self.letters().nth(self.disks.len()).unwrap_or('?');
        let drive = Drive::raw(image, Bus::Virtio, &format!("lab-{letter}"));
        self.disks.push(more(drive));
        self
    }

    /// The ends of the disks' names.
    fn letters(&self) -> impl Iterator<Item = char> + use<> {
        'a'..='z'
    }

    /// What runs.
    #[must_use]
    pub fn script(mut self, script: &str) -> Self {
        self.script = script.into();
        self
    }

    /// Memory in MiB.
    #[must_use]
    pub fn memory_mib(mut self, memory_mib: u32) -> Self {
        self.memory_mib = memory_mib;
        self
    }

    /// Further arguments for QEMU, for devices of other kinds; their drivers are to be named with
    /// [`Self::module`].
    #[must_use]
    pub fn qemu(mut self, arguments: &[&str]) -> Self {
        self.qemu.extend(arguments.iter().map(|&word| word.into()));
        self
    }

    /// Runs the script to its end and returns what it said.
    ///
    /// # Errors
    /// When it failed, or did not end within `timeout`, or the machine could not be started; with
    /// what the script and the kernel said last.
    pub fn run(self, timeout: Duration) -> Result<String> {
        self.start()?.finish(timeout)
    }

    /// Starts the machine and returns when its script begins.
    ///
    /// # Errors
    /// When a program is not installed, a disk is not there, or QEMU refuses.
    pub fn start(self) -> Result<Guest> {
        for _ in 1..ATTEMPTS {
            let mut guest = self.clone().boot()?;
            if guest.begins() {
                return Ok(guest);
            }
            // Seen once in some hundred boots of a busy machine: the emulated processor gets no
            // interrupt of its clock from the first second on. Nothing has run yet.
            println!("the clock of a laboratory stands still: once more");
            guest.cut_power()?;
        }
        self.boot()
    }

    fn boot(self) -> Result<Guest> {
        ensure!(self.disks.len() <= 26, "a lab has at most 26 disks");
        let base = Base::get().context("making the laboratory")?;
        let folder = tempfile::Builder::new().prefix("haulier-lab-").tempdir()?;
        let initramfs = folder.path().join("initramfs");
        // The kernel takes several archives, one after the other.
        fs::copy(&base.archive, &initramfs).context("copying the laboratory")?;
        let mut file = File::options().append(true).open(&initramfs)?;
        std::io::Write::write_all(&mut file, &archive(&self.tree()?, None)?)?;
        let output = Guest::output_path(&folder);
        let status = Guest::status_path(&folder);
        for path in [&output, &status] {
            File::create(path)?;
        }
        let mut machine = Machine::new(Firmware::Bios)
            .memory_mib(self.memory_mib)
            .powers_off()
            .kernel(&base.kernel, &initramfs, KERNEL);
        for drive in self.disks {
            if let Some(log) = &drive.write_log {
                File::create(log).with_context(|| format!("making {}", log.display()))?;
            }
            machine = machine.disk(drive);
        }
        let machine = machine.extra(&[
            "-cpu",
            "max",
            "-device",
            "virtio-serial-pci",
            "-chardev",
            &format!("file,id=output,path={}", output.display()),
            "-device",
            "virtserialport,name=output,chardev=output",
            "-chardev",
            &format!("file,id=status,path={}", status.display()),
            "-device",
            "virtserialport,name=status,chardev=status",
        ]);
        let qemu: Vec<&str> = self.qemu.iter().map(String::as_str).collect();
        let machine = machine.extra(&qemu);
        Ok(Guest {
            machine: machine.start()?,
            folder,
        })
    }

    /// What belongs to this laboratory only.
    fn tree(&self) -> Result<Tree> {
        let mut tree = Tree::default();
        tree.program("init", include_bytes!("init.sh").to_vec());
        for tool in &self.tools {
            programs::add(&mut tree, &programs::find(tool)?)?;
        }
        for program in &self.programs {
            programs::add(&mut tree, program)?;
        }
        tree.link("usr/bin/sh", "../sbin/dash");
        tree.file("lab/script", self.script.clone().into_bytes());
        tree.file("lab/modules", self.modules.join("\n").into_bytes());
        let letters: Vec<String> = self
            .letters()
            .take(self.disks.len())
            .map(String::from)
            .collect();
        tree.file("lab/disks", letters.join("\n").into_bytes());
        for (path, data) in &self.files {
            tree.program(path.trim_start_matches('/'), data.clone());
        }
        Ok(tree)
    }
}

/// The last lines of a text, for messages.
fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(60)..].join("\n")
}
