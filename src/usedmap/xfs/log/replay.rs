//! What a mount would do to the trees of free space before anything else happens: the committed
//! transactions of the log, applied in memory. After `xlog_do_log_recovery` in
//! `fs/xfs/xfs_log_recover.c`: a first pass finds the buffers that were freed and later changes of
//! which must not be replayed, a second pass applies the rest in order. docs/decisions/0009 says why
//! everything that is not a buffer of free space needs no replay.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use super::buffer::{self, BufferFormat};
use super::transaction::{Assembler, Item, Transaction, too_much};
use super::{Log, damaged};
use crate::bytes::{read_u32be, read_u32le, read_u64le};
use crate::extent::{Extent, ExtentList, RunCollector};
use crate::refusal::Refusal;
use crate::usedmap::xfs::overlay::Overlay;
use crate::usedmap::xfs::superblock::Superblock;
use std::collections::{BTreeSet, HashMap};

/// Replaced pieces, and transactions being put together: at most so many bytes each.
const MOST_BYTES: usize = 64 << 20;
/// Freed buffers remembered at once.
const MOST_CANCELLED: usize = 1 << 20;

const LI_INODE: u16 = 0x123B;
const LI_BUF: u16 = 0x123C;
const LI_DQUOT: u16 = 0x123D;
const LI_ICREATE: u16 = 0x123F;
/// EFI, EFD, QUOTAOFF, RUI, RUD, CUI, CUD, BUI, BUD: what is still to be done after the replay, and
/// that it was done.
const INTENTS: [u16; 9] = [
    0x1236, 0x1237, 0x123E, 0x1240, 0x1241, 0x1242, 0x1243, 0x1244, 0x1245,
];
/// `XFS_ILOG_DOWNER`, `XFS_ILOG_AOWNER`: go through all blocks of a file's tree.
const ILOG_OWNER: u32 = 0x200 | 0x400;

/// A volume after the replay.
pub(in crate::usedmap::xfs) struct Replayed<'a> {
    /// Its metadata.
    pub volume: Overlay<'a>,
    /// Everything that a replay reads or writes, in use afterwards or not.
    pub touched: ExtentList,
}

impl<'a> Log<'a> {
    /// Replays what is from `tail` to `head`.
    pub(in crate::usedmap::xfs) fn replay(
        &self,
        tail: u64,
        head: u64,
    ) -> Result<Replayed<'a>, Refusal> {
        let mut replay = Replay {
            sb: self.sb,
            volume: Overlay::new(self.volume),
            touched: RunCollector::new(),
            cancelled: HashMap::new(),
            changed: BTreeSet::new(),
            lsn: None,
        };
        let mut assembler = Assembler::new(MOST_BYTES, &|_| false);
        self.records(tail, head, |record| {
            assembler.record(&record, |transaction| replay.first_pass(&transaction))
        })?;
        let matters = |format: &[u8]| {
            crate::bytes::read_u16le(format, 0) == LI_BUF
                && BufferFormat::parse(format, self.sb).is_ok_and(BufferFormat::matters)
        };
        let mut assembler = Assembler::new(MOST_BYTES, &matters);
        self.records(tail, head, |record| {
            assembler.record(&record, |transaction| replay.second_pass(&transaction))
        })?;
        replay.write_changed();
        Ok(Replayed {
            volume: replay.volume,
            touched: replay.touched.finish(),
        })
    }
}

struct Replay<'a, 'sb> {
    sb: &'sb Superblock,
    volume: Overlay<'a>,
    touched: RunCollector,
    /// Freed buffers by place and length, and how often each.
    cancelled: HashMap<(u64, u16), u64>,
    /// Pieces changed by the transactions of number `lsn`.
    changed: BTreeSet<u64>,
    lsn: Option<u64>,
}

impl Replay<'_, '_> {
    fn first_pass(&mut self, transaction: &Transaction) -> Result<(), Refusal> {
        for item in &transaction.items {
            if let Some(extent) = self.extent_of(item)? {
                self.touched.push(extent);
            }
            if item.kind() != LI_BUF {
                continue;
            }
            let format = BufferFormat::parse(&item.format, self.sb)?;
            if format.is_cancel() {
                let times = self.cancelled.entry((format.block, format.blocks));
                let times = times.or_default();
                *times = times.saturating_add(1);
            }
            if self.cancelled.len() > MOST_CANCELLED {
                return Err(too_much());
            }
        }
        Ok(())
    }

    /// What a replay of the item reads or writes, if that has a place.
    fn extent_of(&self, item: &Item) -> Result<Option<Extent>, Refusal> {
        let format = item.format.as_slice();
        // In blocks of 512 bytes.
        let (at, count) = match item.kind() {
            LI_BUF => {
                let buffer = BufferFormat::parse(format, self.sb)?;
                (buffer.block, u64::from(buffer.blocks))
            }
            LI_INODE => {
                let ilf_fields = read_u32le(format, 0x04);
                // 52 bytes are what old machines of 32 bits wrote.
                if format.len() != 56 || ilf_fields & ILOG_OWNER != 0 {
                    return Err(not_replayed("an exchange of files"));
                }
                (
                    read_u64le(format, 0x28),
                    u64::from(read_u32le(format, 0x30)),
                )
            }
            LI_DQUOT => (
                read_u64le(format, 0x08),
                u64::from(read_u32le(format, 0x10)),
            ),
            LI_ICREATE => {
                let icl_ag = u64::from(read_u32be(format, 0x04));
                let icl_agbno = u64::from(read_u32be(format, 0x08));
                let icl_length = u64::from(read_u32be(format, 0x14));
                if icl_ag >= self.sb.ag_count
                    || icl_agbno.saturating_add(icl_length) > self.sb.blocks_in(icl_ag)
                {
                    return Err(damaged("makes inodes outside a group".into()));
                }
                (
                    self.sb.block_at(icl_ag, icl_agbno) >> 9,
                    icl_length.saturating_mul(self.sb.block_size) >> 9,
                )
            }
            kind if INTENTS.contains(&kind) => return Ok(None),
            kind => return Err(not_replayed(&format!("an item of kind {kind:#x}"))),
        };
        let end = at.checked_add(count).and_then(|end| end.checked_mul(512));
        let size = self.sb.data_blocks.saturating_mul(self.sb.block_size);
        if end.is_none_or(|end| end > size) {
            return Err(damaged(format!("reads {count} sectors at {at}")));
        }
        Ok(Extent::between(
            at.saturating_mul(512),
            end.unwrap_or_default(),
        ))
    }

    fn second_pass(&mut self, transaction: &Transaction) -> Result<(), Refusal> {
        // What was changed is written, and so gets its number, when the number changes: not before,
        // since a buffer may be changed by two transactions of one number.
        if self.lsn != Some(transaction.lsn) {
            self.write_changed();
            self.lsn = Some(transaction.lsn);
        }
        let buffers = || {
            transaction
                .items
                .iter()
                .filter(|item| item.kind() == LI_BUF)
        };
        for item in buffers() {
            let format = BufferFormat::parse(&item.format, self.sb)?;
            let key = (format.block, format.blocks);
            if !format.is_cancel() && format.matters() && !self.cancelled.contains_key(&key) {
                self.change(format, item, transaction.lsn)?;
            }
        }
        // The freed ones last, whatever their place in the transaction.
        for item in buffers() {
            let format = BufferFormat::parse(&item.format, self.sb)?;
            let key = (format.block, format.blocks);
            if !format.is_cancel() {
                continue;
            }
            if let Some(times) = self.cancelled.get_mut(&key) {
                *times = times.saturating_sub(1);
                if *times == 0 {
                    self.cancelled.remove(&key);
                }
            }
        }
        Ok(())
    }

    fn change(&mut self, format: BufferFormat, item: &Item, lsn: u64) -> Result<(), Refusal> {
        let at = format.block.saturating_mul(512);
        let len = usize::from(format.blocks).saturating_mul(512);
        let Some(piece) = self.volume.piece(at, len)? else {
            return Err(not_replayed("buffers that overlap"));
        };
        if !buffer::is_as_new_as(piece, self.sb, lsn) {
            format.apply(&item.format, &item.data, piece)?;
            self.changed.insert(at);
        }
        if self.volume.held() > MOST_BYTES {
            return Err(too_much());
        }
        Ok(())
    }

    fn write_changed(&mut self) {
        let lsn = self.lsn.unwrap_or_default();
        for at in std::mem::take(&mut self.changed) {
            if let Some(piece) = self.volume.existing(at) {
                buffer::seal(piece, self.sb, lsn);
            }
        }
    }
}

fn not_replayed(what: &str) -> Refusal {
    Refusal::Dirty(format!(
        "its log holds writes that have not reached their places, among them {what}, which is not \
         replayed in memory (boot the server once and power it off properly for a smaller copy)"
    ))
}
