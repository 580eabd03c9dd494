//! The file allocation table: an entry a cluster, 0 if it is free. Whatever else an entry says (the
//! next cluster of a file, the end of one, a bad cluster, a value that is reserved), its cluster is
//! taken. A cluster that was marked bad is taken too: it may be readable, or its mark be wrong.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use super::boot::{Boot, Kind};
use crate::bytes::{read_u16le, read_u32le};
use crate::device::ReadAt;
use crate::error::Error;
use crate::units::ByteOffset;
use crate::usedmap::finding::Refusal;

/// Bytes that are read at once: whole entries of every size, whole sectors.
const PIECE: u64 = 12 << 16;

/// What all copies of the table say together.
pub(super) struct Table {
    /// A bit a data cluster: set if any copy calls it used. (At most 32 MiB.)
    pub used: Vec<u8>,
    /// A bit a data cluster: set if an entry leads to it.
    targets: Vec<u8>,
    /// Whether two copies differ in what is used.
    pub differ: bool,
    /// Entry 1 of the copy in use, whose upper bits are the volume's state.
    pub state: u32,
}

impl Table {
    /// Reads all copies.
    pub(super) fn read(volume: &dyn ReadAt, boot: &Boot, active: u64) -> Result<Self, Refusal> {
        let len = usize::try_from(boot.clusters.div_ceil(8)).unwrap_or(usize::MAX);
        let mut all = Self {
            used: vec![0; len],
            targets: vec![0; len],
            differ: false,
            state: 0,
        };
        let mut at = 0;
        let bytes = boot
            .clusters
            .saturating_add(2)
            .saturating_mul(boot.kind.entry_bits())
            .div_ceil(8);
        while at < bytes {
            let count = PIECE.min(boot.fat_size.saturating_sub(at));
            let mut pieces = Vec::new();
            for copy in 0..boot.fats {
                let mut piece = vec![0; usize::try_from(count).unwrap_or(0)];
                let from = boot
                    .fat_size
                    .saturating_mul(copy)
                    .saturating_add(boot.fat_at)
                    .saturating_add(at);
                volume
                    .read_at(ByteOffset(from), &mut piece)
                    .map_err(|error| {
                        Error::new(error.kind(), "reading the file allocation table")
                            .because(error)
                            .at(from)
                    })?;
                if at == 0 {
                    all.first_entries(boot, copy == active, &piece)?;
                }
                pieces.push(piece);
            }
            all.pieces(boot, at, &pieces);
            at = at.saturating_add(count);
        }
        Ok(all)
    }

    /// The first two entries: no clusters, but the media byte again, and the state.
    fn first_entries(&mut self, boot: &Boot, active: bool, piece: &[u8]) -> Result<(), Refusal> {
        let mut entries = entries(boot.kind, piece);
        let media = entries.next().unwrap_or(0);
        let state = entries.next().unwrap_or(0);
        if media.to_le_bytes().first() != Some(&boot.media) && (active || boot.mirrored) {
            return Err(Refusal::Damaged(format!(
                "the file allocation table begins with {media:#x}, which is not the media byte \
                 {:#x} of the boot sector (let chkdsk or fsck.fat repair it for a smaller copy)",
                boot.media
            )));
        }
        if active {
            self.state = state;
        }
        Ok(())
    }

    /// The same piece of each copy, which starts at byte `at` of it.
    fn pieces(&mut self, boot: &Boot, at: u64, pieces: &[Vec<u8>]) {
        let first = at
            .saturating_mul(8)
            .checked_div(boot.kind.entry_bits())
            .unwrap_or(0);
        let mut others: Vec<_> = pieces
            .iter()
            .map(|piece| entries(boot.kind, piece))
            .collect();
        for number in first.. {
            let mut values = others.iter_mut().map(Iterator::next);
            let Some(Some(value)) = values.next() else {
                return;
            };
            let second = values.next().flatten().unwrap_or(value);
            if !boot.has_cluster(number) {
                continue;
            }
            self.differ |= value != second;
            if value != 0 || second != 0 {
                set(&mut self.used, number.saturating_sub(2));
            }
            for next in [u64::from(value), u64::from(second)] {
                if boot.has_cluster(next) {
                    set(&mut self.targets, next.saturating_sub(2));
                }
            }
        }
    }

    /// Whether a data cluster is used; `number` counts from 2.
    pub(super) fn is_used(&self, number: u64) -> bool {
        let nth = number.saturating_sub(2);
        let byte = usize::try_from(nth >> 3).ok();
        let byte = byte.and_then(|at| self.used.get(at)).copied().unwrap_or(0);
        byte & bit(nth) != 0
    }

    /// Whether an entry leads to a cluster that is free.
    pub(super) fn leads_nowhere(&self) -> bool {
        self.targets
            .iter()
            .zip(&self.used)
            .any(|(target, used)| target & !used != 0)
    }
}

fn bit(nth: u64) -> u8 {
    1_u8.wrapping_shl(u32::try_from(nth & 7).unwrap_or(0))
}

fn set(bits: &mut [u8], nth: u64) {
    let at = usize::try_from(nth >> 3).unwrap_or(usize::MAX);
    if let Some(byte) = bits.get_mut(at) {
        *byte |= bit(nth);
    }
}

/// The entries of a piece that begins with one.
fn entries(kind: Kind, piece: &[u8]) -> Box<dyn Iterator<Item = u32> + '_> {
    match kind {
        // Two entries in three bytes.
        Kind::Fat12 => Box::new(piece.chunks(3).flat_map(|three| {
            let low = u32::from(read_u16le(three, 0)) & 0xFFF;
            let mut wide = [0; 4];
            for (byte, source) in wide.iter_mut().zip(three) {
                *byte = *source;
            }
            let whole = u32::from_le_bytes(wide);
            let first = if three.len() < 2 { None } else { Some(low) };
            let second = if three.len() < 3 {
                None
            } else {
                Some(whole >> 12)
            };
            first.into_iter().chain(second)
        })),
        Kind::Fat16 => Box::new(
            piece
                .chunks_exact(2)
                .map(|two| u32::from(read_u16le(two, 0))),
        ),
        // The upper four bits are reserved.
        Kind::Fat32 => Box::new(
            piece
                .chunks_exact(4)
                .map(|four| read_u32le(four, 0) & 0x0FFF_FFFF),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_of_12_bits_share_a_byte() {
        let piece = [0xF8, 0xFF, 0xFF, 0x34, 0x12, 0xAB, 0x56, 0x07];
        let found: Vec<u32> = entries(Kind::Fat12, &piece).collect();
        assert_eq!(found, [0xFF8, 0xFFF, 0x234, 0xAB1, 0x756]);
    }

    #[test]
    fn the_upper_four_bits_of_fat32_mean_nothing() {
        let piece = [0, 0, 0, 0xF0, 0xF7, 0xFF, 0xFF, 0x0F];
        let found: Vec<u32> = entries(Kind::Fat32, &piece).collect();
        assert_eq!(found, [0, 0x0FFF_FFF7]);
    }
}
