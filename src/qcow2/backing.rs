//! The backing file that a header names (spec: "Header", "Header extensions"): what an image does not
//! hold itself is read from there. In: the path of a qcow2 image relative to the image's own folder.
//! Out: the bytes behind the header, and back.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use super::header::{HEADER_BYTES, Header};
use crate::device::ReadAt;
use crate::error::{Error, Kind, Result};
use crate::units::{ByteLen, ByteOffset};

/// The type of the extension that names the format of the backing file; without it QEMU would guess.
const FORMAT: u32 = 0xe279_2aca;

/// The only format that is written or accepted.
const QCOW2: &[u8] = b"qcow2";

/// The longest name that qcow2 allows, in bytes.
const LONGEST: usize = 1023;

/// Where a header says that the name of its backing file lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Its first byte in the file.
    pub offset: u64,
    /// Its length in bytes.
    pub length: u32,
}

/// The header of an image over the image `name`, with all that belongs to it.
///
/// # Errors
/// When the name is empty or longer than qcow2 allows.
pub fn header_over(header: &Header, name: &str) -> Result<Vec<u8>> {
    if name.is_empty() || name.len() > LONGEST {
        return Err(Error::new(
            Kind::Unsupported,
            format!("a backing file whose name has {} bytes", name.len()),
        ));
    }
    let mut bytes = header.to_bytes().to_vec();
    for (kind, data) in [(FORMAT, QCOW2), (0, &[][..])] {
        bytes.extend(kind.to_be_bytes());
        bytes.extend(u32::try_from(data.len()).unwrap_or(0).to_be_bytes());
        bytes.extend(data);
        bytes.resize(bytes.len().next_multiple_of(8), 0);
    }
    let offset = u64::try_from(bytes.len()).unwrap_or(0);
    let length = u32::try_from(name.len()).unwrap_or(0);
    bytes.extend(name.as_bytes());
    let fields = [
        (0x08, &offset.to_be_bytes()[..]),
        (0x10, &length.to_be_bytes()[..]),
    ];
    for (at, field) in fields {
        if let Some(place) = bytes.get_mut(at..).and_then(|b| b.get_mut(..field.len())) {
            place.copy_from_slice(field);
        }
    }
    Ok(bytes)
}

/// Refuses an image over any other file than `name`, and one over a file whose format it does not
/// say: QEMU would guess it from what lies there.
///
/// # Errors
/// [`Kind::Unsupported`] for another name, [`Kind::Corrupt`] for what is no name.
pub fn refuse_other(file: &impl ReadAt, place: Place, name: &str) -> Result<()> {
    let length = usize::try_from(place.length).unwrap_or(usize::MAX);
    if length > LONGEST {
        return Err(Error::corrupt(format!(
            "the name of its backing file is said to have {length} bytes"
        )));
    }
    let mut found = vec![0; length];
    file.read_at(ByteOffset(place.offset), &mut found)?;
    if found != name.as_bytes() {
        return Err(Error::new(
            Kind::Unsupported,
            format!(
                "an image with a backing file {:?} instead of {name:?}",
                String::from_utf8_lossy(&found)
            ),
        ));
    }
    // As we write it: the format comes first, and nothing else before the end.
    let mut expected = Vec::new();
    expected.extend(FORMAT.to_be_bytes());
    expected.extend(u32::try_from(QCOW2.len()).unwrap_or(0).to_be_bytes());
    expected.extend(QCOW2);
    expected.resize(expected.len().next_multiple_of(8), 0);
    expected.extend([0; 8]);
    let at = u64::try_from(HEADER_BYTES).unwrap_or(0);
    let mut extensions = vec![0; expected.len()];
    if file.size() < ByteLen(place.offset) {
        return Err(Error::corrupt("the image ends within its header"));
    }
    file.read_at(ByteOffset(at), &mut extensions)?;
    if extensions != expected {
        return Err(Error::new(
            Kind::Unsupported,
            "an image with a backing file of a format that it does not name as we do",
        ));
    }
    Ok(())
}
