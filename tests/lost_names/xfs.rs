//! XFS, filled by the kernel, or with version 4 of the format by that of User-Mode Linux.

use super::*;
use crate::map_support::mount::Mounted;
use crate::map_support::soiled_file;
use crate::map_support::uml::run_in_uml;
use std::process::Command;
use tempfile::TempDir;

const SIZE: u64 = 192 * MIB;

struct Variant {
    name: &'static str,
    mkfs: &'static [&'static str],
    block: u64,
    /// Which kernel fills it.
    by: Filler,
}

#[derive(Clone, Copy, PartialEq)]
enum Filler {
    ThisKernel,
    Uml,
}

const fn variant(name: &'static str, mkfs: &'static [&'static str], block: u64) -> Variant {
    Variant {
        name,
        mkfs,
        block,
        by: Filler::ThisKernel,
    }
}

const fn by_uml(name: &'static str, mkfs: &'static [&'static str], block: u64) -> Variant {
    Variant {
        by: Filler::Uml,
        ..variant(name, mkfs, block)
    }
}

const VARIANTS: &[Variant] = &[
    variant("v5", &["-l", "size=10m"], 4096),
    variant(
        "v5_1k",
        &["-b", "size=1024", "-l", "size=10m", "-d", "agcount=6"],
        1024,
    ),
    variant(
        "v5_64k",
        &["-b", "size=65536", "-d", "agcount=2", "-l", "size=32m"],
        65_536,
    ),
    variant(
        "sparse_inodes_reverse_map",
        &[
            "-m",
            "rmapbt=1,reflink=1",
            "-i",
            "sparse=1,nrext64=1",
            "-l",
            "size=16m",
        ],
        4096,
    ),
    variant(
        "no_sparse_no_reflink",
        &[
            "-m",
            "rmapbt=0,reflink=0,finobt=0,inobtcount=0,bigtime=0",
            "-i",
            "sparse=0",
            "-l",
            "size=10m",
        ],
        4096,
    ),
    variant(
        "large_directory_blocks",
        &["-i", "size=2048", "-n", "size=65536", "-l", "size=10m"],
        4096,
    ),
    variant(
        "dir_blocks_of_8_of_1k",
        &["-b", "size=1024", "-n", "size=8192", "-l", "size=10m"],
        1024,
    ),
    by_uml("v4", &["-m", "crc=0", "-l", "size=10m"], 4096),
    by_uml(
        "v4_ftype",
        &["-m", "crc=0", "-n", "ftype=1", "-l", "size=10m"],
        4096,
    ),
    by_uml(
        "v4_512",
        &["-m", "crc=0", "-b", "size=512", "-l", "size=10m"],
        512,
    ),
];

struct Fixture {
    /// Deleted when dropped.
    _dir: TempDir,
    image: PathBuf,
    files: Vec<Placed>,
    block: u64,
}

/// Runs mkfs.xfs as its own tests run it: so it makes filesystems of less than 300 MiB too.
pub(crate) fn mkfs(args: &[&str], image: &Path) {
    let path = std::env::var("PATH").unwrap_or_default();
    let output = Command::new("mkfs.xfs")
        .args(["-q", "-f", "-K"])
        .args(args)
        .arg(image)
        .env("PATH", format!("{path}:/usr/sbin:/sbin"))
        .envs([("TEST_DIR", "/"), ("TEST_DEV", "/"), ("QA_CHECK_FS", "1")])
        .output()
        .expect("this test needs the program mkfs.xfs");
    assert!(output.status.success(), "mkfs.xfs {args:?}: {output:?}");
}

impl Fixture {
    fn make(variant: &Variant) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("disk.img");
        soiled_file(&image, SIZE, 0xEE);
        mkfs(variant.mkfs, &image);
        let mut noise = Noise(0x1057_1057);
        let files = match variant.by {
            Filler::ThisKernel => {
                let mounted = Mounted::new(&image, &dir.path().join("mnt"), "");
                make_hard_tree(mounted.path(), &mut noise, 1500, &hostile_names());
                let files = places_by_kernel(mounted.path(), &files_below(mounted.path()));
                mounted.unmount();
                files
            }
            Filler::Uml => {
                let tree = dir.path().join("tree");
                fs::create_dir(&tree).unwrap();
                make_hard_tree(&tree, &mut noise, 700, &hostile_names());
                filled_by_uml(&image, dir.path(), &tree)
            }
        };
        let checked = run("xfs_repair", &["-n", "-f", arg(&image)]);
        assert!(files.len() > 700, "{} files {checked}", files.len());
        Self {
            _dir: dir,
            image,
            files,
            block: variant.block,
        }
    }
}

/// Copies the tree into the image, and asks for places on the spot.
fn filled_by_uml(image: &Path, scratch: &Path, tree: &Path) -> Vec<Placed> {
    let told = |name: &str| arg(scratch).to_owned() + "/" + name;
    let script = format!(
        "mount -t xfs /mnt/dev/ubda /mnt/fs\n\
         cp -a --sparse=always {tree}/. /mnt/fs/\n\
         sync\n\
         cd /mnt/fs\n\
         find . -type f -print0 > {list}\n\
         find . -type f -printf '%i %s\\n' > {inodes}\n\
         xargs -0 filefrag -v -b512 < {list} > {places}\n\
         cd /\n\
         umount /mnt/fs",
        tree = arg(tree),
        list = told("list"),
        inodes = told("inodes"),
        places = told("places"),
    );
    run_in_uml(image, scratch, &["xfs"], &script);
    let list = fs::read(told("list")).unwrap();
    let names = list
        .split(|&byte| byte == 0)
        .filter(|name| !name.is_empty());
    let inodes = fs::read_to_string(told("inodes")).unwrap();
    let files: Vec<(u64, PathBuf, u64)> = names
        .zip(inodes.lines())
        .map(|(name, line)| {
            let (inode, size) = line.split_once(' ').unwrap();
            let name = Path::new(OsStr::from_bytes(name))
                .strip_prefix(".")
                .unwrap();
            (
                inode.parse().unwrap(),
                name.to_owned(),
                size.parse().unwrap(),
            )
        })
        .collect();
    let places = String::from_utf8_lossy(&fs::read(told("places")).unwrap()).into_owned();
    let all_names = |wanted: u64| -> Vec<PathBuf> {
        let same = files.iter().filter(|(inode, ..)| *inode == wanted);
        same.map(|(_, name, _)| name.clone()).collect()
    };
    let named = files
        .iter()
        .map(|(inode, _, size)| (*inode, all_names(*inode), *size));
    placed(&places, named.collect())
}

fn names_every_file(name: &str) {
    let variant = VARIANTS
        .iter()
        .find(|variant| variant.name == name)
        .unwrap();
    let fixture = Fixture::make(variant);
    let mut noise = Noise(0xBAD_5EC7);
    let picked = expect_names(&fixture.image, 0, &fixture.files, fixture.block, &mut noise);
    assert!(picked > 60, "only {picked} files have blocks");
    println!("{name}: {picked} files named");
}

macro_rules! every_variant {
    ($($name:ident)*) => {
        $(#[test] fn $name() { names_every_file(stringify!($name)); })*

        #[test]
        fn no_variant_is_left_out() {
            let tested = [$(stringify!($name)),*];
            assert!(VARIANTS.iter().all(|variant| tested.contains(&variant.name)));
        }
    };
}

every_variant! {
    v5 v5_1k v5_64k sparse_inodes_reverse_map no_sparse_no_reflink large_directory_blocks
    dir_blocks_of_8_of_1k v4 v4_ftype v4_512
}

/// What xfs_db prints for a field, as a number.
fn field(image: &Path, place: &str, name: &str) -> u64 {
    let printed = run(
        "xfs_db",
        &["-r", "-c", place, "-c", &format!("p {name}"), arg(image)],
    );
    let value = printed.rsplit('=').next().unwrap().trim();
    value.parse().unwrap_or_else(|_| panic!("{printed}"))
}

/// Where a block of a group is.
fn block_of(image: &Path, group: u64, block: u64) -> Extent {
    let size = field(image, "sb 0", "blocksize");
    run_of(
        (group * field(image, "sb 0", "agblocks") + block) * size,
        size,
    )
}

/// Where a block is by its number in the filesystem.
fn fsblock(image: &Path, number: u64) -> Extent {
    let bits = field(image, "sb 0", "agblklog");
    block_of(image, number >> bits, number & ((1 << bits) - 1))
}

#[test]
fn metadata_directories_and_free_blocks() {
    let fixture = Fixture::make(&VARIANTS[0]);
    let image = &fixture.image;
    // The header of its inodes.
    let header = run_of(block_of(image, 1, 0).start().0 + 1024, 512);
    let log = fsblock(image, field(image, "sb 0", "logstart") + 5);
    let tree = block_of(image, 0, field(image, "agi 0", "free_root"));
    let used = crate::map_support::map_of(image).extents;
    let free = list([run_of(0, SIZE)]).subtract(&used);
    let free = free.iter().max_by_key(|run| run.len()).unwrap();
    let free = run_of(free.start().0 + 4096, 3 * 4096);
    let losses = losses_of(image, &list([header, log, tree, free]));
    expect_metadata(&losses, header, "headers of group 1");
    expect_metadata(&losses, log, "log");
    assert_eq!(said_of(&losses, free), [&What::FreeSpace]);
    // The inodes of group 1 are not to be found, so nobody can say that it is nobody's.
    let [What::Unknown { reason }] = said_of(&losses, tree)[..] else {
        panic!("{losses:#?}");
    };
    assert!(reason.contains("all inodes of group 1"), "{reason}");
    let losses = losses_of(image, &list([log, tree]));
    expect_metadata(&losses, tree, "trees and free list of group 0");

    // An inode: the file is named by its directory alone.
    let root = field(image, "sb 0", "rootino");
    let apart = |file: &&Placed| file.inode > root + 16;
    let file = fixture.files.iter().find(apart).unwrap();
    let inode = format!("inode {}", file.inode);
    let bytes = run("xfs_db", &["-r", "-c", &inode, "-c", "daddr", arg(image)]);
    let sector: u64 = bytes.rsplit(' ').next().unwrap().trim().parse().unwrap();
    let chunk = run_of(sector * 512 / 4096 * 4096, 4096);
    let losses = losses_of(image, &list([chunk]));
    let files = expect_metadata(&losses, chunk, "inodes of group");
    assert!(
        file.names
            .iter()
            .any(|name| files.contains(&reported(name))),
        "{file:?}: {files:#?}"
    );

    // A directory of several blocks: what was named in the lost one is not named any more.
    let crowd: Vec<&Placed> = fixture
        .files
        .iter()
        .filter(|file| file.names[0].starts_with("crowd"))
        .filter(|file| !file.places.is_empty())
        .collect();
    let path = ["-r", "-c", "path /crowd", "-c", "bmap", arg(image)];
    let map = run("xfs_db", &path);
    let mut blocks = Vec::new();
    for line in map.lines() {
        // data offset 0 startblock 24 (0/24) count 5 flag 0
        let words: Vec<&str> = line.split_whitespace().collect();
        let number = |nth: usize| -> u64 { words[nth].parse().unwrap() };
        // Its index lies further behind.
        if number(2) < 1 << 20 {
            blocks.extend((0..number(7)).map(|nth| fsblock(image, number(4) + nth)));
        }
    }
    assert!(blocks.len() > 10, "{map}");
    let places = crowd
        .iter()
        .map(|file| run_of(file.places[0].on_disk, 4096));
    let (lost, kept) = (blocks[3], crowd.len());
    let losses = losses_of(image, &list(places.chain([lost])));
    let directories = said_of(&losses, lost);
    assert!(
        matches!(directories[..], [What::Directory { path, .. }] if path == "/crowd"),
        "{directories:#?}"
    );
    let unnamed = losses
        .iter()
        .filter(
            |loss| matches!(&loss.what, What::Unknown { reason } if reason.contains("whose name")),
        )
        .count();
    assert!(unnamed > 5 && unnamed < kept / 3, "{unnamed} of {kept}");
}
