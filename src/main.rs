//! `haulier`, the program: see [`haulier::cli`].
fn main() -> std::process::ExitCode {
    haulier::cli::main()
}
