//! What must be true of the maps of any disks, whatever is on them.

use super::image::SparseDisk;
use haulier::device::ReadAt;
use haulier::extent::{Extent, ExtentList};
use haulier::inventory::installed::look;
use haulier::usedmap::{DiskInfo, DiskMap, map_disks};
use haulier::volume::crypt::Secrets;

/// Opens the encrypted volumes of the corpus.
const PASSPHRASE: &str = "fuzz";

/// Maps the disks that `bytes` describe, together. Panics if a map is not a sane one; returns them
/// so that a test can say more.
// Public for the fuzzer, private to the test that shares this file.
#[allow(unreachable_pub)]
pub fn check(bytes: &[u8]) -> Option<Vec<DiskMap>> {
    let disks = SparseDisk::parse(bytes)?;
    let size = disks.first()?.size().0;
    let sector = disks.first()?.sector();
    let with_info: Vec<(&dyn ReadAt, DiskInfo)> = disks
        .iter()
        .enumerate()
        .map(|(number, disk)| {
            let info = DiskInfo {
                path: format!("fuzz{number}").into(),
                size_bytes: size,
                logical_sector_bytes: sector,
                physical_sector_bytes: sector,
            };
            (disk as &dyn ReadAt, info)
        })
        .collect();
    // Only a disk without a first sector has no map.
    let maps = match map_disks(&with_info, &Secrets::from_passphrase(PASSPHRASE)) {
        Ok(maps) => maps,
        Err(error) => {
            assert!(size < sector.bytes(), "{error}");
            return None;
        }
    };
    assert_eq!(maps.len(), disks.len());
    for map in &maps {
        check_one(map, size);
    }
    // Files are read by readers of their own; nothing in the corpus is a system.
    let found = look(&with_info, &Secrets::from_passphrase(PASSPHRASE));
    found.expect("the disks are there");
    Some(maps)
}

fn check_one(map: &DiskMap, size: u64) {
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
    map.render_brief();
    assert!(map.to_json().is_ok());
}
