//! The one definition of what can be said to Haulier. The command line is parsed by it; an answer
//! file and the kernel command line are turned into the same words first ([`super::answers`]).

use crate::qcow2::Compression;
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

/// Carries a physical server into a cloud on a USB stick
///
/// The source disks are never written. A capture is whole or visibly not.
#[derive(Debug, Parser)]
#[command(name = "haulier", version, max_term_width = 80)]
pub struct Cli {
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Show what this machine is
    Inventory {
        /// Print one JSON document
        #[arg(long)]
        json: bool,
        /// Look for installed systems on this disk or image file instead of this machine's own disks
        #[arg(long = "disk", value_name = "DISK")]
        disks: Vec<PathBuf>,
        #[command(flatten)]
        keys: KeyOptions,
    },
    /// Show which bytes of a disk are in use, volume by volume, and why
    Map {
        /// A block device or an image file
        disk: PathBuf,
        /// Print one JSON document
        #[arg(long)]
        json: bool,
        /// Logical sector of an image file, in bytes (a block device knows its own)
        #[arg(long, value_name = "BYTES", default_value_t = 512)]
        sector_size: u32,
        /// Another disk of the same server: a volume may lie on several
        #[arg(long = "with", value_name = "DISK")]
        with: Vec<PathBuf>,
        #[command(flatten)]
        keys: KeyOptions,
    },
    /// Show what a capture would read and write; writes nothing
    Plan {
        /// The directory that the capture would go to; each further --to is where it would go on
        #[arg(long, value_name = "STORE", required = true)]
        to: Vec<PathBuf>,
        /// Print one JSON document
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        options: CaptureOptions,
    },
    /// Capture disks into a store
    Capture {
        /// The directory that the capture goes to; each further --to is where it goes on, as a
        /// part of its own, when the one before is full
        #[arg(long, value_name = "STORE", required = true)]
        to: Vec<PathBuf>,
        #[command(flatten)]
        options: CaptureOptions,
    },
    /// List the captures of a store
    List {
        /// A directory, a stick's block device, or an image of a stick
        store: PathBuf,
        /// Print one JSON document
        #[arg(long)]
        json: bool,
    },
    /// Prove that captures are what was read from the disks
    Verify {
        /// A capture, a directory of captures, a stick's block device or image; several for a
        /// capture in parts, in any order
        #[arg(required = true)]
        stores: Vec<PathBuf>,
    },
    /// Make a virtual machine of a capture
    Import(ImportArgs),
    /// The appliance's console (started by the stick)
    #[command(hide = true, args_override_self = true)]
    Appliance(ApplianceArgs),
}

/// What opens encrypted volumes, in memory: only what is in use inside is then copied, and the copy
/// stays encrypted.
#[derive(Debug, Clone, Default, Args)]
pub struct KeyOptions {
    /// A file whose content opens an encrypted volume: its key, passphrase, .BEK file or BitLocker
    /// recovery key
    #[arg(long = "key-file", visible_alias = "key-files", value_name = "FILE")]
    pub key_files: Vec<PathBuf>,
    /// Ask for a passphrase or BitLocker recovery key
    #[arg(long)]
    pub passphrase: bool,
}

/// What to capture and how: the same words everywhere.
#[derive(Debug, Clone, Args)]
pub struct CaptureOptions {
    /// Disk to capture: a path, a serial number, or "all" on the appliance
    #[arg(long = "disk", visible_alias = "disks", value_name = "DISK")]
    pub disks: Vec<String>,
    /// Name of the machine in the store [default: product and serial number]
    #[arg(long)]
    pub name: Option<String>,
    /// How the images are compressed
    #[arg(long, value_enum, default_value_t)]
    pub compression: Compression,
    /// Do not read the capture back and compare it with what was read
    #[arg(long)]
    pub no_verify: bool,
    /// Go on with the interrupted capture of this machine in the store
    #[arg(long)]
    pub resume: bool,
    /// Store only what changed since an earlier capture of this machine in the same store: its
    /// directory, its name, or "last"
    #[arg(long, value_name = "CAPTURE")]
    pub since: Option<String>,
    /// What opens its encrypted volumes.
    #[command(flatten)]
    pub keys: KeyOptions,
}

/// What the appliance does by itself.
#[derive(Debug, Clone, Args)]
pub struct ApplianceArgs {
    /// A console to show the screen on
    #[arg(long = "console", value_name = "DEVICE")]
    pub consoles: Vec<PathBuf>,
    /// What it does by itself; the stick's answer file and the kernel command line add to it.
    #[command(flatten)]
    pub answers: AnswerArgs,
}

/// What an answer file or the kernel command line may say.
#[derive(Debug, Clone, Args)]
pub struct AnswerArgs {
    /// Start without asking
    #[arg(long)]
    pub unattended: bool,
    /// What to do with the machine after an unattended run
    #[arg(long, value_enum, default_value_t)]
    pub after: After,
    /// Go on on further Haulier sticks that are plugged in, when the first one is full
    #[arg(long)]
    pub span: bool,
    /// What is captured and how.
    #[command(flatten)]
    pub capture: CaptureOptions,
}

/// What to do with the machine after an unattended run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum After {
    /// Switch it off
    #[default]
    Poweroff,
    /// Start it again
    Reboot,
    /// Leave the result on the screen
    Wait,
}

/// Where a capture goes as a virtual machine.
#[derive(Debug, Clone, Args)]
pub struct ImportArgs {
    /// A capture's directory; or a store, stick or image of a stick with one capture in it; several
    /// for a capture in parts, in any order
    #[arg(required = true, value_name = "CAPTURE")]
    pub captures: Vec<PathBuf>,
    /// Which capture, where there are several: machine or machine/capture
    #[arg(long, value_name = "NAME")]
    pub pick: Option<String>,
    /// What to make of it
    #[arg(long, value_enum)]
    pub to: crate::import::Target,
    /// Directory for the disks and the configuration; made, and refused if it is not empty
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// libvirt to define the domain on
    #[arg(long, value_name = "URI", default_value = "qemu:///system")]
    pub connect: String,
    /// Name of the virtual machine [default: the machine's name in the store]
    #[arg(long)]
    pub name: Option<String>,
    /// Give the virtual machine a random UUID instead of the metal's, for boards that share one; licences
    /// that are bound to it may ask again
    #[arg(long)]
    pub new_uuid: bool,
    /// Attach all disks to this kind of controller instead of the one that the metal had
    #[arg(long, value_enum, value_name = "BUS")]
    pub disk_bus: Option<crate::vm::DiskBus>,
    /// Which hardware the virtual machine has
    #[arg(long, value_enum, default_value_t)]
    pub profile: crate::vm::Profile,
    /// Leave the disks as they were captured, whatever the system on them would need (names of network
    /// cards, drivers)
    #[arg(long)]
    pub unchanged: bool,
    /// Put the loader that any UEFI firmware finds by itself on the EFI system partition
    #[arg(long)]
    pub fallback_loader: bool,
    /// A file whose content opens encrypted disks that are to be changed
    #[arg(long = "key-file", value_name = "FILE")]
    pub key_files: Vec<PathBuf>,
    /// Firmware instead of the one that the metal had
    #[arg(long, value_enum, value_name = "KIND")]
    pub firmware: Option<crate::inventory::FirmwareKind>,
    /// Leave disks at their size where a target rounds it up, and the backup GPT where it is
    #[arg(long)]
    pub no_pad: bool,
}

impl From<ImportArgs> for crate::import::Options {
    fn from(args: ImportArgs) -> Self {
        Self {
            captures: args.captures,
            pick: args.pick,
            to: args.to,
            out: args.out,
            connect: args.connect,
            name: args.name,
            new_uuid: args.new_uuid,
            disk_bus: args.disk_bus,
            profile: args.profile,
            unchanged: args.unchanged,
            fallback_loader: args.fallback_loader,
            key_files: args.key_files,
            firmware: args.firmware,
            pad: !args.no_pad,
        }
    }
}
