//! The name of an HFS+ volume: that of its root folder, whose record comes first in the catalog
//! (TN1150, "B-Trees" and "Catalog File"). For people only, so whatever is odd is no name.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use super::volume_header::VolumeHeader;
use crate::bytes::{read_array, read_u8, read_u32be};
use crate::device::ReadAt;
use crate::units::ByteOffset;

/// `kBTLeafNode` and `kHFSRootParentID`.
const LEAF: u8 = 0xFF;
const ROOT_PARENT: u32 = 1;

/// The name as it is stored (a Mac takes letters and their marks apart).
pub(super) fn read(volume: &dyn ReadAt, header: &VolumeHeader) -> Option<String> {
    let (start, blocks) = header.catalog;
    let at = start.checked_mul(header.block_size)?;
    let len = blocks.checked_mul(header.block_size)?;
    // `BTNodeDescriptor`, then `BTHeaderRec`: `firstLeafNode` and `nodeSize`.
    let mut head = [0; 128];
    volume.read_at(ByteOffset(at), &mut head).ok()?;
    let first_leaf = u64::from(read_u32be(&head, 24));
    let node_size = u64::from(u16::from_be_bytes(read_array(&head, 32)));
    let leaf = first_leaf.checked_mul(node_size)?;
    if leaf.checked_add(node_size)? > len || node_size < 1024 {
        return None;
    }
    let mut node = [0; 1024];
    volume
        .read_at(ByteOffset(at.checked_add(leaf)?), &mut node)
        .ok()?;
    // The first key: its length, the parent, the name in UTF-16.
    if read_u8(&node, 8) != LEAF || read_u32be(&node, 16) != ROOT_PARENT {
        return None;
    }
    let units = usize::from(u16::from_be_bytes(read_array(&node, 20)));
    let name: Vec<u16> = node
        .get(22..)?
        .chunks_exact(2)
        .take(units.min(255))
        .map(|unit| u16::from_be_bytes(read_array(unit, 0)))
        .collect();
    (!name.is_empty()).then(|| String::from_utf16_lossy(&name))
}
