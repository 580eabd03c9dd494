//! What a machine is made of: a builder that becomes QEMU's command line.

use super::firmware::Firmware;
use super::run::Running;
use crate::command::{run, tool};
use anyhow::Result;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// The bus that a disk hangs on, as in real servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bus {
    /// SATA on AHCI.
    Sata,
    /// NVMe.
    Nvme,
    /// A paravirtual disk: what a machine that is a VM already has.
    Virtio,
    /// SCSI (as SAS disks are) on virtio-scsi; can be unplugged at any moment.
    Scsi,
    /// A MegaRAID SAS 1078.
    MegaSas,
    /// An LSI SAS 1068.
    MptSas,
    /// VMware's paravirtual SCSI adapter, driver `vmw_pvscsi`; OVMF and SeaBIOS boot from it.
    PvScsi,
}

/// One disk of the machine.
#[derive(Debug, Clone)]
pub struct Drive {
    pub(crate) path: PathBuf,
    pub(crate) format: &'static str,
    pub(crate) bus: Bus,
    pub(crate) serial: String,
    pub(crate) model: Option<String>,
    pub(crate) wwn: Option<u64>,
    pub(crate) sector_bytes: u32,
    pub(crate) write_log: Option<PathBuf>,
    pub(crate) bad_sectors: Vec<u64>,
}

impl Drive {
    /// A raw image as a disk with a serial number.
    pub fn raw(path: impl Into<PathBuf>, bus: Bus, serial: &str) -> Self {
        Self {
            path: path.into(),
            format: "raw",
            bus,
            serial: serial.into(),
            model: None,
            wwn: None,
            sector_bytes: 512,
            write_log: None,
            bad_sectors: Vec::new(),
        }
    }

    /// A qcow2 image as a disk with a serial number.
    pub fn qcow2(path: impl Into<PathBuf>, bus: Bus, serial: &str) -> Self {
        Self {
            format: "qcow2",
            ..Self::raw(path, bus, serial)
        }
    }

    /// The model that the disk reports (SATA and SCSI only: QEMU fixes the others').
    #[must_use]
    pub fn model(mut self, model: &str) -> Self {
        self.model = Some(model.into());
        self
    }

    /// The disk's World Wide Name (SATA only).
    #[must_use]
    pub fn wwn(mut self, wwn: u64) -> Self {
        self.wwn = Some(wwn);
        self
    }

    /// The logical and physical sector in bytes: 512 if not told.
    #[must_use]
    pub fn sector_bytes(mut self, bytes: u32) -> Self {
        self.sector_bytes = bytes;
        self
    }

    /// Keeps every write, discard and flush of the machine in `log`, an empty file, in the format of
    /// the kernel's dm-log-writes: QEMU's filter `blklogwrites`.
    #[must_use]
    pub fn write_log(mut self, log: &Path) -> Self {
        self.write_log = Some(log.to_owned());
        self
    }

    /// Sectors of 512 bytes that cannot be read, ever: QEMU's filter `blkdebug`.
    #[must_use]
    pub fn bad_sectors(mut self, sectors: &[u64]) -> Self {
        self.bad_sectors = sectors.to_vec();
        self
    }
}

/// Where the machine's screen and first serial line go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Screen {
    /// Nowhere visible: the serial line and screenshots are for the program.
    Hidden,
    /// A window; the serial line is for the program.
    Window,
    /// The terminal that we run in shows the serial line and types into it.
    Terminal,
}

impl Screen {
    /// Whether a window can be shown: there is a desktop, and QEMU was installed with its GTK or
    /// SDL part.
    pub fn window_is_possible() -> bool {
        let desktop = ["DISPLAY", "WAYLAND_DISPLAY"]
            .iter()
            .any(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty()));
        desktop
            && run(tool("qemu-system-x86_64").args(["-display", "help"]))
                .is_ok_and(|told| told.lines().any(|line| line == "gtk" || line == "sdl"))
    }
}

/// The machine to be. Every field has a usable default; see [`Machine::new`].
#[derive(Debug, Clone)]
pub struct Machine {
    pub(crate) firmware: Firmware,
    pub(crate) memory_mib: u32,
    pub(crate) disks: Vec<Drive>,
    pub(crate) sticks: Vec<(PathBuf, String)>,
    pub(crate) network_cards: Vec<(&'static str, String, Option<u8>)>,
    pub(crate) product: Option<(String, String, String)>,
    pub(crate) variables: Option<PathBuf>,
    pub(crate) stays_after_shutdown: bool,
    pub(crate) screen: Screen,
    pub(crate) kernel: Option<(PathBuf, PathBuf, String)>,
    pub(crate) extra: Vec<OsString>,
}

impl Machine {
    /// Two processors, 1 GiB of memory, no disks, no network, no visible screen.
    pub fn new(firmware: Firmware) -> Self {
        Self {
            firmware,
            memory_mib: 1024,
            disks: Vec::new(),
            sticks: Vec::new(),
            network_cards: Vec::new(),
            product: None,
            variables: None,
            stays_after_shutdown: false,
            screen: Screen::Hidden,
            kernel: None,
            extra: Vec::new(),
        }
    }

    /// Memory in MiB.
    #[must_use]
    pub fn memory_mib(mut self, memory_mib: u32) -> Self {
        self.memory_mib = memory_mib;
        self
    }

    /// Adds a disk. The n-th one (from 0) is `disk<n>` in QMP.
    #[must_use]
    pub fn disk(mut self, drive: Drive) -> Self {
        self.disks.push(drive);
        self
    }

    /// Plugs a USB stick into a USB 3 port; the machine boots from the first one. The n-th one
    /// (from 0) is `stick<n>` in QMP.
    #[must_use]
    pub fn stick(mut self, image: &Path, serial: &str) -> Self {
        self.sticks.push((image.to_owned(), serial.to_owned()));
        self
    }

    /// Adds a network card of QEMU's `model` (`e1000e`, `virtio-net-pci`) with an address, on a
    /// network that reaches nothing.
    #[must_use]
    pub fn network_card(mut self, model: &'static str, mac: &str) -> Self {
        self.network_cards.push((model, mac.to_owned(), None));
        self
    }

    /// The same at a place on the first PCI bus, so that udev names it `enp0s<slot>`.
    #[must_use]
    pub fn network_card_in_slot(mut self, model: &'static str, mac: &str, slot: u8) -> Self {
        self.network_cards.push((model, mac.to_owned(), Some(slot)));
        self
    }

    /// What SMBIOS says: manufacturer, product, serial number.
    #[must_use]
    pub fn product(mut self, manufacturer: &str, product: &str, serial: &str) -> Self {
        self.product = Some((manufacturer.into(), product.into(), serial.into()));
        self
    }

    /// Keeps the UEFI variables in this file, which must exist ([`Firmware::new_variables`]);
    /// otherwise the machine gets a fresh store that goes with it.
    #[must_use]
    pub fn variables(mut self, path: &Path) -> Self {
        self.variables = Some(path.to_owned());
        self
    }

    /// QEMU stays after the guest has powered off, so that it can still be asked for its block
    /// statistics: see [`Running::wait_shutdown`].
    #[must_use]
    pub fn stays_after_shutdown(mut self) -> Self {
        self.stays_after_shutdown = true;
        self
    }

    /// QEMU ends when the guest powers off: the default.
    #[must_use]
    pub fn powers_off(mut self) -> Self {
        self.stays_after_shutdown = false;
        self
    }

    /// Where the screen goes.
    #[must_use]
    pub fn screen(mut self, screen: Screen) -> Self {
        self.screen = screen;
        self
    }

    /// Starts this kernel at once, past the firmware's search for a boot disk.
    #[must_use]
    pub fn kernel(mut self, kernel: &Path, initramfs: &Path, arguments: &str) -> Self {
        self.kernel = Some((kernel.into(), initramfs.into(), arguments.into()));
        self
    }

    /// Further arguments for QEMU.
    #[must_use]
    pub fn extra(mut self, arguments: &[&str]) -> Self {
        self.extra.extend(arguments.iter().map(OsString::from));
        self
    }

    /// Switches the machine on.
    ///
    /// # Errors
    /// When QEMU is missing or refuses: the error carries what it said.
    pub fn start(self) -> Result<Running> {
        Running::start(self)
    }

    /// QEMU's arguments, apart from the sockets that belong to a run.
    pub(crate) fn arguments(&self, variables: &Path) -> Result<Vec<OsString>> {
        let mut line = CommandLine(self.firmware.arguments(variables)?);
        // Software emulation: tests must give the same result on machines without KVM.
        line.add("-accel", "tcg,thread=multi");
        line.add("-smp", "2");
        line.add("-m", format!("{}M", self.memory_mib));
        line.add("-vga", "std");
        line.flag("-nodefaults");
        line.flag("-no-user-config");
        line.flag("-no-reboot");
        if self.stays_after_shutdown {
            line.flag("-no-shutdown");
        }
        if let Some((manufacturer, product, serial)) = &self.product {
            line.add(
                "-smbios",
                format!("type=1,manufacturer={manufacturer},product={product},serial={serial}"),
            );
        }
        line.add("-device", "qemu-xhci,id=xhci,p2=8,p3=8");
        for (index, (path, serial)) in self.sticks.iter().enumerate() {
            line.block(&format!("stick{index}"), "raw", path);
            line.add(
                "-device",
                format!(
                    "usb-storage,id=stick{index},bus=xhci.0,drive=stick{index}-node,\
                     serial={serial},removable=on,bootindex={index}"
                ),
            );
        }
        for (bus, controller) in [
            (Bus::Scsi, "virtio-scsi-pci,id=scsi"),
            (Bus::MegaSas, "megasas,id=megasas"),
            (Bus::MptSas, "mptsas1068,id=mptsas"),
            (Bus::PvScsi, "pvscsi,id=pvscsi"),
        ] {
            if self.disks.iter().any(|disk| disk.bus == bus) {
                line.add("-device", controller);
            }
        }
        for (index, disk) in self.disks.iter().enumerate() {
            let id = format!("disk{index}");
            match &disk.write_log {
                Some(log) => line.logged_block(&id, disk, log),
                None if disk.bad_sectors.is_empty() => {
                    line.block(&id, disk.format, &disk.path);
                }
                None => line.bad_block(&id, disk),
            }
            line.add("-device", self.disk_device(index, disk));
        }
        for (index, (model, mac, slot)) in self.network_cards.iter().enumerate() {
            line.add("-netdev", format!("user,id=net{index},restrict=on"));
            let mut device = format!("{model},netdev=net{index},mac={mac}");
            if let Some(slot) = slot {
                device += &format!(",bus=pcie.0,addr={slot:#x}");
            }
            line.add("-device", device);
        }
        if let Some((kernel, initramfs, arguments)) = &self.kernel {
            line.add("-kernel", kernel);
            line.add("-initrd", initramfs);
            line.add("-append", arguments);
        }
        line.0.extend(self.extra.iter().cloned());
        Ok(line.0)
    }

    fn disk_device(&self, index: usize, disk: &Drive) -> String {
        let serial = &disk.serial;
        let model = disk.model.as_ref();
        let device = match disk.bus {
            // The machine's own AHCI controller has six ports, each its own bus.
            Bus::Sata => {
                format!("ide-hd,bus=ide.{index}")
                    + &model.map_or(String::new(), |model| format!(",model={model}"))
                    + &disk
                        .wwn
                        .map_or(String::new(), |wwn| format!(",wwn={wwn:#x}"))
            }
            Bus::Nvme => "nvme".to_owned(),
            Bus::Virtio => "virtio-blk-pci".to_owned(),
            Bus::Scsi | Bus::MegaSas | Bus::MptSas | Bus::PvScsi => {
                let controller = match disk.bus {
                    Bus::MegaSas => "megasas",
                    // Linux finds no disk without a SAS address on this one.
                    Bus::MptSas => "mptsas",
                    Bus::PvScsi => "pvscsi",
                    _ => "scsi",
                };
                let mut device = format!("scsi-hd,bus={controller}.0,scsi-id={index}");
                if disk.bus == Bus::MptSas {
                    device += &format!(",wwn=0x500000e0d0c0b0a{index}");
                }
                if let Some(model) = model {
                    device += &format!(",product={model}");
                }
                device
            }
        };
        let sector = disk.sector_bytes;
        // A kernel that is given takes the first place in the order itself.
        let order = match self.kernel {
            Some(_) => String::new(),
            None => format!(",bootindex={}", index + self.sticks.len()),
        };
        format!(
            "{device},id=disk{index},drive=disk{index}-node,serial={serial}{order},\
             logical_block_size={sector},physical_block_size={sector}"
        )
    }
}

/// QEMU's command line while it grows.
struct CommandLine(Vec<OsString>);

impl CommandLine {
    fn flag(&mut self, flag: &str) {
        self.0.push(flag.into());
    }

    fn add(&mut self, option: &str, value: impl Into<OsString>) {
        self.0.push(option.into());
        self.0.push(value.into());
    }

    /// A block node `<id>-node`. The guest's flushes are not passed on to the host's disk: the
    /// machines are thrown away, and a killed QEMU loses nothing that is in the page cache.
    fn block(&mut self, id: &str, format: &str, path: &Path) {
        let mut value = OsString::from(format!(
            "driver={format},node-name={id}-node,discard=unmap,cache.no-flush=on,\
             file.driver=file,file.cache.no-flush=on,file.filename="
        ));
        value.push(path);
        self.add("-blockdev", value);
    }

    /// A block node `<id>-node` some sectors of which cannot be read.
    fn bad_block(&mut self, id: &str, disk: &Drive) {
        self.block(&format!("{id}-well"), disk.format, &disk.path);
        let mut value = format!("driver=blkdebug,node-name={id}-node,image={id}-well-node");
        for (number, sector) in disk.bad_sectors.iter().enumerate() {
            value += &format!(
                ",inject-error.{number}.event=none,inject-error.{number}.iotype=read,\
                 inject-error.{number}.sector={sector},inject-error.{number}.errno=5"
            );
        }
        self.add("-blockdev", value);
    }

    /// A block node `<id>-node` that logs. It must see the flushes: only what is below it may
    /// ignore them.
    fn logged_block(&mut self, id: &str, disk: &Drive, log: &Path) {
        self.block(&format!("{id}-logged"), disk.format, &disk.path);
        let mut value = OsString::from("driver=file,cache.no-flush=on,filename=");
        value.push(log);
        value.push(format!(",node-name={id}-log"));
        self.add("-blockdev", value);
        self.add(
            "-blockdev",
            format!(
                "driver=blklogwrites,node-name={id}-node,file={id}-logged-node,log={id}-log,\
                 discard=unmap,log-sector-size=512"
            ),
        );
    }
}
