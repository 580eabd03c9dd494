//! Programs that stand in for those that a script calls: each writes down the words that it was given,
//! as the shell handed them over.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A folder with such programs, and what they were given.
pub struct Programs {
    folder: tempfile::TempDir,
}

/// Count of words, the program's name, the words.
const RECORD: &str = r#"#!/bin/sh
printf '%s\0' "$#" "${0##*/}" "$@" >> "$RECORDED"
"#;

impl Programs {
    /// Programs of these names, and what each does (shell) after writing down its words.
    pub fn new(programs: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("bin")).unwrap();
        for (name, then) in programs {
            let path = folder.path().join("bin").join(name);
            fs::write(&path, format!("{RECORD}{then}\n")).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        Self { folder }
    }

    fn recorded(&self) -> PathBuf {
        self.folder.path().join("recorded")
    }

    /// Runs a script with these programs before all others, in an empty folder of its own, where it may
    /// not leave anything. It must succeed.
    pub fn run(&self, script: &str, args: &[&str], variables: &[(&str, &str)]) -> Vec<Vec<String>> {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("script.sh");
        fs::write(&path, script).unwrap();
        let words = self.run_at(&path, args, variables);
        let left: Vec<_> = fs::read_dir(&place)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(left, ["script.sh"], "the script made a file: {script}");
        words
    }

    /// Runs the script at `path`; returns each call's words, the program's name first.
    pub fn run_at(
        &self,
        path: &Path,
        args: &[&str],
        variables: &[(&str, &str)],
    ) -> Vec<Vec<String>> {
        let output = self.output(path, args, variables);
        assert!(
            output.status.success(),
            "{}{}",
            String::from_utf8_lossy(&output.stderr),
            fs::read_to_string(path).unwrap()
        );
        let recorded = fs::read_to_string(self.recorded()).unwrap();
        let mut words = recorded.split_terminator('\0').map(str::to_owned);
        let mut calls = Vec::new();
        while let Some(count) = words.next() {
            let count: usize = count.parse().unwrap();
            calls.push(words.by_ref().take(count + 1).collect());
        }
        calls
    }

    /// Runs the script at `path`, which may fail.
    pub fn output(&self, path: &Path, args: &[&str], variables: &[(&str, &str)]) -> Output {
        let _ = fs::remove_file(self.recorded());
        let system = std::env::var("PATH").unwrap();
        let programs = self.folder.path().join("bin");
        Command::new("sh")
            .arg(path)
            .args(args)
            .env("PATH", format!("{}:{system}", programs.display()))
            .env("RECORDED", self.recorded())
            .envs(variables.iter().copied())
            // Elsewhere: the script finds its folder.
            .current_dir("/")
            .output()
            .expect("a shell")
    }
}

/// What a person who knows shells would say of a script.
pub fn shellcheck(script: &str) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("script.sh");
    fs::write(&path, script).unwrap();
    super::tool(Command::new("shellcheck").arg(&path));
}
