//! One disk whose power was cut: mapped, everything outside the map overwritten in a copy, and both
//! recovered by this machine's kernel, which must not be able to tell them apart.

use super::map_support::{arg, map_of, run, try_run};
use haulier::extent::{Extent, ExtentList};
use haulier::usedmap::{Policy, State};
use rustix::fs::{lgetxattr, llistxattr};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Output;

/// A filesystem that this machine's kernel recovers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// ext3 and ext4.
    Ext,
    Xfs,
    Btrfs,
}

impl Kind {
    /// As mount knows it.
    pub(crate) fn driver(self) -> &'static str {
        match self {
            Self::Ext => "ext4",
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
        }
    }

    /// Its checker, told to change nothing.
    fn check(self, image: &Path) -> Output {
        match self {
            Self::Ext => try_run("e2fsck", &["-fn", arg(image)]),
            Self::Xfs => try_run("xfs_repair", &["-n", arg(image)]),
            Self::Btrfs => try_run("btrfs", &["check", "--readonly", arg(image)]),
        }
    }
}

/// What was seen of one disk whose power was cut.
#[derive(Debug, Clone)]
pub(crate) struct Outcome {
    /// What the map said.
    pub(crate) state: Option<State>,
    pub(crate) policy: Policy,
    pub(crate) reason: String,
    /// Bytes that a capture reads, and all.
    pub(crate) used: u64,
    pub(crate) size: u64,
    /// Files and folders after the recovery.
    pub(crate) files: usize,
}

/// Maps, punches, recovers and compares `image`, which it changes. The error says how the copy
/// differs; an untouched disk that cannot be recovered either is an error too.
pub(crate) fn prove(kind: Kind, image: &Path, scratch: &Path) -> Result<Outcome, String> {
    let map = map_of(image);
    let region = map.regions.iter().max_by_key(|region| region.length_bytes);
    let region = region.ok_or("the map has no region")?;
    let size = map.disk.size_bytes;
    let copy = scratch.join("copy.img");
    sparse_copy(image, &copy);
    overwrite_rest(&copy, &map.extents, size);

    let untouched = recover(kind, image, scratch)
        .map_err(|error| format!("the untouched disk does not recover: {error}"))?;
    let punched = recover(kind, &copy, scratch)
        .map_err(|error| format!("the copy does not recover: {error}"))?;
    if untouched != punched {
        return Err(difference(&untouched, &punched));
    }
    Ok(Outcome {
        state: region.state,
        policy: region.policy,
        reason: region.reason.clone(),
        used: map.used_bytes,
        size,
        files: untouched.len(),
    })
}

/// Copies an image with its holes.
pub(crate) fn sparse_copy(from: &Path, to: &Path) {
    run("cp", &["--sparse=always", arg(from), arg(to)]);
}

/// Overwrites what is not in the map with bytes that no filesystem has there.
fn overwrite_rest(image: &Path, kept: &ExtentList, size: u64) {
    let file = fs::OpenOptions::new().write(true).open(image).unwrap();
    let whole: ExtentList = Extent::between(0, size).into_iter().collect();
    let junk = vec![0xA5; 1 << 20];
    for hole in whole.subtract(kept).iter() {
        let mut at = hole.start().0;
        while at < hole.end() {
            let len = (hole.end() - at).min(1 << 20);
            let len_here = usize::try_from(len).unwrap();
            file.write_all_at(&junk[..len_here], at).unwrap();
            at += len;
        }
    }
}

/// Everything that can be seen of a tree: by path, what it is and holds.
type Tree = BTreeMap<PathBuf, String>;

/// Mounts, which recovers; looks at everything; unmounts; checks.
fn recover(kind: Kind, image: &Path, scratch: &Path) -> Result<Tree, String> {
    let at = scratch.join("mounted");
    fs::create_dir_all(&at).unwrap();
    let options = match kind {
        // Nothing but the recovery may write.
        Kind::Ext => "loop,noatime,errors=continue",
        Kind::Xfs => "loop,noatime,nouuid",
        Kind::Btrfs => "loop,noatime",
    };
    succeed(privileged(
        "mount",
        &["-t", kind.driver(), "-o", options, arg(image), arg(&at)],
    ))?;
    let tree = look(&at);
    succeed(privileged("umount", &[arg(&at)]))?;
    let tree = tree.map_err(|error| format!("reading it: {error}"))?;
    succeed(kind.check(image)).map_err(|said| format!("its checker: {said}"))?;
    Ok(tree)
}

fn privileged(tool: &str, args: &[&str]) -> Output {
    if rustix::process::geteuid().is_root() {
        return try_run(tool, args);
    }
    let mut words = vec![tool];
    words.extend_from_slice(args);
    try_run("sudo", &words)
}

fn succeed(output: Output) -> Result<(), String> {
    if output.status.success() {
        return Ok(());
    }
    Err(format!(
        "{}: {}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    ))
}

fn look(top: &Path) -> std::io::Result<Tree> {
    let mut tree = Tree::new();
    let mut folders = vec![top.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            let about = fs::symlink_metadata(&path)?;
            let mut line = format!(
                "mode {:o} owner {} links {} size {} changed {}.{}",
                about.mode(),
                about.uid(),
                about.nlink(),
                about.size(),
                about.mtime(),
                about.mtime_nsec()
            );
            if about.is_dir() {
                folders.push(path.clone());
            } else if about.is_symlink() {
                let _ = write!(line, " to {}", fs::read_link(&path)?.display());
            } else {
                let _ = write!(line, " holds {}", digest(&fs::read(&path)?));
            }
            line += &attributes(&path)?;
            let name = path.strip_prefix(top).unwrap_or(&path).to_owned();
            tree.insert(name, line);
        }
    }
    Ok(tree)
}

fn attributes(path: &Path) -> std::io::Result<String> {
    let mut names = vec![0; 64 << 10];
    let length = llistxattr(path, &mut names)?;
    let mut line = String::new();
    for name in names[..length].split(|&byte| byte == 0) {
        if name.is_empty() {
            continue;
        }
        let mut value = vec![0; 64 << 10];
        let length = lgetxattr(path, name, &mut value)?;
        let name = String::from_utf8_lossy(name);
        let _ = write!(line, " {name}={}", digest(&value[..length]));
    }
    Ok(line)
}

fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes)[..8]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

fn difference(untouched: &Tree, punched: &Tree) -> String {
    let mut words = String::from("the copy recovers to something else:");
    let names = untouched.keys().chain(punched.keys());
    let mut names: Vec<_> = names
        .filter(|name| untouched.get(*name) != punched.get(*name))
        .collect();
    names.sort();
    names.dedup();
    let _ = write!(words, " {} differences", names.len());
    for name in names.iter().take(8) {
        let none = "is not there".to_owned();
        let _ = write!(
            words,
            "\n  {}\n    untouched: {}\n    copy:      {}",
            name.display(),
            untouched.get(*name).unwrap_or(&none),
            punched.get(*name).unwrap_or(&none)
        );
    }
    words
}
