//! The commands: from words to the stations and back to words and an exit code.

pub mod answers;
pub mod args;
mod commands;

use crate::error::{Error, Result};
use crate::exit::Exit;
use args::{AnswerArgs, Cli, Command};
use clap::Parser;
use std::process::ExitCode;

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version come this way too, and are no failure.
            let exit = if error.use_stderr() {
                Exit::Usage
            } else {
                Exit::Done
            };
            let _ = error.print();
            return exit.into();
        }
    };
    if let Command::Appliance(args) = &cli.command {
        return crate::tui::appliance::run(args).into();
    }
    match commands::run(cli.command) {
        Ok(exit) => exit.into(),
        Err(error) => {
            eprintln!("haulier: {error}");
            Exit::of(&error).into()
        }
    }
}

/// The answers that these words give (see [`answers`]).
///
/// # Errors
/// Refused with the parser's sentence, which names the word.
pub fn parse_answers(words: &[String]) -> Result<AnswerArgs> {
    let all = ["haulier".into(), "appliance".into()]
        .into_iter()
        .chain(words.iter().cloned());
    let cli = Cli::try_parse_from(all).map_err(|error| {
        // The first line says what is wrong; the rest is about the command line.
        let text = error.render().to_string();
        let line = text
            .lines()
            .next()
            .unwrap_or_default()
            .replace("error: ", "");
        Error::refused(format!("the answers cannot be used: {line}"))
            .advise("Mend haulier.toml on the stick's first partition, or the kernel command line")
    })?;
    match cli.command {
        Command::Appliance(args) => Ok(args.answers),
        _ => Err(Error::refused("the answers name another command")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stick::cmdline::Cmdline;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn help_fits_80_columns() {
        let mut cli = Cli::command();
        cli.build();
        let mut pages = vec![cli.clone()];
        pages.extend(cli.get_subcommands().cloned());
        for mut page in pages {
            for help in [page.render_help(), page.render_long_help()] {
                for line in help.to_string().lines() {
                    assert!(line.chars().count() <= 80, "{}: {line}", page.get_name());
                }
            }
        }
    }

    #[test]
    fn the_kernel_line_wins_over_the_file() {
        let mut words = answers::from_file("after = \"wait\"\nunattended = true").unwrap();
        words.extend(answers::from_kernel(&Cmdline::parse(
            "haulier.after=reboot",
        )));
        let answers = parse_answers(&words).unwrap();
        assert!(answers.unattended);
        assert_eq!(answers.after, args::After::Reboot);
    }

    #[test]
    fn an_unknown_key_is_refused_by_its_name() {
        let error = parse_answers(&answers::from_file("unatended = true").unwrap()).unwrap_err();
        assert!(error.to_string().contains("--unatended"), "{error}");
        assert_eq!(Exit::of(&error), Exit::Refused);
    }
}
