//! The journal of ext3 and ext4 (jbd2): what it holds is laid over the volume in memory, as the
//! kernel will write it when the filesystem is mounted next.
//!
//! In: a volume and its superblock. Out: the volume as it will be, and the journal's own blocks,
//! which have to be there for that. Each file is one structure of the journal; `recovery` is the
//! algorithm, `log` reads blocks.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

mod commit;
mod descriptor;
mod fast_commit;
mod header;
mod log;
mod recovery;
mod revoke;
mod superblock;

use super::block_map::BlockMap;
use super::inode::Inode;
use super::layout::BlockRun;
use super::superblock::Superblock;
use crate::device::ReadAt;
use crate::usedmap::finding::Refusal;
use crate::usedmap::overlay::Overlay;
use log::Log;
use superblock::JournalSuperblock;

/// A journal on the same volume.
pub(super) struct Journal {
    sb: JournalSuperblock,
    inode: Inode,
    map: BlockMap,
}

impl Journal {
    /// The journal in a filesystem's inode `number`.
    pub(super) fn open(volume: &dyn ReadAt, fs: &Superblock, number: u32) -> Result<Self, Refusal> {
        let inode = Inode::read(volume, fs, number)?;
        let file_blocks = inode.size.checked_div(fs.block_size).unwrap_or(0);
        let first = BlockMap::read(volume, fs, &inode, file_blocks.min(1))?;
        let sb = JournalSuperblock::parse(Log::new(volume, fs, &first).read(0)?, file_blocks)?;
        let map = BlockMap::read(volume, fs, &inode, u64::from(sb.maxlen))?;
        if sb.errno != 0 {
            return Err(Refusal::Dirty(format!(
                "its journal was stopped by error {} (boot the server and let e2fsck repair it for \
                 a smaller copy)",
                sb.errno.cast_signed()
            )));
        }
        Ok(Self { sb, inode, map })
    }

    /// Whether its log holds anything.
    pub(super) fn is_empty(&self) -> bool {
        self.sb.start == 0
    }

    /// The volume with the log replayed, and of how many transactions.
    pub(super) fn replayed<'a>(
        &self,
        volume: &'a dyn ReadAt,
        fs: &Superblock,
    ) -> Result<(Overlay<'a>, u32), Refusal> {
        let mut overlay = Overlay::new(volume, fs.block_size);
        if self.is_empty() {
            return Ok((overlay, 0));
        }
        let mut log = Log::new(volume, fs, &self.map);
        let scanned = recovery::scan(&self.sb, &mut log)?;
        let blocks_on_volume = volume.size().0.checked_div(fs.block_size).unwrap_or(0);
        let own = self.map.sorted_runs();
        let allowed = |block: u64| {
            let behind = own.partition_point(|run| run.start <= block);
            let run = behind.checked_sub(1).and_then(|nth| own.get(nth));
            block < blocks_on_volume && run.is_none_or(|run| block >= run.end)
        };
        recovery::replay(&self.sb, &mut log, &scanned, &mut overlay, allowed)?;
        Ok((overlay, scanned.transactions))
    }

    /// What a kernel reads before anything has been replayed: the inode, its map, the journal.
    pub(super) fn blocks(&self) -> impl Iterator<Item = BlockRun> + '_ {
        let one = |&start: &u64| BlockRun {
            start,
            end: start.saturating_add(1),
        };
        self.map
            .runs()
            .chain([self.inode.table_run()])
            .chain(self.map.map_blocks.iter().map(one))
    }
}

fn damaged(what: &str) -> Refusal {
    Refusal::Damaged(format!("its journal {what}"))
}
