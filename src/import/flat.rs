//! Several images of a disk become one that needs no other file. In: the disk as its images hold it
//! together, and the sectors that a larger copy has of its own. Out: a qcow2 image with every chunk
//! proven on the way. Clusters are taken over as they are stored, without compressing them again.

use crate::device::ReadAt;
use crate::error::{Error, Kind, Result};
use crate::ptable::Larger;
use crate::qcow2::header::CompressionType;
use crate::qcow2::{
    CLUSTER_BITS, CLUSTER_BYTES, Compression, Decoder, Encoded, Encoder, GuestCluster, Mapping,
    Writer, is_zero,
};
use crate::report::{Progress, Report};
use crate::store::Merged;
use crate::units::{ByteLen, ByteOffset};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::Path;

/// Writes `disk`, or the larger disk that it becomes, to a new file. `compression` is that of the latest image; earlier ones may have
/// another. Returns the size of the file.
///
/// # Errors
/// [`Kind::Mismatch`] when a chunk is not what was read; whatever reading and writing meet.
pub(super) fn write(
    disk: &Merged,
    larger: Option<&Larger>,
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
        larger,
        kind: match compression {
            Compression::Zstd => CompressionType::Zstd,
            Compression::Zlib | Compression::None => CompressionType::Zlib,
        },
        encoder: Encoder::new(compression)?,
        zstd: Decoder::new(CompressionType::Zstd)?,
        zlib: Decoder::new(CompressionType::Zlib)?,
    };
    let size = larger.map_or(disk.size(), |larger| larger.size);
    let mut writer = Writer::create(file, size, compression).map_err(on_file)?;
    let total = u64::try_from(disk.chunks().len()).unwrap_or(0);
    let total = ByteLen(total.saturating_mul(disk.chunk_bytes()));
    let mut done = 0_u64;
    let mut changed = touched(larger, disk.chunk_bytes());
    for (index, _) in disk.chunks().iter() {
        let later = changed.split_off(&index);
        for before in std::mem::replace(&mut changed, later) {
            append(flat.chunk(before, false)?, &mut writer).map_err(on_file)?;
        }
        changed.remove(&index);
        append(flat.chunk(index, true)?, &mut writer).map_err(on_file)?;
        done = done.saturating_add(disk.chunk_bytes());
        report.progress(Progress {
            done: ByteLen(done),
            total,
            written: writer.bytes_written(),
        });
    }
    for behind in changed {
        append(flat.chunk(behind, false)?, &mut writer).map_err(on_file)?;
    }
    Ok(writer.finish().map_err(on_file)?.file_bytes)
}

fn append(clusters: BTreeMap<u64, Encoded>, writer: &mut Writer) -> Result<()> {
    for (cluster, encoded) in clusters {
        writer.append(GuestCluster(cluster), encoded)?;
    }
    Ok(())
}

/// The chunks that have sectors of their own.
fn touched(larger: Option<&Larger>, chunk_bytes: u64) -> BTreeSet<u64> {
    let sectors = larger.into_iter().flat_map(|larger| larger.sectors.keys());
    sectors
        .filter_map(|at| at.0.checked_div(chunk_bytes))
        .collect()
}

fn has_zstd(disk: &Merged) -> bool {
    let mut layers = disk.layers().iter();
    layers.any(|layer| layer.compression() == CompressionType::Zstd)
}

struct Flat<'a> {
    disk: &'a Merged,
    larger: Option<&'a Larger>,
    /// How compressed clusters of the new image are compressed.
    kind: CompressionType,
    encoder: Encoder,
    zstd: Decoder,
    zlib: Decoder,
}

impl Flat<'_> {
    /// What is stored of a chunk. One that the disk has a digest of (`listed`) must have proven to be
    /// what was read; all others are zeros.
    fn chunk(&mut self, index: u64, listed: bool) -> Result<BTreeMap<u64, Encoded>> {
        let mut clusters = BTreeMap::new();
        let mut bytes = Vec::new();
        if listed {
            let range = self.disk.range(index).ok_or_else(|| {
                Error::corrupt(format!("chunk {index} lies behind the end of the disk"))
            })?;
            let length = usize::try_from(range.len().0).unwrap_or(0);
            bytes.resize(length.next_multiple_of(CLUSTER_BYTES), 0);
            let first = range.start().0 >> CLUSTER_BITS;
            for (cluster, target) in (first..).zip(bytes.chunks_mut(CLUSTER_BYTES)) {
                clusters.insert(cluster, self.cluster(cluster, target)?);
            }
            bytes.truncate(length);
            self.disk.prove(index, &bytes)?;
        }
        self.change(index, bytes, &mut clusters)?;
        Ok(clusters)
    }

    /// Puts the sectors that a larger copy has of its own into the clusters of a chunk.
    fn change(
        &mut self,
        index: u64,
        mut bytes: Vec<u8>,
        clusters: &mut BTreeMap<u64, Encoded>,
    ) -> Result<()> {
        let Some(larger) = self.larger else {
            return Ok(());
        };
        let start = index.saturating_mul(self.disk.chunk_bytes());
        let end = start.saturating_add(self.disk.chunk_bytes());
        let mut changed = BTreeSet::new();
        for (at, sector) in larger.sectors.range(ByteOffset(start)..ByteOffset(end)) {
            // At most a chunk, and only as far as something is changed.
            let within = usize::try_from(at.0.saturating_sub(start)).unwrap_or(usize::MAX);
            let behind = within.saturating_add(sector.len());
            let whole = behind.next_multiple_of(CLUSTER_BYTES);
            if bytes.len() < whole {
                bytes.resize(whole, 0);
            }
            if let Some(target) = bytes.get_mut(within..behind) {
                target.copy_from_slice(sector);
            }
            changed.insert(at.0 >> CLUSTER_BITS);
        }
        let first = start >> CLUSTER_BITS;
        for cluster in changed {
            let place = usize::try_from(cluster.saturating_sub(first)).unwrap_or(usize::MAX);
            let content = bytes.chunks(CLUSTER_BYTES).nth(place).unwrap_or_default();
            clusters.insert(cluster, self.encoder.encode(content));
        }
        Ok(())
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
