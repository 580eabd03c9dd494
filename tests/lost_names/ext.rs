//! ext2, ext3 and ext4, filled by the kernel; where files lie is what the kernel says (FIEMAP), what
//! else there is what dumpe2fs and debugfs say.

use super::*;
use crate::map_support::mount::Mounted;
use crate::map_support::{soiled_file, try_run};
use tempfile::TempDir;

const SIZE: u64 = 160 * MIB;

struct Variant {
    name: &'static str,
    mke2fs: &'static [&'static str],
    block: u64,
}

const fn variant(name: &'static str, mke2fs: &'static [&'static str], block: u64) -> Variant {
    Variant {
        name,
        mke2fs,
        block,
    }
}

const VARIANTS: &[Variant] = &[
    variant("ext4", &["-t", "ext4", "-b", "4096"], 4096),
    variant("ext4_1k", &["-t", "ext4", "-b", "1024"], 1024),
    variant(
        "ext4_many_groups",
        &["-t", "ext4", "-b", "1024", "-g", "1024"],
        1024,
    ),
    variant(
        "inline",
        &["-t", "ext4", "-O", "inline_data", "-I", "512", "-b", "4096"],
        4096,
    ),
    variant(
        "bigalloc",
        &["-t", "ext4", "-O", "bigalloc", "-C", "16384", "-b", "4096"],
        4096,
    ),
    variant("ext3", &["-t", "ext3", "-b", "4096"], 4096),
    variant("ext3_1k", &["-t", "ext3", "-b", "1024"], 1024),
    variant("ext2", &["-t", "ext2", "-b", "4096"], 4096),
    variant(
        "ext2_1k_linear",
        &["-t", "ext2", "-b", "1024", "-O", "^dir_index,^filetype"],
        1024,
    ),
    variant(
        "no_64bit_no_checksums",
        &["-t", "ext4", "-O", "^64bit,^metadata_csum", "-b", "4096"],
        4096,
    ),
    variant(
        "uninit_bg",
        &["-t", "ext4", "-O", "^metadata_csum,uninit_bg", "-b", "4096"],
        4096,
    ),
    variant(
        "meta_bg",
        &["-t", "ext4", "-O", "meta_bg,^resize_inode", "-b", "4096"],
        4096,
    ),
];

struct Fixture {
    dir: TempDir,
    image: PathBuf,
    files: Vec<Placed>,
    block: u64,
}

impl Fixture {
    fn make(variant: &Variant) -> Self {
        Self::filled(variant, |_| {})
    }

    fn filled(variant: &Variant, more: impl Fn(&Path)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("disk.img");
        soiled_file(&image, SIZE, 0xEE);
        let mut args = vec!["-q", "-F", "-L", "lost", "-N", "8192"];
        args.extend(variant.mke2fs);
        args.push(arg(&image));
        run("mke2fs", &args);
        let mounted = Mounted::new(&image, &dir.path().join("mnt"), "");
        let mut noise = Noise(0x1057_1057);
        make_hard_tree(mounted.path(), &mut noise, 3000);
        more(mounted.path());
        run("sync", &["-f", arg(mounted.path())]);
        let files = places_by_kernel(mounted.path(), &files_below(mounted.path()));
        mounted.unmount();
        run("e2fsck", &["-fn", arg(&image)]);
        assert!(files.len() > 3000, "{} files", files.len());
        Self {
            dir,
            image,
            files,
            block: variant.block,
        }
    }

    fn debugfs(&self, request: &str) -> String {
        run("debugfs", &["-R", request, arg(&self.image)])
    }
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
    ext4 ext4_1k ext4_many_groups inline bigalloc ext3 ext3_1k ext2 ext2_1k_linear
    no_64bit_no_checksums uninit_bg meta_bg
}
