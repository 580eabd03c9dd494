//! A compressed cluster back to its bytes.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use super::header::CompressionType;
use crate::error::{Error, Result};
use flate2::{Decompress, FlushDecompress, Status};
use zstd::stream::raw::{Decoder as ZstdDecoder, InBuffer, Operation, OutBuffer};
use zstd::zstd_safe::DParameter;

/// The largest zstd window that we give memory for: four times the largest cluster.
const ZSTD_WINDOW_LOG_MAX: u32 = 23;

enum Method {
    Zlib(Decompress),
    Zstd(ZstdDecoder<'static>),
}

/// Decompresses clusters; keeps its context from one to the next.
pub struct Decoder(Method);

impl Decoder {
    /// # Errors
    /// When the decompressor cannot get its memory.
    pub fn new(compression: CompressionType) -> Result<Self> {
        Ok(Self(match compression {
            // 15, not the 12 of the spec: other writers are careless.
            CompressionType::Zlib => Method::Zlib(Decompress::new_with_window_bits(false, 15)),
            CompressionType::Zstd => {
                let setting_up = |e| Error::io("setting up the zstd decompressor", e);
                let mut zstd = ZstdDecoder::new().map_err(setting_up)?;
                zstd.set_parameter(DParameter::WindowLogMax(ZSTD_WINDOW_LOG_MAX))
                    .map_err(setting_up)?;
                Method::Zstd(zstd)
            }
        }))
    }

    /// Fills `cluster` from `stream`, behind which anything may follow. Returns how many bytes of
    /// `stream` it took, or all of them where that cannot be told.
    ///
    /// # Errors
    /// [`Kind::Corrupt`](crate::error::Kind::Corrupt) when the stream is damaged or shorter than
    /// `cluster`.
    pub fn decode(&mut self, stream: &[u8], cluster: &mut [u8]) -> Result<usize> {
        let damaged = |why: String| Error::corrupt(format!("decompressing a cluster: {why}"));
        match &mut self.0 {
            Method::Zlib(zlib) => {
                zlib.reset(false);
                let status = zlib
                    .decompress(stream, cluster, FlushDecompress::Finish)
                    .map_err(|e| damaged(e.to_string()))?;
                if usize::try_from(zlib.total_out()) != Ok(cluster.len()) {
                    return Err(damaged("the stream ends before the cluster".into()));
                }
                if status == Status::StreamEnd {
                    return Ok(usize::try_from(zlib.total_in()).unwrap_or(stream.len()));
                }
                Ok(stream.len())
            }
            Method::Zstd(zstd) => {
                zstd.reinit().map_err(|e| damaged(e.to_string()))?;
                let mut input = InBuffer::around(stream);
                let mut output = OutBuffer::around(cluster);
                // As QEMU does: frame by frame until the cluster is full, and then the frame that
                // filled it has to be whole (that is where its checksum is compared).
                loop {
                    let before = (input.pos(), output.pos());
                    let hint = zstd
                        .run(&mut input, &mut output)
                        .map_err(|e| damaged(e.to_string()))?;
                    let full = output.pos() == output.capacity();
                    if full && hint == 0 {
                        return Ok(input.pos());
                    }
                    if before == (input.pos(), output.pos()) {
                        return Err(damaged("the stream does not end with the cluster".into()));
                    }
                    if hint == 0 {
                        zstd.reinit().map_err(|e| damaged(e.to_string()))?;
                    }
                }
            }
        }
    }
}
