//! ext2, ext3 and ext4: the blocks in use, from the block bitmaps.
//!
//! In: a volume. Out: its used bytes, or the reason why its bitmaps are not to be trusted. Bitmaps
//! are read a group at a time and never kept; beside them everything that the format puts at fixed
//! places is taken, and the three counts of free blocks (bitmap, group descriptor, superblock) must
//! agree. A journal that was not replayed is replayed in memory first.
//!
//! Each file is one structure: `superblock`, `features`, `layout` (what is where), `group_desc`,
//! `inode`, `block_map`, `journal`; `walk` goes over all groups.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

mod block_map;
pub(crate) mod extent_node;
pub(crate) mod features;
pub(crate) mod group_desc;
pub(crate) mod inode;
mod journal;
pub(crate) mod layout;
pub(crate) mod superblock;
mod walk;

pub use features::Features;
pub use superblock::Superblock;
pub(crate) use walk::used_in_group;

use super::finding::{Filesystem, Mapped, Refusal};
use super::region::State;
use crate::bytes::read_u32le;
use crate::device::ReadAt;
use crate::error::Error;
use crate::extent::Extent;
use crate::units::{ByteLen, ByteOffset};
use crate::usedmap::overlay::Overlay;
use journal::Journal;
use layout::BlockRun;
use superblock::JournalPlace;
use walk::{Before, Walk};

/// Reads what a volume with the signature of ext2/3/4 holds.
pub(super) fn look(volume: &dyn ReadAt) -> Filesystem {
    let superblock = match Superblock::read(volume) {
        Ok(superblock) => superblock,
        Err(refusal) => {
            return Filesystem {
                uuid: superblock::uuid_of_journal_device(volume),
                ..Filesystem::refused(refusal)
            };
        }
    };
    Filesystem {
        name: Some(superblock.flavour().into()),
        label: superblock.label.clone(),
        uuid: Some(superblock.uuid.hyphenated().to_string()),
        used_if_clean: Some(superblock.used_bytes()),
        verdict: mapped(volume, &superblock),
    }
}

fn mapped(volume: &dyn ReadAt, sb: &Superblock) -> Result<Mapped, Refusal> {
    sb.refuse_unless_replayable()?;
    refuse_if_multi_mounted(volume, sb)?;
    let journal = match sb.journal {
        JournalPlace::Inode(number) => Some(Journal::open(volume, sb, number)?),
        JournalPlace::None | JournalPlace::Elsewhere(_) => None,
    };
    match journal {
        Some(journal) if sb.needs_recovery() => replayed(volume, sb, &journal),
        // e2fsck would replay it, the kernel would throw it away.
        Some(journal) if !journal.is_empty() => Err(Refusal::Damaged(
            "its journal holds writes, but its superblock says that it was shut down (boot the \
             server and let e2fsck repair it for a smaller copy)"
                .into(),
        )),
        _ => Ok(Mapped {
            state: State::Clean,
            reason: "clean: the blocks that its bitmaps call used are taken".into(),
            used: Walk::new(volume, sb, None).run()?,
        }),
    }
}

/// The map of a filesystem that was not shut down, as the next mount will find it.
fn replayed(
    volume: &dyn ReadAt,
    on_disk: &Superblock,
    journal: &Journal,
) -> Result<Mapped, Refusal> {
    let (overlay, transactions) = journal.replayed(volume, on_disk)?;
    let sb = Superblock::read(&overlay)?;
    sb.refuse_unless_replayable()?;
    if sb.block_size != on_disk.block_size || sb.journal != on_disk.journal {
        return Err(Refusal::Damaged(
            "its journal holds the superblock of another filesystem".into(),
        ));
    }
    let before = Before {
        overlay: &overlay,
        sb: on_disk,
    };
    let mut walk = Walk::new(&overlay, &sb, Some(before));
    for run in journal.blocks() {
        walk.take(run);
    }
    let replayed = match transactions {
        0 => "its journal has nothing to replay".into(),
        1 => "the one transaction of its journal was replayed in memory".to_owned(),
        _ => format!("the {transactions} transactions of its journal were replayed in memory"),
    };
    Ok(Mapped {
        state: State::Dirty,
        reason: format!(
            "it was not shut down: {replayed}, and the blocks that its bitmaps call used before \
             and after are taken"
        ),
        used: walk.run()?,
    })
}

/// The volume as its next mount will find it, if it was not shut down and its journal can be replayed.
pub(crate) fn as_mounted<'a>(volume: &'a dyn ReadAt, sb: &Superblock) -> Option<Overlay<'a>> {
    let JournalPlace::Inode(number) = sb.journal else {
        return None;
    };
    let journal = Journal::open(volume, sb, number).ok()?;
    let replayed = journal
        .replayed(volume, sb)
        .ok()
        .map(|(overlay, _)| overlay);
    replayed.filter(|_| sb.needs_recovery())
}

/// Calls `each` with every block that replaying the journal would write: its place in bytes and its
/// content. For tests that hold the replay against that of e2fsck.
///
/// # Errors
/// Why it cannot be replayed.
#[doc(hidden)]
pub fn replay_journal(
    volume: &dyn ReadAt,
    each: &mut dyn FnMut(ByteOffset, &[u8]),
) -> Result<(), String> {
    let replay = || -> Result<(), Refusal> {
        let sb = Superblock::read(volume)?;
        let JournalPlace::Inode(number) = sb.journal else {
            return Err(Refusal::Unsupported("no journal on this volume".into()));
        };
        let (overlay, _) = Journal::open(volume, &sb, number)?.replayed(volume, &sb)?;
        for block in overlay.blocks() {
            let at = ByteOffset(block.saturating_mul(sb.block_size));
            each(at, &read_blocks(&overlay, &sb, block, 1, String::new)?);
        }
        Ok(())
    };
    let mut replay = replay;
    replay().map_err(|refusal| format!("{refusal:?}"))
}

/// Whole blocks of a volume, with what is `doing` in every error.
pub(crate) fn read_blocks(
    volume: &dyn ReadAt,
    sb: &Superblock,
    block: u64,
    count: usize,
    doing: impl Fn() -> String,
) -> Result<Vec<u8>, Refusal> {
    let block_size = usize::try_from(sb.block_size).unwrap_or(usize::MAX);
    let at = block.checked_mul(sb.block_size);
    let len = count.checked_mul(block_size);
    let (Some(at), Some(len)) = (at, len) else {
        return Err(Refusal::Damaged(format!("{} overflows", doing())));
    };
    let end = u64::try_from(len).ok().and_then(|len| at.checked_add(len));
    if end.is_none_or(|end| end > volume.size().0) {
        return Err(Refusal::Damaged(format!(
            "{}: it lies outside the filesystem",
            doing()
        )));
    }
    let mut bytes = vec![0; len];
    volume
        .read_at(ByteOffset(at), &mut bytes)
        .map_err(|error| {
            let kind = error.kind();
            Error::new(kind, doing()).because(error).at(at)
        })?;
    Ok(bytes)
}

impl Superblock {
    /// What it calls used, in bytes.
    fn used_bytes(&self) -> ByteLen {
        let used = self.blocks_count.saturating_sub(self.free_blocks);
        ByteLen(used.saturating_mul(self.block_size))
    }

    /// The bytes of a run of blocks.
    pub(crate) fn bytes_of(&self, run: BlockRun) -> Option<Extent> {
        Extent::between(
            run.start.checked_mul(self.block_size)?,
            run.end.checked_mul(self.block_size)?,
        )
    }

    /// Bits of a group's bitmap that stand for something.
    fn clusters_in(&self, group: u64) -> u64 {
        let BlockRun { start, end } = self.group_blocks(group);
        end.saturating_sub(start).div_ceil(self.blocks_per_cluster)
    }
}

/// Multi-mount protection: another node may be using the filesystem while we look at it.
fn refuse_if_multi_mounted(volume: &dyn ReadAt, sb: &Superblock) -> Result<(), Refusal> {
    /// `EXT4_MMP_MAGIC` and `EXT4_MMP_SEQ_CLEAN`.
    const MAGIC: u32 = 0x004D_4D50;
    const CLEAN: u32 = 0xFF4D_4D50;
    if sb.mmp_block == 0 {
        return Ok(());
    }
    let mut bytes = [0; 8];
    let at = sb.mmp_block.saturating_mul(sb.block_size);
    volume.read_at(ByteOffset(at), &mut bytes)?;
    if read_u32le(&bytes, 0x0) != MAGIC {
        return Err(Refusal::Damaged(
            "the block of its multi-mount protection is not one".into(),
        ));
    }
    if read_u32le(&bytes, 0x4) != CLEAN {
        return Err(Refusal::Dirty(
            "its multi-mount protection says that a node has it mounted (unmount it everywhere)"
                .into(),
        ));
    }
    Ok(())
}
