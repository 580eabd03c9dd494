//! The JSON area of LUKS2 (LUKS2 On-Disk Format Specification 1.1.3, section 3), as it is written:
//! 64-bit numbers are texts, binary fields are base64.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use crate::refusal::Refusal;
use crate::units::ByteOffset;
use crate::volume::crypt::kdf::{Hash, Kdf};
use crate::volume::crypt::slot::{KeyDigest, Slot};
use base64ct::{Base64, Encoding};
use serde::Deserialize;
use std::collections::BTreeMap;

/// All of it.
#[derive(Debug, Deserialize)]
pub(super) struct Metadata {
    pub keyslots: BTreeMap<String, Keyslot>,
    #[serde(default)]
    pub tokens: BTreeMap<String, Token>,
    pub segments: BTreeMap<String, Segment>,
    pub digests: BTreeMap<String, Digest>,
    pub config: Config,
}

/// A key slot. What a type that is not known has is not looked at.
#[derive(Debug, Deserialize)]
pub(super) struct Keyslot {
    #[serde(rename = "type")]
    pub kind: String,
    /// In bytes.
    #[serde(default)]
    key_size: usize,
    /// 0: only if asked for, 1: normal, 2: before the others.
    pub priority: Option<u8>,
    kdf: Option<JsonKdf>,
    af: Option<Af>,
    area: Option<Area>,
}

#[derive(Debug, Deserialize)]
struct JsonKdf {
    #[serde(rename = "type")]
    kind: String,
    salt: String,
    hash: Option<String>,
    iterations: Option<u32>,
    time: Option<u32>,
    memory: Option<u32>,
    cpus: Option<u32>,
}

#[derive(Debug, Deserialize)]
struct Af {
    #[serde(rename = "type")]
    kind: String,
    stripes: Option<usize>,
    hash: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Area {
    #[serde(rename = "type")]
    kind: String,
    offset: String,
    size: String,
    encryption: Option<String>,
    #[serde(default)]
    key_size: usize,
}

/// Something beside a person that opens key slots: a TPM, a Tang server, a FIDO2 stick.
#[derive(Debug, Deserialize)]
pub(super) struct Token {
    #[serde(rename = "type")]
    pub kind: String,
    #[serde(default)]
    pub keyslots: Vec<String>,
}

/// A part of the volume.
#[derive(Debug, Deserialize)]
pub(super) struct Segment {
    #[serde(rename = "type")]
    pub kind: String,
    pub offset: String,
    /// In bytes, or `dynamic`: to the end.
    pub size: String,
    #[serde(default)]
    pub iv_tweak: String,
    #[serde(default)]
    pub encryption: String,
    #[serde(default)]
    pub sector_size: u64,
    pub integrity: Option<serde_json::Value>,
}

/// What tells the right volume key, and for which segments.
#[derive(Debug, Deserialize)]
pub(super) struct Digest {
    #[serde(rename = "type")]
    kind: String,
    pub keyslots: Vec<String>,
    pub segments: Vec<String>,
    salt: String,
    digest: String,
    hash: Option<String>,
    iterations: Option<u32>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Config {
    pub requirements: Option<Requirements>,
}

/// What a reader has to know of.
#[derive(Debug, Deserialize)]
pub(super) struct Requirements {
    #[serde(default)]
    pub mandatory: Vec<String>,
}

fn damaged(what: impl std::fmt::Display) -> Refusal {
    Refusal::Damaged(format!("its LUKS2 header: {what}"))
}

/// A 64-bit number.
pub(super) fn number(text: &str) -> Result<u64, Refusal> {
    text.parse().map_err(|_| damaged("a number that is none"))
}

fn bytes(text: &str) -> Result<Vec<u8>, Refusal> {
    Base64::decode_vec(text).map_err(|_| damaged("a field that is not base64"))
}

fn hash(name: Option<&String>) -> Result<Hash, Refusal> {
    Hash::known(name.ok_or_else(|| damaged("a hash is missing"))?)
}

impl Metadata {
    /// # Errors
    /// If it is not what the format says.
    pub(super) fn parse(json: &[u8]) -> Result<Self, Refusal> {
        // Where, not what: the text is a stranger's.
        serde_json::from_slice(json).map_err(|error| {
            damaged(format_args!(
                "its JSON is not understood from line {}, column {} on",
                error.line(),
                error.column()
            ))
        })
    }
}

impl Keyslot {
    /// As slots are opened.
    pub(super) fn slot(&self, name: &str) -> Result<Slot, Refusal> {
        let name = format!("key slot {name}");
        if self.kind != "luks2" {
            return Err(Refusal::Unsupported(format!(
                "its {name} is of type {}, which is not known here",
                self.kind
            )));
        }
        let (Some(kdf), Some(af), Some(area)) = (&self.kdf, &self.af, &self.area) else {
            return Err(damaged(format_args!("{name} lacks a part")));
        };
        if af.kind != "luks1" || area.kind != "raw" {
            return Err(Refusal::Unsupported(format!(
                "its {name} is kept as {} in {}, which is not known here",
                af.kind, area.kind
            )));
        }
        let missing = || damaged(format_args!("{name} lacks a field"));
        let slot = Slot {
            kdf: kdf.kdf()?.ok_or_else(missing)?,
            area_cipher: area.encryption.clone().ok_or_else(missing)?,
            area_key_len: area.key_size,
            area: ByteOffset(number(&area.offset)?),
            stripes: af.stripes.ok_or_else(missing)?,
            stripe_hash: hash(af.hash.as_ref())?,
            key_len: self.key_size,
            name,
        };
        let room = number(&area.size)?;
        if slot
            .area_len()
            .and_then(|len| u64::try_from(len).ok())
            .is_none_or(|len| len > room)
        {
            return Err(damaged(format_args!("the sizes of {}", slot.name)));
        }
        Ok(slot)
    }
}

impl JsonKdf {
    fn kdf(&self) -> Result<Option<Kdf>, Refusal> {
        let salt = bytes(&self.salt)?;
        Ok(match self.kind.as_str() {
            "pbkdf2" => self.iterations.map_or(Ok(None), |iterations| {
                Ok::<_, Refusal>(Some(Kdf::Pbkdf2 {
                    hash: hash(self.hash.as_ref())?,
                    salt,
                    iterations,
                }))
            })?,
            "argon2i" | "argon2id" => match (self.time, self.memory, self.cpus) {
                (Some(time), Some(memory), Some(cpus)) => Some(Kdf::Argon2 {
                    id: self.kind == "argon2id",
                    salt,
                    time,
                    memory,
                    cpus,
                }),
                _ => None,
            },
            other => {
                return Err(Refusal::Unsupported(format!(
                    "a key slot uses {other}, which is not known here"
                )));
            }
        })
    }
}

impl Digest {
    /// As keys are told apart.
    pub(super) fn key_digest(&self) -> Result<KeyDigest, Refusal> {
        if self.kind != "pbkdf2" {
            return Err(Refusal::Unsupported(format!(
                "its key is checked by {}, which is not known here",
                self.kind
            )));
        }
        Ok(KeyDigest {
            kdf: Kdf::Pbkdf2 {
                hash: hash(self.hash.as_ref())?,
                salt: bytes(&self.salt)?,
                iterations: self
                    .iterations
                    .ok_or_else(|| damaged("its digest lacks a field"))?,
            },
            digest: bytes(&self.digest)?,
        })
    }
}
