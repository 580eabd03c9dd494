//! What the kernel boots into: everything that runs in the appliance, in memory.
//!
//! In: the sysroot of the locked packages and the appliance's programs. Out: one file for GRUB's
//! `initrd`: an early archive with CPU microcode, then a zstd-compressed archive with the root
//! file system. `modules` chooses the kernel modules and their firmware, `tree` holds the files,
//! `cpio` writes them.

mod cpio;
mod modules;
mod tree;

pub use cpio::write as archive;
pub use modules::{Choice, add as add_modules};
pub use tree::{Node, Tree};

use crate::packages::Sysroot;
use crate::programs::Programs;
use crate::tool;
use anyhow::{Context, Result, ensure};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Debian's multi-architecture library folder, which its loader searches.
const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";

/// What `/sbin/mke2fs` and `/sbin/e2fsck` are needed for: the stick's data partition.
const EXT4_PROGRAMS: [&str; 2] = ["usr/sbin/mke2fs", "usr/sbin/e2fsck"];

/// Modules stay `.ko.xz` and hardly shrink; beyond this level the rest gains under 1 %.
const ZSTD_LEVEL: i32 = 12;

/// Packs the initramfs for the kernel `release`.
///
/// # Errors
/// When something that belongs into it is missing.
pub(crate) fn pack(sysroot: &Sysroot, programs: &Programs, release: &str) -> Result<Vec<u8>> {
    let root = root(sysroot, programs, release)?;
    let mut archive = cpio::write(&microcode(sysroot)?, None)?;
    // The kernel skips zeros up to the next archive, which starts at a multiple of four bytes.
    archive.resize(archive.len().next_multiple_of(512), 0);
    let plain = cpio::write(&root, Some("etc/haulier-complete"))?;
    let mut encoder = zstd::Encoder::new(archive, ZSTD_LEVEL)?;
    // With a checksum the kernel notices a stick that reads back wrong.
    encoder.include_checksum(true)?;
    std::io::Write::write_all(&mut encoder, &plain)?;
    Ok(encoder.finish()?)
}

/// The root file system, in Debian's merged layout: `/bin`, `/sbin`, `/lib` lead into `/usr`.
fn root(sysroot: &Sysroot, programs: &Programs, release: &str) -> Result<Tree> {
    let mut tree = Tree::default();
    for folder in [
        "dev", "etc", "mnt", "proc", "root", "run", "sys", "tmp", "usr/sbin",
    ] {
        tree.folder(folder);
    }
    for folder in ["bin", "sbin", "lib", "lib64"] {
        tree.link(folder, &format!("usr/{folder}"));
    }
    tree.program("init", read(&programs.init)?);
    tree.program("usr/bin/haulier", read(&programs.haulier)?);
    // The kernel calls this when it wants a module; init is that program too.
    tree.link("usr/sbin/modprobe", "/init");
    tree.program(
        "usr/bin/busybox",
        read(&sysroot.path().join("usr/bin/busybox"))?,
    );
    tree.link("usr/bin/sh", "busybox");
    for program in EXT4_PROGRAMS {
        tree.program(program, read(&sysroot.path().join(program))?);
    }
    for library in libraries(sysroot, &EXT4_PROGRAMS)? {
        let path = format!("{LIBRARIES}/{library}");
        let data = read(&sysroot.path().join(&path))?;
        tree.program(&path, data);
    }
    let loader = "usr/lib64/ld-linux-x86-64.so.2";
    tree.program(loader, read(&sysroot.path().join(loader))?);
    tree.file(
        "etc/mke2fs.conf",
        read(&sysroot.path().join("etc/mke2fs.conf"))?,
    );
    tree.file(
        "etc/haulier-release",
        format!("VERSION={}\nKERNEL={release}\n", env!("CARGO_PKG_VERSION")).into_bytes(),
    );
    // Read by init: an initramfs that was cut short lacks its last entry.
    tree.file("etc/haulier-complete", b"the initramfs is whole\n".to_vec());
    modules::add(&mut tree, sysroot, release, &modules::APPLIANCE)?;
    Ok(tree)
}

/// The libraries that `programs` need, by file name.
fn libraries(sysroot: &Sysroot, programs: &[&str]) -> Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for program in programs {
        let text = tool::run(&mut sysroot.libraries_of(program), "libc6")?;
        for line in String::from_utf8_lossy(&text).lines() {
            let Some((name, path)) = line.trim().split_once(" => ") else {
                continue;
            };
            if name.contains('/') {
                continue; // The loader itself has its own place.
            }
            // "not found" or a library of the host would be noticed on the stick only.
            ensure!(
                Path::new(path.split(" (").next().unwrap_or(path)).starts_with(sysroot.path()),
                "{program} needs {name}, which is in none of the locked packages"
            );
            names.insert(name.to_owned());
        }
    }
    Ok(names)
}

/// The early archive: the kernel looks into it before it has decompressed anything.
fn microcode(sysroot: &Sysroot) -> Result<Tree> {
    let folder = sysroot.path().join("usr/lib/firmware/amd-ucode");
    let mut paths = fs::read_dir(&folder)
        .with_context(|| format!("reading {}", folder.display()))?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<Vec<_>>>()?;
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "bin"));
    paths.sort();
    let mut data = Vec::new();
    for path in paths {
        data.extend(read(&path)?);
    }
    let mut tree = Tree::default();
    tree.file("kernel/x86/microcode/AuthenticAMD.bin", data);
    Ok(tree)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("reading {}", path.display()))
}
