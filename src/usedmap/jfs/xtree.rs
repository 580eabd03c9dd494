//! Where a file of JFS is: its tree of runs (`struct xtpage` in `fs/jfs/jfs_xtree.h` of Linux). Its
//! root is in the inode; a page and the root have the same head and entries (`xad`) of 16 bytes.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use super::superblock::{BLOCK, Run, Superblock, extent};
use crate::bytes::{read_u8, read_u16le, read_u32le};
use crate::device::ReadAt;
use crate::units::ByteOffset;
use crate::usedmap::finding::Refusal;

/// `BT_LEAF` and `BT_INTERNAL`.
const LEAF: u8 = 2;
const INTERNAL: u8 = 4;
/// `XTENTRYSTART`: the first two places are the head.
const FIRST_ENTRY: usize = 2;
/// Pages read of one tree; the map of 4 PiB needs a few thousand runs at worst.
const MAX_PAGES: u32 = 4096;

/// The runs of a file in its order: `(block in the file, where it is)`.
pub(super) fn runs(
    volume: &dyn ReadAt,
    sb: &Superblock,
    root: &[u8],
) -> Result<Vec<(u64, Run)>, Refusal> {
    let mut all = Vec::new();
    let mut pages = 0_u32;
    let mut waiting = vec![root.to_vec()];
    while let Some(page) = waiting.pop() {
        let flag = read_u8(&page, 16);
        let next = usize::from(read_u16le(&page, 18));
        let entries = page
            .chunks_exact(16)
            .take(next)
            .skip(FIRST_ENTRY)
            .map(|xad| {
                let offset = u64::from(read_u8(xad, 3)) << 32 | u64::from(read_u32le(xad, 4));
                (offset, extent(xad, 8))
            });
        let kind = flag & (LEAF | INTERNAL);
        let is_leaf = kind == LEAF;
        if !matches!(kind, LEAF | INTERNAL) || next.saturating_mul(16) > page.len() {
            return Err(Refusal::Damaged(
                "the tree of its map of blocks is not one".into(),
            ));
        }
        for (offset, run) in entries {
            if run.1 > sb.blocks || run.0 >= run.1 {
                return Err(Refusal::Damaged(
                    "the tree of its map of blocks leads outside".into(),
                ));
            }
            if is_leaf {
                all.push((offset, run));
                continue;
            }
            pages = pages.saturating_add(1);
            if pages > MAX_PAGES {
                return Err(Refusal::Damaged(
                    "the tree of its map of blocks has no end".into(),
                ));
            }
            let mut child = vec![0; 4096];
            volume.read_at(ByteOffset(run.0.saturating_mul(BLOCK)), &mut child)?;
            waiting.push(child);
        }
    }
    all.sort_unstable();
    Ok(all)
}
