//! Through partitions, logical volumes, mirrors and encryption: a small ext4 is laid where the tools of
//! each say that its bytes lie.

use super::*;
use crate::map_support::lvm::Disks;
use crate::map_support::{make_tree, soiled_file};
use tempfile::TempDir;

const BLOCK: u64 = 4096;

/// A filesystem in a file, and some of its files with their blocks.
struct Plain {
    dir: TempDir,
    image: PathBuf,
    files: Vec<(String, u64, Vec<u64>)>,
}

impl Plain {
    fn make(size: u64, seed: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("plain.img");
        let tree = dir.path().join("tree");
        fs::create_dir(&tree).unwrap();
        make_tree(&tree, &mut Noise(seed), 8 * MIB);
        soiled_file(&image, size, 0x5A);
        let args = [
            "-q",
            "-F",
            "-t",
            "ext4",
            "-b",
            "4096",
            "-d",
            arg(&tree),
            arg(&image),
        ];
        run("mke2fs", &args);
        let mut files = Vec::new();
        for file in files_below(&tree).iter().step_by(7) {
            let path = format!("/{}", file.display());
            let size = fs::metadata(tree.join(file)).unwrap().len();
            let blocks = run("debugfs", &["-R", &format!("blocks {path}"), arg(&image)]);
            let blocks: Vec<u64> = blocks
                .split_whitespace()
                .map(|b| b.parse().unwrap())
                .collect();
            if blocks.len() as u64 == size.div_ceil(BLOCK) && !blocks.is_empty() {
                files.push((path, size, blocks));
            }
        }
        assert!(files.len() > 4, "{files:?}");
        Self { dir, image, files }
    }

    /// A block of each file: its number, and what has to be said.
    fn picks(&self, noise: &mut Noise) -> Vec<(u64, String, u64, u64)> {
        let pick = |(path, size, blocks): &(String, u64, Vec<u64>)| {
            let nth = noise.below(blocks.len() as u64);
            let offset = nth * BLOCK;
            let bytes = (size - offset).min(BLOCK);
            (blocks[nth as usize], path.clone(), offset, bytes)
        };
        self.files.iter().map(pick).collect()
    }
}

/// Among what is said of a run is this part of a file of a volume.
fn expect(losses: &[Loss], disk: usize, run: Extent, volume: &str, file: (&str, u64, u64)) {
    let (path, offset, bytes) = file;
    let named = losses.iter().any(|loss| {
        let What::File {
            path: said,
            offset_in_file,
            bytes: lost,
            ..
        } = &loss.what
        else {
            return false;
        };
        loss.disk == disk
            && loss.range.intersect(run) == Some(run)
            && loss.volume.as_deref() == Some(volume)
            && said == path
            && *offset_in_file <= offset
            && offset_in_file + lost >= offset + bytes
    });
    assert!(
        named,
        "disk {disk} {run:?} is {file:?} of {volume}: {losses:#?}"
    );
}

#[test]
fn in_a_partition_and_around_it() {
    let plain = Plain::make(40 * MIB, 11);
    let image = plain.dir.path().join("disk.img");
    soiled_file(&image, 64 * MIB, 0);
    run(
        "sgdisk",
        &["-n", "3:8M:+40M", "-n", "1:52M:+4M", arg(&image)],
    );
    let at = 8 * MIB;
    let file = fs::OpenOptions::new().write(true).open(&image).unwrap();
    file.write_all_at(&fs::read(&plain.image).unwrap(), at)
        .unwrap();
    let picks = plain.picks(&mut Noise(1));
    let runs: Vec<Extent> = picks
        .iter()
        .map(|pick| run_of(at + pick.0 * BLOCK, BLOCK))
        .collect();
    let table = run_of(1024, 512);
    let gap = run_of(MIB, 512);
    let between = run_of(50 * MIB, 512);
    let empty = run_of(53 * MIB, 512);
    let extra = [table, gap, between, empty];
    let losses = losses_of(&image, &list(runs.iter().copied().chain(extra)));
    let volume = format!("{} partition 3", image.display());
    for ((_, path, offset, bytes), run) in picks.iter().zip(&runs) {
        expect(&losses, 0, *run, &volume, (path, *offset, *bytes));
    }
    expect_metadata(&losses, table, "partition table");
    let outside = |run, word: &str| {
        let said = said_of(&losses, run);
        assert!(
            matches!(said[..], [What::OutsideFiles { which }] if which.contains(word)),
            "{said:#?}"
        );
    };
    outside(gap, "before the first partition");
    outside(between, "in no partition");
    let said = said_of(&losses, empty);
    assert!(
        matches!(said[..], [What::Unknown { reason }] if reason.contains("no filesystem")),
        "{said:#?}"
    );

    // As it stands in the report.
    let json = serde_json::to_value(&losses).unwrap();
    let file = json
        .as_array()
        .unwrap()
        .iter()
        .find(|loss| loss["what"]["kind"] == "file");
    let file = file.unwrap();
    assert!(file["disk"].is_u64() && file["range"]["start_byte"].is_u64());
    assert!(file["what"]["offset_in_file"].is_u64() && file["what"]["path"].is_string());
    let back: Vec<Loss> = serde_json::from_value(json.clone()).unwrap();
    assert_eq!(back, losses);
}

/// Half a block: the other half is not called lost.
#[test]
fn a_single_sector() {
    let plain = Plain::make(40 * MIB, 12);
    let (path, _, blocks) = plain
        .files
        .iter()
        .find(|(_, size, _)| *size > 9000)
        .unwrap();
    let sector = run_of(blocks[1] * BLOCK + 1536, 512);
    let losses = losses_of(&plain.image, &list([sector]));
    let said = said_of(&losses, sector);
    assert!(
        matches!(said[..], [What::File { path: said, offset_in_file: 5632, bytes: 512, .. }] if said == path),
        "{said:#?}"
    );
}

#[test]
fn in_linear_striped_and_torn_logical_volumes() {
    let mut disks = Disks::new();
    let loops = disks.loops.clone();
    disks.lvm(&["pvcreate", "-y", &loops[0], &loops[1]]);
    disks.lvm(&["vgcreate", "-s", "1M", "vgt", &loops[0], &loops[1]]);
    disks.make_volume("gone", &["-L", "9M"]);
    disks.make_volume("one", &["-L", "30M"]);
    disks.make_volume("striped", &["-L", "40M", "-i", "2", "-I", "16k"]);
    disks.lvm(&["lvremove", "-y", "vgt/gone"]);
    disks.make_volume("torn", &["-L", "90M"]);
    let mut bad = vec![Vec::new(), Vec::new()];
    let mut wanted = Vec::new();
    for (seed, name) in [(21, "one"), (22, "striped"), (23, "torn")] {
        let places = disks.places(name);
        let size: u64 = places.iter().map(|(_, _, len)| len).sum();
        let plain = Plain::make(size, seed);
        disks.copy(&plain.image, &places, true);
        for (block, path, offset, bytes) in plain.picks(&mut Noise(seed)) {
            // Chunks are larger than blocks: a block lies in one of them.
            let mut at = block * BLOCK;
            let place = places.iter().find(|(_, _, len)| {
                let here = at < *len;
                at -= if here { 0 } else { *len };
                here
            });
            let (disk, start, _) = place.unwrap();
            let run = run_of(start + at, BLOCK);
            bad[*disk].push(run);
            wanted.push((*disk, run, format!("vgt/{name}"), path, offset, bytes));
        }
    }
    disks.detach();
    // The metadata of the group has the first mebibyte; this much of it was never written.
    let metadata = run_of(512 << 10, 512);
    bad[1].push(metadata);
    let bad: Vec<ExtentList> = bad.into_iter().map(list).collect();
    let images: Vec<&Path> = disks.images.iter().map(PathBuf::as_path).collect();
    let losses = losses_of_all(&images, &bad, &Secrets::default());
    assert!(wanted.iter().any(|wanted| wanted.0 == 0) && wanted.iter().any(|wanted| wanted.0 == 1));
    for (disk, run, volume, path, offset, bytes) in &wanted {
        expect(&losses, *disk, *run, volume, (path, *offset, *bytes));
    }
    let of_disk: Vec<Loss> = losses.into_iter().filter(|loss| loss.disk == 1).collect();
    expect_metadata(&of_disk, metadata, "LVM2");
}

/// The superblock of an md array of version 1.2 (`struct mdp_superblock_1` in
/// `include/uapi/linux/raid/md_p.h`), with the checksum that mdadm asks for.
fn md_superblock(number: u32, data_sectors: u64) -> Vec<u8> {
    let mut sb = vec![0_u8; 256 + 2 * 2];
    let mut put = |at: usize, bytes: &[u8]| sb[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &0xA92B_4EFC_u32.to_le_bytes());
    put(4, &1_u32.to_le_bytes());
    put(16, &[0x11; 16]);
    put(32, b"lab:mirror");
    put(64, &1_700_000_000_u64.to_le_bytes());
    put(72, &1_u32.to_le_bytes());
    put(80, &data_sectors.to_le_bytes());
    put(92, &2_u32.to_le_bytes());
    put(128, &2048_u64.to_le_bytes());
    put(136, &data_sectors.to_le_bytes());
    put(144, &8_u64.to_le_bytes());
    put(160, &number.to_le_bytes());
    put(168, &[0x20 + number as u8; 16]);
    put(192, &1_700_000_000_u64.to_le_bytes());
    put(200, &17_u64.to_le_bytes());
    put(208, &u64::MAX.to_le_bytes());
    put(220, &2_u32.to_le_bytes());
    put(256, &[0, 0, 1, 0]);
    let words = sb
        .chunks_exact(4)
        .map(|word| u32::from_le_bytes(word.try_into().unwrap()));
    let sum: u64 = words.map(u64::from).sum();
    let sum = (sum as u32).wrapping_add((sum >> 32) as u32);
    sb[216..220].copy_from_slice(&sum.to_le_bytes());
    sb
}

#[test]
fn on_either_side_of_a_mirror() {
    let plain = Plain::make(40 * MIB, 31);
    let content = fs::read(&plain.image).unwrap();
    let images: Vec<PathBuf> = (0..2)
        .map(|number| {
            let image = plain.dir.path().join(format!("member{number}"));
            soiled_file(&image, 41 * MIB, 0);
            let file = fs::OpenOptions::new().write(true).open(&image).unwrap();
            file.write_all_at(&md_superblock(number, 40 * MIB / 512), 4096)
                .unwrap();
            file.write_all_at(&content, MIB).unwrap();
            let said = run("mdadm", &["--examine", arg(&image)]);
            assert!(said.contains("raid1") && said.contains("correct"), "{said}");
            image
        })
        .collect();
    let picks = plain.picks(&mut Noise(2));
    let mut bad = vec![Vec::new(), Vec::new()];
    for (nth, pick) in picks.iter().enumerate() {
        bad[nth % 2].push(run_of(MIB + pick.0 * BLOCK, BLOCK));
    }
    // What says where files are is lost on one side: the other one still has it.
    bad[0].push(run_of(MIB + BLOCK, BLOCK));
    let bad: Vec<ExtentList> = bad.into_iter().map(list).collect();
    let paths: Vec<&Path> = images.iter().map(PathBuf::as_path).collect();
    let losses = losses_of_all(&paths, &bad, &Secrets::default());
    for (nth, (block, path, offset, bytes)) in picks.iter().enumerate() {
        let run = run_of(MIB + block * BLOCK, BLOCK);
        expect(&losses, nth % 2, run, "lab:mirror", (path, *offset, *bytes));
    }
}

#[test]
fn inside_an_encrypted_volume() {
    const PASSPHRASE: &str = "correct horse battery staple";
    let plain = Plain::make(40 * MIB, 41);
    let image = plain.dir.path().join("luks.img");
    let secret = format!("secret,id=s0,data={PASSPHRASE}");
    let args = [
        "convert",
        "--object",
        &secret,
        "-O",
        "luks",
        "-o",
        "key-secret=s0,cipher-mode=xts,ivgen-alg=plain64,iter-time=10",
        "-f",
        "raw",
        arg(&plain.image),
        arg(&image),
    ];
    run("qemu-img", &args);
    let start = fs::metadata(&image).unwrap().len() - 40 * MIB;
    let picks = plain.picks(&mut Noise(4));
    let runs: Vec<Extent> = picks
        .iter()
        .map(|pick| run_of(start + pick.0 * BLOCK, BLOCK))
        .collect();
    let bad = [list(runs.iter().copied())];
    let secrets = Secrets::from_passphrase(PASSPHRASE);
    let losses = losses_of_all(&[&image], &bad, &secrets);
    let volume = losses[0].volume.clone().unwrap();
    assert!(volume.starts_with("inside LUKS1 "), "{volume}");
    for ((_, path, offset, bytes), run) in picks.iter().zip(&runs) {
        expect(&losses, 0, *run, &volume, (path, *offset, *bytes));
    }
    // Without the passphrase nobody knows.
    let losses = losses_of_all(&[&image], &bad, &Secrets::default());
    assert!(
        losses
            .iter()
            .all(|loss| matches!(&loss.what, What::Unknown { reason } if reason.contains("LUKS1"))),
        "{losses:#?}"
    );
}
