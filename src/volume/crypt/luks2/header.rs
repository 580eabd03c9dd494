//! The binary header of LUKS2 and its two copies (LUKS2 On-Disk Format Specification 1.1.3,
//! section 2.1). `luks2_hdr_disk`, big-endian, followed by the JSON area:
//!
//! | at | field |
//! | --- | --- |
//! | 0x000 | `magic` `LUKS\xBA\xBE`, of the second copy `SKUL\xBA\xBE` |
//! | 0x006 | `version` 2 |
//! | 0x008 | `hdr_size`, with the JSON area, in bytes |
//! | 0x010 | `seqid`: the larger one is the newer copy |
//! | 0x018 | `label`, 48 bytes |
//! | 0x048 | `csum_alg`, 32 bytes |
//! | 0x0A8 | `uuid`, 40 bytes |
//! | 0x100 | `hdr_offset`: where this copy lies, in bytes |
//! | 0x1C0 | `csum`, 64 bytes, over `hdr_size` bytes with itself as zeros |
//! | 0x1000 | the JSON area, ended by NUL |

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use crate::bytes::{has_magic, read_array, read_text};
use crate::checksum;
use crate::device::ReadAt;
use crate::error::Kind;
use crate::refusal::Refusal;
use crate::units::ByteOffset;
use crate::volume::crypt::kdf::Hash;

/// The binary part, in bytes.
const BINARY: usize = 4096;
/// The sizes that a copy may have (section 2.2), and so the places of the second one.
const SIZES: [u64; 9] = [
    0x4000, 0x8000, 0x1_0000, 0x2_0000, 0x4_0000, 0x8_0000, 0x10_0000, 0x20_0000, 0x40_0000,
];
const CSUM: std::ops::Range<usize> = 0x1C0..0x200;

/// One copy, its checksum proven.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Copy {
    /// In bytes.
    pub hdr_size: u64,
    /// How often the header was written.
    pub seqid: u64,
    pub label: Option<String>,
    pub uuid: Option<String>,
    /// The JSON area up to its NUL.
    pub json: Vec<u8>,
}

/// The newer of the sound copies.
pub(super) fn newest(volume: &dyn ReadAt) -> Result<Copy, Refusal> {
    let first = read(volume, 0, b"LUKS\xBA\xBE");
    let second = match &first {
        Ok(copy) => read(volume, copy.hdr_size, b"SKUL\xBA\xBE"),
        // Wherever it is.
        Err(_) => SIZES
            .iter()
            .map(|&at| read(volume, at, b"SKUL\xBA\xBE"))
            .find(Result::is_ok)
            .unwrap_or_else(|| Err(Refusal::Damaged("no second copy".into()))),
    };
    match (first, second) {
        (Ok(first), Ok(second)) if second.seqid > first.seqid => Ok(second),
        (Ok(first), _) => Ok(first),
        (Err(_), Ok(second)) => Ok(second),
        (Err(first), Err(_)) => Err(first),
    }
}

fn read(volume: &dyn ReadAt, at: u64, magic: &[u8]) -> Result<Copy, Refusal> {
    let damaged = |what: String| Refusal::Damaged(format!("its LUKS2 header: {what}"));
    let behind_the_end = |error: crate::error::Error| match error.kind() {
        Kind::Corrupt => damaged("it does not fit its volume".into()),
        _ => Refusal::Unreadable(error),
    };
    let mut binary = vec![0; BINARY];
    volume
        .read_at(ByteOffset(at), &mut binary)
        .map_err(behind_the_end)?;
    let version = u16::from_be_bytes(read_array(&binary, 0x06));
    if !has_magic(&binary, 0, magic) || version != 2 {
        return Err(damaged("its signature is gone".into()));
    }
    let field = |at| u64::from_be_bytes(read_array(&binary, at));
    let hdr_size = field(0x08);
    if !SIZES.contains(&hdr_size) {
        return Err(damaged(format!("a size of {hdr_size} bytes")));
    }
    if field(0x100) != at {
        return Err(damaged(format!(
            "it lies at byte {at}, and says {}",
            field(0x100)
        )));
    }
    let len = usize::try_from(hdr_size).unwrap_or(BINARY);
    let mut copy = vec![0; len];
    volume
        .read_at(ByteOffset(at), &mut copy)
        .map_err(behind_the_end)?;
    let algorithm = read_text(&copy, 0x48, 32).unwrap_or_default();
    let hash = Hash::named(&algorithm).ok_or_else(|| {
        Refusal::Unsupported(format!(
            "its LUKS2 header has checksums by {algorithm}, which is not known here"
        ))
    })?;
    let expected: [u8; 64] = read_array(&copy, CSUM.start);
    if let Some(field) = copy.get_mut(CSUM) {
        field.fill(0);
    }
    let sum = hash.digest(&[&copy]);
    if !checksum::matches(Some(sum.as_slice()), expected.get(..hash.len())) {
        return Err(damaged("its checksum does not match".into()));
    }
    let json = copy.get(BINARY..).unwrap_or_default();
    let json = json.split(|&byte| byte == 0).next().unwrap_or_default();
    Ok(Copy {
        hdr_size,
        seqid: field(0x10),
        label: read_text(&binary, 0x18, 48),
        uuid: read_text(&binary, 0xA8, 40),
        json: json.to_vec(),
    })
}
