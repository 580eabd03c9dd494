//! A registry hive of Windows ("regf"), read cell by cell from its file: that of `SOFTWARE` may have 100
//! MiB, more than a capture has memory for. The structures are as Maxim Suhanov's "Windows registry file
//! format specification" has them; offsets of cells count from the end of the base block, 0x1000.
//!
//! | base block | 0x00 `regf` | 0x04, 0x08 sequence | 0x24 root cell |
//! | --- | --- | --- | --- |
//! | cell | 0x00 size, negative if in use | 0x04 content | |
//!
//! | `nk` | 0x02 flags | 0x14 subkeys | 0x1C their list | 0x24 values | 0x28 their list | 0x48 name length | 0x4C name |
//! | --- | --- | --- | --- | --- | --- | --- | --- |
//! | `vk` | 0x02 name length | 0x04 size | 0x08 data | 0x0C type | 0x10 flags | 0x14 name | |
//!
//! What waits in its logs after a crash is not looked at: the values that are told change once in years.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use crate::bytes::{has_magic, read_array, read_u16le, read_u32le};
use crate::files::Content;

const BASE_BLOCK: u64 = 0x1000;
/// Bytes of a cell that are read: longer values are in several (`db`), which none of those here is.
const LARGEST_CELL: usize = 16 << 10;
/// Lists of subkeys have 8 bytes an entry, at most so many bytes.
const LARGEST_LIST: usize = 1 << 20;
/// Subkeys or values that are gone through.
const MOST: usize = 1 << 16;
const NOWHERE: u32 = u32::MAX;

/// A hive.
pub(super) struct Hive<'c> {
    content: &'c dyn Content,
    root: u32,
}

/// A key of one.
#[derive(Clone, Copy)]
pub(super) struct Key<'h> {
    hive: &'h Hive<'h>,
    cell: u32,
}

/// A value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    Text(String),
    Number(u32),
}

impl<'c> Hive<'c> {
    /// `None` if it is none.
    pub(super) fn open(content: &'c dyn Content) -> Option<Self> {
        let mut base = [0; 512];
        content.read(0, &mut base).ok()?;
        let root = read_u32le(&base, 0x24);
        has_magic(&base, 0, b"regf").then_some(Self { content, root })
    }

    pub(super) fn root(&self) -> Key<'_> {
        Key {
            hive: self,
            cell: self.root,
        }
    }

    /// The first bytes of a cell's content, up to `most`.
    fn cell(&self, offset: u32, most: usize) -> Option<Vec<u8>> {
        if offset == NOWHERE {
            return None;
        }
        let at = BASE_BLOCK.checked_add(u64::from(offset))?;
        let mut size = [0; 4];
        self.content.read(at, &mut size).ok()?;
        // Only what is in use.
        let size = i32::from_le_bytes(size).checked_neg()?.checked_sub(4)?;
        let len = usize::try_from(size).ok()?.min(most);
        let left = self.content.size().checked_sub(at.checked_add(4)?)?;
        let len = len.min(usize::try_from(left).unwrap_or(usize::MAX));
        let mut bytes = vec![0; len];
        self.content.read(at.checked_add(4)?, &mut bytes).ok()?;
        Some(bytes)
    }

    /// The cells in a list of subkeys; `deep` in a list of lists.
    fn subkeys(&self, list: u32, deep: bool, found: &mut Vec<u32>) -> Option<()> {
        let bytes = self.cell(list, LARGEST_LIST)?;
        let count = usize::from(read_u16le(&bytes, 2));
        let width = match bytes.get(..2)? {
            b"lf" | b"lh" => 8,
            b"li" => 4,
            b"ri" if !deep => 4,
            _ => return None,
        };
        let is_list_of_lists = bytes.starts_with(b"ri");
        for entry in bytes.get(4..)?.chunks_exact(width).take(count) {
            if found.len() >= MOST {
                return Some(());
            }
            let offset = read_u32le(entry, 0);
            if is_list_of_lists {
                // A part that is damaged hides what is in it, not the rest.
                let _ = self.subkeys(offset, true, found);
            } else {
                found.push(offset);
            }
        }
        Some(())
    }
}

/// A name: Latin-1 where the flag says so, else UTF-16.
fn name(bytes: &[u8], is_narrow: bool) -> String {
    if is_narrow {
        return bytes.iter().copied().map(char::from).collect();
    }
    let units = bytes.chunks_exact(2).map(|unit| read_u16le(unit, 0));
    char::decode_utf16(units)
        .map(|unit| unit.unwrap_or(char::REPLACEMENT_CHARACTER))
        .collect()
}

impl<'h> Key<'h> {
    fn node(self) -> Option<Vec<u8>> {
        let bytes = self.hive.cell(self.cell, LARGEST_CELL)?;
        has_magic(&bytes, 0, b"nk").then_some(bytes)
    }

    pub(super) fn name(self) -> Option<String> {
        const NARROW: u16 = 0x20;
        let node = self.node()?;
        let len = usize::from(read_u16le(&node, 0x48));
        let bytes = node.get(0x4C..)?.get(..len)?;
        Some(name(bytes, read_u16le(&node, 0x02) & NARROW != 0))
    }

    /// All subkeys that can be read.
    pub(super) fn children(self) -> Vec<Self> {
        let mut cells = Vec::new();
        if let Some(node) = self.node() {
            let _ = self
                .hive
                .subkeys(read_u32le(&node, 0x1C), false, &mut cells);
        }
        let hive = self.hive;
        let key = |cell| Self { hive, cell };
        cells.into_iter().map(key).collect()
    }

    /// The key at a path of names with `\` between, in whatever case.
    pub(super) fn at(self, path: &str) -> Option<Self> {
        let mut key = self;
        for wanted in path.split('\\') {
            let mut children = key.children().into_iter();
            key = children.find(|child| {
                child
                    .name()
                    .is_some_and(|name| name.eq_ignore_ascii_case(wanted))
            })?;
        }
        Some(key)
    }

    /// A value by its name, in whatever case.
    pub(super) fn value(self, wanted: &str) -> Option<Value> {
        const NARROW: u16 = 0x1;
        const INSIDE: u32 = 0x8000_0000;
        let node = self.node()?;
        let count = usize::try_from(read_u32le(&node, 0x24)).ok()?;
        let list = self.hive.cell(read_u32le(&node, 0x28), LARGEST_LIST)?;
        for entry in list.as_chunks::<4>().0.iter().take(count.min(MOST)) {
            let Some(value) = self.hive.cell(u32::from_le_bytes(*entry), LARGEST_CELL) else {
                continue;
            };
            let len = usize::from(read_u16le(&value, 0x02));
            let own = value.get(0x14..).and_then(|rest| rest.get(..len));
            let is_narrow = read_u16le(&value, 0x10) & NARROW != 0;
            let same = own.is_some_and(|own| name(own, is_narrow).eq_ignore_ascii_case(wanted));
            if !has_magic(&value, 0, b"vk") || !same {
                continue;
            }
            let size = read_u32le(&value, 0x04);
            let len = usize::try_from(size & !INSIDE).ok()?;
            let data = if size & INSIDE != 0 {
                value.get(0x08..0x0C)?.get(..len)?.to_vec()
            } else {
                let mut data = self.hive.cell(read_u32le(&value, 0x08), LARGEST_CELL)?;
                data.truncate(len);
                data
            };
            // REG_SZ, REG_EXPAND_SZ; REG_DWORD.
            return match read_u32le(&value, 0x0C) {
                1 | 2 => Some(Value::Text(
                    name(&data, false).trim_end_matches('\0').into(),
                )),
                4 if data.len() == 4 => {
                    Some(Value::Number(u32::from_le_bytes(read_array(&data, 0))))
                }
                _ => None,
            };
        }
        None
    }

    pub(super) fn text(self, wanted: &str) -> Option<String> {
        match self.value(wanted)? {
            Value::Text(text) => Some(text),
            Value::Number(_) => None,
        }
    }

    pub(super) fn number(self, wanted: &str) -> Option<u32> {
        match self.value(wanted)? {
            Value::Number(number) => Some(number),
            Value::Text(_) => None,
        }
    }
}
