//! Every disk that could be captured: all but the stick, and but other Haulier sticks.

#![forbid(unsafe_code)]

use super::identify::{Candidate, Stick, candidates};
use super::layout::NAMES;
use crate::error::Result;
use crate::report::Report;
use crate::warn;
use std::path::PathBuf;

/// The device nodes of all whole disks but the stick, in order of name. Another Haulier stick is
/// not among them; the report tells of it.
///
/// # Errors
/// When the disks cannot be listed.
pub fn source_disks(stick: &Stick, report: &dyn Report) -> Result<Vec<PathBuf>> {
    let mut sources = Vec::new();
    for candidate in candidates()? {
        let identity = &candidate.disk.identity;
        if stick.is_this(candidate.disk.devnum) {
            continue;
        }
        if is_haulier_stick(&candidate) {
            warn!(
                report,
                "{} is another Haulier stick: it is not captured",
                identity.describe()
            );
            continue;
        }
        sources.push(identity.path.clone());
    }
    Ok(sources)
}

/// By the names that Haulier gives its partitions, in either copy of the table.
fn is_haulier_stick(candidate: &Candidate) -> bool {
    candidate
        .copies
        .as_ref()
        .ok()
        .and_then(|copies| copies.table())
        .is_some_and(|table| {
            table
                .partitions
                .values()
                .any(|partition| partition.name.starts_with(NAMES))
        })
}
