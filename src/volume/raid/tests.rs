//! Geometries against the kernel's own functions, transcribed as they stand, and against what must
//! hold of any of them.

#![allow(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::collapsible_match,
    clippy::indexing_slicing
)]

use super::*;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

/// `raid5_compute_sector` of Linux, in chunks: `(data slot, p, q)`.
fn compute_sector(algorithm: u32, raid_disks: i64, level: i64, chunk: i64) -> (i64, i64, i64) {
    let data_disks = raid_disks - if level == 6 { 2 } else { 1 };
    let (stripe, mut dd) = (chunk / data_disks, chunk % data_disks);
    let mut stripe2 = stripe;
    let (pd, mut qd);
    if level == 5 {
        qd = -1;
        match algorithm {
            0 | 2 => pd = data_disks - stripe2 % raid_disks,
            1 | 3 => pd = stripe2 % raid_disks,
            4 => pd = 0,
            _ => pd = data_disks,
        }
        match algorithm {
            0 | 1 if dd >= pd => {
                dd += 1;
            }
            2 | 3 => dd = (pd + 1 + dd) % raid_disks,
            4 => dd += 1,
            _ => {}
        }
        return (dd, pd, qd);
    }
    match algorithm {
        0 | 1 | 8 | 9 => {
            if algorithm == 9 {
                stripe2 += 1;
            }
            pd = if algorithm == 0 || algorithm == 9 {
                raid_disks - 1 - stripe2 % raid_disks
            } else {
                stripe2 % raid_disks
            };
            qd = pd + 1;
            if pd == raid_disks - 1 {
                dd += 1;
                qd = 0;
            } else if dd >= pd {
                dd += 2;
            }
        }
        2 | 3 => {
            pd = if algorithm == 2 {
                raid_disks - 1 - stripe2 % raid_disks
            } else {
                stripe2 % raid_disks
            };
            qd = (pd + 1) % raid_disks;
            dd = (pd + 2 + dd) % raid_disks;
        }
        4 => {
            pd = 0;
            qd = 1;
            dd += 2;
        }
        5 => {
            pd = data_disks;
            qd = data_disks + 1;
        }
        10 => {
            pd = raid_disks - 1 - stripe2 % raid_disks;
            qd = (pd + raid_disks - 1) % raid_disks;
            dd = (pd + 1 + dd) % raid_disks;
        }
        _ => {
            qd = raid_disks - 1;
            match algorithm {
                16 | 18 => pd = data_disks - stripe2 % (raid_disks - 1),
                17 | 19 => pd = stripe2 % (raid_disks - 1),
                _ => pd = 0,
            }
            match algorithm {
                16 | 17 => {
                    if dd >= pd {
                        dd += 1;
                    }
                }
                18 | 19 => dd = (pd + 1 + dd) % (raid_disks - 1),
                _ => dd += 1,
            }
        }
    }
    (dd, pd, qd)
}

#[test]
fn parity_lies_where_the_kernel_puts_it() {
    const CHUNK: u64 = 4096;
    for level in [5, 6] {
        let algorithms: &[u32] = if level == 5 {
            &[0, 1, 2, 3, 4, 5]
        } else {
            &[0, 1, 2, 3, 4, 5, 8, 9, 10, 16, 17, 18, 19, 20]
        };
        for &algorithm in algorithms {
            for disks in (level - 2)..9_i64 {
                let parities = if level == 6 { 2 } else { 1 };
                let geometry = Parity::new(
                    Rotation::of(algorithm).unwrap(),
                    CHUNK,
                    disks as usize,
                    parities,
                    CHUNK * 40,
                );
                let data = disks as u64 - parities;
                let geometry = geometry.unwrap();
                assert_eq!(geometry.size(), 40 * data * CHUNK);
                for chunk in 0..40 * data {
                    let (dd, pd, qd) = compute_sector(algorithm, disks, level, chunk as i64);
                    let piece = geometry.piece(chunk * CHUNK);
                    let place = (dd as usize, chunk / data * CHUNK);
                    assert_eq!(piece.copies, [place], "{level} {algorithm} {disks} {chunk}");
                    let (p, q) = geometry.p_and_q(chunk / data);
                    assert_eq!(p, pd as usize);
                    assert_eq!(q, usize::try_from(qd).ok());
                    // XOR of all the others, without Q.
                    let rebuild: Vec<usize> = (0..disks)
                        .filter(|slot| *slot != dd && *slot != qd)
                        .map(|slot| slot as usize)
                        .collect();
                    assert_eq!(piece.rebuild, rebuild);
                }
            }
        }
    }
}

#[test]
fn what_makes_no_array_is_none() {
    let left = Rotation::of(2).unwrap();
    assert!(Parity::new(left, 0, 3, 1, 4096).is_none());
    assert!(Parity::new(left, 4096, 1, 1, 4096).is_none());
    assert!(Parity::new(left, 4096, 3, 1, 4095).is_none());
    assert!(Parity::new(Rotation::of(9).unwrap(), 4096, 3, 1, 8192).is_none());
    assert!(Parity::new(left, 4096, 1000, 1, u64::MAX).is_none());
    assert_eq!(Rotation::of(6), None);
    assert_eq!(Rotation::of(21), None);
    assert!(Stripes::new(0, &[4096], None).is_none());
    assert!(Stripes::new(4096, &[100, 200], None).is_none());
    assert!(Stripes::new(4096, &[4096, u64::MAX], None).is_none());
    assert!(Stripes::new(4096, &[u64::MAX; 3], None).is_none());
    // Two zones, and nothing says how the second goes round.
    assert!(Stripes::new(4096, &[4096, 8192, 8192], None).is_none());
    assert!(Raid10::new(Raid10Layout::Near(3), 4096, 2, 1 << 20).is_none());
    assert!(Raid10::new(Raid10Layout::Near(0), 4096, 2, 1 << 20).is_none());
    assert!(Raid10::new(Raid10Layout::Far(2), 4096, 2, 4096).is_none());
}

const CHUNK: u64 = 8192;

fn geometries() -> impl Strategy<Value = (Box<dyn Geometry>, u64)> {
    let parity = (
        prop_oneof![
            Just((5_u32, 2_u32)),
            Just((5, 0)),
            Just((6, 2)),
            Just((6, 9)),
            Just((6, 16))
        ],
        4_usize..7,
        1_u64..20,
    )
        .prop_map(
            |((level, layout), slots, chunks)| -> (Box<dyn Geometry>, u64) {
                let parities = if level == 6 { 2 } else { 1 };
                let rotation = Rotation::of(layout).unwrap();
                let geometry = Parity::new(rotation, CHUNK, slots, parities, chunks * CHUNK + 512);
                (Box::new(geometry.unwrap()), 1)
            },
        );
    let raid10 = (0..3, 1_u64..4, 3_usize..7, 4_u64..20).prop_map(
        |(kind, copies, slots, chunks)| -> (Box<dyn Geometry>, u64) {
            let layout = match kind {
                0 => Raid10Layout::Near(copies),
                1 => Raid10Layout::Far(copies),
                _ => Raid10Layout::Offset(copies),
            };
            let geometry = Raid10::new(layout, CHUNK, slots, chunks * CHUNK);
            (Box::new(geometry.unwrap()), copies)
        },
    );
    let stripes = (
        prop::collection::vec(1_u64..20, 1..6),
        prop_oneof![Just(ZoneOrder::Original), Just(ZoneOrder::Alternate)],
    )
        .prop_map(|(chunks, order)| -> (Box<dyn Geometry>, u64) {
            let sizes: Vec<u64> = chunks.iter().map(|chunks| chunks * CHUNK + 512).collect();
            (
                Box::new(Stripes::new(CHUNK, &sizes, Some(order)).unwrap()),
                1,
            )
        });
    let mirror = (1_usize..4, 1_u64..20).prop_map(|(slots, chunks)| -> (Box<dyn Geometry>, u64) {
        let size = chunks * CHUNK;
        (Box::new(Mirror { slots, size }), slots as u64)
    });
    prop_oneof![parity, raid10, stripes, mirror]
}

proptest! {
    /// Every byte lies in as many places as there are copies, all of them inside of their slots,
    /// and no place holds two bytes.
    #[test]
    fn each_byte_has_places_of_its_own((geometry, copies) in geometries()) {
        let mut seen = BTreeSet::new();
        let mut at = 0;
        while at < geometry.size() {
            let piece = geometry.piece(at);
            prop_assert_eq!(piece.copies.len() as u64, copies);
            // Chunk by chunk, whatever the piece's length.
            let end = (at + piece.len).min(geometry.size());
            prop_assert!(end > at);
            for part in (at..end).step_by(CHUNK as usize) {
                for (slot, byte) in &piece.copies {
                    let place = byte + (part - at);
                    prop_assert!(place + CHUNK <= geometry.used(*slot));
                    prop_assert!(seen.insert((*slot, place)), "two bytes at {} of {}", place, slot);
                    prop_assert!(!piece.rebuild.contains(slot));
                }
            }
            at = end;
        }
    }

    /// What belongs to a run holds every copy of each of its bytes, stays inside of the slots, and
    /// with one copy and no parity is not more than the run.
    #[test]
    fn a_run_is_traced_to_all_its_copies(
        (geometry, copies) in geometries(),
        start in 0_u64..1 << 20,
        len in 1_u64..1 << 20,
    ) {
        let size = geometry.size();
        let start = start % size;
        let end = (start + len).min(size);
        let mut found: BTreeMap<usize, Vec<(u64, u64)>> = BTreeMap::new();
        let mut outside = false;
        geometry.each(start, end, &mut |slot, from, to| {
            outside |= slot >= geometry.slots() || to > geometry.used(slot) || from >= to;
            found.entry(slot).or_default().push((from, to));
        });
        prop_assert!(!outside);
        let holds = |slot: usize, byte: u64| {
            found.get(&slot).is_some_and(|runs| runs.iter().any(|(from, to)| (*from..*to).contains(&byte)))
        };
        let mut parity = false;
        for at in (start..end).step_by(512).chain([end - 1]) {
            let piece = geometry.piece(at);
            for (slot, byte) in &piece.copies {
                prop_assert!(holds(*slot, *byte));
            }
            parity |= !piece.rebuild.is_empty();
            // With parity, the whole row.
            if !piece.rebuild.is_empty() {
                for slot in 0..geometry.slots() {
                    prop_assert!(holds(slot, piece.copies[0].1));
                }
            }
        }
        let total: u64 = found.values().flatten().map(|(from, to)| to - from).sum();
        if parity {
            prop_assert!(total >= end - start);
        } else {
            prop_assert_eq!(total, (end - start) * copies);
        }
    }
}
