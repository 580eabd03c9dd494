//! The header in cluster 0 (spec: "Header").

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use super::HostOffset;
use super::backing::Place;
use crate::error::{Error, Kind, Result};
use crate::units::ByteLen;

/// `QFI\xfb`: what a file that was not finished lacks.
pub const MAGIC: u32 = 0x5146_49fb;

/// The header that we write, and as much of any header as we look at.
pub const HEADER_BYTES: usize = 112;

/// [`HEADER_BYTES`] as the header says it.
const HEADER_LENGTH: u32 = 112;

/// Incompatible feature bit 0: the refcounts may be wrong. Reading does not use them.
const DIRTY: u64 = 1 << 0;
/// Incompatible feature bit 1: some table is known to be wrong.
const CORRUPT: u64 = 1 << 1;
/// Incompatible feature bit 2: guest data lies in another file.
const EXTERNAL_DATA: u64 = 1 << 2;
/// Incompatible feature bit 3: the compression type at byte 104 is not zlib.
const COMPRESSION_TYPE: u64 = 1 << 3;
/// Incompatible feature bit 4: L2 entries of 16 bytes.
const EXTENDED_L2: u64 = 1 << 4;

/// QEMU's bound for the L1 table (`QCOW_MAX_L1_SIZE`), and so ours for memory.
pub const MAX_L1_BYTES: u64 = 32 << 20;

/// How compressed clusters of the image are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CompressionType {
    /// Raw deflate.
    Zlib,
    /// Zstandard frames.
    Zstd,
}

/// The fields that reading and writing need, validated as far as they can be alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// 2 or 3.
    pub version: u32,
    /// log2 of the cluster size: 9 to 21.
    pub cluster_bits: u32,
    /// The size of the disk that the image is of.
    pub virtual_size: ByteLen,
    /// Entries of the L1 table: enough for `virtual_size`, at most [`MAX_L1_BYTES`].
    pub l1_entries: u32,
    /// Where the L1 table lies.
    pub l1_table: HostOffset,
    /// Where the refcount table lies.
    pub refcount_table: HostOffset,
    /// How many clusters the refcount table takes.
    pub refcount_table_clusters: u32,
    /// Of the compressed clusters.
    pub compression: CompressionType,
}

fn u32be(bytes: &[u8; HEADER_BYTES], at: usize) -> u32 {
    bytes
        .get(at..)
        .and_then(|rest| rest.first_chunk())
        .map_or(0, |raw| u32::from_be_bytes(*raw))
}

fn u64be(bytes: &[u8; HEADER_BYTES], at: usize) -> u64 {
    bytes
        .get(at..)
        .and_then(|rest| rest.first_chunk())
        .map_or(0, |raw| u64::from_be_bytes(*raw))
}

fn unsupported(what: impl Into<String>) -> Error {
    Error::new(Kind::Unsupported, what)
}

impl Header {
    /// Reads the first [`HEADER_BYTES`] of a file.
    ///
    /// # Errors
    /// [`Kind::Corrupt`] when it is not a qcow2 header, [`Kind::Unsupported`] when it is one of an
    /// image that needs more than this one file (or a password) to be read.
    pub fn parse(bytes: &[u8; HEADER_BYTES]) -> Result<Self> {
        match Self::parse_over(bytes)? {
            (header, None) => Ok(header),
            (_, Some(_)) => Err(unsupported("an image with a backing file")),
        }
    }

    /// As [`Self::parse`], also of an image that has a backing file: where its name lies.
    ///
    /// # Errors
    /// As [`Self::parse`].
    pub fn parse_over(bytes: &[u8; HEADER_BYTES]) -> Result<(Self, Option<Place>)> {
        let magic = u32be(bytes, 0x00);
        let version = u32be(bytes, 0x04);
        let backing_file_offset = u64be(bytes, 0x08);
        let backing_file_length = u32be(bytes, 0x10);
        let cluster_bits = u32be(bytes, 0x14);
        let size = u64be(bytes, 0x18);
        let crypt_method = u32be(bytes, 0x20);
        let l1_size = u32be(bytes, 0x24);
        let l1_table_offset = u64be(bytes, 0x28);
        let refcount_table_offset = u64be(bytes, 0x30);
        let refcount_table_clusters = u32be(bytes, 0x38);

        if magic != MAGIC {
            return Err(Error::corrupt(format!(
                "this is not a finished qcow2 image: it starts with {magic:#010x}, not {MAGIC:#010x}"
            )));
        }
        // Version 2 ends before the features: they count as 0.
        let (incompatible_features, compression_type) = match version {
            2 => (0, 0),
            3 => {
                let header_length = u32be(bytes, 0x64);
                if header_length < 104 {
                    return Err(Error::corrupt(format!(
                        "a version 3 header of {header_length} bytes, 104 is the least"
                    )));
                }
                let type_byte = bytes.get(0x68).copied().unwrap_or(0);
                (
                    u64be(bytes, 0x48),
                    if header_length > 104 { type_byte } else { 0 },
                )
            }
            _ => return Err(unsupported(format!("qcow2 version {version}"))),
        };
        if incompatible_features & CORRUPT != 0 {
            return Err(Error::corrupt("the image is marked corrupt")
                .advise("Have qemu-img check look at it"));
        }
        if incompatible_features & EXTERNAL_DATA != 0 {
            return Err(unsupported("an image whose data is in another file"));
        }
        if incompatible_features & EXTENDED_L2 != 0 {
            return Err(unsupported("an image with extended L2 entries"));
        }
        let unknown = incompatible_features & !(DIRTY | COMPRESSION_TYPE);
        if unknown != 0 {
            return Err(unsupported(format!("incompatible features {unknown:#x}")));
        }
        // Spec: the field is 0 if and only if the feature is not set.
        if (incompatible_features & COMPRESSION_TYPE != 0) != (compression_type != 0) {
            return Err(Error::corrupt(format!(
                "compression type {compression_type} and incompatible features \
                 {incompatible_features:#x} contradict each other"
            )));
        }
        if crypt_method != 0 {
            return Err(unsupported("an encrypted image"));
        }
        if !(9..=21).contains(&cluster_bits) {
            return Err(Error::corrupt(format!(
                "clusters of 2^{cluster_bits} bytes, 2^9 to 2^21 are legal"
            )));
        }
        let compression = match compression_type {
            0 => CompressionType::Zlib,
            1 => CompressionType::Zstd,
            other => return Err(unsupported(format!("compression type {other}"))),
        };
        let needed = l1_entries_for(ByteLen(size), cluster_bits);
        if needed > u64::from(l1_size) || u64::from(l1_size).saturating_mul(8) > MAX_L1_BYTES {
            return Err(Error::corrupt(format!(
                "an L1 table of {l1_size} entries for a disk of {size} bytes, which needs {needed}"
            )));
        }
        let backing = (backing_file_offset != 0).then_some(Place {
            offset: backing_file_offset,
            length: backing_file_length,
        });
        let header = Self {
            version,
            cluster_bits,
            virtual_size: ByteLen(size),
            l1_entries: l1_size,
            l1_table: HostOffset(l1_table_offset),
            refcount_table: HostOffset(refcount_table_offset),
            refcount_table_clusters,
            compression,
        };
        Ok((header, backing))
    }

    /// The header as it is written: version 3, refcounts of 16 bits, no extensions, no backing file.
    pub fn to_bytes(&self) -> [u8; HEADER_BYTES] {
        let (incompatible_features, compression_type) = match self.compression {
            CompressionType::Zlib => (0, 0),
            CompressionType::Zstd => (COMPRESSION_TYPE, 1),
        };
        let mut bytes = [0; HEADER_BYTES];
        let mut put = |at: usize, field: &[u8]| {
            if let Some(place) = bytes.get_mut(at..).and_then(|b| b.get_mut(..field.len())) {
                place.copy_from_slice(field);
            }
        };
        put(0x00, &MAGIC.to_be_bytes());
        put(0x04, &self.version.to_be_bytes());
        put(0x14, &self.cluster_bits.to_be_bytes());
        put(0x18, &self.virtual_size.0.to_be_bytes());
        put(0x24, &self.l1_entries.to_be_bytes());
        put(0x28, &self.l1_table.0.to_be_bytes());
        put(0x30, &self.refcount_table.0.to_be_bytes());
        put(0x38, &self.refcount_table_clusters.to_be_bytes());
        put(0x48, &incompatible_features.to_be_bytes());
        // refcount_order: 1 << 4 bits.
        put(0x60, &4_u32.to_be_bytes());
        put(0x64, &HEADER_LENGTH.to_be_bytes());
        put(0x68, &[compression_type]);
        bytes
    }
}

/// How many L1 entries a disk of this size needs: one for each L2 table's worth of clusters.
pub fn l1_entries_for(size: ByteLen, cluster_bits: u32) -> u64 {
    // An L2 table is one cluster of 8-byte entries.
    let bits = cluster_bits.saturating_mul(2).saturating_sub(3);
    let per_entry = 1_u64.checked_shl(bits).unwrap_or(u64::MAX);
    size.0.div_ceil(per_entry)
}

#[cfg(test)]
#[allow(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]
mod tests {
    use super::*;

    fn good() -> Header {
        Header {
            version: 3,
            cluster_bits: 16,
            virtual_size: ByteLen(1 << 40),
            l1_entries: 2048,
            l1_table: HostOffset(1 << 20),
            refcount_table: HostOffset(2 << 20),
            refcount_table_clusters: 1,
            compression: CompressionType::Zstd,
        }
    }

    /// The error that a good header gives once this byte of it is changed.
    fn error_with(at: usize, byte: u8) -> (Kind, String) {
        let mut bytes = good().to_bytes();
        bytes[at] = byte;
        let error = Header::parse(&bytes).unwrap_err();
        (error.kind(), error.to_string())
    }

    #[test]
    fn what_is_written_is_read() {
        assert_eq!(Header::parse(&good().to_bytes()).unwrap(), good());
    }

    #[test]
    fn a_header_that_was_cut_anywhere_is_refused() {
        let whole = good().to_bytes();
        for cut in 0..=0x68 {
            let mut bytes = [0; HEADER_BYTES];
            bytes[..cut].copy_from_slice(&whole[..cut]);
            assert!(Header::parse(&bytes).is_err(), "cut to {cut} bytes");
        }
    }

    #[test]
    fn each_thing_that_we_cannot_read_has_its_own_words() {
        for (at, byte, kind, words) in [
            (0x00, 0, Kind::Corrupt, "not a finished qcow2 image"),
            (0x07, 4, Kind::Unsupported, "qcow2 version 4"),
            (0x0f, 1, Kind::Unsupported, "backing file"),
            (0x17, 8, Kind::Corrupt, "clusters of 2^8 bytes"),
            (0x17, 22, Kind::Corrupt, "clusters of 2^22 bytes"),
            (0x1a, 2, Kind::Corrupt, "an L1 table of 2048 entries"),
            (0x23, 2, Kind::Unsupported, "encrypted"),
            (0x24, 1, Kind::Corrupt, "an L1 table of 16779264 entries"),
            (0x4f, 0x0a, Kind::Corrupt, "marked corrupt"),
            (0x4f, 0x0c, Kind::Unsupported, "another file"),
            (0x4f, 0x18, Kind::Unsupported, "extended L2"),
            (0x48, 0x80, Kind::Unsupported, "incompatible features 0x80"),
            (0x67, 103, Kind::Corrupt, "header of 103 bytes"),
            (0x68, 2, Kind::Unsupported, "compression type 2"),
            (0x68, 0, Kind::Corrupt, "contradict each other"),
            (0x4f, 0, Kind::Corrupt, "contradict each other"),
        ] {
            let (got, text) = error_with(at, byte);
            assert_eq!(got, kind, "byte {at:#x}: {text}");
            assert!(text.contains(words), "byte {at:#x}: {text}");
        }
    }
}
