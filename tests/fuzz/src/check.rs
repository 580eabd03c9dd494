//! What must be true of the map of any disk, whatever is on it.

use super::image::SparseDisk;
use haulier::device::ReadAt;
use haulier::extent::{Extent, ExtentList};
use haulier::usedmap::{DiskInfo, DiskMap};

/// Maps the disk that `bytes` describe. Panics if the map is not a sane one; returns it so that a
/// test can say more of it.
// Public for the fuzzer, private to the test that shares this file.
#[allow(unreachable_pub)]
pub fn check(bytes: &[u8]) -> Option<DiskMap> {
    let disk = SparseDisk::parse(bytes)?;
    let size = disk.size().0;
    let info = DiskInfo {
        path: "fuzz".into(),
        size_bytes: size,
        logical_sector_bytes: disk.sector(),
        physical_sector_bytes: disk.sector(),
    };
    // Only a disk without a first sector has no map.
    let map = match DiskMap::of(&disk, info) {
        Ok(map) => map,
        Err(error) => {
            assert!(size < disk.sector().bytes(), "{error}");
            return None;
        }
    };
    let mut last = 0;
    for (nth, extent) in map.extents.iter().enumerate() {
        assert!(
            nth == 0 || extent.start().0 > last,
            "extents overlap or touch"
        );
        last = extent.end();
    }
    assert!(last <= size, "an extent ends at {last}, the disk at {size}");
    assert_eq!(map.used_bytes, map.extents.total().0);
    let regions: Vec<Extent> = map
        .regions
        .iter()
        .filter_map(haulier::usedmap::Region::extent)
        .collect();
    let covered: ExtentList = regions.into_iter().collect();
    let whole: ExtentList = Extent::between(0, size).into_iter().collect();
    assert_eq!(covered, whole, "the regions are not the disk");
    for region in &map.regions {
        assert!(region.used_bytes <= region.length_bytes, "{region:?}");
        assert!(!region.reason.is_empty(), "{region:?}");
    }
    assert!(!map.render_text().is_empty());
    Some(map)
}
