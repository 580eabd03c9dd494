//! Subvolumes: the one that is mounted without options, those that a distribution puts its root into
//! (`@`, `@rootfs`, `root`, or the default one, deep below `@/.snapshots`), and their paths.
//!
//! | `btrfs_root_ref` | 0x00 | 0x10 | 0x12 | | `btrfs_inode_ref` | 0x08 | 0x0A |
//! | --- | --- | --- | --- | --- | --- | --- | --- |
//! | | dirid | name_len | name | | | name_len | name |

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use super::{Btrfs, ROOT_DIRECTORY, dir_items, of};
use crate::bytes::{read_u16le, read_u64le};
use crate::files::{Node, Tree};
use crate::refusal::Refusal;
use crate::usedmap::btrfs::key::{DIR_ITEM, FS_TREE, INODE_REF, ROOT_BACKREF};

/// `BTRFS_ROOT_TREE_DIR_OBJECTID`: has the entry `default`.
const ROOT_TREE_DIRECTORY: u64 = 6;
/// Subvolumes that may be roots.
const MAX_ROOTS: usize = 64;
/// Names of one path.
const DEEPEST: usize = 64;
/// Bytes of one name (`BTRFS_NAME_LEN`).
const LONGEST_NAME: usize = 255;

impl Btrfs<'_> {
    /// The subvolume that is mounted without options.
    pub(super) fn default_subvolume(&self) -> Result<u64, Refusal> {
        let mut default = FS_TREE;
        let entries = of(ROOT_TREE_DIRECTORY, DIR_ITEM);
        self.items(self.root_tree(), entries, &mut |_, data| {
            dir_items(data, &mut |location, name| {
                if name == b"default" {
                    default = location.objectid;
                }
            });
            Ok(())
        })?;
        Ok(default)
    }

    /// The default subvolume, and those in the outermost one.
    pub(super) fn possible_roots(&self) -> Vec<(Node, Option<String>)> {
        let mut nodes = vec![self.root()];
        let top = Node {
            tree: FS_TREE,
            number: ROOT_DIRECTORY,
        };
        // What cannot be read has no subvolumes that could be.
        let _ = self.entries(top, &mut |_, node| {
            if node.number == ROOT_DIRECTORY && node.tree != FS_TREE && nodes.len() < MAX_ROOTS {
                nodes.push(node);
            }
        });
        if !nodes.contains(&top) {
            nodes.push(top);
        }
        let mut seen = Vec::new();
        nodes.retain(|node| {
            let is_new = !seen.contains(&node.tree);
            seen.push(node.tree);
            is_new
        });
        let path = |node: Node| (node, self.path_of(node.tree));
        nodes.into_iter().map(path).collect()
    }

    /// The path of a subvolume below the outermost one, which has none itself.
    fn path_of(&self, subvolume: u64) -> Option<String> {
        let mut names: Vec<String> = Vec::new();
        let mut tree = subvolume;
        while tree != FS_TREE && names.len() < DEEPEST {
            let mut found = None;
            self.items(
                self.root_tree(),
                of(tree, ROOT_BACKREF),
                &mut |key, data| {
                    found = Some((key.offset, read_u64le(data, 0x00), name(data, 0x10)));
                    Ok(())
                },
            )
            .ok()?;
            let (parent, directory, own) = found?;
            names.push(own?);
            tree = parent;
            let root = self.subvolume_tree(tree).ok()?;
            let mut inode = directory;
            while inode != ROOT_DIRECTORY && names.len() < DEEPEST {
                let mut found = None;
                self.items(root, of(inode, INODE_REF), &mut |key, data| {
                    found = Some((key.offset, name(data, 0x08)));
                    Ok(())
                })
                .ok()?;
                let (parent, own) = found?;
                names.push(own?);
                inode = parent;
            }
        }
        names.reverse();
        (!names.is_empty()).then(|| names.join("/"))
    }

    /// What `subvol=` or `subvolid=` name; without them the default.
    pub(super) fn of_options(&self, options: &[String]) -> Option<Node> {
        for option in options {
            if let Some(path) = option.strip_prefix("subvol=") {
                let mut node = Node {
                    tree: FS_TREE,
                    number: ROOT_DIRECTORY,
                };
                let names = path.split('/').filter(|name| !name.is_empty());
                for name in names.take(DEEPEST) {
                    let mut below = None;
                    self.entries(node, &mut |other, node| {
                        if other == name.as_bytes() {
                            below = Some(node);
                        }
                    })
                    .ok()?;
                    node = below?;
                }
                return Some(node);
            }
            if let Some(number) = option.strip_prefix("subvolid=") {
                let tree = match number.parse().ok()? {
                    0 => FS_TREE,
                    number => number,
                };
                self.subvolume_tree(tree).ok()?;
                return Some(Node {
                    tree,
                    number: ROOT_DIRECTORY,
                });
            }
        }
        Some(self.root())
    }
}

/// A name behind its length at `at`.
fn name(data: &[u8], at: usize) -> Option<String> {
    let len = usize::from(read_u16le(data, at));
    let bytes = data.get(at.checked_add(2)?..)?.get(..len)?;
    let fits = (1..=LONGEST_NAME).contains(&len);
    fits.then(|| String::from_utf8_lossy(bytes).into_owned())
}
