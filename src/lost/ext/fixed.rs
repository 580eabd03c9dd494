//! What ext2/3/4 keep at places of their own, and the group descriptors, from a copy where the first is
//! not to be read.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use crate::device::{ReadAt, Window};
use crate::extent::ExtentList;
use crate::lost::claims::{Claims, Owner};
use crate::lost::loss::What;
use crate::refusal::Refusal;
use crate::units::{ByteLen, ByteOffset};
use crate::usedmap::ext::features::INCOMPAT_META_BG;
use crate::usedmap::ext::group_desc::GroupDesc;
use crate::usedmap::ext::layout::BlockRun;
use crate::usedmap::ext::{Superblock, read_blocks, used_in_group};

/// Copies of the group descriptors that are tried.
const MAX_COPIES: usize = 4;

pub(super) fn run(start: u64, len: u64) -> BlockRun {
    BlockRun {
        start,
        end: start.saturating_add(len),
    }
}

/// The superblock, or a copy of it.
pub(super) fn superblock(volume: &dyn ReadAt) -> Result<Superblock, Refusal> {
    let first = match Superblock::read(volume) {
        Ok(sb) => return Ok(sb),
        Err(refusal) => refusal,
    };
    // The copy in group 1, which has as many blocks as a block has bits.
    for block_size in [4096_u64, 1024, 2048, 65_536] {
        let first_data_block = u64::from(block_size == 1024);
        let blocks = block_size
            .saturating_mul(8)
            .saturating_add(first_data_block);
        let at = blocks.saturating_mul(block_size);
        // Where the reader looks for it, seen from the start of what it reads.
        let Some(start) = at.checked_sub(1024) else {
            continue;
        };
        let shifted = Shifted { volume, start };
        if let Ok(sb) = Superblock::read(&shifted)
            && sb.block_size == block_size
        {
            return Ok(sb);
        }
    }
    Err(first)
}

/// A volume whose first bytes are those of a copy. Its size stays.
struct Shifted<'a> {
    volume: &'a dyn ReadAt,
    start: u64,
}

impl ReadAt for Shifted<'_> {
    fn size(&self) -> ByteLen {
        self.volume.size()
    }

    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> crate::error::Result<()> {
        let rest = self.volume.size().0.saturating_sub(self.start);
        let window = Window::new(self.volume, ByteOffset(self.start), ByteLen(rest))?;
        window.read_at(offset, buf)
    }

    fn name(&self) -> String {
        self.volume.name()
    }
}

/// What is at the start of groups, and the block of the multi-mount protection.
pub(super) fn claim(sb: &Superblock, claims: &mut Claims<'_>) {
    for group in 0..sb.group_count {
        let extent = sb.bytes_of(sb.base_metadata(group));
        if extent.is_some_and(|extent| claims.touches(extent)) {
            let which = if group == 0 {
                "superblock and group descriptors".to_owned()
            } else {
                format!("copy of superblock and group descriptors in group {group}")
            };
            claims.nobody(extent, &What::metadata(which));
        }
    }
    if sb.mmp_block != 0 {
        let block = sb.bytes_of(run(sb.mmp_block, 1));
        claims.nobody(block, &What::metadata("multi-mount protection"));
    }
}

/// A group's bitmaps and inode table.
pub(super) fn claim_group(sb: &Superblock, group: u64, desc: &GroupDesc, claims: &mut Claims<'_>) {
    for (what, block) in [
        ("block bitmap", desc.block_bitmap),
        ("inode bitmap", desc.inode_bitmap),
    ] {
        let extent = sb.bytes_of(run(block, 1));
        claims.claim(extent, |_| {
            Owner::Nobody(What::metadata(format!("{what} of group {group}")))
        });
    }
    let Some(table) = sb.bytes_of(desc.inode_table) else {
        return;
    };
    let used = sb.inodes_per_group.saturating_sub(desc.inodes_unused);
    claims.claim(Some(table), |part| {
        let index = |at: u64| at.saturating_sub(table.start().0);
        let from = index(part.start().0)
            .checked_div(sb.inode_size)
            .unwrap_or(0);
        let to = index(part.end()).div_ceil(sb.inode_size.max(1));
        let first = group.saturating_mul(sb.inodes_per_group).saturating_add(1);
        Owner::Inodes {
            which: format!("inode table of group {group}"),
            inodes: first.saturating_add(from.min(used))..first.saturating_add(to.min(used)),
        }
    });
}

/// Calls `each` with the descriptor of every group, or with why there is none.
pub(super) fn each_group(
    volume: &dyn ReadAt,
    sb: &Superblock,
    each: &mut dyn FnMut(u64, Result<GroupDesc, String>),
) {
    for nth in 0..sb.desc_blocks() {
        let first = nth.saturating_mul(sb.descs_per_block());
        let last = first
            .saturating_add(sb.descs_per_block())
            .min(sb.group_count);
        let block = sb.desc_block(nth);
        let bytes = read_blocks(volume, sb, block, 1, String::new).unwrap_or_default();
        let mut descs = bytes.chunks_exact(sb.desc_size);
        for group in first..last {
            let desc = descs.next().map(|bytes| GroupDesc::parse(sb, group, bytes));
            each(
                group,
                match desc {
                    Some(Ok(desc)) => Ok(desc),
                    _ => from_copy(volume, sb, group),
                },
            );
        }
    }
}

/// The descriptor of one group.
pub(super) fn descriptor(
    volume: &dyn ReadAt,
    sb: &Superblock,
    group: u64,
) -> Result<GroupDesc, String> {
    GroupDesc::read(volume, sb, group).or_else(|_| from_copy(volume, sb, group))
}

/// The descriptor of a group from one of the copies behind the superblock's copies. What mke2fs and
/// the kernel keep up to date there is where things are, which is what matters here.
fn from_copy(volume: &dyn ReadAt, sb: &Superblock, group: u64) -> Result<GroupDesc, String> {
    let lost = || format!("the descriptor of group {group} cannot be used");
    if sb.features.has_incompat(INCOMPAT_META_BG) {
        return Err(lost());
    }
    let nth = group.checked_div(sb.descs_per_block()).unwrap_or(0);
    let index = group.checked_rem(sb.descs_per_block()).unwrap_or(0);
    let index = usize::try_from(index).unwrap_or(usize::MAX);
    let copies = (1..sb.group_count).filter(|&group| sb.has_superblock(group));
    for copy in copies.take(MAX_COPIES) {
        let block = sb.group_start(copy).saturating_add(1).saturating_add(nth);
        let bytes = read_blocks(volume, sb, block, 1, String::new).unwrap_or_default();
        let bytes = bytes.chunks_exact(sb.desc_size).nth(index);
        if let Some(Ok(mut desc)) = bytes.map(|bytes| GroupDesc::parse(sb, group, bytes)) {
            // Copies are written when the filesystem is made or changed in size: what they say of
            // what is in use is old.
            desc.inodes_unused = 0;
            desc.block_uninit = false;
            return Ok(desc);
        }
    }
    Err(lost())
}

/// What a group's bitmap calls used; `None` if it cannot be read or does not match its checksum.
pub(super) fn used_in(volume: &dyn ReadAt, sb: &Superblock, group: u64) -> Option<ExtentList> {
    let desc = GroupDesc::read(volume, sb, group).ok()?;
    if desc.block_uninit {
        // Nothing but metadata, which is told apart before.
        return Some(ExtentList::new());
    }
    let bitmap = read_blocks(volume, sb, desc.block_bitmap, 1, String::new).ok()?;
    desc.accepts_bitmap(sb, &bitmap)
        .then(|| used_in_group(sb, group, &bitmap).0.collect())
}
