//! Words for the POSIX shell: what a script is made of, whatever is in the strings.

/// One word for the shell: in single quotes nothing has a meaning but the single quote.
pub(super) fn quoted(word: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"_-.,=:/+".contains(&b);
    if !word.is_empty() && word.bytes().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::process::Command;

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
