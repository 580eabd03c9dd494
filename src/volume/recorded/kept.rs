//! What is left when everything else is overwritten.

use super::*;

/// What is kept of each disk when of every volume what its content says is kept.
fn kept(assembly: &Assembly<'_>, disks: &[Disk]) -> Vec<ExtentList> {
    let mut places = Places::new(disks.len());
    for (index, metadata) in assembly.metadata.iter().enumerate() {
        metadata
            .iter()
            .for_each(|extent| places.push(DiskIndex(index), extent));
    }
    for made in &assembly.volumes {
        let whole = Extent::new(ByteOffset(0), made.volume.size()).unwrap();
        match &made.content {
            Content::Exactly(list, _) => list
                .iter()
                .for_each(|run| made.volume.trace(run, &mut places)),
            Content::Look | Content::Whole(_) => made.volume.trace(whole, &mut places),
        }
    }
    places.finish()
}

#[test]
fn nothing_is_lost_with_all_that_is_not_kept() {
    for set in recording()
        .iter()
        .filter(|set| set.name != "wrap" && set.name != "raid5_ppl" && set.name != "raid5_reshape")
    {
        let mut disks = Disk::all(&set.members);
        let assembly = assemble(&set.kind, &disks, &[]).unwrap();
        let kept = kept(&assembly, &disks);
        let names: Vec<String> = assembly
            .volumes
            .iter()
            .map(|made| made.name.clone())
            .collect();
        drop(assembly);
        let total: u64 = kept.iter().map(|list| list.total().0).sum();
        let size: u64 = set.members.iter().map(|member| member.size).sum();
        if set.kind == "lvm" {
            assert!(
                total < size / 10 * 9,
                "{}: {total} of {size} kept",
                set.name
            );
        }
        for (disk, kept) in disks.iter_mut().zip(kept) {
            disk.kept = Some(kept);
        }
        let assembly = assemble(&set.kind, &disks, &[]).unwrap();
        let again: Vec<String> = assembly
            .volumes
            .iter()
            .map(|made| made.name.clone())
            .collect();
        assert_eq!(again, names);
        if SPECIAL.contains(&set.name.as_str()) || set.name == "cache" {
            continue;
        }
        for expected in set.volumes.iter().filter(|e| !lacks_parity(&e.name)) {
            check(&**volume(&assembly, &expected.name), expected, &set.name);
        }
    }
}

/// Only some runs of an array are kept, with their rows; then a member is lost, and the parity that
/// was kept gives them back.
#[test]
fn the_parity_of_what_is_kept_is_right() {
    let mut noise = 0x2545_F491_4F6C_DD1D_u64;
    let mut below = |bound: u64| {
        noise ^= noise << 13;
        noise ^= noise >> 7;
        noise ^= noise << 17;
        noise % bound
    };
    let mut levels = 0;
    for set in recording().iter().filter(|set| set.kind == "md") {
        let off = [
            "stale", "building", "rebuild", "replace", "reshape", "ppl", "spare",
        ];
        let levels_with = ["raid4", "raid5_", "raid6_", "raid10_", "raid1_"];
        if off.iter().any(|word| set.name.contains(word))
            || !levels_with.iter().any(|level| set.name.starts_with(level))
        {
            continue;
        }
        levels += 1;
        let expected = &set.volumes[0];
        let runs: Vec<(u64, u64)> = (0..6)
            .map(|_| {
                let start = below(expected.size);
                (start, (start + 1 + below(300_000)).min(expected.size))
            })
            .collect();
        let mut disks = Disk::all(&set.members);
        let assembly = assemble("md", &disks, &[]).unwrap();
        let mut places = Places::new(disks.len());
        for (index, metadata) in assembly.metadata.iter().enumerate() {
            metadata
                .iter()
                .for_each(|extent| places.push(DiskIndex(index), extent));
        }
        for (start, end) in &runs {
            volume(&assembly, "").trace(Extent::between(*start, *end).unwrap(), &mut places);
        }
        drop(assembly);
        for (disk, kept) in disks.iter_mut().zip(places.finish()) {
            disk.kept = Some(kept);
        }
        for without in 0..disks.len() {
            let assembly = assemble("md", &disks, &[without]).unwrap();
            for (start, end) in &runs {
                let len = (end - start) as usize;
                let (mut got, mut wanted) = (vec![0; len], vec![0; len]);
                volume(&assembly, "")
                    .read_at(ByteOffset(*start), &mut got)
                    .unwrap();
                pattern(expected.tag.unwrap(), *start, &mut wanted);
                assert!(
                    got == wanted,
                    "{} without {without}, {start}..{end}",
                    set.name
                );
            }
        }
    }
    assert!(levels > 20, "only {levels} arrays");
}

/// Whatever single byte of the metadata is wrong: no panic, no endless loop, and never a volume
/// that reads differently without anybody noticing that the metadata is another.
#[test]
fn a_wrong_byte_in_the_metadata_never_moves_data() {
    for name in [
        "plain",
        "thin",
        "raid5_left-symmetric",
        "raid1_0.90",
        "snap",
    ] {
        let set = set(name);
        let places: Vec<(usize, usize, usize)> = set
            .members
            .iter()
            .enumerate()
            .flat_map(|(member, image)| {
                image
                    .runs
                    .iter()
                    .enumerate()
                    .filter_map(move |(index, run)| match &run.what {
                        What::Bytes(bytes) => Some((member, index, bytes.len())),
                        _ => None,
                    })
            })
            .collect();
        let mut noise = 0x9E37_79B9_7F4A_7C15_u64;
        for _ in 0..24 {
            noise ^= noise << 13;
            noise ^= noise >> 7;
            noise ^= noise << 17;
            let (member, index, len) = places[(noise % places.len() as u64) as usize];
            let mut members = set.members.clone();
            if let What::Bytes(bytes) = &mut members[member].runs[index].what {
                bytes[((noise >> 20) % len as u64) as usize] ^= 1 << (noise >> 60 & 7);
            }
            let disks = Disk::all(&members);
            let Ok(assembly) = assemble(&set.kind, &disks, &[]) else {
                continue;
            };
            for made in &assembly.volumes {
                let size = made.volume.size().0;
                let lists = traced(&*made.volume, disks.len(), 0, size);
                for (list, image) in lists.iter().zip(&members) {
                    assert!(list.iter().all(|extent| extent.end() <= image.size));
                }
                // Snapshots' tables have no checksum.
                let expected = set
                    .volumes
                    .iter()
                    .find(|e| e.name.is_empty() || e.name == made.name);
                if let Some(expected) = expected.filter(|_| name != "snap") {
                    check_every(5, &*made.volume, expected, &made.name);
                }
            }
        }
    }
}
