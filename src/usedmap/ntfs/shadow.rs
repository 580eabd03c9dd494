//! Shadow copies (Volume Shadow Copy Service; "Volume Shadow Snapshot (VSS) format" of libvshadow):
//! a header in $Boot, 0x1E00 bytes into the volume, names a catalog of blocks of 16 KiB, whose
//! entries of 128 bytes are the shadow copies.
//!
//! They matter because a shadow copy keeps what is overwritten, not what is deleted: the clusters of
//! a file that was deleted since are free in $Bitmap, but the shadow copy still reads them there.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use crate::bytes::{has_magic, read_array, read_u32le, read_u64le};
use crate::device::ReadAt;
use crate::error::Error;
use crate::units::ByteOffset;
use crate::usedmap::finding::Refusal;

const HEADER_AT: u64 = 0x1E00;
const IDENTIFIER: &[u8] = &[
    0x6B, 0x87, 0x08, 0x38, 0x76, 0xC1, 0x48, 0x4E, 0xB7, 0xAE, 0x04, 0x04, 0x6E, 0x6C, 0xC7, 0x52,
];
const RECORD_HEADER: u32 = 1;
const RECORD_CATALOG: u32 = 2;
const CATALOG_BLOCK: usize = 16 << 10;
const CATALOG_HEADER: usize = 128;
const CATALOG_ENTRY: usize = 128;
/// Entries that stand for nothing: the end, and one that is free again.
const NOTHING: [u64; 2] = [0, 1];
/// Windows keeps at most 512 shadow copies of a volume, two entries each: 9 blocks.
const MAX_BLOCKS: usize = 64;

/// Refuses a volume with shadow copies.
pub(super) fn refuse_shadow_copies(volume: &dyn ReadAt) -> Result<(), Refusal> {
    let mut header = [0; 128];
    volume.read_at(ByteOffset(HEADER_AT), &mut header)?;
    if !has_magic(&header, 0x00, IDENTIFIER) {
        return Ok(());
    }
    let version = read_u32le(&header, 0x10);
    if !matches!(version, 1 | 2) || read_u32le(&header, 0x14) != RECORD_HEADER {
        return Err(Refusal::Unsupported(format!(
            "shadow copies of version {version}"
        )));
    }
    let volume_id: [u8; 16] = read_array(&header, 0x40);
    let storage_id: [u8; 16] = read_array(&header, 0x50);
    if storage_id != [0; 16] && storage_id != volume_id {
        return Err(found("its shadow copies are kept on another volume, so"));
    }
    let mut next = read_u64le(&header, 0x30);
    for _ in 0..MAX_BLOCKS {
        if next == 0 {
            return Ok(());
        }
        let mut block = vec![0; CATALOG_BLOCK];
        volume
            .read_at(ByteOffset(next), &mut block)
            .map_err(|error| {
                Error::new(error.kind(), "reading the catalog of shadow copies")
                    .because(error)
                    .at(next)
            })?;
        if !has_magic(&block, 0x00, IDENTIFIER) || read_u32le(&block, 0x14) != RECORD_CATALOG {
            return Err(found(
                "the catalog of its shadow copies is damaged, so perhaps",
            ));
        }
        let entries = block.get(CATALOG_HEADER..).unwrap_or_default();
        for entry in entries.chunks_exact(CATALOG_ENTRY) {
            if !NOTHING.contains(&read_u64le(entry, 0x00)) {
                return Err(found("it has shadow copies (previous versions), and"));
            }
        }
        next = read_u64le(&block, 0x28);
    }
    Err(found(
        "the catalog of its shadow copies has no end, so perhaps",
    ))
}

fn found(what: &str) -> Refusal {
    Refusal::Unsupported(format!(
        "{what} they read deleted files from clusters that are free (delete them in Windows with \
         vssadmin delete shadows /all for a smaller copy)"
    ))
}
