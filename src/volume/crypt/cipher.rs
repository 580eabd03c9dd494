//! Ciphers of sectors, named as the kernel's crypto interface and cryptsetup name them:
//! `aes-xts-plain64`, `aes-cbc-essiv:sha256` (`drivers/md/dm-crypt.c` of Linux for the initial
//! vectors). In: such a name and a key. Out: something that decrypts sectors.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use super::kdf::Hash;
use crate::refusal::Refusal;
use aes::cipher::consts::U16;
use aes::cipher::{Array, BlockCipherDecrypt, BlockCipherEncrypt, BlockSizeUser, KeyInit};
use aes::{Aes128, Aes192, Aes256};
use serpent::Serpent;
use twofish::Twofish;
use xts_mode::Xts128;
use zeroize::Zeroizing;

/// A cipher's block, in bytes.
const BLOCK: usize = 16;

/// Decrypts sectors in place.
pub(super) trait DecryptSector: Send + Sync {
    /// Decrypts the sector that has this number (counted as its format counts: in units of 512
    /// bytes, in sectors, or in bytes). A sector is a multiple of 16 bytes long.
    fn decrypt(&self, number: u64, sector: &mut [u8]);
}

/// A block cipher of blocks of 16 bytes.
pub(super) trait BlockCipher:
    BlockSizeUser<BlockSize = U16> + BlockCipherEncrypt + BlockCipherDecrypt + KeyInit + Send + Sync
{
}

impl<C> BlockCipher for C where
    C: BlockSizeUser<BlockSize = U16>
        + BlockCipherEncrypt
        + BlockCipherDecrypt
        + KeyInit
        + Send
        + Sync
{
}

/// How a sector's number becomes its initial vector.
enum Iv {
    /// The number's lower 32 bits, little-endian.
    Plain,
    /// The number, little-endian.
    Plain64,
    /// The number, big-endian, at the end.
    Plain64Be,
    /// `Plain64`, encrypted with the hash of the key.
    Essiv(Box<dyn EncryptBlock>),
}

/// Encrypts one block: what ESSIV needs, whatever the cipher.
trait EncryptBlock: Send + Sync {
    fn encrypt(&self, block: &mut [u8; BLOCK]);
}

impl<C: BlockCipher> EncryptBlock for C {
    fn encrypt(&self, block: &mut [u8; BLOCK]) {
        self.encrypt_block(Array::cast_from_core_mut(block));
    }
}

impl Iv {
    fn of(&self, number: u64) -> [u8; BLOCK] {
        match self {
            Self::Plain => u128::from(number & u64::from(u32::MAX)).to_le_bytes(),
            Self::Plain64 => u128::from(number).to_le_bytes(),
            Self::Plain64Be => u128::from(number).to_be_bytes(),
            Self::Essiv(cipher) => {
                let mut iv = u128::from(number).to_le_bytes();
                cipher.encrypt(&mut iv);
                iv
            }
        }
    }
}

/// Decrypts a sector in CBC mode.
pub(super) fn decrypt_cbc<C: BlockCipher>(cipher: &C, iv: [u8; BLOCK], sector: &mut [u8]) {
    let mut before = iv;
    for block in sector.as_chunks_mut::<BLOCK>().0 {
        let encrypted = *block;
        cipher.decrypt_block(Array::cast_from_core_mut(block));
        for (byte, mask) in block.iter_mut().zip(before) {
            *byte ^= mask;
        }
        before = encrypted;
    }
}

struct Cbc<C> {
    cipher: C,
    iv: Iv,
}

impl<C: BlockCipher> DecryptSector for Cbc<C> {
    fn decrypt(&self, number: u64, sector: &mut [u8]) {
        decrypt_cbc(&self.cipher, self.iv.of(number), sector);
    }
}

struct Xts<C> {
    cipher: Xts128<C>,
    iv: Iv,
}

impl<C: BlockCipher> DecryptSector for Xts<C> {
    fn decrypt(&self, number: u64, sector: &mut [u8]) {
        self.cipher
            .decrypt_sector(sector, Array(self.iv.of(number)));
    }
}

/// The modes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Cbc,
    Xts,
}

/// The cipher of that name with that key.
pub(super) fn sector_cipher(spec: &str, key: &[u8]) -> Result<Box<dyn DecryptSector>, Refusal> {
    let unknown =
        || Refusal::Unsupported(format!("encrypted with {spec}, which is not known here"));
    let mut parts = spec.splitn(3, '-');
    let (Some(name), Some(mode), Some(iv)) = (parts.next(), parts.next(), parts.next()) else {
        return Err(unknown());
    };
    let mode = match mode {
        "cbc" => Mode::Cbc,
        "xts" => Mode::Xts,
        _ => return Err(unknown()),
    };
    // XTS has two keys.
    let one_key = match mode {
        Mode::Cbc => key.len(),
        Mode::Xts if key.len().is_multiple_of(2) => key.len().checked_div(2).unwrap_or(0),
        Mode::Xts => return Err(unknown()),
    };
    let iv = match iv {
        "plain" => Iv::Plain,
        "plain64" => Iv::Plain64,
        "plain64be" => Iv::Plain64Be,
        _ => match iv.strip_prefix("essiv:").and_then(Hash::named) {
            Some(hash) if mode == Mode::Cbc => {
                let key = hash.digest(&[key]);
                Iv::Essiv(block_cipher(name, &key).ok_or_else(unknown)?)
            }
            _ => return Err(unknown()),
        },
    };
    let built = match (name, one_key) {
        ("aes", 16) => build::<Aes128>(mode, iv, key),
        ("aes", 24) => build::<Aes192>(mode, iv, key),
        ("aes", 32) => build::<Aes256>(mode, iv, key),
        ("serpent", 16 | 24 | 32) => build::<Serpent>(mode, iv, key),
        ("twofish", 16 | 24 | 32) => build::<Twofish>(mode, iv, key),
        _ => None,
    };
    built.ok_or_else(|| {
        Refusal::Unsupported(format!(
            "encrypted with {spec} and a key of {} bits, which is not known here",
            key.len().saturating_mul(8)
        ))
    })
}

fn build<C: BlockCipher + 'static>(
    mode: Mode,
    iv: Iv,
    key: &[u8],
) -> Option<Box<dyn DecryptSector>> {
    Some(match mode {
        Mode::Cbc => Box::new(Cbc {
            cipher: C::new_from_slice(key).ok()?,
            iv,
        }),
        Mode::Xts => {
            let (first, second) = key.split_at_checked(key.len() / 2)?;
            Box::new(Xts {
                cipher: Xts128::new(
                    C::new_from_slice(first).ok()?,
                    C::new_from_slice(second).ok()?,
                ),
                iv,
            })
        }
    })
}

fn block_cipher(name: &str, key: &[u8]) -> Option<Box<dyn EncryptBlock>> {
    Some(match (name, key.len()) {
        ("aes", 16) => Box::new(Aes128::new_from_slice(key).ok()?),
        ("aes", 24) => Box::new(Aes192::new_from_slice(key).ok()?),
        ("aes", 32) => Box::new(Aes256::new_from_slice(key).ok()?),
        ("serpent", 16 | 24 | 32) => Box::new(Serpent::new_from_slice(key).ok()?),
        ("twofish", 16 | 24 | 32) => Box::new(Twofish::new_from_slice(key).ok()?),
        _ => return None,
    })
}

/// Decrypts what lies one sector of 512 bytes behind the other, the first having number 0: the key
/// material of LUKS.
pub(super) fn decrypt_area(cipher: &dyn DecryptSector, area: &mut Zeroizing<Vec<u8>>) {
    for (number, sector) in (0_u64..).zip(area.chunks_mut(512)) {
        cipher.decrypt(number, sector);
    }
}
