//! A filesystem of 15 TiB is an ordinary input: the map is found in little memory. (Alone in its
//! file, so that the memory of this process is that of the map.)

mod map_support;

use haulier::usedmap::Policy;
use map_support::{arg, map_of, run};
use std::fs;

#[test]
fn a_filesystem_of_15_tib_is_mapped_in_little_memory() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("disk.img");
    // As large as a file on ext4 may be.
    fs::File::create(&image).unwrap().set_len(15 << 40).unwrap();
    run(
        "mke2fs",
        &[
            "-q",
            "-F",
            "-t",
            "ext4",
            "-T",
            "largefile4",
            "-O",
            "^resize_inode,^has_journal",
            "-E",
            "nodiscard,lazy_itable_init=1",
            arg(&image),
        ],
    );
    let map = map_of(&image);
    assert_eq!(
        map.regions[0].policy,
        Policy::UsedBlocks,
        "{}",
        map.regions[0].reason
    );
    let header = run("dumpe2fs", &["-h", arg(&image)]);
    let field = |name: &str| -> u64 {
        let line = header.lines().find_map(|line| line.strip_prefix(name));
        line.expect(name).trim().parse().unwrap()
    };
    let used = (field("Block count:") - field("Free blocks:")) * 4096;
    assert_eq!(map.used_bytes, used);
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let peak = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .unwrap();
    let kib: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    println!(
        "{} extents, {} MiB of memory at most",
        map.extents.len(),
        kib / 1024
    );
    assert!(kib < 256 * 1024, "{kib} KiB");
}
