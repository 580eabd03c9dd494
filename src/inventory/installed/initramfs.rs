//! The modules in an initramfs: cpio archives one behind the other (microcode and, since Debian 13 and
//! Ubuntu 24.04, modules uncompressed in front), of which one or more are compressed.
//!
//! It is read once from its beginning to its end, in little memory whatever it unpacks to.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use super::cpio::{self, Bounded};
use super::drivers::Drivers;
use crate::files::{Content, Stream};
use flate2::bufread::GzDecoder;
use lz4_flex::frame::FrameDecoder;
use lzma_rust2::{LzmaReader, XzReader};
use std::io::{BufReader, Read};

/// What all of it may unpack to, in bytes: 512 MiB. The largest are half of that.
const MOST_UNPACKED: u64 = 512 << 20;
/// Memory that a decompressor may take, in KiB: `xz -9` takes 64 MiB.
const MOST_MEMORY_KIB: u32 = 80 << 10;
/// The same for zstd, as the power of two of its window: `zstd -19` has 8 MiB, `--long` 128 MiB.
const MOST_WINDOW_LOG: u32 = 26;
/// Archives one behind the other.
const MOST_SEGMENTS: usize = 64;
/// Bytes of zeros between two of them that are passed over.
const MOST_ZEROS: u64 = 16 << 20;
/// Bytes that tell what a segment is.
const MAGIC: usize = 6;

/// How a segment is packed, by its first bytes (`lib/decompress.c` of Linux).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Packing {
    None,
    Gzip,
    Xz,
    Lzma,
    Zstd,
    Lz4,
    Other(&'static str),
}

impl Packing {
    fn of(magic: [u8; MAGIC]) -> Option<Self> {
        const KNOWN: [(&[u8], Packing); 11] = [
            (b"070701", Packing::None),
            (b"070702", Packing::None),
            (&[0x1F, 0x8B], Packing::Gzip),
            (&[0xFD, b'7', b'z', b'X', b'Z', 0], Packing::Xz),
            (&[0x5D, 0, 0], Packing::Lzma),
            (&[0x28, 0xB5, 0x2F, 0xFD], Packing::Zstd),
            // The legacy frame is the one that Linux unpacks.
            (&[0x02, 0x21, 0x4C, 0x18], Packing::Lz4),
            (&[0x04, 0x22, 0x4D, 0x18], Packing::Lz4),
            (b"BZh", Packing::Other("bzip2")),
            (&[0x89, b'L', b'Z', b'O'], Packing::Other("lzop")),
            (b"070707", Packing::Other("an old cpio")),
        ];
        let found = KNOWN.iter().find(|(known, _)| magic.starts_with(known));
        found.map(|(_, packing)| *packing)
    }
}

/// The drivers in an initramfs.
///
/// # Errors
/// Why they are not known, for people: then not even those that were seen are all.
pub(super) fn drivers(initramfs: &dyn Content) -> Result<Vec<String>, String> {
    let mut drivers = Drivers::default();
    let mut image = None;
    let mut left = MOST_UNPACKED;
    let mut at = 0;
    if initramfs.size() == 0 {
        return Err("it is empty".into());
    }
    for nth in 0..MOST_SEGMENTS {
        let Some((start, magic)) = segment(initramfs, at)? else {
            break;
        };
        let packing = match Packing::of(magic) {
            Some(packing) => packing,
            None if nth == 0 => return Err("it is packed in a way that is not known here".into()),
            // A signature, or what a boot loader appended.
            None => break,
        };
        at = unpack(initramfs, start, magic, packing, &mut left, &mut |name| {
            let name = String::from_utf8_lossy(name);
            if is_image(&name) {
                image = Some(name.into_owned());
            } else {
                drivers.add_file(&name);
            }
        })?;
    }
    match image {
        // dracut's module `squash` puts all modules in there.
        Some(image) => Err(format!(
            "its modules are in an image of their own, {image:?}"
        )),
        None => Ok(drivers.into_names()),
    }
}

fn is_image(name: &str) -> bool {
    let file = name.rsplit('/').next().unwrap_or(name);
    matches!(file, "squashfs-root.img" | "erofs-root.img") || name.ends_with("squash/root.img")
}

/// Where the next segment begins behind zeros, and its first bytes; `None` at the end.
fn segment(initramfs: &dyn Content, from: u64) -> Result<Option<(u64, [u8; MAGIC])>, String> {
    let size = initramfs.size();
    let mut at = from;
    let mut piece = [0; 4096];
    while at < size && at.saturating_sub(from) <= MOST_ZEROS {
        let left = usize::try_from(size.saturating_sub(at)).unwrap_or(piece.len());
        let len = left.min(piece.len());
        let now = piece.get_mut(..len).unwrap_or_default();
        initramfs.read(at, now).map_err(|why| why.to_string())?;
        let zeros = now.iter().take_while(|&&byte| byte == 0).count();
        at = at.saturating_add(u64::try_from(zeros).unwrap_or(u64::MAX));
        if zeros == len {
            continue;
        }
        let mut magic = [0; MAGIC];
        let left = usize::try_from(size.saturating_sub(at)).unwrap_or(MAGIC);
        let some = magic.get_mut(..left.min(MAGIC)).unwrap_or_default();
        initramfs.read(at, some).map_err(|why| why.to_string())?;
        return Ok(Some((at, magic)));
    }
    Ok(None)
}

/// Reads the segment at `start`; where the next one may begin.
fn unpack(
    initramfs: &dyn Content,
    start: u64,
    magic: [u8; MAGIC],
    packing: Packing,
    left: &mut u64,
    each: &mut dyn FnMut(&[u8]),
) -> Result<u64, String> {
    let mut source = Stream::from(initramfs, start);
    let failed = |why: std::io::Error| format!("it cannot be unpacked: {why}");
    match packing {
        Packing::None => {
            source.read_exact(&mut [0; MAGIC]).map_err(failed)?;
            let mut reader = Bounded::new(&mut source, *left);
            let read = cpio::archive(&mut reader, magic, each);
            *left = reader.left();
            read.map_err(failed)?;
        }
        Packing::Gzip => {
            let reader = all(GzDecoder::new(&mut source), left, each).map_err(failed)?;
            drop(reader);
        }
        Packing::Zstd => {
            let mut reader = zstd::stream::read::Decoder::with_buffer(&mut source)
                .map_err(failed)?
                .single_frame();
            reader.window_log_max(MOST_WINDOW_LOG).map_err(failed)?;
            all(reader, left, each).map_err(failed)?;
        }
        Packing::Xz => {
            let reader = XzReader::new_mem_limit(&mut source, false, MOST_MEMORY_KIB);
            all(reader, left, each).map_err(failed)?;
        }
        Packing::Lzma => {
            let reader =
                LzmaReader::new_mem_limit(&mut source, MOST_MEMORY_KIB, None).map_err(failed)?;
            all(reader, left, each).map_err(failed)?;
        }
        Packing::Lz4 => {
            all(FrameDecoder::new(&mut source), left, each).map_err(failed)?;
        }
        Packing::Other(name) => return Err(format!("it is packed with {name}")),
    }
    Ok(source.position())
}

/// Reads what a decompressor gives to its end.
fn all<R: Read>(reader: R, left: &mut u64, each: &mut dyn FnMut(&[u8])) -> std::io::Result<R> {
    let mut reader = BufReader::with_capacity(64 << 10, Bounded::new(reader, *left));
    let read = cpio::archives(&mut reader, each);
    let bounded = reader.into_inner();
    *left = bounded.left();
    read?;
    Ok(bounded.into_inner())
}
