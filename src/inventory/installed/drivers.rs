//! Which kernel modules are told: drivers of storage and network, and filesystems. A virtual machine
//! starts if the initramfs has the driver of its disk; nothing else in there matters to it.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use std::collections::BTreeSet;

/// Modules that are told of one kernel.
const MOST: usize = 4096;

/// Folders of the kernel's tree with drivers that are told.
const FOLDERS: [&str; 24] = [
    "drivers/ata/",
    "drivers/block/",
    "drivers/cdrom/",
    "drivers/firewire/",
    "drivers/hv/",
    "drivers/md/",
    "drivers/message/",
    "drivers/mmc/",
    "drivers/net/",
    "drivers/nvdimm/",
    "drivers/nvme/",
    "drivers/pci/controller/",
    // Where VMD was before Linux 4.20.
    "drivers/pci/host/",
    "drivers/s390/block/",
    "drivers/s390/scsi/",
    "drivers/scsi/",
    "drivers/target/",
    "drivers/ufs/",
    "drivers/usb/host/",
    "drivers/usb/storage/",
    "drivers/virtio/",
    "drivers/xen/",
    "fs/",
    "net/core/",
];
/// Beside `kernel/`, where drivers of other makers are.
const FOREIGN: [&str; 3] = ["extra/", "updates/", "weak-updates/"];

/// The names of modules, normalised.
#[derive(Debug, Default)]
pub(super) struct Drivers(BTreeSet<String>);

impl Drivers {
    /// Adds a file of an initramfs, if it is a module that is told:
    /// `usr/lib/modules/6.12.57/kernel/drivers/ata/ahci.ko.xz`.
    pub(super) fn add_file(&mut self, path: &str) {
        let below = path
            .split_once("lib/modules/")
            .and_then(|(_, below)| below.split_once('/'));
        if let Some((_release, below)) = below {
            self.add(below);
        }
    }

    /// Adds a module by its path below the kernel's folder, `kernel/drivers/ata/ahci.ko`.
    pub(super) fn add(&mut self, path: &str) {
        let is_told = match path.strip_prefix("kernel/") {
            Some(below) => FOLDERS.iter().any(|folder| below.starts_with(folder)),
            None => FOREIGN.iter().any(|folder| path.starts_with(folder)),
        };
        let file = path.rsplit('/').next().unwrap_or(path);
        let Some((name, compressed)) = file.split_once(".ko") else {
            return;
        };
        let is_module = matches!(compressed, "" | ".gz" | ".xz" | ".zst");
        let fits = !name.is_empty()
            && name.len() <= 64
            && name
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_+.".contains(&byte));
        if is_told && is_module && fits && self.0.len() < MOST {
            self.0.insert(name.replace('-', "_"));
        }
    }

    /// Sorted.
    pub(super) fn into_names(self) -> Vec<String> {
        self.0.into_iter().collect()
    }
}

/// What `modules.builtin` lists.
pub(super) fn built_in(text: &str) -> Vec<String> {
    let mut drivers = Drivers::default();
    for line in text.lines() {
        drivers.add(line.trim());
    }
    drivers.into_names()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_of_storage_and_network_are_told() {
        let mut drivers = Drivers::default();
        for path in [
            "usr/lib/modules/6.12.57/kernel/drivers/ata/ahci.ko.xz",
            "lib/modules/5.14/kernel/drivers/scsi/megaraid/megaraid_sas.ko.zst",
            "lib/modules/5.14/kernel/drivers/block/virtio_blk.ko",
            "lib/modules/5.14/kernel/drivers/virtio/virtio-pci.ko.gz",
            "lib/modules/5.14/extra/mpi3mr.ko",
            "lib/modules/5.14/kernel/fs/ext4/ext4.ko",
            "lib/modules/5.14/kernel/drivers/gpu/drm/ast/ast.ko",
            "lib/modules/5.14/kernel/drivers/ata/README",
            "lib/modules/5.14/kernel/drivers/ata/.ko",
            "lib/modules/5.14/kernel/drivers/ata/a\nb.ko",
            "lib/modules/5.14/modules.dep",
            "etc/ahci.ko",
        ] {
            drivers.add_file(path);
        }
        let expected = [
            "ahci",
            "ext4",
            "megaraid_sas",
            "mpi3mr",
            "virtio_blk",
            "virtio_pci",
        ];
        assert_eq!(drivers.into_names(), expected);
        let text = "kernel/drivers/nvme/host/nvme-core.ko\nkernel/arch/x86/crypto/aes.ko\n";
        assert_eq!(built_in(text), ["nvme_core"]);
    }
}
