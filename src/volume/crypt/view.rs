//! The plaintext of an encrypted volume, as a volume of its own: sectors are decrypted as they are
//! read, and any run of it is traced to the whole sectors that it is made of.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use super::cipher::DecryptSector;
use crate::device::ReadAt;
use crate::device::read::check_range;
use crate::error::Result;
use crate::extent::Extent;
use crate::units::{ByteLen, ByteOffset};
use crate::volume::{Places, SharedVolume, Volume};
use zeroize::Zeroizing;

/// How much is decrypted at a time, in bytes: a multiple of every sector size.
const STEP: u64 = 256 << 10;

/// A run of the plaintext, in whole sectors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Piece {
    /// In the plaintext.
    pub plain: Extent,
    /// Where it begins on the encrypted volume.
    pub at: u64,
    /// What it is made of there.
    pub content: PieceContent,
}

/// What a piece is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PieceContent {
    /// Encrypted sectors, the first of which has this number.
    Encrypted(u64),
    /// Metadata of the encryption, which reads as zeros.
    Zeros,
}

/// The plaintext.
pub(super) struct View<'a> {
    volume: SharedVolume<'a>,
    pieces: Vec<Piece>,
    size: ByteLen,
    sector: u64,
    unit: u64,
    cipher: Box<dyn DecryptSector>,
}

impl<'a> View<'a> {
    /// Pieces have to follow each other without a gap from 0 on, each inside the volume and in
    /// whole sectors of `sector` bytes (a power of two from 512 to 4096); a sector's number grows by
    /// one every `unit` bytes. `None` if they do not.
    pub(super) fn new(
        volume: SharedVolume<'a>,
        pieces: Vec<Piece>,
        sector: u64,
        unit: u64,
        cipher: Box<dyn DecryptSector>,
    ) -> Option<Self> {
        let limit = volume.size().0;
        if !sector.is_power_of_two() || !(512..=4096).contains(&sector) || unit == 0 {
            return None;
        }
        let mut end = 0;
        for piece in &pieces {
            let len = piece.plain.len().0;
            let fits = piece.plain.start().0 == end
                && len.is_multiple_of(sector)
                && piece.at.is_multiple_of(512)
                && piece.at.checked_add(len).is_some_and(|end| end <= limit);
            if !fits {
                return None;
            }
            end = piece.plain.end();
        }
        Some(Self {
            volume,
            pieces,
            size: ByteLen(end),
            sector,
            unit,
            cipher,
        })
    }

    /// The parts of `extent` piece by piece, with where each begins inside its piece.
    fn parts(&self, extent: Extent) -> impl Iterator<Item = (&Piece, Extent)> {
        let from = self
            .pieces
            .partition_point(|piece| piece.plain.end() <= extent.start().0);
        self.pieces
            .get(from..)
            .unwrap_or_default()
            .iter()
            .map_while(move |piece| Some((piece, piece.plain.intersect(extent)?)))
    }

    /// `part` of a piece, counted from the piece's start and widened to whole sectors.
    fn whole_sectors(&self, piece: &Piece, part: Extent) -> (u64, u64) {
        let start = part.start().0.saturating_sub(piece.plain.start().0);
        let end = part.end().saturating_sub(piece.plain.start().0);
        let mask = self.sector.saturating_sub(1);
        (
            start & !mask,
            end.checked_next_multiple_of(self.sector).unwrap_or(end),
        )
    }

    /// Decrypts the sectors of a piece that lie `start` bytes behind its beginning.
    fn decrypt(&self, piece: &Piece, first: u64, start: u64, sectors: &mut [u8]) -> Result<()> {
        self.volume
            .read_at(ByteOffset(piece.at.saturating_add(start)), sectors)?;
        let step = usize::try_from(self.sector).unwrap_or(512);
        let offsets =
            (0_u64..).map(|index| start.saturating_add(index.saturating_mul(self.sector)));
        for (sector, offset) in sectors.chunks_exact_mut(step).zip(offsets) {
            let units = offset.checked_div(self.unit).unwrap_or(0);
            // As the kernel's counter, it may go round.
            self.cipher.decrypt(first.wrapping_add(units), sector);
        }
        Ok(())
    }
}

impl ReadAt for View<'_> {
    fn size(&self) -> ByteLen {
        self.size
    }

    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> Result<()> {
        check_range(&self.name(), self.size(), offset, buf.len())?;
        let len = u64::try_from(buf.len()).unwrap_or(u64::MAX);
        let Some(wanted) = Extent::new(offset, ByteLen(len)) else {
            return Ok(());
        };
        let mut sectors = Zeroizing::new(Vec::new());
        let mut rest = buf;
        for (piece, part) in self.parts(wanted) {
            let mut start = part.start().0;
            while start < part.end() {
                // Up to the next border of a step, so that whole sectors are read once.
                let border = (start & !STEP.saturating_sub(1)).saturating_add(STEP);
                let end = part.end().min(border);
                let Some(now) = Extent::between(start, end) else {
                    break;
                };
                let len = usize::try_from(now.len().0).unwrap_or(usize::MAX);
                let Some((target, behind)) = rest.split_at_mut_checked(len) else {
                    return Ok(());
                };
                match piece.content {
                    PieceContent::Zeros => target.fill(0),
                    PieceContent::Encrypted(first) => {
                        let (from, to) = self.whole_sectors(piece, now);
                        let room = usize::try_from(to.saturating_sub(from)).unwrap_or(0);
                        sectors.resize(room, 0);
                        self.decrypt(piece, first, from, &mut sectors)?;
                        let skip = start
                            .saturating_sub(piece.plain.start().0)
                            .saturating_sub(from);
                        let skip = usize::try_from(skip).unwrap_or(usize::MAX);
                        if let Some(bytes) = sectors.get(skip..).and_then(|s| s.get(..len)) {
                            target.copy_from_slice(bytes);
                        }
                    }
                }
                rest = behind;
                start = end;
            }
        }
        Ok(())
    }

    fn name(&self) -> String {
        self.volume.name()
    }
}

impl Volume for View<'_> {
    fn trace(&self, extent: Extent, places: &mut Places) {
        for (piece, part) in self.parts(extent) {
            let (start, end) = self.whole_sectors(piece, part);
            let sectors =
                Extent::between(piece.at.saturating_add(start), piece.at.saturating_add(end));
            if let Some(sectors) = sectors {
                self.volume.trace(sectors, places);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::arithmetic_side_effects)]

    use super::*;
    use crate::device::read::MemDisk;
    use crate::extent::ExtentList;
    use crate::volume::{DiskIndex, Slice};
    use proptest::prelude::*;
    use std::sync::Arc;

    /// Adds the sector's number to each of its bytes, so that each byte shows how it was read.
    struct Add;
    impl DecryptSector for Add {
        fn decrypt(&self, number: u64, sector: &mut [u8]) {
            for byte in sector {
                *byte = byte.wrapping_add(number.to_le_bytes()[0]);
            }
        }
    }

    fn piece(start: u64, end: u64, at: u64, content: PieceContent) -> Piece {
        let plain = Extent::between(start, end).unwrap();
        Piece { plain, at, content }
    }

    /// The first 1 KiB lies at 6 KiB, its place is not part of the plaintext, and the two halves
    /// around it are plain.
    fn pieces() -> Vec<Piece> {
        vec![
            piece(0, 1024, 6144, PieceContent::Encrypted(100)),
            piece(1024, 6144, 1024, PieceContent::Encrypted(2)),
            piece(6144, 7168, 6144, PieceContent::Zeros),
            piece(7168, 8192, 7168, PieceContent::Encrypted(14)),
        ]
    }

    fn disk() -> MemDisk {
        MemDisk((0..8192_u32).map(|at| at.to_le_bytes()[0] ^ 0x5A).collect())
    }

    fn view(disk: &MemDisk) -> View<'_> {
        let whole = Extent::between(0, 8192).unwrap();
        let slice = Arc::new(Slice::new(disk, DiskIndex(0), whole).unwrap());
        View::new(slice, pieces(), 512, 512, Box::new(Add)).unwrap()
    }

    fn expected(disk: &MemDisk, at: usize) -> u8 {
        let number = |sector: usize| sector.to_le_bytes()[0];
        match at {
            0..1024 => disk.0[at + 6144].wrapping_add(number(100 + at / 512)),
            6144..7168 => 0,
            _ => disk.0[at].wrapping_add(number(at / 512)),
        }
    }

    #[test]
    fn pieces_that_leave_the_volume_or_a_gap_are_refused() {
        let disk = disk();
        let whole = Extent::between(0, 8192).unwrap();
        let slice: SharedVolume<'_> = Arc::new(Slice::new(&disk, DiskIndex(0), whole).unwrap());
        let sound = PieceContent::Encrypted(0);
        for wrong in [
            vec![piece(0, 8192, 512, sound)],
            vec![piece(512, 1024, 0, sound)],
            vec![piece(0, 512, 0, sound), piece(1024, 2048, 0, sound)],
            vec![piece(0, 700, 0, sound)],
            vec![piece(0, 1024, u64::MAX - 511, sound)],
        ] {
            assert!(View::new(slice.clone(), wrong, 512, 512, Box::new(Add)).is_none());
        }
        assert!(View::new(slice, pieces(), 513, 512, Box::new(Add)).is_none());
    }

    proptest! {
        #[test]
        fn any_run_reads_as_its_bytes_do_one_by_one(start in 0_usize..8192, len in 0_usize..8192) {
            let disk = disk();
            let view = view(&disk);
            let len = len.min(8192 - start);
            let mut buf = vec![0; len];
            view.read_at(ByteOffset(start.try_into().unwrap()), &mut buf).unwrap();
            for (index, byte) in buf.iter().enumerate() {
                prop_assert_eq!(*byte, expected(&disk, start + index));
            }
        }

        /// Nothing outside its trace decides how a run reads.
        #[test]
        fn a_run_reads_the_same_when_all_but_its_trace_is_gone(
            start in 0_u64..8192, len in 1_u64..2000
        ) {
            let disk = disk();
            let view_before = view(&disk);
            let end = start.saturating_add(len).min(8192);
            let run = Extent::between(start, end).unwrap();
            let mut places = Places::new(1);
            view_before.trace(run, &mut places);
            let kept = places.finish().remove(0);
            let whole: ExtentList = Extent::between(0, 8192).into_iter().collect();
            let mut punched = disk.clone();
            for hole in whole.subtract(&kept).iter() {
                let hole = usize::try_from(hole.start().0).unwrap()..usize::try_from(hole.end()).unwrap();
                punched.0[hole].fill(0xEE);
            }
            let read = |disk: &MemDisk| {
                let mut buf = vec![0; usize::try_from(end - start).unwrap()];
                view(disk).read_at(ByteOffset(start), &mut buf).unwrap();
                buf
            };
            prop_assert_eq!(read(&disk), read(&punched));
            // And it is whole sectors, not one more.
            prop_assert!(kept.total().0 <= (end - start) + 2 * 512 + 1024);
        }
    }
}
