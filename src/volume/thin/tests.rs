//! Pools whose metadata is hostile. What Linux writes is read in `volume::recorded`.

#![allow(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use super::btree::{BLOCK, checksum};
use super::*;
use crate::device::MemDisk;
use crate::volume::Zeros;

const NODE_XOR: u32 = 121_107;

fn seal(block: &mut [u8], number: u64, xor: u32) {
    block[8..16].copy_from_slice(&number.to_le_bytes());
    let csum = checksum(&block[4..], xor);
    block[..4].copy_from_slice(&csum.to_le_bytes());
}

fn node(inner: bool, value_size: u32, entries: &[(u64, &[u8])], number: u64) -> Vec<u8> {
    let mut block = vec![0; BLOCK as usize];
    let room = 100_u32;
    block[4] = if inner { 1 } else { 2 };
    block[0x10..0x14].copy_from_slice(&(entries.len() as u32).to_le_bytes());
    block[0x14..0x18].copy_from_slice(&room.to_le_bytes());
    block[0x18..0x1C].copy_from_slice(&value_size.to_le_bytes());
    for (index, (key, value)) in entries.iter().enumerate() {
        block[32 + index * 8..][..8].copy_from_slice(&key.to_le_bytes());
        let at = 32 + room as usize * 8 + index * value_size as usize;
        block[at..at + value.len()].copy_from_slice(value);
    }
    seal(&mut block, number, NODE_XOR);
    block
}

/// A pool of ten blocks of 64 KiB with one device, 1, that maps block 5 to 3: superblock, details,
/// devices and mappings.
fn metadata(change: impl Fn(&mut [Vec<u8>])) -> MemDisk {
    let mut superblock = vec![0; BLOCK as usize];
    superblock[0x20..0x28].copy_from_slice(&MAGIC.to_le_bytes());
    superblock[0x28] = 2;
    superblock[0x48] = 1;
    superblock[0x140] = 2;
    superblock[0x148] = 1;
    superblock[0x150] = 128;
    superblock[0x154] = 8;
    seal(&mut superblock, 0, CSUM_XOR);
    let mut details = [0; 24];
    details[0] = 1;
    let mapping = (3_u64 << 24 | 7).to_le_bytes();
    let mut blocks = vec![
        superblock,
        node(false, 24, &[(1, &details)], 1),
        node(false, 8, &[(1, &3_u64.to_le_bytes())], 2),
        node(false, 8, &[(5, &mapping)], 3),
    ];
    change(&mut blocks);
    MemDisk(blocks.concat())
}

fn read(metadata: &MemDisk) -> Result<Pool<'static>, String> {
    Pool::read(metadata, Arc::new(Zeros(ByteLen(10 << 16))), 1 << 16)
}

#[test]
fn a_mapping_is_read_and_what_nobody_knows_is_an_orphan() {
    let pool = read(&metadata(|_| {})).unwrap();
    let block = Extent::between(3 << 16, 4 << 16);
    assert_eq!(
        pool.mapped().iter().collect::<Vec<_>>(),
        Vec::from_iter(block)
    );
    assert_eq!(pool.orphans(&[]), pool.mapped());
    let device = |size| Device {
        id: 1,
        name: "thin".into(),
        size,
        external: None,
    };
    assert!(pool.orphans(&[device(6 << 16)]).is_empty());
    // Behind the end of the volume.
    assert_eq!(pool.orphans(&[device(5 << 16)]), pool.mapped());
}

#[test]
fn what_contradicts_itself_is_refused() {
    let refused = |change: &dyn Fn(&mut [Vec<u8>])| match read(&metadata(change)) {
        Ok(_) => panic!("it was read"),
        Err(why) => why,
    };
    let reseal = |block: &mut Vec<u8>, number, at: usize, byte| {
        block[at] = byte;
        seal(block, number, if number == 0 { CSUM_XOR } else { NODE_XOR });
    };
    assert!(refused(&|b| b[0][0x40] ^= 1).contains("checksum"));
    assert!(refused(&|b| b[3][40] ^= 1).contains("checksum"));
    assert!(refused(&|b| reseal(&mut b[0], 0, 4, 1)).contains("in need of a check"));
    assert!(refused(&|b| reseal(&mut b[0], 0, 4, 2)).contains("unknown features"));
    assert!(refused(&|b| reseal(&mut b[0], 0, 0x168, 1)).contains("unknown features"));
    assert!(refused(&|b| reseal(&mut b[0], 0, 0x28, 3)).contains("unknown version"));
    assert!(refused(&|b| reseal(&mut b[0], 0, 0x150, 64)).contains("block size"));
    assert!(refused(&|b| reseal(&mut b[0], 0, 0x48, 2)).contains("counts 2 as used"));
    // The device's details: how many blocks it maps.
    assert!(refused(&|b| reseal(&mut b[1], 1, 32 + 800, 2)).contains("counts 2"));
    // A block behind the end of the data.
    assert!(refused(&|b| reseal(&mut b[3], 3, 32 + 800 + 3, 10)).contains("block 10 of 10"));
    // A tree that bites its tail, and a block number behind the end.
    let inner = |target: u64| node(true, 8, &[(0, &target.to_le_bytes())], 3);
    assert!(refused(&|b| b[3] = inner(3)).contains("bites its tail"));
    assert!(refused(&|b| b[3] = inner(1 << 60)).contains("outside of itself"));
    // Keys out of their order.
    let twice = [0; 8];
    let keys = node(false, 8, &[(5, &twice), (5, &twice)], 3);
    assert!(refused(&|b| b[3].clone_from(&keys)).contains("not in their order"));
    // More entries than it has room for.
    assert!(refused(&|b| reseal(&mut b[3], 3, 0x10, 101)).contains("do not fit"));
}

/// Nodes without entries have no key that would tell that they come twice: trees of them could be
/// walked for ever.
#[test]
fn an_empty_node_is_only_ever_a_root() {
    let many: Vec<(u64, [u8; 8])> = (0..100).map(|key| (key, 1_u64.to_le_bytes())).collect();
    let many: Vec<(u64, &[u8])> = many.iter().map(|(key, value)| (*key, &value[..])).collect();
    let walked = |leaf: Vec<u8>, root| {
        let blocks = [vec![0; BLOCK as usize], leaf, node(true, 8, &many, 2)];
        let metadata = MemDisk(blocks.concat());
        walk(&metadata, root, 8, &mut Budget::new(), &mut |_, _| Ok(()))
    };
    let empty = || node(false, 8, &[], 1);
    walked(empty(), 1).unwrap();
    assert!(walked(empty(), 2).unwrap_err().contains("is empty"));
    assert!(
        walked(node(true, 8, &[], 1), 1)
            .unwrap_err()
            .contains("is empty")
    );
}

#[test]
fn all_trees_together_have_a_bound() {
    let pool = metadata(|_| {});
    let mut budget = Budget(1);
    let mut count = || walk(&pool, 3, 8, &mut budget, &mut |_, _| Ok(()));
    count().unwrap();
    assert!(count().unwrap_err().contains("more blocks than are read"));
}

#[test]
fn a_volume_reads_zeros_where_nothing_is_mapped_and_traces_only_what_is() {
    let bytes: Vec<u8> = (0..10_u8)
        .flat_map(|block| vec![block + 1; 1 << 16])
        .collect();
    let disk: &'static MemDisk = Box::leak(Box::new(MemDisk(bytes)));
    let whole = Extent::between(0, 10 << 16).unwrap();
    let data = crate::volume::Slice::new(disk, crate::volume::DiskIndex(0), whole).unwrap();
    let pool = Pool::read(&metadata(|_| {}), Arc::new(data), 1 << 16).unwrap();
    let device = Device {
        id: 1,
        name: "thin".into(),
        size: 8 << 16,
        external: None,
    };
    let volumes = pool.volumes(&[device]).unwrap();
    let mut all = vec![9; 8 << 16];
    volumes[0].read_at(ByteOffset(0), &mut all).unwrap();
    for (block, bytes) in all.chunks(1 << 16).enumerate() {
        let expected = if block == 5 { 4 } else { 0 };
        assert!(bytes.iter().all(|byte| *byte == expected), "{block}");
    }
    let mut places = crate::volume::Places::new(1);
    let run = Extent::between(100, (5 << 16) + 512).unwrap();
    volumes[0].trace(run, &mut places);
    let traced: Vec<Extent> = places.finish()[0].iter().collect();
    assert_eq!(
        traced,
        Vec::from_iter(Extent::between(3 << 16, (3 << 16) + 512))
    );
}
