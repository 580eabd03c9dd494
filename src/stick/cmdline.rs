//! The kernel command line: `key=value` words, double quotes around what holds spaces.
//!
//! Spec: Documentation/admin-guide/kernel-parameters.rst and `next_arg()` in lib/cmdline.c.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use crate::error::{Error, Result};

/// The parameters in their order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Cmdline(Vec<(String, Option<String>)>);

impl Cmdline {
    /// That of the running kernel.
    ///
    /// # Errors
    /// When `/proc/cmdline` cannot be read.
    pub fn of_this_kernel() -> Result<Self> {
        let path = "/proc/cmdline";
        // The boot loader's bytes need not be UTF-8.
        let bytes = std::fs::read(path)
            .map_err(|e| Error::io("reading the kernel command line", e).on(path))?;
        Ok(Self::parse(&String::from_utf8_lossy(&bytes)))
    }

    /// Parses a whole line. Words after a lone `--` are for init and no kernel parameters.
    pub fn parse(line: &str) -> Self {
        let mut parameters = Vec::new();
        for word in words(line) {
            if word == "--" {
                break;
            }
            let (key, value) = match word.split_once('=') {
                Some((key, value)) => (key, Some(unquoted(value))),
                None => (word.as_str(), None),
            };
            let key = key.trim_matches('"');
            if !key.is_empty() {
                parameters.push((key.to_owned(), value));
            }
        }
        Self(parameters)
    }

    /// All parameters in their order: key, and value where there is a `=`.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Option<&str>)> {
        self.0
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_deref()))
    }

    /// Every value given for `key`. The kernel takes `-` and `_` in a key as the same.
    pub fn values<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.iter()
            .filter(move |(name, _)| same_key(name, key))
            .filter_map(|(_, value)| value)
    }

    /// The last value given for `key`.
    pub fn value<'a>(&'a self, key: &'a str) -> Option<&'a str> {
        self.values(key).last()
    }

    /// Whether `key` is there, with or without a value.
    pub fn has(&self, key: &str) -> bool {
        self.iter().any(|(name, _)| same_key(name, key))
    }
}

fn same_key(a: &str, b: &str) -> bool {
    a.len() == b.len()
        && a.bytes()
            .zip(b.bytes())
            .all(|(a, b)| a == b || (matches!(a, b'-' | b'_') && matches!(b, b'-' | b'_')))
}

/// Splits at white space outside double quotes; the quotes stay.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut quoted = false;
    for c in line.chars() {
        if c == '"' {
            quoted = !quoted;
        }
        if c.is_ascii_whitespace() && !quoted {
            if !word.is_empty() {
                words.push(std::mem::take(&mut word));
            }
        } else if c != '\0' {
            word.push(c);
        }
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}

fn unquoted(value: &str) -> String {
    // Also the closing quote of `"key=value"`, which is the kernel's other way to quote.
    let value = value.strip_prefix('"').unwrap_or(value);
    value.strip_suffix('"').unwrap_or(value).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_keys_and_values() {
        let line = Cmdline::parse("BOOT_IMAGE=/linux quiet haulier.boot=1b6a console=ttyS0\n");
        assert_eq!(line.value("haulier.boot"), Some("1b6a"));
        assert!(line.has("quiet"));
        assert_eq!(line.value("quiet"), None);
        assert!(!line.has("haulier"));
    }

    #[test]
    fn quotes_hold_spaces_together_in_both_forms() {
        let line = Cmdline::parse(r#"a.name="two words" "b.name=three of them" c=x"y z"w"#);
        assert_eq!(line.value("a.name"), Some("two words"));
        assert_eq!(line.value("b.name"), Some("three of them"));
        assert_eq!(line.value("c"), Some(r#"x"y z"w"#));
    }

    #[test]
    fn the_last_value_wins_and_dashes_are_underscores() {
        let line = Cmdline::parse("usb-storage.delay_use=1 usb_storage.delay-use=5");
        assert_eq!(line.value("usb_storage.delay_use"), Some("5"));
        assert_eq!(line.values("usb_storage.delay_use").count(), 2);
    }

    #[test]
    fn words_for_init_are_not_parameters() {
        let line = Cmdline::parse("ro -- haulier.boot=evil");
        assert_eq!(line.value("haulier.boot"), None);
    }

    #[test]
    fn an_open_quote_an_empty_line_and_stray_signs_do_no_harm() {
        assert_eq!(Cmdline::parse(""), Cmdline::default());
        assert_eq!(
            Cmdline::parse("a=\"never closed b=c").value("a"),
            Some("never closed b=c")
        );
        assert!(Cmdline::parse("=x \"\" ").iter().next().is_none());
    }
}
