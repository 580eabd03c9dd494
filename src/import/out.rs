//! The folder that an import makes: filled under another name, and whole or not there.

use crate::error::{Error, Result};
use crate::units::ByteLen;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

/// A folder that is being filled, under a name that cannot be taken for a result.
#[must_use = "without commit() the folder is removed"]
pub(super) struct OutDir {
    /// Where it is while it is filled.
    pub(super) partial: PathBuf,
    whole: PathBuf,
    committed: bool,
}

impl OutDir {
    /// Makes `<whole>.partial`.
    ///
    /// # Errors
    /// [`Kind::Refused`] when there is something at `whole`, an earlier attempt beside it, or less
    /// room than `bytes`.
    pub(super) fn begin(whole: &Path, bytes: u64) -> Result<Self> {
        let whole = std::path::absolute(whole)
            .map_err(|e| Error::io(format!("finding {}", whole.display()), e))?;
        let occupied = match fs::read_dir(&whole) {
            Ok(mut entries) => entries.next().is_some(),
            Err(e) => e.kind() != std::io::ErrorKind::NotFound,
        };
        if occupied {
            return Err(Error::refused(format!(
                "{} exists already and is not an empty directory",
                whole.display()
            ))
            .advise("Nothing is ever overwritten: name another place with --out"));
        }
        let (Some(parent), Some(name)) = (whole.parent(), whole.file_name()) else {
            return Err(Error::refused(format!(
                "{} cannot be made",
                whole.display()
            )));
        };
        fs::create_dir_all(parent)
            .map_err(|e| Error::io(format!("making {}", parent.display()), e))?;
        check_room(parent, bytes)?;
        let mut partial = name.to_owned();
        partial.push(".partial");
        let partial = parent.join(partial);
        fs::create_dir(&partial).map_err(|e| match e.kind() {
            std::io::ErrorKind::AlreadyExists => Error::refused(format!(
                "{} is there: an import that runs, or one that was cut off",
                partial.display()
            ))
            .advise("Delete it if no import runs"),
            _ => Error::io(format!("making {}", partial.display()), e),
        })?;
        Ok(Self {
            partial,
            whole,
            committed: false,
        })
    }

    /// Where the file will be once all is whole.
    pub(super) fn final_path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.whole.join(name)
    }

    /// Writes a small file with these permissions.
    pub(super) fn write(&self, name: &str, bytes: &[u8], mode: u32) -> Result<()> {
        use std::os::unix::fs::OpenOptionsExt;
        let path = self.partial.join(name);
        File::options()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&path)
            .and_then(|mut file| {
                file.write_all(bytes)?;
                file.sync_all()
            })
            .map_err(|e| Error::io(format!("writing {}", path.display()), e))
    }

    /// Gives the folder its name.
    pub(super) fn commit(mut self) -> Result<PathBuf> {
        // Replaces an empty directory and nothing else (rename(2)).
        fs::rename(&self.partial, &self.whole).map_err(|e| {
            Error::io(
                format!(
                    "renaming {} to {}",
                    self.partial.display(),
                    self.whole.display()
                ),
                e,
            )
        })?;
        self.committed = true;
        Ok(self.whole.clone())
    }
}

impl Drop for OutDir {
    fn drop(&mut self) {
        if !self.committed {
            // Half an import is of no use; what cannot be removed is named `.partial`.
            let _ = fs::remove_dir_all(&self.partial);
        }
    }
}

/// Refuses a filesystem without room, with both numbers.
fn check_room(dir: &Path, bytes: u64) -> Result<()> {
    let stat = rustix::fs::statvfs(dir)
        .map_err(|e| Error::io(format!("asking how much room {} has", dir.display()), e))?;
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    if free < bytes {
        return Err(Error::refused(format!(
            "{} has room for {} and the import needs {}",
            dir.display(),
            ByteLen(free),
            ByteLen(bytes)
        ))
        .advise("Name another place with --out"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    #[test]
    fn a_folder_that_is_not_empty_is_refused_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("precious"), "x").unwrap();
        let error = OutDir::begin(dir.path(), 0).err().unwrap();
        assert_eq!(error.kind(), Kind::Refused);
        assert!(dir.path().join("precious").exists());
    }

    #[test]
    fn no_room_is_refused_with_both_numbers() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("vm");
        let error = OutDir::begin(&out, u64::MAX).err().unwrap();
        assert_eq!(error.kind(), Kind::Refused);
        let text = error.to_string();
        assert!(
            text.contains("has room for") && text.contains("needs"),
            "{text}"
        );
        assert!(!out.exists());
    }

    #[test]
    fn a_folder_that_is_not_committed_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let out = OutDir::begin(&dir.path().join("vm"), 0).unwrap();
        out.write("run.sh", b"", 0o755).unwrap();
        drop(out);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
