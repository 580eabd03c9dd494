//! An inode (`struct ext4_inode` in `fs/ext4/ext4.h`), as far as it says what kind of file it is, how
//! large, and where its blocks are. `i_block` is read by whoever follows the map.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use super::features::RO_COMPAT_METADATA_CSUM;
use super::group_desc::GroupDesc;
use super::layout::BlockRun;
use super::read_blocks;
use super::superblock::Superblock;
use crate::bytes::{read_array, read_u16le, read_u32le};
use crate::device::ReadAt;
use crate::usedmap::crc::{crc32c, matches_checksum};
use crate::usedmap::finding::Refusal;

/// `i_mode`: the bits that say what kind of file it is.
const S_IFMT: u16 = 0xF000;
/// A regular file.
pub(crate) const S_IFREG: u16 = 0x8000;
/// `EXT4_EXTENTS_FL`: `i_block` is the root of an extent tree, not a list of blocks.
const EXTENTS_FL: u32 = 0x8_0000;

/// An inode that matches its checksum.
#[derive(Debug, Clone)]
pub(crate) struct Inode {
    /// The kind of file, of `i_mode`: [`S_IFREG`] and its like.
    pub kind: u16,
    /// `i_links_count`: 0 if it is free, or of a file that was deleted while it was open.
    pub links: u16,
    /// `i_flags`.
    pub flags: u32,
    /// `i_file_acl`: the block of its extended attributes, 0 if none.
    pub attribute_block: u64,
    /// `i_size`, in bytes.
    pub size: u64,
    /// `i_block`: what maps the file's blocks.
    pub block: [u8; 60],
    /// Whether `i_block` is an extent tree.
    pub has_extents: bool,
    /// What the checksums of its extent blocks start from: file system, number and generation.
    pub checksum_seed: u32,
    /// The block of the inode table that it is in.
    pub table_block: u64,
}

impl Inode {
    /// Reads an inode that must be a regular file with a name, as the kernel does for the journal.
    pub(crate) fn read(volume: &dyn ReadAt, sb: &Superblock, number: u32) -> Result<Self, Refusal> {
        let damaged = |what: &str| Refusal::Damaged(format!("its journal, inode {number}, {what}"));
        let (raw, table_block) = Self::read_raw(volume, sb, number)?;
        let inode = Self::parse(sb, number, &raw, table_block).map_err(damaged)?;
        if inode.kind != S_IFREG || inode.links == 0 {
            return Err(damaged("is not a regular file"));
        }
        Ok(inode)
    }

    /// The bytes of an inode, and the block of the inode table that they are in.
    pub(crate) fn read_raw(
        volume: &dyn ReadAt,
        sb: &Superblock,
        number: u32,
    ) -> Result<(Vec<u8>, u64), Refusal> {
        let damaged = |what: &str| Refusal::Damaged(format!("inode {number} {what}"));
        let index = u64::from(number)
            .checked_sub(1)
            .filter(|_| u64::from(number) <= sb.inodes_count)
            .ok_or_else(|| damaged("does not exist"))?;
        let group = index.checked_div(sb.inodes_per_group).unwrap_or(0);
        let desc = GroupDesc::read(volume, sb, group)?;
        let in_table = index
            .checked_rem(sb.inodes_per_group)
            .unwrap_or(0)
            .saturating_mul(sb.inode_size);
        let block = in_table.checked_div(sb.block_size).unwrap_or(0);
        let within = in_table.checked_rem(sb.block_size).unwrap_or(0);
        let table_block = desc.inode_table.start.saturating_add(block);
        let bytes = read_blocks(volume, sb, table_block, 1, || {
            format!("reading inode {number} in block {table_block}")
        })?;
        let from = usize::try_from(within).unwrap_or(usize::MAX);
        let len = usize::try_from(sb.inode_size).unwrap_or(usize::MAX);
        let raw = bytes
            .get(from..)
            .and_then(|rest| rest.get(..len))
            .ok_or_else(|| damaged("lies across two blocks"))?;
        Ok((raw.to_vec(), table_block))
    }

    /// `raw` is exactly one inode.
    pub(crate) fn parse(
        sb: &Superblock,
        number: u32,
        raw: &[u8],
        table_block: u64,
    ) -> Result<Self, &'static str> {
        let i_mode = read_u16le(raw, 0x00);
        let i_size_lo = read_u32le(raw, 0x04);
        let i_links_count = read_u16le(raw, 0x1A);
        let i_flags = read_u32le(raw, 0x20);
        let i_block = read_array(raw, 0x28);
        let i_file_acl_lo = read_u32le(raw, 0x68);
        let i_file_acl_high = read_u16le(raw, 0x76);
        let i_generation = read_u32le(raw, 0x64);
        let i_size_high = read_u32le(raw, 0x6C);

        let seed = crc32c(
            sb.checksum_seed,
            [number.to_le_bytes(), i_generation.to_le_bytes()]
                .iter()
                .map(<[u8; 4]>::as_slice),
        );
        if sb.features.has_ro_compat(RO_COMPAT_METADATA_CSUM) && !accepts(raw, seed) {
            return Err("does not match its checksum");
        }
        Ok(Self {
            kind: i_mode & S_IFMT,
            links: i_links_count,
            flags: i_flags,
            attribute_block: u64::from(i_file_acl_high) << 32 | u64::from(i_file_acl_lo),
            size: u64::from(i_size_high) << 32 | u64::from(i_size_lo),
            block: i_block,
            has_extents: i_flags & EXTENTS_FL != 0,
            checksum_seed: seed,
            table_block,
        })
    }

    /// The block of the inode table, as a run.
    pub(crate) fn table_run(&self) -> BlockRun {
        BlockRun {
            start: self.table_block,
            end: self.table_block.saturating_add(1),
        }
    }
}

/// `ext4_inode_csum`: over the inode with its checksum as 0; the upper half of the checksum is there
/// if `i_extra_isize` reaches behind it.
fn accepts(raw: &[u8], seed: u32) -> bool {
    const CHECKSUM_LO: usize = 0x7C;
    const EXTRA_ISIZE: usize = 0x80;
    const CHECKSUM_HI: usize = 0x82;
    const ZERO: &[u8] = &[0, 0];
    let piece = |from: usize, to: usize| raw.get(from..to.min(raw.len())).unwrap_or_default();
    let wide = raw.len() > EXTRA_ISIZE && read_u16le(raw, EXTRA_ISIZE) >= 4;
    let head = [piece(0, CHECKSUM_LO), ZERO, piece(0x7E, EXTRA_ISIZE)];
    let tail = if wide {
        [
            piece(EXTRA_ISIZE, CHECKSUM_HI),
            ZERO,
            piece(0x84, usize::MAX),
        ]
    } else {
        [piece(EXTRA_ISIZE, usize::MAX), &[], &[]]
    };
    let sum = crc32c(seed, head.into_iter().chain(tail));
    let stored = u32::from(read_u16le(raw, CHECKSUM_LO));
    if wide {
        matches_checksum(sum, stored | u32::from(read_u16le(raw, CHECKSUM_HI)) << 16)
    } else {
        matches_checksum(sum & 0xFFFF, stored)
    }
}
