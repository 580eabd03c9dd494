//! Arrays of md.

use super::*;

#[test]
fn arrays_of_the_kernel_read_as_it_wrote_them() {
    let mut seen = BTreeSet::new();
    for set in recording().iter().filter(|set| set.kind == "md") {
        if SPECIAL.contains(&set.name.as_str()) {
            continue;
        }
        let disks = Disk::all(&set.members);
        let assembly = assemble("md", &disks, &[])
            .unwrap_or_else(|refusal| panic!("{}: {refusal:?}", set.name));
        check(&**volume(&assembly, ""), &set.volumes[0], &set.name);
        seen.insert(
            assembly.volumes[0]
                .layout
                .split(" of")
                .next()
                .unwrap()
                .to_owned(),
        );
    }
    let levels = [
        "RAID 0", "RAID 1", "RAID 10", "RAID 4", "RAID 5", "RAID 6", "linear",
    ];
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), levels);
}

#[test]
fn a_missing_member_is_made_up_for_where_it_can_be() {
    for set in recording().iter().filter(|set| set.kind == "md") {
        let redundant = ["raid1_", "raid4", "raid5_", "raid6_", "raid10_"];
        let off = [
            "stale", "building", "rebuild", "replace", "reshape", "ppl", "spare",
        ];
        if !redundant.iter().any(|level| set.name.starts_with(level))
            || off.iter().any(|word| set.name.contains(word))
        {
            if set.name.starts_with("linear") || set.name.starts_with("raid0") {
                let disks = Disk::all(&set.members);
                assert!(assemble("md", &disks, &[1]).is_err(), "{}", set.name);
            }
            continue;
        }
        let disks = Disk::all(&set.members);
        for without in 0..disks.len() {
            // RAID 6 rows whose other parity is missing too are rebuilt by P alone.
            let assembly = assemble("md", &disks, &[without]).unwrap();
            assert!(
                assembly.reason.contains("runs without 1"),
                "{}",
                assembly.reason
            );
            check_every(3, &**volume(&assembly, ""), &set.volumes[0], &set.name);
        }
        if set.members.len() == 2 || set.name.starts_with("raid5") {
            let refused = assemble("md", &disks, &[0, 1]);
            assert!(refused.is_err(), "{}", set.name);
        }
    }
}

#[test]
fn an_array_that_cannot_be_trusted_is_refused_in_words() {
    let refusal = |name: &str, without: &[usize]| {
        let disks = Disk::all(&set(name).members);
        match assemble("md", &disks, without) {
            Ok(_) => panic!("{name} was assembled"),
            Err(refusal) => format!("{refusal:?}"),
        }
    };
    assert!(refusal("raid5_ppl", &[]).contains("partial parity log"));
    assert!(refusal("raid5_reshape", &[]).contains("reshape that has not finished"));
    // Its parity may be old: nothing can be rebuilt from it.
    assert!(refusal("raid5_building", &[0]).contains("give all disks"));
    assert!(refusal("raid0_1.2", &[2]).contains("number 2 is missing"));
    // Only what fell out is left of this slot.
    assert!(refusal("raid5_stale", &[0]).contains("0, 1 are missing"));
}

#[test]
fn a_member_that_fell_out_is_not_read_and_taken_whole() {
    for name in [
        "raid1_stale",
        "raid1_stale_090",
        "raid5_stale",
        "raid10_stale",
    ] {
        let set = set(name);
        let disks = Disk::all(&set.members);
        let assembly = assemble("md", &disks, &[]).unwrap();
        let whole: Vec<bool> = assembly
            .metadata
            .iter()
            .zip(&set.members)
            .map(|(metadata, member)| metadata.total().0 == member.size)
            .collect();
        assert_eq!(whole.iter().filter(|whole| **whole).count(), 1, "{name}");
        assert!(whole[1], "{name}: the second was made faulty");
        if name == "raid5_stale" {
            // Its parity could not be told when it was recorded.
            continue;
        }
        // From 1 MiB on, 2 MiB were written after it had fallen out, with another tag.
        let tag = set.volumes[0].tag.unwrap() + 100;
        let (mut got, mut wanted) = (vec![0; 2 << 20], vec![0; 2 << 20]);
        volume(&assembly, "")
            .read_at(ByteOffset(1 << 20), &mut got)
            .unwrap();
        pattern(tag, 1 << 20, &mut wanted);
        assert!(got == wanted, "{name}: stale data was read");
    }
}

#[test]
fn a_spare_gives_only_its_superblock_and_a_replacement_is_kept() {
    let set_spare = set("raid5_spare");
    let disks = Disk::all(&set_spare.members);
    let assembly = assemble("md", &disks, &[]).unwrap();
    let everything = traced(&**volume(&assembly, ""), 4, 0, set_spare.volumes[0].size);
    assert_eq!(everything.iter().filter(|list| list.is_empty()).count(), 1);
    assert!(assembly.reason.contains("of 1 spare only the superblock"));

    let set_replace = set("raid5_replace");
    let disks = Disk::all(&set_replace.members);
    let assembly = assemble("md", &disks, &[]).unwrap();
    let everything = traced(&**volume(&assembly, ""), 4, 0, set_replace.volumes[0].size);
    assert!(everything.iter().all(|list| !list.is_empty()));
}

#[test]
fn two_paths_to_one_member_are_noticed() {
    let mut members = set("raid1_1.2").members.clone();
    members[1] = members[0].clone();
    let disks = Disk::all(&members);
    let Err(refusal) = assemble("md", &disks, &[]) else {
        panic!("assembled");
    };
    assert!(format!("{refusal:?}").contains("two paths to one disk"));
    let mut members = set("plain").members.clone();
    members.push(members[0].clone());
    let disks = Disk::all(&members);
    let Err(refusal) = assemble("lvm", &disks, &[]) else {
        panic!("assembled");
    };
    assert!(format!("{refusal:?}").contains("two paths to one disk"));
}

#[test]
fn a_broken_superblock_is_damaged() {
    for name in ["raid1_0.90", "raid1_1.0", "raid1_1.1", "raid1_1.2"] {
        let mut members = set(name).members.clone();
        let runs = &mut members[0].runs;
        let magic = [0xFC, 0x4E, 0x2B, 0xA9];
        let superblock = runs.iter_mut().find_map(|run| match &mut run.what {
            What::Bytes(bytes) if bytes.starts_with(&magic) => Some(bytes),
            _ => None,
        });
        superblock.unwrap()[0x48] ^= 1;
        let disks = Disk::all(&members);
        let refusal = md::member(&disks[0]).unwrap_err();
        assert!(
            matches!(refusal, Refusal::Damaged(ref why) if why.contains("checksum")),
            "{name}: {refusal:?}"
        );
    }
}
