//! The proof for XFS: a real mkfs.xfs makes each variant on soiled ground, it is filled, half of it
//! deleted and filled again in the holes; then every byte outside the map is overwritten, and
//! xfs_repair and the digest of every file must not notice.
//!
//! What this machine's kernel cannot mount (version 4, case-insensitive names, a realtime section)
//! is filled by mkfs.xfs itself, thinned out by xfs_repair, and read by xfs_db.

mod map_support;
mod xfs_support;

use haulier::usedmap::DiskMap;
use map_support::proof::{Peer, Rows, filesystem, hole_punch, loss_is_noticed, sound_map};
use map_support::ratios::Row;
use map_support::{arg, punch};
use xfs_support::{After, Fixture, VARIANTS, Variant};

fn survives_with_only_its_used_blocks(variant: Variant) {
    let fixture = Fixture::make(variant);
    let label = variant.name.get(..12).unwrap_or(variant.name);
    let map = sound_map(&fixture.image, "xfs", Some(label));
    assert_eq!(filesystem(&map).length_bytes, fixture.size_by_xfs_db());
    is_tight(variant, &fixture, &map);
    // What lies behind a filesystem smaller than its disk is soiled, so it is taken; it is free all
    // the same.
    let kept = map.extents.subtract(map.nonzero_only());
    punch(&fixture.image, &kept);
    fixture.check("after everything outside the map was overwritten");
    assert_eq!(fixture.read_files(), fixture.files);
}

hole_punch! {
    survives_with_only_its_used_blocks:
    xfs_default blocks_of_1_kib blocks_of_2_kib blocks_of_64_kib sectors_of_4_kib every_feature
    few_features striped large_inodes other_meta_uuid grown smaller_than_its_disk deep_trees
    exchange_and_parent v4 v4_blocks_of_512_bytes v4_no_lazy_counters v4_log_of_version_1
    case_insensitive realtime
}

/// The used bytes of every variant beside what others say, printed once all are there.
static ROWS: Rows = Rows::new();

/// Copying everything is no way out: not more than the groups' headers call used, and not less than
/// partclone would copy.
fn is_tight(variant: Variant, fixture: &Fixture, map: &DiskMap) {
    let peer = Peer::asked("partclone.xfs", &fixture.image, fixture.dir.path(), map);
    let row = Row {
        variant: variant.name.into(),
        haulier: filesystem(map).used_bytes,
        own: fixture.used_by_xfs_db(),
        uncounted: 0,
        partclone: peer.bytes,
    };
    assert_eq!(row.haulier, row.own, "{}", variant.name);
    ROWS.add(row, VARIANTS.len(), "xfs", "xfs_db");
}

/// The proof can fail: a single block missing from the map is noticed.
#[test]
fn a_lost_block_is_noticed() {
    let notices = |lost: &dyn Fn(&Fixture) -> u64| {
        let fixture = Fixture::make(VARIANTS[0]);
        let start = lost(&fixture);
        loss_is_noticed(&fixture.image, (start, start + 4096), || {
            let checker = map_support::try_run("xfs_repair", &["-n", "-f", arg(&fixture.image)]);
            checker.status.success() && fixture.read_files() == fixture.files
        })
    };
    assert!(
        notices(&|fixture| fixture.first_byte_of("/w1")),
        "data of a file"
    );
    assert!(
        notices(&|fixture| fixture.group_bytes() + 4096),
        "the root of a tree in the second group"
    );
    assert!(notices(&|_| 0), "the superblock");
}

#[test]
fn variants_that_need_it_have_deep_trees_and_a_log_in_another_group() {
    let deep = VARIANTS.iter().find(|v| v.after == After::ManyHoles);
    let fixture = Fixture::make(*deep.unwrap());
    assert!(fixture.deepest_tree() > 1, "no tree has two levels");
    let striped = VARIANTS.iter().find(|v| v.name == "striped").unwrap();
    let fixture = Fixture::make(*striped);
    assert!(fixture.log_at() > fixture.group_bytes());
}
