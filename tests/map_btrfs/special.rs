//! Filesystems that come about in other ways than by mkfs.btrfs of this machine.

use crate::damage::{Patched, root_of, set};
use crate::fixture::{Fixture, MIB, Mounted, Variant, fill, map, variant};
use crate::map_support::mount::privileged;
use crate::map_support::{
    Noise, arg, digests, make_tree, map_of, punch, run, soiled_file, try_run,
};
use haulier::device::MemDisk;
use haulier::usedmap::{RegionKind, State};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Block group items in a tree of their own (Linux 6.1), which Debian 12's mkfs.btrfs cannot make:
/// an empty filesystem of 160 MiB by mkfs.btrfs 6.14 `-O block-group-tree`, packed.
const BLOCK_GROUP_TREE: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/tests/map_btrfs/block_group_tree.img.gz.gz"
);

/// Punches what was filled, and proves that nobody notices.
fn survives(images: &[PathBuf], at: &Path) {
    let read = || {
        let mounted = Mounted::new(images, images.len(), at, "ro");
        digests(&mounted.at)
    };
    let files = read();
    assert!(files.len() > 30, "too few files to prove anything");
    for (image, map) in images.iter().zip(map(images)) {
        assert_eq!(map.state, State::Clean, "{}", map.reason);
        punch(image, &map.used.unwrap());
    }
    assert!(read() == files, "the files are others");
    Mounted::new(images, images.len(), at, "").scrub();
}

#[test]
fn block_groups_in_their_own_tree() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("disk.img");
    run(
        "sh",
        &[
            "-c",
            "gzip -dc \"$0\" | gzip -dc >\"$1\"",
            BLOCK_GROUP_TREE,
            arg(&image),
        ],
    );
    let at = dir.path().join("mnt");
    let images = [image];
    fill(&Mounted::new(&images, 1, &at, ""));
    let said = run(
        "btrfs",
        &["inspect-internal", "dump-super", arg(&images[0])],
    );
    assert!(said.contains("BLOCK_GROUP_TREE"), "{said}");
    survives(&images, &at);
}

/// btrfs-convert lays a filesystem around the files of an ext4, which stay where they are.
#[test]
fn converted_from_ext4() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("disk.img");
    let tree = dir.path().join("tree");
    make_tree(&tree, &mut Noise(3), 20 * MIB);
    soiled_file(&image, 256 * MIB, 0xEE);
    let words = [
        "-q",
        "-F",
        "-F",
        "-t",
        "ext4",
        "-b",
        "4096",
        "-d",
        arg(&tree),
        arg(&image),
    ];
    run("mke2fs", &words);
    run("e2fsck", &["-fp", arg(&image)]);
    run("btrfs-convert", &[arg(&image)]);
    let images = [image];
    survives(&images, &dir.path().join("mnt"));
    run(
        "btrfs",
        &["check", "--readonly", "--check-data-csum", arg(&images[0])],
    );
}

/// A seed is a whole filesystem; what grew out of it is not, without it.
#[test]
fn what_grew_out_of_a_seed_is_refused() {
    let fixture = Fixture::empty(Variant {
        spare: 1,
        ..variant("seed", &[])
    });
    fill(&fixture.mount(""));
    run("btrfstune", &["-f", "-S", "1", arg(&fixture.images[0])]);
    let mounted = fixture.mount("");
    let spare = mounted.attached.loops[1].clone();
    mounted.btrfs(&["device", "add", "-f", "-K", &spare]);
    privileged("mount", &["-o", "remount,rw", arg(&mounted.at)]);
    fs::write(mounted.path("grown"), "out of a seed").unwrap();
    drop(mounted);
    let maps = map(&fixture.images);
    let [seed, grown] = maps.as_slice() else {
        panic!("two devices")
    };
    assert_eq!(seed.state, State::Clean, "{}", seed.reason);
    assert!(seed.used.is_some());
    assert!(grown.used.is_none(), "{}", grown.reason);
    assert_eq!(grown.state, State::Unsupported);
}

/// While 'btrfs replace' runs, the newest data may be on a device that is not a member yet.
#[test]
fn a_replacement_under_way_is_refused() {
    let fixture = Fixture::make(Variant {
        spare: 1,
        after: |mounted| {
            let [first, spare] = mounted.attached.loops.as_slice() else {
                panic!("two devices")
            };
            mounted.btrfs(&["replace", "start", "-B", "-f", "-K", first, spare]);
        },
        ..variant("replaced", &[])
    });
    let image = &fixture.images[0];
    let disk = Arc::new(MemDisk(fs::read(image).unwrap()));
    let done = Patched::of(&disk).map();
    assert_eq!(done.state, State::Clean, "{}", done.reason);
    // The item that says so: type 250, objectid and offset 0; its state at 0x20.
    let started = |block: &mut [u8]| {
        let key = (0..600)
            .map(|item| 0x65 + item * 25)
            .find(|&at| block[at..at + 9] == [0, 0, 0, 0, 0, 0, 0, 0, 250])
            .expect("the replacement left its item");
        let data = u32::from_le_bytes(block[key + 17..key + 21].try_into().unwrap());
        set(block, 0x65 + data as usize + 0x20, 1);
    };
    let mut under_way = Patched::of(&disk);
    for at in root_of(image, "dev") {
        under_way = under_way.with(at, 16_384, started);
    }
    under_way.is_refused(State::Dirty, "was being replaced");
}

/// 64 TiB in a sparse file on a tmpfs or XFS: only what is written takes room.
#[test]
fn sixty_four_tib_are_mapped_in_seconds() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().join("tmpfs");
    fs::create_dir(&at).unwrap();
    privileged("mount", &["-t", "tmpfs", "-o", "size=1G", "none", arg(&at)]);
    let image = at.join("disk.img");
    let file = fs::File::create(&image).unwrap();
    file.set_len(64 << 40).unwrap();
    drop(file);
    run("mkfs.btrfs", &["-q", "-f", "-K", "-L", "huge", arg(&image)]);
    let images = [image];
    let mounted = Mounted::new(&images, 1, &dir.path().join("mnt"), "");
    // Every GiB of it is allocated to a chunk that has to be read, and in extents.
    run("fallocate", &["-l", "256G", arg(&mounted.path("large"))]);
    drop(mounted);
    let started = Instant::now();
    let map = map_of(&images[0]);
    let took = started.elapsed();
    let unmounted = try_run("umount", &["-l", arg(&at)]).status.success();
    let region = map
        .regions
        .iter()
        .find(|region| region.kind == RegionKind::Filesystem)
        .unwrap();
    assert_eq!(region.state, Some(State::Clean), "{}", region.reason);
    assert_eq!(region.length_bytes, 64 << 40);
    assert!(map.used_bytes > 256 << 30 && map.used_bytes < 258 << 30);
    assert!(took < Duration::from_secs(30), "{took:?}");
    assert!(unmounted);
}
