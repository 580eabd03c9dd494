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

#[cfg(test)]
mod tests {
    use super::super::content::{self, Content};
    use super::super::testing::{MIB, run};
    use super::*;
    use crate::report::{Level, Recorder};
    use crate::units::{ByteLen, ByteOffset};
    use std::fs::{File, OpenOptions};
    use std::os::unix::fs::FileExt;

    fn part() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("part.img");
        File::create(&path).unwrap().set_len(256 * MIB).unwrap();
        (dir, path)
    }

    fn look(path: &Path) -> Content {
        content::read(&mut File::open(path).unwrap(), ByteOffset(0)).unwrap()
    }

    #[test]
    fn what_is_made_is_recognised_and_sound() {
        let (_dir, path) = part();
        make(&path).unwrap();
        let size = ByteLen(256 * MIB);
        assert_eq!(look(&path), Content::Ours { clean: true, size });
        run("e2fsck", &["-f", "-n", path.to_str().unwrap()]);
        let features = run("dumpe2fs", &["-h", path.to_str().unwrap()]);
        assert!(!features.contains("orphan_file"), "{features}");
        assert!(!features.contains("metadata_csum_seed"), "{features}");
        assert!(
            features.contains("Reserved block count:     0"),
            "{features}"
        );
    }

    #[test]
    fn an_open_journal_is_replayed() {
        let (_dir, path) = part();
        make(&path).unwrap();
        run(
            "debugfs",
            &["-w", "-R", "feature needs_recovery", path.to_str().unwrap()],
        );
        check(&path, &Recorder::default()).unwrap();
        assert!(matches!(look(&path), Content::Ours { clean: true, .. }));
    }

    #[test]
    fn small_damage_is_repaired_and_told() {
        let (_dir, path) = part();
        make(&path).unwrap();
        let image = path.to_str().unwrap();
        run(
            "debugfs",
            &["-w", "-R", "set_super_value free_blocks_count 7", image],
        );
        run("debugfs", &["-w", "-R", "set_super_value state 0", image]);
        let report = Recorder::default();
        check(&path, &report).unwrap();
        assert_eq!(report.lines()[0].0, Level::Warn, "{:?}", report.lines());
        run("e2fsck", &["-f", "-n", image]);
    }

    #[test]
    fn damage_that_needs_a_person_is_said() {
        let (_dir, path) = part();
        make(&path).unwrap();
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        // The root directory's inode and its neighbours.
        let report = Recorder::default();
        let said = run("dumpe2fs", &[path.to_str().unwrap()]);
        let table = said.split("Inode table at ").nth(1).unwrap();
        let block: u64 = table.split('-').next().unwrap().parse().unwrap();
        file.write_all_at(&[0xA5; 4096], block * 4096).unwrap();
        file.write_all_at(&[0, 0], 0x400 + 0x3A).unwrap();
        let error = check(&path, &report).unwrap_err();
        assert_eq!(error.kind(), Kind::Corrupt);
        assert!(error.to_string().contains("e2fsck -f"), "{error}");
    }
}
