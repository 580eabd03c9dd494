//! `/sbin/modprobe`, which the kernel runs when it needs a module itself: `modprobe -q -- fs-vfat`.

use super::load::load;
use super::{Index, Options};
use anyhow::Result;
use haulier::stick::cmdline::Cmdline;
use std::process::ExitCode;

/// Loads what the arguments ask for; options are understood as "quietly" all of them.
pub(crate) fn main(arguments: impl Iterator<Item = String>) -> ExitCode {
    match run(&wanted(arguments)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("modprobe: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn wanted(arguments: impl Iterator<Item = String>) -> Vec<String> {
    arguments
        .filter(|argument| !argument.starts_with('-'))
        .collect()
}

fn run(requests: &[String]) -> Result<()> {
    let index = Index::of_this_kernel()?;
    // Early in the boot, nobody has mounted /proc yet.
    let options = Options::new(&Cmdline::of_this_kernel().unwrap_or_default());
    for request in requests {
        let names = index.wanted_by(request);
        anyhow::ensure!(
            !names.is_empty() || index.has_built_in(request),
            "there is no module {request}"
        );
        for name in names {
            for step in index.steps(name)? {
                load(&step, &options)?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_way_of_calling_is_understood() {
        let arguments = ["-q", "--", "fs-vfat"].map(String::from).into_iter();
        assert_eq!(wanted(arguments), ["fs-vfat"]);
    }
}
