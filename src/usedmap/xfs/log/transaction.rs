//! Transactions in the log: the data of records is a row of operations (`struct xlog_op_header`,
//! big-endian), each a piece of a transaction; a transaction is a row of items, each of some
//! regions, the first of which says what it is (host order, here always little-endian). After
//! `xlog_recover_process_ophdr` and `xlog_recover_add_to_trans` in `fs/xfs/xfs_log_recover.c`.
//!
//! | 0x00 | 0x04 | 0x08 | 0x09 |
//! | --- | --- | --- | --- |
//! | oh_tid | oh_len | oh_clientid | oh_flags |

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use super::damaged;
use super::record::Record;
use crate::bytes::{read_u8, read_u16le, read_u32be, read_u32le};
use crate::refusal::Refusal;
use std::collections::HashMap;

const START: u8 = 0x01;
const COMMIT: u8 = 0x02;
const CONTINUE: u8 = 0x04;
const WAS_CONTINUED: u8 = 0x08;
const END: u8 = 0x10;
const UNMOUNT: u8 = 0x20;
/// Who writes: `XFS_TRANSACTION`, `XFS_LOG`.
const CLIENTS: [u8; 2] = [0x69, 0xAA];
/// `XFS_TRANS_HEADER_MAGIC`.
const MAGIC: u32 = 0x5452_414E;
/// `sizeof(struct xfs_trans_header)`.
const HEADER_LEN: usize = 16;
/// `XLOG_MAX_REGIONS_IN_ITEM`.
const MAX_REGIONS: usize = (65_536 / 128 / 2) + 1;
/// Transactions that are open at the same time: far more than there ever are.
const MAX_OPEN: usize = 4096;

/// An item, and those of its regions that somebody wanted.
#[derive(Debug, Clone, Default)]
pub(super) struct Item {
    /// How many regions it has.
    total: usize,
    seen: usize,
    kept: bool,
    /// The first region: type, number of regions, then what depends on the type.
    pub format: Vec<u8>,
    /// The further regions, if they are kept.
    pub data: Vec<Vec<u8>>,
}

impl Item {
    /// The type: one of `XFS_LI_*`.
    pub(super) fn kind(&self) -> u16 {
        read_u16le(&self.format, 0)
    }

    fn is_whole(&self) -> bool {
        self.total > 0 && self.seen == self.total
    }
}

/// A transaction that was committed.
#[derive(Debug, Clone)]
pub(super) struct Transaction {
    /// The number of the record in which it began.
    pub lsn: u64,
    header: Vec<u8>,
    /// In the order in which they were logged.
    pub items: Vec<Item>,
}

/// Puts transactions together while records come in.
pub(super) struct Assembler<'a> {
    open: HashMap<u32, Transaction>,
    /// Whether the data of an item is wanted, by its first region.
    wanted: &'a dyn Fn(&[u8]) -> bool,
    /// Bytes in `open`.
    held: usize,
    most: usize,
}

impl<'a> Assembler<'a> {
    /// Holds at most `most` bytes of transactions that are not yet committed.
    pub(super) fn new(most: usize, wanted: &'a dyn Fn(&[u8]) -> bool) -> Self {
        Self {
            open: HashMap::new(),
            wanted,
            held: 0,
            most,
        }
    }

    /// Takes a record and hands on every transaction that is committed in it. Transactions without
    /// their commit never happened.
    pub(super) fn record(
        &mut self,
        record: &Record,
        mut each: impl FnMut(Transaction) -> Result<(), Refusal>,
    ) -> Result<(), Refusal> {
        let mut rest = record.data.as_slice();
        for _ in 0..record.operations {
            let Some((header, behind)) = rest.split_at_checked(12) else {
                break;
            };
            let oh_tid = read_u32be(header, 0);
            let oh_len = usize::try_from(read_u32be(header, 4)).unwrap_or(usize::MAX);
            let oh_clientid = read_u8(header, 8);
            let oh_flags = read_u8(header, 9);
            let Some((data, next)) = behind.split_at_checked(oh_len) else {
                return Err(damaged("has an operation longer than its record".into()));
            };
            if !CLIENTS.contains(&oh_clientid) {
                return Err(damaged(format!("has an operation of client {oh_clientid}")));
            }
            rest = next;
            if let Some(done) = self.operation(record.lsn, oh_tid, oh_flags, data)? {
                each(done)?;
            }
        }
        Ok(())
    }

    fn operation(
        &mut self,
        lsn: u64,
        tid: u32,
        flags: u8,
        data: &[u8],
    ) -> Result<Option<Transaction>, Refusal> {
        let Some(transaction) = self.open.get_mut(&tid) else {
            if flags & START != 0 {
                if self.open.len() >= MAX_OPEN {
                    return Err(too_much());
                }
                let transaction = Transaction {
                    lsn,
                    header: Vec::new(),
                    items: Vec::new(),
                };
                self.open.insert(tid, transaction);
            }
            // What is left of one that began before the tail.
            return Ok(None);
        };
        let mut flags = flags & !END;
        if flags & WAS_CONTINUED != 0 {
            flags &= !CONTINUE;
        }
        match flags {
            0 | CONTINUE | WAS_CONTINUED => {
                let kept = transaction.add(data, flags == WAS_CONTINUED, self.wanted)?;
                self.held = self.held.saturating_add(kept);
                if self.held > self.most {
                    return Err(too_much());
                }
                Ok(None)
            }
            COMMIT => {
                let done = self.open.remove(&tid);
                if self.open.is_empty() {
                    self.held = 0;
                }
                match done {
                    Some(done) if done.items.iter().all(Item::is_whole) => Ok(Some(done)),
                    _ => Err(damaged("has a transaction with half an item".into())),
                }
            }
            UNMOUNT => {
                self.open.remove(&tid);
                Ok(None)
            }
            _ => Err(damaged(format!("has an operation of kind {flags:#x}"))),
        }
    }
}

/// More than is held in memory.
pub(super) fn too_much() -> Refusal {
    Refusal::Dirty(
        "its log holds more writes that have not reached their places than are replayed in memory \
         (boot the server once and power it off properly for a smaller copy)"
            .into(),
    )
}

impl Transaction {
    /// Takes a region or a piece of one; about how many bytes of memory that took.
    fn add(
        &mut self,
        data: &[u8],
        goes_on: bool,
        wanted: &dyn Fn(&[u8]) -> bool,
    ) -> Result<usize, Refusal> {
        if data.is_empty() {
            return Ok(0);
        }
        // The header may come in pieces, like everything.
        if self.header.len() < HEADER_LEN {
            self.header.extend_from_slice(data);
            if self.header.len() > HEADER_LEN || read_u32le(&self.header, 0) != MAGIC {
                return Err(damaged("has a transaction without its header".into()));
            }
            return Ok(HEADER_LEN);
        }
        if goes_on {
            let Some(item) = self.items.last_mut() else {
                return Err(damaged("goes on with an item that is not there".into()));
            };
            if item.seen <= 1 {
                item.format.extend_from_slice(data);
            } else if let Some(region) = item.data.last_mut() {
                region.extend_from_slice(data);
            } else {
                return Ok(0);
            }
            return Ok(data.len());
        }
        match self.items.last_mut() {
            Some(item) if !item.is_whole() => {
                if item.seen == 1 {
                    item.kept = wanted(&item.format);
                }
                item.seen = item.seen.saturating_add(1);
                if !item.kept {
                    return Ok(0);
                }
                item.data.push(data.to_vec());
            }
            _ => {
                let total = usize::from(read_u16le(data, 2));
                if data.len() < 4 || total == 0 || total > MAX_REGIONS {
                    return Err(damaged(format!("has an item of {total} regions")));
                }
                self.items.push(Item {
                    total,
                    seen: 1,
                    kept: false,
                    format: data.to_vec(),
                    data: Vec::new(),
                });
            }
        }
        Ok(data.len().saturating_add(size_of::<Item>()))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::arithmetic_side_effects, clippy::as_conversions)]

    use super::*;
    use proptest::prelude::*;

    /// One operation of a record.
    fn operation(tid: u32, flags: u8, data: &[u8]) -> Vec<u8> {
        let mut bytes = tid.to_be_bytes().to_vec();
        bytes.extend(u32::try_from(data.len()).unwrap().to_be_bytes());
        bytes.extend([0x69, flags, 0, 0]);
        bytes.extend(data);
        bytes
    }

    fn record(operations: &[Vec<u8>]) -> Record {
        Record {
            lsn: 7,
            operations: u32::try_from(operations.len()).unwrap(),
            data: operations.concat(),
        }
    }

    fn header() -> Vec<u8> {
        let mut bytes = MAGIC.to_le_bytes().to_vec();
        bytes.extend([0; 12]);
        bytes
    }

    fn committed(records: &[Record]) -> Result<Vec<Transaction>, Refusal> {
        let mut assembler = Assembler::new(1 << 20, &|_| true);
        let mut all = Vec::new();
        for record in records {
            assembler.record(record, |transaction| {
                all.push(transaction);
                Ok(())
            })?;
        }
        Ok(all)
    }

    #[test]
    fn regions_that_were_split_over_records_are_joined() {
        let first = record(&[
            operation(1, START, &[]),
            operation(1, 0, header().split_at(10).0),
        ]);
        let second = record(&[
            operation(1, WAS_CONTINUED | END, header().split_at(10).1),
            operation(2, START, &[]),
            operation(1, 0, &[0x3C, 0x12, 2, 0, 9]),
            operation(1, CONTINUE, &[1, 2]),
        ]);
        let third = record(&[
            operation(1, WAS_CONTINUED | CONTINUE, &[3]),
            operation(1, WAS_CONTINUED | END, &[4]),
            operation(1, COMMIT, &[]),
        ]);
        let all = committed(&[first, second, third]).unwrap();
        assert_eq!(all.len(), 1, "the second was never committed");
        let item = &all.first().unwrap().items.first().unwrap();
        assert_eq!(item.kind(), 0x123C);
        assert_eq!(item.format, [0x3C, 0x12, 2, 0, 9]);
        assert_eq!(item.data, [[1, 2, 3, 4]]);
    }

    #[test]
    fn a_commit_in_the_middle_of_an_item_is_refused() {
        let record = record(&[
            operation(1, START, &[]),
            operation(1, 0, &header()),
            operation(1, 0, &[0x3C, 0x12, 2, 0]),
            operation(1, COMMIT, &[]),
        ]);
        assert!(matches!(committed(&[record]), Err(Refusal::Damaged(_))));
    }

    #[test]
    fn what_is_held_in_memory_is_bounded() {
        let mut operations = vec![operation(1, START, &[]), operation(1, 0, &header())];
        for _ in 0..20 {
            operations.push(operation(1, 0, &[0x3C, 0x12, 2, 0]));
            operations.push(operation(1, 0, &[0; 60_000]));
        }
        assert!(matches!(
            committed(&[record(&operations)]),
            Err(Refusal::Dirty(_))
        ));
        let many: Vec<Vec<u8>> = (0..5000).map(|tid| operation(tid, START, &[])).collect();
        assert!(matches!(
            committed(&[record(&many)]),
            Err(Refusal::Dirty(_))
        ));
    }

    proptest! {
        #[test]
        fn no_record_makes_it_panic(
            pieces in prop::collection::vec(
                (0_u32..3, any::<u8>(), prop::collection::vec(any::<u8>(), 0..40)), 0..20),
            cut in 0_usize..400,
        ) {
            let operations: Vec<Vec<u8>> = pieces
                .iter()
                .flat_map(|(tid, flags, data)| {
                    [operation(*tid, flags % 0x20, &header()), operation(*tid, flags % 0x20, data)]
                })
                .collect();
            let mut record = record(&operations);
            record.data.truncate(cut.max(record.data.len() / 2));
            let _ = committed(&[record]);
        }
    }
}
