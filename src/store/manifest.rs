//! `manifest.json`: what was taken of which disk, and a digest of everything. The schema is in
//! `docs/capture-files.md`.
//!
//! Every file of a capture is in it but itself and [`SUMS`]; that names every file including the
//! manifest, and as its text follows from the manifest it may be only what it is. So there is no
//! bit whose change goes unseen.

use super::chunks::{CHUNK_BYTES, ChunkList};
use super::digest::{Digest, FileDigest};
use super::files::CaptureFiles;
use super::parts::Part;
use crate::device::DiskIdentity;
use crate::error::{Error, Kind, Result};
use crate::extent::ExtentList;
use crate::qcow2::Compression;
use crate::units::ByteLen;
use crate::usedmap::{DiskMap, Region};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::Digest as _;
use std::fmt::Write as _;

/// The manifest's file.
pub const MANIFEST: &str = "manifest.json";

/// The digests in the words of `sha256sum`, for those who have no haulier.
pub const SUMS: &str = "SHA256SUMS";

/// The version that is written, and the only one there is.
pub const VERSION: u32 = 1;

/// The largest manifest that is read: of a full disk of 64 TiB, with fragmentation to spare.
const LARGEST: ByteLen = ByteLen(2 << 30);

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`VERSION`].
    pub version: u32,
    /// The version of haulier that captured.
    pub tool_version: String,
    /// The machine's name, as in the path.
    pub machine: String,
    /// When the capture began, by the captured machine's clock.
    #[serde(with = "time")]
    pub started: Timestamp,
    /// When all of it was read back and found right.
    #[serde(with = "time")]
    pub finished: Timestamp,
    /// The disks, in the order of their numbers.
    pub disks: Vec<DiskRecord>,
    /// Which part of a capture it is that lies on several media.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part: Option<Part>,
    /// All other files but this one and [`SUMS`]; [`CaptureDir::commit`] fills it.
    ///
    /// [`CaptureDir::commit`]: super::layout::CaptureDir::commit
    #[serde(default)]
    pub files: Vec<FileRecord>,
}

/// An imaged disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskRecord {
    /// Name of the image.
    pub file: String,
    /// Size of the image.
    pub file_bytes: u64,
    /// Of the image, where it was read back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<Digest>,
    /// Of the image, where it was not: taken while it was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blake3: Option<Digest>,
    /// What a guest sees: exactly the size of the disk.
    pub virtual_size_bytes: u64,
    /// What the disk is.
    pub source: DiskIdentity,
    /// How clusters of the image are compressed.
    pub compression: Compression,
    /// The size of the chunks that `chunks` has digests of.
    pub chunk_bytes: u64,
    /// BLAKE3 of each chunk of the disk that is not all zeros.
    pub chunks: ChunkList,
    /// What was read of the disk; all else is zeros in the image.
    #[serde(with = "pairs")]
    pub extents: ExtentList,
    /// What could not be read of the disk, and is zeros in the image.
    #[serde(with = "pairs")]
    pub bad_ranges: ExtentList,
    /// What the disk consists of, and why it was taken or not.
    pub regions: Vec<Region>,
    /// The image below this one, if this one holds only what changed since an earlier capture. All
    /// else of the record is of the whole disk as it was now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Since>,
    /// Only of a part: the first byte of the disk that it holds, and the one behind the last.
    /// `extents`, `bad_ranges` and `chunks` are of these bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub range: Option<(u64, u64)>,
}

/// The image of an earlier capture that another one was made over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Since {
    /// The capture: the name of its directory, beside that of the later one.
    pub capture: String,
    /// Of its manifest.
    pub manifest_sha256: Digest,
    /// Its image of the disk.
    pub file: String,
}

impl Since {
    /// The backing file that the header of the later image names.
    pub fn backing(&self) -> String {
        format!("../{}/{}", self.capture, self.file)
    }
}

impl DiskRecord {
    /// The record of an image whose digest has yet to be taken ([`seal`](super::seal())).
    pub fn new(
        file: &str,
        source: DiskIdentity,
        compression: Compression,
        map: &DiskMap,
        chunks: ChunkList,
        bad_ranges: ExtentList,
        file_bytes: ByteLen,
    ) -> Self {
        Self {
            file: file.into(),
            file_bytes: file_bytes.0,
            sha256: None,
            blake3: None,
            virtual_size_bytes: source.size_bytes,
            source,
            compression,
            chunk_bytes: CHUNK_BYTES,
            chunks,
            extents: map.extents.clone(),
            bad_ranges,
            regions: map.regions.clone(),
            since: None,
            range: None,
        }
    }

    /// The digest of the image.
    ///
    /// # Errors
    /// When there is none, which no capture of ours leaves out.
    pub fn digest(&self) -> Result<FileDigest> {
        let sha256 = self.sha256.map(FileDigest::Sha256);
        sha256
            .or(self.blake3.map(FileDigest::Blake3))
            .ok_or_else(|| Error::corrupt(format!("the manifest has no digest of {}", self.file)))
    }
}

/// A file that is not an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRecord {
    /// Its name.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// Its digest.
    pub sha256: Digest,
}

impl Manifest {
    /// As it is stored: compact JSON and a line feed.
    ///
    /// # Errors
    /// When the path of a disk is not UTF-8.
    pub fn to_json(&self) -> Result<Vec<u8>> {
        let mut json = serde_json::to_vec(self)
            .map_err(|e| Error::new(Kind::Unsupported, "writing the manifest").because(e))?;
        json.push(b'\n');
        Ok(json)
    }

    /// Reads a manifest.
    ///
    /// # Errors
    /// [`Kind::Corrupt`] when it is none, [`Kind::Unsupported`] when it is of a later version.
    pub fn from_json(json: &[u8]) -> Result<Self> {
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        let corrupt =
            |e: serde_json::Error| Error::corrupt(format!("reading {MANIFEST}")).because(e);
        let version = serde_json::from_slice::<Versioned>(json)
            .map_err(corrupt)?
            .version;
        if version != VERSION {
            return Err(Error::new(
                Kind::Unsupported,
                format!("{MANIFEST} has version {version}, this program reads version {VERSION}"),
            )
            .advise("Use a later haulier"));
        }
        serde_json::from_slice(json).map_err(corrupt)
    }

    /// Reads the manifest of a capture; also returns its bytes.
    ///
    /// # Errors
    /// As [`Self::from_json`], and when it cannot be read.
    pub fn read(capture: &dyn CaptureFiles) -> Result<(Self, Vec<u8>)> {
        let json = capture.read_small(MANIFEST, LARGEST)?;
        let manifest = Self::from_json(&json).map_err(|e| e.on(capture.name()))?;
        Ok((manifest, json))
    }

    /// The text of [`SUMS`] for this manifest, whose bytes are `json`.
    pub fn sums(&self, json: &[u8]) -> String {
        let manifest = Digest(sha2::Sha256::digest(json).into());
        let disks = self.disks.iter();
        let disks = disks.filter_map(|disk| Some((disk.sha256?, &*disk.file)));
        let files = self.files.iter().map(|file| (file.sha256, &*file.name));
        let mut text = String::new();
        for (digest, name) in disks.chain(files).chain([(manifest, MANIFEST)]) {
            // Writing to a String does not fail.
            let _ = writeln!(text, "{digest}  {name}");
        }
        text
    }
}

/// RFC 3339.
mod time {
    use jiff::Timestamp;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(time: &Timestamp, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(time)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Timestamp, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(from)?;
        text.parse().map_err(D::Error::custom)
    }
}

/// Extents as `[start_byte, length_bytes]`: of a fragmented filesystem there are many.
mod pairs {
    use crate::extent::{Extent, ExtentList};
    use crate::units::{ByteLen, ByteOffset};
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(list: &ExtentList, to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(list.iter().map(|e| (e.start(), e.len())))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<ExtentList, D::Error> {
        Vec::<(ByteOffset, ByteLen)>::deserialize(from)?
            .into_iter()
            .map(|(start, len)| {
                Extent::new(start, len)
                    .ok_or_else(|| D::Error::custom(format!("an extent of {} bytes", len.0)))
            })
            .collect()
    }
}
