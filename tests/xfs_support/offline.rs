//! Filesystems that nobody mounts: mkfs.xfs fills them from a prototype, xfs_repair frees what
//! xfs_db has broken on purpose, xfs_db says where the files are.

use super::{After, Fixture, Variant, mkfs};
use crate::map_support::{Noise, arg, run, soiled_file, try_run};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

const FILES: u64 = 120;

pub fn make(fixture: &Fixture, variant: Variant) {
    let dir = fixture.dir.path();
    let mut noise = Noise(0x9E37_79B9_7F4A_7C15);
    // A prototype: boot file, blocks and inodes (ignored), then the tree.
    let mut prototype = "/\n0 0\nd--755 0 0\n".to_owned();
    for folder in 0..4 {
        prototype += &format!("d{folder} d--755 0 0\n");
        for number in (folder..FILES).step_by(4) {
            let source = dir.join(format!("f{number}"));
            let most = 1 << noise.below(19);
            let len = 1 + noise.below(most);
            fs::write(&source, noise.bytes(len)).unwrap();
            prototype += &format!("f{number} ---644 0 0 {}\n", arg(&source));
        }
        prototype += "$\n";
    }
    prototype += "$\n";
    let prototype_file = dir.join("prototype");
    fs::write(&prototype_file, prototype).unwrap();
    let realtime = fixture.realtime();
    let realtime_option = format!("rtdev={}", arg(&realtime));
    let mut more = vec![
        "-L",
        variant.name.get(..12).unwrap_or(variant.name),
        "-p",
        arg(&prototype_file),
    ];
    if variant.after == After::OfflineRealtime {
        soiled_file(&realtime, 32 << 20, 0xEE);
        more.extend(["-r", &realtime_option]);
    }
    mkfs(variant.mkfs, &more, &fixture.image);
    thin_out(fixture);
}

/// Makes every second file an inode of no type; xfs_repair drops it and frees its blocks.
fn thin_out(fixture: &Fixture) {
    let mut commands: Vec<String> = Vec::new();
    for number in (0..FILES).step_by(2) {
        commands.push(format!("path /d{}/f{number}", number % 4));
        commands.push("write -d core.mode 0".into());
    }
    let mut args = vec!["-x"];
    for command in &commands {
        args.extend(["-c", command]);
    }
    args.push(arg(&fixture.image));
    run("xfs_db", &args);
    let realtime = fixture.realtime();
    let mut args = vec!["-f"];
    if fixture.after == After::OfflineRealtime {
        args.extend(["-r", arg(&realtime)]);
    }
    args.push(arg(&fixture.image));
    let output = try_run("xfs_repair", &args);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "xfs_repair: {said}");
}

/// The digest of every file that is left.
pub fn read_files(fixture: &Fixture) -> BTreeMap<PathBuf, String> {
    let paths: Vec<String> = (1..FILES)
        .step_by(2)
        .map(|number| format!("/d{}/f{number}", number % 4))
        .collect();
    let names: Vec<&str> = paths.iter().map(String::as_str).collect();
    let places = places_of(&fixture.image, &names);
    let image = fs::File::open(&fixture.image).unwrap();
    paths
        .iter()
        .zip(places)
        .map(|(path, place)| (PathBuf::from(path), digest_of(&image, path, &place)))
        .collect()
}

/// Where a file's data is.
pub struct Place {
    size: u64,
    /// First byte and number of bytes of each piece, in its order.
    pub extents: Vec<(u64, u64)>,
}

fn digest_of(image: &fs::File, path: &str, place: &Place) -> String {
    let mut content = Vec::new();
    for &(start, bytes) in &place.extents {
        let mut piece = vec![0; usize::try_from(bytes).unwrap()];
        image.read_exact_at(&mut piece, start).unwrap();
        content.extend(piece);
    }
    content.truncate(usize::try_from(place.size).unwrap());
    assert_eq!(content.len() as u64, place.size, "{path} has holes");
    Sha256::digest(content)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// Asks xfs_db once for all of them.
pub fn places_of(image: &Path, paths: &[&str]) -> Vec<Place> {
    let block_size = number_of(&xfs_db(image, &["sb 0", "p blocksize"]));
    let group_blocks = number_of(&xfs_db(image, &["sb 0", "p agblocks"]));
    let goto: Vec<String> = paths.iter().map(|path| format!("path {path}")).collect();
    let commands: Vec<&str> = goto
        .iter()
        .flat_map(|goto| [goto.as_str(), "p core.size", "bmap"])
        .collect();
    let printed = xfs_db(image, &commands);
    let mut places: Vec<Place> = Vec::new();
    for line in printed.lines() {
        if line.starts_with("core.size") {
            places.push(Place {
                size: number_of(line),
                extents: Vec::new(),
            });
            continue;
        }
        // data offset 0 startblock 24 (0/24) count 5 flag 0
        let words: Vec<&str> = line.split_whitespace().collect();
        let place = words[5].trim_matches(['(', ')']);
        let (group, block) = place.split_once('/').expect("a place in a group");
        let number = |text: &str| -> u64 { text.parse().unwrap() };
        let block = number(group) * group_blocks + number(block);
        let extent = (block * block_size, number(words[7]) * block_size);
        places.last_mut().unwrap().extents.push(extent);
    }
    assert_eq!(places.len(), paths.len(), "xfs_db did not find all files");
    places
}

/// The first byte of the log.
pub fn log_at(image: &Path) -> u64 {
    let field = |name: &str| number_of(&xfs_db(image, &["sb 0", &format!("p {name}")]));
    let (block, bits) = (field("logstart"), field("agblklog"));
    let blocks = (block >> bits) * field("agblocks") + (block & ((1 << bits) - 1));
    blocks * field("blocksize")
}

fn number_of(printed: &str) -> u64 {
    let value = printed.rsplit('=').next().unwrap().trim();
    value.parse().unwrap_or_else(|_| panic!("{printed}"))
}

fn xfs_db(image: &Path, commands: &[&str]) -> String {
    let mut args = vec!["-r"];
    for command in commands {
        args.extend(["-c", command]);
    }
    args.push(arg(image));
    run("xfs_db", &args)
}
