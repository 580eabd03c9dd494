//! Going through the inode tables.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use super::read_block;
use crate::device::ReadAt;
use crate::units::ByteOffset;
use crate::usedmap::ext::Superblock;
use crate::usedmap::ext::group_desc::GroupDesc;
use crate::usedmap::ext::inode::{Inode, S_IFREG};

/// Bytes of a table that are read at once.
const AT_ONCE: u64 = 1 << 20;
const S_IFDIR: u16 = 0x4000;
const S_IFLNK: u16 = 0xA000;
/// `EXT4_EXTENTS_FL` is seen by the parser; `EXT4_INLINE_DATA_FL`: `i_block` holds content.
const INLINE_DATA: u32 = 0x1000_0000;
/// Bytes of `i_block`: a symbolic link that fits is there.
const FAST_LINK: u64 = 60;
/// Damaged inodes of a group that are told.
const MAX_GAPS: usize = 2;

/// What kind of file an inode is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Regular,
    Directory,
    Link,
    /// A device, a pipe, a socket: no blocks.
    Other,
}

/// An inode in use.
pub(crate) struct Numbered<'a> {
    pub number: u32,
    pub inode: Inode,
    /// As it is on the disk.
    pub raw: &'a [u8],
}

impl Numbered<'_> {
    pub(crate) fn kind(&self) -> Kind {
        match self.inode.kind {
            S_IFREG => Kind::Regular,
            S_IFDIR => Kind::Directory,
            S_IFLNK => Kind::Link,
            // The list of bad blocks has no mode.
            0 if self.number == 1 => Kind::Regular,
            _ => Kind::Other,
        }
    }

    pub(crate) fn is_inline(&self) -> bool {
        self.inode.flags & INLINE_DATA != 0
    }

    /// Whether `i_block` says where its blocks are.
    pub(crate) fn has_map(&self) -> bool {
        match self.kind() {
            _ if self.is_inline() => false,
            Kind::Regular | Kind::Directory => true,
            Kind::Link => self.inode.has_extents || self.inode.size >= FAST_LINK,
            Kind::Other => false,
        }
    }
}

/// Calls `each` for every inode of a group that is in use. What could not be read, for people.
pub(crate) fn of_group(
    volume: &dyn ReadAt,
    sb: &Superblock,
    group: u64,
    desc: &GroupDesc,
    each: &mut dyn FnMut(Numbered<'_>),
) -> Vec<String> {
    let mut gaps = Vec::new();
    let used = sb.inodes_per_group.saturating_sub(desc.inodes_unused);
    let per_block = sb.block_size.checked_div(sb.inode_size).unwrap_or(1).max(1);
    let blocks = used.div_ceil(per_block);
    let at_once = AT_ONCE.checked_div(sb.block_size).unwrap_or(1).max(1);
    let mut table = Table {
        sb,
        first: group.saturating_mul(sb.inodes_per_group).saturating_add(1),
        used,
        per_block,
        damaged: 0,
    };
    let mut block = 0;
    while block < blocks {
        let count = at_once.min(blocks.saturating_sub(block));
        let start = desc.inode_table.start.saturating_add(block);
        let len = count.saturating_mul(sb.block_size);
        let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
        let at = ByteOffset(start.saturating_mul(sb.block_size));
        if volume.read_at(at, &mut bytes).is_ok() {
            table.blocks(block, start, &bytes, each);
        } else {
            for nth in 0..count {
                let here = start.saturating_add(nth);
                match read_block(volume, sb, here) {
                    Ok(bytes) => table.blocks(block.saturating_add(nth), here, &bytes, each),
                    Err(_) if gaps.is_empty() => {
                        gaps.push(format!("a part of the inode table of group {group}"));
                    }
                    Err(_) => {}
                }
            }
        }
        block = block.saturating_add(count);
    }
    if table.damaged > 0 && gaps.len() < MAX_GAPS {
        gaps.push(format!("{} damaged inodes of group {group}", table.damaged));
    }
    gaps
}

/// One inode by its number.
pub(crate) fn one(
    volume: &dyn ReadAt,
    sb: &Superblock,
    number: u32,
    each: &mut dyn FnMut(Numbered<'_>),
) -> Result<(), String> {
    let (raw, block) =
        Inode::read_raw(volume, sb, number).map_err(|refusal| refusal.to_string())?;
    let inode = Inode::parse(sb, number, &raw, block)?;
    if inode.links > 0 {
        each(Numbered {
            number,
            inode,
            raw: &raw,
        });
    }
    Ok(())
}

struct Table<'a> {
    sb: &'a Superblock,
    /// The number of its first inode.
    first: u64,
    /// How many are not known to have never been used.
    used: u64,
    per_block: u64,
    damaged: u64,
}

impl Table<'_> {
    /// Blocks of the table from its block `nth` on, which is block `block` of the filesystem.
    fn blocks(&mut self, nth: u64, block: u64, bytes: &[u8], each: &mut dyn FnMut(Numbered<'_>)) {
        let size = usize::try_from(self.sb.inode_size).unwrap_or(usize::MAX);
        let index = nth.saturating_mul(self.per_block);
        for (raw, index) in bytes.chunks_exact(size).zip(index..self.used) {
            // Never used: nothing to check.
            if raw.iter().take(128).all(|&byte| byte == 0) {
                continue;
            }
            let number = self.first.saturating_add(index);
            let Ok(number) = u32::try_from(number) else {
                return;
            };
            match Inode::parse(self.sb, number, raw, block) {
                Ok(inode) if inode.links > 0 || number == 1 => {
                    each(Numbered { number, inode, raw })
                }
                Ok(_) => {}
                Err(_) => self.damaged = self.damaged.saturating_add(1),
            }
        }
    }
}
