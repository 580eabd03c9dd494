//! From passphrases to keys: PBKDF2 (RFC 8018) and Argon2 (RFC 9106), with the hashes that LUKS
//! names. How much is to be calculated stands in headers that a stranger may have written, so there
//! is a bound on all of it together.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use crate::checksum::repetitions;
use crate::refusal::Refusal;
use argon2::{Algorithm, Argon2, Block, Params, Version};
use pbkdf2::pbkdf2_hmac;
use ripemd::Ripemd160;
use sha1::Sha1;
use sha2::{Digest, Sha224, Sha256, Sha384, Sha512};
use zeroize::Zeroizing;

/// Rounds of PBKDF2 for one volume, in blocks of its hash: minutes. cryptsetup chooses about two
/// seconds' worth for a slot (two to ten million).
const MAX_ROUNDS: u64 = 1 << 30;
/// Memory of Argon2, in KiB: 4 GiB. cryptsetup chooses 1 GiB at most.
const MAX_MEMORY_KIB: u64 = 4 << 20;
/// Passes of Argon2 for one volume, times their memory in KiB: 256 GiB, minutes.
const MAX_PASSES_KIB: u64 = 256 << 20;

/// A hash by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hash {
    Sha1,
    Sha224,
    Sha256,
    Sha384,
    Sha512,
    Ripemd160,
}

/// Does something with the type of a hash.
macro_rules! with_hash {
    ($hash:expr, $type:ident => $body:expr) => {
        with_hash!($hash, $type => $body; Sha1 Sha224 Sha256 Sha384 Sha512 Ripemd160)
    };
    ($hash:expr, $type:ident => $body:expr; $($name:ident)*) => {
        match $hash {
            $(Hash::$name => {
                type $type = $name;
                $body
            })*
        }
    };
}

impl Hash {
    /// As LUKS names it.
    pub(super) fn named(name: &str) -> Option<Self> {
        Some(match name {
            "sha1" => Self::Sha1,
            "sha224" => Self::Sha224,
            "sha256" => Self::Sha256,
            "sha384" => Self::Sha384,
            "sha512" => Self::Sha512,
            "ripemd160" | "rmd160" => Self::Ripemd160,
            _ => return None,
        })
    }

    /// As LUKS names it, or why not.
    pub(super) fn known(name: &str) -> Result<Self, Refusal> {
        Self::named(name).ok_or_else(|| {
            Refusal::Unsupported(format!(
                "its keys use the hash {name}, which is not known here"
            ))
        })
    }

    /// Of the pieces, one after the other.
    pub(super) fn digest(self, pieces: &[&[u8]]) -> Zeroizing<Vec<u8>> {
        with_hash!(self, H => {
            let mut hash = H::new();
            for piece in pieces {
                hash.update(piece);
            }
            Zeroizing::new(hash.finalize().to_vec())
        })
    }

    /// How many bytes a digest has.
    pub(super) fn len(self) -> usize {
        with_hash!(self, H => H::output_size())
    }
}

/// How a key is derived, without the passphrase.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kdf {
    /// PBKDF2 with HMAC of that hash.
    Pbkdf2 {
        hash: Hash,
        salt: Vec<u8>,
        iterations: u32,
    },
    /// Argon2i or Argon2id, version 1.3.
    Argon2 {
        id: bool,
        salt: Vec<u8>,
        /// Passes.
        time: u32,
        /// In KiB.
        memory: u32,
        /// Lanes.
        cpus: u32,
    },
}

/// What may still be calculated for one volume.
#[derive(Debug)]
pub(super) struct Budget {
    rounds: u64,
    passes_kib: u64,
    memory_kib: u64,
}

impl Budget {
    /// For one volume on this machine.
    pub(super) fn new() -> Self {
        Self {
            rounds: MAX_ROUNDS,
            passes_kib: MAX_PASSES_KIB,
            memory_kib: available_memory_kib().unwrap_or(MAX_MEMORY_KIB),
        }
    }

    /// Pays for rounds of a hash.
    pub(super) fn pay_rounds(&mut self, rounds: u64) -> Result<(), Refusal> {
        self.rounds = self.rounds.checked_sub(rounds).ok_or_else(|| {
            Refusal::Unsupported(
                "its header asks for more rounds of its hash than can be calculated in minutes"
                    .into(),
            )
        })?;
        Ok(())
    }

    fn pay_argon2(&mut self, time: u32, memory_kib: u64) -> Result<(), Refusal> {
        if memory_kib > MAX_MEMORY_KIB {
            return Err(Refusal::Unsupported(format!(
                "a key slot asks for {} MiB of memory, more than the 4096 MiB that are given",
                memory_kib >> 10
            )));
        }
        if memory_kib > self.memory_kib {
            return Err(Refusal::Unsupported(format!(
                "opening it takes {} MiB of memory for a moment, and this machine has {} MiB left",
                memory_kib >> 10,
                self.memory_kib >> 10
            )));
        }
        self.passes_kib = u64::from(time)
            .checked_mul(memory_kib)
            .and_then(|cost| self.passes_kib.checked_sub(cost))
            .ok_or_else(|| {
                Refusal::Unsupported(
                    "its key slots ask for more passes of Argon2 than can be calculated in minutes"
                        .into(),
                )
            })?;
        Ok(())
    }
}

impl Kdf {
    /// A key of `len` bytes.
    pub(super) fn derive(
        &self,
        secret: &[u8],
        len: usize,
        budget: &mut Budget,
    ) -> Result<Zeroizing<Vec<u8>>, Refusal> {
        let mut key = Zeroizing::new(vec![0; len]);
        match self {
            Self::Pbkdf2 {
                hash,
                salt,
                iterations,
            } => {
                let blocks = u64::try_from(len.div_ceil(hash.len().max(1))).unwrap_or(u64::MAX);
                budget.pay_rounds(u64::from(*iterations).saturating_mul(blocks))?;
                if *iterations == 0 {
                    return Err(Refusal::Damaged("a key slot of 0 iterations".into()));
                }
                let iterations = repetitions(*iterations, 1000);
                with_hash!(hash, H => pbkdf2_hmac::<H>(secret, salt, iterations, &mut key));
            }
            Self::Argon2 {
                id,
                salt,
                time,
                memory,
                cpus,
            } => {
                let wrong = |error: argon2::Error| {
                    Refusal::Damaged(format!("a key slot's Argon2 parameters: {error}"))
                };
                let params = Params::new(*memory, *time, *cpus, Some(len)).map_err(wrong)?;
                budget.pay_argon2(*time, u64::from(*memory))?;
                if cfg!(fuzzing) {
                    return Ok(key);
                }
                let mut blocks = Zeroizing::new(Vec::<Block>::new());
                let count = params.block_count();
                if blocks.try_reserve_exact(count).is_err() {
                    return Err(Refusal::Unsupported(format!(
                        "opening it takes {} MiB of memory for a moment",
                        memory >> 10
                    )));
                }
                blocks.resize(count, Block::default());
                let algorithm = if *id {
                    Algorithm::Argon2id
                } else {
                    Algorithm::Argon2i
                };
                Argon2::new(algorithm, Version::V0x13, params)
                    .hash_password_into_with_memory(secret, salt, &mut key, &mut *blocks)
                    .map_err(wrong)?;
            }
        }
        Ok(key)
    }
}

/// What the kernel says can be allocated without swapping, in KiB.
fn available_memory_kib() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn pbkdf2_is_that_of_rfc_6070() {
        let kdf = Kdf::Pbkdf2 {
            hash: Hash::Sha1,
            salt: b"salt".to_vec(),
            iterations: 4096,
        };
        let key = kdf.derive(b"password", 20, &mut Budget::new()).unwrap();
        assert_eq!(hex(&key), "4b007901b765489abead49d926f721d065a429c1");
    }

    /// The reference implementation's own test (`src/test.c` of phc-winner-argon2, version 0x13).
    #[test]
    fn argon2id_is_that_of_the_reference() {
        let kdf = Kdf::Argon2 {
            id: true,
            salt: b"somesalt".to_vec(),
            time: 2,
            memory: 1 << 16,
            cpus: 1,
        };
        let key = kdf.derive(b"password", 32, &mut Budget::new()).unwrap();
        assert_eq!(
            hex(&key),
            "09316115d5cf24ed5a15a31a3ba326e5cf32edc24702987c02b6566f61913cf7"
        );
    }

    #[test]
    fn work_without_end_is_refused_at_once() {
        let mut budget = Budget::new();
        let kdf = Kdf::Pbkdf2 {
            hash: Hash::Sha256,
            salt: vec![0; 32],
            iterations: 1 << 31,
        };
        assert!(matches!(
            kdf.derive(b"x", 64, &mut budget),
            Err(Refusal::Unsupported(_))
        ));
        let argon2 = |time, memory| Kdf::Argon2 {
            id: true,
            salt: vec![0; 32],
            time,
            memory,
            cpus: 4,
        };
        for kdf in [argon2(u32::MAX, 1 << 20), argon2(1, u32::MAX)] {
            assert!(matches!(
                kdf.derive(b"x", 64, &mut budget),
                Err(Refusal::Unsupported(_))
            ));
        }
        assert!(matches!(
            argon2(0, 0).derive(b"x", 64, &mut budget),
            Err(Refusal::Damaged(_))
        ));
    }

    #[test]
    fn the_bound_is_on_all_slots_together() {
        let mut budget = Budget::new();
        budget.pay_rounds(MAX_ROUNDS - 5).unwrap();
        budget.pay_rounds(5).unwrap();
        assert!(budget.pay_rounds(1).is_err());
    }
}
