//! What deleted files leave behind: random bytes in blocks that the filesystem says are free, and
//! in the swap area. A capture that copies them is as large as a copy of the whole disk.

use super::base::Base;
use super::files::random;
use crate::command::run;
use anyhow::{Context, Result, ensure};
use fastrand::Rng;
use std::fs::File;
use std::os::unix::fs::FileExt;
use tempfile::NamedTempFile;

/// How many bytes of junk the root filesystem gets.
const FREE_JUNK_BYTES: u64 = 300 << 20;
/// How many the swap area gets.
const SWAP_JUNK_BYTES: u64 = 64 << 20;

const BLOCK: u64 = 4096;

/// Fills free blocks of the ext4 filesystem in `filesystem`, some in each group.
pub(super) fn in_free_blocks(base: &Base, filesystem: &NamedTempFile) -> Result<()> {
    let told = run(base.command("usr/sbin/dumpe2fs").arg(filesystem.path()))?;
    let mut rng = Rng::with_seed(1969);
    let mut left = FREE_JUNK_BYTES / BLOCK;
    for (first, last) in free_ranges(&told)? {
        // Half of each: the other half was never written.
        let count = (last - first + 1).div_ceil(2).min(left);
        let junk = random(&mut rng, usize::try_from(count * BLOCK)?);
        filesystem
            .as_file()
            .write_all_at(&junk, first * BLOCK)
            .context("writing junk into free blocks")?;
        left -= count;
    }
    ensure!(
        left == 0,
        "the root filesystem has too few free blocks for the junk"
    );
    Ok(())
}

/// Leaves old pages in the swap area that begins at byte `start` of the disk: its first page says
/// that it is swap, the rest means nothing once the machine is off.
pub(super) fn in_swap(disk: &File, start: u64) -> Result<()> {
    let junk = random(&mut Rng::with_seed(1970), usize::try_from(SWAP_JUNK_BYTES)?);
    disk.write_all_at(&junk, start + (1 << 20))
        .context("writing junk into the swap area")
}

/// The free blocks of each group, first and last, from dumpe2fs' lines
/// `  Free blocks: 9263-32767, 40000`.
fn free_ranges(told: &str) -> Result<Vec<(u64, u64)>> {
    let number = |text: &str| {
        text.trim()
            .parse::<u64>()
            .with_context(|| format!("dumpe2fs said {text:?} where a block number belongs"))
    };
    let mut ranges = Vec::new();
    // The superblock's own "Free blocks:" at the line's start is a count.
    for line in told
        .lines()
        .filter_map(|line| line.strip_prefix("  Free blocks: "))
    {
        for range in line.split(',').filter(|range| !range.trim().is_empty()) {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            ranges.push((number(first)?, number(last)?));
        }
    }
    Ok(ranges)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_blocks_are_read_and_the_count_is_not() {
        let told = "Free blocks:              1000\nGroup 0: (Blocks 0-32767)\n  \
                    Free blocks: 9-32, 40\n  Free inodes: 7\nGroup 1:\n  Free blocks: \n";
        assert_eq!(free_ranges(told).unwrap(), [(9, 32), (40, 40)]);
    }
}
