//! The files of captures. In: a directory, or a stick that nobody mounted, and images that
//! [`crate::qcow2`] wrote. Out: a capture that is whole or visibly not, a manifest in which every
//! bit of it has a digest, and the proof that what is stored is what was read.
//!
//! What a capture contains and what its manifest says: `docs/capture-files.md`.

pub mod append;
pub mod chain;
pub mod chunks;
pub mod digest;
mod ext4;
pub mod fault;
pub mod files;
pub mod layout;
pub mod list;
pub mod manifest;
pub mod medium;
pub mod merge;
pub mod parts;
mod scan;
mod tee;
pub mod tree;
pub mod verify;

pub use chunks::{CHUNK_BYTES, ChunkHasher, ChunkList, chunk_digest};
pub use digest::{Digest, FileDigest};
pub use fault::{Fault, Faults};
pub use files::{CaptureFiles, DirFiles, FileEntry, FileReader};
pub use layout::CaptureDir;
pub use list::{List, list};
pub use manifest::{DiskRecord, FileRecord, Manifest, Since};
pub use merge::Merged;
pub use parts::Part;
pub use verify::{CaptureVerdict, Verdict, seal, verify, verify_path, verify_paths};
