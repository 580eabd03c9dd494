//! The archive format that the kernel unpacks: "newc", as in the kernel's
//! Documentation/driver-api/early-userspace/buffer-format.rst.

use super::tree::{Node, Tree};
use anyhow::{Context, Result};

/// Every file's time: the archive must not know when it was made.
const MTIME: u32 = 1_764_547_200;

const S_IFDIR: u32 = 0o040_000;
const S_IFREG: u32 = 0o100_000;
const S_IFLNK: u32 = 0o120_000;

/// Writes `tree` as an archive; the entry called `last`, if any, comes after all others.
///
/// # Errors
/// When a file does not fit the format (4 GiB).
pub fn write(tree: &Tree, last: Option<&str>) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    let mut inode = 0;
    let (late, early): (Vec<_>, Vec<_>) = tree.iter().partition(|(path, _)| Some(*path) == last);
    for (path, node) in early.into_iter().chain(late) {
        let (mode, links, data) = match node {
            Node::Folder => (S_IFDIR | 0o755, 2, &[][..]),
            Node::File(mode, data) => (S_IFREG | mode, 1, data.as_slice()),
            Node::Link(target) => (S_IFLNK | 0o777, 1, target.as_bytes()),
        };
        inode += 1;
        entry(&mut out, path, [inode, mode, links, MTIME], data)
            .with_context(|| format!("packing {path}"))?;
    }
    entry(&mut out, "TRAILER!!!", [0, 0, 1, 0], &[])?;
    Ok(out)
}

fn entry(out: &mut Vec<u8>, path: &str, numbers: [u32; 4], data: &[u8]) -> Result<()> {
    let [inode, mode, links, mtime] = numbers;
    let size = u32::try_from(data.len()).context("larger than the format allows")?;
    let name_size = u32::try_from(path.len() + 1).context("its name is too long")?;
    let fields = [
        inode, mode, 0, // c_uid
        0, // c_gid
        links, mtime, size, 0, // c_devmajor
        0, // c_devminor
        0, // c_rdevmajor
        0, // c_rdevminor
        name_size, 0, // c_check
    ];
    out.extend(b"070701");
    for field in fields {
        out.extend(format!("{field:08x}").bytes());
    }
    out.extend(path.bytes());
    out.push(0);
    out.resize(out.len().next_multiple_of(4), 0);
    out.extend(data);
    out.resize(out.len().next_multiple_of(4), 0);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packages;
    use std::fs;
    use std::io::Write;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    use std::path::Path;
    use std::process::{Command, Stdio};

    fn sample() -> Tree {
        let mut tree = Tree::default();
        tree.program("init", b"#!/bin/sh\n".to_vec());
        tree.file("etc/first", b"abc".to_vec());
        tree.file("usr/share/empty", Vec::new());
        tree.link("bin", "usr/bin");
        tree
    }

    /// Unpacks with busybox, which knows nothing of this code; gives the names in their order.
    fn unpack(archive: &[u8], folder: &Path) -> Vec<String> {
        let lock = packages::Lock::parse(include_str!("../../packages.lock")).unwrap();
        let busybox = packages::unpack(&lock)
            .unwrap()
            .path()
            .join("usr/bin/busybox");
        let mut child = Command::new(busybox)
            .args(["cpio", "-i", "-d", "-m", "-v"])
            .current_dir(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(archive).unwrap();
        let output = child.wait_with_output().unwrap();
        let words = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{words}");
        let names = String::from_utf8(output.stdout).unwrap() + &words;
        names
            .lines()
            .filter(|line| !line.ends_with(" blocks"))
            .map(str::to_owned)
            .collect()
    }

    #[test]
    fn busybox_unpacks_what_was_put_in() {
        let folder = tempfile::tempdir().unwrap();
        unpack(&write(&sample(), None).unwrap(), folder.path());
        let at = |path: &str| folder.path().join(path);
        assert_eq!(fs::read(at("etc/first")).unwrap(), b"abc");
        assert_eq!(fs::read(at("usr/share/empty")).unwrap(), b"");
        assert_eq!(fs::read_link(at("bin")).unwrap().to_str(), Some("usr/bin"));
        let init = fs::metadata(at("init")).unwrap();
        assert_eq!(init.permissions().mode() & 0o777, 0o755);
        assert_eq!(init.mtime(), i64::from(MTIME));
    }

    #[test]
    fn the_sentinel_comes_last() {
        let folder = tempfile::tempdir().unwrap();
        let names = unpack(&write(&sample(), Some("etc/first")).unwrap(), folder.path());
        assert_eq!(names.first().map(String::as_str), Some("bin"), "{names:?}");
        assert_eq!(
            names.last().map(String::as_str),
            Some("etc/first"),
            "{names:?}"
        );
    }

    #[test]
    fn every_entry_starts_at_a_multiple_of_four() {
        let archive = write(&sample(), None).unwrap();
        assert_eq!(archive.len() % 4, 0);
        let trailer = archive
            .windows(10)
            .position(|w| w == b"TRAILER!!!")
            .unwrap();
        assert_eq!((trailer - 110) % 4, 0);
    }
}
