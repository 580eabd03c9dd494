//! XFS that is not to be trusted: one thing of a good filesystem is changed, and the answer has to
//! be the one that fits, with everything copied.

mod map_support;
mod xfs_support;

use haulier::usedmap::{DiskMap, Policy, RegionKind, State};
use map_support::{Noise, map_of, run};
use proptest::prelude::*;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use tempfile::TempDir;
use xfs_support::patch::{Sealed, get32, put32, read, write};
use xfs_support::{SIZE, mkfs, offline};

/// A filesystem of version 5 with some files, made once.
static GOOD: LazyLock<(TempDir, PathBuf)> = LazyLock::new(|| {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("good.img");
    // Not soiled: it is copied often, and nothing of it is punched.
    fs::File::create(&image).unwrap().set_len(SIZE).unwrap();
    let mut prototype = "/\n0 0\nd--755 0 0\n".to_owned();
    let mut noise = Noise(3);
    for number in 0..40 {
        let source = dir.path().join(format!("f{number}"));
        fs::write(&source, noise.bytes(1 + number * 3000)).unwrap();
        prototype += &format!("f{number} ---644 0 0 {}\n", source.display());
    }
    prototype += "$\n";
    let file = dir.path().join("prototype");
    fs::write(&file, prototype).unwrap();
    let file = file.to_str().unwrap().to_owned();
    mkfs(&["-l", "size=10m", "-L", "good"], &["-p", &file], &image);
    (dir, image)
});

/// The offsets of what is changed.
struct Places {
    group: u64,
    log: u64,
    /// The roots of the trees by start and by length, in the second group.
    bnobt: u64,
    cntbt: u64,
}

static PLACES: LazyLock<Places> = LazyLock::new(|| {
    let image = &GOOD.1;
    let superblock = read(image, 0, 512);
    let block = u64::from(get32(&superblock, 4));
    let group = u64::from(get32(&superblock, 0x54)) * block;
    let agf = read(image, group + 512, 512);
    let root = |at| group + u64::from(get32(&agf, at)) * block;
    Places {
        group,
        log: offline::log_at(image),
        bnobt: root(0x10),
        cntbt: root(0x14),
    }
});

fn changed(change: impl FnOnce(&Path)) -> DiskMap {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("disk.img");
    // Sparse where it can be: this is done often.
    run(
        "cp",
        &[
            "--sparse=always",
            GOOD.1.to_str().unwrap(),
            image.to_str().unwrap(),
        ],
    );
    change(&image);
    map_of(&image)
}

/// Refused, with this state and these words.
fn refused(state: State, words: &str, change: impl FnOnce(&Path)) {
    let map = changed(change);
    let region = map
        .regions
        .iter()
        .find(|region| region.kind == RegionKind::Filesystem)
        .expect("the map has a filesystem");
    assert_eq!(region.state, Some(state), "{}", region.reason);
    assert!(region.reason.contains(words), "{}", region.reason);
    assert_eq!(region.policy, Policy::CopyNonzero);
    assert_eq!(region.used_bytes, SIZE);
    assert_eq!(region.label.as_deref(), Some("good"));
    assert!(region.uuid.is_some());
}

fn root(at: u64) -> Sealed {
    Sealed::tree_block(at, 4096)
}

#[test]
fn the_good_one_is_mapped() {
    let map = changed(|_| {});
    assert_eq!(map.regions[0].policy, Policy::UsedBlocks);
    assert_eq!(map.regions[0].state, Some(State::Clean));
}

#[test]
fn features_that_are_not_known() {
    let superblock = Sealed::superblock(0);
    for (at, bit, words) in [
        (0xD4, 0x10, "ro_compat 0x10"),
        (0xD8, 0x100, "incompat 0x100"),
        (0xD8, 0x8000_0000, "incompat 0x80000000"),
        (0xDC, 0x2, "log_incompat 0x2"),
        (0xC8, 0x40, "features2 0x40"),
    ] {
        refused(State::Unsupported, words, |image| {
            superblock.edit(image, |sb| put32(sb, at, get32(sb, at) | bit));
        });
    }
    refused(State::Unsupported, "version 6", |image| {
        superblock.edit(image, |sb| sb[0x65] = sb[0x65] & 0xF0 | 6);
    });
}

#[test]
fn a_superblock_that_says_so_itself() {
    let superblock = Sealed::superblock(0);
    refused(State::Damaged, "needing repair", |image| {
        superblock.edit(image, |sb| put32(sb, 0xD8, get32(sb, 0xD8) | 0x10));
    });
    refused(State::Damaged, "sb_inprogress", |image| {
        superblock.edit(image, |sb| sb[0x7E] = 1);
    });
    refused(State::Unsupported, "log is on another disk", |image| {
        superblock.edit(image, |sb| sb[0x30..0x38].fill(0));
    });
}

#[test]
fn a_superblock_that_contradicts_itself() {
    let superblock = Sealed::superblock(0);
    refused(State::Damaged, "does not match its checksum", |image| {
        write(image, 0x90, &[0xFF]);
    });
    refused(State::Damaged, "but its partition has", |image| {
        superblock.edit(image, |sb| sb[0x0B] = 1);
    });
    refused(State::Damaged, "groups of", |image| {
        superblock.edit(image, |sb| put32(sb, 0x58, 5));
    });
    refused(State::Damaged, "blocks of", |image| {
        superblock.edit(image, |sb| sb[0x78] = 13);
    });
    refused(State::Damaged, "a log of", |image| {
        superblock.edit(image, |sb| put32(sb, 0x60, 0xFFFF_FFFF));
    });
    refused(State::Damaged, "the superblock says", |image| {
        superblock.edit(image, |sb| sb[0x97] ^= 1);
    });
}

#[test]
fn the_header_of_a_group_that_is_wrong() {
    let agf = Sealed::agf(PLACES.group);
    refused(State::Damaged, "does not match its checksum", |image| {
        write(image, PLACES.group + 512 + 0x34, &[0xFF]);
    });
    refused(State::Damaged, "is that of group 2", |image| {
        agf.edit(image, |agf| put32(agf, 0x08, 2));
    });
    for (field, at) in [("freeblks", 0x34), ("longest", 0x38)] {
        refused(State::Damaged, "its header says", |image| {
            agf.edit(image, |agf| put32(agf, at, get32(agf, at) - 1));
            println!("{field}");
        });
    }
    refused(State::Damaged, "their header says", |image| {
        agf.edit(image, |agf| put32(agf, 0x3C, get32(agf, 0x3C) + 1));
    });
    refused(State::Damaged, "the superblock says", |image| {
        agf.edit(image, |agf| put32(agf, 0x30, get32(agf, 0x30) - 1));
    });
    refused(State::Damaged, "belongs to another filesystem", |image| {
        agf.edit(image, |agf| agf[0x40] ^= 1);
    });
}

#[test]
fn a_tree_that_is_wrong() {
    let (by_start, by_length) = (root(PLACES.bnobt), root(PLACES.cntbt));
    refused(State::Damaged, "does not match its checksum", |image| {
        write(image, PLACES.bnobt + 4000, &[0x5A]);
    });
    refused(State::Damaged, "written for another place", |image| {
        by_start.edit(image, |block| block[0x17] ^= 8);
    });
    refused(State::Damaged, "belongs to another filesystem", |image| {
        by_start.edit(image, |block| block[0x20] ^= 1);
    });
    refused(State::Damaged, "none of its blocks", |image| {
        by_start.edit(image, |block| block[3] = b'C');
    });
    refused(State::Damaged, "whose level is 1", |image| {
        by_start.edit(image, |block| block[5] = 1);
    });
    refused(State::Damaged, "whose neighbours", |image| {
        by_start.edit(image, |block| put32(block, 0x0C, 9));
    });
    refused(State::Damaged, "entries", |image| {
        by_start.edit(image, |block| block[6] = 0xFF);
    });
    refused(State::Damaged, "has a record of", |image| {
        by_start.edit(image, |block| put32(block, 0x3C, 0x7FFF_FFFF));
    });
    refused(State::Damaged, "calls a block of its trees free", |image| {
        by_start.edit(image, |block| put32(block, 0x38, 1));
    });
    // A block less in one of them, then in both.
    let shorter = |block: &mut [u8]| put32(block, 0x3C, get32(block, 0x3C) - 1);
    refused(State::Damaged, "other records than the cntbt", |image| {
        by_start.edit(image, shorter);
    });
    refused(State::Damaged, "its header says", |image| {
        by_start.edit(image, shorter);
        by_length.edit(image, shorter);
    });
}

#[test]
fn a_tree_that_points_back_into_itself_ends() {
    refused(State::Damaged, "whose level is 0 instead of 1", |image| {
        Sealed::agf(PLACES.group).edit(image, |agf| put32(agf, 0x1C, 2));
    });
    let own = u32::try_from((PLACES.bnobt - PLACES.group) / 4096).unwrap();
    refused(State::Damaged, "whose level is 1 instead of 0", |image| {
        Sealed::agf(PLACES.group).edit(image, |agf| put32(agf, 0x1C, 2));
        root(PLACES.bnobt).edit(image, |block| {
            block[5] = 1;
            // The pointers follow room for 336 keys.
            put32(block, 0x38 + 336 * 8, own);
        });
    });
    refused(State::Damaged, "outside its group", |image| {
        Sealed::agf(PLACES.group).edit(image, |agf| put32(agf, 0x10, 0x7FFF_FFFF));
    });
}

#[test]
fn a_log_that_says_nothing() {
    refused(State::Dirty, "its log is empty", |image| {
        write(image, PLACES.log, &vec![0; 10 << 20]);
    });
    refused(State::Damaged, "of the filesystem", |image| {
        write(image, PLACES.log + 0x130, &[0x77; 16]);
    });
    refused(State::Dirty, "not whole", |image| {
        // The unmount record is some other operation, and its checksum with that wrong.
        write(image, PLACES.log + 512 + 9, &[0]);
    });
}

/// Where metadata is, in the small filesystem.
fn metadata() -> Vec<(u64, u64)> {
    vec![
        (0, 2048),
        (PLACES.group, 2048),
        (PLACES.bnobt, 256),
        (PLACES.cntbt, 256),
        (PLACES.log, 4096),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever stands there, nobody panics, it ends, and nothing outside the disk is taken.
    #[test]
    fn no_metadata_makes_it_panic(
        places in prop::collection::vec((0..5_usize, 0..4096_u64, any::<u8>()), 1..6),
        seal in any::<bool>(),
    ) {
        let map = changed(|image| {
            for (which, at, byte) in places {
                let (start, len) = metadata()[which];
                write(image, start + at % len, &[byte]);
            }
            if seal {
                // So that it is the content that is looked at.
                Sealed::superblock(0).edit(image, |_| {});
                Sealed::agf(0).edit(image, |_| {});
                Sealed::agf(PLACES.group).edit(image, |_| {});
                root(PLACES.bnobt).edit(image, |_| {});
                root(PLACES.cntbt).edit(image, |_| {});
            }
        });
        let end = map.extents.iter().last().map_or(0, haulier::extent::Extent::end);
        prop_assert!(end <= SIZE);
    }
}
