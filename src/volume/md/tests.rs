//! Whose superblock lies at a disk's end. What members say is read in `volume::recorded`.

#![allow(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use super::*;
use crate::device::MemDisk;

#[test]
fn a_superblock_at_the_end_is_the_partitions_if_it_lies_in_one() {
    const SIZE: u64 = 4 << 20;
    let at = v0::place(SIZE).unwrap() as usize;
    for magic in [MAGIC.to_le_bytes(), MAGIC.to_be_bytes()] {
        let mut disk = MemDisk(vec![0; SIZE as usize]);
        disk.0[at..at + 4].copy_from_slice(&magic);
        let owned = |disk: &MemDisk, start, end| {
            is_of_a_partition(disk, Extent::between(start, end).into_iter())
        };
        assert!(owned(&disk, 1 << 20, SIZE));
        // The array ends before its superblock, and so does what is in it.
        assert!(!owned(&disk, 1 << 20, at as u64));
        assert!(!is_of_a_partition(&disk, std::iter::empty()));
        // Another one at the start is the disk's.
        disk.0[4096..4100].copy_from_slice(&MAGIC.to_le_bytes());
        assert!(!owned(&disk, 1 << 20, SIZE));
    }
    let empty = MemDisk(vec![0; SIZE as usize]);
    assert!(!is_of_a_partition(
        &empty,
        Extent::between(0, SIZE).into_iter()
    ));
}
