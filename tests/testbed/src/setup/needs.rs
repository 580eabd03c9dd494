//! The packages that building and testing need, beyond Rust.

use std::path::Path;

/// What a package is needed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Building the programs.
    Build,
    /// Making the stick image.
    Image,
    /// Running virtual machines.
    Machines,
    /// Making the disks of test servers.
    Guests,
    /// Importing into libvirt.
    Libvirt,
    /// The tools that tests hold our results against.
    Checks,
}

impl Purpose {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Build,
        Self::Image,
        Self::Machines,
        Self::Guests,
        Self::Libvirt,
        Self::Checks,
    ];
}

/// One package.
#[derive(Debug, Clone, Copy)]
pub struct Need {
    /// What it is needed for.
    pub purpose: Purpose,
    /// Its name, in Debian and in Ubuntu.
    pub package: &'static str,
    /// A program (searched where programs are) or a file (a whole path, or how it begins with a `*`) that
    /// it brings.
    pub shown_by: &'static str,
    /// For the person: why.
    pub why: &'static str,
    /// Only where this is so.
    pub only: Only,
}

/// Where a package is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Only {
    /// On every machine.
    Always,
    /// Where the person is not root.
    NotRoot,
    /// Where apt knows no Debian mirror, as on Ubuntu.
    NotDebian,
    /// On Debian itself.
    Debian,
}

/// Where programs are, whatever the person's PATH says.
const PROGRAMS: [&str; 6] = [
    "/usr/bin",
    "/usr/sbin",
    "/bin",
    "/sbin",
    "/usr/local/bin",
    "/usr/local/sbin",
];

const fn need(
    purpose: Purpose,
    package: &'static str,
    shown_by: &'static str,
    why: &'static str,
) -> Need {
    Need {
        purpose,
        package,
        shown_by,
        why,
        only: Only::Always,
    }
}

impl Need {
    const fn only(mut self, only: Only) -> Self {
        self.only = only;
        self
    }

    /// Whether this machine needs it at all.
    pub(super) fn applies(&self) -> bool {
        match self.only {
            Only::Always => true,
            Only::NotRoot => !rustix::process::geteuid().is_root(),
            Only::NotDebian => !is_debian(),
            Only::Debian => is_debian(),
        }
    }

    /// Whether it is there.
    pub(super) fn is_met(&self) -> bool {
        if let Some((folder, start)) = self
            .shown_by
            .strip_suffix('*')
            .and_then(|start| start.rsplit_once('/'))
        {
            let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
            return entries
                .into_iter()
                .any(|entry| entry.file_name().to_string_lossy().starts_with(start));
        }
        if self.shown_by.starts_with('/') {
            return Path::new(self.shown_by).exists();
        }
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path)
            .chain(PROGRAMS.map(Into::into))
            .any(|folder| folder.join(self.shown_by).is_file())
    }
}

fn is_debian() -> bool {
    std::fs::read_to_string("/etc/os-release")
        .unwrap_or_default()
        .lines()
        .any(|line| line == "ID=debian")
}

/// Every package, grouped by purpose.
pub const ALL: &[Need] = &[
    need(Purpose::Build, "gcc", "cc", "linking, and compiling zstd"),
    need(
        Purpose::Build,
        "libc6-dev",
        "/usr/include/stdio.h",
        "compiling zstd, and static programs",
    ),
    need(
        Purpose::Image,
        "debian-archive-keyring",
        "/usr/share/keyrings/debian-archive-keyring.gpg",
        "proving that Debian's packages are Debian's",
    ),
    need(
        Purpose::Image,
        "python-apt-common",
        "/usr/share/python-apt/templates/Debian.info",
        "knowing a Debian mirror",
    )
    .only(Only::NotDebian),
    need(
        Purpose::Machines,
        "qemu-system-x86",
        "qemu-system-x86_64",
        "running virtual machines",
    ),
    need(
        Purpose::Machines,
        "qemu-utils",
        "qemu-img",
        "checking disk images",
    ),
    need(
        Purpose::Machines,
        "seabios",
        "/usr/share/seabios/bios.bin",
        "legacy BIOS in virtual machines",
    ),
    need(
        Purpose::Machines,
        "ovmf",
        "/usr/share/OVMF/OVMF_CODE_4M.fd",
        "UEFI in virtual machines",
    ),
    need(
        Purpose::Guests,
        "mmdebstrap",
        "mmdebstrap",
        "installing a Debian server for the tests",
    ),
    need(
        Purpose::Guests,
        "uidmap",
        "newuidmap",
        "installing it without being root",
    )
    .only(Only::NotRoot),
    need(
        Purpose::Guests,
        "fdisk",
        "sfdisk",
        "partition tables of test disks",
    ),
    need(
        Purpose::Guests,
        "dosfstools",
        "mkfs.vfat",
        "EFI system partitions of test disks",
    ),
    need(
        Purpose::Guests,
        "sbsigntool",
        "sbsign",
        "signing loaders with keys of one's own",
    ),
    need(
        Purpose::Checks,
        "systemd-boot-efi",
        "/usr/lib/systemd/boot/efi/linuxx64.efi.stub",
        "unified kernel images that are read",
    ),
    need(
        Purpose::Guests,
        "mtools",
        "mcopy",
        "putting files on them without mounting",
    ),
    need(
        Purpose::Guests,
        "grub-pc-bin",
        "/usr/lib/grub/i386-pc/boot.img",
        "boot code that the inventory has to recognise",
    ),
    need(
        Purpose::Libvirt,
        "libvirt-daemon-system",
        "libvirtd",
        "importing into libvirt",
    ),
    need(
        Purpose::Libvirt,
        "libvirt-daemon-driver-qemu",
        "/usr/lib/x86_64-linux-gnu/libvirt/connection-driver/libvirt_driver_qemu.so",
        "libvirt's machines in QEMU",
    ),
    need(
        Purpose::Libvirt,
        "libvirt-clients",
        "virsh",
        "starting the imported machine",
    ),
    need(
        Purpose::Libvirt,
        "libxml2-utils",
        "xmllint",
        "holding domain.xml against libvirt's schema",
    ),
    need(
        Purpose::Libvirt,
        "swtpm",
        "swtpm",
        "the TPM of virtual machines",
    ),
    need(
        Purpose::Libvirt,
        "swtpm-tools",
        "swtpm_setup",
        "the TPM of virtual machines",
    ),
    need(
        Purpose::Libvirt,
        "libguestfs-tools",
        "guestfish",
        "changing what is inside an imported machine",
    ),
    need(
        Purpose::Libvirt,
        "linux-image-amd64",
        "/boot/vmlinuz-*",
        "a kernel for libguestfs' own machine",
    )
    .only(Only::Debian),
    need(
        Purpose::Libvirt,
        "linux-image-virtual",
        "/boot/vmlinuz-*",
        "a kernel for libguestfs' own machine",
    )
    .only(Only::NotDebian),
    need(
        Purpose::Checks,
        "shellcheck",
        "shellcheck",
        "a second opinion on the scripts that make machines elsewhere",
    ),
    need(
        Purpose::Checks,
        "virt-v2v",
        "virt-v2v",
        "a second reader of OVAs, and drivers for Windows",
    ),
    need(
        Purpose::Checks,
        "nbdkit",
        "nbdkit",
        "how virt-v2v opens the disks of a Windows",
    ),
    need(
        Purpose::Checks,
        "python3-pip",
        "pip3",
        "OpenStack's own programs, to hold images against",
    ),
    need(
        Purpose::Checks,
        "e2fsprogs",
        "mke2fs",
        "ext2, ext3 and ext4 to read in tests",
    ),
    need(
        Purpose::Checks,
        "xfsprogs",
        "mkfs.xfs",
        "XFS to read in tests",
    ),
    need(
        Purpose::Checks,
        "cryptsetup-bin",
        "cryptsetup",
        "LUKS2 to read in tests",
    ),
    need(
        Purpose::Checks,
        "dislocker",
        "dislocker-file",
        "a second opinion on BitLocker",
    ),
    need(
        Purpose::Checks,
        "xz-utils",
        "xz",
        "unpacking BitLocker volumes, and kernel modules of the laboratory",
    ),
    need(
        Purpose::Checks,
        "lvm2",
        "lvm",
        "volume groups to read in tests and in the laboratory",
    ),
    need(
        Purpose::Checks,
        "mdadm",
        "mdadm",
        "RAID sets in the laboratory",
    ),
    need(
        Purpose::Checks,
        "thin-provisioning-tools",
        "thin_check",
        "thin pools in the laboratory",
    ),
    need(
        Purpose::Checks,
        "gdisk",
        "sgdisk",
        "a second opinion on partition tables",
    ),
    need(
        Purpose::Checks,
        "b3sum",
        "b3sum",
        "a second opinion on BLAKE3 digests of images",
    ),
    need(
        Purpose::Checks,
        "btrfs-progs",
        "mkfs.btrfs",
        "btrfs to read in tests",
    ),
    need(
        Purpose::Checks,
        "time",
        "time",
        "the memory that a map takes",
    ),
    need(
        Purpose::Checks,
        "partclone",
        "partclone.ext4",
        "a second opinion on used blocks",
    ),
    need(
        Purpose::Checks,
        "gddrescue",
        "ddrescuelog",
        "reading the maps of bad sectors",
    ),
    need(
        Purpose::Checks,
        "ntfs-3g",
        "mkntfs",
        "NTFS to read in tests, and writing to it",
    ),
    need(
        Purpose::Checks,
        "attr",
        "setfattr",
        "compressed folders on it",
    ),
    need(
        Purpose::Checks,
        "exfatprogs",
        "mkfs.exfat",
        "exFAT to read in tests",
    ),
    need(
        Purpose::Checks,
        "exfat-fuse",
        "mount.exfat-fuse",
        "writing to it",
    ),
    need(
        Purpose::Checks,
        "user-mode-linux",
        "linux.uml",
        "drivers that this machine's kernel lacks, for filling filesystems in tests",
    ),
    need(Purpose::Checks, "kmod", "modprobe", "loading those drivers"),
    need(
        Purpose::Checks,
        "zstd",
        "zstd",
        "what partclone is piped to in the bench",
    ),
    need(
        Purpose::Checks,
        "cpio",
        "cpio",
        "packing an initramfs in tests",
    ),
    need(
        Purpose::Checks,
        "initramfs-tools-core",
        "lsinitramfs",
        "a second opinion on what is in one",
    ),
    need(Purpose::Checks, "lz4", "lz4", "packing one as Ubuntu did"),
    need(
        Purpose::Checks,
        "libwin-hivex-perl",
        "hivexregedit",
        "registry hives to read in tests",
    ),
    need(
        Purpose::Checks,
        "f2fs-tools",
        "mkfs.f2fs",
        "F2FS to read in tests",
    ),
    need(
        Purpose::Checks,
        "hfsprogs",
        "mkfs.hfsplus",
        "HFS+ to read in tests",
    ),
    need(
        Purpose::Checks,
        "apfsprogs",
        "mkapfs",
        "APFS to read in tests",
    ),
    need(
        Purpose::Checks,
        "reiserfsprogs",
        "mkreiserfs",
        "ReiserFS to read in tests",
    ),
    need(
        Purpose::Checks,
        "jfsutils",
        "mkfs.jfs",
        "JFS to read in tests",
    ),
    need(
        Purpose::Checks,
        "syslinux-common",
        "/usr/lib/syslinux/mbr/mbr.bin",
        "other boot code that it has to recognise",
    ),
    need(
        Purpose::Checks,
        "parted",
        "parted",
        "boot code that says nothing about a system",
    ),
    need(
        Purpose::Checks,
        "smartmontools",
        "smartctl",
        "a second opinion on the health of disks, in the laboratory",
    ),
    need(
        Purpose::Checks,
        "hdparm",
        "hdparm",
        "a second opinion on hidden sectors",
    ),
    need(
        Purpose::Checks,
        "nvme-cli",
        "nvme",
        "a second opinion on NVMe disks",
    ),
    need(
        Purpose::Checks,
        "dmidecode",
        "dmidecode",
        "a second opinion on what the firmware says",
    ),
    need(
        Purpose::Checks,
        "pciutils",
        "lspci",
        "a second opinion on PCI functions",
    ),
    need(
        Purpose::Checks,
        "udev",
        "udevadm",
        "a second opinion on the names of network cards",
    ),
    need(
        Purpose::Checks,
        "ethtool",
        "ethtool",
        "a second opinion on network cards",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_is_found_and_what_is_not_is_missing() {
        let there = need(Purpose::Build, "coreutils", "ls", "");
        let program = need(Purpose::Build, "none", "haulier-no-such-program", "");
        let file = need(Purpose::Build, "none", "/no/such/file", "");
        assert!(there.is_met() && !program.is_met() && !file.is_met());
    }

    #[test]
    fn every_package_is_listed_once() {
        let mut names: Vec<&str> = ALL.iter().map(|need| need.package).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
