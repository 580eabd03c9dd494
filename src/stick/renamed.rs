//! The stick's new names, from their invention until the next boot.
//!
//! Two sticks written from one image carry the same GUIDs. When a stick gets its data partition it
//! gets new ones, but the kernel command line of this boot still tells the old: this record in
//! `/run` is what proves the stick from then on, should the program be started again.

#![forbid(unsafe_code)]

use crate::error::{Error, Result};
use std::io::ErrorKind;
use std::path::Path;
use uuid::Uuid;

/// Where the record lies: in RAM, gone with this boot.
pub(super) const PATH: &str = "/run/haulier/stick";

/// By which partition GUIDs the ESP that we booted from may be known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wanted {
    /// The one that counts where it is found.
    pub(super) now: Uuid,
    /// Until the new one is on the stick for certain.
    pub(super) before: Option<Uuid>,
}

impl Wanted {
    /// `booted` comes from the command line.
    pub(super) fn read(path: &Path, booted: Uuid) -> Result<Self> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Ok(Self {
                    now: booted,
                    before: None,
                });
            }
            Err(error) => return Err(Error::io("reading the stick's new name", error).on(PATH)),
        };
        let mut words = text.split_whitespace();
        match (words.next().map(Uuid::try_parse), words.next()) {
            (Some(Ok(now)), Some("written")) => Ok(Self { now, before: None }),
            (Some(Ok(now)), Some("planned")) => Ok(Self {
                now,
                before: Some(booted),
            }),
            _ => Err(
                Error::corrupt(format!("the stick's new name reads {text:?}"))
                    .on(PATH)
                    .advise("Restart the server from the stick"),
            ),
        }
    }
}

/// Before the new GUID is written to the stick.
pub(super) fn plan(path: &Path, esp: Uuid) -> Result<()> {
    record(path, esp, "planned")
}

/// Once it is on the stick for certain: the old one names some other stick from now on.
pub(super) fn written(path: &Path, esp: Uuid) -> Result<()> {
    record(path, esp, "written")
}

fn record(path: &Path, esp: Uuid, state: &str) -> Result<()> {
    let failed = |e| Error::io("noting the stick's new name", e).on(path.display().to_string());
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(failed)?;
    }
    // A rename, so that a reader finds the old record or the new one.
    let new = path.with_extension("new");
    std::fs::write(&new, format!("{esp} {state}\n")).map_err(failed)?;
    std::fs::rename(&new, path).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_old_name_counts_until_the_new_one_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("haulier/stick");
        let (old, new) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let read = || Wanted::read(&path, old).unwrap();
        let wanted = |now, before| Wanted { now, before };

        assert_eq!(read(), wanted(old, None));
        plan(&path, new).unwrap();
        assert_eq!(read(), wanted(new, Some(old)));
        written(&path, new).unwrap();
        assert_eq!(read(), wanted(new, None));
    }

    #[test]
    fn a_record_that_makes_no_sense_is_said_and_not_guessed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("stick");
        for text in ["", "x written", "00000000-0000-0000-0000-000000000001"] {
            std::fs::write(&path, text).unwrap();
            let error = Wanted::read(&path, Uuid::nil()).unwrap_err().to_string();
            assert!(error.contains("the stick's new name reads"), "{error}");
        }
    }
}
