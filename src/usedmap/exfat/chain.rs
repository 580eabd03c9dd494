//! Clusters that follow each other by the file allocation table, and the bytes in them. Of files the
//! table need not know (they may be flagged as contiguous), but the root directory and the
//! allocation bitmap are always chains.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use super::boot::Boot;
use crate::bytes::read_u32le;
use crate::device::ReadAt;
use crate::error::Error;
use crate::units::ByteOffset;
use crate::usedmap::finding::Refusal;

const END: u64 = 0xFFFF_FFFF;
/// Runs of clusters that are kept of one chain (16 MiB).
const MAX_RUNS: usize = 1 << 20;
/// Bytes of the table that are read at once.
const PIECE: u64 = 4096;

/// Clusters side by side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    pub first: u64,
    pub clusters: u64,
}

/// Follows a chain for at most `most` clusters; a longer one, or one that leads outside, is damage.
pub(super) fn follow(
    volume: &dyn ReadAt,
    boot: &Boot,
    first: u64,
    most: u64,
    what: &str,
) -> Result<Vec<Run>, Refusal> {
    let damaged = |how: &str| {
        Refusal::Damaged(format!(
            "the cluster chain of {what} {how} (let chkdsk or fsck.exfat repair it for a smaller \
             copy)"
        ))
    };
    let inside = 2..boot.clusters.saturating_add(2);
    let mut runs: Vec<Run> = Vec::new();
    let mut piece: (u64, Vec<u8>) = (u64::MAX, Vec::new());
    let mut number = first;
    let mut count = 0_u64;
    while number != END {
        count = count.saturating_add(1);
        if !inside.contains(&number) {
            return Err(damaged("leads outside the filesystem"));
        }
        if count > most {
            return Err(damaged("is longer than it can be"));
        }
        match runs.last_mut() {
            Some(run) if run.first.saturating_add(run.clusters) == number => {
                run.clusters = run.clusters.saturating_add(1);
            }
            _ => runs.push(Run {
                first: number,
                clusters: 1,
            }),
        }
        if runs.len() > MAX_RUNS {
            return Err(damaged("is in too many pieces"));
        }
        // The entry, out of the piece of the table that was read last.
        let at = number.saturating_mul(4);
        let start = at & !PIECE.saturating_sub(1);
        if piece.0 != start {
            let table_end = boot.clusters.saturating_add(2).saturating_mul(4);
            let len = PIECE.min(table_end.saturating_sub(start));
            let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
            let place = boot.fat_at.saturating_add(start);
            read(volume, place, &mut bytes, "the file allocation table")?;
            piece = (start, bytes);
        }
        let within = usize::try_from(at.saturating_sub(start)).unwrap_or(usize::MAX);
        number = u64::from(read_u32le(&piece.1, within));
    }
    Ok(runs)
}

/// Reads `len` bytes of a chain from `at` on; as many as there are.
pub(super) fn read_chain(
    volume: &dyn ReadAt,
    boot: &Boot,
    runs: &[Run],
    at: u64,
    len: u64,
    what: &str,
) -> Result<Vec<u8>, Refusal> {
    let end = at.saturating_add(len);
    let mut bytes = Vec::new();
    let mut run_start = 0_u64;
    for run in runs {
        let run_end = run
            .clusters
            .saturating_mul(boot.cluster_size)
            .saturating_add(run_start);
        let from = at.max(run_start);
        let to = end.min(run_end);
        if let Some(count) = to.checked_sub(from).filter(|&count| count > 0) {
            let mut piece = vec![0; usize::try_from(count).unwrap_or(0)];
            let place = boot
                .cluster_at(run.first)
                .saturating_add(from.saturating_sub(run_start));
            read(volume, place, &mut piece, what)?;
            bytes.extend(piece);
        }
        run_start = run_end;
    }
    Ok(bytes)
}

fn read(volume: &dyn ReadAt, at: u64, buf: &mut [u8], what: &str) -> Result<(), Refusal> {
    volume.read_at(ByteOffset(at), buf).map_err(|error| {
        let kind = error.kind();
        Error::new(kind, format!("reading {what}"))
            .because(error)
            .at(at)
            .into()
    })
}
