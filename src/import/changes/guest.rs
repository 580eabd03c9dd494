//! What the changes need of a machine with the guest's filesystems in it. [`Session`](super::guestfish::Session)
//! is one; tests have one in memory.

use crate::error::Result;
use std::path::PathBuf;

/// A machine in which the guest's filesystems are mounted. A command that fails ends it, unless it begins
/// with `-`.
pub(super) trait Guest {
    /// Runs one command of guestfish; what it printed.
    fn run(&self, words: &[&str]) -> Result<String>;
    /// Whether there is such a file, or a link to one.
    fn is_file(&self, path: &str) -> Result<bool>;
    /// A text file, or `None` where there is none.
    fn read(&self, path: &str) -> Result<Option<String>>;
    /// Brings a file of any size onto this machine; `None` where there is none. It is there until the next one is
    /// brought.
    fn fetch(&self, path: &str) -> Result<Option<PathBuf>>;
    /// Writes a file; one that is there keeps its permissions.
    fn write(&self, path: &str, content: &str) -> Result<()>;
    /// Whether it can be asked anything more.
    fn is_alive(&self) -> bool;

    /// The names in a directory; none where it is none.
    fn list(&self, folder: &str) -> Result<Vec<String>> {
        if self.run(&["is-dir", folder])?.trim() != "true" {
            return Ok(Vec::new());
        }
        let names = self.run(&["ls", folder])?;
        Ok(names.lines().map(str::to_owned).collect())
    }
}

/// A file that is to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NewFile {
    pub(super) path: String,
    pub(super) content: String,
}

/// Writes files, in folders that may have to be made.
pub(super) fn write_all(guest: &dyn Guest, files: &[NewFile]) -> Result<()> {
    for file in files {
        if let Some((folder, _)) = file.path.rsplit_once('/') {
            guest.run(&["mkdir-p", folder])?;
        }
        guest.write(&file.path, &file.content)?;
    }
    Ok(())
}

#[cfg(test)]
pub(super) mod fake {
    use super::Guest;
    use crate::error::{Error, Kind, Result};
    use std::cell::{Cell, RefCell};
    use std::collections::BTreeMap;
    use std::path::PathBuf;

    /// What a command that is not about files does.
    type Answer = Box<dyn Fn(&Fake, &[&str]) -> Result<String>>;

    /// A guest whose files are a map. A failing command ends it.
    pub(crate) struct Fake {
        pub(crate) files: RefCell<BTreeMap<String, String>>,
        /// All commands that were run.
        pub(crate) ran: RefCell<Vec<String>>,
        answer: Answer,
        ended: Cell<bool>,
    }

    impl Fake {
        pub(crate) fn new(files: &[(&str, &str)]) -> Self {
            let files = files
                .iter()
                .map(|(path, text)| (path.to_string(), text.to_string()));
            Self {
                files: RefCell::new(files.collect()),
                ran: RefCell::default(),
                answer: Box::new(|_, _| Ok(String::new())),
                ended: Cell::new(false),
            }
        }

        pub(crate) fn answering(
            mut self,
            answer: impl Fn(&Self, &[&str]) -> Result<String> + 'static,
        ) -> Self {
            self.answer = Box::new(answer);
            self
        }

        pub(crate) fn text(&self, path: &str) -> String {
            self.files.borrow().get(path).cloned().unwrap_or_default()
        }
    }

    /// What a command says that fails.
    pub(crate) fn failing(why: &str) -> Error {
        Error::new(Kind::Io, "running it").because(why.to_owned())
    }

    impl Guest for Fake {
        fn run(&self, words: &[&str]) -> Result<String> {
            assert!(!self.ended.get(), "{words:?} after the end");
            self.ran.borrow_mut().push(words.join(" "));
            let below = |folder: &str| {
                let folder = format!("{}/", folder.trim_end_matches('/'));
                let files = self.files.borrow();
                let mut names: Vec<String> = files
                    .keys()
                    .filter_map(|path| path.strip_prefix(&folder))
                    .filter_map(|rest| rest.split('/').next())
                    .map(str::to_owned)
                    .collect();
                names.dedup();
                names
            };
            match words {
                ["is-dir", folder] => Ok((!below(folder).is_empty()).to_string()),
                ["ls", folder] => Ok(below(folder).join("\n")),
                ["mkdir-p", _] => Ok(String::new()),
                ["cp", from, to] => {
                    let text = self.text(from);
                    self.files.borrow_mut().insert((*to).to_owned(), text);
                    Ok(String::new())
                }
                _ => {
                    let answer = (self.answer)(self, words);
                    self.ended.set(answer.is_err());
                    answer
                }
            }
        }

        fn is_file(&self, path: &str) -> Result<bool> {
            Ok(self.files.borrow().contains_key(path))
        }

        fn read(&self, path: &str) -> Result<Option<String>> {
            Ok(self.files.borrow().get(path).cloned())
        }

        /// The text of such a file is the path of one of this machine.
        fn fetch(&self, path: &str) -> Result<Option<PathBuf>> {
            Ok(self.files.borrow().get(path).map(PathBuf::from))
        }

        fn write(&self, path: &str, content: &str) -> Result<()> {
            let mut files = self.files.borrow_mut();
            files.insert(path.to_owned(), content.to_owned());
            Ok(())
        }

        fn is_alive(&self) -> bool {
            !self.ended.get()
        }
    }
}
