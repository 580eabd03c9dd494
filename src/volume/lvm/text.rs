//! The text of LVM's metadata: `key = value` and `name { ... }`, values being whole numbers, quoted
//! strings and arrays of them, comments from `#` to the end of the line (`config.c` of LVM2).
//!
//! Strict, and bounded in depth: what LVM would not have written is an error.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

/// Volume group, its volumes, one of them, one of its segments, a message in it: 5.
const MAX_DEPTH: usize = 8;

/// What stands behind a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    Number(u64),
    Text(String),
    Array(Vec<Value>),
    Section(Section),
}

/// What stands between braces, in its order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Section(pub(super) Vec<(String, Value)>);

impl Section {
    pub(super) fn get(&self, name: &str) -> Option<&Value> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, v)| v)
    }

    pub(super) fn number(&self, name: &str) -> Option<u64> {
        match self.get(name)? {
            Value::Number(number) => Some(*number),
            _ => None,
        }
    }

    pub(super) fn text(&self, name: &str) -> Option<&str> {
        match self.get(name)? {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    pub(super) fn section(&self, name: &str) -> Option<&Section> {
        match self.get(name)? {
            Value::Section(section) => Some(section),
            _ => None,
        }
    }

    pub(super) fn array(&self, name: &str) -> Option<&[Value]> {
        match self.get(name)? {
            Value::Array(values) => Some(values),
            _ => None,
        }
    }

    /// The sections in it, by name.
    pub(super) fn sections(&self) -> impl Iterator<Item = (&str, &Section)> {
        self.0.iter().filter_map(|(name, value)| match value {
            Value::Section(section) => Some((name.as_str(), section)),
            _ => None,
        })
    }

    /// Every string in it, however deep.
    pub(super) fn strings(&self) -> Vec<&str> {
        let mut found = Vec::new();
        for (_, value) in &self.0 {
            collect(value, &mut found);
        }
        found
    }
}

fn collect<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
    match value {
        Value::Number(_) => {}
        Value::Text(text) => found.push(text),
        Value::Array(values) => values.iter().for_each(|value| collect(value, found)),
        Value::Section(section) => found.extend(section.strings()),
    }
}

/// The whole text as a section; an error is a clause.
pub(super) fn parse(text: &str) -> Result<Section, String> {
    let mut parser = Parser { rest: text };
    let section = parser.entries(0)?;
    Ok(section)
}

struct Parser<'a> {
    rest: &'a str,
}

impl<'a> Parser<'a> {
    /// Skips blanks and comments.
    fn skip(&mut self) {
        loop {
            // The text ends with a NUL.
            self.rest = self
                .rest
                .trim_start_matches(|c: char| c.is_ascii_whitespace() || c == '\0');
            if !self.rest.starts_with('#') {
                return;
            }
            self.rest = self.rest.split_once('\n').map_or("", |(_, rest)| rest);
        }
    }

    fn take(&mut self, token: char) -> bool {
        self.skip();
        match self.rest.strip_prefix(token) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn need(&mut self, token: char) -> Result<(), String> {
        if self.take(token) {
            return Ok(());
        }
        let seen: String = self.rest.chars().take(20).collect();
        Err(format!("`{token}` is expected before `{seen}`"))
    }

    fn word(&mut self) -> &'a str {
        self.skip();
        let end = self
            .rest
            .find(|c: char| !(c.is_ascii_alphanumeric() || "_-+./@".contains(c)))
            .unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at_checked(end).unwrap_or(("", self.rest));
        self.rest = rest;
        word
    }

    /// Entries up to `}` or, at depth 0, the end.
    fn entries(&mut self, depth: usize) -> Result<Section, String> {
        if depth > MAX_DEPTH {
            return Err("its sections are too deep".into());
        }
        let mut section = Section::default();
        loop {
            self.skip();
            if self.rest.is_empty() && depth == 0 {
                return Ok(section);
            }
            if depth > 0 && self.take('}') {
                return Ok(section);
            }
            let name = self.word().to_owned();
            if name.is_empty() {
                let seen: String = self.rest.chars().take(20).collect();
                return Err(format!("a name is expected before `{seen}`"));
            }
            let value = if self.take('{') {
                Value::Section(self.entries(depth.saturating_add(1))?)
            } else {
                self.need('=')?;
                self.value(depth)?
            };
            section.0.push((name, value));
        }
    }

    fn value(&mut self, depth: usize) -> Result<Value, String> {
        if self.take('[') {
            let mut values = Vec::new();
            while !self.take(']') {
                if self.rest.starts_with('[') || depth > MAX_DEPTH {
                    return Err("an array in an array".into());
                }
                values.push(self.value(depth.saturating_add(1))?);
                if !self.take(',') {
                    self.need(']')?;
                    break;
                }
            }
            return Ok(Value::Array(values));
        }
        if self.take('"') {
            return self.string().map(Value::Text);
        }
        let word = self.word();
        word.parse()
            .map(Value::Number)
            .map_err(|_| format!("`{word}` is no value"))
    }

    /// The rest of a string, whose quotes and backslashes are escaped by a backslash.
    fn string(&mut self) -> Result<String, String> {
        let mut text = String::new();
        let mut chars = self.rest.chars();
        while let Some(char) = chars.next() {
            match char {
                '"' => {
                    self.rest = chars.as_str();
                    return Ok(text);
                }
                '\\' => text.extend(chars.next()),
                char => text.push(char),
            }
        }
        Err("a string without an end".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lvm_writes_is_read() {
        let section = parse(
            "vg-0 {\nid = \"a\\\"b\"\nseqno = 7 # bytes {\nstatus = [\"READ\", \"WRITE\"]\n\
             flags = []\nlv {\nsegment1 {\nstripes = [\n\"pv0\", 0\n]\n}\n}\n}\n# end\n\
             contents = \"x\"\n\0",
        )
        .unwrap();
        let vg = section.section("vg-0").unwrap();
        assert_eq!(vg.text("id"), Some("a\"b"));
        assert_eq!(vg.number("seqno"), Some(7));
        assert_eq!(vg.array("flags"), Some(&[][..]));
        let segment = vg.section("lv").and_then(|lv| lv.section("segment1"));
        assert_eq!(
            segment.and_then(|segment| segment.array("stripes")),
            Some(&[Value::Text("pv0".into()), Value::Number(0)][..])
        );
        assert_eq!(section.strings(), ["a\"b", "READ", "WRITE", "pv0", "x"]);
    }

    #[test]
    fn what_lvm_would_not_write_is_refused() {
        for text in [
            "a {",
            "a = ",
            "a = \"b",
            "= 1",
            "a = [1",
            "a = [[1]]",
            "a = b",
            "}",
            "a 1",
            "a = -1",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
        let deep = "a {".repeat(100_000);
        assert!(parse(&deep).is_err());
    }
}
