//! What btrfs itself calls used, by its own tools: the extents of `dump-tree -t extent`, each as
//! often as the profile of its chunk has it.

use super::fixture::Attached;
use crate::map_support::mount::privileged;
use crate::map_support::{arg, run};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

struct Chunk {
    start: u64,
    length: u64,
    profile: String,
    stripes: u64,
}

/// Used bytes of all devices together; of RAID5 and RAID6 whole rows, sector by sector.
pub fn used_by_btrfs(images: &[PathBuf]) -> u64 {
    let attached = Attached::new(images);
    let device = &attached.loops[0];
    let dump = |tree: &str| {
        privileged(
            "btrfs",
            &["inspect-internal", "dump-tree", "-t", tree, device],
        )
    };
    let superblock = privileged("btrfs", &["inspect-internal", "dump-super", device]);
    let nodesize = superblock
        .lines()
        .find_map(|line| line.strip_prefix("nodesize"))
        .and_then(|value| value.trim().parse().ok())
        .expect("dump-super shows the size of a node");
    let chunks = chunks(&dump("chunk"));
    let mut used = 0;
    let mut rows = BTreeSet::new();
    for (start, length) in extents(&dump("extent"), nodesize) {
        let chunk = chunks
            .iter()
            .find(|chunk| chunk.start <= start && start < chunk.start + chunk.length)
            .expect("every extent is in a chunk");
        let parity = match chunk.profile.as_str() {
            "RAID5" => 1,
            "RAID6" => 2,
            "single" | "RAID0" => {
                used += length;
                continue;
            }
            "DUP" | "RAID1" | "RAID10" => {
                used += 2 * length;
                continue;
            }
            "RAID1C3" => {
                used += 3 * length;
                continue;
            }
            "RAID1C4" => {
                used += 4 * length;
                continue;
            }
            other => panic!("dump-tree shows the profile {other}"),
        };
        let columns = chunk.stripes - parity;
        for sector in (start..start + length).step_by(4096) {
            let sector = (sector - chunk.start) / 4096;
            let row = sector / 16 / columns;
            if rows.insert((chunk.start, row, sector % 16)) {
                used += 4096 * chunk.stripes;
            }
        }
    }
    used
}

/// Where on its only device some extent of data, or some leaf of a subvolume, is.
pub fn place_of_some_extent(image: &Path, tree: bool) -> u64 {
    let image = arg(image);
    let logical = if tree {
        let dump = run(
            "btrfs",
            &["inspect-internal", "dump-tree", "-t", "5", image],
        );
        let leaf = dump.lines().find_map(|line| line.strip_prefix("leaf "));
        let leaf = leaf.expect("the subvolume has a leaf");
        leaf.split(' ').next().unwrap().to_owned()
    } else {
        let dump = run(
            "btrfs",
            &["inspect-internal", "dump-tree", "-t", "5", image],
        );
        // "extent data disk byte 13631488 nr 4096", 0 for a hole.
        let disk_byte = |line: &str| {
            let rest = line.trim().strip_prefix("extent data disk byte ")?;
            let logical = rest.split(' ').next()?;
            (logical != "0").then(|| logical.to_owned())
        };
        dump.lines().find_map(disk_byte).expect("a file has data")
    };
    physical(image, &logical)[0]
}

/// Where the copies of a logical byte are on the only device.
pub fn physical(image: &str, logical: &str) -> Vec<u64> {
    let said = run("btrfs-map-logical", &["-l", logical, "-b", "4096", image]);
    let places: Vec<u64> = said
        .lines()
        .filter(|line| line.starts_with("mirror "))
        .filter_map(|line| line.split_once("physical ")?.1.split(' ').next())
        .map(|number| number.parse().unwrap())
        .collect();
    assert!(!places.is_empty(), "btrfs-map-logical says: {said}");
    places
}

/// The objectid and the offset of an item's key, if it is of that type.
fn key(line: &str, kind: &str) -> Option<(u64, u64)> {
    let line = line.trim().strip_prefix("item ")?;
    let key = line.split_once("key (")?.1.split_once(')')?.0;
    let words: Vec<&str> = key.split(' ').collect();
    let [objectid, found, offset] = words.as_slice() else {
        return None;
    };
    // The chunk tree's objectid is a name.
    (*found == kind).then(|| (objectid.parse().unwrap_or(0), offset.parse().unwrap()))
}

fn extents(dump: &str, nodesize: u64) -> Vec<(u64, u64)> {
    dump.lines()
        .filter_map(|line| {
            key(line, "EXTENT_ITEM")
                .or_else(|| key(line, "METADATA_ITEM").map(|(start, _)| (start, nodesize)))
        })
        .collect()
}

fn chunks(dump: &str) -> Vec<Chunk> {
    let mut chunks: Vec<Chunk> = Vec::new();
    for line in dump.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        if let Some((_, start)) = key(line, "CHUNK_ITEM") {
            chunks.push(Chunk {
                start,
                length: 0,
                profile: String::new(),
                stripes: 0,
            });
        } else if let (Some(chunk), ["length", length, .., "type", kind]) =
            (chunks.last_mut(), words.as_slice())
        {
            chunk.length = length.parse().unwrap();
            chunk.profile = kind.rsplit('|').next().unwrap().to_owned();
        } else if let (Some(chunk), ["num_stripes", stripes, ..]) =
            (chunks.last_mut(), words.as_slice())
        {
            chunk.stripes = stripes.parse().unwrap();
        }
    }
    chunks
}
