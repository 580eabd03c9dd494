//! EFI device paths: where a boot entry's loader lies. UEFI 2.10, chapter 10.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use std::fmt::Write as _;

/// One node: type, subtype, and the data behind its four-byte header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Node<'a> {
    /// 1 hardware, 2 ACPI, 3 messaging, 4 media, 5 BIOS boot, 7Fh end.
    pub kind: u8,
    /// Meaning depends on `kind`.
    pub subtype: u8,
    /// The data.
    pub data: &'a [u8],
    /// The whole node with its header.
    pub raw: &'a [u8],
}

impl<'a> Node<'a> {
    /// Whether it names a partition (10.3.5.1): what firmware finds again on another machine.
    pub fn is_hard_drive(&self) -> bool {
        (self.kind, self.subtype) == (4, 1)
    }

    /// The file of a File Path node (10.3.5.4), with backslashes.
    pub fn file(&self) -> Option<String> {
        ((self.kind, self.subtype) == (4, 4)).then(|| utf16(self.data))
    }

    /// Appends what [`text`] shows of the node.
    fn describe(&self, text: &mut String) -> Option<()> {
        let le = |at: usize, len: usize| {
            let bytes = self.data.get(at..at.checked_add(len)?)?;
            Some(
                bytes
                    .iter()
                    .rev()
                    .fold(0_u64, |n, byte| (n << 8) | u64::from(*byte)),
            )
        };
        match (self.kind, self.subtype) {
            (1, 1) => write!(text, "Pci(0x{:x},0x{:x})", le(1, 1)?, le(0, 1)?),
            // EISA id PNP0A03 or PNP0A08.
            (2, 1) if matches!(le(0, 4)?, 0x0a03_41d0 | 0x0a08_41d0) => {
                write!(text, "PciRoot(0x{:x})", le(4, 4)?)
            }
            (3, 2) => write!(text, "Scsi({},{})", le(0, 2)?, le(2, 2)?),
            (3, 5) => write!(text, "USB({},{})", le(0, 1)?, le(1, 1)?),
            (3, 11) => {
                let mac: Vec<String> = self
                    .data
                    .iter()
                    .take(6)
                    .map(|b| format!("{b:02x}"))
                    .collect();
                write!(text, "MAC({})", mac.join(""))
            }
            (3, 18) => write!(text, "Sata({},{:#x},{})", le(0, 2)?, le(2, 2)?, le(4, 2)?),
            (3, 23) => write!(text, "NVMe({:#x},{:#x})", le(0, 4)?, le(4, 8)?),
            (4, 1) => {
                let (number, start, size) = (le(0, 4)?, le(4, 8)?, le(12, 8)?);
                let signature = self.data.get(20..36)?;
                let identity = match le(37, 1)? {
                    // GUIDs are stored with the first three fields in little endian.
                    2 => format!("GPT,{}", uuid::Uuid::from_slice_le(signature).ok()?),
                    1 => format!("MBR,0x{:08x}", le(20, 4)?),
                    _ => "none".to_owned(),
                };
                write!(text, "HD({number},{identity},0x{start:x},0x{size:x})")
            }
            (4, 2) => write!(text, "CDROM({})", le(0, 4)?),
            (4, 4) => write!(text, "{}", utf16(self.data)),
            (4, 6) => write!(
                text,
                "FvFile({})",
                uuid::Uuid::from_slice_le(self.data).ok()?
            ),
            (4, 7) => write!(text, "Fv({})", uuid::Uuid::from_slice_le(self.data).ok()?),
            _ => return None,
        }
        .ok()
    }
}

/// Walks a device path up to its end node. Stops without a word where it is damaged.
pub fn nodes(mut path: &[u8]) -> impl Iterator<Item = Node<'_>> {
    std::iter::from_fn(move || {
        let (&[kind, subtype, low, high], _) = path.split_first_chunk::<4>()?;
        let length = usize::from(u16::from_le_bytes([low, high]));
        // A node is at least its header: anything shorter would loop for ever.
        if length < 4 || kind == 0x7f {
            return None;
        }
        let (raw, rest) = path.split_at_checked(length)?;
        path = rest;
        Some(Node {
            kind,
            subtype,
            data: raw.get(4..)?,
            raw,
        })
    })
}

/// For people and logs: `HD(1,GPT,…)/\EFI\debian\shimx64.efi`. Nodes without a name of their own
/// are shown as `Path(kind,subtype)`.
pub fn text(path: &[u8]) -> String {
    let mut text = String::new();
    for node in nodes(path) {
        if !text.is_empty() {
            text.push('/');
        }
        let before = text.len();
        if node.describe(&mut text).is_none() {
            text.truncate(before);
            // Writing to a string cannot fail.
            let _ = write!(text, "Path({},{})", node.kind, node.subtype);
        }
    }
    text
}

/// UTF-16 up to a NUL, with the replacement character for what is not.
pub(super) fn utf16(bytes: &[u8]) -> String {
    let units = bytes
        .chunks_exact(2)
        .filter_map(|pair| Some(u16::from_le_bytes(*pair.first_chunk()?)))
        .take_while(|unit| *unit != 0);
    char::decode_utf16(units)
        .map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_node_shorter_than_its_header_ends_the_walk() {
        assert_eq!(nodes(&[4, 4, 0, 0, 4, 4, 3, 0]).count(), 0);
    }

    #[test]
    fn a_node_longer_than_the_path_ends_the_walk() {
        assert_eq!(nodes(&[4, 4, 200, 0, 1]).count(), 0);
    }

    #[test]
    fn a_node_without_its_data_is_shown_by_number() {
        assert_eq!(text(&[4, 1, 5, 0, 9]), "Path(4,1)");
    }

    proptest! {
        #[test]
        fn any_bytes_have_a_text(bytes in prop::collection::vec(any::<u8>(), 0..256)) {
            text(&bytes);
        }
    }
}
