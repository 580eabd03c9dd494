//! From a file's number to its path: the directories are asked for the wanted numbers only, and then
//! for the directories that those are in, up to the root.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

/// Names above a file that are put together: nobody goes deeper, hostile metadata may.
const MAX_DEPTH: usize = 4096;
/// Bytes of a path: `PATH_MAX` of Linux is 4096, Windows has 32,767 characters.
const MAX_PATH: usize = 64 << 10;
/// Directories whose names are looked for.
const MAX_NAMES: usize = 1 << 20;
/// Bytes of names that are kept.
const MAX_TEXT: usize = 64 << 20;
/// Times that all directories are gone through: once, and again for directories that could not be
/// asked for what they are in.
const MAX_PASSES: usize = 4;

/// An entry of a directory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entry<'a> {
    pub name: &'a [u8],
    pub inode: u64,
}

/// The directories of a filesystem.
pub(super) trait Directories {
    /// The root's number.
    fn root(&self) -> u64;

    /// Calls `each(directory, entry)` for every directory's entries, `.` and `..` among them or not.
    fn every_entry(&self, each: &mut dyn FnMut(u64, Entry<'_>));

    /// Calls `each` for the entries of one directory, `..` among them, as far as they can be read.
    fn entries_of(&self, directory: u64, each: &mut dyn FnMut(Entry<'_>));
}

/// Where files are, as far as it was asked for.
#[derive(Debug, Default)]
pub(super) struct Names {
    root: u64,
    /// What a number is called: `inode`.
    noun: &'static str,
    /// A directory, and the name in it.
    found: BTreeMap<u64, (u64, String)>,
    /// Bytes of those names.
    text: usize,
}

impl Names {
    pub(super) fn new(root: u64, noun: &'static str) -> Self {
        Self {
            root,
            noun,
            found: BTreeMap::new(),
            text: 0,
        }
    }

    /// What a number is called.
    pub(super) fn noun(&self) -> &'static str {
        self.noun
    }

    /// Remembers a name; the first of several (hard links) stays.
    pub(super) fn add(&mut self, inode: u64, directory: u64, name: String) {
        if self.found.len() < MAX_NAMES && self.text < MAX_TEXT {
            self.text = self.text.saturating_add(name.len());
            self.found.entry(inode).or_insert((directory, name));
        }
    }

    pub(super) fn knows(&self, inode: u64) -> bool {
        inode == self.root || self.found.contains_key(&inode)
    }

    /// The path from the root; `None` if not even its own name is known. A directory above it without
    /// a known name is shown by its number, as the beginning.
    pub(super) fn path(&self, inode: u64) -> Option<String> {
        if inode == self.root {
            return Some("/".into());
        }
        let mut names = Vec::new();
        let mut len = 0_usize;
        let mut at = inode;
        let mut start = String::new();
        while at != self.root {
            match self.found.get(&at) {
                Some((directory, name)) if names.len() < MAX_DEPTH && len < MAX_PATH => {
                    len = len.saturating_add(name.len());
                    names.push(name.as_str());
                    at = *directory;
                }
                None if names.is_empty() => return None,
                _ => {
                    start = format!("<{} {at}>", self.noun);
                    break;
                }
            }
        }
        names.push(&start);
        names.reverse();
        Some(names.join("/"))
    }

    /// Looks for the names of `wanted`.
    pub(super) fn find(
        directories: &dyn Directories,
        noun: &'static str,
        mut wanted: BTreeSet<u64>,
    ) -> Self {
        let mut names = Self::new(directories.root(), noun);
        let mut asked: BTreeSet<u64> = BTreeSet::new();
        for _ in 0..MAX_PASSES {
            wanted.retain(|&inode| !names.knows(inode));
            if wanted.is_empty() {
                break;
            }
            directories.every_entry(&mut |directory, entry| {
                if wanted.contains(&entry.inode) && !is_dots(entry.name) {
                    names.add(entry.inode, directory, printable(entry.name));
                }
            });
            // Directories that were not found from below are looked for in all others, once.
            wanted = names.climb(directories, &mut asked);
        }
        names
    }

    /// Names the directories above those that have a name, by what their `..` says, level by level, so
    /// that each is asked for all that is in it at once. The ones that this did not find.
    fn climb(&mut self, directories: &dyn Directories, asked: &mut BTreeSet<u64>) -> BTreeSet<u64> {
        let mut missed = BTreeSet::new();
        let mut above: BTreeSet<u64> = self.found.values().map(|(at, _)| *at).collect();
        while !above.is_empty() {
            let mut below: BTreeMap<u64, BTreeSet<u64>> = BTreeMap::new();
            for inode in std::mem::take(&mut above) {
                if self.knows(inode) || asked.len() >= MAX_NAMES || !asked.insert(inode) {
                    continue;
                }
                let mut parent = None;
                directories.entries_of(inode, &mut |entry| {
                    if entry.name == b".." {
                        parent = Some(entry.inode);
                    }
                });
                match parent {
                    Some(parent) => {
                        below.entry(parent).or_default().insert(inode);
                    }
                    None => {
                        missed.insert(inode);
                    }
                }
            }
            for (parent, inodes) in below {
                directories.entries_of(parent, &mut |entry| {
                    if inodes.contains(&entry.inode) && !is_dots(entry.name) {
                        self.add(entry.inode, parent, printable(entry.name));
                    }
                });
                let (named, unnamed): (Vec<u64>, Vec<u64>) =
                    inodes.into_iter().partition(|&inode| self.knows(inode));
                missed.extend(unnamed);
                if !named.is_empty() {
                    above.insert(parent);
                }
            }
        }
        missed
    }
}

fn is_dots(name: &[u8]) -> bool {
    name == b"." || name == b".."
}

/// A name as text that does nothing to a terminal or a log: characters that are not printable (or
/// change the direction of the text), `/` and `\\` come as `\\u{1b}`, bytes that are no UTF-8 as
/// `\\xff`.
pub(super) fn printable(name: &[u8]) -> String {
    let mut text = String::with_capacity(name.len());
    for chunk in name.utf8_chunks() {
        for char in chunk.valid().chars() {
            push_plain(&mut text, char);
        }
        for byte in chunk.invalid() {
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    text
}

/// Adds a character of a name as [`printable`] has it.
pub(super) fn push_plain(text: &mut String, char: char) {
    if is_plain(char) {
        text.push(char);
    } else {
        text.extend(char.escape_unicode());
    }
}

fn is_plain(char: char) -> bool {
    let odd = matches!(
        char,
        '/' | '\\'
            | '\u{ad}'
            | '\u{61c}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{feff}'
            | '\u{fff0}'..='\u{ffff}'
            | '\u{e0000}'..
    );
    !char.is_control() && !odd
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hostile_name_is_harmless_and_told_from_others() {
        let text = printable(b"a\n\x1b[2J\xff\\\xc3\xa9/\0 b");
        assert_eq!(text, "a\\u{a}\\u{1b}[2J\\xff\\u{5c}\u{e9}\\u{2f}\\u{0} b");
        assert_eq!(printable("\u{202e}txt".as_bytes()), "\\u{202e}txt");
    }

    /// Directories by what they hold.
    struct Tree(BTreeMap<u64, Vec<(&'static str, u64)>>);

    impl Directories for Tree {
        fn root(&self) -> u64 {
            2
        }

        fn every_entry(&self, each: &mut dyn FnMut(u64, Entry<'_>)) {
            for &directory in self.0.keys() {
                self.entries_of(directory, &mut |entry| each(directory, entry));
            }
        }

        fn entries_of(&self, directory: u64, each: &mut dyn FnMut(Entry<'_>)) {
            for &(name, inode) in self.0.get(&directory).into_iter().flatten() {
                let name = name.as_bytes();
                each(Entry { name, inode });
            }
        }
    }

    fn find(tree: &[(u64, &[(&'static str, u64)])], wanted: &[u64]) -> Names {
        let tree = tree.iter().map(|(at, names)| (*at, names.to_vec()));
        let wanted = wanted.iter().copied().collect();
        Names::find(&Tree(tree.collect()), "inode", wanted)
    }

    #[test]
    fn a_path_is_found_from_below() {
        let names = find(
            &[
                (2, &[(".", 2), ("..", 2), ("a", 10)]),
                (10, &[(".", 10), ("..", 2), ("b", 11)]),
                (11, &[(".", 11), ("..", 10), ("file", 20), ("link", 20)]),
            ],
            &[20, 11, 2, 99],
        );
        assert_eq!(names.path(20).as_deref(), Some("/a/b/file"));
        assert_eq!(names.path(11).as_deref(), Some("/a/b"));
        assert_eq!(names.path(2).as_deref(), Some("/"));
        assert_eq!(names.path(99), None);
    }

    #[test]
    fn without_its_dots_a_directory_is_found_from_above() {
        let names = find(
            &[(2, &[("a", 10)]), (10, &[("b", 11)]), (11, &[("file", 20)])],
            &[20],
        );
        assert_eq!(names.path(20).as_deref(), Some("/a/b/file"));
    }

    #[test]
    fn what_no_directory_names_begins_with_its_number() {
        let names = find(
            &[(2, &[("..", 2)]), (11, &[("..", 10), ("file", 20)])],
            &[20],
        );
        assert_eq!(names.path(20).as_deref(), Some("<inode 11>/file"));
    }

    #[test]
    fn directories_in_a_ring_have_an_end() {
        let names = find(
            &[
                (10, &[("..", 11), ("b", 11)]),
                (11, &[("..", 10), ("a", 10)]),
            ],
            &[10],
        );
        assert!(names.path(10).unwrap().starts_with("<inode 1"));
    }
}
