//! The proof for XFS: a real mkfs.xfs makes each variant on soiled ground, it is filled, half of it
//! deleted and filled again in the holes; then every byte outside the map is overwritten, and
//! xfs_repair and the digest of every file must not notice.
//!
//! What this machine's kernel cannot mount (version 4, case-insensitive names, a realtime section)
//! is filled by mkfs.xfs itself, thinned out by xfs_repair, and read by xfs_db.

mod map_support;
mod xfs_support;

use haulier::usedmap::{DiskMap, Policy, RegionKind, State};
use map_support::oracle::used_by_partclone;
use map_support::ratios::{Row, print_and_check};
use map_support::{arg, map_of, punch};
use std::collections::BTreeMap;
use std::sync::Mutex;
use xfs_support::{After, Fixture, VARIANTS, Variant};

fn filesystem(map: &DiskMap) -> &haulier::usedmap::Region {
    map.regions
        .iter()
        .find(|region| region.kind == RegionKind::Filesystem)
        .expect("the map has a filesystem")
}

fn survives_with_only_its_used_blocks(variant: Variant) {
    let fixture = Fixture::make(variant);
    let map = map_of(&fixture.image);
    let region = filesystem(&map);
    assert_eq!(region.state, Some(State::Clean), "{}", region.reason);
    assert_eq!(region.policy, Policy::UsedBlocks);
    assert_eq!(region.filesystem.as_deref(), Some("xfs"));
    assert_eq!(
        region.label.as_deref(),
        variant.name.get(..12).or(Some(variant.name))
    );
    assert_eq!(region.uuid, Some(fixture.uuid_by_blkid()));
    assert_eq!(region.length_bytes, fixture.size_by_xfs_db());
    is_tight(variant, &fixture, &map);
    // What lies behind a filesystem smaller than its disk is soiled, so it is taken; it is free all
    // the same.
    let kept = map.extents.subtract(map.nonzero_only());
    punch(&fixture.image, &kept);
    fixture.check("after everything outside the map was overwritten");
    assert_eq!(fixture.read_files(), fixture.files);
}

macro_rules! hole_punch {
    ($($name:ident)*) => {
        mod hole_punch {
            $(
                #[test]
                fn $name() {
                    let name = stringify!($name);
                    let variant = super::VARIANTS.iter().find(|variant| variant.name == name);
                    super::survives_with_only_its_used_blocks(*variant.unwrap());
                }
            )*
            #[test]
            fn every_variant_has_its_test() {
                let tested = [$(stringify!($name)),*];
                assert!(super::VARIANTS.iter().map(|variant| variant.name).eq(tested));
            }
        }
    };
}

hole_punch! {
    xfs_default blocks_of_1_kib blocks_of_2_kib blocks_of_64_kib sectors_of_4_kib every_feature
    few_features striped large_inodes other_meta_uuid grown smaller_than_its_disk deep_trees
    exchange_and_parent v4 v4_blocks_of_512_bytes v4_no_lazy_counters v4_log_of_version_1
    case_insensitive realtime
}

/// The used bytes of every variant beside what others say, printed once all are there.
static TABLE: Mutex<BTreeMap<&str, Row>> = Mutex::new(BTreeMap::new());

/// Copying everything is no way out: not more than the groups' headers call used, and not less than
/// partclone would copy.
fn is_tight(variant: Variant, fixture: &Fixture, map: &DiskMap) {
    let peer = used_by_partclone("partclone.xfs", &fixture.image, fixture.dir.path());
    let row = Row {
        variant: variant.name.into(),
        haulier: filesystem(map).used_bytes,
        own: fixture.used_by_xfs_db(),
        uncounted: 0,
        partclone: peer.as_ref().map(|list| list.total().0),
    };
    assert_eq!(row.haulier, row.own, "{}", variant.name);
    if let Some(peer) = peer {
        let missing = peer.subtract(&map.extents);
        assert!(missing.is_empty(), "partclone also takes {missing:?}");
    }
    let mut table = TABLE.lock().unwrap();
    table.insert(variant.name, row);
    if table.len() == VARIANTS.len() {
        let rows: Vec<Row> = std::mem::take(&mut *table).into_values().collect();
        print_and_check("xfs", "xfs_db", &rows);
    }
}

/// The proof can fail: a single block missing from the map is noticed.
#[test]
fn a_lost_block_is_noticed() {
    let notices = |lost: &dyn Fn(&Fixture) -> u64| {
        let fixture = Fixture::make(VARIANTS[0]);
        let start = lost(&fixture);
        let lost = haulier::extent::Extent::between(start, start + 4096);
        let lost: haulier::extent::ExtentList = lost.into_iter().collect();
        let map = map_of(&fixture.image);
        assert_eq!(map.extents.intersect(&lost), lost, "it is in the map");
        punch(&fixture.image, &map.extents.subtract(&lost));
        let checker = map_support::try_run("xfs_repair", &["-n", "-f", arg(&fixture.image)]);
        !checker.status.success() || fixture.read_files() != fixture.files
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
