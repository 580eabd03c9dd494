//! The proof for btrfs: mkfs.btrfs makes each variant on soiled ground, this machine's kernel fills
//! it, deletes half and fills the holes; then every byte outside the maps is overwritten on all
//! devices, and neither btrfs check nor a scrub nor the digest of any file may notice; then devices
//! that its profile can do without are taken away, and still nobody may.

#![allow(unreachable_pub)]

#[path = "map_btrfs/damage.rs"]
mod damage;
#[path = "map_btrfs/dirty.rs"]
mod dirty;
#[path = "map_btrfs/fixture.rs"]
mod fixture;
mod map_support;
#[path = "map_btrfs/own.rs"]
mod own;
#[path = "map_btrfs/special.rs"]
mod special;

use fixture::{Fixture, MIB, Mounted, Variant, spanning, variant};
use haulier::usedmap::{Policy, RegionKind, State};
use map_support::mount::privileged;
use map_support::oracle::used_by_partclone;
use map_support::proof::{Rows, hole_punch};
use map_support::ratios::Row;
use map_support::{digests, map_of, punch, run, try_run};

const VARIANTS: &[Variant] = &[
    variant("defaults", &[]),
    variant("single_copies", &["-m", "single"]),
    Variant {
        size: 256 * MIB,
        ..variant("data_dup", &["-d", "dup"])
    },
    variant("mixed", &["--mixed"]),
    variant("mixed_dup", &["--mixed", "-m", "dup", "-d", "dup"]),
    variant("nodes_of_4_kib", &["-n", "4096"]),
    Variant {
        size: 320 * MIB,
        ..variant("nodes_of_64_kib", &["-n", "65536"])
    },
    variant("xxhash", &["--csum", "xxhash"]),
    variant("sha256", &["--csum", "sha256"]),
    variant("blake2", &["--csum", "blake2"]),
    Variant {
        mount: "space_cache=v1",
        ..variant(
            "old_features",
            &[
                "-O",
                "^skinny-metadata,^no-holes,^extref",
                "-R",
                "^free-space-tree",
            ],
        )
    },
    variant("quota", &["-R", "quota"]),
    Variant {
        mount: "compress-force=zstd",
        ..variant("compressed", &[])
    },
    Variant {
        offline: |image| {
            run("btrfstune", &["-f", "-m", map_support::arg(image)]);
        },
        ..variant("metadata_uuid", &[])
    },
    Variant {
        offline: |image| {
            run("btrfstune", &["-f", "-S", "1", map_support::arg(image)]);
        },
        ..variant("seed", &[])
    },
    Variant {
        after: |mounted| {
            mounted.btrfs(&["filesystem", "resize", "1:-64M"]);
        },
        // The kernel shrinks none below 256 MiB.
        size: 384 * MIB,
        ..variant("smaller_than_its_device", &[])
    },
    Variant {
        after: |mounted| {
            mounted.btrfs(&["balance", "start", "-dusage=70", "-musage=70"]);
        },
        size: 320 * MIB,
        ..variant("balanced", &[])
    },
    Variant {
        after: interrupt_balance,
        size: 320 * MIB,
        ..variant("balance_interrupted", &[])
    },
    spanning("raid0", 3, 0, &["-d", "raid0", "-m", "raid0"]),
    spanning("raid1", 3, 1, &["-d", "raid1", "-m", "raid1"]),
    spanning("raid1c3", 3, 2, &["-d", "raid1c3", "-m", "raid1c3"]),
    spanning("raid1c4", 4, 3, &["-d", "raid1c4", "-m", "raid1c4"]),
    spanning("raid10", 4, 1, &["-d", "raid10", "-m", "raid10"]),
    spanning("raid5", 3, 1, &["-d", "raid5", "-m", "raid5"]),
    spanning("raid6", 4, 2, &["-d", "raid6", "-m", "raid6"]),
    spanning("several_single", 2, 0, &["-d", "single", "-m", "raid1"]),
    Variant {
        after: |mounted| {
            let convert = [
                "balance",
                "start",
                "-f",
                "-dconvert=raid0",
                "-mconvert=raid1",
            ];
            mounted.btrfs(&convert);
        },
        can_lose: 0,
        ..spanning("converted", 2, 0, &["-d", "single", "-m", "dup"])
    },
    Variant {
        spare: 1,
        after: |mounted| {
            let [first, _, spare] = mounted.attached.loops.as_slice() else {
                panic!("three devices")
            };
            mounted.btrfs(&["device", "add", "-f", "-K", spare]);
            mounted.btrfs(&["device", "remove", first]);
        },
        size: 256 * MIB,
        ..spanning("device_removed", 2, 1, &["-d", "raid1", "-m", "raid1"])
    },
    Variant {
        spare: 1,
        after: |mounted| {
            let [first, _, spare] = mounted.attached.loops.as_slice() else {
                panic!("three devices")
            };
            mounted.btrfs(&["replace", "start", "-B", "-f", "-K", first, spare]);
        },
        size: 256 * MIB,
        ..spanning("device_replaced", 2, 1, &["-d", "raid1", "-m", "raid1"])
    },
];

/// Leaves a balance that will go on at the next mount.
fn interrupt_balance(mounted: &Mounted) {
    mounted.btrfs(&["balance", "start", "--background", "--full-balance"]);
    for word in ["pause", "status"] {
        // It may be done already; then there is nothing to pause.
        try_run("btrfs", &["balance", word, map_support::arg(&mounted.at)]);
    }
}

/// Punches, and proves that nobody notices.
fn survives(fixture: &Fixture) {
    let maps = fixture.map();
    assert_eq!(maps.len(), fixture.images.len());
    let used: Vec<_> = maps
        .iter()
        .map(|map| {
            assert_eq!(map.state, State::Clean, "{}", map.reason);
            assert_eq!(map.label.as_deref(), Some(fixture.variant.name));
            map.used.as_ref().expect("the device is mapped")
        })
        .collect();
    is_tight(fixture, used.iter().map(|used| used.total().0).sum());
    for (image, used) in fixture.images.iter().zip(used) {
        punch(image, used);
    }
    fixture.check("after everything outside the maps was overwritten");
    let options = fixture.variant.mount;
    let mounted = fixture.mount(if fixture.variant.name == "seed" {
        "ro"
    } else {
        options
    });
    assert!(
        digests(&mounted.at) == fixture.files,
        "the files are others"
    );
    drop(mounted);
    if fixture.variant.can_lose > 0 {
        fixture.lose_devices();
    }
    if fixture.variant.name != "seed" {
        let mounted = fixture.mount("skip_balance");
        mounted.scrub();
    }
}

/// Every variant's row, printed once all are there.
static ROWS: Rows = Rows::new();

fn is_tight(fixture: &Fixture, haulier: u64) {
    let devices = u64::try_from(fixture.images.len()).unwrap();
    let partclone = match fixture.images.as_slice() {
        [only] => used_by_partclone("partclone.btrfs", only, fixture.dir.path()),
        _ => None,
    };
    let row = Row {
        variant: fixture.variant.name.into(),
        haulier,
        own: own::used_by_btrfs(&fixture.images),
        // The first MiB, and the copy of the superblock at 64 MiB.
        uncounted: devices * (MIB + 4096),
        partclone: partclone.as_ref().map(|list| list.total().0),
    };
    ROWS.add(row, VARIANTS.len(), "btrfs", "dump-tree");
}

fn survives_with_only_its_used_blocks(variant: Variant) {
    let fixture = Fixture::make(variant);
    fixture.check("before the map is taken");
    survives(&fixture);
}

hole_punch! {
    survives_with_only_its_used_blocks:
    defaults single_copies data_dup mixed mixed_dup nodes_of_4_kib nodes_of_64_kib xxhash sha256 blake2
    old_features quota compressed metadata_uuid seed smaller_than_its_device balanced
    balance_interrupted raid0 raid1 raid1c3 raid1c4 raid10 raid5 raid6 several_single converted
    device_removed device_replaced
}

/// The whole way, as `haulier map` goes: one disk with the filesystem on it.
#[test]
fn a_disk_with_btrfs_is_mapped_by_its_used_blocks() {
    let fixture = Fixture::make(VARIANTS[0]);
    let map = map_of(&fixture.images[0]);
    let region = map
        .regions
        .iter()
        .find(|region| region.kind == RegionKind::Filesystem)
        .expect("the filesystem was not recognised");
    assert_eq!(region.policy, Policy::UsedBlocks, "{}", region.reason);
    assert_eq!(region.filesystem.as_deref(), Some("btrfs"));
    assert_eq!(region.label.as_deref(), Some("defaults"));
    let blkid = privileged(
        "blkid",
        &[
            "-p",
            "-o",
            "value",
            "-s",
            "UUID",
            map_support::arg(&fixture.images[0]),
        ],
    );
    assert_eq!(region.uuid.as_deref(), Some(blkid.trim()));
    assert_eq!(Some(&map.extents), fixture.map()[0].used.as_ref());
}

/// The proof can fail: one lost extent of each kind is noticed.
#[test]
fn a_lost_block_is_noticed() {
    let fixture = Fixture::make(VARIANTS[1]);
    let used = fixture.map()[0].used.clone().expect("mapped");
    let image = &fixture.images[0];
    let original = std::fs::read(image).unwrap();
    for (what, tree) in [("data", false), ("a tree block", true)] {
        let at = own::place_of_some_extent(image, tree);
        let lost = haulier::extent::Extent::between(at, at + 4096);
        let lost: haulier::extent::ExtentList = lost.into_iter().collect();
        assert_eq!(used.intersect(&lost), lost, "{what} is in the map");
        punch(image, &used.subtract(&lost));
        let attached = fixture::Attached::new(&fixture.images);
        let checker = try_run(
            "btrfs",
            &[
                "check",
                "--readonly",
                "--check-data-csum",
                &attached.loops[0],
            ],
        );
        drop(attached);
        assert!(
            !checker.status.success(),
            "{what} is lost and nobody notices"
        );
        std::fs::write(image, &original).unwrap();
    }
}
