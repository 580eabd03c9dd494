//! The content of a file (`struct btrfs_file_extent_item`): pieces of logical addresses, compressed or
//! not, or in the item itself.
//!
//! | 0x08 | 0x10 | 0x11 | 0x14 | 0x15 | 0x1D | 0x25 | 0x2D |
//! | --- | --- | --- | --- | --- | --- | --- | --- |
//! | ram_bytes | compression | encryption | type | disk_bytenr | disk_num_bytes | offset | num_bytes |
//!
//! An inline one has its bytes from 0x15 on.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use super::{Btrfs, lzo, of};
use crate::bytes::{read_u8, read_u64le};
use crate::files::mapped::check_inside;
use crate::files::{Content, Node};
use crate::refusal::Refusal;
use crate::units::ByteOffset;
use crate::usedmap::btrfs::key::EXTENT_DATA;
use std::cell::RefCell;
use std::io::Read;

/// What is compressed together, at most (`BTRFS_MAX_UNCOMPRESSED`), in bytes.
const MAX_UNPACKED: u64 = 128 << 10;
/// Windows of zstd: no larger than what is compressed together.
const MAX_WINDOW_LOG: u32 = 17;

/// A piece of a file.
struct Piece {
    /// Its first byte in the file.
    at: u64,
    /// How many bytes of the file.
    len: u64,
    source: Source,
}

enum Source {
    /// Its bytes, unpacked.
    Inline(Vec<u8>),
    /// Logical address.
    Plain(u64),
    /// What is packed at a logical address.
    Packed(Packed),
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Packed {
    compression: u8,
    logical: u64,
    len: u64,
    unpacked: u64,
    /// Where the piece begins in what is unpacked.
    skip: u64,
}

/// The content of a file.
pub(super) struct Extents<'f, 'a> {
    fs: &'f Btrfs<'a>,
    size: u64,
    /// By their place.
    pieces: Vec<Piece>,
    /// What was unpacked last: a file is mostly read in order.
    unpacked: RefCell<Option<(u64, Vec<u8>)>>,
}

impl<'a> Btrfs<'a> {
    /// The content of a file of `size` bytes.
    pub(super) fn extents(&self, file: Node, size: u64) -> Result<Extents<'_, 'a>, Refusal> {
        let tree = self.subvolume_tree(file.tree)?;
        let mut pieces = Vec::new();
        self.items(tree, of(file.number, EXTENT_DATA), &mut |key, data| {
            pieces.extend(self.piece(key.offset, data, file)?);
            Ok(())
        })?;
        pieces.sort_unstable_by_key(|piece: &Piece| piece.at);
        Ok(Extents {
            fs: self,
            size,
            pieces,
            unpacked: RefCell::new(None),
        })
    }

    /// `None` for a hole.
    fn piece(&self, at: u64, data: &[u8], file: Node) -> Result<Option<Piece>, Refusal> {
        let odd = |what: &str| Refusal::Damaged(format!("inode {} {what}", file.number));
        let ram_bytes = read_u64le(data, 0x08);
        let compression = read_u8(data, 0x10);
        if read_u8(data, 0x11) != 0 || compression > 3 {
            return Err(Refusal::Unsupported(format!(
                "inode {} is packed in a way that is not known here",
                file.number
            )));
        }
        let kind = read_u8(data, 0x14);
        if kind == 0 {
            let bytes = data.get(0x15..).unwrap_or_default();
            if ram_bytes > MAX_UNPACKED {
                return Err(odd("has more in itself than fits"));
            }
            let bytes = match compression {
                0 => bytes.to_vec(),
                _ => self
                    .unpack(compression, bytes, ram_bytes)
                    .ok_or_else(|| odd("cannot be unpacked"))?,
            };
            return Ok(Some(Piece {
                at,
                len: u64::try_from(bytes.len()).unwrap_or(u64::MAX),
                source: Source::Inline(bytes),
            }));
        }
        let logical = read_u64le(data, 0x15);
        let disk_num_bytes = read_u64le(data, 0x1D);
        let skip = read_u64le(data, 0x25);
        let len = read_u64le(data, 0x2D);
        if data.len() < 0x35 || kind > 2 {
            return Err(odd("has a piece that is none"));
        }
        // A hole, and what was set aside but never written.
        if logical == 0 || kind == 2 {
            return Ok(None);
        }
        let end = skip.checked_add(len).filter(|&end| end <= ram_bytes);
        if end.is_none() {
            return Err(odd("has a piece that ends behind itself"));
        }
        let source = if compression == 0 {
            Source::Plain(logical.checked_add(skip).ok_or_else(|| odd("is nowhere"))?)
        } else if ram_bytes > MAX_UNPACKED || disk_num_bytes > MAX_UNPACKED {
            return Err(odd("has more packed together than can be"));
        } else {
            Source::Packed(Packed {
                compression,
                logical,
                len: disk_num_bytes,
                unpacked: ram_bytes,
                skip,
            })
        };
        Ok(Some(Piece { at, len, source }))
    }

    /// Reads data at a logical address, from whichever copy can be read.
    fn read_logical(&self, logical: u64, buf: &mut [u8]) -> Result<(), Refusal> {
        let nowhere = || Refusal::Damaged(format!("logical byte {logical} is in no chunk"));
        let mut at = logical;
        let mut rest = buf;
        while !rest.is_empty() {
            // Piece by piece: an extent may lie across chunks.
            let chunk = self
                .chunks
                .find(at)
                .and_then(|place| self.chunks.get(place));
            let room = chunk.ok_or_else(nowhere)?.end().saturating_sub(at);
            let now = usize::try_from(room).unwrap_or(usize::MAX).min(rest.len());
            let (piece, behind) = rest.split_at_mut(now);
            self.read_any_copy(at, piece)?;
            at = at.saturating_add(u64::try_from(now).unwrap_or(u64::MAX));
            rest = behind;
        }
        Ok(())
    }

    fn read_any_copy(&self, logical: u64, buf: &mut [u8]) -> Result<(), Refusal> {
        let len = u64::try_from(buf.len()).unwrap_or(u64::MAX);
        let mut why = Refusal::Damaged(format!("logical byte {logical} is in no chunk"));
        for copy in 0.. {
            let Some(pieces) = self.chunks.locate(logical, len, copy) else {
                break;
            };
            let mut rest = &mut *buf;
            let mut read = Ok(());
            for (stripe, len) in pieces {
                let len = usize::try_from(len).unwrap_or(usize::MAX).min(rest.len());
                let (piece, behind) = rest.split_at_mut(len);
                rest = behind;
                let device = usize::try_from(stripe.device)
                    .ok()
                    .and_then(|place| self.devices.get(place));
                let Some(device) = device else { continue };
                read = read.and(device.volume.read_at(ByteOffset(stripe.physical), piece));
            }
            match read {
                Ok(()) => return Ok(()),
                Err(error) => why = error.into(),
            }
        }
        Err(why)
    }

    /// `None` if it is damaged. What is missing behind its end reads as zeros, as in the kernel.
    fn unpack(&self, compression: u8, bytes: &[u8], unpacked: u64) -> Option<Vec<u8>> {
        let len = usize::try_from(unpacked.min(MAX_UNPACKED)).ok()?;
        let mut text = Vec::new();
        match compression {
            1 => {
                let mut reader = flate2::read::ZlibDecoder::new(bytes).take(unpacked);
                reader.read_to_end(&mut text).ok()?;
            }
            2 => text = lzo::unpack(bytes, usize::try_from(self.sb.sectorsize).ok()?, len)?,
            _ => {
                let mut reader = zstd::stream::read::Decoder::with_buffer(bytes)
                    .ok()?
                    .single_frame();
                reader.window_log_max(MAX_WINDOW_LOG).ok()?;
                reader.take(unpacked).read_to_end(&mut text).ok()?;
            }
        }
        text.resize(len, 0);
        Some(text)
    }
}

impl Extents<'_, '_> {
    /// Fills `buf` from byte `into` of a piece on.
    fn read_piece(&self, piece: &Piece, into: u64, buf: &mut [u8]) -> Result<(), Refusal> {
        let damaged = || Refusal::Damaged("a piece of a file cannot be unpacked".into());
        let copy = |bytes: &[u8], from: u64, buf: &mut [u8]| {
            let from = usize::try_from(from).ok()?;
            buf.copy_from_slice(bytes.get(from..)?.get(..buf.len())?);
            Some(())
        };
        match &piece.source {
            Source::Inline(bytes) => copy(bytes, into, buf).ok_or_else(damaged),
            Source::Plain(logical) => self.fs.read_logical(logical.saturating_add(into), buf),
            Source::Packed(packed) => {
                let from = packed.skip.saturating_add(into);
                let mut kept = self.unpacked.borrow_mut();
                if let Some((logical, bytes)) = kept.as_ref()
                    && *logical == packed.logical
                {
                    return copy(bytes, from, buf).ok_or_else(damaged);
                }
                let mut bytes = vec![0; usize::try_from(packed.len).unwrap_or(0)];
                self.fs.read_logical(packed.logical, &mut bytes)?;
                let unpacked = self.fs.unpack(packed.compression, &bytes, packed.unpacked);
                let unpacked = unpacked.ok_or_else(damaged)?;
                let copied = copy(&unpacked, from, buf);
                *kept = Some((packed.logical, unpacked));
                copied.ok_or_else(damaged)
            }
        }
    }
}

impl Content for Extents<'_, '_> {
    fn size(&self) -> u64 {
        self.size
    }

    fn read(&self, at: u64, buf: &mut [u8]) -> Result<(), Refusal> {
        check_inside(self.size, at, buf)?;
        let mut at = at;
        let mut rest = buf;
        while !rest.is_empty() {
            let next = self.pieces.partition_point(|piece| piece.at <= at);
            let here = next.checked_sub(1).and_then(|nth| self.pieces.get(nth));
            let here = here.and_then(|piece| {
                let into = at.checked_sub(piece.at)?;
                let left = piece.len.checked_sub(into).filter(|&left| left > 0)?;
                Some((piece, into, left))
            });
            let gap = self
                .pieces
                .get(next)
                .map_or(u64::MAX, |piece| piece.at.saturating_sub(at));
            let room = here.map_or(gap, |(_, _, left)| left.min(gap));
            let room = usize::try_from(room).unwrap_or(usize::MAX).min(rest.len());
            let (now, behind) = rest.split_at_mut(room);
            match here {
                Some((piece, into, _)) => self.read_piece(piece, into, now)?,
                None => now.fill(0),
            }
            at = at.saturating_add(u64::try_from(room).unwrap_or(u64::MAX));
            rest = behind;
        }
        Ok(())
    }
}
