//! Running other programs: what went wrong is told with the program's own last words.

use anyhow::{Context, Result, bail};
use std::ffi::OsStr;
use std::io::ErrorKind;
use std::process::{Command, Output, Stdio};

/// Runs `command` to its end and gives what it wrote to standard output.
///
/// # Errors
/// When the program is missing (its name and `package`, where it comes from), or when it ends with
/// anything but 0 (its standard error).
pub(crate) fn run(command: &mut Command, package: &str) -> Result<Vec<u8>> {
    let output = output(command, package)?;
    if !output.status.success() {
        bail!(
            "{} ended with {}: {}",
            describe(command),
            output.status,
            last_words(&output)
        );
    }
    Ok(output.stdout)
}

/// Like [`run`], but leaves the judgement of the exit status to the caller.
///
/// # Errors
/// When the program cannot be started at all.
pub(crate) fn output(command: &mut Command, package: &str) -> Result<Output> {
    match command.stdin(Stdio::null()).output() {
        Ok(output) => Ok(output),
        Err(error) if error.kind() == ErrorKind::NotFound => bail!(
            "the program {} is missing: install the package {package}",
            command.get_program().display()
        ),
        Err(error) => Err(error).with_context(|| format!("starting {}", describe(command))),
    }
}

/// The last lines of a program's standard error, for a message.
pub(crate) fn last_words(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> = text.lines().collect();
    let from = lines.len().saturating_sub(12);
    lines[from..].join("\n")
}

/// The command as a person would type it, cut where it gets long.
fn describe(command: &Command) -> String {
    let words: Vec<_> = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(OsStr::to_string_lossy)
        .collect();
    let mut line: String = words.join(" ").chars().take(300).collect();
    if line.chars().count() == 300 {
        line.push('…');
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_program_is_told_with_its_package() {
        let error = run(&mut Command::new("haulier-no-such-program"), "nothing").unwrap_err();
        assert_eq!(
            error.to_string(),
            "the program haulier-no-such-program is missing: install the package nothing"
        );
    }

    #[test]
    fn a_failing_program_is_told_with_its_last_words() {
        let error = run(
            Command::new("sh").args(["-c", "echo no such luck >&2; exit 3"]),
            "dash",
        )
        .unwrap_err();
        assert!(error.to_string().contains("exit status: 3"), "{error}");
        assert!(error.to_string().ends_with("no such luck"), "{error}");
    }
}
