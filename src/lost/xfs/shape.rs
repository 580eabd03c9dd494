//! How inodes and directories are laid out and numbered: fields of the superblock (`struct xfs_dsb`)
//! that a used map does without. An inode's number is the group's number, the block in the group, and
//! the inode in the block, each as many bits as it needs.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use crate::bytes::{read_u8, read_u16be, read_u64be};
use crate::extent::Extent;
use crate::refusal::Refusal;
use crate::usedmap::xfs::group::BlockRun;
use crate::usedmap::xfs::superblock::Superblock;

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Shape {
    /// `sb_rootino`.
    pub root_inode: u64,
    /// `sb_inodesize`: a power of two from 256 to 2048, at most a block.
    pub inode_size: u64,
    /// `sb_inopblog`: bits of the inode in a block.
    pub inode_bits: u32,
    /// `sb_agblklog`: bits of the block in a group.
    pub block_bits: u32,
    /// Blocks a block of a directory: `sb_dirblklog` is the power of two.
    pub directory_blocks: u64,
    /// Whether names have the kind of file behind them.
    pub has_ftype: bool,
    /// Inodes without names, and what they are.
    special: [(u64, &'static str); 5],
}

impl Shape {
    /// From the sector that `sb` was parsed from.
    pub(crate) fn parse(sector: &[u8], sb: &Superblock) -> Result<Self, Refusal> {
        const INCOMPAT_FTYPE: u32 = 0x1;
        const VERSION2_FTYPE: u32 = 0x200;
        let sb_rootino = read_u64be(sector, 0x38);
        let sb_rbmino = read_u64be(sector, 0x40);
        let sb_rsumino = read_u64be(sector, 0x48);
        let sb_inodesize = read_u16be(sector, 0x68);
        let sb_inopblog = read_u8(sector, 0x7B);
        let sb_agblklog = read_u8(sector, 0x7C);
        let sb_uquotino = read_u64be(sector, 0xA0);
        let sb_gquotino = read_u64be(sector, 0xA8);
        let sb_dirblklog = read_u8(sector, 0xC0);
        let sb_pquotino = read_u64be(sector, 0xE8);
        let inode_size = u64::from(sb_inodesize);
        let inodes = sb.block_size.checked_div(inode_size).unwrap_or(0);
        let fits = inode_size.is_power_of_two()
            && (256..=2048).contains(&inode_size)
            && inodes.checked_shr(u32::from(sb_inopblog)) == Some(1)
            && sb_agblklog < 32
            // `XFS_MAX_BLOCKSIZE`.
            && sb.block_size.checked_shl(u32::from(sb_dirblklog)).is_some_and(|s| s <= 65_536);
        if !fits {
            return Err(Refusal::Damaged(format!(
                "the superblock claims inodes of {inode_size} bytes (2^{sb_inopblog} a block), \
                 directories of 2^{sb_dirblklog} blocks"
            )));
        }
        let v5 = sb.features.is_v5();
        let ftype = if v5 {
            sb.features.incompat & INCOMPAT_FTYPE
        } else {
            sb.features.features2 & VERSION2_FTYPE
        };
        Ok(Self {
            root_inode: sb_rootino,
            inode_size,
            inode_bits: u32::from(sb_inopblog),
            block_bits: u32::from(sb_agblklog),
            directory_blocks: 1_u64.checked_shl(u32::from(sb_dirblklog)).unwrap_or(1),
            has_ftype: ftype != 0,
            special: [
                (sb_rbmino, "bitmap of the realtime section"),
                (sb_rsumino, "summary of the realtime section"),
                (sb_uquotino, "quota"),
                (sb_gquotino, "quota"),
                (if v5 { sb_pquotino } else { u64::MAX }, "quota"),
            ],
        })
    }

    /// What an inode without a name is for.
    pub(crate) fn special(&self, inode: u64) -> Option<&'static str> {
        let mut special = self.special.iter();
        special.find_map(|&(number, what)| (number == inode).then_some(what))
    }

    /// The number of an inode of a group.
    pub(crate) fn inode_number(&self, group: u64, in_group: u64) -> u64 {
        let bits = self.block_bits.saturating_add(self.inode_bits);
        group.checked_shl(bits).unwrap_or(0) | in_group
    }

    /// Where inodes of a group are, `count` of them that lie side by side.
    pub(crate) fn place_of(
        &self,
        sb: &Superblock,
        group: u64,
        in_group: u64,
        count: u64,
    ) -> Option<Extent> {
        let block = in_group.checked_shr(self.inode_bits)?;
        let index = in_group & self.inode_mask();
        let at = sb
            .block_at(group, block)
            .checked_add(index.checked_mul(self.inode_size)?)?;
        let end = at.checked_add(count.checked_mul(self.inode_size)?)?;
        let end_of_group = sb.block_at(group, sb.blocks_in(group));
        Extent::between(at, end).filter(|extent| extent.end() <= end_of_group)
    }

    fn inode_mask(&self) -> u64 {
        1_u64
            .checked_shl(self.inode_bits)
            .unwrap_or(1)
            .saturating_sub(1)
    }

    /// Where the inode with a number is: its group, and its number there.
    pub(crate) fn split(&self, inode: u64) -> (u64, u64) {
        let bits = self.block_bits.saturating_add(self.inode_bits);
        let group = inode.checked_shr(bits).unwrap_or(0);
        (group, inode & !group.checked_shl(bits).unwrap_or(0))
    }

    /// The bytes of blocks by their number in the filesystem, inside one group; `None` if they are
    /// not inside one.
    pub(crate) fn bytes_of(&self, sb: &Superblock, block: u64, len: u64) -> Option<Extent> {
        let group = block.checked_shr(self.block_bits)?;
        let start = block & !group.checked_shl(self.block_bits)?;
        let end = start.checked_add(len)?;
        if group >= sb.ag_count || end > sb.blocks_in(group) {
            return None;
        }
        sb.bytes_of(group, BlockRun { start, end })
    }
}
