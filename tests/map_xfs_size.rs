//! XFS of 64 TiB is an ordinary input: block numbers of more than 32 bits, files at its far end, the
//! map found in little memory. (Alone in its file, so that the memory of this process is that of the
//! map.)
//!
//! Its disk is a sparse file on an XFS of its own, since ext4 has no files of that size.

mod map_support;

use haulier::usedmap::{Policy, State};
use map_support::mount::Mounted;
use map_support::sparse::{Room, TIB, punch_where_it_has_bytes};
use map_support::{Noise, arg, digests, map_of, run};
use std::fs;

#[test]
fn a_filesystem_of_64_tib_is_mapped_in_little_memory() {
    let room = Room::new();
    let image = room.file("disk.img", 64 * TIB);
    // A log of 2 GiB would be zeroed at once.
    run(
        "mkfs.xfs",
        &["-q", "-K", "-m", "rmapbt=1", "-l", "size=64m", arg(&image)],
    );
    let inner = room.mount_point();
    let mounted = Mounted::new(&image, &inner, "inode64");
    // Each new folder goes to another group.
    let mut noise = Noise(7);
    for folder in 0..130 {
        let folder = mounted.path().join(format!("d{folder}"));
        fs::create_dir(&folder).unwrap();
        for number in 0..3 {
            let len = 1 + noise.below(100_000);
            fs::write(folder.join(format!("f{number}")), noise.bytes(len)).unwrap();
        }
    }
    run("sync", &["-f", arg(mounted.path())]);
    for folder in (0..130).step_by(2) {
        fs::remove_file(mounted.path().join(format!("d{folder}/f1"))).unwrap();
    }
    let files = digests(mounted.path());
    mounted.unmount();

    let before = std::time::Instant::now();
    let map = map_of(&image);
    println!("{:?} for the map", before.elapsed());
    let region = &map.regions[0];
    assert_eq!(region.policy, Policy::UsedBlocks, "{}", region.reason);
    assert_eq!(region.state, Some(State::Clean));
    let field = |place: &str, name: &str| -> u64 {
        let print = format!("p {name}");
        let printed = run("xfs_db", &["-r", "-c", place, "-c", &print, arg(&image)]);
        printed.rsplit('=').next().unwrap().trim().parse().unwrap()
    };
    let groups = field("sb 0", "agcount");
    let free: u64 = (0..groups)
        .map(|group| field(&format!("agf {group}"), "freeblks"))
        .sum();
    assert_eq!(region.used_bytes, (field("sb 0", "dblocks") - free) * 4096);
    let last = map.extents.iter().last().unwrap();
    assert!(last.end() > 63 * TIB, "nothing is at its far end");
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

    let punched = punch_where_it_has_bytes(&image, &map.extents);
    assert!(punched > 1 << 20, "only {punched} bytes were overwritten");
    let mounted = Mounted::new(&image, &inner, "ro,norecovery");
    assert_eq!(digests(mounted.path()), files);
    mounted.unmount();
    room.unmount();
}
