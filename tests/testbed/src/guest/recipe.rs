//! What sort of server a guest is: how it starts, what its root filesystem lies on, what its
//! initramfs has, and which network cards it knows by name.

use super::base::Flavor;

const MIB: u64 = 1 << 20;

/// UUID of the root filesystem.
pub(super) const ROOT_UUID: &str = "6f0ab5a4-57d9-4c0c-9a0d-2f8d4f8a1c11";
/// UUID of a `/boot` of its own.
pub(super) const BOOT_UUID: &str = "0c6d2f6e-7d0f-4a53-8f5e-5b9f6f1e2d33";
/// UUID of the LUKS container.
pub(super) const LUKS_UUID: &str = "d2a7f8c1-3b44-4a66-9d5b-1f0e7c6a5b44";
/// UUID of the swap area.
pub(super) const SWAP_UUID: &str = "b1d3c7de-02c4-4a39-8b0a-0d5f3a7e9922";
/// Volume number of the ESP, as Linux shows it.
pub(super) const EFI_VOLUME: &str = "4A1D-7E33";

/// What `/etc/crypttab` calls the container.
const CONTAINER: &str = "sda3_crypt";

/// The World Wide Name of the disk that [`Recipe::lvm_devices`] is for.
pub const DISK_WWN: u64 = 0x5000_c500_a1b2_c3d4;
/// The UUID of its physical volume.
pub(super) const PV_UUID: &str = "hauLie-r5Ki-8QmV-0aZt-9XcB-2wNe-7JpLdS";

/// What opens the root of [`Root::Luks`].
pub const PASSPHRASE: &str = "correct horse battery";

/// How a server starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Boot {
    /// UEFI: GPT with an ESP, shim and GRUB on it.
    Uefi,
    /// Legacy BIOS: MBR with GRUB in the gap, swap as a logical partition.
    BiosMbr,
    /// Legacy BIOS on a GPT disk: GRUB in a BIOS boot partition.
    BiosGpt,
}

/// What the root filesystem is and lies on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Root {
    /// ext4 on a partition.
    Ext4,
    /// XFS on a partition.
    Xfs,
    /// btrfs on a partition, `/` in the subvolume `@` and `/home` in `@home`.
    Btrfs,
    /// ext4 and swap on logical volumes, with a `/boot` outside.
    Lvm,
    /// ext4 in LUKS2, with a `/boot` outside.
    Luks,
    /// ext4 on md RAID 1 over two disks.
    Md,
}

/// Which drivers an initramfs has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drivers {
    /// All that the distribution has.
    All,
    /// Those of hardware, and none of virtual machines.
    Metal,
    /// Those of a VM of VMware.
    Vmware,
}

/// A server to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recipe {
    /// How it starts.
    pub boot: Boot,
    /// What its root filesystem lies on.
    pub root: Root,
    /// Whether the ESP has a loader at the path that firmware falls back to.
    pub fallback_loader: bool,
    /// Which drivers its initramfs has.
    pub drivers: Drivers,
    /// Whether the next one is made for the machine that makes it (`MODULES=dep`).
    pub dep: bool,
    /// Whether [`Root::Luks`] is opened by `/etc/crypttab`, not by a word of the command line.
    pub crypttab: bool,
    /// Whether fstab names a disk that is not there.
    pub absent_disk: bool,
    /// Whether fstab leaves the ESP to systemd, which finds it by its type.
    pub esp_unlisted: bool,
    /// How the system names its partitions, up to the number, where it does not go by UUID: `/dev/nvme0n1p`.
    pub by_place: Option<&'static str>,
    /// Whose parts it has.
    pub flavor: Flavor,
    /// Whether LVM looks only at the disk that its devices file has, as on RHEL 9.
    pub lvm_devices: bool,
    /// Whether shim has the signature of the server's owner instead of Microsoft's.
    pub own_keys: bool,
    /// Static addresses of network cards, by the names that udev gives them: (name, CIDR). Without
    /// any, all cards ask DHCP.
    pub addresses: &'static [(&'static str, &'static str)],
}

/// Where the partitions lie, in bytes from the disk's start: start and length.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Layout {
    /// The whole disk's length.
    pub(super) disk: u64,
    /// The ESP, or GRUB's BIOS boot partition.
    pub(super) loader: Option<(u64, u64)>,
    /// A `/boot` of its own.
    pub(super) boot: Option<(u64, u64)>,
    /// The root filesystem, or what it lies in.
    pub(super) root: (u64, u64),
    /// The swap area.
    pub(super) swap: Option<(u64, u64)>,
}

impl Recipe {
    /// UEFI, ext4, the fallback loader, all drivers.
    pub const UEFI: Self = Self {
        boot: Boot::Uefi,
        root: Root::Ext4,
        fallback_loader: true,
        drivers: Drivers::All,
        dep: false,
        crypttab: false,
        absent_disk: false,
        esp_unlisted: false,
        by_place: None,
        flavor: Flavor::Debian,
        lvm_devices: false,
        own_keys: false,
        addresses: &[],
    };
    /// BIOS with an MBR, ext4.
    pub const BIOS_MBR: Self = Self {
        boot: Boot::BiosMbr,
        ..Self::UEFI
    };

    /// The same on another kind of root.
    #[must_use]
    pub const fn root(mut self, root: Root) -> Self {
        self.root = root;
        self
    }

    /// The same without the fallback loader.
    #[must_use]
    pub const fn without_fallback_loader(mut self) -> Self {
        self.fallback_loader = false;
        self
    }

    /// The same with an initramfs that has no driver of virtual machines.
    #[must_use]
    pub const fn without_virtio(mut self) -> Self {
        self.drivers = Drivers::Metal;
        self
    }

    /// The same with an initramfs that has the drivers of VMware's virtual hardware only.
    #[must_use]
    pub const fn of_vmware(mut self) -> Self {
        self.drivers = Drivers::Vmware;
        self
    }

    /// The same with an initramfs for its own metal only, as Debian's installer offers it.
    #[must_use]
    pub const fn modules_dep(mut self) -> Self {
        self.drivers = Drivers::Metal;
        self.dep = true;
        self
    }

    /// The same with a root that `/etc/crypttab` opens, as Debian's installer writes it.
    #[must_use]
    pub const fn crypttab(mut self) -> Self {
        self.crypttab = true;
        self
    }

    /// The same with a line in fstab for a disk of long ago.
    #[must_use]
    pub const fn absent_disk(mut self) -> Self {
        self.absent_disk = true;
        self
    }

    /// The same with no line in fstab for the ESP.
    #[must_use]
    pub const fn esp_unlisted(mut self) -> Self {
        self.esp_unlisted = true;
        self
    }

    /// The same with tables and a menu that name partitions by their disk's place: a GPT disk with its root
    /// on the second partition.
    #[must_use]
    pub const fn by_place(mut self, names: &'static str) -> Self {
        self.by_place = Some(names);
        self
    }

    /// The same with dracut and NetworkManager; its initramfs has no driver of virtual machines.
    #[must_use]
    pub const fn dracut(mut self) -> Self {
        self.flavor = Flavor::Dracut;
        self
    }

    /// The same with systemd-boot and the parts of this flavor; its initramfs has no driver of virtual machines.
    #[must_use]
    pub const fn systemd_boot(mut self, flavor: Flavor) -> Self {
        self.flavor = flavor;
        self
    }

    /// The same with LVM's devices file, in the initramfs as well: the disk has to have [`DISK_WWN`].
    #[must_use]
    pub const fn lvm_devices(mut self) -> Self {
        self.lvm_devices = true;
        self
    }

    /// The same with a shim that only the owner's own key starts under Secure Boot.
    #[must_use]
    pub const fn own_keys(mut self) -> Self {
        self.own_keys = true;
        self
    }

    /// The same with static addresses.
    #[must_use]
    pub const fn addresses(mut self, addresses: &'static [(&'static str, &'static str)]) -> Self {
        self.addresses = addresses;
        self
    }

    /// How many disks it has.
    pub fn disks(&self) -> usize {
        if self.root == Root::Md { 2 } else { 1 }
    }

    /// Whether the kernel lies on a filesystem of its own.
    pub(super) fn separate_boot(&self) -> bool {
        matches!(self.root, Root::Lvm | Root::Luks)
    }

    /// The filesystem that GRUB searches.
    pub(super) fn grub_uuid(&self) -> &'static str {
        if self.separate_boot() {
            BOOT_UUID
        } else {
            ROOT_UUID
        }
    }

    /// `/boot` as GRUB sees it on that filesystem.
    pub(super) fn grub_folder(&self) -> &'static str {
        match self.root {
            _ if self.separate_boot() => "",
            Root::Btrfs => "/@/boot",
            _ => "/boot",
        }
    }

    /// What the kernel is told about its root.
    pub(super) fn root_arguments(&self) -> String {
        self.with_names(match self.root {
            // dracut activates only what it is told of.
            Root::Lvm if self.flavor == Flavor::Dracut => {
                "root=/dev/mapper/vg0-root rd.lvm.lv=vg0/root".into()
            }
            Root::Lvm => "root=/dev/mapper/vg0-root".into(),
            Root::Luks if self.crypttab => format!("root=/dev/mapper/{CONTAINER}"),
            Root::Luks => {
                format!("root=/dev/mapper/root cryptopts=source=UUID={LUKS_UUID},target=root")
            }
            Root::Btrfs => format!("root=UUID={ROOT_UUID} rootflags=subvol=@"),
            Root::Ext4 | Root::Xfs | Root::Md => format!("root=UUID={ROOT_UUID}"),
        })
    }

    /// The text with names by place, where the system has such.
    fn with_names(&self, text: String) -> String {
        let Some(names) = self.by_place else {
            return text;
        };
        [EFI_VOLUME, ROOT_UUID, SWAP_UUID]
            .iter()
            .zip(1..)
            .fold(text, |text, (uuid, number)| {
                text.replace(&format!("UUID={uuid}"), &format!("{names}{number}"))
            })
    }

    /// `/etc/fstab`
    pub(super) fn fstab(&self) -> String {
        let mut table = match self.root {
            Root::Ext4 | Root::Md => {
                format!("UUID={ROOT_UUID} / ext4 errors=remount-ro 0 1\n")
            }
            Root::Xfs => format!("UUID={ROOT_UUID} / xfs defaults 0 0\n"),
            Root::Btrfs => format!(
                "UUID={ROOT_UUID} / btrfs subvol=@ 0 0\nUUID={ROOT_UUID} /home btrfs subvol=@home 0 0\n"
            ),
            Root::Lvm => "/dev/mapper/vg0-root / ext4 errors=remount-ro 0 1\n\
                          /dev/mapper/vg0-swap none swap sw 0 0\n"
                .into(),
            Root::Luks if self.crypttab => {
                format!("/dev/mapper/{CONTAINER} / ext4 errors=remount-ro 0 1\n")
            }
            Root::Luks => "/dev/mapper/root / ext4 errors=remount-ro 0 1\n".into(),
        };
        if self.separate_boot() {
            table += &format!("UUID={BOOT_UUID} /boot ext4 defaults 0 2\n");
        }
        if self.boot == Boot::Uefi && !self.esp_unlisted {
            table += &format!("UUID={EFI_VOLUME} /boot/efi vfat umask=0077 0 1\n");
        }
        if self.layout().swap.is_some() {
            table += &format!("UUID={SWAP_UUID} none swap sw 0 0\n");
        }
        if self.absent_disk {
            table += "/dev/sdb1 /mnt ext4 nofail,x-systemd.device-timeout=1 0 2\n";
        }
        self.with_names(table)
    }

    /// `/etc/crypttab`, where there is one.
    pub(super) fn table_of_containers(&self) -> Option<String> {
        self.crypttab
            .then(|| format!("{CONTAINER} UUID={LUKS_UUID} none luks\n"))
    }

    pub(super) fn layout(&self) -> Layout {
        let loader = match self.boot {
            // Kernels lie there, too, and for a while two of each.
            Boot::Uefi if self.flavor.has_systemd_boot() => Some((MIB, 448 * MIB)),
            Boot::Uefi => Some((MIB, 64 * MIB)),
            Boot::BiosMbr => None,
            Boot::BiosGpt => Some((MIB, MIB)),
        };
        let after = |part: Option<(u64, u64)>| part.map_or(MIB, |(start, length)| start + length);
        let boot = self.separate_boot().then(|| (after(loader), 192 * MIB));
        let start = boot.map_or(after(loader), |boot| after(Some(boot)));
        let length = if self.root == Root::Ext4 { 1536 } else { 2048 } * MIB;
        // A logical partition follows its EBR, which is the first sector of the extended one.
        let gap = if self.boot == Boot::BiosMbr { MIB } else { 0 };
        let plain = matches!(self.root, Root::Ext4 | Root::Xfs | Root::Btrfs);
        Layout {
            disk: if self.root == Root::Ext4 && !self.flavor.has_systemd_boot() {
                2048
            } else {
                3072
            } * MIB,
            loader,
            boot,
            root: (start, length),
            swap: plain.then(|| (start + length + gap, 256 * MIB)),
        }
    }

    /// The table in sfdisk's language, where sizes without a unit are sectors of 512 bytes.
    pub(super) fn table(&self, disk: usize) -> String {
        let layout = self.layout();
        let at =
            |(start, length): (u64, u64)| format!("start={}, size={}", start / 512, length / 512);
        let kind = match (self.boot, self.root) {
            (Boot::BiosMbr, Root::Md) => "fd",
            (Boot::BiosMbr, Root::Lvm) => "8e",
            (Boot::BiosMbr, _) => "83",
            (_, Root::Md) => "raid",
            (_, Root::Lvm) => "lvm",
            _ => "linux",
        };
        if self.boot == Boot::BiosMbr {
            let mut table = format!(
                "label: dos\nlabel-id: {:#x}\n1 : {}, type={kind}, bootable\n",
                0x51a7_c0de - disk,
                at(layout.root)
            );
            if let Some((start, length)) = layout.swap {
                table += &format!(
                    "2 : start={}, size={}, type=5\n5 : {}, type=82\n",
                    (start - MIB) / 512,
                    (length + MIB) / 512,
                    at((start, length))
                );
            }
            return table;
        }
        // Each partition a GUID of its own, on each disk.
        let guid = |number: usize| format!("uuid=0E4C9B1A-6D3B-4C43-9E1B-7A5D12C0F0{disk}{number}");
        let loader = match self.boot {
            Boot::Uefi => ("uefi", "EFI System"),
            _ => ("21686148-6449-6E6F-744E-656564454649", "BIOS boot"),
        };
        let parts = [
            (layout.loader, loader),
            (layout.boot, ("linux", "boot")),
            (Some(layout.root), (kind, "root")),
            (layout.swap, ("swap", "swap")),
        ];
        let mut table =
            format!("label: gpt\nlabel-id: 0E4C9B1A-6D3B-4C43-9E1B-7A5D12C0F0{disk}1\n");
        let there = parts
            .into_iter()
            .filter_map(|(part, what)| Some((part?, what)));
        for (number, (part, (kind, name))) in there.enumerate() {
            table += &format!(
                "{}, type={kind}, {}, name=\"{name}\"\n",
                at(part),
                guid(number + 2)
            );
        }
        table
    }
}
