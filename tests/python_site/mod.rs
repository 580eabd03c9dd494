//! Programs of others in Python that results are held against (OpenStack's own, PyYAML, jsonschema),
//! installed once for their list of versions and kept in the cache: 450 MB, two minutes on a busy machine
//! with 2 processors.

#![allow(unreachable_pub, reason = "a module of several test programs")]
#![allow(dead_code, reason = "each test program uses a part of it")]

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::OnceLock;

/// Every package with its version, as `pip freeze` names them.
const REQUIREMENTS: &str = include_str!("requirements.txt");

/// The folder of the packages.
fn site() -> &'static Path {
    static SITE: OnceLock<PathBuf> = OnceLock::new();
    SITE.get_or_init(|| {
        let python = output(Command::new("python3").arg("--version"));
        let recipe = blake3::hash(format!("{python}{REQUIREMENTS}").as_bytes()).to_hex();
        let cache = haulier_image::cache_dir().unwrap().join("python");
        fs::create_dir_all(&cache).unwrap();
        let site = cache.join(&recipe[..16]);
        // Two test runs at once must not both install; the second one waits for the first.
        let lock = File::create(cache.join("lock")).unwrap();
        lock.lock().unwrap();
        if !site.exists() {
            let partial = tempfile::Builder::new()
                .prefix("partial-")
                .tempdir_in(&cache)
                .unwrap();
            let list = partial.path().join("requirements.txt");
            fs::write(&list, REQUIREMENTS).unwrap();
            output(
                Command::new("python3")
                    .args(["-m", "pip", "install", "--quiet", "--no-deps", "--target"])
                    .arg(partial.path())
                    .arg("--requirement")
                    .arg(&list),
            );
            fs::rename(partial.path(), &site).unwrap();
            // Renamed away: nothing is left to delete.
            let _ = partial.keep();
        }
        site
    })
}

/// A script below `tests/`, to be run with the packages.
fn command(script: &str) -> Command {
    let mut python = Command::new("python3");
    python
        .args(["-W", "ignore"])
        .arg(
            Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("tests")
                .join(script),
        )
        .env("PYTHONPATH", site())
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    python
}

/// Runs a script below `tests/` with `input`; returns what it printed.
pub fn python(
    script: &str,
    args: impl FnOnce(&mut Command) -> &mut Command,
    input: &str,
) -> String {
    let mut python = command(script);
    args(&mut python);
    let mut child = python.stderr(Stdio::piped()).spawn().expect("python3");
    child
        .stdin
        .take()
        .unwrap()
        .write_all(input.as_bytes())
        .unwrap();
    let done = child.wait_with_output().unwrap();
    assert!(
        done.status.success(),
        "{python:?}: {}{}",
        String::from_utf8_lossy(&done.stdout),
        String::from_utf8_lossy(&done.stderr)
    );
    String::from_utf8(done.stdout).unwrap()
}

/// A script below `tests/` that answers each line with a line.
pub struct Answers {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Answers {
    /// Starts it.
    pub fn of(script: &str) -> Self {
        let mut child = command(script).spawn().expect("python3");
        let lines = BufReader::new(child.stdout.take().unwrap());
        Self { child, lines }
    }

    /// The answer to a line.
    pub fn ask(&mut self, line: &str) -> String {
        writeln!(self.child.stdin.as_mut().unwrap(), "{line}").unwrap();
        let mut answer = String::new();
        self.lines.read_line(&mut answer).unwrap();
        assert!(!answer.is_empty(), "the script has ended");
        answer
    }
}

impl Drop for Answers {
    fn drop(&mut self) {
        // Its input ends, and so does it.
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

fn output(command: &mut Command) -> String {
    let done = command
        .output()
        .unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(
        done.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&done.stderr)
    );
    String::from_utf8_lossy(&done.stdout).into_owned()
}
