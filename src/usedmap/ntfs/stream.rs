//! The bytes of an attribute, wherever its runs lie.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use super::boot::Boot;
use super::record::Attribute;
use super::runlist::Run;
use crate::device::ReadAt;
use crate::error::Error;
use crate::units::ByteOffset;
use crate::usedmap::finding::Refusal;

/// Runs kept of one stream (24 MiB): what of $MFT, $Bitmap and the like is in more pieces is not a
/// volume that Windows made.
const MAX_RUNS: usize = 1 << 20;

/// An attribute that can be read.
#[derive(Debug)]
pub(crate) enum Stream {
    /// Its value is in the record.
    Resident(Vec<u8>),
    /// Its value is in clusters.
    Runs {
        /// One behind the other, from cluster 0 of the stream on.
        runs: Vec<Run>,
        /// Bytes.
        size: u64,
        /// Bytes that were ever written: those behind read as 0.
        initialized: u64,
    },
}

impl Stream {
    /// From the first piece of an attribute.
    pub(crate) fn new(first: &Attribute<'_>, boot: &Boot) -> Result<Self, Refusal> {
        if !first.is_non_resident() {
            return Ok(Self::Resident(first.value()?.to_vec()));
        }
        Ok(Self::Runs {
            runs: first.runs(boot.clusters)?,
            size: first.data_size(),
            initialized: first.initialized_size().min(first.data_size()),
        })
    }

    /// Adds the piece that comes next.
    pub(crate) fn append(&mut self, piece: &Attribute<'_>, boot: &Boot) -> Result<(), Refusal> {
        let Self::Runs { runs, .. } = self else {
            return Err(Refusal::Damaged(
                "an attribute in a file record has further pieces elsewhere".into(),
            ));
        };
        if piece.lowest_vcn() != runs.last().map_or(0, Run::end) {
            return Err(Refusal::Damaged(
                "the pieces of an attribute do not follow each other".into(),
            ));
        }
        runs.extend(piece.runs(boot.clusters)?);
        if runs.len() > MAX_RUNS {
            return Err(Refusal::Unsupported(format!(
                "one of its system files is in more than {MAX_RUNS} pieces (defragment it in \
                 Windows for a smaller copy)"
            )));
        }
        Ok(())
    }

    /// Bytes that hold something.
    pub(crate) fn initialized(&self) -> u64 {
        match self {
            Self::Resident(value) => u64::try_from(value.len()).unwrap_or(u64::MAX),
            Self::Runs { initialized, .. } => *initialized,
        }
    }

    /// Bytes.
    pub(crate) fn size(&self) -> u64 {
        match self {
            Self::Resident(value) => u64::try_from(value.len()).unwrap_or(u64::MAX),
            Self::Runs { size, .. } => *size,
        }
    }

    /// Whether every cluster of it is on the volume, and none twice: so it is no larger than the volume,
    /// and reading all of it comes to an end.
    pub(super) fn is_on_disk_once(&self) -> bool {
        let Self::Runs { runs, .. } = self else {
            return true;
        };
        let mut places = Vec::with_capacity(runs.len());
        for run in runs {
            let Some(lcn) = run.lcn else {
                return false;
            };
            places.push((lcn, lcn.saturating_add(run.clusters)));
        }
        places.sort_unstable();
        places.is_sorted_by(|(_, end), (start, _)| end <= start)
    }

    /// Fills `buf` from `at` on, which must lie inside the stream.
    pub(crate) fn read(
        &self,
        volume: &dyn ReadAt,
        boot: &Boot,
        at: u64,
        buf: &mut [u8],
        what: &str,
    ) -> Result<(), Refusal> {
        let outside = || Refusal::Damaged(format!("{what} is shorter than it should be"));
        let runs = match self {
            Self::Resident(value) => {
                let from = usize::try_from(at).unwrap_or(usize::MAX);
                let source = value.get(from..).and_then(|rest| rest.get(..buf.len()));
                buf.copy_from_slice(source.ok_or_else(outside)?);
                return Ok(());
            }
            Self::Runs { runs, .. } => runs,
        };
        let len = u64::try_from(buf.len()).unwrap_or(u64::MAX);
        if at.checked_add(len).is_none_or(|end| end > self.size()) {
            return Err(outside());
        }
        let mut at = at;
        let mut rest = buf;
        while !rest.is_empty() {
            let vcn = at.checked_div(boot.cluster_size).unwrap_or(0);
            let nth = runs.partition_point(|run| run.end() <= vcn);
            let run = runs.get(nth).ok_or_else(outside)?;
            let run_start = run.vcn.saturating_mul(boot.cluster_size);
            let run_end = run.end().saturating_mul(boot.cluster_size);
            let room = usize::try_from(run_end.saturating_sub(at)).unwrap_or(usize::MAX);
            let (piece, behind) = rest.split_at_mut(room.min(rest.len()));
            match run.lcn {
                None => piece.fill(0),
                Some(lcn) => {
                    let place = lcn
                        .saturating_mul(boot.cluster_size)
                        .saturating_add(at.saturating_sub(run_start));
                    volume.read_at(ByteOffset(place), piece).map_err(|error| {
                        Error::new(error.kind(), format!("reading {what}"))
                            .because(error)
                            .at(place)
                    })?;
                }
            }
            at = at.saturating_add(u64::try_from(piece.len()).unwrap_or(u64::MAX));
            rest = behind;
        }
        Ok(())
    }
}
