//! The tree that the inventory is read from: `/`, or a recorded one in a test. Everything in it is
//! optional: what cannot be read is `None`, never an error.

use crate::device::sysfs::attribute;
use std::fs;
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;

/// A root directory whose `/sys` and `/proc` are read.
#[derive(Debug, Clone)]
pub(super) struct SysRoot(PathBuf);

impl SysRoot {
    /// `root` is `/` on a real machine.
    pub(super) fn new(root: &Path) -> Self {
        // Resolved once, so that resolved links below it can be compared with it.
        Self(fs::canonicalize(root).unwrap_or_else(|_| root.to_owned()))
    }

    /// Whether it is this machine itself, which can be asked more than its files say.
    pub(super) fn is_live(&self) -> bool {
        self.0 == Path::new("/")
    }

    /// Where the absolute `path` lies below this root.
    pub(super) fn path(&self, path: &str) -> PathBuf {
        self.0.join(path.trim_start_matches('/'))
    }

    /// The trimmed text of a one-line file.
    pub(super) fn text(&self, path: &str) -> Option<String> {
        attribute(&self.path(path))
    }

    /// The whole text of a file.
    pub(super) fn lines(&self, path: &str) -> Option<String> {
        let bytes = fs::read(self.path(path)).ok()?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// The bytes of a file.
    pub(super) fn bytes(&self, path: &str) -> Option<Vec<u8>> {
        fs::read(self.path(path)).ok()
    }

    /// The entries of a directory with their names, sorted as people count: `sda`, `sdb`, `sdaa`;
    /// `nvme2n1` before `nvme10n1`.
    pub(super) fn entries(&self, dir: &str) -> Vec<(String, PathBuf)> {
        let mut entries: Vec<(String, PathBuf)> = fs::read_dir(self.path(dir))
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| Some((entry.file_name().into_string().ok()?, entry.path())))
            .collect();
        entries.sort_by_cached_key(|(name, _)| natural_key(name));
        entries
    }

    /// The device directory behind a link in `/sys/block` or `/sys/class`.
    pub(super) fn device(&self, link: &Path) -> Option<PathBuf> {
        let real = fs::canonicalize(link).ok()?;
        real.starts_with(&self.0).then_some(real)
    }

    /// A resolved path as the machine itself names it (without this root's prefix).
    pub(super) fn inside(&self, path: &Path) -> PathBuf {
        match path.strip_prefix(&self.0) {
            Ok(rest) => Path::new("/").join(rest),
            Err(_) => path.to_owned(),
        }
    }
}

/// A number in a one-line file.
pub(super) fn number<T: FromStr>(path: &Path) -> Option<T> {
    attribute(path)?.parse().ok()
}

/// A hexadecimal number in a one-line file, with or without `0x`.
pub(super) fn hex(path: &Path) -> Option<u32> {
    let text = attribute(path)?;
    u32::from_str_radix(text.trim_start_matches("0x"), 16).ok()
}

/// The last component of the target of a link such as `driver` or `subsystem`.
pub(super) fn link_name(link: &Path) -> Option<String> {
    let target = fs::read_link(link).ok()?;
    match target.components().next_back()? {
        Component::Normal(name) => name.to_str().map(str::to_owned),
        _ => None,
    }
}

/// A run of a name: the first two letters of its family, its length, its number, its letters.
type Run = (String, usize, u64, String);

/// Splits a name into runs of digits, compared as numbers, and runs of letters, of which the shorter
/// comes first in its family (`sdz` before `sdaa`).
fn natural_key(name: &str) -> Vec<Run> {
    let mut key: Vec<Run> = Vec::new();
    let mut rest = name;
    while let Some(first) = rest.chars().next() {
        let digits = first.is_ascii_digit();
        let end = rest
            .find(|c: char| c.is_ascii_digit() != digits)
            .unwrap_or(rest.len());
        let (run, after) = rest.split_at(end);
        rest = after;
        key.push(if digits {
            (
                String::new(),
                0,
                run.parse().unwrap_or(u64::MAX),
                String::new(),
            )
        } else {
            (run.chars().take(2).collect(), run.len(), 0, run.to_owned())
        });
    }
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_sort_as_people_count() {
        let mut names = ["sdaa", "nvme10n1", "sdb", "nvme2n1", "sda"];
        names.sort_by_cached_key(|name| natural_key(name));
        assert_eq!(names, ["nvme2n1", "nvme10n1", "sda", "sdb", "sdaa"]);
    }
}
