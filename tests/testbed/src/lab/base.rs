//! What every laboratory has: the kernel of the stick image, modules of the same package, busybox.
//! The archive is made once and kept in the cache.

use crate::command::{run, tool};
use crate::digest::sha256_hex;
use crate::product::workspace;
use anyhow::{Context, Result};
use haulier_image::initramfs::{Choice, Node, Tree, add_modules, archive};
use haulier_image::packages::{self, Lock, Sysroot};
use haulier_image::{cache_dir, kernel_release, lock_path};
use std::fs;
use std::path::{Path, PathBuf};

/// Where the modules are that the laboratory takes, more than the appliance has.
const MODULES: Choice<'static> = Choice {
    wanted: &[
        "arch/x86/crypto/",
        "crypto/",
        "drivers/ata/ahci",
        "drivers/block/loop",
        "drivers/block/virtio_blk",
        "drivers/md/",
        "drivers/net/ethernet/intel/e1000e/",
        "drivers/net/virtio_net",
        "drivers/nvme/host/nvme",
        "drivers/scsi/megaraid/megaraid_sas",
        "drivers/scsi/sd_mod",
        "drivers/scsi/virtio_scsi",
        "fs/btrfs/",
        "fs/exfat/",
        "fs/ext4/",
        "fs/f2fs/",
        "fs/fat/",
        "fs/hfs/",
        "fs/hfsplus/",
        "fs/isofs/",
        "fs/jfs/",
        "fs/nilfs2/",
        "fs/nls/",
        "fs/ntfs3/",
        "fs/reiserfs/",
        "fs/udf/",
        "fs/ufs/",
        "fs/xfs/",
    ],
    unwanted: &["md-cluster"],
};

/// Kernel and first archive.
#[derive(Debug)]
pub(super) struct Base {
    pub kernel: PathBuf,
    pub archive: PathBuf,
}

impl Base {
    /// Takes it from the cache, or makes it there (half a minute, once).
    pub(super) fn get() -> Result<Self> {
        let lock = Lock::read(&lock_path(&workspace()))?;
        let release = kernel_release(&lock)?;
        let sysroot = packages::unpack(&lock)?;
        let folder = cache_dir()?.join("labs");
        // This file is the recipe.
        let recipe = sha256_hex((lock.digest() + include_str!("base.rs")).as_bytes());
        let path = folder.join(format!("{}.cpio", &recipe[..16]));
        if !path.exists() {
            let data = make(&sysroot, release)?;
            fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
            let passing = tempfile::NamedTempFile::new_in(&folder)?;
            fs::write(passing.path(), data)?;
            // Another test may have been faster: its archive is the same.
            passing
                .persist(&path)
                .with_context(|| format!("writing {}", path.display()))?;
        }
        Ok(Self {
            kernel: sysroot.path().join(format!("boot/vmlinuz-{release}")),
            archive: path,
        })
    }
}

fn make(sysroot: &Sysroot, release: &str) -> Result<Vec<u8>> {
    let mut tree = Tree::default();
    for folder in [
        "busybox", "dev", "etc", "lab", "mnt", "proc", "root", "run", "sys", "tmp",
    ] {
        tree.folder(folder);
    }
    for folder in ["bin", "sbin", "lib", "lib64"] {
        tree.folder(&format!("usr/{folder}"));
        tree.link(folder, &format!("usr/{folder}"));
    }
    tree.link("etc/mtab", "/proc/self/mounts");
    for (from, to) in [
        ("usr/bin/busybox", "usr/bin/busybox"),
        ("etc/mke2fs.conf", "etc/mke2fs.conf"),
    ] {
        let data =
            fs::read(sysroot.path().join(from)).with_context(|| format!("reading {from}"))?;
        tree.program(to, data);
    }
    // The kernel calls this when it wants a module.
    tree.link("usr/sbin/modprobe", "../bin/busybox");
    let mut modules = Tree::default();
    add_modules(&mut modules, sysroot, release, &MODULES)?;
    let scratch = tempfile::tempdir().context("making a folder for kernel modules")?;
    for (path, node) in plain(&modules, scratch.path())?.iter() {
        if let Node::File(_, data) = node {
            tree.file(path, data.clone());
        }
    }
    archive(&tree, None)
}

/// The modules decompressed: cheaper here than in an emulated processor.
fn plain(modules: &Tree, scratch: &Path) -> Result<Tree> {
    let mut packed = Vec::new();
    for (path, node) in modules.iter() {
        if let (Some(stem), Node::File(_, data)) = (path.strip_suffix(".xz"), node) {
            let name = scratch.join(format!("{}.ko", packed.len()));
            fs::write(name.with_extension("ko.xz"), data)?;
            packed.push((stem.to_owned(), name));
        }
    }
    run(tool("xz")
        .arg("--decompress")
        .args(packed.iter().map(|(_, name)| name.with_extension("ko.xz"))))?;
    let mut tree = Tree::default();
    for (path, name) in packed {
        tree.file(&path, fs::read(name)?);
    }
    for (path, node) in modules.iter() {
        if let Node::File(_, data) = node
            && !path.ends_with(".xz")
        {
            // The indexes name the files.
            let text = String::from_utf8_lossy(data).replace(".ko.xz", ".ko");
            tree.file(path, text.into_bytes());
        }
    }
    Ok(tree)
}
