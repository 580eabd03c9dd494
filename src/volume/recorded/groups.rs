//! Volume groups of LVM.

use super::*;

#[test]
fn logical_volumes_of_the_kernel_read_as_it_wrote_them() {
    let mut checked = BTreeSet::new();
    for set in recording()
        .iter()
        .filter(|set| set.kind == "lvm" && set.name != "wrap")
    {
        let disks = Disk::all(&set.members);
        let assembly = assemble("lvm", &disks, &[])
            .unwrap_or_else(|refusal| panic!("{}: {refusal:?}", set.name));
        for expected in &set.volumes {
            if set.name == "cache" || lacks_parity(&expected.name) {
                continue;
            }
            check(
                &**volume(&assembly, &expected.name),
                expected,
                &expected.name,
            );
            checked.insert(expected.name.clone());
        }
    }
    for name in [
        "plain/b",
        "plain/d",
        "mir/mm",
        "raids/r0",
        "raids/r0m",
        "raids/r1",
        "raids/r10",
        "thin/t1",
        "thin/s1",
        "ext/ex",
        "snap/sn",
        "snap/o",
    ] {
        assert!(checked.contains(name), "{name} was not checked");
    }
}

#[test]
fn what_is_not_understood_is_taken_whole() {
    let disks = Disk::all(&set("cache").members);
    let assembly = assemble("lvm", &disks, &[]).unwrap();
    for name in [
        "big_corig",
        "cp_cpool_cdata",
        "cp_cpool_cmeta",
        "wb_wcorig",
        "wc_cvol",
    ] {
        let name = format!("cache/{name}");
        let made = assembly.volumes.iter().filter(|made| made.name == name);
        let contents: Vec<_> = made
            .map(|made| matches!(made.content, Content::Whole(_)))
            .collect();
        assert_eq!(contents, [true], "{name}");
    }
    let disks = Disk::all(&set("snap").members);
    let assembly = assemble("lvm", &disks, &[]).unwrap();
    let invalid = assembly
        .volumes
        .iter()
        .find(|made| made.name == "snap/sinv")
        .unwrap();
    assert!(matches!(&invalid.content, Content::Whole(why) if why.contains("overflowed")));
}

#[test]
fn thin_volumes_take_only_what_they_map_and_the_pool_the_rest() {
    let disks = Disk::all(&set("thin").members);
    let assembly = assemble("lvm", &disks, &[]).unwrap();
    let total = |name: &str| -> u64 {
        let volume = volume(&assembly, name);
        let lists = traced(&**volume, disks.len(), 0, volume.size().0);
        lists.iter().map(|list| list.total().0).sum()
    };
    // 12 MiB written; of 6 MiB the first 3 given back.
    assert_eq!(total("thin/t1"), 12 << 20);
    assert_eq!(total("thin/t3"), 3 << 20);
    let data = assembly
        .volumes
        .iter()
        .find(|made| made.name == "thin/pool_tdata")
        .unwrap();
    let Content::Exactly(orphans, _) = &data.content else {
        panic!("the pool's data is not taken exactly");
    };
    // The pool's kept older state maps all of it too.
    assert_eq!(orphans.total().0, 16 << 20);
}

#[test]
fn a_missing_physical_volume_is_named() {
    let disks = Disk::all(&set("plain").members);
    let Err(refusal) = assemble("lvm", &disks, &[3]) else {
        panic!("assembled");
    };
    let uuid = lvm::member(&disks[3]).unwrap().uuid();
    let why = format!("{refusal:?}");
    assert!(why.contains("of the 4 physical volumes of plain"), "{why}");
    assert!(why.contains(&uuid), "{why}");
}

#[test]
fn a_text_that_goes_round_the_ring_is_read_and_one_without_metadata_says_so() {
    let disks = Disk::all(&set("wrap").members);
    let first = lvm::member(&disks[0]).unwrap();
    assert_eq!(first.set_name(), "volume group wrap");
    assert_eq!(first.set(), lvm::member(&disks[2]).unwrap().set());
    let Err(refusal) = lvm::member(&disks[1]) else {
        panic!("it has no metadata");
    };
    assert!(format!("{refusal:?}").contains("does not say to which volume group"));
}
