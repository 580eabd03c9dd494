//! Text files of one system, and what may be taken from them: all of it is a stranger's.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use super::notes::Notes;
use crate::files::{Content, Files, Listed};

/// Bytes of a configuration file that are read.
const LARGEST_TEXT: u64 = 1 << 20;
/// Characters of a text that are kept.
const LONGEST: usize = 512;

/// The files of one system.
pub(super) struct Reading<'t> {
    /// Where they are.
    pub files: Files<'t>,
    /// The volume, for the notes.
    pub name: String,
    /// What could not be read.
    pub notes: &'t Notes,
}

impl<'t> Reading<'t> {
    /// Notes why something could not be read.
    pub(super) fn note(&self, path: &str, why: impl std::fmt::Display) {
        self.notes.add(format!("{}: {path}: {why}", self.name));
    }

    /// A text file; `None` if there is none, or it cannot be read.
    pub(super) fn text(&self, path: &str) -> Option<String> {
        match self.files.read(path, LARGEST_TEXT) {
            Ok(bytes) => Some(String::from_utf8_lossy(&bytes?).into_owned()),
            Err(refusal) => {
                self.note(path, refusal);
                None
            }
        }
    }

    /// Whether there is something at a path.
    pub(super) fn exists(&self, path: &str) -> bool {
        matches!(self.files.kind(path), Ok(Some(_)))
    }

    /// The entries of a directory, by name.
    pub(super) fn list(&self, path: &str) -> Vec<Listed> {
        self.files.list(path).unwrap_or_else(|refusal| {
            self.note(path, refusal);
            Vec::new()
        })
    }

    /// The files of a directory whose names end so, by name, with their whole paths and texts.
    pub(super) fn texts(&self, directory: &str, suffix: &str) -> Vec<(String, String)> {
        let files = self.list(directory).into_iter();
        files
            .filter(|entry| !entry.is_directory && entry.name.ends_with(suffix))
            .take(256)
            .filter_map(|entry| {
                let path = format!("{}/{}", directory.trim_end_matches('/'), entry.name);
                let text = self.text(&path)?;
                Some((path, text))
            })
            .collect()
    }

    /// A file of any size.
    pub(super) fn open(&self, path: &str) -> Option<Box<dyn Content + 't>> {
        self.files.open(path).unwrap_or_else(|refusal| {
            self.note(path, refusal);
            None
        })
    }
}

/// One line without control characters, not too long; `None` if nothing is left.
pub(super) fn plain(text: &str) -> Option<String> {
    let text: String = text
        .trim()
        .chars()
        .filter(|c| !c.is_control())
        .take(LONGEST)
        .collect();
    (!text.is_empty()).then_some(text)
}

/// A word of a distribution: letters, digits and `._+~-` (os-release(5), `ID`).
pub(super) fn word(text: &str) -> Option<String> {
    let fits = (1..=64).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._+~-".contains(&byte));
    fits.then(|| text.to_owned())
}

/// A host's name: letters, digits, `-`, `_` and dots, as hostname(7) has it.
pub(super) fn host_name(text: &str) -> Option<String> {
    let text = text.trim();
    let fits = (1..=253).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    fits.then(|| text.to_owned())
}

/// The name of an interface: what the kernel takes (`dev_valid_name`), and patterns.
pub(super) fn interface_name(text: &str) -> Option<String> {
    let fits = (1..=15).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && !b"/:\"'".contains(&byte));
    fits.then(|| text.to_owned())
}

/// A hardware address in lower case with colons.
pub(super) fn mac(text: &str) -> Option<String> {
    let text = text.trim().to_ascii_lowercase().replace('-', ":");
    let mut pairs = text.split(':');
    let fits = text.len() == 17
        && pairs.all(|pair| pair.len() == 2 && pair.bytes().all(|b| b.is_ascii_hexdigit()));
    fits.then_some(text)
}

/// `KEY=value` of a file that a shell could read, without its quotes: os-release(5), sysconfig.
pub(super) fn assignments(text: &str) -> impl Iterator<Item = (&str, String)> {
    text.lines().filter_map(|line| {
        let line = line.trim();
        if line.starts_with('#') {
            return None;
        }
        let (key, value) = line.split_once('=')?;
        Some((key.trim(), unquoted(value.trim())))
    })
}

/// A word of a shell: quotes are taken away, and what follows a blank outside of them.
fn unquoted(value: &str) -> String {
    let mut text = String::new();
    let mut quote = None;
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match (c, quote) {
            ('\\', None | Some('"')) => text.extend(chars.next()),
            (c, Some(q)) if c == q => quote = None,
            ('"' | '\'', None) => quote = Some(c),
            (c, None) if c.is_whitespace() => break,
            (c, _) => text.push(c),
        }
    }
    text
}

/// A file of sections (systemd, NetworkManager): `(section, key, value)` in its order.
pub(super) fn sections(text: &str) -> Vec<(String, String, String)> {
    let mut section = String::new();
    let mut found = Vec::new();
    for line in text.lines() {
        let line = line.trim();
        if line.starts_with(['#', ';']) {
            continue;
        }
        if let Some(name) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
            section = name.to_ascii_lowercase();
        } else if let Some((key, value)) = line.split_once('=') {
            found.push((
                section.clone(),
                key.trim().to_ascii_lowercase(),
                value.trim().to_owned(),
            ));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_do_harm_are_none() {
        for hostile in ["", "a\nb", "a b", "$(id)", &"x".repeat(300), "a/b", "ä"] {
            assert_eq!(host_name(hostile), None, "{hostile:?}");
        }
        assert_eq!(
            host_name("web-1.example.org\n").unwrap(),
            "web-1.example.org"
        );
        for hostile in ["", "0123456789abcdef", "e n", "../x", "e\n"] {
            assert_eq!(interface_name(hostile), None, "{hostile:?}");
        }
        assert_eq!(mac("B0-26-28-AA-BB-01").unwrap(), "b0:26:28:aa:bb:01");
        assert_eq!(mac("b0:26:28:aa:bb:0g"), None);
    }

    #[test]
    fn values_lose_their_quotes() {
        let text =
            "# A=1\nA=\"Debian GNU/Linux 13\" # x\nB='it''s'\n C=plain word\nD=\"a \\\"b\\\"\"\n";
        let found: Vec<_> = assignments(text).collect();
        let expected = [
            ("A", "Debian GNU/Linux 13"),
            ("B", "its"),
            ("C", "plain"),
            ("D", "a \"b\""),
        ];
        assert_eq!(found, expected.map(|(key, value)| (key, value.to_owned())));
    }
}
