//! Every disk that could be captured: all but the stick, and but other Haulier sticks.

#![forbid(unsafe_code)]

use super::further::is_haulier_stick;
use super::identify::{Stick, candidates};
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
