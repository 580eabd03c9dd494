//! Making and checking the ext4 filesystem of the data partition, with e2fsprogs.

#![forbid(unsafe_code)]

use super::content::LABEL;
use crate::error::{Error, Kind, Result};
use crate::report::Report;
use crate::{say, warn};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// Features that mke2fs 1.47 may switch on by default and that a cloud host of some years cannot
/// mount: the stick is read there.
const FOR_OLDER_HOSTS: &str = "^orphan_file,^metadata_csum_seed";

/// Makes the filesystem: few, large files; no discard, which cheap sticks take minutes for; the
/// inode tables and the journal are zeroed later by the kernel.
pub(super) fn make(node: &Path) -> Result<()> {
    let output = run(
        "mke2fs",
        &[
            "-q",
            "-F",
            "-t",
            "ext4",
            "-T",
            "largefile4",
            "-L",
            LABEL,
            "-m",
            "0",
            "-O",
            FOR_OLDER_HOSTS,
            "-E",
            "nodiscard,lazy_itable_init=1,lazy_journal_init=1",
        ],
        node,
    )?;
    if output.status.success() {
        return Ok(());
    }
    Err(failed("formatting the data partition", &output)
        .advise("Try another stick: this one does not take what is written to it"))
}

/// Repairs what a missing unmount leaves behind, so far as no decision is needed (`e2fsck -p`).
pub(super) fn check(node: &Path, report: &dyn Report) -> Result<()> {
    let output = run("e2fsck", &["-p"], node)?;
    // e2fsck(8): bit 0 errors corrected, bit 1 reboot (a mounted root only), bit 2 errors left.
    match output.status.code() {
        Some(0) => {
            say!(
                report,
                "The stick was not unmounted last time; its filesystem is sound"
            );
            Ok(())
        }
        Some(1..=3) => {
            warn!(
                report,
                "The stick was not unmounted last time; its filesystem was repaired: {}",
                words_of(&output)
            );
            Ok(())
        }
        _ => Err(failed("checking the data partition", &output)
            .into_kind(Kind::Corrupt)
            .advise(
                "Plug the stick into a Linux machine, run e2fsck -f on its third partition and \
                 save the captures, or use another stick",
            )),
    }
}

fn run(program: &str, arguments: &[&str], node: &Path) -> Result<Output> {
    Command::new(find(program)?)
        .args(arguments)
        .arg(node)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .output()
        .map_err(|e| Error::io(format!("running {program}"), e))
}

/// In the system folders, which a user's PATH may lack, or in PATH.
fn find(program: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    ["/sbin", "/usr/sbin"]
        .into_iter()
        .map(PathBuf::from)
        .chain(std::env::split_paths(&path))
        .map(|folder| folder.join(program))
        .find(|file| file.is_file())
        .ok_or_else(|| {
            Error::new(
                Kind::Unsupported,
                format!("the program {program} is missing"),
            )
            .advise("It is part of the package e2fsprogs")
        })
}

fn failed(doing: &str, output: &Output) -> Error {
    Error::new(Kind::Io, doing).because(format!("{}: {}", output.status, words_of(output)))
}

/// The last lines of what a program said, as one.
fn words_of(output: &Output) -> String {
    const LINES: usize = 4;
    let text = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<_> = text
        .lines()
        .filter(|line| !line.trim().is_empty())
        .collect();
    lines
        .get(lines.len().saturating_sub(LINES)..)
        .unwrap_or_default()
        .join("; ")
}
