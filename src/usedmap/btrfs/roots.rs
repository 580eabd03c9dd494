//! The root tree: where the other trees begin (`struct btrfs_root_item` in
//! `include/uapi/linux/btrfs_tree.h`: `generation` 0xA0, `bytenr` 0xB0, `level` 0xEE).

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use super::key::{BLOCK_GROUP_TREE, DEV_TREE, EXTENT_TREE, Key, ROOT_ITEM, ROOT_TREE};
use super::superblock::MAX_LEVEL;
use super::tree::{Reader, Root, Visit};
use crate::bytes::{read_u8, read_u64le};
use crate::usedmap::finding::Refusal;

/// What a root item has had from the first version on.
const LEGACY_SIZE: usize = 0xEF;

/// Reads a root item; `owner` is the number that its tree's blocks carry.
pub(crate) fn parse(owner: u64, item: &[u8]) -> Result<Root, Refusal> {
    let level = read_u8(item, 0xEE);
    if item.len() < LEGACY_SIZE || level >= MAX_LEVEL {
        return Err(Refusal::Damaged(format!(
            "the root of tree {owner} is none"
        )));
    }
    Ok(Root {
        owner,
        bytenr: read_u64le(item, 0xB0),
        generation: read_u64le(item, 0xA0),
        level,
    })
}

/// The trees that say what is in use.
pub(crate) struct Roots {
    pub extent_tree: Root,
    pub dev_tree: Root,
    /// Where the superblock says that there is one.
    pub block_group_tree: Option<Root>,
}

#[derive(Default)]
struct Found([Option<Root>; 3]);

/// In the order of [`Found`].
const WANTED: [u64; 3] = [EXTENT_TREE, DEV_TREE, BLOCK_GROUP_TREE];

impl Visit for Found {
    fn item(&mut self, key: Key, data: &[u8]) -> Result<(), Refusal> {
        if key.kind != ROOT_ITEM {
            return Ok(());
        }
        for (wanted, slot) in WANTED.into_iter().zip(&mut self.0) {
            if key.objectid != wanted {
                continue;
            }
            if slot.is_some() {
                return Err(Refusal::Unsupported(format!(
                    "it has several trees {wanted}"
                )));
            }
            *slot = Some(parse(wanted, data)?);
        }
        Ok(())
    }
}

impl Roots {
    /// Finds them.
    pub(crate) fn read(reader: &mut Reader) -> Result<Self, Refusal> {
        let sb = reader.sb;
        let root_tree = Root {
            owner: ROOT_TREE,
            bytenr: sb.root,
            generation: sb.generation,
            level: sb.root_level,
        };
        let key = |objectid| Key {
            objectid,
            ..Key::MIN
        };
        let mut found = Found::default();
        let behind = BLOCK_GROUP_TREE.saturating_add(1);
        reader.walk_range(root_tree, key(EXTENT_TREE), key(behind), &mut found)?;
        let [extent_tree, dev_tree, block_group_tree] = found.0;
        let missing = |what: &str| Refusal::Damaged(format!("its {what} tree is missing"));
        Ok(Self {
            extent_tree: extent_tree.ok_or_else(|| missing("extent"))?,
            dev_tree: dev_tree.ok_or_else(|| missing("device"))?,
            block_group_tree: if sb.has_block_group_tree() {
                Some(block_group_tree.ok_or_else(|| missing("block group"))?)
            } else {
                None
            },
        })
    }
}
