//! Reading the used extents of one chunk off the disk: first without patience, later, if need be,
//! around the sectors that cannot be read.

use crate::device::ReadAt;
use crate::device::aligned::ALIGNMENT;
use crate::error::{Error, Kind, Result};
use crate::extent::{Extent, ExtentList};
use crate::units::{ByteLen, SectorSize};

/// Extents that lie closer together are read as one: asking twice costs more than reading what
/// lies between, which is then made zero.
const GAP_BYTES: u64 = 32 << 10;

/// Reads a disk chunk by chunk.
#[derive(Debug)]
pub struct ChunkReader<'a, D: ReadAt + ?Sized> {
    disk: &'a D,
    used: &'a ExtentList,
    sector: SectorSize,
}

impl<'a, D: ReadAt + ?Sized> ChunkReader<'a, D> {
    /// Reads only `used` extents of `disk`; bad spots are told apart by `sector`.
    pub fn new(disk: &'a D, used: &'a ExtentList, sector: SectorSize) -> Self {
        Self { disk, used, sector }
    }

    /// Fills `buf` with the guest-visible bytes of `chunk`: used extents as read, all else zero.
    /// Returns how many bytes are used in it.
    ///
    /// # Errors
    /// At the first one, of which nothing more is asked: see [`Self::rescue`].
    pub fn fill(&self, chunk: Extent, buf: &mut [u8]) -> Result<ByteLen> {
        let size = self.disk.size().0;
        // What was made zero, or read, of the chunk so far.
        let mut filled = chunk.start().0;
        let mut used = 0_u64;
        let mut wanted = self.used.within(chunk).peekable();
        while let Some(first) = wanted.next() {
            used = used.saturating_add(first.len().0);
            let mut kept = vec![first];
            let mut end = first.end();
            while let Some(next) =
                wanted.next_if(|next| next.start().0.saturating_sub(end) <= GAP_BYTES)
            {
                used = used.saturating_add(next.len().0);
                end = next.end();
                kept.push(next);
            }
            let request = widened(first.start().0, end, chunk, size)?;
            zero(buf, chunk, filled, request.start().0)?;
            self.disk
                .read_at(request.start(), slice_of(buf, chunk, request)?)?;
            let mut at = request.start().0;
            for extent in kept {
                zero(buf, chunk, at, extent.start().0)?;
                at = extent.end();
            }
            zero(buf, chunk, at, request.end())?;
            filled = request.end();
        }
        zero(buf, chunk, filled, chunk.end())?;
        Ok(ByteLen(used))
    }

    /// As [`Self::fill`], with all patience: sectors that cannot be read are zero too, and are
    /// returned as bad.
    ///
    /// # Errors
    /// When the disk is gone: then nothing more of it can be read and going on is pointless.
    pub fn rescue(&self, chunk: Extent, buf: &mut [u8]) -> Result<(ByteLen, ExtentList)> {
        buf.fill(0);
        let mut used = 0_u64;
        let mut bad = ExtentList::new();
        for extent in self.used.within(chunk) {
            self.read_around_bad(extent, slice_of(buf, chunk, extent)?, &mut bad)?;
            used = used.saturating_add(extent.len().0);
        }
        Ok((ByteLen(used), bad))
    }

    /// Halves the piece until the bad sectors stand alone, so that a single one costs at most one
    /// sector of data.
    fn read_around_bad(
        &self,
        piece: Extent,
        target: &mut [u8],
        bad: &mut ExtentList,
    ) -> Result<()> {
        let error = match self.disk.read_at(piece.start(), target) {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        if error.kind() != Kind::Io {
            return Err(error);
        }
        self.disk.reopen()?;
        let sector = self.sector.bytes();
        let sectors = piece.len().0.div_ceil(sector);
        if sectors <= 1 {
            target.fill(0);
            bad.insert(piece);
            return Ok(());
        }
        let middle = piece
            .start()
            .0
            .saturating_add((sectors / 2).saturating_mul(sector));
        let halves = (
            Extent::between(piece.start().0, middle),
            Extent::between(middle, piece.end()),
        );
        let (Some(first), Some(second)) = halves else {
            return Err(error);
        };
        let (left, right) = target.split_at_mut(as_len(first.len())?);
        self.read_around_bad(first, left, bad)?;
        self.read_around_bad(second, right, bad)
    }
}

/// The bytes from `start` to `end`, and around them what makes them whole pages, as reading past
/// the cache wants them; never outside of the chunk or the disk.
fn widened(start: u64, end: u64, chunk: Extent, size: u64) -> Result<Extent> {
    let page = u64::try_from(ALIGNMENT).unwrap_or(u64::MAX);
    let from = (start / page).saturating_mul(page).max(chunk.start().0);
    let to = end
        .div_ceil(page)
        .saturating_mul(page)
        .min(chunk.end())
        .min(size);
    Extent::between(from, to).ok_or_else(|| Error::corrupt("an empty extent in a used map"))
}

/// Makes the bytes from `from` to `to` of a chunk zero.
fn zero(buf: &mut [u8], chunk: Extent, from: u64, to: u64) -> Result<()> {
    if let Some(gap) = Extent::between(from, to) {
        slice_of(buf, chunk, gap)?.fill(0);
    }
    Ok(())
}

/// The part of a chunk's buffer that `piece` of the disk goes to.
fn slice_of(buf: &mut [u8], chunk: Extent, piece: Extent) -> Result<&mut [u8]> {
    let from = as_len(ByteLen(piece.start().0.saturating_sub(chunk.start().0)))?;
    let len = as_len(piece.len())?;
    buf.get_mut(from..)
        .and_then(|rest| rest.get_mut(..len))
        .ok_or_else(|| Error::corrupt("a chunk's buffer is smaller than the chunk"))
}

fn as_len(len: ByteLen) -> Result<usize> {
    usize::try_from(len.0).map_err(|_| Error::corrupt(format!("{} bytes at once", len.0)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::MemDisk;
    use crate::device::read::check_range;
    use crate::units::ByteOffset;
    use std::sync::Mutex;

    /// A disk some of whose sectors cannot be read, and that remembers what was asked.
    struct Faulty {
        bytes: MemDisk,
        bad: ExtentList,
        kind: rustix::io::Errno,
        asked: Mutex<ExtentList>,
    }

    impl ReadAt for Faulty {
        fn size(&self) -> ByteLen {
            self.bytes.size()
        }
        fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> Result<()> {
            check_range("faulty", self.size(), offset, buf.len())?;
            let asked = Extent::new(offset, ByteLen(buf.len() as u64)).unwrap();
            self.asked.lock().unwrap().insert(asked);
            if self.bad.within(asked).next().is_some() {
                return Err(Error::io("reading", self.kind).at(offset.0));
            }
            self.bytes.read_at(offset, buf)
        }
        fn name(&self) -> String {
            "faulty".into()
        }
    }

    fn faulty(bad: &[(u64, u64)], kind: rustix::io::Errno) -> Faulty {
        Faulty {
            bytes: MemDisk((0..1 << 20).map(|i| (i % 251) as u8 + 1).collect()),
            bad: bad
                .iter()
                .filter_map(|&(s, e)| Extent::between(s, e))
                .collect(),
            kind,
            asked: Mutex::default(),
        }
    }

    #[test]
    fn only_used_bytes_are_asked_for_and_the_rest_is_zero() {
        let disk = faulty(&[], rustix::io::Errno::IO);
        let used: ExtentList = [(4096, 8192), (65_536, 66_048)]
            .iter()
            .filter_map(|&(s, e)| Extent::between(s, e))
            .collect();
        let reader = ChunkReader::new(&disk, &used, SectorSize::B512);
        let mut buf = vec![0xEE; 65_536];
        let read = reader
            .fill(Extent::between(0, 65_536).unwrap(), &mut buf)
            .unwrap();
        assert_eq!(read, ByteLen(4096));
        assert_eq!(&buf[4096..8192], &disk.bytes.0[4096..8192]);
        assert!(
            buf[..4096]
                .iter()
                .chain(&buf[8192..])
                .all(|&byte| byte == 0)
        );
        assert_eq!(
            *disk.asked.lock().unwrap(),
            ExtentList::from_iter(Extent::between(4096, 8192))
        );
    }

    #[test]
    fn near_extents_are_read_at_once_and_what_lies_between_is_zero() {
        let disk = faulty(&[], rustix::io::Errno::IO);
        let spans = [
            (512, 1024),
            (9_000, 9_500),
            (65_536, 131_072),
            (300_000, 300_001),
        ];
        let used: ExtentList = spans
            .iter()
            .filter_map(|&(s, e)| Extent::between(s, e))
            .collect();
        let reader = ChunkReader::new(&disk, &used, SectorSize::B512);
        let mut buf = vec![0xEE; 1 << 20];
        let chunk = Extent::between(0, 1 << 20).unwrap();
        assert_eq!(reader.fill(chunk, &mut buf).unwrap(), used.total());
        for (at, byte) in buf.iter().enumerate() {
            let is_used = spans.iter().any(|&(s, e)| (s..e).contains(&(at as u64)));
            let expected = if is_used { disk.bytes.0[at] } else { 0 };
            assert_eq!(*byte, expected, "byte {at}");
        }
        let asked = disk.asked.lock().unwrap();
        let asked: Vec<_> = asked.iter().map(|e| (e.start().0, e.end())).collect();
        assert_eq!(asked, [(0, 12_288), (65_536, 131_072), (299_008, 303_104)]);
    }

    #[test]
    fn a_bad_sector_costs_that_sector_and_no_other() {
        let disk = faulty(&[(10_240, 10_752), (51_200, 51_201)], rustix::io::Errno::IO);
        let used = ExtentList::from_iter(Extent::between(0, 65_536));
        let reader = ChunkReader::new(&disk, &used, SectorSize::B512);
        let mut buf = vec![0xEE; 65_536];
        let chunk = Extent::between(0, 65_536).unwrap();
        // The quick way gives up.
        assert_eq!(reader.fill(chunk, &mut buf).unwrap_err().kind(), Kind::Io);
        let (read, bad) = reader.rescue(chunk, &mut buf).unwrap();
        assert_eq!(read, ByteLen(65_536));
        let runs: Vec<_> = bad.iter().map(|e| (e.start().0, e.end())).collect();
        assert_eq!(runs, [(10_240, 10_752), (51_200, 51_712)]);
        for (at, byte) in buf.iter().enumerate() {
            let lost = bad
                .iter()
                .any(|e| (e.start().0..e.end()).contains(&(at as u64)));
            assert_eq!(*byte, if lost { 0 } else { disk.bytes.0[at] }, "byte {at}");
        }
    }

    #[test]
    fn a_disk_that_is_gone_ends_the_reading() {
        let disk = faulty(&[(512, 1024)], rustix::io::Errno::NODEV);
        let used = ExtentList::from_iter(Extent::between(0, 65_536));
        let reader = ChunkReader::new(&disk, &used, SectorSize::B512);
        let mut buf = vec![0; 65_536];
        let chunk = Extent::between(0, 65_536).unwrap();
        let error = reader.rescue(chunk, &mut buf).unwrap_err();
        assert_eq!(error.kind(), Kind::Vanished);
    }
}
