//! Metadata that lies: whatever is in it, the answer comes soon, covers all that was lost, and nobody
//! panics. Made without checksums, so that what was changed is believed.

use super::*;
use crate::map_support::{make_tree, soiled_file};
use haulier::device::MemDisk;
use haulier::units::SectorSize;
use proptest::prelude::*;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// A small filesystem with a tree, and the sectors of it that hold metadata or names.
struct Small {
    bytes: Vec<u8>,
    hot: Vec<u64>,
}

impl Small {
    /// What was changed when the tree was made counts as metadata if it is no content of a file.
    fn new(bytes: Vec<u8>, content: &[u8]) -> Self {
        let plain = |sector: &[u8]| sector.iter().all(|byte| *byte == sector[0]);
        let hot = (0..)
            .zip(bytes.chunks_exact(512))
            .filter(|(_, sector)| !plain(sector) && !sector.starts_with(&content[..8]))
            .map(|(index, _)| index)
            .collect();
        Self { bytes, hot }
    }
}

/// A tree whose files are all of one repeated word, so that their sectors are told from metadata.
const CONTENT: &[u8; 8] = b"content!";

fn tree(dir: &Path) -> PathBuf {
    let tree = dir.join("tree");
    fs::create_dir(&tree).unwrap();
    make_tree(&tree, &mut Noise(77), 300_000);
    for number in 0..150 {
        fs::write(tree.join(format!("d1/entry number {number}")), b"x").unwrap();
    }
    for file in files_below(&tree) {
        let len = fs::metadata(tree.join(&file)).unwrap().len() as usize;
        let content: Vec<u8> = CONTENT.iter().copied().cycle().take(len).collect();
        fs::write(tree.join(&file), content).unwrap();
    }
    tree
}

fn ext(options: &[&str]) -> Small {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("small.img");
    soiled_file(&image, 6 * MIB, 0);
    let tree = tree(dir.path());
    let args = ["-q", "-F", "-d", arg(&tree), "-b", "1024", "-N", "512"];
    run("mke2fs", &[&args, options, &[arg(&image)]].concat());
    Small::new(fs::read(&image).unwrap(), CONTENT)
}

fn ext4() -> &'static Small {
    static SMALL: OnceLock<Small> = OnceLock::new();
    SMALL.get_or_init(|| {
        ext(&[
            "-t",
            "ext4",
            "-O",
            "^metadata_csum,inline_data",
            "-I",
            "256",
        ])
    })
}

fn ext2() -> &'static Small {
    static SMALL: OnceLock<Small> = OnceLock::new();
    SMALL.get_or_init(|| ext(&["-t", "ext2"]))
}

fn xfs_v4() -> &'static Small {
    static SMALL: OnceLock<Small> = OnceLock::new();
    SMALL.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("small.img");
        soiled_file(&image, 32 * MIB, 0);
        let mut prototype = "/\n0 0\nd--755 0 0\n".to_owned();
        let source = dir.path().join("source");
        fs::write(&source, CONTENT.repeat(700)).unwrap();
        for folder in 0..3 {
            prototype += &format!("d{folder} d--755 0 0\n");
            for number in 0..40 * folder * folder + 2 {
                prototype += &format!("file{number} ---644 0 0 {}\n", arg(&source));
            }
            prototype += "$\n";
        }
        prototype += "$\n";
        let file = dir.path().join("prototype");
        fs::write(&file, prototype).unwrap();
        crate::xfs::mkfs(&["-m", "crc=0", "-p", arg(&file)], &image);
        Small::new(fs::read(&image).unwrap(), CONTENT)
    })
}

fn ntfs() -> &'static Small {
    static SMALL: OnceLock<Small> = OnceLock::new();
    SMALL.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("small.img");
        soiled_file(&image, 8 * MIB, 0);
        run("mkntfs", &["-F", "-Q", "-q", "-c", "1024", arg(&image)]);
        let at = dir.path().join("mnt");
        let mounted = crate::map_support::mount::Mounted::new(&image, &at, "");
        let tree = tree(dir.path());
        run(
            "cp",
            &["-r", &format!("{}/.", arg(&tree)), arg(mounted.path())],
        );
        mounted.unmount();
        Small::new(fs::read(&image).unwrap(), CONTENT)
    })
}

/// Changes bytes in hot sectors, loses sectors, and asks.
fn endures(small: &Small, changes: &[(u16, u16, u8)], lost: &[u16]) -> Result<(), TestCaseError> {
    let mut bytes = small.bytes.clone();
    let hot = |nth: u16| small.hot[usize::from(nth) % small.hot.len()];
    for &(sector, at, byte) in changes {
        let at = hot(sector) * 512 + u64::from(at % 512);
        bytes[usize::try_from(at).unwrap()] = byte;
    }
    let size = bytes.len() as u64;
    let sectors = size / 512;
    let bad = list(lost.iter().enumerate().map(|(nth, &lost)| {
        // Metadata, and anything.
        let sector = match nth % 3 {
            0 => hot(lost),
            _ => u64::from(lost) * 7 % sectors,
        };
        run_of(sector * 512, 512)
    }));
    let info = DiskInfo {
        path: "memory".into(),
        size_bytes: size,
        logical_sector_bytes: SectorSize::B512,
        physical_sector_bytes: SectorSize::B512,
    };
    let disk = MemDisk(bytes);
    let began = Instant::now();
    let losses = name_losses(
        &[(&disk, info)],
        std::slice::from_ref(&bad),
        &Secrets::default(),
    )
    .unwrap();
    prop_assert!(
        began.elapsed() < Duration::from_secs(20),
        "{:?}",
        began.elapsed()
    );
    let told = list(losses.iter().map(|loss| loss.range));
    prop_assert_eq!(told, bad);
    for loss in &losses {
        let text = serde_json::to_string(&loss).unwrap();
        prop_assert!(!text.chars().any(char::is_control), "{}", text);
    }
    Ok(())
}

fn changes() -> impl Strategy<Value = Vec<(u16, u16, u8)>> {
    let byte = prop_oneof![Just(0_u8), Just(0xFF), any::<u8>()];
    prop::collection::vec((any::<u16>(), any::<u16>(), byte), 1..40)
}

fn lost() -> impl Strategy<Value = Vec<u16>> {
    prop::collection::vec(any::<u16>(), 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn ext4_that_lies(changes in changes(), lost in lost()) {
        endures(ext4(), &changes, &lost)?;
    }

    #[test]
    fn ext2_that_lies(changes in changes(), lost in lost()) {
        endures(ext2(), &changes, &lost)?;
    }

    #[test]
    fn xfs_that_lies(changes in changes(), lost in lost()) {
        endures(xfs_v4(), &changes, &lost)?;
    }

    #[test]
    fn ntfs_that_lies(changes in changes(), lost in lost()) {
        endures(ntfs(), &changes, &lost)?;
    }
}
