//! Words for the POSIX shell: what a script is made of, whatever is in the strings.

/// One word for the shell: in single quotes nothing has a meaning but the single quote.
pub(super) fn quoted(word: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"_-.,=:/+".contains(&b);
    if !word.is_empty() && word.bytes().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// A template with its places filled: `@NAME@` by the value of that name. Values are never searched for
/// places: they may be a stranger's, and another place's value may be a command.
pub(super) fn filled(template: &str, values: &[(&str, &str)]) -> String {
    let mut text = String::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('@') {
        text += before;
        let found = values
            .iter()
            .find_map(|(name, value)| Some((*value, after.strip_prefix(name)?.strip_prefix('@')?)));
        // A lone one is the shell's own, as in "$@".
        let (value, left) = found.unwrap_or(("@", after));
        text += value;
        rest = left;
    }
    text + rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::process::Command;

    #[test]
    fn places_are_filled_once_and_all_else_stays() {
        let values = [("A", "@B@ @A@"), ("B", "two")];
        assert_eq!(
            filled("@A@-@B@ \"$@\" @C@ @@B@@ @A", &values),
            "@B@ @A@-two \"$@\" @C@ @two@ @A"
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        /// The shell itself is the oracle: it must hand back the very bytes.
        #[test]
        fn the_shell_takes_a_quoted_word_for_one_word(word in "[^\0]{0,40}") {
            let script = format!("set -- {}; [ $# = 1 ] && printf '%s' \"$1\"", quoted(&word));
            let output = Command::new("sh").arg("-c").arg(&script).output().unwrap();
            prop_assert!(output.status.success());
            prop_assert_eq!(output.stdout, word.into_bytes());
        }
    }
}
