//! Which capture is meant: a capture's own folder, or one of a store.

use crate::error::{Error, Result};
use crate::store::manifest::MANIFEST;
use crate::store::{CaptureFiles, DirFiles};
use std::path::Path;

/// Opens the capture at `path`, or the one that `pick` (`machine` or `machine/capture`) names in the
/// store at `path`. A store with one whole capture needs no `pick`.
///
/// # Errors
/// [`crate::Kind::Refused`] when there is none, or several to choose from, which it names.
pub fn find(path: &Path, pick: Option<&str>) -> Result<Box<dyn CaptureFiles>> {
    let partial = |name: &std::ffi::OsStr| name.to_string_lossy().ends_with(".partial");
    if path.file_name().is_some_and(partial) {
        return Err(Error::refused(format!(
            "{} is not whole: its capture was cut off or still runs",
            path.display()
        )));
    }
    choose(Box::new(DirFiles::new(path)), pick)
}

fn choose(root: Box<dyn CaptureFiles>, pick: Option<&str>) -> Result<Box<dyn CaptureFiles>> {
    if is_capture(&*root)? {
        return Ok(root);
    }
    let mut found: Vec<(String, Box<dyn CaptureFiles>)> = Vec::new();
    for machine in root.list()?.into_iter().filter(|entry| entry.is_dir) {
        let folder = root.dir(&machine.name)?;
        if is_capture(&*folder)? {
            found.push((machine.name, folder));
            continue;
        }
        for capture in folder.list()?.into_iter().filter(|entry| entry.is_dir) {
            if capture.name.ends_with(".partial") {
                continue;
            }
            let files = folder.dir(&capture.name)?;
            if is_capture(&*files)? {
                found.push((format!("{}/{}", machine.name, capture.name), files));
            }
        }
    }
    if let Some(pick) = pick {
        found.retain(|(name, _)| {
            name == pick
                || name
                    .split_once('/')
                    .is_some_and(|(machine, _)| machine == pick)
        });
    }
    let names: Vec<String> = found.iter().map(|(name, _)| name.clone()).collect();
    match (found.len(), found.pop()) {
        (1, Some((_, files))) => Ok(files),
        (0, _) => Err(Error::refused(match pick {
            Some(pick) => format!("there is no whole capture {pick} in {}", root.name()),
            None => format!("there is no whole capture in {}", root.name()),
        })),
        _ => Err(Error::refused(format!(
            "there are several captures in {}: {}",
            root.name(),
            names.join(", ")
        ))
        .advise("Choose one with --pick")),
    }
}

fn is_capture(files: &dyn CaptureFiles) -> Result<bool> {
    Ok(files.list()?.iter().any(|entry| entry.name == MANIFEST))
}

#[cfg(test)]
mod tests {
    use super::*;
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
        let root = format!("{}/", store.path().display());
        Ok(files.name().replace(&root, ""))
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
        assert!(found(&store, None).is_err());
        assert!(find(&store.path().join("a/2.partial"), None).is_err());
    }
}
