//! Which capture is meant: the one at a path, or one of the store there.

use crate::error::{Error, Result};
use crate::store::list::{self, Found};
use crate::store::{CaptureFiles, medium};
use std::path::Path;

/// Opens the capture at `path`, or the one that `pick` (`machine` or `machine/capture`) names in the
/// store at `path`: a directory, a stick or an image of one. A store with one whole capture needs no
/// `pick`.
///
/// # Errors
/// [`crate::Kind::Refused`] when there is none, or several to choose from, which it names.
pub fn find(path: &Path, pick: Option<&str>) -> Result<Box<dyn CaptureFiles>> {
    let (partial, mut whole): (Vec<Found>, Vec<Found>) = list::find(medium::open(path)?)?
        .into_iter()
        .filter(|found| pick.is_none_or(|pick| found.machine == pick || full_name(found) == pick))
        .partition(|found| found.partial);
    let of = pick.map(|pick| format!(" of {pick}")).unwrap_or_default();
    if whole.len() > 1 {
        return Err(Error::refused(format!(
            "there are several captures{of} in {}: {}",
            path.display(),
            names(&whole)
        ))
        .advise("Choose one with --pick"));
    }
    whole.pop().map(|found| found.files).ok_or_else(|| {
        let but = if partial.is_empty() {
            String::new()
        } else {
            format!(", only what was cut off or still runs: {}", names(&partial))
        };
        Error::refused(format!(
            "there is no whole capture{of} in {}{but}",
            path.display()
        ))
    })
}

fn full_name(found: &Found) -> String {
    format!("{}/{}", found.machine, found.name)
}

fn names(found: &[Found]) -> String {
    found.iter().map(full_name).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::manifest::MANIFEST;
    use std::fs;

    fn store(captures: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for capture in captures {
            let path = dir.path().join(capture);
            fs::create_dir_all(&path).unwrap();
            fs::write(path.join(MANIFEST), "{}").unwrap();
        }
        dir
    }

    fn found(store: &tempfile::TempDir, pick: Option<&str>) -> Result<String, String> {
        let files = find(store.path(), pick).map_err(|e| e.to_string())?;
        let root = fs::canonicalize(store.path()).unwrap();
        Ok(files.name().replace(&format!("{}/", root.display()), ""))
    }

    #[test]
    fn the_only_whole_capture_needs_no_name() {
        let store = store(&["a/1", "a/2.partial"]);
        assert_eq!(found(&store, None), Ok("a/1".into()));
    }

    #[test]
    fn of_several_one_is_picked() {
        let store = store(&["a/1", "b/1", "b/2"]);
        assert_eq!(found(&store, Some("a")), Ok("a/1".into()));
        assert_eq!(found(&store, Some("b/2")), Ok("b/2".into()));
        let error = found(&store, Some("b")).unwrap_err();
        assert!(error.contains("b/1, b/2"), "{error}");
        assert!(found(&store, Some("c")).is_err());
    }

    #[test]
    fn a_partial_capture_is_refused_even_by_name() {
        let store = store(&["a/2.partial"]);
        let error = found(&store, None).unwrap_err();
        assert!(error.contains("a/2.partial"), "{error}");
        assert!(find(&store.path().join("a/2.partial"), None).is_err());
    }
}
