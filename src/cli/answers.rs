//! Answer files and the kernel command line, turned into the words of the command line, so that
//! the three can never differ: a key is a long option, `disks = ["all"]` is `--disks=all`.

use crate::error::{Error, Result};
use crate::stick::cmdline::Cmdline;

/// Keys of the kernel command line that are not answers: they belong to the boot itself.
const BOOT_KEYS: [&str; 3] = ["boot", "init", "debug"];

/// The words of an answer file (TOML: strings, numbers, booleans, arrays of them).
///
/// # Errors
/// Refused with a sentence that names the key or the line.
pub fn from_file(text: &str) -> Result<Vec<String>> {
    let table: toml::Table = text.parse().map_err(|error: toml::de::Error| {
        Error::refused("the answer file haulier.toml cannot be read").because(error)
    })?;
    let mut words = Vec::new();
    for (key, value) in table {
        match value {
            toml::Value::Array(values) => {
                for value in values {
                    words.extend(word(&key, value)?);
                }
            }
            value => words.extend(word(&key, value)?),
        }
    }
    Ok(words)
}

fn word(key: &str, value: toml::Value) -> Result<Option<String>> {
    match value {
        toml::Value::Boolean(true) => Ok(Some(format!("--{key}"))),
        toml::Value::Boolean(false) => Ok(None),
        toml::Value::String(text) => Ok(Some(format!("--{key}={text}"))),
        toml::Value::Integer(number) => Ok(Some(format!("--{key}={number}"))),
        toml::Value::Float(_)
        | toml::Value::Datetime(_)
        | toml::Value::Array(_)
        | toml::Value::Table(_) => Err(Error::refused(format!(
            "the answer file haulier.toml gives {key} a value that is not text, number, true or \
             false"
        ))),
    }
}

/// The words of `haulier.KEY[=VALUE]` on the kernel command line; `1` and `0` are yes and no for
/// options without a value.
pub fn from_kernel(command_line: &Cmdline) -> Vec<String> {
    command_line
        .iter()
        .filter_map(|(key, value)| Some((key.strip_prefix("haulier.")?, value)))
        .filter_map(|(key, value)| {
            if BOOT_KEYS.contains(&key) {
                return None;
            }
            // The kernel's own parameters spell words with either.
            let key = key.replace('_', "-");
            match (is_flag(&key), value) {
                (true, None | Some("1" | "true" | "yes")) => Some(format!("--{key}")),
                (true, Some("0" | "false" | "no")) => None,
                (_, Some(value)) => Some(format!("--{key}={value}")),
                (false, None) => Some(format!("--{key}")),
            }
        })
        .collect()
}

fn is_flag(key: &str) -> bool {
    matches!(key, "unattended" | "no-verify" | "passphrase" | "span")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_says_the_words_of_the_command_line() {
        let mut words =
            from_file("unattended = true\nno-verify = false\ndisks = [\"all\"]\nname = \"db 1\"\n")
                .unwrap();
        words.sort();
        assert_eq!(words, ["--disks=all", "--name=db 1", "--unattended"]);
    }

    #[test]
    fn the_kernel_line_says_the_same_words() {
        let words = from_kernel(&Cmdline::parse(
            "quiet haulier.boot=12-ab haulier.debug=1 haulier.unattended=1 haulier.no_verify=0 \
             haulier.disk=S45 \"haulier.name=db 1\" haulier.after=reboot",
        ));
        assert_eq!(
            words,
            [
                "--unattended",
                "--disk=S45",
                "--name=db 1",
                "--after=reboot"
            ]
        );
    }

    #[test]
    fn a_broken_file_is_refused_with_its_line() {
        let error = from_file("unattended = \n").unwrap_err().to_string();
        assert!(
            error.contains("haulier.toml") && error.contains("line 1"),
            "{error}"
        );
        let error = from_file("when = 2026-11-22\n").unwrap_err().to_string();
        assert!(error.contains("gives when a value"), "{error}");
    }
}
