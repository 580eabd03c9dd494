//! cpio archives in the format `newc` (cpio(5), Documentation/driver-api/early-userspace/
//! buffer-format.rst of Linux): a header of 110 characters, the name, the content, each filled up to 4
//! bytes. An archive ends with the name `TRAILER!!!`; zeros and further archives may follow.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use std::io::{Error, ErrorKind, Read, Result};

/// With and without a checksum.
pub(super) const MAGICS: [&[u8; 6]; 2] = [b"070701", b"070702"];
/// Characters of a header behind the magic.
const FIELDS: usize = 104;
/// Longer names no kernel unpacks (`PATH_MAX`).
const LONGEST_NAME: u64 = 4096;
const TRAILER: &[u8] = b"TRAILER!!!";
/// Bytes that are passed over at once.
const SCRATCH: usize = 64 << 10;

/// Counts what is read, and reads no more than there may be.
pub(super) struct Bounded<R> {
    reader: R,
    left: u64,
}

impl<R: Read> Bounded<R> {
    pub(super) fn new(reader: R, most: u64) -> Self {
        Self { reader, left: most }
    }

    /// What may still be read.
    pub(super) fn left(&self) -> u64 {
        self.left
    }

    pub(super) fn into_inner(self) -> R {
        self.reader
    }
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buf: &mut [u8]) -> Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX);
        let len = most.min(buf.len());
        if len == 0 && !buf.is_empty() {
            return Err(odd("it is larger than any initramfs"));
        }
        let count = self.reader.read(buf.get_mut(..len).unwrap_or_default())?;
        self.left = self
            .left
            .saturating_sub(u64::try_from(count).unwrap_or(u64::MAX));
        Ok(count)
    }
}

fn odd(what: &str) -> Error {
    Error::new(ErrorKind::InvalidData, what)
}

/// Reads archives one behind the other up to the end, and calls `each` with the names in them.
pub(super) fn archives(reader: &mut impl Read, each: &mut dyn FnMut(&[u8])) -> Result<()> {
    loop {
        let Some(first) = behind_zeros(reader)? else {
            return Ok(());
        };
        let mut magic = [first, 0, 0, 0, 0, 0];
        let (_, rest) = magic.split_at_mut(1);
        reader.read_exact(rest)?;
        archive(reader, magic, each)?;
    }
}

/// The first byte that is not 0; `None` at the end.
fn behind_zeros(reader: &mut impl Read) -> Result<Option<u8>> {
    let mut byte = [0];
    loop {
        match reader.read(&mut byte) {
            Ok(0) => return Ok(None),
            Ok(_) if byte != [0] => return Ok(Some(u8::from_le_bytes(byte))),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Reads one archive to its end; `magic` was read already.
pub(super) fn archive(
    reader: &mut impl Read,
    magic: [u8; 6],
    each: &mut dyn FnMut(&[u8]),
) -> Result<()> {
    let mut magic = magic;
    loop {
        if !MAGICS.contains(&&magic) {
            return Err(odd(
                "it has something that is no cpio archive of the kind newc",
            ));
        }
        let mut fields = [0; FIELDS];
        reader.read_exact(&mut fields)?;
        let size = field(&fields, 6)?;
        let name_size = field(&fields, 11)?;
        if name_size == 0 || name_size > LONGEST_NAME {
            return Err(odd("it has a name that is too long"));
        }
        let mut name = vec![0; usize::try_from(name_size).unwrap_or(0)];
        reader.read_exact(&mut name)?;
        while name.last() == Some(&0) {
            name.pop();
        }
        // The header has 2 bytes more than a multiple of 4.
        skip(reader, padding(name_size.saturating_add(2)))?;
        skip(reader, size)?;
        skip(reader, padding(size))?;
        if name == TRAILER {
            return Ok(());
        }
        each(&name);
        reader.read_exact(&mut magic)?;
    }
}

/// The field `nth` of eight hexadecimal digits.
fn field(fields: &[u8; FIELDS], nth: usize) -> Result<u64> {
    let digits = fields
        .get(nth.saturating_mul(8)..)
        .and_then(|rest| rest.get(..8))
        .and_then(|digits| std::str::from_utf8(digits).ok())
        .filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
    digits
        .and_then(|digits| u64::from_str_radix(digits, 16).ok())
        .ok_or_else(|| odd("it has a header that is none"))
}

/// How many bytes fill `len` up to a multiple of 4.
fn padding(len: u64) -> u64 {
    len.checked_next_multiple_of(4)
        .map_or(0, |full| full.saturating_sub(len))
}

fn skip(reader: &mut impl Read, len: u64) -> Result<()> {
    let mut scratch = vec![0; usize::try_from(len).unwrap_or(SCRATCH).min(SCRATCH)];
    let mut left = len;
    while left > 0 {
        let now = usize::try_from(left).unwrap_or(SCRATCH).min(SCRATCH);
        reader.read_exact(scratch.get_mut(..now).unwrap_or_default())?;
        left = left.saturating_sub(u64::try_from(now).unwrap_or(u64::MAX));
    }
    Ok(())
}

#[cfg(test)]
pub(super) mod tests {
    #![allow(clippy::arithmetic_side_effects)]

    use super::*;
    use proptest::prelude::*;

    /// An archive as GNU cpio writes it. (The tests of `tests/installed.rs` hold the reader against real
    /// ones.)
    pub(crate) fn newc(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut add = |name: &str, content: &[u8]| {
            let name_size = name.len() + 1;
            let size = content.len();
            bytes.extend(format!("070701{:08x}{:08x}{}", 1, 0o100_644, "0".repeat(32)).bytes());
            bytes.extend(format!("{size:08x}{}{name_size:08x}{:08x}", "0".repeat(32), 0).bytes());
            bytes.extend(name.bytes());
            bytes.push(0);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
            bytes.extend(content);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        };
        for (name, content) in files {
            add(name, content);
        }
        add("TRAILER!!!", b"");
        bytes
    }

    fn read(bytes: &[u8]) -> Result<Vec<String>> {
        let mut names = Vec::new();
        let mut reader = Bounded::new(bytes, 1 << 20);
        archives(&mut reader, &mut |name| {
            names.push(String::from_utf8_lossy(name).into_owned());
        })?;
        Ok(names)
    }

    #[test]
    fn archives_follow_each_other_with_zeros_between() {
        let mut bytes = newc(&[("kernel/x86/microcode/a.bin", &[1; 13]), ("b", b"")]);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
        bytes.extend(newc(&[("lib/modules/1/kernel/c.ko", b"c")]));
        bytes.extend([0; 100]);
        let names = read(&bytes).unwrap();
        let expected = [
            "kernel/x86/microcode/a.bin",
            "b",
            "lib/modules/1/kernel/c.ko",
        ];
        assert_eq!(names, expected);
    }

    #[test]
    fn archives_that_are_cut_or_lie_are_refused() {
        let whole = newc(&[("name", b"content of the file")]);
        for len in 1..whole.len() {
            assert!(read(&whole[..len]).is_err(), "cut at {len}");
        }
        // The size: more than there may be, and no number. The name: none, and without an end.
        for (at, digits) in [
            (54, "ffffffff"),
            (54, "0000000g"),
            (94, "00000000"),
            (94, "ffffffff"),
        ] {
            let mut bytes = whole.clone();
            bytes[at..at + 8].copy_from_slice(digits.as_bytes());
            assert!(read(&bytes).is_err(), "{digits} at {at}");
        }
        assert!(read(b"no archive at all").is_err());
        assert_eq!(read(b"").unwrap(), Vec::<String>::new());
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_crash(bytes in prop::collection::vec(any::<u8>(), 0..400), hits in prop::collection::vec((0_usize..250, any::<u8>()), 0..8)) {
            let _ = read(&bytes);
            let mut damaged = newc(&[("a/rather/long/name.ko", &[7; 50])]);
            for (at, byte) in hits {
                if let Some(place) = damaged.get_mut(at) {
                    *place = byte;
                }
            }
            let _ = read(&damaged);
        }
    }
}
