//! Files of btrfs, as its last commit left them: what fsync wrote to the log after it is not looked at.
//! A file is a number in the tree of its subvolume (`include/uapi/linux/btrfs_tree.h`):
//!
//! | `btrfs_inode_item` | 0x10 | 0x34 | | `btrfs_dir_item` | 0x00 | 0x1B | 0x1E |
//! | --- | --- | --- | --- | --- | --- | --- | --- |
//! | | size | mode | | | location (a key) | name_len | name |
//!
//! `extents` is the content of a file, `subvolumes` are the roots that a system may lie in.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

mod extents;
mod lzo;
mod subvolumes;

use super::{Content, Kind, Node, Tree, target_of};
use crate::bytes::{read_u16le, read_u32le, read_u64le};
use crate::device::ReadAt;
use crate::refusal::Refusal;
use crate::usedmap::btrfs::chunk::{ChunkMap, Device};
use crate::usedmap::btrfs::chunk_tree::ChunkTree;
use crate::usedmap::btrfs::key::{
    ANY_TREE, DIR_INDEX, FS_TREE, INODE_ITEM, Key, ROOT_ITEM, ROOT_TREE,
};
use crate::usedmap::btrfs::roots;
use crate::usedmap::btrfs::superblock::Superblock;
use crate::usedmap::btrfs::tree::{Reader, Root, Visit};
use crate::usedmap::btrfs::whole::check_members;
use std::cell::RefCell;
use std::collections::BTreeMap;

/// The root directory of every subvolume (`BTRFS_FIRST_FREE_OBJECTID`).
const ROOT_DIRECTORY: u64 = 256;
/// Items that are taken for one file or directory.
const MAX_ITEMS: usize = 1 << 17;
/// Roots of subvolumes that are kept.
const MAX_ROOTS: usize = 1 << 12;

/// See the module.
pub(super) struct Btrfs<'a> {
    sb: Superblock,
    devices: Vec<Device<'a>>,
    chunks: ChunkMap,
    /// Roots of subvolumes that were looked up.
    roots: RefCell<BTreeMap<u64, Root>>,
    /// The subvolume that is mounted without options.
    default: u64,
}

/// What an inode says.
struct Inode {
    size: u64,
    mode: u32,
}

/// What is done with an item.
type Each<'v> = dyn FnMut(Key, &[u8]) -> Result<(), Refusal> + 'v;

/// Items of a range of keys.
struct Items<'v> {
    low: Key,
    high: Key,
    count: usize,
    each: &'v mut Each<'v>,
}

impl Visit for Items<'_> {
    fn item(&mut self, key: Key, data: &[u8]) -> Result<(), Refusal> {
        if key < self.low || key > self.high {
            return Ok(());
        }
        self.count = self.count.saturating_add(1);
        if self.count > MAX_ITEMS {
            return Err(Refusal::Unsupported(format!(
                "inode {} has too many items",
                key.objectid
            )));
        }
        (self.each)(key, data)
    }
}

impl<'a> Btrfs<'a> {
    /// `all` are volumes among which are the other devices of the filesystem.
    pub(super) fn open(volume: &'a dyn ReadAt, all: &[&'a dyn ReadAt]) -> Result<Self, Refusal> {
        let own = Superblock::read(volume).map_err(|unusable| unusable.refusal)?;
        let mut devices = Vec::new();
        let mut superblocks = Vec::new();
        for volume in all {
            if let Ok(sb) = Superblock::read(*volume)
                && sb.fsid == own.fsid
            {
                devices.push(Device {
                    volume: *volume,
                    devid: sb.dev_item.devid,
                    uuid: sb.dev_item.uuid,
                });
                superblocks.push(sb);
            }
        }
        let newest = superblocks.iter().max_by_key(|sb| sb.generation);
        let sb = newest.cloned().unwrap_or(own);
        check_members(&sb, &superblocks)?;
        let chunks = ChunkTree::read(&sb, &devices)?.chunks;
        let mut fs = Self {
            sb,
            devices,
            chunks,
            roots: RefCell::default(),
            default: FS_TREE,
        };
        fs.default = fs.default_subvolume()?;
        Ok(fs)
    }

    /// Calls `each` with the items from `low` to `high` of a tree, in any order.
    fn items(
        &self,
        root: Root,
        (low, high): (Key, Key),
        each: &mut Each<'_>,
    ) -> Result<(), Refusal> {
        let mut items = Items {
            low,
            high,
            count: 0,
            each,
        };
        Reader::new(&self.sb, &self.devices, &self.chunks).walk_range(root, low, high, &mut items)
    }

    fn root_tree(&self) -> Root {
        Root {
            owner: ROOT_TREE,
            bytenr: self.sb.root,
            generation: self.sb.generation,
            level: self.sb.root_level,
        }
    }

    /// The tree of a subvolume.
    fn subvolume_tree(&self, number: u64) -> Result<Root, Refusal> {
        if let Some(root) = self.roots.borrow().get(&number) {
            return Ok(*root);
        }
        let mut newest: Option<(u64, Root)> = None;
        self.items(self.root_tree(), of(number, ROOT_ITEM), &mut |key, data| {
            if newest.is_none_or(|(offset, _)| key.offset >= offset) {
                newest = Some((key.offset, roots::parse(number, data)?));
            }
            Ok(())
        })?;
        let (_, root) =
            newest.ok_or_else(|| Refusal::Damaged(format!("its subvolume {number} is missing")))?;
        let root = Root {
            owner: ANY_TREE,
            ..root
        };
        let mut kept = self.roots.borrow_mut();
        if kept.len() < MAX_ROOTS {
            kept.insert(number, root);
        }
        Ok(root)
    }

    fn inode(&self, node: Node) -> Result<Inode, Refusal> {
        let tree = self.subvolume_tree(node.tree)?;
        let mut found = None;
        self.items(tree, of(node.number, INODE_ITEM), &mut |_, data| {
            found = Some(Inode {
                size: read_u64le(data, 0x10),
                mode: read_u32le(data, 0x34),
            });
            Ok(())
        })?;
        found.ok_or_else(|| {
            Refusal::Damaged(format!(
                "inode {} of subvolume {} is missing",
                node.number, node.tree
            ))
        })
    }
}

/// All keys of an object of one kind.
fn of(objectid: u64, kind: u8) -> (Key, Key) {
    let key = |offset| Key {
        objectid,
        kind,
        offset,
    };
    (key(0), key(u64::MAX))
}

/// The entries in a directory's item: one, or several whose names have the same hash.
fn dir_items(data: &[u8], each: &mut dyn FnMut(Key, &[u8])) {
    const HEADER: usize = 0x1E;
    let mut rest = data;
    while rest.len() >= HEADER {
        let data_len = usize::from(read_u16le(rest, 0x19));
        let name_len = usize::from(read_u16le(rest, 0x1B));
        let Some(name) = rest.get(HEADER..).and_then(|rest| rest.get(..name_len)) else {
            return;
        };
        if !name.is_empty() {
            each(Key::read(rest, 0), name);
        }
        let len = HEADER.saturating_add(name_len).saturating_add(data_len);
        rest = rest.get(len..).unwrap_or_default();
    }
}

impl Tree for Btrfs<'_> {
    fn filesystem(&self) -> &str {
        "btrfs"
    }

    fn uuid(&self) -> Option<String> {
        Some(self.sb.fsid.hyphenated().to_string())
    }

    fn label(&self) -> Option<String> {
        self.sb.label.clone()
    }

    fn root(&self) -> Node {
        Node {
            tree: self.default,
            number: ROOT_DIRECTORY,
        }
    }

    fn kind(&self, node: Node) -> Result<Kind, Refusal> {
        Ok(match self.inode(node)?.mode & 0xF000 {
            0x8000 => Kind::File,
            0x4000 => Kind::Directory,
            0xA000 => Kind::Link,
            _ => Kind::Other,
        })
    }

    fn entries(&self, directory: Node, each: &mut dyn FnMut(&[u8], Node)) -> Result<(), Refusal> {
        let tree = self.subvolume_tree(directory.tree)?;
        self.items(tree, of(directory.number, DIR_INDEX), &mut |_, data| {
            dir_items(data, &mut |location, name| match location.kind {
                INODE_ITEM => each(
                    name,
                    Node {
                        tree: directory.tree,
                        number: location.objectid,
                    },
                ),
                // Another subvolume begins here.
                ROOT_ITEM => each(
                    name,
                    Node {
                        tree: location.objectid,
                        number: ROOT_DIRECTORY,
                    },
                ),
                _ => {}
            });
            Ok(())
        })
    }

    fn open(&self, file: Node) -> Result<Box<dyn Content + '_>, Refusal> {
        let size = self.inode(file)?.size;
        Ok(Box::new(self.extents(file, size)?))
    }

    fn target(&self, link: Node) -> Result<Vec<u8>, Refusal> {
        target_of(&*self.open(link)?)
    }

    fn roots(&self) -> Vec<(Node, Option<String>)> {
        self.possible_roots()
    }

    fn subvolume(&self, options: &[String]) -> Option<Node> {
        self.of_options(options)
    }
}
