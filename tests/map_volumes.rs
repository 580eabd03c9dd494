//! The proof for logical volumes on real LVM tools: a group over two disks is made on soiled ground
//! without any driver, filesystems are laid where LVM's own report says that the volumes lie, and
//! then every byte outside the maps is overwritten. LVM must still find its group, e2fsck and the
//! digest of every file must not notice.
//!
//! What needs the kernel's drivers (arrays, dm-raid, thin pools, snapshots) is recorded:
//! `src/volume/recorded/`.

mod map_support;

use haulier::usedmap::{Policy, State};
use map_support::lvm::{DISK, Disks, MIB};
use map_support::oracle::used_by_dumpe2fs;
use map_support::ratios::{Row, print_and_check};
use map_support::{Noise, arg, digests, make_tree, punch, run, soiled_file};
use std::fs;

#[test]
fn logical_volumes_survive_with_their_used_blocks_alone() {
    let mut disks = Disks::new();
    let loops = disks.loops.clone();
    disks.lvm(&["pvcreate", "-y", &loops[0], &loops[1]]);
    disks.lvm(&["vgcreate", "-s", "1M", "vgt", &loops[0], &loops[1]]);
    disks.make_volume("gone", &["-L", "9M"]);
    disks.make_volume("one", &["-L", "30M"]);
    disks.make_volume("striped", &["-L", "40M", "-i", "2", "-I", "16k"]);
    disks.lvm(&["lvremove", "-y", "vgt/gone"]);
    // In the hole, over the rest of the first disk and on the second.
    disks.make_volume("torn", &["-L", "90M"]);
    assert!(
        disks
            .lvm(&["lvs", "--noheadings", "--segments", "vgt/torn"])
            .lines()
            .count()
            > 1,
        "the volume lies in one piece"
    );

    let mut noise = Noise(7);
    let mut wanted = Vec::new();
    let mut own = 0;
    for name in ["one", "striped", "torn"] {
        let tree = disks.scratch.path().join(format!("{name}.tree"));
        fs::create_dir(&tree).unwrap();
        make_tree(&tree, &mut noise, 12 * MIB);
        let places = disks.places(name);
        let size: u64 = places.iter().map(|(_, _, len)| len).sum();
        let image = disks.scratch.path().join(name);
        soiled_file(&image, size, 0x5A);
        run(
            "mke2fs",
            &["-q", "-F", "-t", "ext4", "-d", arg(&tree), arg(&image)],
        );
        own += used_by_dumpe2fs(&image);
        disks.copy(&image, &places, true);
        wanted.push((name, places, digests(&tree)));
    }
    disks.detach();

    let maps = disks.map();
    let volumes: Vec<_> = maps.iter().flat_map(|map| &map.volumes).collect();
    for name in ["one", "striped", "torn"] {
        let volume = volumes
            .iter()
            .find(|volume| volume.name == format!("vgt/{name}"))
            .unwrap_or_else(|| panic!("{name} is not in the map"));
        assert_eq!(volume.state, Some(State::Clean), "{}", volume.reason);
        assert_eq!(volume.policy, Policy::UsedBlocks, "{}", volume.reason);
        assert_eq!(volume.filesystem.as_deref(), Some("ext4"));
    }
    for (map, image) in maps.iter().zip(&disks.images) {
        punch(image, &map.extents);
    }

    disks.attach();
    for (name, places, files) in wanted {
        assert_eq!(disks.places(name), places, "LVM finds {name} elsewhere");
        let image = disks.scratch.path().join(format!("{name}.after"));
        disks.copy(&image, &places, false);
        run("e2fsck", &["-f", "-n", arg(&image)]);
        let after = disks.scratch.path().join(format!("{name}.files"));
        fs::create_dir(&after).unwrap();
        run(
            "debugfs",
            &["-R", &format!("rdump / {}", arg(&after)), arg(&image)],
        );
        let _ = fs::remove_dir(after.join("lost+found"));
        assert_eq!(digests(&after), files, "{name}");
    }
    let taken = maps.iter().map(|map| map.used_bytes).sum();
    print_and_check(
        "LVM2",
        "dumpe2fs",
        &[Row {
            variant: "linear_striped_torn".into(),
            haulier: taken,
            own,
            // What lies before the first extent of each disk.
            uncounted: 2 * MIB,
            partclone: None,
        }],
    );
}

#[test]
fn without_its_other_disk_a_group_is_copied_and_the_missing_one_is_named() {
    let mut disks = Disks::new();
    let loops = disks.loops.clone();
    disks.lvm(&["pvcreate", "-y", &loops[0], &loops[1]]);
    disks.lvm(&["vgcreate", "-s", "1M", "vgt", &loops[0], &loops[1]]);
    disks.make_volume("one", &["-L", "30M"]);
    let uuid = disks.lvm(&["pvs", "--noheadings", "-o", "pv_uuid", &loops[1]]);
    disks.detach();
    let map = map_support::map_of(&disks.images[0]);
    let region = map
        .regions
        .iter()
        .find(|region| region.policy == Policy::CopyNonzero);
    let region = region.expect("the physical volume is copied");
    assert!(region.reason.contains(uuid.trim()), "{}", region.reason);
    assert!(
        region.reason.contains("give all disks"),
        "{}",
        region.reason
    );
    assert_eq!(map.used_bytes, DISK);
}
