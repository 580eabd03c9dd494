//! OpenStack's own programs as Python packages, installed once for their list of versions and kept in the
//! cache: 450 MB, two minutes on a busy machine with 2 processors.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// Every package with its version, as `pip freeze` names them.
const REQUIREMENTS: &str = include_str!("requirements.txt");

/// The folder of the packages.
fn site() -> &'static Path {
    static SITE: OnceLock<PathBuf> = OnceLock::new();
    SITE.get_or_init(|| {
        let python = output(Command::new("python3").arg("--version"));
        let recipe = blake3::hash(format!("{python}{REQUIREMENTS}").as_bytes()).to_hex();
        let cache = haulier_image::cache_dir().unwrap().join("openstack");
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

/// Runs one of the scripts beside this file with `input`; returns what it printed.
pub(super) fn python(
    script: &str,
    args: impl FnOnce(&mut Command) -> &mut Command,
    input: &str,
) -> String {
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vm_openstack");
    let mut python = Command::new("python3");
    python
        .args(["-W", "ignore"])
        .arg(scripts.join(script))
        .env("PYTHONPATH", site())
        .env("PYTHONDONTWRITEBYTECODE", "1");
    args(&mut python);
    let mut child = python
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("python3");
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
