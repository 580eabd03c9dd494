//! One guest cluster to what the image stores for it. Each worker thread has its own [`Encoder`].

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use super::spares::Spares;
use super::{CLUSTER_BYTES, is_zero};
use crate::error::{Error, Result};
use flate2::{Compress, FlushCompress, Status};
use serde::{Deserialize, Serialize};
use zstd::zstd_safe::CParameter;

/// How the clusters of an image are compressed.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, clap::ValueEnum,
)]
#[serde(rename_all = "kebab-case")]
pub enum Compression {
    /// Zstandard: fast and small; needs QEMU 5.1 (2020) or later.
    #[default]
    Zstd,
    /// Deflate: three to ten times slower; for old importers.
    Zlib,
    /// Not at all.
    None,
}

impl Compression {
    /// The name in files and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Zstd => "zstd",
            Self::Zlib => "zlib",
            Self::None => "none",
        }
    }
}

/// What the image stores for one guest cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Encoded {
    /// Nothing: all its bytes are 0, or are what the image below holds.
    Zero,
    /// No bytes, but an entry that says that all are 0, over an image below where they are not.
    Zeroed,
    /// One compressed stream, shorter than a cluster.
    Compressed(Vec<u8>),
    /// The [`CLUSTER_BYTES`] themselves.
    Plain(Vec<u8>),
}

/// Zstandard's lowest level that makes images no larger than `qemu-img convert -c` does (within 2 %;
/// level 1 makes them 4 % larger and is hardly faster).
pub const ZSTD_BASE: i32 = 2;

/// From this level on it is looked first whether a cluster can be compressed at all: such levels
/// take their time to find out that it cannot.
const ZSTD_SLOW: i32 = 4;

/// What is looked at of a cluster then, in bytes.
const PROBE: usize = 8 << 10;

/// Level 1 has only fixed codes and makes images a quarter larger (0.340 instead of 0.276 of system
/// files) for a third more speed; levels above 2 gain 4 % and cost more than that.
const ZLIB_LEVEL: u32 = 2;

/// QEMU's window for raw deflate (`qcow2_zlib_compress`): a stream made with a larger one can be
/// read by QEMU but not by decoders that believe the spec.
const ZLIB_WINDOW_BITS: u8 = 12;

/// A compressed cluster costs its reader a decompression of the whole of it, so it has to save at
/// least a sixteenth.
const LARGEST_WORTH_COMPRESSING: usize = CLUSTER_BYTES.saturating_sub(CLUSTER_BYTES >> 4);

/// Room for the worst stream of a cluster (deflate's fixed codes have 9 bits a byte at the most),
/// so that every stream is finished: `zlib-rs` 0.6.8 panics in the stream after one that was
/// not, as its reset keeps the read position of what was pending.
const SCRATCH: usize = CLUSTER_BYTES.saturating_add(CLUSTER_BYTES >> 2);

enum Method {
    Zstd {
        base: zstd::bulk::Compressor<'static>,
        /// At a higher level, and that level.
        harder: Option<(zstd::bulk::Compressor<'static>, i32)>,
    },
    Zlib(Compress),
    None,
}

/// Compresses clusters; keeps its context and buffer from one to the next.
pub struct Encoder {
    method: Method,
    scratch: Vec<u8>,
    /// Holds the last cluster of a disk that ends within it.
    padded: Vec<u8>,
    /// What clusters are encoded into, where it comes back from the writer.
    spares: Option<Spares>,
}

impl Encoder {
    /// # Errors
    /// When the compressor cannot get its memory.
    pub fn new(compression: Compression) -> Result<Self> {
        let method = match compression {
            Compression::Zstd => Method::Zstd {
                base: zstd_at(ZSTD_BASE)?,
                harder: None,
            },
            Compression::Zlib => Method::Zlib(Compress::new_with_window_bits(
                flate2::Compression::new(ZLIB_LEVEL),
                false,
                ZLIB_WINDOW_BITS,
            )),
            Compression::None => Method::None,
        };
        Ok(Self {
            method,
            scratch: vec![0; SCRATCH],
            padded: Vec::new(),
            spares: None,
        })
    }

    /// Encodes into memory of `spares` from now on: for clusters that go to a writer that gives it back
    /// ([`Writer::recycle`](super::Writer::recycle)).
    #[must_use]
    pub fn with(mut self, spares: Spares) -> Self {
        self.spares = Some(spares);
        self
    }

    /// Compresses with this level of Zstandard from now on, at the least with [`ZSTD_BASE`]; of no
    /// effect on other methods.
    ///
    /// # Errors
    /// When the compressor cannot get its memory.
    pub fn set_level(&mut self, level: i32) -> Result<()> {
        if let Method::Zstd { harder, .. } = &mut self.method {
            if level <= ZSTD_BASE {
                *harder = None;
            } else if harder.as_ref().is_none_or(|(_, now)| *now != level) {
                *harder = Some((zstd_at(level)?, level));
            }
        }
        Ok(())
    }

    /// Encodes one cluster: [`CLUSTER_BYTES`], or fewer where the disk ends, which stand for
    /// themselves and zeros behind.
    pub fn encode(&mut self, cluster: &[u8]) -> Encoded {
        debug_assert!(cluster.len() <= CLUSTER_BYTES);
        if is_zero(cluster) {
            return Encoded::Zero;
        }
        let cluster = if cluster.len() == CLUSTER_BYTES {
            cluster
        } else {
            self.padded.clear();
            self.padded.extend_from_slice(cluster);
            self.padded.resize(CLUSTER_BYTES, 0);
            &self.padded
        };
        // Where a compressor fails, the plain cluster is always right.
        let stream = match &mut self.method {
            Method::Zstd { base, harder } => {
                let zstd = match harder {
                    Some((harder, level))
                        if *level < ZSTD_SLOW || shrinks(base, cluster, &mut self.scratch) =>
                    {
                        harder
                    }
                    _ => base,
                };
                // Straight into the memory that it stays in.
                let mut stream = buffer(self.spares.as_ref());
                zstd.compress_to_buffer(cluster, &mut stream)
                    .ok()
                    .map(|_| stream)
            }
            Method::Zlib(zlib) => {
                zlib.reset();
                match zlib.compress(cluster, &mut self.scratch, FlushCompress::Finish) {
                    Ok(Status::StreamEnd) => usize::try_from(zlib.total_out())
                        .ok()
                        .and_then(|length| self.scratch.get(..length))
                        .map(<[u8]>::to_vec),
                    Ok(Status::Ok | Status::BufError) | Err(_) => None,
                }
            }
            Method::None => None,
        };
        match (stream, &self.spares) {
            (Some(stream), Some(_)) if stream.len() <= LARGEST_WORTH_COMPRESSING => {
                Encoded::Compressed(stream)
            }
            (Some(mut stream), None) if stream.len() <= LARGEST_WORTH_COMPRESSING => {
                // It may stay for long: what is too much of it is given back.
                stream.shrink_to_fit();
                Encoded::Compressed(stream)
            }
            (stream, spares) => {
                let mut plain = stream.unwrap_or_else(|| buffer(spares.as_ref()));
                plain.clear();
                plain.extend_from_slice(cluster);
                Encoded::Plain(plain)
            }
        }
    }
}

/// Room for any stream of a cluster.
fn buffer(spares: Option<&Spares>) -> Vec<u8> {
    match spares {
        Some(spares) => spares.take(SCRATCH),
        None => Vec::with_capacity(SCRATCH),
    }
}

/// A compressor for whole clusters.
fn zstd_at(level: i32) -> Result<zstd::bulk::Compressor<'static>> {
    let setting_up = |e| Error::io("setting up the zstd compressor", e);
    let mut zstd = zstd::bulk::Compressor::new(level).map_err(setting_up)?;
    // 4 bytes a cluster, so that a hypervisor meets an I/O error and not wrong data where a bit of
    // the image flipped.
    zstd.set_parameter(CParameter::ChecksumFlag(true))
        .map_err(setting_up)?;
    Ok(zstd)
}

/// Whether the beginning or the middle of a cluster can be compressed.
fn shrinks(zstd: &mut zstd::bulk::Compressor<'_>, cluster: &[u8], scratch: &mut [u8]) -> bool {
    let (left, right) = cluster.split_at(cluster.len() / 2);
    [left, right].into_iter().any(|half| {
        let probe = half.get(..PROBE).unwrap_or(half);
        zstd.compress_to_buffer(probe, scratch)
            .is_ok_and(|length| length < probe.len().saturating_sub(probe.len() >> 5))
    })
}

#[cfg(test)]
#[allow(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]
mod tests {
    use super::*;
    use crate::qcow2::Decoder;
    use crate::qcow2::header::CompressionType;

    /// 5,000 bytes of noise, again and again: what a window of 4 KiB cannot see repeats.
    fn far_repeats() -> Vec<u8> {
        let mut state = 1_u32;
        let noise: Vec<u8> = (0..5000)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 28) as u8
            })
            .collect();
        noise.into_iter().cycle().take(CLUSTER_BYTES).collect()
    }

    #[test]
    fn deflate_streams_need_no_more_than_the_window_of_the_spec() {
        let cluster = far_repeats();
        let mut encoder = Encoder::new(Compression::Zlib).unwrap();
        let Encoded::Compressed(stream) = encoder.encode(&cluster) else {
            panic!("4 bits of noise a byte can be compressed")
        };
        // Half of it is what the noise itself needs: no repeat was used.
        assert!(stream.len() > CLUSTER_BYTES * 2 / 5, "{}", stream.len());

        // And they would have been found with the usual window.
        let mut usual = Vec::with_capacity(CLUSTER_BYTES);
        Compress::new_with_window_bits(flate2::Compression::new(ZLIB_LEVEL), false, 15)
            .compress_vec(&cluster, &mut usual, FlushCompress::Finish)
            .unwrap();
        assert!(usual.len() < CLUSTER_BYTES / 5, "{}", usual.len());
    }

    #[test]
    fn a_flipped_bit_of_a_zstd_cluster_is_an_error_and_never_other_bytes() {
        let cluster = far_repeats();
        let mut encoder = Encoder::new(Compression::Zstd).unwrap();
        let Encoded::Compressed(stream) = encoder.encode(&cluster) else {
            panic!("it repeats")
        };
        let mut decoder = Decoder::new(CompressionType::Zstd).unwrap();
        let mut decoded = vec![0; CLUSTER_BYTES];
        for bit in (0..stream.len() * 8).step_by(37) {
            let mut damaged = stream.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            if decoder.decode(&damaged, &mut decoded).is_ok() {
                assert!(decoded == cluster, "bit {bit}");
            }
        }
        // The decoder survived all of it.
        decoder.decode(&stream, &mut decoded).unwrap();
        assert!(decoded == cluster);
    }

    #[test]
    fn a_higher_level_makes_smaller_clusters_that_any_decoder_reads_and_leaves_noise_plain() {
        // What is written here, which is as good a text as any.
        let text = [
            include_str!("writer.rs"),
            include_str!("reader.rs"),
            include_str!("header.rs"),
            include_str!("encode.rs"),
            include_str!("refcount.rs"),
            include_str!("entry.rs"),
        ];
        let text = text.concat().into_bytes();
        let text = &text[..CLUSTER_BYTES.min(text.len())];
        let mut decoder = Decoder::new(CompressionType::Zstd).unwrap();
        let mut encoder = Encoder::new(Compression::Zstd).unwrap();
        let mut lengths = Vec::new();
        for level in [1, 2, 6, 9, 2] {
            encoder.set_level(level).unwrap();
            let Encoded::Compressed(stream) = encoder.encode(text) else {
                panic!("it is text")
            };
            let mut decoded = vec![0; CLUSTER_BYTES];
            decoder.decode(&stream, &mut decoded).unwrap();
            assert!(decoded.starts_with(text), "level {level}");
            lengths.push(stream.len());
        }
        assert_eq!(lengths[0], lengths[1]);
        assert_eq!(lengths[1], lengths[4]);
        assert!(lengths[2] < lengths[1], "{lengths:?}");
        let mut state = 7_u64;
        let noise: Vec<u8> = (0..CLUSTER_BYTES)
            .map(|_| {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                (state >> 56) as u8
            })
            .collect();
        encoder.set_level(9).unwrap();
        assert_eq!(encoder.encode(&noise), Encoded::Plain(noise.clone()));
    }

    #[test]
    fn what_is_not_worth_compressing_stays_plain_and_a_short_cluster_is_filled_up() {
        let mut state = 7_u64;
        let noise: Vec<u8> = (0..CLUSTER_BYTES)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state as u8
            })
            .collect();
        for compression in [Compression::Zstd, Compression::Zlib, Compression::None] {
            let mut encoder = Encoder::new(compression).unwrap();
            for _ in 0..3 {
                assert_eq!(encoder.encode(&noise), Encoded::Plain(noise.clone()));
                assert_eq!(encoder.encode(&[0; CLUSTER_BYTES]), Encoded::Zero);
                assert_eq!(encoder.encode(&[0; 512]), Encoded::Zero);
            }
        }
        let mut encoder = Encoder::new(Compression::None).unwrap();
        let mut filled = noise[..512].to_vec();
        filled.resize(CLUSTER_BYTES, 0);
        assert_eq!(encoder.encode(&noise[..512]), Encoded::Plain(filled));
    }
}
