//! The anti-forensic splitter of LUKS: a key is spread over thousands of stripes, all of which are
//! needed to get it back (LUKS On-Disk Format Specification 1.2.3, sections 2.4 and 6).

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use super::kdf::Hash;
use zeroize::Zeroizing;

/// The key of `len` bytes that was split into these stripes.
pub(super) fn merge(stripes: &[u8], len: usize, hash: Hash) -> Zeroizing<Vec<u8>> {
    let mut sum = Zeroizing::new(vec![0; len]);
    let mut rest = stripes.chunks_exact(len.max(1)).peekable();
    while let Some(stripe) = rest.next() {
        for (byte, mask) in sum.iter_mut().zip(stripe) {
            *byte ^= mask;
        }
        if rest.peek().is_some() {
            sum = diffuse(&sum, hash);
        }
    }
    sum
}

/// Each piece of the length of a digest becomes the digest of its number and itself, the last one
/// shortened.
fn diffuse(bytes: &[u8], hash: Hash) -> Zeroizing<Vec<u8>> {
    let mut out = Zeroizing::new(Vec::with_capacity(bytes.len()));
    for (number, piece) in (0_u32..).zip(bytes.chunks(hash.len().max(1))) {
        let digest = hash.digest(&[&number.to_be_bytes(), piece]);
        out.extend(digest.iter().take(piece.len()));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_stripe_is_the_key_and_two_are_the_second_over_the_diffused_first() {
        let first: Vec<u8> = (0..40).collect();
        assert_eq!(merge(&first, 40, Hash::Sha256).as_slice(), first);
        let second = [0x55; 40];
        let both = [first.as_slice(), &second].concat();
        let merged = merge(&both, 40, Hash::Sha256);
        let expected: Vec<u8> = diffuse(&first, Hash::Sha256)
            .iter()
            .map(|byte| byte ^ 0x55)
            .collect();
        assert_eq!(merged.as_slice(), expected);
        // 32 bytes of the first digest and 8 of the second.
        assert_eq!(
            diffuse(&first, Hash::Sha256).as_slice(),
            [
                Hash::Sha256.digest(&[&[0; 4], &first[..32]]).as_slice(),
                &Hash::Sha256.digest(&[&[0, 0, 0, 1], &first[32..]])[..8]
            ]
            .concat()
        );
    }
}
