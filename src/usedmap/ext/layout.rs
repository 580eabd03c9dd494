//! Where ext2/3/4 keep what no file owns: superblock copies, group descriptors, and the room
//! reserved for more of them. After `ext4_bg_has_super`, `ext4_num_base_meta_clusters` and
//! `descriptor_loc` in `fs/ext4/` of Linux and `ext2fs_super_and_bgd_loc2` of e2fsprogs.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use super::features::{COMPAT_SPARSE_SUPER2, INCOMPAT_META_BG, RO_COMPAT_SPARSE_SUPER};
use super::superblock::{SUPERBLOCK_AT, Superblock};

/// A run of filesystem blocks, `end` not included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BlockRun {
    pub start: u64,
    pub end: u64,
}

impl Superblock {
    /// The first block of a group.
    pub(crate) fn group_start(&self, group: u64) -> u64 {
        group
            .saturating_mul(self.blocks_per_group)
            .saturating_add(self.first_data_block)
    }

    /// The blocks of a group; the last one may be short.
    pub(crate) fn group_blocks(&self, group: u64) -> BlockRun {
        let start = self.group_start(group);
        BlockRun {
            start,
            end: start
                .saturating_add(self.blocks_per_group)
                .min(self.blocks_count),
        }
    }

    /// How many group descriptors a block holds.
    pub(crate) fn descs_per_block(&self) -> u64 {
        let desc_size = u64::try_from(self.desc_size).unwrap_or(u64::MAX);
        self.block_size.checked_div(desc_size).unwrap_or(1).max(1)
    }

    /// How many blocks the group descriptors fill.
    pub(crate) fn desc_blocks(&self) -> u64 {
        self.group_count.div_ceil(self.descs_per_block())
    }

    /// How many of those are together behind each superblock; the others are with their groups.
    fn desc_blocks_at_superblock(&self) -> u64 {
        if self.features.has_incompat(INCOMPAT_META_BG) {
            self.first_meta_bg.min(self.desc_blocks())
        } else {
            self.desc_blocks()
        }
    }

    /// Whether a group starts with a copy of the superblock.
    pub(crate) fn has_superblock(&self, group: u64) -> bool {
        if group == 0 {
            return true;
        }
        if self.features.has_compat(COMPAT_SPARSE_SUPER2) {
            return self.backup_groups.contains(&group);
        }
        if group == 1 || !self.features.has_ro_compat(RO_COMPAT_SPARSE_SUPER) {
            return true;
        }
        [3, 5, 7].into_iter().any(|base| is_power_of(group, base))
    }

    /// The block of the `nth` block of group descriptors that a mount reads.
    pub(crate) fn desc_block(&self, nth: u64) -> u64 {
        let behind_superblock = self.superblock_block(0).saturating_add(1);
        if nth < self.desc_blocks_at_superblock() {
            return behind_superblock.saturating_add(nth);
        }
        let group = nth.saturating_mul(self.descs_per_block());
        if group == 0 {
            return behind_superblock;
        }
        self.group_start(group)
            .saturating_add(u64::from(self.has_superblock(group)))
    }

    /// Where the superblock of a group that has one is. With blocks of 1 KiB and bigalloc, group 0
    /// starts one block before it.
    fn superblock_block(&self, group: u64) -> u64 {
        if group == 0 {
            SUPERBLOCK_AT.checked_div(self.block_size).unwrap_or(0)
        } else {
            self.group_start(group)
        }
    }

    /// The blocks at the start of a group that belong to superblock and descriptors.
    pub(crate) fn base_metadata(&self, group: u64) -> BlockRun {
        let start = self.group_start(group);
        let metagroup = group.checked_div(self.descs_per_block()).unwrap_or(0);
        let has_superblock = self.has_superblock(group);
        let mut blocks = u64::from(has_superblock);
        if has_superblock {
            // Which in group 0 with bigalloc is one block further on.
            blocks = blocks.saturating_add(self.superblock_block(group).saturating_sub(start));
        }
        if !self.features.has_incompat(INCOMPAT_META_BG) || metagroup < self.first_meta_bg {
            if has_superblock {
                blocks = blocks
                    .saturating_add(self.desc_blocks_at_superblock())
                    .saturating_add(self.reserved_gdt_blocks);
            }
        } else {
            // A meta group keeps its block of descriptors in its first, second and last group.
            let first = metagroup.saturating_mul(self.descs_per_block());
            let last = first
                .saturating_add(self.descs_per_block())
                .saturating_sub(1);
            if [first, first.saturating_add(1), last].contains(&group) {
                blocks = blocks.saturating_add(1);
            }
        }
        BlockRun {
            start,
            end: start.saturating_add(blocks).min(self.blocks_count),
        }
    }
}

fn is_power_of(number: u64, base: u64) -> bool {
    let mut power = base;
    while power < number {
        power = power.saturating_mul(base);
    }
    power == number
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backups_are_in_the_powers_of_three_five_and_seven() {
        let groups: Vec<u64> = (1..130)
            .filter(|&group| [3, 5, 7].into_iter().any(|base| is_power_of(group, base)))
            .collect();
        assert_eq!(groups, [3, 5, 7, 9, 25, 27, 49, 81, 125]);
        assert!(!is_power_of(u64::MAX - 1, 3));
    }
}
