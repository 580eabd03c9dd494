//! `modules.alias`: patterns of device names, matched as fnmatch(3) does.

use std::collections::HashMap;

/// All patterns, those that begin alike together: the bus (`pci:`, `usb:`) decides most.
#[derive(Debug, Default)]
pub(super) struct Aliases {
    by_bus: HashMap<String, Vec<(String, String)>>,
    any_bus: Vec<(String, String)>,
}

impl Aliases {
    /// Lines `alias PATTERN MODULE`; others are comments.
    pub(super) fn parse(text: &str) -> Self {
        let mut aliases = Self::default();
        for line in text.lines() {
            let mut words = line.split_ascii_whitespace();
            if let (Some("alias"), Some(pattern), Some(module)) =
                (words.next(), words.next(), words.next())
            {
                let pattern = canonical_pattern(pattern);
                let entry = (pattern.clone(), super::canonical(module));
                match bus(&pattern) {
                    Some(bus) => aliases
                        .by_bus
                        .entry(bus.to_owned())
                        .or_default()
                        .push(entry),
                    None => aliases.any_bus.push(entry),
                }
            }
        }
        aliases
    }

    /// The modules whose pattern `name` matches, each once, in the order of the file.
    pub(super) fn modules(&self, name: &str) -> Vec<&str> {
        let name = super::canonical(name);
        let of_bus = bus(&name).and_then(|bus| self.by_bus.get(bus));
        let mut modules: Vec<&str> = Vec::new();
        for (pattern, module) in of_bus.into_iter().flatten().chain(&self.any_bus) {
            if !modules.contains(&module.as_str()) && matches(pattern.as_bytes(), name.as_bytes()) {
                modules.push(module);
            }
        }
        modules
    }
}

/// The literal start through the first colon; `None` where a wildcard comes before it.
fn bus(pattern: &str) -> Option<&str> {
    let colon = pattern.find(':')?;
    let start = pattern.get(..=colon)?;
    (!start.contains(['*', '?', '['])).then_some(start)
}

/// `-` becomes `_` but inside brackets, where it is a range.
fn canonical_pattern(pattern: &str) -> String {
    let mut inside = false;
    pattern
        .chars()
        .map(|c| {
            match c {
                '[' => inside = true,
                ']' => inside = false,
                '-' if !inside => return '_',
                _ => {}
            }
            c
        })
        .collect()
}

/// fnmatch(3) without flags: `*`, `?`, `[abc]`, `[a-c]`, `[!a]`. Takes at most the product of the
/// two lengths in steps, whatever the pattern.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n) = (0, 0);
    // Where to go on after a mismatch: behind the last star, one byte further in the name.
    let mut retry: Option<(usize, usize)> = None;
    while n < name.len() {
        let step = match (pattern.get(p), name.get(n)) {
            (Some(b'*'), _) => {
                retry = Some((p + 1, n));
                p += 1;
                continue;
            }
            (Some(b'?'), Some(_)) => Some(1),
            (Some(b'['), Some(byte)) => bracket(&pattern[p..], *byte),
            (Some(literal), Some(byte)) if literal == byte => Some(1),
            _ => None,
        };
        match (step, retry) {
            (Some(step), _) => {
                p += step;
                n += 1;
            }
            (None, Some((behind_star, from))) => {
                p = behind_star;
                n = from + 1;
                retry = Some((behind_star, n));
            }
            (None, None) => return false,
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

/// The length of the bracket expression at the start of `pattern` if `byte` is in it.
fn bracket(pattern: &[u8], byte: u8) -> Option<usize> {
    let end = pattern.iter().skip(2).position(|b| *b == b']')? + 2;
    let set = &pattern[1..end];
    let (set, negated) = match set.split_first() {
        Some((b'!' | b'^', rest)) => (rest, true),
        _ => (set, false),
    };
    let mut found = false;
    let mut at = 0;
    while let Some(first) = set.get(at) {
        match (set.get(at + 1), set.get(at + 2)) {
            (Some(b'-'), Some(last)) => {
                found |= (first..=last).contains(&&byte);
                at += 3;
            }
            _ => {
                found |= *first == byte;
                at += 1;
            }
        }
    }
    (found != negated).then_some(end + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "# Aliases extracted from modules themselves.
alias pci:v*d*sv*sd*bc01sc06i01* ahci
alias pci:v00008086d00002922sv*sd*bc*sc*i* ahci
alias pci:v00008086d00002922sv*sd*bc*sc*i* intel-test
alias usb:v*p*d*dc*dsc*dp*ic08isc06ip50in* usb_storage
alias usb:v0781p55[4-6][0-9A-F]d* sandisk
alias scsi:t-0x00* sd_mod
alias fs-vfat vfat
alias *:strange* odd
";

    #[test]
    fn a_device_finds_its_drivers() {
        let aliases = Aliases::parse(FILE);
        let ahci = "pci:v00008086d00002922sv00001AF4sd00001100bc01sc06i01";
        assert_eq!(aliases.modules(ahci), ["ahci", "intel_test"]);
        let stick = "usb:v46F4p0001d0000dc00dsc00dp00ic08isc06ip50in00";
        assert_eq!(aliases.modules(stick), ["usb_storage"]);
        assert_eq!(aliases.modules("scsi:t-0x00"), ["sd_mod"]);
        assert!(aliases.modules("pci:v1").is_empty());
    }

    #[test]
    fn dashes_and_underscores_are_the_same_but_ranges_stay() {
        let aliases = Aliases::parse(FILE);
        assert_eq!(aliases.modules("fs_vfat"), ["vfat"]);
        assert_eq!(aliases.modules("usb:v0781p555Ad0100"), ["sandisk"]);
        assert!(aliases.modules("usb:v0781p5570d0100").is_empty());
    }

    #[test]
    fn a_pattern_without_a_bus_is_tried_on_all() {
        let aliases = Aliases::parse(FILE);
        assert_eq!(aliases.modules("acpi:strange1"), ["odd"]);
    }

    #[test]
    fn wildcards_match_as_fnmatch_does() {
        for (pattern, name, expected) in [
            ("a*b*c", "aXbXbc", true),
            ("a*b*c", "aXbXbcd", false),
            ("*", "", true),
            ("", "", true),
            ("", "x", false),
            ("?", "", false),
            ("a?c", "abc", true),
            ("[abc]x", "bx", true),
            ("[!abc]x", "bx", false),
            ("[a-c]x", "dx", false),
            ("[]]x", "]x", true),
            ("[a", "[a", false),
            ("a**", "a", true),
        ] {
            assert_eq!(
                matches(pattern.as_bytes(), name.as_bytes()),
                expected,
                "{pattern} {name}"
            );
        }
    }

    #[test]
    fn a_pattern_of_many_stars_takes_no_age() {
        let pattern = "*a".repeat(2000);
        let name = "b".repeat(20_000);
        assert!(!matches(pattern.as_bytes(), name.as_bytes()));
    }
}
