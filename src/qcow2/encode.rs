//! One guest cluster to what the image stores for it. Each worker thread has its own [`Encoder`].

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

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
    /// Nothing: all its bytes are 0.
    Zero,
    /// One compressed stream, shorter than a cluster.
    Compressed(Vec<u8>),
    /// The [`CLUSTER_BYTES`] themselves.
    Plain(Vec<u8>),
}

/// The level that keeps a core ahead of every USB stick (over 500 MiB of data a CPU second) and
/// still matches the size that `qemu-img convert -c` reaches.
const ZSTD_LEVEL: i32 = 1;

/// zlib is slow enough at its fastest (about 155 MiB a CPU second).
const ZLIB_LEVEL: u32 = 1;

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
    Zstd(zstd::bulk::Compressor<'static>),
    Zlib(Compress),
    None,
}

/// Compresses clusters; keeps its context and buffer from one to the next.
pub struct Encoder {
    method: Method,
    scratch: Vec<u8>,
    /// Holds the last cluster of a disk that ends within it.
    padded: Vec<u8>,
}

impl Encoder {
    /// # Errors
    /// When the compressor cannot get its memory.
    pub fn new(compression: Compression) -> Result<Self> {
        let method = match compression {
            Compression::Zstd => {
                let setting_up = |e| Error::io("setting up the zstd compressor", e);
                let mut zstd = zstd::bulk::Compressor::new(ZSTD_LEVEL).map_err(setting_up)?;
                // 4 bytes a cluster, so that a hypervisor meets an I/O error and not wrong data
                // where a bit of the image flipped.
                zstd.set_parameter(CParameter::ChecksumFlag(true))
                    .map_err(setting_up)?;
                Method::Zstd(zstd)
            }
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
        })
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
        let length = match &mut self.method {
            Method::Zstd(zstd) => zstd
                .compress_to_buffer(cluster, self.scratch.as_mut_slice())
                .ok(),
            Method::Zlib(zlib) => {
                zlib.reset();
                match zlib.compress(cluster, &mut self.scratch, FlushCompress::Finish) {
                    Ok(Status::StreamEnd) => usize::try_from(zlib.total_out()).ok(),
                    Ok(Status::Ok | Status::BufError) | Err(_) => None,
                }
            }
            Method::None => None,
        };
        let worth_it = length.filter(|length| *length <= LARGEST_WORTH_COMPRESSING);
        match worth_it.and_then(|length| self.scratch.get(..length)) {
            Some(stream) => Encoded::Compressed(stream.to_vec()),
            None => Encoded::Plain(cluster.to_vec()),
        }
    }
}
