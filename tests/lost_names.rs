//! The proof that lost sectors get the names of the files that lay there: real filesystems are made and
//! filled, blocks of their files are picked by what the kernel or the filesystem's own tools say of
//! where they are, and each of them has to be named with its path and the offset in the file.

mod map_support;

#[path = "lost_names/ext.rs"]
mod ext;
#[path = "lost_names/hostile.rs"]
mod hostile;
#[path = "lost_names/ntfs.rs"]
mod ntfs;
#[path = "lost_names/volumes.rs"]
mod volumes;
#[path = "lost_names/xfs.rs"]
mod xfs;

use haulier::device::{Disk, ReadAt};
use haulier::extent::{Extent, ExtentList};
use haulier::lost::{Loss, What, name_losses};
use haulier::usedmap::DiskInfo;
use haulier::volume::crypt::Secrets;
use map_support::{Noise, arg, run};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

const MIB: u64 = 1 << 20;

/// What was lost of an image.
fn losses_of(image: &Path, bad: &ExtentList) -> Vec<Loss> {
    losses_of_all(&[image], std::slice::from_ref(bad), &Secrets::default())
}

fn losses_of_all(images: &[&Path], bad: &[ExtentList], secrets: &Secrets) -> Vec<Loss> {
    let disks: Vec<Disk> = images
        .iter()
        .map(|image| Disk::open(image).unwrap())
        .collect();
    let sources: Vec<(&dyn ReadAt, DiskInfo)> = disks
        .iter()
        .map(|disk| (disk as &dyn ReadAt, DiskInfo::from(disk.identity())))
        .collect();
    let losses = name_losses(&sources, bad, secrets).unwrap();
    // Whatever it is, all of it is told.
    for (disk, bad) in bad.iter().enumerate() {
        let told: ExtentList = losses
            .iter()
            .filter(|loss| loss.disk == disk)
            .map(|loss| loss.range)
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect();
        assert_eq!(told, *bad, "what was told of disk {disk}");
    }
    losses
}

fn run_of(start: u64, len: u64) -> Extent {
    Extent::between(start, start + len).unwrap()
}

fn list(extents: impl IntoIterator<Item = Extent>) -> ExtentList {
    let mut all: Vec<Extent> = extents.into_iter().collect();
    all.sort_unstable();
    all.into_iter().collect()
}

/// A piece of a file: where it is in the file and on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    in_file: u64,
    on_disk: u64,
    len: u64,
}

/// A file and where it lies.
#[derive(Debug, Clone)]
struct Placed {
    inode: u64,
    /// All its names, from the filesystem's root.
    names: Vec<PathBuf>,
    size: u64,
    places: Vec<Place>,
}

/// The files by their inodes, each with all its names.
fn by_inode(root: &Path, files: &[PathBuf]) -> Vec<(u64, Vec<PathBuf>)> {
    let mut names: BTreeMap<u64, Vec<PathBuf>> = BTreeMap::new();
    for file in files {
        let inode = fs::metadata(root.join(file)).unwrap().ino();
        names.entry(inode).or_default().push(file.clone());
    }
    names.into_iter().collect()
}

/// Where the kernel says that files lie, without what is in no block of its own.
fn places_by_kernel(root: &Path, files: &[PathBuf]) -> Vec<Placed> {
    let mut all = Vec::new();
    for files in by_inode(root, files).chunks(500) {
        let paths: Vec<PathBuf> = files
            .iter()
            .map(|(_, names)| root.join(&names[0]))
            .collect();
        let output = std::process::Command::new("filefrag")
            .args(["-v", "-b512"])
            .args(&paths)
            .env("LC_ALL", "C")
            .output()
            .unwrap();
        assert!(output.status.success(), "filefrag: {output:?}");
        let sizes = paths.iter().map(|path| fs::metadata(path).unwrap().len());
        let named = files.iter().cloned().zip(sizes);
        let named = named.map(|((inode, names), size)| (inode, names, size));
        all.extend(placed(
            &String::from_utf8_lossy(&output.stdout),
            named.collect(),
        ));
    }
    all
}

/// What `filefrag -v -b512` printed of files with these names and sizes, in this order.
fn placed(text: &str, files: Vec<(u64, Vec<PathBuf>, u64)>) -> Vec<Placed> {
    // In a name there may be a line break, but not this.
    let sections: Vec<&str> = text.split("File size of ").skip(1).collect();
    assert_eq!(sections.len(), files.len());
    files
        .into_iter()
        .zip(sections)
        .map(|((inode, names, size), section)| Placed {
            inode,
            names,
            size,
            places: section.lines().filter_map(place_of).collect(),
        })
        .collect()
}

/// `   0:        0..       7:      33000..     33007:      8:             last,eof`
fn place_of(line: &str) -> Option<Place> {
    let fields = line
        .split([':', ' ', '.'])
        .filter(|field| !field.is_empty());
    let numbers: Vec<u64> = fields
        .take(6)
        .filter_map(|field| field.parse().ok())
        .collect();
    if !line.starts_with(' ') || numbers.len() < 6 {
        return None;
    }
    assert!(!line.contains("delalloc"), "{line}");
    let elsewhere = ["inline", "unwritten", "not_aligned"];
    (!elsewhere.iter().any(|flag| line.contains(flag))).then(|| Place {
        in_file: numbers[1] * 512,
        on_disk: numbers[3] * 512,
        len: numbers[5] * 512,
    })
}

/// All regular files below a folder, each by one of its names.
fn files_below(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(root.join(&folder)).unwrap() {
            let entry = entry.unwrap();
            let path = folder.join(entry.file_name());
            let kind = entry.file_type().unwrap();
            if kind.is_dir() {
                folders.push(path);
            } else if kind.is_file() {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// The path as the report has it.
fn reported(path: &Path) -> String {
    let mut text = String::new();
    for name in path {
        text.push('/');
        for chunk in name.as_bytes().utf8_chunks() {
            for char in chunk.valid().chars() {
                if char.is_control() || char == '\\' {
                    text.push_str(&format!("\\u{{{:x}}}", u32::from(char)));
                } else {
                    text.push(char);
                }
            }
            for byte in chunk.invalid() {
                text.push_str(&format!("\\x{byte:02x}"));
            }
        }
    }
    text
}

/// A tree with all that makes naming hard.
fn make_hard_tree(root: &Path, noise: &mut Noise, thousands: u64, names: &[Vec<u8>]) {
    map_support::make_tree(root, noise, 6 * MIB);
    run("sync", &["-f", arg(root)]);
    // Holes for what comes.
    for file in files_below(root).iter().step_by(2) {
        fs::remove_file(root.join(file)).unwrap();
    }
    run("sync", &["-f", arg(root)]);
    fs::write(root.join("in holes"), noise.bytes(3 * MIB)).unwrap();
    // Every second block: a map of many extents.
    let sparse = fs::File::create(root.join("sparse")).unwrap();
    for block in 0..700 {
        sparse
            .write_all_at(&noise.bytes(4096), block * 2 * 4096)
            .unwrap();
    }
    let far = fs::File::create(root.join("far")).unwrap();
    for at in [0, 13 * 4096, 5 * MIB, 900 * MIB, 1300 * MIB] {
        far.write_all_at(&noise.bytes(5000), at).unwrap();
    }
    let crowd = root.join("crowd");
    fs::create_dir(&crowd).unwrap();
    for number in 0..thousands {
        let name = format!("one of very many files with a name of some length {number}");
        fs::write(crowd.join(name), noise.bytes(1 + number % 600)).unwrap();
    }
    let mut deep = root.to_owned();
    for level in 0..60 {
        deep.push(format!("level {level}"));
        fs::create_dir(&deep).unwrap();
    }
    fs::write(deep.join("bottom"), noise.bytes(9000)).unwrap();
    let odd = root.join("odd\n\u{1b}[2Jfolder");
    fs::create_dir(&odd).unwrap();
    for (number, name) in names.iter().enumerate() {
        let number = u64::try_from(number).unwrap();
        fs::write(
            odd.join(OsStr::from_bytes(name)),
            noise.bytes(4000 + number),
        )
        .unwrap();
    }
    fs::write(root.join("first name"), noise.bytes(20_000)).unwrap();
    fs::hard_link(root.join("first name"), odd.join("second name")).unwrap();
    run("sync", &["-f", arg(root)]);
}

fn hostile_names() -> Vec<Vec<u8>> {
    vec![
        b"line\nbreak".to_vec(),
        b"\x1b]0;title\x07".to_vec(),
        b"back\\slash".to_vec(),
        b"not \xff\xfe UTF-8 \xc3".to_vec(),
        "x".repeat(255).into_bytes(),
        [0xF0_u8; 255].to_vec(),
        "Grüße 日本".as_bytes().to_vec(),
        b" ".to_vec(),
        b"...".to_vec(),
    ]
}

/// One block of each file, by chance, and what has to be said of it.
fn pick(files: &[Placed], block: u64, noise: &mut Noise) -> Vec<(Extent, Placed, u64)> {
    let mut picked = Vec::new();
    for file in files.iter().filter(|file| !file.places.is_empty()) {
        let place = file.places[noise.below(file.places.len() as u64) as usize];
        let nth = noise.below(place.len.div_ceil(block));
        // What is behind the end of the file is none of it.
        let nth = nth.min((file.size - 1 - place.in_file.min(file.size - 1)) / block);
        let offset = place.in_file + nth * block;
        picked.push((
            run_of(place.on_disk + nth * block, block),
            file.clone(),
            offset,
        ));
    }
    picked
}

/// Loses one block of every file, all at once, and expects each to be named.
fn expect_names(image: &Path, at: u64, files: &[Placed], block: u64, noise: &mut Noise) -> usize {
    let picked = pick(files, block, noise);
    let bad = list(
        picked
            .iter()
            .map(|(extent, ..)| run_of(extent.start().0 + at, block)),
    );
    let losses = losses_of(image, &bad);
    for (extent, file, offset) in &picked {
        expect_file(&losses, run_of(extent.start().0 + at, block), file, *offset);
    }
    picked.len()
}

/// Among the losses is this run as this part of the file.
fn expect_file(losses: &[Loss], run: Extent, file: &Placed, offset: u64) {
    let named = losses.iter().any(|loss| {
        let What::File {
            path,
            inode,
            offset_in_file,
            bytes,
        } = &loss.what
        else {
            return false;
        };
        let Some(part) = loss.range.intersect(run) else {
            return false;
        };
        // Neighbours that were lost too are told together.
        let skip = run.start().0.checked_sub(loss.range.start().0);
        file.names.iter().any(|name| *path == reported(name))
            && *inode == file.inode
            && part == run
            && skip.is_some_and(|skip| {
                offset_in_file + skip == offset
                    && offset_in_file + bytes >= (offset + run.len().0).min(file.size)
                    && offset_in_file + bytes <= file.size
            })
    });
    let said: Vec<&Loss> = losses
        .iter()
        .filter(|loss| loss.range.intersect(run).is_some())
        .collect();
    assert!(
        named,
        "{run:?} is {file:?} from {offset} on, but it is said: {said:#?}"
    );
}

/// What is said of one run.
fn said_of(losses: &[Loss], run: Extent) -> Vec<&What> {
    losses
        .iter()
        .filter(|loss| loss.range.intersect(run).is_some())
        .map(|loss| &loss.what)
        .collect()
}

/// That this is all that is said of a run, and in these words.
fn expect_metadata(losses: &[Loss], run: Extent, word: &str) -> Vec<String> {
    let said = said_of(losses, run);
    match said[..] {
        [What::Metadata { which, files }] if which.contains(word) => files.clone(),
        _ => panic!("{run:?} is {word}, but it is said: {said:#?}"),
    }
}
