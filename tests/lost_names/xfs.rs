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

pub struct Fixture {
    pub dir: TempDir,
    pub image: PathBuf,
    pub files: Vec<Placed>,
    pub block: u64,
}

/// Runs mkfs.xfs as its own tests run it: so it makes filesystems of less than 300 MiB too.
pub fn mkfs(args: &[&str], image: &Path) {
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
                make_hard_tree(mounted.path(), &mut noise, 1500);
                let files = places_by_kernel(mounted.path(), &files_below(mounted.path()));
                mounted.unmount();
                files
            }
            Filler::Uml => {
                let tree = dir.path().join("tree");
                fs::create_dir(&tree).unwrap();
                make_hard_tree(&tree, &mut noise, 700);
                filled_by_uml(&image, dir.path(), &tree)
            }
        };
        let checked = run("xfs_repair", &["-n", "-f", arg(&image)]);
        assert!(files.len() > 700, "{} files {checked}", files.len());
        Self {
            dir,
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
        .map(|(inode, _, size)| (all_names(*inode), *size));
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
