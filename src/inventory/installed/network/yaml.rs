//! YAML as a small tree: what netplan's files need. The crate `saphyr-parser` reads the text; an alias is
//! nothing here, so that aliases of aliases do not grow into gigabytes.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use saphyr_parser::{Event, Parser};

/// Things in one document.
const MOST: usize = 1 << 16;
/// Things inside each other.
const DEEPEST: usize = 32;

/// A value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Yaml {
    Text(String),
    List(Vec<Yaml>),
    /// In the order of the document.
    Map(Vec<(String, Yaml)>),
    /// What is not read: aliases, maps with keys that are no text.
    Unknown,
}

/// What is open while the document is read.
enum Open {
    List(Vec<Yaml>),
    Map(Vec<(String, Yaml)>, Option<String>),
}

impl Yaml {
    /// The first document of a text; `None` if it is none.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut open: Vec<Open> = Vec::new();
        let mut parser = Parser::new_from_str(text);
        for _ in 0..MOST {
            let (event, _) = parser.next_event()?.ok()?;
            let value = match event {
                Event::Scalar(text, ..) => Self::Text(text.into_owned()),
                Event::Alias(_) => Self::Unknown,
                Event::SequenceStart(..) => {
                    open.push(Open::List(Vec::new()));
                    continue;
                }
                Event::MappingStart(..) => {
                    open.push(Open::Map(Vec::new(), None));
                    continue;
                }
                Event::SequenceEnd | Event::MappingEnd => match open.pop()? {
                    Open::List(items) => Self::List(items),
                    Open::Map(entries, _) => Self::Map(entries),
                },
                Event::StreamEnd | Event::DocumentEnd => return None,
                _ => continue,
            };
            if open.len() > DEEPEST {
                return None;
            }
            match open.last_mut() {
                None => return Some(value),
                Some(Open::List(items)) => items.push(value),
                Some(Open::Map(entries, key)) => match (key.take(), value) {
                    (Some(key), value) => entries.push((key, value)),
                    (None, Self::Text(text)) => *key = Some(text),
                    // Its value is passed over with it.
                    (None, _) => *key = Some(String::new()),
                },
            }
        }
        None
    }

    /// The value of a key.
    pub(super) fn get(&self, key: &str) -> Option<&Self> {
        let mut entries = self.entries();
        Some(&entries.find(|(own, _)| own == key)?.1)
    }

    /// The entries of a map; none if it is no map.
    pub(super) fn entries(&self) -> impl Iterator<Item = &(String, Self)> {
        let entries = match self {
            Self::Map(entries) => entries.as_slice(),
            _ => &[],
        };
        entries.iter()
    }

    /// The things in a list; none if it is no list.
    pub(super) fn items(&self) -> impl Iterator<Item = &Self> {
        let items = match self {
            Self::List(items) => items.as_slice(),
            _ => &[],
        };
        items.iter()
    }

    pub(super) fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    pub(super) fn is_true(&self) -> bool {
        let text = self.text().unwrap_or_default().to_ascii_lowercase();
        ["true", "yes", "on", "y"].contains(&text.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn aliases_do_not_grow() {
        let mut text = "a: &a [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for (this, last) in ('b'..='z').zip('a'..) {
            text += &format!("{this}: &{this} [{}]\n", format!("*{last},").repeat(10));
        }
        let parsed = Yaml::parse(&text).unwrap();
        assert_eq!(parsed.get("z").unwrap().items().count(), 10);
    }

    #[test]
    fn depth_is_bounded() {
        assert!(Yaml::parse(&"[".repeat(10_000)).is_none());
        assert!(Yaml::parse(&"- ".repeat(10_000)).is_none());
        assert!(Yaml::parse(&"? ".repeat(10_000)).is_none());
    }

    proptest! {
        #[test]
        fn no_text_makes_it_crash(text in "[-a-c:?&*!|>'\"#%@`\\[\\]{}, \n\t]{0,80}") {
            let _ = Yaml::parse(&text);
        }
    }
}
