//! The entries of a directory (`fs/xfs/libxfs/xfs_da_format.h`): in the inode (short form), or in
//! blocks of data, whose hash index (leaves and nodes, from 32 GiB of the file on) nobody needs who
//! looks for numbers.
//!
//! An entry in a block is its inode (8 bytes), the length of its name, the name, with `ftype` a byte of
//! its kind, and its own place (2 bytes), filled up to 8 bytes; what is free begins with 0xFFFF and its
//! length. A directory of one block (`XD2B`, `XDB3`) has its index at the end of it.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use super::fork::{Mapped, Run};
use super::inode::{Inode, Kind};
use super::{Budget, Filesystem};
use crate::bytes::{has_magic, read_u8, read_u16be, read_u32be, read_u32le, read_u64be};
use crate::lost::names::Entry;
use crate::usedmap::xfs::superblock::has_crc;

/// `XFS_DIR2_LEAF_OFFSET`: where the index begins, in bytes of the file.
const INDEX_AT: u64 = 32 << 30;
/// Runs of a directory that are kept (32 MiB): more than 32 GiB of names have by far.
const MAX_RUNS: usize = 1 << 20;
const CRC_AT: usize = 0x4;

/// Calls `each` for every entry that can be read; nothing, if it is no directory.
pub(crate) fn entries(
    fs: Filesystem<'_>,
    inode: &Inode<'_>,
    budget: &mut Budget,
    each: &mut dyn FnMut(Entry<'_>),
) {
    if inode.kind != Kind::Directory {
        return;
    }
    let fork = inode.data_fork(fs);
    if let Some(local) = fork.local() {
        return short_form(local, fs.shape.has_ftype, each);
    }
    let mut runs: Vec<Run> = Vec::new();
    // What cannot be read of the map was told when the inodes were gone through before.
    let _ = fork.each(fs, budget, &mut |mapped| {
        if let Mapped::Run(run) = mapped
            && run.file_block < INDEX_AT.checked_div(fs.sb.block_size).unwrap_or(0)
            && runs.len() < MAX_RUNS
        {
            runs.push(run);
        }
    });
    let whole = fs.shape.directory_blocks;
    for run in &runs {
        for nth in 0..run.len {
            let first = run.file_block.saturating_add(nth);
            if first.checked_rem(whole) != Some(0) {
                continue;
            }
            // A block of a directory may be in several pieces.
            let mut bytes = Vec::new();
            for file_block in first..first.saturating_add(whole) {
                let block = find(&runs, file_block).filter(|_| budget.take());
                let Some(piece) = block.and_then(|block| fs.read_block(block)) else {
                    break;
                };
                bytes.extend(piece);
            }
            if u64::try_from(bytes.len()).ok() == whole.checked_mul(fs.sb.block_size) {
                in_block(fs, &bytes, each);
            }
            if budget.0 == 0 {
                return;
            }
        }
    }
}

fn find(runs: &[Run], file_block: u64) -> Option<u64> {
    let behind = runs.partition_point(|run| run.file_block <= file_block);
    let run = runs.get(behind.checked_sub(1)?)?;
    let nth = file_block.checked_sub(run.file_block)?;
    (nth < run.len).then(|| run.start.checked_add(nth))?
}

/// One block of a directory.
fn in_block(fs: Filesystem<'_>, bytes: &[u8], each: &mut dyn FnMut(Entry<'_>)) {
    const UNUSED: u16 = 0xFFFF;
    let v5 = fs.sb.features.is_v5();
    let (alone, one_of_many, header): (&[u8], &[u8], usize) = if v5 {
        (b"XDB3", b"XDD3", 0x40)
    } else {
        (b"XD2B", b"XD2D", 0x10)
    };
    let alone = has_magic(bytes, 0, alone);
    if !alone && !has_magic(bytes, 0, one_of_many)
        || v5 && !has_crc(bytes, CRC_AT, read_u32le(bytes, CRC_AT))
    {
        return;
    }
    let mut end = bytes.len();
    if alone {
        let tail = end.saturating_sub(8);
        let count = usize::try_from(read_u32be(bytes, tail)).unwrap_or(usize::MAX);
        end = tail.saturating_sub(count.saturating_mul(8));
    }
    let mut rest = bytes.get(header..end).unwrap_or_default();
    while rest.len() >= 8 {
        let len = if read_u16be(rest, 0) == UNUSED {
            usize::from(read_u16be(rest, 2))
        } else {
            let name_len = usize::from(read_u8(rest, 8));
            if let Some(name) = rest.get(9..).and_then(|rest| rest.get(..name_len))
                && !name.is_empty()
            {
                each(Entry {
                    name,
                    inode: read_u64be(rest, 0),
                });
            }
            let kind = usize::from(fs.shape.has_ftype);
            name_len.saturating_add(kind).saturating_add(11)
        };
        let Some(behind) = len
            .checked_next_multiple_of(8)
            .filter(|&len| len > 0)
            .and_then(|len| rest.get(len..))
        else {
            return;
        };
        rest = behind;
    }
}

/// A directory in its inode (`struct xfs_dir2_sf_hdr`): how many entries, how many numbers of 8 bytes
/// (if any, all have 8), the parent's number; an entry is the length of its name, two bytes, the name,
/// with `ftype` its kind, and its number.
fn short_form(bytes: &[u8], has_ftype: bool, each: &mut dyn FnMut(Entry<'_>)) {
    let count = read_u8(bytes, 0);
    let wide = read_u8(bytes, 1) != 0;
    let width = if wide { 8 } else { 4 };
    let number = |bytes: &[u8]| {
        if wide {
            read_u64be(bytes, 0)
        } else {
            u64::from(read_u32be(bytes, 0))
        }
    };
    let Some((parent, mut rest)) = bytes.get(2..).and_then(|rest| rest.split_at_checked(width))
    else {
        return;
    };
    each(Entry {
        name: b"..",
        inode: number(parent),
    });
    for _ in 0..count {
        let name_len = usize::from(read_u8(rest, 0));
        let behind_name = name_len.saturating_add(3);
        let at = behind_name.saturating_add(usize::from(has_ftype));
        let name = rest.get(3..behind_name);
        let found = rest.get(at..).and_then(|rest| rest.split_at_checked(width));
        let (Some(name), Some((inode, behind))) = (name, found) else {
            return;
        };
        each(Entry {
            name,
            inode: number(inode),
        });
        rest = behind;
    }
}
