//! The proof for NTFS: a real mkntfs makes each variant on soiled ground, ntfs-3g fills it, deletes
//! half and fills again in the holes; then every byte outside the map is overwritten, and neither
//! the cluster accounting of ntfsresize nor the digest of any file may notice.
//!
//! Mounting is done by FUSE on a loop device, by root or with sudo.

mod map_support;

#[path = "map_ntfs/damage.rs"]
mod damage;
#[path = "map_ntfs/hibernation.rs"]
mod hibernation;
#[path = "map_ntfs/journal.rs"]
mod journal;
#[path = "map_ntfs/raw.rs"]
mod raw;

use haulier::extent::{Extent, ExtentList};
use haulier::usedmap::DiskMap;
use map_support::mount::Mounted;
use map_support::proof::{
    Peer, Rows, filesystem, fill_and_thin_out, hole_punch, loss_is_noticed, sound_map,
};
use map_support::ratios::Row;
use map_support::{Noise, arg, digests, fill, punch, run, soiled_file};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

const MIB: u64 = 1 << 20;

/// One way to make the filesystem.
#[derive(Clone, Copy)]
struct Variant {
    name: &'static str,
    mkntfs: &'static [&'static str],
    mib: u64,
    content: Content,
}

#[derive(Clone, Copy, PartialEq)]
enum Content {
    Files,
    /// In a directory that compresses.
    Compressed,
    /// So many small files that the master file table grows into small holes.
    FragmentedTable,
    /// Made smaller once it is filled.
    Shrunk,
    /// Made larger once it is filled.
    Grown,
}

const fn variant(name: &'static str, mkntfs: &'static [&'static str]) -> Variant {
    Variant {
        name,
        mkntfs,
        mib: 48,
        content: Content::Files,
    }
}

const fn content(name: &'static str, content: Content) -> Variant {
    Variant {
        content,
        ..variant(name, &[])
    }
}

const VARIANTS: &[Variant] = &[
    variant("default", &[]),
    variant("clusters_of_512_bytes", &["-c", "512"]),
    variant("clusters_of_1_kib", &["-c", "1024"]),
    variant("clusters_of_64_kib", &["-c", "65536"]),
    Variant {
        mib: 128,
        ..variant("clusters_of_256_kib", &["-c", "262144"])
    },
    Variant {
        mib: 512,
        ..variant("clusters_of_2_mib", &["-c", "2097152"])
    },
    variant("sectors_of_1_kib", &["-s", "1024"]),
    variant("sectors_of_4_kib", &["-s", "4096"]),
    variant(
        "sectors_of_4_kib_clusters_of_16_kib",
        &["-s", "4096", "-c", "16384"],
    ),
    content("compressed", Content::Compressed),
    Variant {
        mkntfs: &["-c", "512"],
        mib: 12,
        ..content("fragmented_table", Content::FragmentedTable)
    },
    content("shrunk", Content::Shrunk),
    content("grown", Content::Grown),
];

/// A filled filesystem in a file.
struct Fixture {
    dir: TempDir,
    image: PathBuf,
    files: BTreeMap<PathBuf, String>,
    content: Content,
}

/// Mounts an image so that `name:stream` is a path.
fn mount(image: &Path, dir: &Path, options: &str) -> Mounted {
    let options = format!("streams_interface=windows,{options}");
    Mounted::new(image, &dir.join("mnt"), &options)
}

impl Fixture {
    fn make(variant: Variant) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("disk.img");
        let size = variant.mib * MIB;
        let made = if variant.content == Content::Grown {
            size / 3 * 2
        } else {
            size
        };
        soiled_file(&image, made, 0xEE);
        let mut args = vec!["-F", "-Q", "-q", "-L", variant.name];
        args.extend(variant.mkntfs);
        args.push(arg(&image));
        run("mkntfs", &args);
        let mounted = mount(&image, dir.path(), "");
        let root = mounted.path().to_owned();
        let mut noise = Noise(0x9E37_79B9_7F4A_7C15);
        if variant.content == Content::FragmentedTable {
            fragment_table(&root);
        } else {
            fill_with_files(&root, &mut noise, variant.content);
        }
        mounted.unmount();
        match variant.content {
            // Which leaves the volume marked for chkdsk.
            Content::Shrunk => {
                run("ntfsresize", &["-f", "-f", "-s", "30000k", arg(&image)]);
                run("ntfsfix", &["-d", arg(&image)]);
            }
            Content::Grown => {
                let mut options = fs::OpenOptions::new();
                let file = options.read(true).write(true).open(&image).unwrap();
                fill(&file, made, size, 0xEE);
                run("ntfsresize", &["-f", "-f", arg(&image)]);
                run("ntfsfix", &["-d", arg(&image)]);
                // ntfsresize leaves the copy of the boot sector to chkdsk.
                let mut boot = [0; 512];
                file.read_exact_at(&mut boot, 0).unwrap();
                file.write_all_at(&boot, size - 512).unwrap();
            }
            _ => {}
        }
        let fixture = Self {
            files: BTreeMap::new(),
            image,
            dir,
            content: variant.content,
        };
        fixture.check();
        let files = fixture.read_files();
        assert!(files.len() > 25, "only {} files prove little", files.len());
        Self { files, ..fixture }
    }

    /// The tools of NTFS find nothing: every cluster is accounted for, and the copies are equal.
    fn check(&self) {
        let said = run("ntfsresize", &["--info", "--force", arg(&self.image)]);
        assert!(said.contains("Accounting clusters"), "{said}");
        // It looks for the copy of the boot sector at the end of the partition.
        if self.content != Content::Shrunk {
            run("ntfsfix", &["-n", arg(&self.image)]);
        }
    }

    fn read_files(&self) -> BTreeMap<PathBuf, String> {
        let mounted = mount(&self.image, self.dir.path(), "ro");
        let mut files = digests(mounted.path());
        let stream = mounted.path().join("w1:stream");
        if let Ok(bytes) = fs::read(&stream) {
            files.insert("w1:stream".into(), format!("{:?}", bytes));
        }
        mounted.unmount();
        files
    }
}

/// Files, half of them deleted, more in the holes; a stream, a sparse file, a hard link.
fn fill_with_files(root: &Path, noise: &mut Noise, content: Content) {
    if content == Content::Compressed {
        let folder = root.join("compressed");
        fs::create_dir(&folder).unwrap();
        let attribute = ["-h", "-n", "system.ntfs_attrib", "-v", "0x00080000"];
        run(
            "setfattr",
            &[attribute.as_slice(), &[arg(&folder)]].concat(),
        );
        for number in 0..20_u8 {
            // Compresses well at first, then not at all.
            let mut bytes = vec![number; 300_000];
            bytes.extend(noise.bytes(50_000));
            fs::write(folder.join(format!("c{number}")), bytes).unwrap();
        }
    }
    fill_and_thin_out(root, noise, 12 * MIB, 30, MIB / 2);
    fs::write(root.join("w1:stream"), noise.bytes(200_000)).unwrap();
    let sparse = fs::File::create(root.join("sparse")).unwrap();
    sparse
        .write_all_at(&noise.bytes(100_000), 5_000_000)
        .unwrap();
    fs::hard_link(root.join("w3"), root.join("link")).unwrap();
}

/// Fills the volume with files of two clusters, deletes every second, and makes so many files that
/// the table must grow into the holes: more runs than its first record has room for.
fn fragment_table(root: &Path) {
    let small = vec![0x5A; 1000];
    let mut count = 0;
    while fs::write(root.join(format!("s{count}")), &small).is_ok() {
        count += 1;
        assert!(count < 100_000, "the volume does not fill up");
    }
    for number in (0..count).step_by(2) {
        fs::remove_file(root.join(format!("s{number}"))).unwrap();
    }
    for number in 0..count {
        if fs::File::create(root.join(format!("e{number}"))).is_err() {
            break;
        }
    }
}

fn survives_with_only_its_used_clusters(variant: Variant) {
    let fixture = Fixture::make(variant);
    let map = sound_map(&fixture.image, "ntfs", Some(variant.name));
    if variant.content == Content::FragmentedTable {
        let table = run("ntfscluster", &["-f", "-I", "0", arg(&fixture.image)]);
        assert!(table.contains("0x20 - "), "the table has no list: {table}");
    }
    is_tight(variant, &fixture, &map);
    // The tail behind a shrunk filesystem is soiled, so it is taken; it is free all the same. Behind
    // one that was grown is the copy of the boot sector.
    let kept = if variant.content == Content::Shrunk {
        map.extents.subtract(map.nonzero_only())
    } else {
        map.extents
    };
    if variant.content == Content::FragmentedTable {
        punch_small_holes(&fixture.image, &kept);
    } else {
        punch(&fixture.image, &kept);
    }
    fixture.check();
    assert_eq!(fixture.read_files(), fixture.files);
}

/// As `punch`, for a volume that is nearly full: little is free, but in very many places.
fn punch_small_holes(image: &Path, kept: &ExtentList) {
    let file = fs::OpenOptions::new().write(true).open(image).unwrap();
    let size = file.metadata().unwrap().len();
    let whole: ExtentList = Extent::between(0, size).into_iter().collect();
    let holes = whole.subtract(kept);
    assert!(holes.len() > 500, "only {} holes prove little", holes.len());
    for hole in holes.iter() {
        fill(&file, hole.start().0, hole.end(), 0xA5);
    }
}

hole_punch! {
    survives_with_only_its_used_clusters:
    default clusters_of_512_bytes clusters_of_1_kib clusters_of_64_kib clusters_of_256_kib
    clusters_of_2_mib sectors_of_1_kib sectors_of_4_kib sectors_of_4_kib_clusters_of_16_kib compressed
    fragmented_table shrunk grown
}

/// The proof can fail: a single cluster missing from the map is noticed.
#[test]
fn a_lost_cluster_is_noticed() {
    let notices = |cluster: &dyn Fn(&Fixture) -> u64| {
        let fixture = Fixture::make(VARIANTS[0]);
        let start = cluster(&fixture) * 4096;
        loss_is_noticed(&fixture.image, (start, start + 4096), || {
            let checked = std::panic::catch_unwind(|| fixture.check()).is_ok();
            checked && fixture.read_files() == fixture.files
        })
    };
    let of_file = |path: &str| {
        let path = path.to_owned();
        move |fixture: &Fixture| {
            raw::first_cluster(&run(
                "ntfscluster",
                &["-f", "-F", &path, arg(&fixture.image)],
            ))
        }
    };
    assert!(notices(&of_file("/w1")), "data of a file");
    assert!(notices(&of_file("/$Bitmap")), "the bitmap");
}

/// The rows of every variant, printed once all are there.
static ROWS: Rows = Rows::new();

/// Copying everything is no way out: not more than ntfsinfo calls used, and not less than partclone
/// would copy.
fn is_tight(variant: Variant, fixture: &Fixture, map: &DiskMap) {
    let info = run("ntfsinfo", &["-m", "-f", arg(&fixture.image)]);
    let field = |name: &str| -> u64 {
        let line = info.lines().find_map(|line| line.trim().strip_prefix(name));
        let value = line.and_then(|rest| rest.split_whitespace().next());
        value.expect(name).parse().unwrap()
    };
    let cluster = field("Cluster Size:");
    let clusters = field("Volume Size in Clusters:");
    let region = filesystem(map);
    let peer = Peer::asked("partclone.ntfs", &fixture.image, fixture.dir.path(), map);
    let row = Row {
        variant: variant.name.into(),
        haulier: region.used_bytes,
        own: (clusters - field("Free Clusters:")) * cluster,
        // What is too short for a cluster, with the copy of the boot sector.
        uncounted: region.length_bytes - clusters * cluster,
        partclone: peer.bytes,
    };
    assert!(peer.bytes.is_some(), "partclone refuses what we map");
    ROWS.add(row, VARIANTS.len(), "ntfs", "ntfsinfo");
}
