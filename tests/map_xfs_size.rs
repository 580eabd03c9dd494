//! XFS of 64 TiB is an ordinary input: block numbers of more than 32 bits, files at its far end, the
//! map found in little memory. (Alone in its file, so that the memory of this process is that of the
//! map.)
//!
//! Its disk is a sparse file on an XFS of its own, since ext4 has no files of that size.

mod map_support;

use haulier::extent::{Extent, ExtentList};
use haulier::usedmap::{Policy, State};
use map_support::mount::Mounted;
use map_support::{Noise, arg, digests, map_of, run};
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;

const TIB: u64 = 1 << 40;

/// Overwrites what is not in the map where the file has bytes of its own: elsewhere it reads as
/// zeros, and a sector every 64 GiB is written there too.
fn punch_where_it_has_bytes(image: &Path, kept: &ExtentList) -> u64 {
    let file = fs::OpenOptions::new().write(true).open(image).unwrap();
    let whole: ExtentList = Extent::between(0, 64 * TIB).into_iter().collect();
    let free = whole.subtract(kept);
    let mut punched = 0;
    let mut at = 0;
    while let Ok(start) = rustix::fs::seek(&file, rustix::fs::SeekFrom::Data(at)) {
        let end = rustix::fs::seek(&file, rustix::fs::SeekFrom::Hole(start)).unwrap();
        for hole in free.within(Extent::between(start, end).unwrap()) {
            map_support::fill(&file, hole.start().0, hole.end(), 0xA5);
            punched += hole.len().0;
        }
        at = end;
    }
    for hole in free.iter() {
        for at in (hole.start().0..hole.end()).step_by(1 << 36) {
            file.write_all_at(&[0xA5; 512], at).unwrap();
            punched += 512;
        }
    }
    punched
}

#[test]
fn a_filesystem_of_64_tib_is_mapped_in_little_memory() {
    let dir = tempfile::tempdir().unwrap();
    let outer = dir.path().join("outer.img");
    fs::File::create(&outer).unwrap().set_len(2 << 40).unwrap();
    run("mkfs.xfs", &["-q", "-K", arg(&outer)]);
    let outer = Mounted::new(&outer, &dir.path().join("outer"), "");
    let image = outer.path().join("disk.img");
    fs::File::create(&image).unwrap().set_len(64 * TIB).unwrap();
    // A log of 2 GiB would be zeroed at once.
    run(
        "mkfs.xfs",
        &["-q", "-K", "-m", "rmapbt=1", "-l", "size=64m", arg(&image)],
    );
    let inner = dir.path().join("inner");
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
    outer.unmount();
}
