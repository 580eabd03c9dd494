//! The proof for ext2/3/4: a real mke2fs makes each variant on soiled ground, it is filled, half of
//! it deleted and filled again in the holes; then every byte outside the map is overwritten, and
//! e2fsck and the digest of every file must not notice.
//!
//! Nothing is mounted, so nothing here needs root.

mod map_support;

use haulier::usedmap::DiskMap;
use map_support::oracle::used_by_dumpe2fs;
use map_support::proof::{Peer, Rows, filesystem, hole_punch, loss_is_noticed, sound_map};
use map_support::ratios::Row;
use map_support::{Noise, arg, debugfs, digests, make_tree, punch, run, soiled_file, try_run};
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use tempfile::TempDir;

const MIB: u64 = 1 << 20;
const SIZE: u64 = 96 * MIB;

/// One way to make the filesystem.
#[derive(Clone, Copy)]
struct Variant {
    name: &'static str,
    flavour: &'static str,
    mke2fs: &'static [&'static str],
    /// What is done to it once it is filled.
    after: After,
}

#[derive(Clone, Copy, PartialEq)]
enum After {
    Nothing,
    Grow,
    Shrink,
    ExternalJournal,
    /// debugfs does not keep quotas up to date.
    CountQuotas,
}

const fn variant(
    name: &'static str,
    flavour: &'static str,
    mke2fs: &'static [&'static str],
) -> Variant {
    Variant {
        name,
        flavour,
        mke2fs,
        after: After::Nothing,
    }
}

const VARIANTS: &[Variant] = &[
    variant("ext4_default", "ext4", &["-t", "ext4"]),
    variant("ext4_many_groups", "ext4", &["-t", "ext4", "-g", "1024"]),
    variant("ext2", "ext2", &["-t", "ext2"]),
    variant(
        "ext2_revision_0",
        "ext2",
        &["-t", "ext2", "-r", "0", "-O", "none"],
    ),
    variant("ext3", "ext3", &["-t", "ext3"]),
    variant("blocks_of_1_kib", "ext4", &["-t", "ext4", "-b", "1024"]),
    variant(
        "ext2_blocks_of_1_kib",
        "ext2",
        &["-t", "ext2", "-b", "1024"],
    ),
    variant("blocks_of_64_kib", "ext4", &["-t", "ext4", "-b", "65536"]),
    variant(
        "bigalloc",
        "ext4",
        &["-t", "ext4", "-O", "bigalloc", "-C", "16384"],
    ),
    variant(
        "bigalloc_many_groups",
        "ext4",
        &["-t", "ext4", "-O", "bigalloc", "-C", "65536", "-g", "4096"],
    ),
    variant(
        "bigalloc_blocks_of_1_kib",
        "ext4",
        &[
            "-t", "ext4", "-O", "bigalloc", "-b", "1024", "-C", "8192", "-g", "8192",
        ],
    ),
    variant(
        "meta_bg",
        "ext4",
        &["-t", "ext4", "-O", "meta_bg,^resize_inode", "-g", "256"],
    ),
    variant(
        "meta_bg_blocks_of_1_kib",
        "ext4",
        &[
            "-t",
            "ext4",
            "-O",
            "meta_bg,^resize_inode",
            "-b",
            "1024",
            "-g",
            "1024",
        ],
    ),
    variant(
        "no_flex_bg",
        "ext4",
        &["-t", "ext4", "-O", "^flex_bg", "-g", "2048"],
    ),
    variant(
        "no_64bit",
        "ext4",
        &["-t", "ext4", "-O", "^64bit", "-g", "2048"],
    ),
    variant(
        "uninit_bg",
        "ext4",
        &["-t", "ext4", "-O", "^metadata_csum,uninit_bg", "-g", "2048"],
    ),
    variant(
        "uninit_bg_no_64bit",
        "ext4",
        &[
            "-t",
            "ext4",
            "-O",
            "^metadata_csum,uninit_bg,^64bit",
            "-g",
            "2048",
        ],
    ),
    variant(
        "uninit_bg_no_flex_bg",
        "ext4",
        &[
            "-t",
            "ext4",
            "-O",
            "^metadata_csum,uninit_bg,^flex_bg",
            "-g",
            "2048",
        ],
    ),
    variant(
        "no_checksums",
        "ext4",
        &["-t", "ext4", "-O", "^metadata_csum,^uninit_bg"],
    ),
    variant(
        "checksum_seed",
        "ext4",
        &["-t", "ext4", "-O", "metadata_csum_seed"],
    ),
    variant(
        "sparse_super2",
        "ext4",
        &[
            "-t",
            "ext4",
            "-O",
            "sparse_super2,^resize_inode",
            "-g",
            "2048",
        ],
    ),
    variant(
        "no_sparse_super",
        "ext4",
        &[
            "-t",
            "ext4",
            "-O",
            "^sparse_super,^resize_inode",
            "-g",
            "2048",
        ],
    ),
    variant("no_journal", "ext4", &["-t", "ext4", "-O", "^has_journal"]),
    Variant {
        name: "many_features",
        flavour: "ext4",
        mke2fs: &[
            "-t",
            "ext4",
            "-O",
            "inline_data,ea_inode,large_dir,quota,project,mmp,casefold,encrypt,verity,fast_commit,stable_inodes",
            "-I",
            "512",
        ],
        after: After::CountQuotas,
    },
    variant(
        "orphan_file",
        "ext4",
        // mke2fs 1.47.0 cannot make one over an inode table that it has not zeroed.
        &[
            "-t",
            "ext4",
            "-O",
            "orphan_file",
            "-E",
            "nodiscard,lazy_itable_init=0",
        ],
    ),
    Variant {
        name: "grown",
        flavour: "ext4",
        mke2fs: &["-t", "ext4", "-g", "2048"],
        after: After::Grow,
    },
    Variant {
        name: "grown_beyond_its_reserve",
        flavour: "ext4",
        mke2fs: &[
            "-t",
            "ext4",
            "-b",
            "1024",
            "-g",
            "1024",
            "-E",
            "nodiscard,lazy_itable_init=1,resize=90000",
        ],
        after: After::Grow,
    },
    Variant {
        name: "shrunk",
        flavour: "ext4",
        mke2fs: &["-t", "ext4"],
        after: After::Shrink,
    },
    Variant {
        name: "external_journal",
        flavour: "ext4",
        mke2fs: &["-t", "ext4", "-O", "^has_journal"],
        after: After::ExternalJournal,
    },
];

/// A filled filesystem in a file.
struct Fixture {
    dir: TempDir,
    image: PathBuf,
    files: BTreeMap<PathBuf, String>,
    after: After,
}

impl Fixture {
    fn make(variant: Variant) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("disk.img");
        let mut noise = Noise(0x9E37_79B9_7F4A_7C15);
        let tree = dir.path().join("tree");
        make_tree(&tree, &mut noise, 18 * MIB);
        let made = if variant.after == After::Grow {
            SIZE / 2
        } else {
            SIZE
        };
        soiled_file(&image, made, 0xEE);
        let mut args = vec!["-q", "-F", "-F"];
        args.extend(variant.mke2fs);
        // Without a word mke2fs takes 1 KiB for something as small as this.
        if !args.contains(&"-b") {
            args.extend(["-b", "4096"]);
        }
        // As mkfs leaves a real disk: nothing discarded, inode tables not zeroed.
        if !args.contains(&"-E") {
            args.extend(["-E", "nodiscard,lazy_itable_init=1"]);
        }
        args.extend([
            "-L",
            variant.name.get(..16).unwrap_or(variant.name),
            "-d",
            arg(&tree),
            arg(&image),
        ]);
        run("mke2fs", &args);

        // Delete every second file, write larger ones into the holes, delete half of those.
        let names: Vec<PathBuf> = digests(&tree).into_keys().collect();
        let mut commands: Vec<String> = names
            .iter()
            .step_by(2)
            .map(|name| format!("rm /{}", name.display()))
            .collect();
        for number in 0..30 {
            let source = dir.path().join(format!("w{number}"));
            let len = 1 + noise.below(MIB);
            fs::write(&source, noise.bytes(len)).unwrap();
            commands.push(format!("write {} w{number}", source.display()));
        }
        commands.extend((0..30).step_by(2).map(|number| format!("rm /w{number}")));
        debugfs(&image, dir.path(), &commands);
        let fixture = Self {
            files: BTreeMap::new(),
            image,
            dir,
            after: variant.after,
        };
        fixture.apply(variant.after);
        fixture.check("before the map is taken");
        let files = fixture.read_files();
        assert!(
            files.len() > 30,
            "too few files to prove anything: {}",
            files.len()
        );
        Self { files, ..fixture }
    }

    fn apply(&self, after: After) {
        let image = arg(&self.image);
        match after {
            After::Nothing => {}
            After::Grow => {
                let file = fs::OpenOptions::new()
                    .write(true)
                    .open(&self.image)
                    .unwrap();
                map_support::fill(&file, SIZE / 2, SIZE, 0xEE);
                run("e2fsck", &["-fp", image]);
                run("resize2fs", &[image]);
            }
            After::Shrink => {
                run("e2fsck", &["-fp", image]);
                run("resize2fs", &[image, "64M"]);
            }
            After::CountQuotas => {
                let output = try_run("e2fsck", &["-fp", image]);
                assert_eq!(
                    output.status.code(),
                    Some(1),
                    "e2fsck had quotas to correct"
                );
            }
            After::ExternalJournal => {
                // mke2fs wants a block device for this; the superblock says it in four fields.
                let journal = self.journal();
                soiled_file(&journal, 8 * MIB, 0);
                run(
                    "mke2fs",
                    &[
                        "-q",
                        "-F",
                        "-F",
                        "-O",
                        "journal_dev",
                        "-b",
                        "4096",
                        arg(&journal),
                    ],
                );
                let uuid_of = |path: &str| {
                    run("dumpe2fs", &["-h", path])
                        .lines()
                        .find_map(|line| line.strip_prefix("Filesystem UUID:"))
                        .map(|uuid| uuid.trim().to_owned())
                        .expect("dumpe2fs shows a UUID")
                };
                debugfs(
                    &self.image,
                    self.dir.path(),
                    &[
                        "feature has_journal".into(),
                        format!("set_super_value journal_uuid {}", uuid_of(arg(&journal))),
                        "set_super_value journal_dev 0x700".into(),
                    ],
                );
                // The journal's superblock lists its users: one, at 0x100 of the block behind.
                let file = fs::OpenOptions::new().write(true).open(&journal).unwrap();
                use std::os::unix::fs::FileExt;
                file.write_all_at(&1_u32.to_be_bytes(), 4096 + 0x40)
                    .unwrap();
                let uuid: uuid::Uuid = uuid_of(image).parse().unwrap();
                file.write_all_at(uuid.as_bytes(), 4096 + 0x100).unwrap();
            }
        }
    }

    fn journal(&self) -> PathBuf {
        self.dir.path().join("journal.img")
    }

    /// The filesystem's own checker finds nothing, in every file, folder and bitmap.
    fn check(&self, when: &str) {
        let journal = self.journal();
        let mut args = vec!["-f", "-n"];
        if self.after == After::ExternalJournal {
            args.extend(["-j", arg(&journal)]);
        }
        args.push(arg(&self.image));
        let output = try_run("e2fsck", &args);
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success() && !said.contains("WARNING"),
            "e2fsck {when}: {said}"
        );
    }

    fn read_files(&self) -> BTreeMap<PathBuf, String> {
        let out = tempfile::tempdir_in(self.dir.path()).unwrap();
        let output = try_run(
            "debugfs",
            &[
                "-R",
                &format!("rdump / {}", arg(out.path())),
                arg(&self.image),
            ],
        );
        assert!(output.status.success());
        // Whoever is not root cannot give the files to root, which is all that may fail.
        for line in String::from_utf8_lossy(&output.stderr).lines().skip(1) {
            assert!(line.contains("changing ownership"), "debugfs rdump: {line}");
        }
        digests(out.path())
    }
}

fn survives_with_only_its_used_blocks(variant: Variant) {
    let fixture = Fixture::make(variant);
    let label = variant.name.get(..16).unwrap_or(variant.name);
    let map = sound_map(&fixture.image, variant.flavour, Some(label));
    if variant.name.starts_with("uninit_bg") {
        let groups = run("dumpe2fs", &[arg(&fixture.image)]);
        assert!(
            groups.contains("BLOCK_UNINIT"),
            "every group has its bitmap"
        );
    }
    is_tight(variant, &fixture, &map);
    // The tail behind a shrunk filesystem is soiled, so it is taken; it is free all the same.
    let kept = map.extents.subtract(map.nonzero_only());
    punch(&fixture.image, &kept);
    fixture.check("after everything outside the map was overwritten");
    assert_eq!(fixture.read_files(), fixture.files);
}

hole_punch! {
    survives_with_only_its_used_blocks:
    ext4_default ext4_many_groups ext2 ext2_revision_0 ext3 blocks_of_1_kib ext2_blocks_of_1_kib
    blocks_of_64_kib bigalloc bigalloc_many_groups bigalloc_blocks_of_1_kib meta_bg
    meta_bg_blocks_of_1_kib no_flex_bg no_64bit uninit_bg uninit_bg_no_64bit uninit_bg_no_flex_bg
    no_checksums checksum_seed sparse_super2 no_sparse_super no_journal many_features orphan_file grown
    grown_beyond_its_reserve shrunk external_journal
}

/// The proof can fail: a single block missing from the map is noticed.
#[test]
fn a_lost_block_is_noticed() {
    let blocks = |command: &str, fixture: &Fixture| -> u64 {
        let output = try_run("debugfs", &["-R", command, arg(&fixture.image)]);
        let text = String::from_utf8_lossy(&output.stdout);
        text.split_whitespace().next().unwrap().parse().unwrap()
    };
    let variant = VARIANTS[0];
    let notices = |lost: &dyn Fn(&Fixture) -> u64| {
        let fixture = Fixture::make(variant);
        let start = lost(&fixture) * 4096;
        loss_is_noticed(&fixture.image, (start, start + 4096), || {
            let checker = try_run("e2fsck", &["-f", "-n", arg(&fixture.image)]).status;
            checker.success() && fixture.read_files() == fixture.files
        })
    };
    assert!(
        notices(&|fixture| blocks("blocks /w1", fixture)),
        "data of a file"
    );
    assert!(
        notices(&|fixture| blocks("blocks /", fixture)),
        "the root directory"
    );
    assert!(notices(&|_| 1), "the group descriptors");
}

/// The used bytes of every variant beside what others say, printed once all are there.
static ROWS: Rows = Rows::new();

/// Copying everything is no way out: not more than dumpe2fs calls used, and not less than partclone
/// would copy.
fn is_tight(variant: Variant, fixture: &Fixture, map: &DiskMap) {
    let peer = Peer::asked("partclone.extfs", &fixture.image, fixture.dir.path(), map);
    // partclone 0.3.23 dies on bigalloc: a peer there is welcome, not needed.
    assert!(
        variant.name.starts_with("bigalloc") || peer.bytes.is_some(),
        "partclone refuses what we map"
    );
    let row = Row {
        variant: variant.name.into(),
        haulier: filesystem(map).used_bytes,
        own: used_by_dumpe2fs(&fixture.image),
        uncounted: 0,
        partclone: peer.bytes,
    };
    ROWS.add(row, VARIANTS.len(), "ext", "dumpe2fs");
}
