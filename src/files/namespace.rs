//! Going along a path as a kernel does that has mounted one filesystem in another: symbolic links are
//! followed, and never lead out of the root.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use super::{Content, Kind, Node, Tree};
use crate::refusal::Refusal;
use std::collections::VecDeque;

/// Symbolic links that are followed on one path (`MAXSYMLINKS`).
const MAX_LINKS: usize = 40;
/// Names that one path may have, with those of the links on it.
const MAX_STEPS: usize = 1024;
/// Names of one directory that are told.
const MAX_NAMES: usize = 1 << 16;

/// A filesystem and where it is mounted.
struct Mount<'t> {
    /// The names of the path.
    at: Vec<Vec<u8>>,
    tree: &'t dyn Tree,
    root: Node,
}

/// The files of one system.
pub(crate) struct Files<'t> {
    /// The first one is the root.
    mounts: Vec<Mount<'t>>,
}

/// A file that was found.
#[derive(Clone, Copy)]
struct Place<'t> {
    tree: &'t dyn Tree,
    node: Node,
}

/// Names from the root on, and what each leads to.
type Way<'t> = Vec<(Vec<u8>, Place<'t>)>;

/// An entry of a directory.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Listed {
    /// Its name; none that is not UTF-8 is told.
    pub name: String,
    /// Whether it is a directory, or a link to one.
    pub is_directory: bool,
}

/// The names of a path.
fn names(path: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    path.split(|&byte| byte == b'/')
        .filter(|name| !name.is_empty() && *name != b".")
}

impl<'t> Files<'t> {
    /// Those below `root` of a filesystem.
    pub(crate) fn new(tree: &'t dyn Tree, root: Node) -> Self {
        Self {
            mounts: vec![Mount {
                at: Vec::new(),
                tree,
                root,
            }],
        }
    }

    /// Mounts a filesystem at a path, over what is there.
    pub(crate) fn mount(&mut self, path: &str, tree: &'t dyn Tree, root: Node) {
        self.mounts.push(Mount {
            at: names(path.as_bytes()).map(<[u8]>::to_vec).collect(),
            tree,
            root,
        });
    }

    /// The filesystem that is mounted where these names lead to.
    fn mounted(&self, at: &[(Vec<u8>, Place<'t>)]) -> Option<Place<'t>> {
        let mut mounts = self.mounts.iter().rev();
        let mount = mounts.find(|mount| {
            mount.at.len() == at.len() && mount.at.iter().zip(at).all(|(a, (b, _))| a == b)
        })?;
        Some(Place {
            tree: mount.tree,
            node: mount.root,
        })
    }

    /// Follows a path; `None` if there is nothing.
    fn find(&self, path: &str) -> Result<Option<Place<'t>>, Refusal> {
        let Some(way) = self.way(path)? else {
            return Ok(None);
        };
        let last = way.last().map(|(_, place)| *place);
        Ok(last.or_else(|| self.mounted(&[])))
    }

    /// The path without links, `.` and `..`; `None` if there is nothing.
    pub(crate) fn real_path(&self, path: &str) -> Result<Option<String>, Refusal> {
        let way = self.way(path)?.unwrap_or_default();
        let names: Option<Vec<&str>> = way
            .iter()
            .map(|(name, _)| std::str::from_utf8(name).ok())
            .collect();
        Ok(names
            .filter(|names| !names.is_empty())
            .map(|names| format!("/{}", names.join("/"))))
    }

    /// The directories on a path, and what it leads to; `None` if there is nothing.
    fn way(&self, path: &str) -> Result<Option<Way<'t>>, Refusal> {
        let Some(root) = self.mounted(&[]) else {
            return Ok(None);
        };
        let mut way: Way<'t> = Vec::new();
        let mut rest: VecDeque<Vec<u8>> = names(path.as_bytes()).map(<[u8]>::to_vec).collect();
        let (mut links, mut steps) = (0_usize, 0_usize);
        while let Some(name) = rest.pop_front() {
            steps = steps.saturating_add(1);
            if steps > MAX_STEPS {
                return Err(Refusal::Damaged(format!("the path {path} has no end")));
            }
            if name == b".." {
                way.pop();
                continue;
            }
            let here = way.last().map_or(root, |(_, place)| *place);
            let tree = here.tree;
            let entry = here.entry(&name)?;
            if let Some(node) = entry
                && tree.kind(node)? == Kind::Link
            {
                links = links.saturating_add(1);
                if links > MAX_LINKS {
                    return Err(Refusal::Damaged(format!(
                        "the path {path} has too many symbolic links"
                    )));
                }
                let target = tree.target(node)?;
                if target.first() == Some(&b'/') {
                    way.clear();
                }
                for name in names(&target).rev() {
                    rest.push_front(name.to_vec());
                }
                continue;
            }
            let node = entry.unwrap_or(here.node);
            way.push((name, Place { tree, node }));
            // systemd makes a mount point that is not there.
            match (self.mounted(&way), way.last_mut()) {
                (Some(mounted), Some((_, place))) => *place = mounted,
                _ if entry.is_none() => return Ok(None),
                _ => {}
            }
        }
        Ok(Some(way))
    }

    /// What a path leads to; `None` if there is nothing.
    pub(crate) fn kind(&self, path: &str) -> Result<Option<Kind>, Refusal> {
        let found = self.find(path)?;
        found.map(|place| place.tree.kind(place.node)).transpose()
    }

    /// A regular file; `None` if there is none at that path.
    pub(crate) fn open(&self, path: &str) -> Result<Option<Box<dyn Content + 't>>, Refusal> {
        match self.find(path)? {
            Some(place) if place.tree.kind(place.node)? == Kind::File => {
                place.tree.open(place.node).map(Some)
            }
            _ => Ok(None),
        }
    }

    /// The first `most` bytes of a file; `None` if there is none at that path.
    pub(crate) fn read(&self, path: &str, most: u64) -> Result<Option<Vec<u8>>, Refusal> {
        let Some(content) = self.open(path)? else {
            return Ok(None);
        };
        let len = usize::try_from(content.size().min(most)).unwrap_or(0);
        let mut bytes = vec![0; len];
        content.read(0, &mut bytes)?;
        Ok(Some(bytes))
    }

    /// The entries of a directory, by name; none if there is no directory at that path.
    pub(crate) fn list(&self, path: &str) -> Result<Vec<Listed>, Refusal> {
        let Some(place) = self.find(path)? else {
            return Ok(Vec::new());
        };
        if place.tree.kind(place.node)? != Kind::Directory {
            return Ok(Vec::new());
        }
        let mut found: Vec<(String, Node)> = Vec::new();
        place.tree.entries(place.node, &mut |name, node| {
            if name != b"."
                && name != b".."
                && found.len() < MAX_NAMES
                && let Ok(name) = std::str::from_utf8(name)
            {
                found.push((name.to_owned(), node));
            }
        })?;
        let mut listed: Vec<Listed> = found
            .into_iter()
            .map(|(name, node)| Listed {
                is_directory: match place.tree.kind(node) {
                    Ok(Kind::Directory) => true,
                    Ok(Kind::Link) => {
                        let below = format!("{}/{name}", path.trim_end_matches('/'));
                        matches!(self.kind(&below), Ok(Some(Kind::Directory)))
                    }
                    // What cannot be looked at is found out by whoever opens it.
                    _ => false,
                },
                name,
            })
            .collect();
        listed.sort();
        listed.dedup();
        Ok(listed)
    }
}

impl Place<'_> {
    /// The entry of a directory with a name.
    fn entry(&self, name: &[u8]) -> Result<Option<Node>, Refusal> {
        if self.tree.kind(self.node)? != Kind::Directory {
            return Ok(None);
        }
        let folds_case = self.tree.folds_case();
        let mut found = None;
        self.tree.entries(self.node, &mut |other, node| {
            let same = match folds_case {
                true => other.eq_ignore_ascii_case(name),
                false => other == name,
            };
            if same && found.is_none() {
                found = Some(node);
            }
        })?;
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Directories, files and links by their numbers; 1 is the root.
    struct Made(Vec<(u64, What)>);

    enum What {
        Directory(Vec<(&'static str, u64)>),
        File(&'static str),
        Link(&'static str),
    }

    impl Made {
        fn get(&self, node: Node) -> Result<&What, Refusal> {
            let found = self.0.iter().find(|(number, _)| *number == node.number);
            found
                .map(|(_, what)| what)
                .ok_or_else(|| Refusal::Damaged("no such inode".into()))
        }
    }

    impl Tree for Made {
        fn filesystem(&self) -> &str {
            "made"
        }
        fn uuid(&self) -> Option<String> {
            None
        }
        fn label(&self) -> Option<String> {
            None
        }
        fn root(&self) -> Node {
            Node { tree: 0, number: 1 }
        }
        fn kind(&self, node: Node) -> Result<Kind, Refusal> {
            Ok(match self.get(node)? {
                What::Directory(_) => Kind::Directory,
                What::File(_) => Kind::File,
                What::Link(_) => Kind::Link,
            })
        }
        fn entries(
            &self,
            directory: Node,
            each: &mut dyn FnMut(&[u8], Node),
        ) -> Result<(), Refusal> {
            if let What::Directory(entries) = self.get(directory)? {
                for (name, number) in entries {
                    let number = *number;
                    each(name.as_bytes(), Node { tree: 0, number });
                }
            }
            Ok(())
        }
        fn open(&self, file: Node) -> Result<Box<dyn Content + '_>, Refusal> {
            let bytes = match self.get(file)? {
                What::File(text) => text.as_bytes().to_vec(),
                _ => Vec::new(),
            };
            Ok(Box::new(super::super::mapped::Inline(bytes)))
        }
        fn target(&self, link: Node) -> Result<Vec<u8>, Refusal> {
            Ok(match self.get(link)? {
                What::Link(target) => target.as_bytes().to_vec(),
                _ => Vec::new(),
            })
        }
    }

    fn system() -> Made {
        use What::{Directory, File, Link};
        Made(vec![
            (
                1,
                Directory(vec![
                    ("etc", 2),
                    ("usr", 3),
                    ("lib", 6),
                    ("self", 1),
                    ("up", 9),
                ]),
            ),
            (2, Directory(vec![("os", 4), ("round", 7), ("up", 8)])),
            (3, Directory(vec![("lib", 10)])),
            (4, Link("../usr/lib/os")),
            (5, File("ID=debian")),
            (6, Link("/usr/lib")),
            (7, Link("round")),
            (8, Link("../../../../../etc/os")),
            (9, Link("/up/up")),
            (10, Directory(vec![("os", 5), ("itself", 10)])),
        ])
    }

    #[test]
    fn links_are_followed_and_stay_below_the_root() {
        let tree = system();
        let files = Files::new(&tree, tree.root());
        for path in [
            "/etc/os",
            "lib/os",
            "/etc/up",
            "/self/self/etc/../lib//./os",
        ] {
            let bytes = files.read(path, 100).unwrap();
            assert_eq!(bytes.as_deref(), Some(&b"ID=debian"[..]), "{path}");
        }
        assert_eq!(files.read("/etc/os", 2).unwrap().unwrap(), b"ID");
        for path in ["/etc/none", "/etc/os/further", "/etc"] {
            assert!(files.read(path, 100).unwrap().is_none(), "{path}");
        }
    }

    #[test]
    fn links_in_a_circle_and_directories_in_themselves_end() {
        let tree = system();
        let files = Files::new(&tree, tree.root());
        assert!(files.read("/etc/round", 100).is_err());
        assert!(files.read("/up", 100).is_err());
        let deep = "self/".repeat(5000);
        assert!(files.read(&deep, 100).is_err());
        assert_eq!(files.list("/usr/lib/itself/itself").unwrap().len(), 2);
    }

    #[test]
    fn a_mounted_filesystem_hides_what_is_beneath() {
        let tree = system();
        let other = Made(vec![
            (1, What::Directory(vec![("os", 2), ("out", 3)])),
            (2, What::File("ID=other")),
            (3, What::Link("../../etc/os")),
        ]);
        let mut files = Files::new(&tree, tree.root());
        files.mount("/usr/lib", &other, other.root());
        for path in ["/lib/os", "/etc/os", "/usr/lib/out"] {
            let bytes = files.read(path, 100).unwrap();
            assert_eq!(bytes.as_deref(), Some(&b"ID=other"[..]), "{path}");
        }
    }
}
