//! Images of disks as a fuzzer wants them: only the pieces that are not zero, so that a filesystem
//! of 64 MiB is a few KiB and every byte that is changed means something.
//!
//! ```text
//! 0x0  head       bit 0: sectors of 512 bytes or of 4096; bits 4..7: how many disks, less one
//! 0x1  size_kib   u32, little-endian: the size of each disk
//! 0x5  pieces     of which each is
//!      at         u32, little-endian: its place in the disk, in units of 512 bytes (29 bits);
//!                 above, the number of its disk
//!      len        u16, little-endian: its length in bytes, 0 for 65,536
//!      bytes      what stands there; the last piece may be cut short
//! ```

use haulier::device::ReadAt;
use haulier::error::{Error, Kind, Result};
use haulier::units::{ByteLen, ByteOffset, SectorSize};

const UNIT: usize = 512;
const LONGEST: usize = 65_536;
const UNIT_BITS: u32 = 29;
/// More disks than that are not told apart.
const MOST_DISKS: usize = 8;

/// See the module.
pub struct SparseDisk {
    size: u64,
    sector: SectorSize,
    /// In the order of the file; a later one lies over an earlier one.
    pieces: Vec<(u64, Vec<u8>)>,
}

impl SparseDisk {
    /// One disk or several; `None` if it is shorter than its head.
    pub fn parse(bytes: &[u8]) -> Option<Vec<Self>> {
        let (head, mut rest) = bytes.split_at_checked(5)?;
        let size_kib = u32::from_le_bytes([head[1], head[2], head[3], head[4]]);
        let sector = if head[0] & 1 == 0 {
            SectorSize::B512
        } else {
            SectorSize::B4096
        };
        let count = usize::from(head[0] >> 4 & 7) + 1;
        let mut pieces = vec![Vec::new(); count];
        while let Some((piece, behind)) = rest.split_at_checked(6) {
            let at = u32::from_le_bytes([piece[0], piece[1], piece[2], piece[3]]);
            let len = match u16::from_le_bytes([piece[4], piece[5]]) {
                0 => LONGEST,
                len => usize::from(len),
            };
            let (bytes, behind) = behind.split_at(len.min(behind.len()));
            let disk = (at >> UNIT_BITS) as usize % count;
            let at = u64::from(at & ((1 << UNIT_BITS) - 1)) * UNIT as u64;
            pieces[disk].push((at, bytes.to_vec()));
            rest = behind;
        }
        let disk = |pieces| Self {
            size: u64::from(size_kib) * 1024,
            sector,
            pieces,
        };
        Some(pieces.into_iter().map(disk).collect())
    }

    /// The sector in which the disk is addressed.
    pub fn sector(&self) -> SectorSize {
        self.sector
    }

    /// The smallest file that says the same as some disk images, which are all as large as the first.
    pub fn squeeze(images: &[Vec<u8>], sector: SectorSize) -> Vec<u8> {
        assert!((1..=MOST_DISKS).contains(&images.len()));
        let size_kib = u32::try_from(images[0].len() / 1024).expect("below 4 TiB");
        let more = (images.len() - 1) as u8;
        let mut out = vec![more << 4 | u8::from(sector != SectorSize::B512)];
        out.extend(size_kib.to_le_bytes());
        for (disk, image) in images.iter().enumerate() {
            Self::squeeze_one(image, (disk as u32) << UNIT_BITS, &mut out);
        }
        out
    }

    fn squeeze_one(image: &[u8], disk: u32, out: &mut Vec<u8>) {
        assert!(image.len() / UNIT < 1 << UNIT_BITS, "below 256 GiB");
        let units: Vec<&[u8]> = image.chunks(UNIT).collect();
        let mut at = 0;
        while at < units.len() {
            if units[at].iter().all(|&byte| byte == 0) {
                at += 1;
                continue;
            }
            let rest = &units[at..];
            let run = rest
                .iter()
                .take(LONGEST / UNIT)
                .take_while(|unit| unit.iter().any(|&byte| byte != 0))
                .count();
            let bytes = rest[..run].concat();
            out.extend((disk | at as u32).to_le_bytes());
            // 65,536 becomes 0.
            out.extend((bytes.len() as u16).to_le_bytes());
            out.extend(bytes);
            at += run;
        }
    }
}

impl ReadAt for SparseDisk {
    fn size(&self) -> ByteLen {
        ByteLen(self.size)
    }

    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> Result<()> {
        let from = offset.0;
        let to = from.saturating_add(buf.len() as u64);
        if to > self.size {
            return Err(Error::new(Kind::Corrupt, "reading beyond the end").at(from));
        }
        buf.fill(0);
        for (at, bytes) in &self.pieces {
            let start = from.max(*at);
            let end = to.min(at + bytes.len() as u64);
            if start < end {
                let len = (end - start) as usize;
                let source = &bytes[(start - at) as usize..][..len];
                buf[(start - from) as usize..][..len].copy_from_slice(source);
            }
        }
        Ok(())
    }

    fn name(&self) -> String {
        "fuzz".into()
    }
}
