//! ext2, ext3 and ext4, filled by the kernel; where files lie is what the kernel says (FIEMAP), what
//! else there is what dumpe2fs and debugfs say.

use super::*;
use crate::map_support::mount::Mounted;
use crate::map_support::oracle::free_by_dumpe2fs;
use crate::map_support::soiled_file;
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
    /// Deleted when dropped.
    _dir: TempDir,
    image: PathBuf,
    files: Vec<Placed>,
    block: u64,
}

impl Fixture {
    fn make(variant: &Variant) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("disk.img");
        soiled_file(&image, SIZE, 0xEE);
        let mut args = vec!["-q", "-F", "-L", "lost", "-N", "8192"];
        args.extend(variant.mke2fs);
        args.push(arg(&image));
        run("mke2fs", &args);
        let mounted = Mounted::new(&image, &dir.path().join("mnt"), "");
        let mut noise = Noise(0x1057_1057);
        make_hard_tree(mounted.path(), &mut noise, 3000, &hostile_names());
        let files = places_by_kernel(mounted.path(), &files_below(mounted.path()));
        mounted.unmount();
        run("e2fsck", &["-fn", arg(&image)]);
        assert!(files.len() > 3000, "{} files", files.len());
        Self {
            _dir: dir,
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

impl Fixture {
    /// Whole blocks by their number.
    fn block(&self, number: u64) -> Extent {
        run_of(number * self.block, self.block)
    }

    /// The blocks of a file or directory, as debugfs lists them.
    fn blocks(&self, path: &str) -> Vec<u64> {
        let text = self.debugfs(&format!("blocks {path}"));
        text.split_whitespace()
            .map(|block| block.parse().unwrap())
            .collect()
    }

    /// What dumpe2fs says of a group: `Block bitmap at 129 (+129), csum ...`.
    fn of_group(&self, group: u64, what: &str) -> u64 {
        let text = run("dumpe2fs", &[arg(&self.image)]);
        let section = text.split(&format!("Group {group}: ")).nth(1).unwrap();
        let at = section.split(&format!("{what} at ")).nth(1).unwrap();
        let digits: String = at.chars().take_while(char::is_ascii_digit).collect();
        digits.parse().unwrap()
    }
}

#[test]
fn metadata_and_free_blocks() {
    let fixture = Fixture::make(&VARIANTS[0]);
    let image = &fixture.image;
    let bitmap = fixture.block(fixture.of_group(1, "Block bitmap"));
    let inodes = fixture.block(fixture.of_group(1, "Inode bitmap"));
    let journal = fixture.block(fixture.blocks("<8>")[7]);
    let descriptors = fixture.block(1);
    let copy = fixture.block(32_768);
    let free = free_by_dumpe2fs(image);
    let free = free.iter().max_by_key(|run| run.len()).unwrap();
    let free = run_of(free.start().0, 5 * fixture.block);
    // Not one whose inode lies beside that of the root directory.
    let apart = |file: &&Placed| file.inode > 64 && file.size > 4096 && !file.places.is_empty();
    let file = fixture.files.iter().find(apart).unwrap();
    let data = run_of(file.places[0].on_disk, fixture.block);
    let behind = run_of(SIZE, 512);
    fs::OpenOptions::new()
        .write(true)
        .open(image)
        .unwrap()
        .set_len(SIZE + 512)
        .unwrap();
    let lost = [
        bitmap,
        inodes,
        journal,
        descriptors,
        copy,
        free,
        data,
        behind,
    ];
    let losses = losses_of(image, &list(lost));
    expect_metadata(&losses, bitmap, "block bitmap of group 1");
    expect_metadata(&losses, inodes, "inode bitmap of group 1");
    expect_metadata(&losses, journal, "journal");
    expect_metadata(&losses, descriptors, "superblock and group descriptors");
    expect_metadata(
        &losses,
        copy,
        "copy of superblock and group descriptors in group 1",
    );
    // The group descriptors were lost, and so the tables are found by the copy of them.
    expect_file(&losses, data, file, file.places[0].in_file);
    assert!(
        matches!(said_of(&losses, behind)[..], [What::OutsideFiles { which }]
            if which.contains("behind the end")),
        "{losses:#?}"
    );
    let losses = losses_of(image, &list([free, journal]));
    assert_eq!(said_of(&losses, free), [&What::FreeSpace]);

    // A block of the inode table: the files are named by their directories alone.
    let place = fixture.debugfs(&format!("imap <{}>", file.inode));
    let block = place.split("located at block ").nth(1).unwrap();
    let block: u64 = block.split(',').next().unwrap().parse().unwrap();
    let lost = fixture.block(block);
    let losses = losses_of(image, &list([lost, data]));
    let files = expect_metadata(&losses, lost, "inode table of group");
    let named = file
        .names
        .iter()
        .any(|name| files.contains(&reported(name)));
    assert!(named, "{file:?}: {files:#?}");
    // Whose block that was, only the inode said.
    assert!(
        matches!(said_of(&losses, data)[..], [What::Unknown { .. }]),
        "{losses:#?}"
    );
}

#[test]
fn directories_that_cannot_be_read() {
    let fixture = Fixture::make(&VARIANTS[0]);
    let image = &fixture.image;
    let bottom = fixture
        .files
        .iter()
        .find(|file| file.names[0].ends_with("bottom"))
        .unwrap();
    let data = run_of(bottom.places[0].on_disk, fixture.block);
    let mut path = String::new();
    let mut levels = Vec::new();
    for level in 0..60 {
        path += &format!("/level {level}");
        levels.push(fixture.blocks(&format!("\"{path}\""))[0]);
    }
    // Without the block of a directory, what is below has no name: the path begins with its inode.
    let lost = fixture.block(levels[4]);
    let losses = losses_of(image, &list([lost, data]));
    let directory = said_of(&losses, lost);
    assert!(
        matches!(directory[..], [What::Directory { path, .. }]
            if path == "/level 0/level 1/level 2/level 3/level 4"),
        "{directory:#?}"
    );
    let file = said_of(&losses, data);
    let [What::File { path, .. }] = file[..] else {
        panic!("{file:#?}");
    };
    let end: Vec<String> = (6..60).map(|level| format!("level {level}")).collect();
    assert!(
        path.starts_with("<inode ") && path.ends_with(&format!(">/{}/bottom", end.join("/"))),
        "{path}"
    );

    // A large directory: what is named in other blocks of it still is.
    let crowd = fixture.blocks("/crowd");
    assert!(crowd.len() > 20, "{crowd:?}");
    let lost = fixture.block(crowd[9]);
    let files: Vec<&Placed> = fixture
        .files
        .iter()
        .filter(|file| file.names[0].starts_with("crowd") && !file.places.is_empty())
        .collect();
    let places = files
        .iter()
        .map(|file| run_of(file.places[0].on_disk, fixture.block));
    let losses = losses_of(image, &list(places.chain([lost])));
    assert!(
        matches!(said_of(&losses, lost)[..], [What::Directory { path, .. }] if path == "/crowd")
    );
    let unnamed = losses
        .iter()
        .filter(
            |loss| matches!(&loss.what, What::Unknown { reason } if reason.contains("whose name")),
        )
        .count();
    let named = losses
        .iter()
        .filter(|loss| matches!(&loss.what, What::File { path, .. } if path.starts_with("/crowd/")))
        .count();
    assert!(unnamed > 5 && unnamed < 200, "{unnamed}");
    assert_eq!(named + unnamed, files.len());
}

#[test]
fn a_filesystem_that_was_not_shut_down() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("disk.img");
    soiled_file(&image, SIZE, 0xEE);
    run(
        "mke2fs",
        &["-q", "-F", "-t", "ext4", "-b", "4096", arg(&image)],
    );
    let mounted = Mounted::new(&image, &dir.path().join("mnt"), "commit=300");
    let folder = mounted.path().join("new folder");
    fs::create_dir(&folder).unwrap();
    let path = folder.join("just written");
    fs::write(&path, Noise(3).bytes(300_000)).unwrap();
    // Into the journal, but not from there to its place.
    fs::File::open(&path).unwrap().sync_all().unwrap();
    let files = places_by_kernel(mounted.path(), &files_below(mounted.path()));
    let copy = dir.path().join("copy.img");
    fs::copy(&image, &copy).unwrap();
    mounted.unmount();
    let header = run("dumpe2fs", &["-h", arg(&copy)]);
    assert!(header.contains("needs_recovery"), "{header}");
    let picked = expect_names(&copy, 0, &files, 4096, &mut Noise(5));
    assert_eq!(picked, 1);
}
