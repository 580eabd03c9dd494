//! Which bytes of a qcow2 image are what, read by the text of the format alone (QEMU's
//! `docs/interop/qcow2.txt`), not by the code that is under test.

use std::ops::Range;

/// The clusters that we write.
const CLUSTER: u64 = 1 << 16;
/// Bits of an L1 or L2 entry that are an offset.
const OFFSET: u64 = 0x00FF_FFFF_FFFF_FE00;
const COMPRESSED: u64 = 1 << 62;

/// Some bytes of an image.
#[derive(Debug, Clone)]
pub(crate) struct Part {
    /// What they are.
    pub(crate) kind: &'static str,
    /// Where.
    pub(crate) bytes: Range<u64>,
    /// For data: the first byte of the disk that they are of.
    pub(crate) disk: Option<u64>,
}

/// The parts of an image, ascending, with what lies between them as `padding`.
pub(crate) fn parts(image: &[u8]) -> Vec<Part> {
    let u32_at = |at: usize| u64::from(u32::from_be_bytes(image[at..at + 4].try_into().unwrap()));
    let u64_at = |at: u64| {
        let at = usize::try_from(at).unwrap();
        u64::from_be_bytes(image[at..at + 8].try_into().unwrap())
    };
    assert_eq!(&image[..8], b"QFI\xfb\0\0\0\x03");
    assert_eq!(u32_at(20), 16, "clusters of 64 KiB");
    let mut parts = Vec::new();
    let mut add = |kind, start: u64, length: u64, disk| {
        parts.push(Part {
            kind,
            bytes: start..start + length,
            disk,
        });
    };
    add("header", 0, u32_at(100), None);
    let (l1, l1_entries) = (u64_at(40), u32_at(36));
    add("L1 table", l1, l1_entries * 8, None);
    let (table, clusters) = (u64_at(48), u32_at(56));
    add("refcount table", table, clusters * CLUSTER, None);
    for entry in (table..table + clusters * CLUSTER).step_by(8) {
        if u64_at(entry) != 0 {
            add("refcount block", u64_at(entry), CLUSTER, None);
        }
    }
    for index in 0..l1_entries {
        let l2 = u64_at(l1 + index * 8) & OFFSET;
        if l2 == 0 {
            continue;
        }
        add("L2 table", l2, CLUSTER, None);
        for at in 0..CLUSTER / 8 {
            let entry = u64_at(l2 + at * 8);
            let disk = Some((index * (CLUSTER / 8) + at) * CLUSTER);
            if entry & COMPRESSED != 0 {
                // x = 62 - (cluster_bits - 8) = 54 bits are the offset.
                let start = entry & ((1 << 54) - 1);
                let length = zstd::zstd_safe::find_frame_compressed_size(
                    &image[usize::try_from(start).unwrap()..],
                )
                .expect("a whole zstd frame");
                add("compressed data", start, length as u64, disk);
            } else if entry & OFFSET != 0 {
                add("plain data", entry & OFFSET, CLUSTER, disk);
            }
        }
    }
    parts.sort_by_key(|part| part.bytes.start);
    let mut padding = Vec::new();
    let mut end = 0;
    for part in &parts {
        assert!(part.bytes.start >= end, "{part:?} begins before {end}");
        padding.push(end..part.bytes.start);
        end = part.bytes.end;
    }
    padding.push(end..image.len() as u64);
    let padding = padding.into_iter().filter(|gap| !gap.is_empty());
    parts.extend(padding.map(|bytes| Part {
        kind: "padding",
        bytes,
        disk: None,
    }));
    parts
}
