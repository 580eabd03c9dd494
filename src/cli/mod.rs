//! The commands.

/// Runs the command line of this process.
pub fn main() -> std::process::ExitCode {
    crate::exit::Exit::Usage.into()
}
