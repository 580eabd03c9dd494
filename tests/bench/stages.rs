//! Each stage of a capture alone: what the disk, the processors and the store can do when nothing
//! else is done. `cargo xtask bench` sets a capture's time against the slowest of them.
//!
//! ```text
//! stages read DISK          reads the used extents, with O_DIRECT, four requests at a time
//! stages compress DISK      digests and compresses samples of them from memory, on all processors
//! stages both DISK          reads, digests and compresses all of it, on all processors: where the disk is memory,
//!                           the processors copy what is read, and that is not a stage of its own
//! stages write FILE BYTES   writes so many bytes, with O_DIRECT, four requests at a time, and syncs
//! ```
//!
//! Each prints one JSON document with `seconds` and `bytes` (of the whole disk for `compress`).

use haulier::capture::pool::digest_and_encode;
use haulier::capture::read::ChunkReader;
use haulier::device::{AlignedBuf, Disk, ReadAt};
use haulier::extent::{Extent, ExtentList};
use haulier::qcow2::{Compression, Encoded, Encoder};
use haulier::usedmap::{DiskInfo, map_disks};
use haulier::volume::crypt::Secrets;
use std::fs::File;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

const PIECE: usize = 4 << 20;
const QUEUE: usize = 4;
/// How much is compressed, in bytes: enough to be like the whole, and more than any processor's cache
/// holds, as it is read from memory in a capture too.
const SAMPLE: u64 = 5 << 29;
/// As `O_DIRECT` of x86-64 Linux.
const O_DIRECT: i32 = 0o40000;

fn main() {
    // `cargo bench` and `cargo test` add words of their own.
    let words: Vec<String> = std::env::args()
        .skip(1)
        .filter(|word| !word.starts_with("--"))
        .collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let (seconds, bytes, stored) = match words[..] {
        ["read", disk] => read(Path::new(disk)),
        ["compress", disk] => compress(Path::new(disk)),
        ["both", disk] => both(Path::new(disk)),
        ["write", file, bytes] => write(Path::new(file), bytes.parse().unwrap()),
        [] => return,
        _ => panic!("see the head of tests/bench/stages.rs"),
    };
    println!(r#"{{"seconds":{seconds:.3},"bytes":{bytes},"stored":{stored}}}"#);
}

fn used(disk: &Disk) -> ExtentList {
    let source: (&dyn ReadAt, DiskInfo) = (disk, DiskInfo::from(disk.identity()));
    let map = map_disks(&[source], &Secrets::new())
        .unwrap()
        .swap_remove(0);
    map.extents
}

/// The used extents in pieces of at most [`PIECE`].
fn pieces(used: &ExtentList) -> Vec<Extent> {
    let mut pieces = Vec::new();
    for extent in used.iter() {
        let mut at = extent.start().0;
        while let Some(piece) = Extent::between(at, extent.end().min(at + PIECE as u64)) {
            pieces.push(piece);
            at = piece.end();
        }
    }
    pieces
}

/// Page-aligned room in a buffer that is a page too long.
fn aligned(buffer: &mut [u8]) -> &mut [u8] {
    let skip = buffer.as_ptr().align_offset(4096);
    &mut buffer[skip..skip + PIECE]
}

/// Runs `work` for each number below `count` on [`QUEUE`] threads; seconds.
fn queued(count: usize, work: impl Fn(usize, &mut [u8]) + Sync) -> f64 {
    let next = AtomicUsize::new(0);
    let start = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..QUEUE {
            scope.spawn(|| {
                let mut buffer = vec![0x5A; PIECE + 4096];
                let buffer = aligned(&mut buffer);
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= count {
                        return;
                    }
                    work(number, buffer);
                }
            });
        }
    });
    start.elapsed().as_secs_f64()
}

fn read(path: &Path) -> (f64, u64, u64) {
    let used = used(&Disk::open(path).unwrap());
    let pieces = pieces(&used);
    let file = File::options()
        .read(true)
        .custom_flags(O_DIRECT)
        .open(path)
        .unwrap();
    let seconds = queued(pieces.len(), |number, buffer| {
        let piece = pieces[number];
        file.read_exact_at(&mut buffer[..piece.len().0 as usize], piece.start().0)
            .unwrap();
    });
    (seconds, used.total().0, 0)
}

fn compress(path: &Path) -> (f64, u64, u64) {
    let disk = Disk::open(path).unwrap();
    let used = used(&disk);
    let total = used.total().0;
    let reader = ChunkReader::new(&disk, &used, disk.identity().logical_sector_bytes);
    // As workers get them, evenly over what is used.
    let mut samples: Vec<Vec<u8>> = Vec::new();
    let (mut passed, mut sampled) = (0, 0);
    for start in (0..disk.size().0).step_by(PIECE) {
        let chunk = Extent::between(start, disk.size().0.min(start + PIECE as u64)).unwrap();
        let read: u64 = used.within(chunk).map(|extent| extent.len().0).sum();
        if read > 0 && sampled <= (passed as f64 * SAMPLE as f64 / total as f64) as u64 {
            let mut bytes = vec![0; chunk.len().0 as usize];
            sampled += reader.fill(chunk, &mut bytes).unwrap().0;
            samples.push(bytes);
        }
        passed += read;
    }
    let mut best = (f64::MAX, 0);
    for _ in 0..3 {
        let (seconds, stored) =
            on_all_processors(&samples, |sample, encoder, _| encoded(sample, encoder));
        if seconds < best.0 {
            best = (seconds, stored);
        }
    }
    let scale = total as f64 / sampled as f64;
    (best.0 * scale, total, (best.1 as f64 * scale) as u64)
}

fn both(path: &Path) -> (f64, u64, u64) {
    let disk = Disk::open(path).unwrap();
    let used = used(&disk);
    let reader = ChunkReader::new(&disk, &used, disk.identity().logical_sector_bytes);
    let chunks: Vec<Extent> = (0..disk.size().0)
        .step_by(PIECE)
        .filter_map(|start| Extent::between(start, disk.size().0.min(start + PIECE as u64)))
        .filter(|chunk| used.within(*chunk).next().is_some())
        .collect();
    let (seconds, stored) = on_all_processors(&chunks, |chunk, encoder, bytes| {
        bytes.set_len(chunk.len().0 as usize);
        reader.fill(*chunk, bytes).unwrap();
        encoded(bytes, encoder)
    });
    (seconds, used.total().0, stored)
}

/// Does `work`, which says how many bytes are stored, with each of `pieces`; seconds and the sum.
fn on_all_processors<P: Sync>(
    pieces: &[P],
    work: impl Fn(&P, &mut Encoder, &mut AlignedBuf) -> usize + Sync,
) -> (f64, u64) {
    let next = AtomicUsize::new(0);
    let stored = AtomicUsize::new(0);
    let start = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().unwrap().get() {
            scope.spawn(|| {
                let mut encoder = Encoder::new(Compression::Zstd).unwrap();
                let mut bytes = AlignedBuf::new(PIECE).unwrap();
                while let Some(piece) = pieces.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let length = work(piece, &mut encoder, &mut bytes);
                    stored.fetch_add(length, Ordering::Relaxed);
                }
            });
        }
    });
    (
        start.elapsed().as_secs_f64(),
        stored.load(Ordering::Relaxed) as u64,
    )
}

/// Digests and encodes a chunk; how many bytes are stored of it.
fn encoded(chunk: &[u8], encoder: &mut Encoder) -> usize {
    let (digest, clusters) = digest_and_encode(chunk, encoder);
    std::hint::black_box(digest);
    let length = |encoded| match encoded {
        Encoded::Zero | Encoded::Zeroed => 0,
        Encoded::Compressed(bytes) | Encoded::Plain(bytes) => bytes.len(),
    };
    clusters.into_iter().map(length).sum()
}

fn write(path: &Path, bytes: u64) -> (f64, u64, u64) {
    let file = File::options()
        .write(true)
        .create_new(true)
        .custom_flags(O_DIRECT)
        .open(path)
        .unwrap();
    let count = (bytes as usize).div_ceil(PIECE);
    let start = Instant::now();
    queued(count, |number, buffer| {
        file.write_all_at(buffer, (number * PIECE) as u64).unwrap();
    });
    file.sync_all().unwrap();
    let seconds = start.elapsed().as_secs_f64();
    std::fs::remove_file(path).unwrap();
    (seconds, (count * PIECE) as u64, 0)
}
