//! Very many files: made by the kernel's driver, a third of them deleted, so that the free space is
//! in as many pieces.

use super::map_support::sparse::{Room, TIB, punch_where_it_has_bytes};
use super::map_support::{Noise, arg, digests, mount::Mounted, run};
use super::measure::measure;
use haulier::usedmap::State;
use rustix::fs::FallocateFlags;
use std::fs;
use std::path::Path;

/// Files a folder.
const A_FOLDER: u64 = 10_000;
/// Threads that make them.
const MAKERS: u64 = 2;

/// A filesystem that is filled.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) mkfs: &'static [&'static str],
    pub(crate) options: &'static str,
    /// How it is mounted after it was shut down and punched.
    pub(crate) reads: &'static str,
}

/// Folders of one maker.
fn make_files(at: &Path, maker: u64, files: u64) {
    let mut noise = Noise(maker + 1);
    for folder in (maker * A_FOLDER..files).step_by(usize::try_from(A_FOLDER * MAKERS).unwrap()) {
        let at = at.join(format!("d{folder}"));
        fs::create_dir(&at).unwrap();
        let names = folder..(folder + A_FOLDER).min(files);
        for number in names.clone() {
            let file = fs::File::create(at.join(number.to_string())).unwrap();
            // Room of its own, not written: what it holds matters to the map no more than that.
            let blocks = 1 + noise.below(3);
            rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, blocks * 4096).unwrap();
        }
        for number in names.filter(|number| number % 3 == 1) {
            fs::remove_file(at.join(number.to_string())).unwrap();
        }
    }
}

/// Files with content, for their digests.
fn make_told_files(at: &Path, from: u64) {
    let mut noise = Noise(from);
    let at = at.join("told");
    fs::create_dir_all(&at).unwrap();
    for number in from..from + 200 {
        let len = 1 + noise.below(60_000);
        fs::write(at.join(number.to_string()), noise.bytes(len)).unwrap();
    }
    for number in (from..from + 200).step_by(3) {
        fs::remove_file(at.join(number.to_string())).unwrap();
    }
}

/// Fills 64 TiB with `files` files; maps it while it is mounted (as the power goes) and after it was
/// shut down; punches both and reads them again.
pub(crate) fn fill_and_measure(case: &Case, files: u64) {
    let room = Room::new();
    let image = room.file("disk.img", 64 * TIB);
    run(case.mkfs[0], &[&case.mkfs[1..], &[arg(&image)]].concat());
    let inner = room.mount_point();
    let mounted = Mounted::new(&image, &inner, case.options);
    make_told_files(mounted.path(), 1000);
    std::thread::scope(|scope| {
        for maker in 0..MAKERS {
            let at = mounted.path();
            scope.spawn(move || make_files(at, maker, files));
        }
    });
    run("sync", &["-f", arg(mounted.path())]);
    make_told_files(mounted.path(), 2000);
    let told = mounted.path().join("told");
    for entry in fs::read_dir(&told).unwrap() {
        fs::File::open(entry.unwrap().path())
            .unwrap()
            .sync_all()
            .unwrap();
    }
    let dirty = room.copy(&image, "dirty.img");
    let expected = digests(&told);
    mounted.unmount();

    for (image, state) in [(&dirty, State::Dirty), (&image, State::Clean)] {
        let how = if state == State::Dirty {
            "not shut down"
        } else {
            "shut down"
        };
        let what = format!("{}, 64 TiB, {files} files, {how}", case.name);
        let map = measure(&what, image).map;
        assert_eq!(
            map.regions[0].state,
            Some(state),
            "{}",
            map.regions[0].reason
        );
        let punched = punch_where_it_has_bytes(image, &map.extents);
        assert!(punched > 1 << 18, "only {punched} bytes were overwritten");
        let options = if state == State::Dirty {
            ""
        } else {
            case.reads
        };
        let mounted = Mounted::new(image, &inner, options);
        assert_eq!(digests(&mounted.path().join("told")), expected, "{what}");
        mounted.unmount();
    }
    room.unmount();
}
