//! One proof for all: see `prove`.

use crate::map_support::ratios::Row;
use crate::map_support::uml::run_in_uml;
use crate::map_support::{Noise, arg, digests, fill, make_tree, map_of, punch};
use haulier::extent::ExtentList;
use haulier::usedmap::{DiskMap, Policy, Region, RegionKind, State};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

pub(crate) const MIB: u64 = 1 << 20;

/// How a filesystem is made, mounted and checked.
pub(crate) struct Kind {
    /// As `mount -t` and our map call it.
    pub(crate) driver: &'static str,
    pub(crate) name: &'static str,
    pub(crate) modules: &'static [&'static str],
    /// Whether our map tells its UUID.
    pub(crate) has_uuid: bool,
    /// Options of the mount that writes.
    pub(crate) options: &'static str,
    /// Makes it in a file of soiled ground, with these additional arguments.
    pub(crate) make: fn(image: &Path, args: &[&str]),
    /// Fails unless its checker finds nothing at all.
    pub(crate) check: fn(image: &Path, when: &str),
}

/// A filled filesystem in a file.
pub(crate) struct Fixture {
    pub(crate) dir: TempDir,
    pub(crate) image: PathBuf,
    pub(crate) files: BTreeMap<PathBuf, String>,
    kind: &'static Kind,
}

impl Fixture {
    /// An empty one.
    pub(crate) fn empty(kind: &'static Kind, size: u64, args: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("disk.img");
        crate::map_support::soiled_file(&image, size, 0xEE);
        (kind.make)(&image, args);
        Self {
            files: BTreeMap::new(),
            image,
            dir,
            kind,
        }
    }

    /// One that was filled, half deleted, and filled again in the holes.
    pub(crate) fn filled(kind: &'static Kind, size: u64, args: &[&str]) -> Self {
        let mut fixture = Self::empty(kind, size, args);
        let mut noise = Noise(0x9E37_79B9_7F4A_7C15);
        let tree = fixture.dir.path().join("tree");
        make_tree(&tree.join("first"), &mut noise, size / 5);
        // Names and no content: they fill directories and tables of inodes.
        fs::create_dir(tree.join("first/empty")).unwrap();
        for number in 0..400 {
            let long = format!("first/empty/{number:03}_{}", "n".repeat(number % 90));
            fs::write(tree.join(long), "").unwrap();
        }
        make_tree(&tree.join("second"), &mut noise, size / 8);
        let list = fixture.dir.path().join("delete");
        let mut doomed = String::new();
        for half in ["first", "second"] {
            let names: Vec<PathBuf> = digests(&tree.join(half)).into_keys().collect();
            for name in names.iter().step_by(2) {
                doomed += &format!("{half}/{}\n", name.display());
            }
        }
        fs::write(&list, &doomed).unwrap();
        let source = arg(&tree);
        fixture.uml(&format!(
            "cp -r {source}/first /mnt/fs\n\
             sync\n\
             cd /mnt/fs\n\
             grep ^first {list} | xargs -d '\\n' rm\n\
             sync\n\
             cp -r {source}/second /mnt/fs\n\
             sync\n\
             grep ^second {list} | xargs -d '\\n' rm\n\
             cd /\n\
             umount /mnt/fs",
            list = arg(&list)
        ));
        for name in doomed.lines() {
            fs::remove_file(tree.join(name)).unwrap();
        }
        fixture.files = digests(&tree);
        assert!(
            fixture.files.len() > 200,
            "too few files to prove anything: {}",
            fixture.files.len()
        );
        fixture
    }

    /// One that holds these files, each of so many bytes, and nothing else.
    pub(crate) fn holding(
        kind: &'static Kind,
        size: u64,
        args: &[&str],
        files: &[(&str, u64)],
    ) -> Self {
        let mut fixture = Self::empty(kind, size, args);
        let mut noise = Noise(0x0BAD_5EED_0BAD_5EED);
        let tree = fixture.dir.path().join("tree");
        for folder in ["first", "second"] {
            fs::create_dir_all(tree.join(folder)).unwrap();
        }
        for (name, len) in files {
            fs::write(tree.join("first").join(name), noise.bytes(*len)).unwrap();
        }
        fixture.uml(&format!(
            "cp -r {source}/first {source}/second /mnt/fs\numount /mnt/fs",
            source = arg(&tree)
        ));
        fixture.files = digests(&tree);
        fixture
    }

    /// Mounts it in a machine of its own and runs these lines there.
    pub(crate) fn uml(&self, script: &str) -> String {
        let Kind {
            driver,
            modules,
            options,
            ..
        } = self.kind;
        let mount = format!("mount -t {driver} -o {options} /mnt/dev/ubda /mnt/fs\n");
        run_in_uml(&self.image, self.dir.path(), modules, &(mount + script))
    }

    /// What a real driver reads: every file, by its path.
    pub(crate) fn read_files(&self) -> BTreeMap<PathBuf, String> {
        let sums = self.dir.path().join("sums");
        self.uml(&format!(
            "cd /mnt/fs\nfind first second -type f -print0 | xargs -0 sha256sum > {}\ncd /\n\
             umount /mnt/fs",
            arg(&sums)
        ));
        let text = fs::read_to_string(&sums).unwrap();
        text.lines()
            .map(|line| line.split_once("  ").expect("sha256sum shows two columns"))
            .map(|(digest, name)| (PathBuf::from(name), digest.to_owned()))
            .collect()
    }

    /// What its driver calls used, in bytes.
    pub(crate) fn used_by_driver(&self) -> u64 {
        let said = self.uml("echo STAT $(stat -f -c '%S %b %f' /mnt/fs)\numount /mnt/fs");
        let numbers: Vec<u64> = said
            .lines()
            .find_map(|line| line.strip_prefix("STAT "))
            .expect("stat shows a line")
            .split(' ')
            .map(|number| number.trim().parse().unwrap())
            .collect();
        numbers[0] * (numbers[1] - numbers[2])
    }

    pub(crate) fn map(&self) -> DiskMap {
        map_of(&self.image)
    }

    /// What is said of it while these bytes are written over it.
    pub(crate) fn patched(&self, patches: &[(u64, &[u8])]) -> (Option<State>, Policy, String) {
        let file = fs::OpenOptions::new()
            .write(true)
            .open(&self.image)
            .unwrap();
        let undo: Vec<(u64, Vec<u8>)> = patches
            .iter()
            .map(|(at, bytes)| (*at, self.bytes(*at, bytes.len())))
            .collect();
        for (at, bytes) in patches {
            file.write_all_at(bytes, *at).unwrap();
        }
        let said = verdict(&self.map());
        for (at, bytes) in undo.iter().rev() {
            file.write_all_at(bytes, *at).unwrap();
        }
        said
    }

    pub(crate) fn bytes(&self, at: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        let file = fs::File::open(&self.image).unwrap();
        file.read_exact_at(&mut bytes, at).unwrap();
        bytes
    }
}

pub(crate) fn filesystem(map: &DiskMap) -> &Region {
    map.regions
        .iter()
        .find(|region| region.kind == RegionKind::Filesystem)
        .expect("the filesystem was not recognised")
}

pub(crate) fn verdict(map: &DiskMap) -> (Option<State>, Policy, String) {
    let region = filesystem(map);
    (region.state, region.policy, region.reason.clone())
}

/// Refused, in this state and with these words in the reason.
#[track_caller]
pub(crate) fn refused(said: (Option<State>, Policy, String), state: State, words: &str) {
    assert_eq!(said.0, Some(state), "{}", said.2);
    assert_eq!(said.1, Policy::CopyNonzero, "{}", said.2);
    assert!(said.2.contains(words), "{}", said.2);
}

/// Everything outside the map is overwritten: its checker and its driver must not notice. Returns
/// what the map took and, for the table, what partclone would take.
pub(crate) fn prove(fixture: &Fixture, label: Option<&str>, partclone: Option<&str>) -> Row {
    (fixture.kind.check)(&fixture.image, "before the map is taken");
    let map = fixture.map();
    let region = filesystem(&map);
    assert_eq!(region.policy, Policy::UsedBlocks, "{}", region.reason);
    assert_eq!(region.state, Some(State::Clean));
    assert_eq!(region.filesystem.as_deref(), Some(fixture.kind.name));
    assert_eq!(region.label.as_deref(), label);
    let probed = crate::map_support::try_run(
        "blkid",
        &["-p", "-o", "value", "-s", "UUID", arg(&fixture.image)],
    );
    let probed = String::from_utf8_lossy(&probed.stdout).trim().to_owned();
    if fixture.kind.has_uuid {
        assert_eq!(region.uuid.as_deref(), Some(probed.as_str()), "as blkid");
    }
    let peer = partclone.and_then(|program| {
        crate::map_support::oracle::used_by_partclone(program, &fixture.image, fixture.dir.path())
    });
    // Where nothing is known of what lies behind the filesystem, it is taken if it is not zero.
    punch(&fixture.image, &map.extents.subtract(map.nonzero_only()));
    (fixture.kind.check)(
        &fixture.image,
        "after everything outside the map was overwritten",
    );
    if !fixture.files.is_empty() {
        assert_eq!(fixture.read_files(), fixture.files);
        (fixture.kind.check)(&fixture.image, "after its driver used it");
    }
    Row {
        variant: String::new(),
        haulier: region.used_bytes,
        own: 0,
        uncounted: 0,
        partclone: peer.map(|list: ExtentList| list.total().0),
    }
}

/// Bytes of a metadata area change at random: whatever is said, it is said quickly, without a
/// panic, and of bytes inside the volume.
pub(crate) fn survives_mutations(fixture: &Fixture, areas: &[(u64, u64)], rounds: u32) {
    let file = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(&fixture.image)
        .unwrap();
    let size = file.metadata().unwrap().len();
    let mut noise = Noise(0x1234_5678_9ABC_DEF1);
    let mut refused = 0;
    for _ in 0..rounds {
        let mut undo = Vec::new();
        for _ in 0..=noise.below(3) {
            let (start, end) = areas[usize::try_from(noise.below(areas.len() as u64)).unwrap()];
            let at = start + noise.below(end - start);
            let mut old = [0; 4];
            file.read_exact_at(&mut old, at).unwrap();
            undo.push((at, old));
            let new = match noise.below(4) {
                0 => [0xFF; 4],
                1 => [0; 4],
                2 => [old[0] ^ (1 << noise.below(8)), old[1], old[2], old[3]],
                _ => u32::try_from(noise.next() & 0xFFFF_FFFF)
                    .unwrap()
                    .to_le_bytes(),
            };
            file.write_all_at(&new, at).unwrap();
        }
        let begun = std::time::Instant::now();
        let map = fixture.map();
        assert!(
            begun.elapsed().as_secs() < 20,
            "it took {:?}",
            begun.elapsed()
        );
        assert!(map.extents.iter().all(|run| run.end() <= size));
        refused += u32::from(!map.regions.iter().any(|r| r.state == Some(State::Clean)));
        for (at, old) in undo.into_iter().rev() {
            file.write_all_at(&old, at).unwrap();
        }
    }
    assert!(refused > 0, "no mutation was noticed: proves nothing");
}

/// Overwrites one run of the map, which `pick` chooses, and returns whether the checker or a digest
/// noticed.
pub(crate) fn notices_loss_of(
    fixture: &Fixture,
    pick: impl FnOnce(&ExtentList) -> (u64, u64),
) -> bool {
    (fixture.kind.check)(&fixture.image, "before a block was lost");
    assert_eq!(fixture.read_files(), fixture.files);
    // Only now: mounting it has moved something.
    let (start, end) = pick(&fixture.map().extents);
    let file = fs::OpenOptions::new()
        .write(true)
        .open(&fixture.image)
        .unwrap();
    fill(&file, start, end, 0xA5);
    let check = std::panic::AssertUnwindSafe(|| {
        (fixture.kind.check)(&fixture.image, "after a block was lost");
        assert_eq!(fixture.read_files(), fixture.files);
    });
    std::panic::catch_unwind(check).is_err()
}
