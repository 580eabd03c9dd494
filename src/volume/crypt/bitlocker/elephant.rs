//! AES-CBC with the Elephant diffuser, of Windows Vista and 7 (Niels Ferguson, "AES-CBC + Elephant
//! diffuser: A Disk Encryption Algorithm for Windows Vista", 2006), and AES-CBC without it, of
//! Windows 8 and early 10. A sector's number is its offset in bytes.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use crate::volume::crypt::cipher::{BlockCipher, DecryptSector, decrypt_cbc};
use aes::cipher::Array;
use zeroize::Zeroizing;

/// AES-CBC, the initial vector being the encrypted offset.
pub(super) struct CbcOfOffset<C>(pub C);

fn encrypted_offset<C: BlockCipher>(cipher: &C, offset: u64, last: u8) -> [u8; 16] {
    let mut block = u128::from(offset).to_le_bytes();
    if let Some(byte) = block.last_mut() {
        *byte = last;
    }
    cipher.encrypt_block(Array::cast_from_core_mut(&mut block));
    block
}

impl<C: BlockCipher> DecryptSector for CbcOfOffset<C> {
    fn decrypt(&self, offset: u64, sector: &mut [u8]) {
        decrypt_cbc(&self.0, encrypted_offset(&self.0, offset, 0), sector);
    }
}

/// With the diffuser over it.
pub(super) struct Elephant<C> {
    pub cbc: CbcOfOffset<C>,
    /// Of the sector key.
    pub tweak: C,
}

impl<C: BlockCipher> DecryptSector for Elephant<C> {
    fn decrypt(&self, offset: u64, sector: &mut [u8]) {
        self.cbc.decrypt(offset, sector);
        let mut words: Zeroizing<Vec<u32>> = Zeroizing::new(
            sector
                .as_chunks::<4>()
                .0
                .iter()
                .map(|&word| u32::from_le_bytes(word))
                .collect(),
        );
        diffuse(&mut words, 3, [0, 10, 0, 25], |at, len| {
            let ahead = |by: usize| at.wrapping_add(by).checked_rem(len).unwrap_or(0);
            (ahead(2), ahead(5))
        });
        diffuse(&mut words, 5, [9, 0, 13, 0], |at, len| {
            let back = |by: usize| {
                let ahead = len.saturating_sub(by);
                at.wrapping_add(ahead).checked_rem(len).unwrap_or(0)
            };
            (back(2), back(5))
        });
        // The sector key: the offset encrypted, and encrypted with another last byte.
        let key = Zeroizing::new(
            [0, 0x80]
                .map(|last| encrypted_offset(&self.tweak, offset, last))
                .concat(),
        );
        let plain = words.iter().flat_map(|word| word.to_le_bytes());
        for ((byte, plain), key) in sector.iter_mut().zip(plain).zip(key.iter().cycle()) {
            *byte = plain ^ key;
        }
    }
}

/// `cycles` times over all words, adding to each two others, the second rotated by what is next in
/// `rotate`.
fn diffuse(
    words: &mut [u32],
    cycles: u32,
    rotate: [u32; 4],
    others: impl Fn(usize, usize) -> (usize, usize),
) {
    let len = words.len();
    for _ in 0..cycles {
        for (at, by) in (0..len).zip(rotate.into_iter().cycle()) {
            let (first, second) = others(at, len);
            let get = |at: usize| words.get(at).copied().unwrap_or(0);
            let sum = get(first) ^ get(second).rotate_left(by);
            if let Some(word) = words.get_mut(at) {
                *word = word.wrapping_add(sum);
            }
        }
    }
}
