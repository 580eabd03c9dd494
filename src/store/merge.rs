//! Several images of one disk as one disk. In: the images in their order of precedence, and the
//! digests of the chunks that they hold together. Out: where each cluster lies (in the first image
//! that says anything of it), and the chunks, proven.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use super::chunks::{ChunkList, chunk_digest};
use crate::device::ReadAt;
use crate::device::read::check_range;
use crate::error::{Error, Kind, Result};
use crate::extent::Extent;
use crate::qcow2::{Mapping, Reader};
use crate::units::{ByteLen, ByteOffset};

/// The largest chunk that a manifest may speak of; ours have 4 MiB.
const LARGEST_CHUNK: u64 = 64 << 20;

/// An image of the disk, or of a part of it.
pub type Layer = Reader<Box<dyn ReadAt>>;

/// See the module.
pub struct Merged {
    /// The first one that says anything of a cluster is right.
    layers: Vec<Layer>,
    chunks: ChunkList,
    chunk_bytes: u64,
    size: ByteLen,
    cluster_bytes: u64,
}

impl Merged {
    /// `chunks` are the digests of all that `layers` hold together.
    ///
    /// # Errors
    /// [`Kind::Corrupt`] when they are of disks of different sizes, or in clusters of different sizes.
    pub fn new(layers: Vec<Layer>, chunks: ChunkList, chunk_bytes: u64) -> Result<Self> {
        let Some(first) = layers.first() else {
            return Err(Error::corrupt("a disk of no images"));
        };
        let (size, cluster_bytes) = (first.size(), first.cluster_bytes());
        for layer in &layers {
            if (layer.size(), layer.cluster_bytes()) != (size, cluster_bytes) {
                return Err(Error::corrupt(format!(
                    "{} is of a disk of {} bytes in clusters of {}, {} of one of {} bytes in \
                     clusters of {cluster_bytes}",
                    layer.name(),
                    layer.size().0,
                    layer.cluster_bytes(),
                    first.name(),
                    size.0
                )));
            }
        }
        // A chunk is held in memory at once.
        if !(cluster_bytes..=LARGEST_CHUNK).contains(&chunk_bytes) || !chunk_bytes.is_power_of_two()
        {
            return Err(Error::corrupt(format!(
                "chunks of {chunk_bytes} bytes and clusters of {cluster_bytes}"
            )));
        }
        Ok(Self {
            layers,
            chunks,
            chunk_bytes,
            size,
            cluster_bytes,
        })
    }

    /// The digests of its chunks.
    pub fn chunks(&self) -> &ChunkList {
        &self.chunks
    }

    /// The size of a chunk.
    pub fn chunk_bytes(&self) -> u64 {
        self.chunk_bytes
    }

    /// In bytes.
    pub fn cluster_bytes(&self) -> u64 {
        self.cluster_bytes
    }

    /// Its images.
    pub fn layers(&self) -> &[Layer] {
        &self.layers
    }

    /// The bytes of the disk that a chunk consists of.
    pub fn range(&self, index: u64) -> Option<Extent> {
        let start = index.checked_mul(self.chunk_bytes)?;
        Extent::between(
            start,
            start.saturating_add(self.chunk_bytes).min(self.size.0),
        )
    }

    /// The image that holds a cluster, and where; `None` if none says anything of it.
    ///
    /// # Errors
    /// When a table cannot be read, or says what cannot be.
    pub fn find(&self, cluster: u64) -> Result<Option<(&Layer, Mapping)>> {
        for layer in &self.layers {
            match layer.find(cluster)? {
                Mapping::Unallocated => {}
                mapping => return Ok(Some((layer, mapping))),
            }
        }
        Ok(None)
    }

    /// Fills `buf` with the bytes of a chunk, and holds them against its digest.
    ///
    /// # Errors
    /// [`Kind::Mismatch`] when they are not those that were read; and whatever reading meets.
    pub fn read_chunk(&self, index: u64, buf: &mut [u8]) -> Result<()> {
        let start = index.saturating_mul(self.chunk_bytes);
        self.read_at(ByteOffset(start), buf)?;
        self.prove(index, buf)
    }

    /// Holds the bytes of a chunk against its digest.
    ///
    /// # Errors
    /// [`Kind::Mismatch`] when they are not those that were read.
    pub fn prove(&self, index: u64, bytes: &[u8]) -> Result<()> {
        if chunk_digest(bytes) == self.chunks.get(index) {
            return Ok(());
        }
        let start = index.saturating_mul(self.chunk_bytes);
        let length = u64::try_from(bytes.len()).unwrap_or(0);
        Err(Error::new(
            Kind::Mismatch,
            format!(
                "what is stored of bytes {start} to {} of the disk is not what was read",
                start.saturating_add(length)
            ),
        )
        .on(self.name()))
    }
}

impl ReadAt for Merged {
    fn size(&self) -> ByteLen {
        self.size
    }

    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> Result<()> {
        check_range(&self.name(), self.size, offset, buf.len())?;
        let length = self.cluster_bytes.max(1);
        let mut at = offset.0;
        let mut rest = buf;
        while !rest.is_empty() {
            let within = at.checked_rem(length).unwrap_or(0);
            let cluster = at.checked_div(length).unwrap_or(0);
            let room = usize::try_from(length.saturating_sub(within)).unwrap_or(usize::MAX);
            let (now, later) = rest.split_at_mut(room.min(rest.len()));
            match self.find(cluster)? {
                None => now.fill(0),
                Some((layer, mapping)) => {
                    let within = usize::try_from(within).unwrap_or(0);
                    layer.read_mapped(cluster, mapping, within, now)?;
                }
            }
            at = at.saturating_add(u64::try_from(now.len()).unwrap_or(0));
            rest = later;
        }
        Ok(())
    }

    fn name(&self) -> String {
        let names: Vec<String> = self.layers.iter().map(ReadAt::name).collect();
        names.join(" over ")
    }
}
