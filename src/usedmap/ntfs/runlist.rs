//! Run lists ("mapping pairs"): each run is a byte with the lengths of two numbers, how many
//! clusters it has and how far it starts from the run before (`ntfs_mapping_pairs_decompress` in
//! `libntfs-3g/runlist.c` of ntfs-3g).

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

/// Clusters of a stream that lie side by side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Run {
    /// Which cluster of the stream is the first.
    pub vcn: u64,
    /// Where that cluster is on the volume; `None`: nowhere (sparse or compressed away).
    pub lcn: Option<u64>,
    /// How many; never 0.
    pub clusters: u64,
}

impl Run {
    /// The cluster of the stream behind it. (Checked in `decode`.)
    pub(crate) fn end(&self) -> u64 {
        self.vcn.saturating_add(self.clusters)
    }
}

/// The runs of a piece that starts at cluster `lowest_vcn` of its stream. `None` if a number has no
/// meaning or a run lies outside the volume.
pub(crate) fn decode(mut pairs: &[u8], lowest_vcn: u64, volume_clusters: u64) -> Option<Vec<Run>> {
    // Numbers of clusters are signed in 64 bits.
    const LIMIT: u64 = 1 << 63;
    let mut runs = Vec::new();
    let mut vcn = lowest_vcn;
    let mut lcn = 0_u64;
    loop {
        let (&sizes, rest) = pairs.split_first()?;
        if sizes == 0 {
            return Some(runs);
        }
        let (length, rest) = rest.split_at_checked(usize::from(sizes & 0x0F))?;
        let (offset, rest) = rest.split_at_checked(usize::from(sizes >> 4))?;
        let clusters = u64::try_from(signed(length)?)
            .ok()
            .filter(|&count| count > 0)?;
        let run_lcn = match signed(offset) {
            None if offset.is_empty() => None,
            None => return None,
            Some(delta) => {
                lcn = lcn.checked_add_signed(delta)?;
                let end = lcn.checked_add(clusters)?;
                Some(lcn).filter(|_| end <= volume_clusters)?.into()
            }
        };
        runs.push(Run {
            vcn,
            lcn: run_lcn,
            clusters,
        });
        vcn = vcn.checked_add(clusters).filter(|&vcn| vcn < LIMIT)?;
        pairs = rest;
    }
}

/// A little-endian number of 1 to 8 bytes, in two's complement.
fn signed(bytes: &[u8]) -> Option<i64> {
    let last = bytes.last()?;
    let fill = if last & 0x80 == 0 { 0 } else { 0xFF };
    let mut wide = [fill; 8];
    wide.get_mut(..bytes.len())?.copy_from_slice(bytes);
    Some(i64::from_le_bytes(wide))
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn run(vcn: u64, lcn: Option<u64>, clusters: u64) -> Run {
        Run { vcn, lcn, clusters }
    }

    #[test]
    fn runs_go_forward_backward_and_nowhere() {
        // 0x30 at 0x20; 8 nowhere; 0x10 at 0x20 - 0x10; 0x100 at 0x10 + 0x5634.
        let pairs = [
            0x11, 0x30, 0x20, 0x01, 0x08, 0x11, 0x10, 0xF0, 0x22, 0x00, 0x01, 0x34, 0x56, 0x00,
        ];
        assert_eq!(
            decode(&pairs, 5, 1 << 20).unwrap(),
            [
                run(5, Some(0x20), 0x30),
                run(0x35, None, 8),
                run(0x3D, Some(0x10), 0x10),
                run(0x4D, Some(0x5644), 0x100),
            ]
        );
        assert_eq!(decode(&[0], 0, 1).unwrap(), []);
    }

    #[test]
    fn nonsense_is_refused() {
        let nonsense: [&[u8]; 9] = [
            &[],
            &[0x11, 0x30],
            &[0x11, 0x30, 0x20],
            // No length, a negative one, one of 9 bytes.
            &[0x10, 0x20, 0x00],
            &[0x11, 0xFF, 0x20, 0x00],
            &[0x19, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0x20, 0x00],
            // Before the volume, behind it, and behind 64 bits.
            &[0x11, 0x01, 0xFF, 0x00],
            &[0x11, 0x40, 0x7F, 0x00],
            &[
                0x88, 1, 0, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x7F, 0x00,
            ],
        ];
        for pairs in nonsense {
            assert_eq!(decode(pairs, 0, 0x80), None, "{pairs:x?}");
        }
        assert_eq!(decode(&[0x01, 0x10, 0x00], (1 << 63) - 1, 0x80), None);
    }
}
