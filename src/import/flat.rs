//! Several images of a disk become one that needs no other file. In: the disk as its images hold it
//! together. Out: a qcow2 image with every chunk proven on the way. Clusters are taken over as they
//! are stored, without compressing them again.

use crate::device::ReadAt;
use crate::error::{Error, Kind, Result};
use crate::qcow2::header::CompressionType;
use crate::qcow2::{
    CLUSTER_BITS, CLUSTER_BYTES, Compression, Decoder, Encoded, Encoder, GuestCluster, Mapping,
    Writer, is_zero,
};
use crate::report::{Progress, Report};
use crate::store::Merged;
use crate::units::ByteLen;
use std::fs::File;
use std::path::Path;

/// Writes `disk` to a new file. `compression` is that of the latest image; earlier ones may have
/// another. Returns the size of the file.
///
/// # Errors
/// [`Kind::Mismatch`] when a chunk is not what was read; whatever reading and writing meet.
pub(super) fn write(
    disk: &Merged,
    compression: Compression,
    path: &Path,
    report: &dyn Report,
) -> Result<ByteLen> {
    if disk.cluster_bytes() != 1 << CLUSTER_BITS {
        return Err(Error::new(
            Kind::Unsupported,
            format!("images in clusters of {} bytes", disk.cluster_bytes()),
        )
        .on(disk.name()));
    }
    let on_file = |e: Error| e.on(path.display().to_string());
    let file =
        File::create_new(path).map_err(|e| Error::io(format!("making {}", path.display()), e))?;
    // One image has one way to compress: that of the first one that compresses.
    let compression = match compression {
        Compression::None if has_zstd(disk) => Compression::Zstd,
        Compression::None => Compression::Zlib,
        other => other,
    };
    let mut flat = Flat {
        disk,
        kind: match compression {
            Compression::Zstd => CompressionType::Zstd,
            Compression::Zlib | Compression::None => CompressionType::Zlib,
        },
        encoder: Encoder::new(compression)?,
        zstd: Decoder::new(CompressionType::Zstd)?,
        zlib: Decoder::new(CompressionType::Zlib)?,
    };
    let mut writer = Writer::create(file, disk.size(), compression).map_err(on_file)?;
    let total = u64::try_from(disk.chunks().len()).unwrap_or(0);
    let total = ByteLen(total.saturating_mul(disk.chunk_bytes()));
    let mut done = 0_u64;
    for (index, _) in disk.chunks().iter() {
        for (cluster, encoded) in flat.chunk(index)? {
            writer.append(cluster, encoded).map_err(on_file)?;
        }
        done = done.saturating_add(disk.chunk_bytes());
        report.progress(Progress {
            done: ByteLen(done),
            total,
            written: writer.bytes_written(),
        });
    }
    Ok(writer.finish().map_err(on_file)?.file_bytes)
}

fn has_zstd(disk: &Merged) -> bool {
    let mut layers = disk.layers().iter();
    layers.any(|layer| layer.compression() == CompressionType::Zstd)
}

struct Flat<'a> {
    disk: &'a Merged,
    /// How compressed clusters of the new image are compressed.
    kind: CompressionType,
    encoder: Encoder,
    zstd: Decoder,
    zlib: Decoder,
}

impl Flat<'_> {
    /// What is stored of a chunk, once it has proven to be what was read.
    fn chunk(&mut self, index: u64) -> Result<Vec<(GuestCluster, Encoded)>> {
        let range = self.disk.range(index).ok_or_else(|| {
            Error::corrupt(format!("chunk {index} lies behind the end of the disk"))
        })?;
        let length = usize::try_from(range.len().0).unwrap_or(0);
        let mut bytes = vec![0; length.next_multiple_of(CLUSTER_BYTES)];
        let first = range.start().0 >> CLUSTER_BITS;
        let mut clusters = Vec::new();
        for (cluster, target) in (first..).zip(bytes.chunks_mut(CLUSTER_BYTES)) {
            let encoded = self.cluster(cluster, target)?;
            clusters.push((GuestCluster(cluster), encoded));
        }
        bytes.truncate(length);
        self.disk.prove(index, &bytes)?;
        Ok(clusters)
    }

    /// Fills `target` with a cluster, and returns it as it is stored.
    fn cluster(&mut self, cluster: u64, target: &mut [u8]) -> Result<Encoded> {
        let Some((layer, mapping)) = self.disk.find(cluster)? else {
            return Ok(Encoded::Zero);
        };
        let mut stored = layer.stored(mapping)?;
        match mapping {
            Mapping::Unallocated | Mapping::Zero => Ok(Encoded::Zero),
            Mapping::Plain(_) => {
                target.copy_from_slice(&stored);
                Ok(match is_zero(&stored) {
                    true => Encoded::Zero,
                    false => Encoded::Plain(stored),
                })
            }
            Mapping::Compressed { host, .. } => {
                let kind = layer.compression();
                let decoder = match kind {
                    CompressionType::Zstd => &mut self.zstd,
                    CompressionType::Zlib => &mut self.zlib,
                };
                let length = decoder.decode(&stored, target).map_err(|e| {
                    e.into_kind(Kind::Mismatch)
                        .on(format!("{} (guest cluster {cluster})", layer.name()))
                        .at(host.0)
                })?;
                stored.truncate(length);
                Ok(if kind == self.kind && stored.len() < CLUSTER_BYTES {
                    Encoded::Compressed(stored)
                } else {
                    self.encoder.encode(target)
                })
            }
        }
    }
}
