//! What the proofs of all filesystems have in common: each variant is made on soiled ground, filled,
//! half of it deleted and filled again in the holes, mapped, punched, checked and read again.

use super::oracle::used_by_partclone;
use super::ratios::{Row, check, print_and_check};
use super::{Noise, arg, digests, make_tree, map_of, punch, run};
use haulier::extent::{Extent, ExtentList};
use haulier::usedmap::{DiskMap, Policy, Region, RegionKind, State};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Mutex;

/// One test for each variant of `VARIANTS` by its name, and one that none is left out.
#[allow(unused_macros)]
macro_rules! hole_punch {
    ($proof:ident: $($name:ident)*) => {
        mod hole_punch {
            $(
                #[test]
                fn $name() {
                    let name = stringify!($name);
                    let variant = super::VARIANTS.iter().find(|variant| variant.name == name);
                    super::$proof(*variant.unwrap());
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
#[allow(unused_imports)]
pub(crate) use hole_punch;

/// Fills a mounted filesystem with a tree of so many bytes, deletes half of it and makes more files
/// in the holes, each shorter than `longest`, of which half are deleted too. What is deleted was
/// written before, so that it has places on the disk.
pub fn fill_and_thin_out(root: &Path, noise: &mut Noise, tree_bytes: u64, more: u64, longest: u64) {
    let sync = || run("sync", &["-f", arg(root)]);
    let tree = root.join("tree");
    make_tree(&tree, noise, tree_bytes);
    sync();
    for name in digests(&tree).keys().step_by(2) {
        fs::remove_file(tree.join(name)).unwrap();
    }
    sync();
    for number in 0..more {
        let len = 1 + noise.below(longest);
        fs::write(root.join(format!("w{number}")), noise.bytes(len)).unwrap();
    }
    sync();
    for number in (0..more).step_by(2) {
        fs::remove_file(root.join(format!("w{number}"))).unwrap();
    }
}

/// The only filesystem of a map.
pub fn filesystem(map: &DiskMap) -> &Region {
    map.regions
        .iter()
        .find(|region| region.kind == RegionKind::Filesystem)
        .expect("the filesystem was not recognised")
}

/// The map of a sound filesystem: reduced to what is used, clean, and named as blkid names it.
pub fn sound_map(image: &Path, flavour: &str, label: Option<&str>) -> DiskMap {
    let map = map_of(image);
    let region = filesystem(&map);
    assert_eq!(region.policy, Policy::UsedBlocks, "{}", region.reason);
    assert_eq!(region.state, Some(State::Clean), "{}", region.reason);
    assert_eq!(region.filesystem.as_deref(), Some(flavour));
    assert_eq!(region.label.as_deref(), label);
    let blkid = run("blkid", &["-p", "-s", "UUID", "-o", "value", arg(image)]);
    assert_eq!(region.uuid.as_deref(), Some(blkid.trim()));
    map
}

/// The map of something that is a filesystem and nothing else, clean.
#[track_caller]
pub fn clean_map(image: &Path) -> DiskMap {
    let map = map_of(image);
    let region = &map.regions[0];
    assert_eq!(region.policy, Policy::UsedBlocks, "{}", region.reason);
    assert_eq!(region.state, Some(State::Clean), "{}", region.reason);
    map
}

/// The whole disk is taken, and the reason says these words.
#[track_caller]
pub fn assert_all_taken(image: &Path, state: State, words: &str) {
    let map = map_of(image);
    let region = &map.regions[0];
    assert_eq!(region.policy, Policy::CopyNonzero, "{}", region.reason);
    assert_eq!(region.state, Some(state), "{}", region.reason);
    assert!(region.reason.contains(words), "{}", region.reason);
    assert_eq!(map.used_bytes, map.disk.size_bytes);
}

/// Whether the proof fails, as it must, when these bytes are taken out of the map: `survives` is told
/// after everything else outside of it was overwritten.
pub fn loss_is_noticed(image: &Path, lost: (u64, u64), survives: impl FnOnce() -> bool) -> bool {
    let lost: ExtentList = Extent::between(lost.0, lost.1).into_iter().collect();
    let map = map_of(image);
    assert_eq!(map.extents.intersect(&lost), lost, "it is in the map");
    punch(image, &map.extents.subtract(&lost));
    !survives()
}

/// What partclone would copy beside our map.
pub struct Peer {
    /// How many bytes; `None` where it refuses.
    pub bytes: Option<u64>,
}

impl Peer {
    /// Asks it, and asserts that it takes nothing that our map has not.
    pub fn asked(program: &str, image: &Path, scratch: &Path, map: &DiskMap) -> Self {
        let peer = used_by_partclone(program, image, scratch);
        let bytes = peer.as_ref().map(|list| list.total().0);
        let missing = peer.unwrap_or_default().subtract(&map.extents);
        assert!(missing.is_empty(), "partclone also takes {missing:?}");
        Self { bytes }
    }
}

/// The rows of every variant: each is checked at once, and all are printed when they are there.
pub struct Rows(Mutex<BTreeMap<String, Row>>);

impl Rows {
    pub const fn new() -> Self {
        Self(Mutex::new(BTreeMap::new()))
    }

    /// One of `all`.
    pub fn add(&self, row: Row, all: usize, filesystem: &str, own_tool: &str) {
        check(&row, own_tool);
        let mut rows = self.0.lock().unwrap();
        rows.insert(row.variant.clone(), row);
        if rows.len() == all {
            let rows: Vec<Row> = std::mem::take(&mut *rows).into_values().collect();
            print_and_check(filesystem, own_tool, &rows);
        }
    }
}

/// Bytes of an image.
pub fn read_bytes(image: &Path, at: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    let file = fs::File::open(image).unwrap();
    file.read_exact_at(&mut bytes, at).unwrap();
    bytes
}

/// Damages an image.
pub fn write_bytes(image: &Path, at: u64, bytes: &[u8]) {
    let file = fs::OpenOptions::new().write(true).open(image);
    file.unwrap().write_all_at(bytes, at).unwrap();
}
