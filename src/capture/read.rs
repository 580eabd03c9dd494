//! Reading the used extents of one chunk off the disk, around sectors that cannot be read.

use crate::device::ReadAt;
use crate::error::{Error, Kind, Result};
use crate::extent::{Extent, ExtentList};
use crate::units::{ByteLen, SectorSize};

/// How much is asked of the disk at once: large enough for a RAID controller to spread.
const READ_BYTES: u64 = 1 << 20;

/// Reads a disk chunk by chunk.
#[derive(Debug)]
pub struct ChunkReader<'a, D: ReadAt + ?Sized> {
    disk: &'a D,
    used: &'a ExtentList,
    sector: SectorSize,
    bad: ExtentList,
}

impl<'a, D: ReadAt + ?Sized> ChunkReader<'a, D> {
    /// Reads only `used` extents of `disk`; bad spots are told apart by `sector`.
    pub fn new(disk: &'a D, used: &'a ExtentList, sector: SectorSize) -> Self {
        Self {
            disk,
            used,
            sector,
            bad: ExtentList::new(),
        }
    }

    /// Fills `buf` with the guest-visible bytes of `chunk`: used extents as read, all else zero.
    /// Sectors that cannot be read are zero too, and are remembered as bad. Returns how many bytes
    /// were asked of the disk.
    ///
    /// # Errors
    /// When the disk is gone: then nothing more of it can be read and going on is pointless.
    pub fn fill(&mut self, chunk: Extent, buf: &mut [u8]) -> Result<ByteLen> {
        buf.fill(0);
        let mut read = 0_u64;
        for extent in self.used.within(chunk) {
            let mut at = extent.start().0;
            while let Some(piece) =
                Extent::between(at, extent.end().min(at.saturating_add(READ_BYTES)))
            {
                let target = slice_of(buf, chunk, piece)?;
                self.read_around_bad(piece, target)?;
                read = read.saturating_add(piece.len().0);
                at = piece.end();
            }
        }
        Ok(ByteLen(read))
    }

    /// What could not be read so far.
    pub fn into_bad(self) -> ExtentList {
        self.bad
    }

    /// Halves the piece until the bad sectors stand alone, so that a single one costs at most one
    /// sector of data.
    fn read_around_bad(&mut self, piece: Extent, target: &mut [u8]) -> Result<()> {
        let error = match self.disk.read_at(piece.start(), target) {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        if error.kind() != Kind::Io {
            return Err(error);
        }
        let sector = self.sector.bytes();
        let sectors = piece.len().0.div_ceil(sector);
        if sectors <= 1 {
            target.fill(0);
            self.bad.insert(piece);
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
        self.read_around_bad(first, left)?;
        self.read_around_bad(second, right)
    }
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
        let mut reader = ChunkReader::new(&disk, &used, SectorSize::B512);
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
    fn a_bad_sector_costs_that_sector_and_no_other() {
        let disk = faulty(&[(10_240, 10_752), (51_200, 51_201)], rustix::io::Errno::IO);
        let used = ExtentList::from_iter(Extent::between(0, 65_536));
        let mut reader = ChunkReader::new(&disk, &used, SectorSize::B512);
        let mut buf = vec![0xEE; 65_536];
        reader
            .fill(Extent::between(0, 65_536).unwrap(), &mut buf)
            .unwrap();
        let bad = reader.into_bad();
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
        let mut reader = ChunkReader::new(&disk, &used, SectorSize::B512);
        let mut buf = vec![0; 65_536];
        let error = reader
            .fill(Extent::between(0, 65_536).unwrap(), &mut buf)
            .unwrap_err();
        assert_eq!(error.kind(), Kind::Vanished);
    }
}
