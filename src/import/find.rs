//! Which capture is meant: the one at a path, or one of the store there.

use crate::error::{Error, Result};
use crate::store::list::{self, Found};
use crate::store::{CaptureFiles, Manifest, medium};
use std::path::PathBuf;

/// Opens the capture at `paths`, or the one that `pick` (`machine` or `machine/capture`) names in the
/// stores there: directories, sticks or images of one. Stores with one whole capture need no `pick`.
/// Of a capture in parts, all parts that are at hand.
///
/// # Errors
/// [`crate::Kind::Refused`] when there is none, or several to choose from, which it names.
pub fn find(paths: &[PathBuf], pick: Option<&str>) -> Result<Vec<Box<dyn CaptureFiles>>> {
    let mut all: Vec<Found> = Vec::new();
    for path in paths {
        for found in list::find(medium::open(path)?)? {
            if all
                .iter()
                .all(|other| other.files.name() != found.files.name())
            {
                all.push(found);
            }
        }
    }
    let (partial, whole): (Vec<Found>, Vec<Found>) = all.into_iter().partition(|f| f.partial);
    let is_picked =
        |found: &Found| pick.is_none_or(|pick| found.machine == pick || full_name(found) == pick);
    let of = pick.map(|pick| format!(" of {pick}")).unwrap_or_default();
    let places: Vec<String> = paths
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    let places = places.join(", ");
    // Which are parts of one capture is only asked where there are several.
    let sets: Vec<Option<String>> = match whole.len() {
        0 | 1 => vec![None; whole.len()],
        _ => whole.iter().map(set_of).collect(),
    };
    let with_sets = || whole.iter().zip(&sets);
    let picked: Vec<(&Found, &Option<String>)> =
        with_sets().filter(|(found, _)| is_picked(found)).collect();
    let Some((first, set)) = picked.first() else {
        let partial: Vec<&Found> = partial.iter().filter(|found| is_picked(found)).collect();
        let but = if partial.is_empty() {
            String::new()
        } else {
            format!(", only what was cut off or still runs: {}", names(&partial))
        };
        return Err(Error::refused(format!(
            "there is no whole capture{of} in {places}{but}"
        )));
    };
    let in_one_set = set.is_some() && picked.iter().all(|(_, other)| other == set);
    if picked.len() > 1 && !in_one_set {
        let picked: Vec<&Found> = picked.iter().map(|(found, _)| *found).collect();
        return Err(Error::refused(format!(
            "there are several captures{of} in {places}: {}",
            names(&picked)
        ))
        .advise("Choose one with --pick"));
    }
    let wanted: Vec<String> = match set {
        // One part was picked, and the others go with it.
        Some(_) => {
            let parts = with_sets().filter(|(_, other)| other == set);
            parts.map(|(found, _)| found.files.name()).collect()
        }
        None => vec![first.files.name()],
    };
    let whole = whole.into_iter().map(|found| found.files);
    Ok(whole
        .filter(|files| wanted.contains(&files.name()))
        .collect())
}

/// The set of a capture that is a part. One whose manifest cannot be read is none; importing it says
/// why.
fn set_of(found: &Found) -> Option<String> {
    let (manifest, _) = Manifest::read(found.files.as_ref()).ok()?;
    manifest.part.map(|part| part.set)
}

fn full_name(found: &Found) -> String {
    format!("{}/{}", found.machine, found.name)
}

fn names(found: &[&Found]) -> String {
    let names: Vec<String> = found.iter().map(|found| full_name(found)).collect();
    names.join(", ")
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
        let mut files = find(&[store.path().into()], pick).map_err(|e| e.to_string())?;
        let files = files.pop().unwrap();
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
        assert!(find(&[store.path().join("a/2.partial")], None).is_err());
    }
}
