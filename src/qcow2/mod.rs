//! Disk images in qcow2. In: guest clusters in ascending order, compressed by as many threads as
//! there are. Out: a qcow2 file, written in one forward pass, that `qemu-img check` calls clean;
//! and, to prove it afterwards, a reader of such files that takes nothing on trust.
//!
//! ```text
//! 64 KiB of the disk -> encode -> writer -> file -> reader -> decode -> the same 64 KiB
//! ```
//!
//! The format is described in QEMU's `docs/interop/qcow2.txt`; "the spec" means that text. Why we
//! have a writer of our own: `docs/decisions/0002-qcow2-writer.md`.

pub mod backing;
pub mod decode;
pub mod encode;
pub mod entry;
pub mod header;
pub mod reader;
pub mod refcount;
pub mod spares;
pub mod storage;
pub mod writer;

pub use decode::Decoder;
pub use encode::{Compression, Encoded, Encoder};
pub use entry::Mapping;
pub use reader::Reader;
pub use spares::Spares;
pub use storage::Storage;
pub use writer::{Finished, Writer};

/// log2 of the cluster that we write.
pub const CLUSTER_BITS: u32 = 16;

/// The cluster that we write, in bytes: QEMU's default. Smaller ones cost tables, larger ones
/// make every small read of a compressed image decompress more.
pub const CLUSTER_BYTES: usize = 1 << CLUSTER_BITS;

/// The same as [`CLUSTER_BYTES`], for arithmetic on offsets.
pub(crate) const CLUSTER: u64 = 1 << CLUSTER_BITS;

/// Counts guest clusters: bytes `n * CLUSTER_BYTES` on of the disk that the image is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GuestCluster(pub u64);

/// A byte position in the image file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostOffset(pub u64);

/// Whether all bytes are 0. Looks at whole pages without a branch, which compilers turn into wide
/// loads.
pub fn is_zero(bytes: &[u8]) -> bool {
    bytes
        .chunks(4096)
        .all(|page| page.iter().fold(0, |seen, byte| seen | byte) == 0)
}
