//! A disk whose last blocks are kept. Disks are opened past the kernel's cache, and going along paths
//! reads the same few blocks again and again: a hard disk would seek for each.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use crate::device::ReadAt;
use crate::error::Result;
use crate::units::{ByteLen, ByteOffset};
use std::collections::{HashMap, VecDeque};
use std::sync::Mutex;

/// Bytes a block.
const BLOCK: u64 = 64 << 10;
/// Blocks of a disk that are kept: 4 MiB.
const MOST: usize = 64;

/// See the module.
pub(crate) struct Cached<'a> {
    disk: &'a dyn ReadAt,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    blocks: HashMap<u64, Vec<u8>>,
    /// The first one goes first.
    order: VecDeque<u64>,
}

impl<'a> Cached<'a> {
    /// Nothing of it is kept yet.
    pub(crate) fn new(disk: &'a dyn ReadAt) -> Self {
        Self {
            disk,
            kept: Mutex::default(),
        }
    }

    /// Fills `buf` from byte `into` of a block on; `None` if the block cannot be read as a whole.
    fn in_block(&self, block: u64, into: usize, buf: &mut [u8]) -> Option<()> {
        let mut kept = self.kept.lock().unwrap_or_else(|e| e.into_inner());
        if !kept.blocks.contains_key(&block) {
            let start = block.checked_mul(BLOCK)?;
            let len = self.size().0.checked_sub(start)?.min(BLOCK);
            let mut bytes = vec![0; usize::try_from(len).ok()?];
            self.disk.read_at(ByteOffset(start), &mut bytes).ok()?;
            if kept.order.len() >= MOST
                && let Some(oldest) = kept.order.pop_front()
            {
                kept.blocks.remove(&oldest);
            }
            kept.order.push_back(block);
            kept.blocks.insert(block, bytes);
        }
        let bytes = kept.blocks.get(&block)?.get(into..)?.get(..buf.len())?;
        buf.copy_from_slice(bytes);
        Some(())
    }
}

impl ReadAt for Cached<'_> {
    fn size(&self) -> ByteLen {
        self.disk.size()
    }

    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> Result<()> {
        let block = offset.0.checked_div(BLOCK).unwrap_or(0);
        let into = offset.0.checked_rem(BLOCK).unwrap_or(0);
        let end = into.saturating_add(u64::try_from(buf.len()).unwrap_or(u64::MAX));
        let into = usize::try_from(into).unwrap_or(usize::MAX);
        // What is large, lies in two blocks, or in one with a bad sector, is asked of the disk.
        if end <= BLOCK && self.in_block(block, into, buf).is_some() {
            return Ok(());
        }
        self.disk.read_at(offset, buf)
    }

    fn name(&self) -> String {
        self.disk.name()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::arithmetic_side_effects)]

    use super::*;
    use crate::device::MemDisk;
    use crate::error::Error;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// Counts what it is asked, and has a bad sector at 100,000.
    struct Counting(MemDisk, AtomicUsize);

    impl ReadAt for Counting {
        fn size(&self) -> ByteLen {
            self.0.size()
        }

        fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> Result<()> {
            self.1.fetch_add(1, Ordering::Relaxed);
            let end = offset.0 + u64::try_from(buf.len()).unwrap();
            if offset.0 <= 100_000 && end > 100_000 {
                return Err(Error::corrupt("a bad sector"));
            }
            self.0.read_at(offset, buf)
        }

        fn name(&self) -> String {
            self.0.name()
        }
    }

    #[test]
    fn what_was_read_is_not_asked_again_and_a_bad_sector_hides_nothing_else() {
        let bytes: Vec<u8> = (0..=250).cycle().take(200_000).collect();
        let disk = Counting(MemDisk(bytes.clone()), AtomicUsize::new(0));
        let cached = Cached::new(&disk);
        let read = |at: u64, len: usize| {
            let mut buf = vec![0; len];
            cached.read_at(ByteOffset(at), &mut buf).map(|()| buf)
        };
        for at in [0, 1000, 60_000] {
            let from = usize::try_from(at).unwrap();
            assert_eq!(read(at, 512).unwrap(), bytes[from..from + 512]);
        }
        assert_eq!(disk.1.load(Ordering::Relaxed), 1);
        assert_eq!(read(65_000, 2000).unwrap(), bytes[65_000..67_000]);
        assert_eq!(read(90_000, 512).unwrap(), bytes[90_000..90_512]);
        assert!(read(99_900, 512).is_err());
        // The last block is shorter.
        assert_eq!(read(199_990, 10).unwrap(), bytes[199_990..]);
        assert!(read(199_990, 11).is_err());
    }
}
