//! Block bitmaps: a bit a cluster, 1 is used, the least significant bit of a byte first.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

/// Runs of bits that are set among the first `bits` of `bitmap`: `(first, behind the last)`,
/// ascending.
pub(crate) fn runs(bitmap: &[u8], bits: u64) -> Runs<'_> {
    Runs {
        bitmap,
        bits,
        at: 0,
    }
}

/// See [`runs`].
pub(crate) struct Runs<'a> {
    bitmap: &'a [u8],
    bits: u64,
    at: u64,
}

impl Runs<'_> {
    /// 64 bits from bit `at` (a multiple of 64) on; behind the end they are 0.
    fn word(&self, at: u64) -> u64 {
        let from = usize::try_from(at >> 3).unwrap_or(usize::MAX);
        let rest = self.bitmap.get(from..).unwrap_or_default();
        let mut bytes = [0; 8];
        for (byte, source) in bytes.iter_mut().zip(rest) {
            *byte = *source;
        }
        u64::from_le_bytes(bytes)
    }

    /// The first bit from `at` on that is set (`set`) or clear; `bits` if there is none.
    fn next_bit(&self, mut at: u64, set: bool) -> u64 {
        while at < self.bits {
            let word = self.word(at & !63);
            let wanted = if set { word } else { !word };
            let from = u32::try_from(at & 63).unwrap_or(0);
            let wanted = wanted & u64::MAX.checked_shl(from).unwrap_or(0);
            if wanted != 0 {
                let hit = (at & !63).saturating_add(u64::from(wanted.trailing_zeros()));
                return hit.min(self.bits);
            }
            at = (at & !63).saturating_add(64);
        }
        self.bits
    }
}

impl Iterator for Runs<'_> {
    type Item = (u64, u64);

    fn next(&mut self) -> Option<(u64, u64)> {
        let start = self.next_bit(self.at, true);
        if start >= self.bits {
            return None;
        }
        let end = self.next_bit(start, false);
        self.at = end;
        Some((start, end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_runs_are_the_bits_that_are_set(
            bitmap in prop::collection::vec(prop_oneof![Just(0_u8), Just(0xFF), any::<u8>()], 0..40),
            short in 0_u64..20,
        ) {
            let bits = u64::try_from(bitmap.len()).unwrap().saturating_mul(8).saturating_sub(short);
            let expected: Vec<u64> = bitmap
                .iter()
                .zip((0_u64..).step_by(8))
                .flat_map(|(byte, at)| (0..8_u64).filter(move |bit| byte >> bit & 1 == 1).map(move |bit| at.saturating_add(bit)))
                .filter(|&bit| bit < bits)
                .collect();
            let found: Vec<(u64, u64)> = runs(&bitmap, bits).collect();
            prop_assert!(found.iter().zip(found.iter().skip(1)).all(|(a, b)| a.1 < b.0));
            prop_assert_eq!(found.iter().flat_map(|&(s, e)| s..e).collect::<Vec<_>>(), expected);
        }
    }
}
