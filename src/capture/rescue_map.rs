//! What was read of a disk and what was not, as a mapfile of GNU ddrescue, so that its tools can look
//! at it and a later run of ddrescue can try the bad sectors again, into the image's raw form.
//!
//! The format (ddrescue's manual, chapter "Mapfile structure"): comments begin with `#`; the first other
//! line is `current_pos current_status current_pass`; each line behind it is a block, `pos size status`,
//! in hexadecimal, without gaps or overlaps. The status of a block is `?` non-tried, `*` non-trimmed,
//! `/` non-scraped, `-` bad sector, `+` finished. The current status is `+` when it is finished, `?`
//! while it copies, `-` while it retries; the pass counts from 1.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use crate::extent::{Extent, ExtentList};
use crate::units::{ByteLen, ByteOffset};
use std::fmt::Write;

/// The mapfile of a disk of `size` bytes of which `used` was to be read and `bad` could not: what was
/// read is finished (`+`), what could not be is bad (`-`), and what was not asked for, because nothing
/// uses it, was not tried (`?`). Bad wins where both say something.
pub fn rescue_map(size: ByteLen, used: &ExtentList, bad: &ExtentList) -> String {
    let whole: ExtentList = Extent::new(ByteOffset(0), size).into_iter().collect();
    let bad = bad.intersect(&whole);
    let read = used.intersect(&whole).subtract(&bad);
    let untried = whole.subtract(&read).subtract(&bad);
    let mut blocks: Vec<(Extent, char)> = Vec::new();
    for (runs, status) in [(&read, '+'), (&bad, '-'), (&untried, '?')] {
        blocks.extend(runs.iter().map(|run| (run, status)));
    }
    blocks.sort_unstable();
    let mut map = String::from(
        "# Mapfile in the format of GNU ddrescue, written by haulier\n\
         # '+' read, '-' could not be read, '?' not read because nothing uses it\n\
         # current_pos  current_status  current_pass\n",
    );
    // The reading is over, at the end of the disk.
    let _ = writeln!(map, "0x{:08X}     +               1", size.0);
    map.push_str("#      pos        size  status\n");
    for (run, status) in blocks {
        let _ = writeln!(
            map,
            "0x{:08X}  0x{:08X}  {status}",
            run.start().0,
            run.len().0
        );
    }
    map
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(runs: &[(u64, u64)]) -> ExtentList {
        runs.iter()
            .filter_map(|&(from, to)| Extent::between(from, to))
            .collect()
    }

    #[test]
    fn every_byte_has_one_status() {
        let map = rescue_map(
            ByteLen(0x10_0000),
            &list(&[(0, 0x8000), (0x2_0000, 0x3_0000)]),
            &list(&[(0x200, 0x400), (0x2_F000, 0x3_1000), (0xF_0000, 0x20_0000)]),
        );
        let blocks: Vec<&str> = map
            .lines()
            .filter(|line| !line.starts_with('#'))
            .skip(1)
            .collect();
        assert_eq!(
            blocks,
            [
                "0x00000000  0x00000200  +",
                "0x00000200  0x00000200  -",
                "0x00000400  0x00007C00  +",
                "0x00008000  0x00018000  ?",
                "0x00020000  0x0000F000  +",
                "0x0002F000  0x00002000  -",
                "0x00031000  0x000BF000  ?",
                "0x000F0000  0x00010000  -",
            ]
        );
    }
}
