//! Free space of XFS in very many pieces: both trees of free space of its first group are written
//! anew, with all counts and checksums that go with them.

use super::bitmaps::crc32c;
use super::map_support::arg;
use haulier::extent::{Extent, ExtentList};
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;

const BLOCK: u64 = 4096;
const HEADER: usize = 0x38;
/// Records of a leaf, entries of a node.
const LEAF: usize = (4096 - HEADER) / 8;
const NODE: usize = (4096 - HEADER) / 12;
/// What is left alone at the start of the group: headers, the first inodes, the log.
const FIRST: u32 = 1 << 20;
/// Blocks for the trees, behind the free runs.
const TREES: u32 = 1 << 18;

struct Tree {
    magic: &'static [u8; 4],
    /// Its levels, leaves first: the first key of each block.
    levels: Vec<usize>,
    root: u32,
    blocks: u32,
}

/// Makes `runs` free runs of one block, every second block used between them, and one long run behind
/// all. The filesystem must be empty, of version 5, and without the trees of owners and of shared
/// blocks.
pub(crate) fn fragment_xfs(image: &Path, runs: u32) {
    let file = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(image)
        .unwrap();
    let mut sb = [0; 512];
    file.read_exact_at(&mut sb, 0).unwrap();
    let group_blocks = be32(&sb, 0x54);
    let trees_at = FIRST + 2 * runs;
    let last_run = trees_at + TREES;
    let last = (last_run, group_blocks - last_run);
    let single = (0..runs).map(|nth| (FIRST + 2 * nth, 1));
    // One order by start and by length: the long run is the last in both.
    let records: Vec<(u32, u32)> = single.chain([last]).collect();
    let mut next = trees_at;
    let trees = [b"AB3B", b"AB3C"].map(|magic| {
        let tree = write_tree(&file, &sb, magic, &records, next);
        next += tree.blocks;
        tree
    });
    assert!(next <= last_run, "no room for the trees");

    let sector = u64::from(u16::from_be_bytes([sb[0x66], sb[0x67]]));
    let mut agf = vec![0; usize::try_from(sector).unwrap()];
    file.read_exact_at(&mut agf, sector).unwrap();
    let before = u64::from(be32(&agf, 0x34)) + u64::from(be32(&agf, 0x3C));
    for (nth, tree) in trees.iter().enumerate() {
        put32(&mut agf, 0x10 + 4 * nth, tree.root);
        put32(
            &mut agf,
            0x1C + 4 * nth,
            u32::try_from(tree.levels.len()).unwrap(),
        );
    }
    let free: u32 = runs + last.1;
    let tree_blocks: u32 = trees.iter().map(|tree| tree.blocks - 1).sum();
    put32(&mut agf, 0x34, free);
    put32(&mut agf, 0x38, last.1);
    put32(&mut agf, 0x3C, tree_blocks);
    seal(&mut agf, 0xD8);
    file.write_all_at(&agf, sector).unwrap();
    let count = u64::from_be_bytes(sb[0x90..0x98].try_into().unwrap());
    let count = count - before + u64::from(free) + u64::from(tree_blocks);
    let mut whole = vec![0; usize::try_from(sector).unwrap()];
    file.read_exact_at(&mut whole, 0).unwrap();
    whole[0x90..0x98].copy_from_slice(&count.to_be_bytes());
    seal(&mut whole, 0xE0);
    file.write_all_at(&whole, 0).unwrap();
}

/// Writes a tree from a block of the first group on.
fn write_tree(
    file: &fs::File,
    sb: &[u8],
    magic: &'static [u8; 4],
    records: &[(u32, u32)],
    at: u32,
) -> Tree {
    let mut tree = Tree {
        magic,
        levels: Vec::new(),
        root: at,
        blocks: 0,
    };
    // What the level above points to: the first record and the block.
    let mut below: Vec<((u32, u32), u32)> = records.iter().map(|&record| (record, 0)).collect();
    loop {
        let level = tree.levels.len();
        let room = if level == 0 { LEAF } else { NODE };
        let first = at + tree.blocks;
        let count = u32::try_from(below.len().div_ceil(room)).unwrap();
        let mut out = Vec::new();
        let mut above = Vec::new();
        for (block, entries) in (first..).zip(below.chunks(room)) {
            let neighbour = |there: bool, at: u32| if there { at } else { u32::MAX };
            let left = neighbour(block > first, block.wrapping_sub(1));
            let right = neighbour(block + 1 < first + count, block + 1);
            let bytes = tree.block(sb, level, block, (left, right), entries);
            out.extend_from_slice(&bytes);
            above.push((entries[0].0, block));
        }
        file.write_all_at(&out, u64::from(first) * BLOCK).unwrap();
        tree.levels.push(above.len());
        tree.blocks += count;
        if let [(_, root)] = above[..] {
            tree.root = root;
            return tree;
        }
        below = above;
    }
}

impl Tree {
    fn block(
        &self,
        sb: &[u8],
        level: usize,
        number: u32,
        (left, right): (u32, u32),
        entries: &[((u32, u32), u32)],
    ) -> Vec<u8> {
        let mut block = vec![0; 4096];
        block[..4].copy_from_slice(self.magic);
        block[4..6].copy_from_slice(&u16::try_from(level).unwrap().to_be_bytes());
        block[6..8].copy_from_slice(&u16::try_from(entries.len()).unwrap().to_be_bytes());
        put32(&mut block, 0x08, left);
        put32(&mut block, 0x0C, right);
        block[0x10..0x18].copy_from_slice(&(u64::from(number) * BLOCK / 512).to_be_bytes());
        block[0x20..0x30].copy_from_slice(&sb[0x20..0x30]);
        for (nth, ((start, len), pointer)) in entries.iter().enumerate() {
            put32(&mut block, HEADER + 8 * nth, *start);
            put32(&mut block, HEADER + 8 * nth + 4, *len);
            if level > 0 {
                put32(&mut block, HEADER + 8 * NODE + 4 * nth, *pointer);
            }
        }
        seal(&mut block, 0x34);
        block
    }
}

/// That what is used between the free runs is in the map, at some places.
pub(crate) fn none_is_lost(map: &ExtentList, runs: u32) {
    let step = usize::try_from(runs / 10_000 + 1).unwrap();
    for nth in (0..runs).step_by(step) {
        let start = (u64::from(FIRST) + 2 * u64::from(nth) + 1) * BLOCK;
        let bytes = Extent::between(start, start + BLOCK).unwrap();
        let kept: u64 = map.within(bytes).map(|extent| extent.len().0).sum();
        assert_eq!(kept, BLOCK, "block {} was lost", start / BLOCK);
    }
}

/// How many blocks of the first group xfs_db finds free by walking its trees, and in how many runs.
pub(crate) fn free_by_xfs_db(image: &Path) -> (u64, u64) {
    let said = super::run("xfs_db", &["-r", "-c", "freesp -s -a 0", arg(image)]);
    let number = |name: &str| -> u64 {
        let line = said.lines().find_map(|line| line.strip_prefix(name));
        line.expect(name).trim().parse().unwrap()
    };
    (number("total free blocks"), number("total free extents"))
}

/// How many blocks of the first group are in its free list.
pub(crate) fn waiting(image: &Path) -> u64 {
    let said = super::run(
        "xfs_db",
        &["-r", "-c", "agf 0", "-c", "p flcount", arg(image)],
    );
    said.rsplit('=').next().unwrap().trim().parse().unwrap()
}

fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn put32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_be_bytes());
}

fn seal(bytes: &mut [u8], at: usize) {
    bytes[at..at + 4].fill(0);
    let sum = !crc32c(!0, &[bytes]);
    bytes[at..at + 4].copy_from_slice(&sum.to_le_bytes());
}
