//! Tree blocks (`struct btrfs_header`, `btrfs_item`, `btrfs_key_ptr` in
//! `include/uapi/linux/btrfs_tree.h`). The header: `csum` 0x00, `fsid` 0x20, `bytenr` 0x30, `flags`
//! 0x38, `chunk_tree_uuid` 0x40, `generation` 0x50, `owner` 0x58, `nritems` 0x60, `level` 0x64. Behind
//! it in a leaf (level 0) 25 bytes an item: `key` 0x00, `offset` 0x11 (of its data, counted from the
//! header's end), `size` 0x15; in a node 33 bytes a child: `key` 0x00, `blockptr` 0x11, `generation`
//! 0x19.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use super::key::{ANY_TREE, Key};
use super::superblock::Superblock;
use crate::bytes::{read_array, read_u8, read_u32le, read_u64le};
use uuid::Uuid;

const HEADER: usize = 0x65;
const ITEM: usize = 25;
const CHILD: usize = 33;

/// What is known of a tree block before it is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pointer {
    /// Its logical address.
    pub bytenr: u64,
    /// In which transaction it was written.
    pub generation: u64,
    pub level: u8,
    /// The key that it starts with; a root may start with any.
    pub first: Option<Key>,
    /// All its keys are below this one.
    pub below: Option<Key>,
}

/// A tree block that is what its pointer says.
pub(crate) struct Block<'a> {
    bytes: &'a [u8],
    pointer: Pointer,
    nritems: usize,
}

impl<'a> Block<'a> {
    /// Checks everything that can be checked without reading on. The error is a clause.
    pub(crate) fn parse(
        sb: &Superblock,
        owner: u64,
        pointer: Pointer,
        bytes: &'a [u8],
    ) -> Result<Self, String> {
        if !sb.checksum.accepts(bytes) {
            return Err("does not match its checksum".into());
        }
        if read_u64le(bytes, 0x30) != pointer.bytenr {
            return Err("belongs elsewhere".into());
        }
        if Uuid::from_bytes(read_array(bytes, 0x20)) != sb.metadata_uuid {
            return Err("is of another filesystem".into());
        }
        let generation = read_u64le(bytes, 0x50);
        if generation != pointer.generation {
            return Err(format!(
                "is of transaction {generation}, not {}",
                pointer.generation
            ));
        }
        let found_owner = read_u64le(bytes, 0x58);
        if owner != ANY_TREE && found_owner != owner {
            return Err(format!("is of tree {found_owner}"));
        }
        let level = read_u8(bytes, 0x64);
        if level != pointer.level {
            return Err(format!("is of level {level}, not {}", pointer.level));
        }
        let nritems = usize::try_from(read_u32le(bytes, 0x60)).unwrap_or(usize::MAX);
        let entry = if level == 0 { ITEM } else { CHILD };
        let table = nritems.saturating_mul(entry);
        if table > bytes.len().saturating_sub(HEADER) {
            return Err(format!("has {nritems} entries"));
        }
        let block = Self {
            bytes,
            pointer,
            nritems,
        };
        block.check_keys(entry)?;
        if level == 0 {
            block.check_items(table)?;
        }
        Ok(block)
    }

    fn entry(&self, nth: usize, size: usize) -> &'a [u8] {
        let at = nth.saturating_mul(size).saturating_add(HEADER);
        self.bytes
            .get(at..)
            .and_then(|rest| rest.get(..size))
            .unwrap_or_default()
    }

    fn check_keys(&self, entry: usize) -> Result<(), String> {
        let keys = (0..self.nritems).map(|nth| Key::read(self.entry(nth, entry), 0));
        let mut last: Option<Key> = None;
        for key in keys {
            let in_order = match last {
                Some(last) => key > last,
                None => self.pointer.first.is_none_or(|first| key == first),
            };
            if !in_order {
                return Err("has its keys out of order".into());
            }
            last = Some(key);
        }
        // Only a root may be empty.
        if last.is_none() && (self.pointer.first.is_some() || self.pointer.level > 0) {
            return Err("is empty".into());
        }
        if let (Some(last), Some(below)) = (last, self.pointer.below)
            && last >= below
        {
            return Err("has keys of its neighbour".into());
        }
        Ok(())
    }

    fn check_items(&self, table: usize) -> Result<(), String> {
        let room = self.bytes.len().saturating_sub(HEADER);
        for nth in 0..self.nritems {
            let (offset, size) = self.span(nth);
            if offset < table || offset.checked_add(size).is_none_or(|end| end > room) {
                return Err(format!("has item {nth} outside itself"));
            }
        }
        Ok(())
    }

    /// Where an item's data is behind the header, and how much.
    fn span(&self, nth: usize) -> (usize, usize) {
        let entry = self.entry(nth, ITEM);
        let field = |at| usize::try_from(read_u32le(entry, at)).unwrap_or(usize::MAX);
        (field(0x11), field(0x15))
    }

    /// The items of a leaf.
    pub(crate) fn items(&self) -> impl Iterator<Item = (Key, &'a [u8])> {
        (0..self.nritems).map(|nth| {
            let (offset, size) = self.span(nth);
            let data = self
                .bytes
                .get(offset.saturating_add(HEADER)..)
                .and_then(|rest| rest.get(..size))
                .unwrap_or_default();
            (Key::read(self.entry(nth, ITEM), 0), data)
        })
    }

    /// The children of a node.
    pub(crate) fn children(&self) -> impl Iterator<Item = Pointer> {
        let level = self.pointer.level.saturating_sub(1);
        (0..self.nritems).map(move |nth| {
            let entry = self.entry(nth, CHILD);
            let next = nth.saturating_add(1);
            Pointer {
                bytenr: read_u64le(entry, 0x11),
                generation: read_u64le(entry, 0x19),
                level,
                first: Some(Key::read(entry, 0)),
                below: if next < self.nritems {
                    Some(Key::read(self.entry(next, CHILD), 0))
                } else {
                    self.pointer.below
                },
            }
        })
    }
}
