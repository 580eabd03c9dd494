//! The kernel's modules in the initramfs: which, what they depend on, and their firmware.
//!
//! The choice is what lets a server show its disks, its network cards' addresses and its
//! keyboard, and what the stick's own file systems need. Modules stay compressed and signed as
//! Debian ships them: the kernel decompresses them itself, and accepts nothing else under Secure
//! Boot.

use super::tree::Tree;
use crate::packages::Sysroot;
use crate::tool;
use anyhow::{Context, Result, ensure};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// Which modules to take.
#[derive(Debug, Clone, Copy)]
pub struct Choice<'a> {
    /// Folders and modules below `kernel/` to take. A folder ends in a slash.
    pub wanted: &'a [&'a str],
    /// Modules in those folders to leave out, unless another one needs them.
    pub unwanted: &'a [&'a str],
}

/// What the appliance has.
pub(super) const APPLIANCE: Choice<'static> = Choice {
    wanted: WANTED,
    unwanted: UNWANTED,
};

/// See [`Choice::wanted`].
const WANTED: &[&str] = &[
    // Disks, by the bus that they hang on.
    "drivers/ata/",
    "drivers/block/",
    "drivers/cdrom/",
    "drivers/firewire/",
    "drivers/md/",
    "drivers/message/fusion/",
    "drivers/mmc/",
    "drivers/nvdimm/",
    "drivers/nvme/host/",
    "drivers/scsi/",
    "drivers/ufs/",
    "drivers/usb/storage/",
    // What those buses hang on.
    "drivers/hv/",
    "drivers/pci/controller/",
    "drivers/usb/host/",
    "drivers/virtio/",
    "drivers/xen/",
    // Network cards tell their addresses once their driver is there; no link is ever set up.
    "drivers/net/ethernet/amazon/",
    "drivers/net/ethernet/amd/",
    "drivers/net/ethernet/aquantia/",
    "drivers/net/ethernet/atheros/",
    "drivers/net/ethernet/broadcom/",
    "drivers/net/ethernet/brocade/",
    "drivers/net/ethernet/chelsio/",
    "drivers/net/ethernet/cisco/",
    "drivers/net/ethernet/emulex/",
    "drivers/net/ethernet/google/",
    "drivers/net/ethernet/huawei/",
    "drivers/net/ethernet/intel/",
    "drivers/net/ethernet/marvell/",
    "drivers/net/ethernet/mellanox/",
    "drivers/net/ethernet/microsoft/",
    "drivers/net/ethernet/nvidia/",
    "drivers/net/ethernet/pensando/",
    "drivers/net/ethernet/qlogic/",
    "drivers/net/ethernet/realtek/",
    "drivers/net/ethernet/sfc/",
    "drivers/net/hyperv/",
    "drivers/net/phy/",
    "drivers/net/virtio_net",
    "drivers/net/vmxnet3/",
    "drivers/net/xen-netfront",
    // Keyboards, those of BMCs and hypervisors included.
    "drivers/hid/hid",
    "drivers/hid/hid-apple",
    "drivers/hid/hid-belkin",
    "drivers/hid/hid-cherry",
    "drivers/hid/hid-chicony",
    "drivers/hid/hid-cypress",
    "drivers/hid/hid-generic",
    "drivers/hid/hid-holtek-kbd",
    "drivers/hid/hid-hyperv",
    "drivers/hid/hid-lenovo",
    "drivers/hid/hid-logitech",
    "drivers/hid/hid-logitech-dj",
    "drivers/hid/hid-microsoft",
    "drivers/hid/usbhid/",
    "drivers/input/evdev",
    "drivers/input/serio/hyperv-keyboard",
    // The stick's own file systems, and those that other storage for captures comes with.
    "fs/btrfs/",
    "fs/efivarfs/",
    "fs/exfat/",
    "fs/ext4/",
    "fs/fat/",
    "fs/isofs/",
    "fs/nls/nls_ascii",
    "fs/nls/nls_cp437",
    "fs/nls/nls_iso8859-1",
    "fs/nls/nls_utf8",
    "fs/ntfs3/",
    "fs/udf/",
    "fs/xfs/",
    // Checksums and ciphers that the above ask for by name at run time.
    "arch/x86/crypto/aesni-intel",
    "arch/x86/crypto/crc32-pclmul",
    "arch/x86/crypto/crc32c-intel",
    "arch/x86/crypto/crct10dif-pclmul",
    "arch/x86/crypto/sha256-ssse3",
    "arch/x86/crypto/sha512-ssse3",
    "crypto/blake2b_generic",
    "crypto/crc32_generic",
    "crypto/crc32c_generic",
    "crypto/essiv",
    "crypto/xts",
    "crypto/xxhash_generic",
];

/// See [`Choice::unwanted`].
const UNWANTED: &[&str] = &[
    // Disks that are elsewhere: whoever owns them captures them there.
    "aoe",
    "be2iscsi",
    "bnx2fc",
    "bnx2i",
    "csiostor",
    "cxgb3i",
    "cxgb4i",
    "drbd",
    "fcoe",
    "iscsi_tcp",
    "nbd",
    "nvme-rdma",
    "nvme-tcp",
    "qedf",
    "qedi",
    "qla4xxx",
    "rbd",
    // Disks that are none.
    "brd",
    "null_blk",
    "scsi_debug",
    "ublk_drv",
    "zram",
    // Looking for a floppy disk that is not there takes half a minute.
    "floppy",
    // Tapes and changers.
    "ch",
    "st",
    // The other side: serving disks to others.
    "tcm_qla2xxx",
    "xen-blkback",
    "xen-pciback",
    "xen-scsiback",
    // Clusters of hosts, and networks over what is not a network card.
    "firewire-net",
    "md-cluster",
    "mptlan",
    "nosy",
];

/// What depmod writes that module loaders read as text.
const INDEXES: [&str; 4] = [
    "modules.alias",
    "modules.builtin",
    "modules.dep",
    "modules.softdep",
];

/// Adds the modules of `choice`, their indexes and their firmware to `tree`.
///
/// # Errors
/// When a part of the choice matches nothing in this kernel, or kmod fails.
pub fn add(tree: &mut Tree, sysroot: &Sysroot, release: &str, choice: &Choice<'_>) -> Result<()> {
    let folder = format!("usr/lib/modules/{release}");
    let source = sysroot.path().join(&folder);
    let scratch = tempfile::tempdir().context("making a folder for kernel modules")?;

    let all = scratch.path().join("all");
    depmod(sysroot, sysroot.path(), Some(&all), release)?;
    let index = Index::read(&all.join(&folder), &source)?;
    let chosen = index.closure(&seeds(&index, choice)?);

    // A second index, of only what is there: a loader must not be sent after a missing file.
    let few = scratch.path().join("few");
    for path in &chosen {
        let target = few.join(&folder).join(path);
        fs::create_dir_all(target.parent().context("a module at the root")?)?;
        fs::copy(source.join(path), &target).with_context(|| format!("copying {path}"))?;
        tree.file(&format!("{folder}/{path}"), fs::read(&target)?);
    }
    for name in [
        "modules.builtin",
        "modules.builtin.modinfo",
        "modules.order",
    ] {
        fs::copy(source.join(name), few.join(&folder).join(name))
            .with_context(|| format!("copying {name}"))?;
    }
    depmod(sysroot, &few, None, release)?;
    for name in INDEXES {
        let data = fs::read(few.join(&folder).join(name))
            .with_context(|| format!("depmod wrote no {name}"))?;
        tree.file(&format!("{folder}/{name}"), data);
    }
    firmware(tree, sysroot, chosen.iter().map(|path| source.join(path)))
}

/// Writes the module indexes for `base` into `out`, or into `base` itself.
fn depmod(sysroot: &Sysroot, base: &Path, out: Option<&Path>, release: &str) -> Result<()> {
    let mut command = sysroot.command("usr/sbin/depmod");
    command
        .args(["--moduledir", "/usr/lib/modules", "--basedir"])
        .arg(base);
    if let Some(out) = out {
        command.arg("--outdir").arg(out);
    }
    tool::run(command.arg(release), "kmod").context("indexing the kernel modules")?;
    Ok(())
}

/// Adds the firmware that the modules at `paths` name, as far as the locked packages have it:
/// drivers name many files that were never published, and all variants of a card.
fn firmware(
    tree: &mut Tree,
    sysroot: &Sysroot,
    paths: impl Iterator<Item = impl AsRef<std::ffi::OsStr>>,
) -> Result<()> {
    let text = tool::run(
        sysroot
            .command("usr/sbin/modinfo")
            .args(["--field", "firmware"])
            .args(paths),
        "kmod",
    )?;
    let names: BTreeSet<String> = String::from_utf8_lossy(&text)
        .lines()
        .map(str::to_owned)
        .collect();
    for name in names {
        let path = format!("usr/lib/firmware/{name}");
        if let Ok(data) = fs::read(sysroot.path().join(&path)) {
            tree.file(&path, data);
        }
    }
    Ok(())
}

/// The modules that the choice names directly.
fn seeds(index: &Index, choice: &Choice<'_>) -> Result<BTreeSet<String>> {
    let unwanted: BTreeSet<String> = choice.unwanted.iter().map(|name| canonical(name)).collect();
    for name in &unwanted {
        ensure!(
            index.by_name.contains_key(name),
            "the kernel has no module {name} to leave out: the list is out of date"
        );
    }
    let mut seeds = BTreeSet::new();
    for wanted in choice.wanted {
        let before = seeds.len();
        for (name, path) in &index.by_name {
            let Some(below) = path.strip_prefix("kernel/") else {
                continue;
            };
            let hit = if wanted.ends_with('/') {
                below.starts_with(wanted)
            } else {
                below
                    .split_once(".ko")
                    .is_some_and(|(stem, _)| stem == *wanted)
            };
            if hit && !unwanted.contains(name) {
                seeds.insert(path.clone());
            }
        }
        ensure!(
            seeds.len() > before,
            "the kernel has no modules in {wanted}: the list is out of date"
        );
    }
    Ok(seeds)
}

/// depmod's indexes, as far as choosing needs them.
#[derive(Debug, Default)]
struct Index {
    /// Module name to path.
    by_name: BTreeMap<String, String>,
    /// Path to the paths of what it cannot be loaded without.
    depends: BTreeMap<String, Vec<String>>,
    /// Module name to the names and aliases that are to be loaded with it.
    soft: BTreeMap<String, Vec<String>>,
    /// Alias to module names.
    aliases: BTreeMap<String, Vec<String>>,
}

impl Index {
    fn read(indexes: &Path, source: &Path) -> Result<Self> {
        let text = |name: &str| {
            fs::read_to_string(indexes.join(name))
                .with_context(|| format!("depmod wrote no {name}"))
        };
        let index = Self::parse(
            &text("modules.dep")?,
            &text("modules.softdep")?,
            &text("modules.alias")?,
        );
        ensure!(
            !index.by_name.is_empty(),
            "there are no kernel modules in {}",
            source.display()
        );
        Ok(index)
    }

    fn parse(dep: &str, softdep: &str, alias: &str) -> Self {
        let mut index = Self::default();
        for (path, depends) in dep.lines().filter_map(|line| line.split_once(':')) {
            let file = path.rsplit('/').next().unwrap_or(path);
            let stem = file.split(".ko").next().unwrap_or(file);
            index.by_name.insert(canonical(stem), path.to_owned());
            let depends = depends.split_whitespace().map(str::to_owned).collect();
            index.depends.insert(path.to_owned(), depends);
        }
        for line in softdep.lines() {
            let mut words = line.split_whitespace();
            if words.next() != Some("softdep") {
                continue;
            }
            let Some(name) = words.next() else { continue };
            let names = words.filter(|word| !matches!(*word, "pre:" | "post:"));
            index
                .soft
                .entry(canonical(name))
                .or_default()
                .extend(names.map(str::to_owned));
        }
        for line in alias.lines() {
            let mut words = line.split_whitespace();
            if let (Some("alias"), Some(alias), Some(name)) =
                (words.next(), words.next(), words.next())
            {
                index
                    .aliases
                    .entry(alias.to_owned())
                    .or_default()
                    .push(canonical(name));
            }
        }
        index
    }

    /// `seeds` with everything that they depend on, hard or soft, as paths.
    fn closure(&self, seeds: &BTreeSet<String>) -> BTreeSet<String> {
        let mut chosen = BTreeSet::new();
        let mut next: Vec<String> = seeds.iter().cloned().collect();
        while let Some(path) = next.pop() {
            if chosen.contains(&path) {
                continue;
            }
            next.extend(self.depends.get(&path).into_iter().flatten().cloned());
            let file = path.rsplit('/').next().unwrap_or(&path);
            let name = canonical(file.split(".ko").next().unwrap_or(file));
            for wish in self.soft.get(&name).into_iter().flatten() {
                // What is neither a module nor an alias is built into the kernel.
                let direct = self.by_name.get(&canonical(wish));
                let aliased = self.aliases.get(wish).into_iter().flatten();
                next.extend(direct.cloned());
                next.extend(aliased.filter_map(|name| self.by_name.get(name)).cloned());
            }
            chosen.insert(path);
        }
        chosen
    }
}

/// Module names treat `-` and `_` alike.
fn canonical(name: &str) -> String {
    name.replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEP: &str = "kernel/fs/ext4/ext4.ko.xz: kernel/fs/jbd2/jbd2.ko.xz kernel/lib/crc16.ko.xz\n\
        kernel/fs/jbd2/jbd2.ko.xz:\nkernel/lib/crc16.ko.xz:\nkernel/crypto/crc32c_generic.ko.xz:\n\
        kernel/arch/x86/crypto/crc32c-intel.ko.xz:\nkernel/fs/other.ko.xz:\n";
    const SOFTDEP: &str = "# comment\nsoftdep jbd2 pre: crypto-crc32c nothing\n";
    const ALIAS: &str =
        "alias crypto-crc32c crc32c_intel\nalias crypto-crc32c crc32c_generic\nalias fs-x other\n";

    #[test]
    fn the_closure_follows_hard_and_soft_dependencies() {
        let index = Index::parse(DEP, SOFTDEP, ALIAS);
        let seeds = BTreeSet::from(["kernel/fs/ext4/ext4.ko.xz".to_owned()]);
        let chosen = index.closure(&seeds);
        let names: Vec<_> = chosen.iter().map(String::as_str).collect();
        assert_eq!(
            names,
            [
                "kernel/arch/x86/crypto/crc32c-intel.ko.xz",
                "kernel/crypto/crc32c_generic.ko.xz",
                "kernel/fs/ext4/ext4.ko.xz",
                "kernel/fs/jbd2/jbd2.ko.xz",
                "kernel/lib/crc16.ko.xz",
            ]
        );
    }

    #[test]
    fn a_choice_that_matches_nothing_is_an_error() {
        let index = Index::parse(DEP, SOFTDEP, ALIAS);
        let error = seeds(&index, &APPLIANCE).unwrap_err().to_string();
        assert!(error.contains("out of date"), "{error}");
    }
}
