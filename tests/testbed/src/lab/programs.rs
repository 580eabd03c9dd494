//! Programs of this machine in the laboratory, with the libraries that they need.

use crate::command::{missing, run, tool};
use anyhow::{Context, Result, bail};
use haulier_image::initramfs::Tree;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Adds the program at `path`, to be found by its name, and its libraries.
///
/// # Errors
/// When it cannot be read, or one of its libraries is not installed.
pub(super) fn add(tree: &mut Tree, path: &Path) -> Result<()> {
    let name = path.file_name().context("a program without a name")?;
    let name = name.to_str().context("a name that is not UTF-8")?;
    let doing = || format!("putting {} into the laboratory", path.display());
    let data = fs::read(path).with_context(doing)?;
    let is_elf = data.starts_with(b"\x7fELF");
    tree.program(&format!("usr/sbin/{name}"), data);
    if is_elf {
        for library in libraries(path).with_context(doing)? {
            let data = fs::read(&library).with_context(doing)?;
            tree.program(&inside(&library).with_context(doing)?, data);
        }
    }
    Ok(())
}

/// Where this machine has the program `name`.
///
/// # Errors
/// When it is not installed.
pub(super) fn find(name: &str) -> Result<PathBuf> {
    let mut folders = std::env::var_os("PATH").unwrap_or_default();
    folders.push(OsString::from(":/usr/sbin:/sbin"));
    std::env::split_paths(&folders)
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
        .with_context(|| missing(&Command::new(name)))
}

/// The loader and the libraries, by the paths at which the loader looks for them.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    // A static program is told on standard error, with exit code 1.
    let output = tool("ldd").arg(program).output().context("running ldd")?;
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    if words.contains("not a dynamic executable") {
        return Ok(Vec::new());
    }
    let text = run(tool("ldd").arg(program))?;
    let mut paths = Vec::new();
    // "  libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x…)", "  /lib64/ld-linux-x86-64.so.2 (0x…)",
    // "  linux-vdso.so.1 (0x…)", "  libx.so => not found"
    for line in text.lines().map(str::trim) {
        if line.contains("not found") {
            bail!("{line}");
        }
        let place = line.split(" => ").last().unwrap_or(line);
        if let Some(path) = place.split(" (").next().filter(|at| at.starts_with('/')) {
            paths.push(path.into());
        }
    }
    Ok(paths)
}

/// The path in the laboratory, whose `/lib` and `/lib64` lead into `/usr` like this machine's.
fn inside(library: &Path) -> Result<String> {
    let folder = library.parent().context("a library without a folder")?;
    let name = library.file_name().context("a library without a name")?;
    let path = folder.canonicalize()?.join(name);
    let path = path.to_str().context("a path that is not UTF-8")?;
    Ok(path.trim_start_matches('/').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_comes_with_its_loader_and_its_libraries() {
        let mut tree = Tree::default();
        add(&mut tree, &find("mke2fs").unwrap()).unwrap();
        let names: Vec<&str> = tree.iter().map(|(path, _)| path).collect();
        for part in ["usr/sbin/mke2fs", "ld-linux-x86-64.so.2", "libc.so.6"] {
            assert!(
                names.iter().any(|name| name.ends_with(part)),
                "{part}: {names:?}"
            );
        }
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let error = find("haulier-no-such-program").unwrap_err();
        assert!(
            error.to_string().contains("haulier-no-such-program"),
            "{error}"
        );
    }
}
