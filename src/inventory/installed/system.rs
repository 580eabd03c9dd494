//! What is told of an installed system: the members of `installed` in `machine.json`
//! (docs/machine-json.md). `None` is "not known", never "no".

use crate::inventory::{RtcBasis, TimeZone};
use serde::{Deserialize, Serialize};

/// What sort of system it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SystemKind {
    /// A Linux distribution.
    Linux,
    /// Windows NT.
    Windows,
    /// A kind of a later program: never written.
    #[serde(other)]
    Other,
}

/// An installed system, as its own files tell.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct System {
    /// `None`: it lies in an encrypted volume that no key was given for.
    pub kind: Option<SystemKind>,
    /// For people: `Debian GNU/Linux 13 (trixie)`, `Windows Server 2019 Standard (build 17763)`.
    pub name: Option<String>,
    /// `ID` of os-release: `debian`.
    pub id: Option<String>,
    /// `ID_LIKE` of os-release.
    pub id_like: Vec<String>,
    /// `VERSION_ID` of os-release; of Windows `10.0.17763`.
    pub version: Option<String>,
    /// Its name in the network.
    pub hostname: Option<String>,
    /// As the kernel calls it: `x86_64`, `aarch64`, `i686`.
    pub architecture: Option<String>,
    /// Where it lies.
    pub root: RootPlace,
    /// Linux: the entries of `/etc/fstab`.
    pub fstab: Option<Vec<FstabEntry>>,
    /// Linux: what systemd mounts by the type of its partition, without a line in `/etc/fstab`: the ESP, the
    /// extended boot loader partition. `None`: it does no such thing.
    pub discovered_mounts: Option<Vec<FstabEntry>>,
    /// Linux: the entries of `/etc/crypttab`.
    pub crypttab: Option<Vec<CrypttabEntry>>,
    /// Linux: the command line of the kernel that starts.
    pub command_line: Option<CommandLine>,
    /// Linux: its kernels, that which starts first where that is known.
    pub kernels: Option<Vec<Kernel>>,
    /// Linux: how its network is configured.
    pub network: Option<Network>,
    /// Linux: which devices LVM is told to look at. `None`: all, or it has no LVM.
    pub lvm: Option<LvmDevices>,
    /// What it takes the hardware clock to count.
    pub rtc: Option<RtcBasis>,
    /// Which zone its local time is of.
    pub time_zone: Option<TimeZone>,
    /// Windows: which new disks it brings online: 1 all, 2 those that are on no bus that machines share, 3 none, 4 those that
    /// are not inside the machine. `None`: the edition's own, which is 2 for servers and 1 for others.
    pub san_policy: Option<u32>,
    /// Windows: drivers that matter to a virtual machine.
    pub drivers: Option<Vec<WindowsDriver>>,
    /// Windows: drivers that lie in `Windows\Drivers\VirtIO`, where virt-v2v puts what Windows finds for its
    /// new devices at its next start: `netkvm`.
    pub staged_drivers: Option<Vec<String>>,
}

/// Where a system lies.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RootPlace {
    /// The disks, as `disks` names them, or the image files.
    pub disks: Vec<String>,
    /// The number of the partition, where the volume is one.
    pub partition: Option<u32>,
    /// The logical volume (`vg0/root`) or array, where it is one.
    pub volume: Option<String>,
    /// What is in the volume: `ext4`, `xfs`, `btrfs`, `ntfs`; of an encrypted one `LUKS2`.
    pub filesystem: String,
    /// The filesystem's UUID or serial number.
    pub uuid: Option<String>,
    /// The filesystem's label.
    pub label: Option<String>,
    /// btrfs: the path of the subvolume.
    pub subvolume: Option<String>,
    /// Whether an encrypted volume lies between the disks and the filesystem.
    pub encrypted: bool,
}

/// A line of `/etc/fstab` (fstab(5)).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct FstabEntry {
    /// What is mounted: `UUID=…`, `/dev/sda1`.
    pub spec: String,
    /// Where: `/boot`, `none`.
    pub file: String,
    /// `ext4`, `swap`, `auto`.
    pub fs_type: String,
    /// `defaults`, `subvol=@`.
    pub options: Vec<String>,
}

/// A line of `/etc/crypttab` (crypttab(5)).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CrypttabEntry {
    /// Its name below `/dev/mapper`.
    pub name: String,
    /// The encrypted volume: `UUID=…`.
    pub spec: String,
    /// A file, or `none`.
    pub key: Option<String>,
    /// `luks`, `discard`.
    pub options: Vec<String>,
}

/// What restricts LVM to some devices.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LvmDevices {
    /// The entries of `/etc/lvm/devices/system.devices` (lvmdevices(8)).
    pub entries: Vec<LvmDevice>,
    /// `filter` and `global_filter` of lvm.conf: `a|^/dev/sda2$|`.
    pub filters: Vec<String>,
}

/// An entry of LVM's devices file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LvmDevice {
    /// By what it is known: `sys_wwid`, `sys_serial`, `devname`, `md_uuid`.
    pub id_type: String,
    /// `naa.5002538e40a0b1c2`
    pub id_name: Option<String>,
    /// Where it was last.
    pub device: Option<String>,
    /// The physical volume's UUID without hyphens.
    pub pv_uuid: Option<String>,
}

/// What a boot loader tells the kernel.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CommandLine {
    /// All of it.
    pub text: String,
    /// The file that it stands in.
    pub file: String,
    /// `root=`
    pub root: Option<String>,
    /// `resume=`
    pub resume: Option<String>,
}

/// A kernel that could be started.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Kernel {
    /// As `uname -r` says: `6.12.57+deb13-amd64`.
    pub release: String,
    /// Whether it is the one that starts.
    pub default: Option<bool>,
    /// Path of its initramfs in the system.
    pub initramfs: Option<String>,
    /// Path of the unified kernel image that it starts from, which has its initramfs in it.
    pub unified_image: Option<String>,
    /// Drivers of storage and network, and filesystems, that are in its initramfs: names of modules
    /// with `_` for `-`, sorted. `None`: there is none, or it could not be read.
    pub initramfs_drivers: Option<Vec<String>>,
    /// The same that are in the kernel itself. `None`: it does not tell.
    pub builtin_drivers: Option<Vec<String>>,
}

/// How the network is configured.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Network {
    /// What has configuration: `ifupdown`, `netplan`, `network-manager`, `systemd-networkd`, `ifcfg`,
    /// `wicked`.
    pub managers: Vec<String>,
    /// Interfaces that are configured.
    pub interfaces: Vec<Interface>,
    /// Names that are given to cards by rules of the system's own.
    pub names: Vec<GivenName>,
    /// Whether cards get systemd's names (`enp1s0`); `Some(false)` with `net.ifnames=0` or the like.
    pub predictable_names: Option<bool>,
}

/// A configured interface.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Interface {
    /// Its name, or a pattern (`en*`); `None` where it is matched by its address alone.
    pub name: Option<String>,
    /// The hardware address that it is matched by, lower case.
    pub mac: Option<String>,
    /// `192.0.2.7/24`, `2001:db8::7/64`, `dhcp`.
    pub addresses: Vec<String>,
    /// The file.
    pub file: String,
}

/// A name that a rule gives to a card.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct GivenName {
    /// The name.
    pub name: String,
    /// The card's hardware address, lower case.
    pub mac: Option<String>,
    /// The card's place, `0000:18:00.0`.
    pub pci_address: Option<String>,
    /// The file.
    pub file: String,
}

/// A driver of Windows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct WindowsDriver {
    /// The service's name, lower case: `storahci`.
    pub name: String,
    /// `Start`: 0 with the boot loader, 1 with the kernel, 2 by itself, 3 on demand, 4 never.
    pub start: Option<u32>,
}
