//! Running the tools of the machine, with an error that says what was run and what it said.

use anyhow::{Context, Result, bail};
use std::ffi::OsString;
use std::process::{Command, Stdio};

/// The program `name`, also where the person's PATH leaves out the administrator's programs, as
/// Debian's does.
pub fn tool(name: &str) -> Command {
    let mut path = std::env::var_os("PATH").unwrap_or_default();
    path.push(OsString::from(":/usr/sbin:/sbin"));
    let mut command = Command::new(name);
    command.env("PATH", path).env("LC_ALL", "C.UTF-8");
    command
}

/// Runs `command` to its end and returns what it printed on standard output.
///
/// # Errors
/// When the program is missing (named, with the way to install it), or ends badly: the error
/// carries the command line and everything that it said.
pub fn run(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| missing(command))?;
    if !output.status.success() {
        bail!(
            "{} ended with {}:\n{}{}",
            shown(command),
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The command line as a person would type it, for messages.
pub fn shown(command: &Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ")
}

/// What to say when a program cannot be started at all.
pub fn missing(command: &Command) -> String {
    format!(
        "starting {}: is it installed? `cargo xtask setup` installs what the tests need",
        command.get_program().to_string_lossy()
    )
}
