//! Refcounts of host clusters (spec: "Host cluster management"). As host offsets only grow, a
//! block of counts is final once the file has grown past the clusters that it covers: only the
//! last blocks are in memory, however large the image is.

use super::{CLUSTER, HostOffset};
use std::collections::VecDeque;

/// 16-bit counts in a block of one cluster: it covers 2 GiB of the file.
pub const COUNTS: u64 = CLUSTER / 2;

/// Entries in a cluster of the refcount table.
const TABLE_ENTRIES: u64 = CLUSTER / 8;

/// The counts so far.
#[derive(Debug, Default)]
pub struct Refcounts {
    /// Where the blocks lie that are placed, from the first on.
    placed: Vec<HostOffset>,
    /// The blocks behind those.
    open: VecDeque<Vec<u16>>,
}

impl Refcounts {
    /// Counts one more use of each cluster that `length` bytes from `host` on touch. `host` never
    /// lies in a block that was taken.
    pub fn add(&mut self, host: HostOffset, length: u64) {
        if length == 0 {
            return;
        }
        for cluster in host.0 / CLUSTER..=(host.0 + length - 1) / CLUSTER {
            let block = (cluster / COUNTS) as usize - self.placed.len();
            while self.open.len() <= block {
                self.open.push_back(vec![0; COUNTS as usize]);
            }
            // The writer refuses streams under 9 bytes: at most 7,283 touch a cluster, and the
            // count fits 16 bits.
            self.open[block][(cluster % COUNTS) as usize] += 1;
        }
    }

    /// How many blocks are final but not placed.
    pub fn final_blocks(&self) -> usize {
        self.open.len().saturating_sub(1)
    }

    /// Takes the next block to place at `host`.
    pub fn place(&mut self, host: HostOffset) -> Option<Vec<u16>> {
        let block = self.open.pop_front()?;
        self.placed.push(host);
        Some(block)
    }

    /// Plans the end of a file of `clusters` clusters whose remaining blocks and table follow:
    /// counts those too, and says how many blocks and how many clusters of table there will be.
    pub fn close(&mut self, clusters: u64) -> (u64, u64) {
        let (mut blocks, mut table) = (0, 1);
        loop {
            let all = clusters + blocks + table;
            let needed_blocks = all.div_ceil(COUNTS);
            let needed = (
                needed_blocks - self.placed.len() as u64,
                needed_blocks.div_ceil(TABLE_ENTRIES),
            );
            if needed == (blocks, table) {
                break;
            }
            // Both only grow with the file, so this ends.
            (blocks, table) = needed;
        }
        self.add(HostOffset(clusters * CLUSTER), (blocks + table) * CLUSTER);
        (blocks, table)
    }

    /// The refcount table: where each block lies.
    pub fn table(&self) -> &[HostOffset] {
        &self.placed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_ends_at_the_border_of_a_block_gets_one_more_for_the_structures_themselves() {
        for (clusters, expected) in [
            (1, (1, 1)),
            (COUNTS - 2, (1, 1)),
            (COUNTS - 1, (2, 1)),
            (COUNTS, (2, 1)),
            (TABLE_ENTRIES * COUNTS, (TABLE_ENTRIES + 1, 2)),
        ] {
            assert_eq!(Refcounts::default().close(clusters), expected, "{clusters}");
        }
    }

    #[test]
    fn streams_that_share_a_cluster_are_counted_each() {
        let mut counts = Refcounts::default();
        counts.add(HostOffset(0), CLUSTER);
        counts.add(HostOffset(CLUSTER), 100);
        counts.add(HostOffset(CLUSTER + 100), CLUSTER);
        let block = counts.place(HostOffset(0)).unwrap();
        assert_eq!(block[..4], [1, 2, 1, 0]);
    }
}
